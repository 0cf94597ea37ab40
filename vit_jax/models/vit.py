# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Vision Transformer, "An Image is Worth 16x16 Words" (arXiv:2010.11929), and its hybrids.

The parameter tree is the official one, so a released file is this tree. Equation numbers in this
file are the paper's.
"""

import functools
import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.errors import choose
from vit_jax.models.layers import (
  Attention,
  DropPath,
  Dtype,
  LayerNorm,
  LayerScale,
  MlpBlock,
  PatchEmbedding,
  apply_blocks,
  capture,
  check_images,
  computed_once,
  head_init,
  patchify_check,
)
from vit_jax.models.positions import AddPositionEmbedding, RelativePositionBias
from vit_jax.models.resnet import ResNetStem

CLASSIFIERS = {
  "token": "the class token after the last norm",
  "gap": "the mean over the patch tokens; there is no class token",
  "map": "multi-head attention pooling by a learned probe (arXiv:2106.04560); no class token",
  "unpooled": "every patch token, without a class token",
  "token_unpooled": "every token, class token first",
}


class EncoderBlock(nn.Module):
  """Pre-norm Transformer block, eq. 2 and 3. Maps [batch, tokens, dim] to the same shape."""

  num_heads: int
  mlp_dim: int
  dropout_rate: float = 0.0
  attention_dropout_rate: float = 0.0
  activation: str = "gelu_tanh"
  layer_norm_eps: float = 1e-6
  relative_to: tuple[tuple[int, int], int] | None = None  # (grid, class tokens) of a relative bias
  layer_scale_init: float | None = None
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, "b n d"], drop_path_rate: Any = None, *, train: bool
  ) -> Float[Array, "b n d"]:
    norm = functools.partial(LayerNorm, epsilon=self.layer_norm_eps)
    drop_path = functools.partial(DropPath(), rate=drop_path_rate, train=train)
    scale = lambda name, y: y
    if self.layer_scale_init is not None:
      scale = lambda name, y: LayerScale(self.layer_scale_init, name=name)(y)
    bias = None
    if self.relative_to is not None:
      grid, prefix = self.relative_to
      bias = RelativePositionBias(self.num_heads, grid, prefix, name="relative_position_bias")()

    y = norm(name="LayerNorm_0")(x)
    y = Attention(
      self.num_heads,
      self.attention_dropout_rate,
      dtype=self.dtype,
      name="MultiHeadDotProductAttention_0",
    )(y, bias=bias, train=train)
    y = nn.Dropout(self.dropout_rate)(y, deterministic=not train)
    x = computed_once(self, x + drop_path(scale("LayerScale_0", y)), train=train)  # z'_l

    y = norm(name="LayerNorm_1")(x)
    y = MlpBlock(
      self.mlp_dim, self.dropout_rate, self.activation, dtype=self.dtype, name="MlpBlock_0"
    )(y, train=train)
    x = computed_once(self, x + drop_path(scale("LayerScale_1", y)), train=train)  # z_l
    capture(self, "features", "block", x)
    return x


class Encoder(nn.Module):
  """Position embedding, `num_layers` blocks and the last norm: eq. 1 (its sum) to eq. 4."""

  grid: tuple[int, int]
  prefix: int
  num_layers: int
  num_heads: int
  mlp_dim: int
  dropout_rate: float = 0.0
  attention_dropout_rate: float = 0.0
  drop_path_rate: float = 0.0
  activation: str = "gelu_tanh"
  layer_norm_eps: float = 1e-6
  position_embedding: str = "learned_1d"
  remat: str = "none"
  scan_layers: bool = False
  layer_scale_init: float | None = None
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "b n d"], *, train: bool) -> Float[Array, "b n d"]:
    x = AddPositionEmbedding(
      self.position_embedding, self.grid, self.prefix, name="posembed_input"
    )(x)
    x = nn.Dropout(self.dropout_rate)(x, deterministic=not train)

    relative = self.position_embedding == "relative"
    block = functools.partial(
      EncoderBlock,
      num_heads=self.num_heads,
      mlp_dim=self.mlp_dim,
      dropout_rate=self.dropout_rate,
      attention_dropout_rate=self.attention_dropout_rate,
      activation=self.activation,
      layer_norm_eps=self.layer_norm_eps,
      relative_to=(self.grid, self.prefix) if relative else None,
      layer_scale_init=self.layer_scale_init,
      dtype=self.dtype,
    )
    x = apply_blocks(
      block,
      "encoderblock",
      x,
      num_layers=self.num_layers,
      drop_path_rate=self.drop_path_rate,
      remat=self.remat,
      scan_layers=self.scan_layers,
      train=train,
    )
    return LayerNorm(epsilon=self.layer_norm_eps, name="encoder_norm")(x)


class MAPHead(nn.Module):
  """Multi-head attention pooling (arXiv:2106.04560). Maps [batch, tokens, dim] to [batch, dim]."""

  num_heads: int
  mlp_dim: int
  activation: str = "gelu_tanh"
  layer_norm_eps: float = 1e-6
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "b n d"], *, train: bool) -> Float[Array, "b d"]:
    probe = self.param("probe", nn.initializers.xavier_uniform(), (1, 1, x.shape[-1]))
    probe = jnp.tile(probe, (x.shape[0], 1, 1))
    x = Attention(self.num_heads, dtype=self.dtype, name="MultiHeadDotProductAttention_0")(
      probe, x, train=train
    )
    y = LayerNorm(epsilon=self.layer_norm_eps, name="LayerNorm_0")(x)
    y = MlpBlock(self.mlp_dim, activation=self.activation, dtype=self.dtype, name="MlpBlock_0")(
      y, train=train
    )
    return (x + y)[:, 0]


class VisionTransformer(nn.Module):
  """ViT. Maps images [batch, height, width, channels] float32 to logits [batch, classes] float32.

  Attributes:
    num_classes: width of the head; 0 leaves the head out and returns the representation.
    patch_size: side of a patch in pixels, or (height, width).
    hidden_size: width D of the tokens.
    num_layers, mlp_dim, num_heads: depth, MLP width and heads, Table 1.
    classifier: what the head sees, one of CLASSIFIERS; the "unpooled" ones give logits per token.
    representation_size: width of the tanh layer `pre_logits` before the head; None leaves it out.
    dropout_rate, attention_dropout_rate: of tokens and MLP, and of attention weights (Table 3).
    drop_path_rate: stochastic depth of the last block; grows linearly from 0.
    activation: "gelu_tanh" (Google's weights) or "gelu" (erf: timm, Hugging Face, DeiT).
    layer_norm_eps: 1e-6 in Google's and timm's weights, 1e-12 in Hugging Face's.
    position_embedding: one of positions.POSITION_EMBEDDINGS.
    remat: "none", "full" or "dots" (keeps the matrix products): recomputes blocks backwards.
    scan_layers: compiles one block and scans over the layers.
    head_bias_init: initial bias of the head, e.g. -log(classes) for a sigmoid loss.
    head_zeroinit: whether the head begins at zero, as for classes; a LiT's must not.
    layer_scale_init: what LayerScale (arXiv:2103.17239) begins at; None leaves it out.
    dtype: of the matrix products; parameters, norms, softmax and logits stay float32.
  """

  num_classes: int = 1000
  patch_size: int | tuple[int, int] = 16
  hidden_size: int = 768
  num_layers: int = 12
  mlp_dim: int = 3072
  num_heads: int = 12
  classifier: str = "token"
  representation_size: int | None = None
  dropout_rate: float = 0.0
  attention_dropout_rate: float = 0.0
  drop_path_rate: float = 0.0
  activation: str = "gelu_tanh"
  layer_norm_eps: float = 1e-6
  position_embedding: str = "learned_1d"
  remat: str = "none"
  scan_layers: bool = False
  head_bias_init: float = 0.0
  head_zeroinit: bool = True
  layer_scale_init: float | None = None
  dtype: Dtype = jnp.float32

  first_kernel = "embedding/kernel"

  def patch_shape(self) -> tuple[int, int]:
    """Height and width of a patch, in the pixels (or stem positions) that it embeds."""
    size = self.patch_size
    return (size, size) if isinstance(size, int) else tuple(size)

  def pixels_per_token(self) -> tuple[int, int]:
    """Height and width of a token in pixels of the image."""
    return self.patch_shape()

  def stem(self, images: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """What comes before the patches: nothing here, a ResNet in the hybrids."""
    return images

  @nn.compact
  def __call__(self, images: Float[Array, "b h w c"], *, train: bool = False) -> Array:
    check_images(self, images, self.first_kernel)
    choose("classifier", self.classifier, CLASSIFIERS)
    patchify_check(images.shape[1:3], self.pixels_per_token())
    x = self.stem(images)
    x = PatchEmbedding(self.hidden_size, self.patch_shape(), dtype=self.dtype, name="embedding")(x)
    batch, *grid, dim = x.shape
    x = x.reshape(batch, math.prod(grid), dim)

    prefix = self.prefix_tokens()
    learned = [self.param(name, nn.initializers.zeros, (1, 1, dim)) for name in prefix]
    tiled = [jnp.tile(token.astype(x.dtype), (batch, 1, 1)) for token in learned]
    x = jnp.concatenate([*tiled, x], axis=1) if tiled else x

    x = Encoder(
      grid=tuple(grid),
      prefix=len(prefix),
      num_layers=self.num_layers,
      num_heads=self.num_heads,
      mlp_dim=self.mlp_dim,
      dropout_rate=self.dropout_rate,
      attention_dropout_rate=self.attention_dropout_rate,
      drop_path_rate=self.drop_path_rate,
      activation=self.activation,
      layer_norm_eps=self.layer_norm_eps,
      position_embedding=self.position_embedding,
      remat=self.remat,
      scan_layers=self.scan_layers,
      layer_scale_init=self.layer_scale_init,
      dtype=self.dtype,
      name="Transformer",
    )(x, train=train)
    capture(self, "features", "tokens", x)
    return self.classify(x, train=train)

  def prefix_tokens(self) -> tuple[str, ...]:
    """Names of the learned tokens that stand before the patches."""
    return ("cls",) if self.classifier in ("token", "token_unpooled") else ()

  def classify(self, x: Float[Array, "b n d"], *, train: bool) -> Array:
    """From the tokens after the last norm to the logits; part of `__call__`."""
    if self.classifier == "token":
      x = x[:, 0]
    elif self.classifier == "gap":
      x = jnp.mean(x, axis=1)
    elif self.classifier == "map":
      x = MAPHead(
        self.num_heads, self.mlp_dim, self.activation, self.layer_norm_eps, dtype=self.dtype
      )(x, train=train)

    # The head is computed in the parameters' float32: it is small, and the loss sees its rounding.
    if self.representation_size is not None:
      x = jnp.tanh(nn.Dense(self.representation_size, name="pre_logits")(x))
    capture(self, "features", "representation", x)
    return self.make_head("head")(x) if self.num_classes else x

  def make_head(self, name: str) -> nn.Dense:
    """The linear layer from a representation to the logits."""
    return nn.Dense(
      self.num_classes,
      kernel_init=head_init(self.head_zeroinit),
      bias_init=nn.initializers.constant(self.head_bias_init),
      name=name,
    )


class HybridVisionTransformer(VisionTransformer):
  """ViT on the feature map of a ResNet stem ("R50+ViT-B_16"), section 3.1, "Hybrid Architecture".

  Attributes:
    patch_size: in positions of the stem's output; 1 in all released hybrids but R+ViT-Ti_16.
    stem_blocks: residual units per stage; () is the root convolution alone.
    stem_width: channels of the root convolution.
    weight_standardization: which epsilon, one of resnet.STANDARDIZATION.
    group_norm_eps: 1e-6 in Google's weights, 1e-5 in timm's.
  """

  patch_size: int | tuple[int, int] = 1
  stem_blocks: tuple[int, ...] = (3, 4, 9)
  stem_width: int = 64
  weight_standardization: str = "google"
  group_norm_eps: float = 1e-6

  first_kernel = "conv_root/kernel"

  def pixels_per_token(self) -> tuple[int, int]:
    stride = 4 * 2 ** max(len(self.stem_blocks) - 1, 0)
    height, width = self.patch_shape()
    return (stride * height, stride * width)

  def stem(self, images: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    resnet = ResNetStem(
      self.stem_blocks,
      self.stem_width,
      self.weight_standardization,
      self.group_norm_eps,
      dtype=self.dtype,
    )
    nn.share_scope(self, resnet)  # The official tree holds the stem's parameters at the top.
    return resnet(images)
