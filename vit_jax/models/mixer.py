# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""MLP-Mixer, "An all-MLP Architecture for Vision" (arXiv:2105.01601).

The parameter tree is the official one, so a released file is this tree. Equation numbers in this
file are the paper's.
"""

import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.errors import UserError
from vit_jax.models.layers import (
  DropPath,
  Dtype,
  LayerNorm,
  MlpBlock,
  PatchEmbedding,
  apply_blocks,
  capture,
  check_images,
  computed_once,
  head_init,
  patchify_check,
)


class MixerBlock(nn.Module):
  """Mixes tokens, then channels, eq. 1. Maps [batch, tokens, dim] to the same shape."""

  tokens_mlp_dim: int
  channels_mlp_dim: int
  dropout_rate: float = 0.0
  activation: str = "gelu_tanh"
  layer_norm_eps: float = 1e-6
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, "b n d"], drop_path_rate: Any = None, *, train: bool
  ) -> Float[Array, "b n d"]:
    norm = functools.partial(LayerNorm, epsilon=self.layer_norm_eps)
    drop_path = functools.partial(DropPath(), rate=drop_path_rate, train=train)
    mlp = functools.partial(
      MlpBlock,
      dropout_rate=self.dropout_rate,
      activation=self.activation,
      kernel_init=nn.initializers.lecun_normal(),  # The original's, unlike ViT's.
      bias_init=nn.initializers.zeros,
      dtype=self.dtype,
    )

    y = jnp.swapaxes(norm(name="LayerNorm_0")(x), 1, 2)  # [batch, dim, tokens]
    y = mlp(self.tokens_mlp_dim, name="token_mixing")(y, train=train)
    x = computed_once(self, x + drop_path(jnp.swapaxes(y, 1, 2)), train=train)

    y = norm(name="LayerNorm_1")(x)
    y = mlp(self.channels_mlp_dim, name="channel_mixing")(y, train=train)
    x = computed_once(self, x + drop_path(y), train=train)
    capture(self, "features", "block", x)
    return x


class MlpMixer(nn.Module):
  """Mixer. Maps images [batch, height, width, channels] float32 to logits [batch, classes] float32.

  The token-mixing MLPs are matrices over the tokens: the image size of `init` is the only one.

  Attributes:
    num_classes: width of the head; 0 leaves the head out and returns the representation.
    patch_size: side of a patch in pixels, or (height, width).
    hidden_dim: width C of the tokens.
    num_blocks: depth, Table 1.
    tokens_mlp_dim, channels_mlp_dim: widths D_S and D_C of the two MLPs, Table 1.
    dropout_rate: after both layers of each MLP; the released code has none.
    drop_path_rate: stochastic depth of the last block; grows linearly from 0.
    activation: "gelu_tanh" (Google's weights) or "gelu" (erf: timm).
    layer_norm_eps: 1e-6 in Google's and timm's weights.
    remat: "none", "full" or "dots" (keeps the matrix products): recomputes blocks backwards.
    scan_layers: compiles one block and scans over the layers.
    head_bias_init: initial bias of the head, e.g. -log(classes) for a sigmoid loss.
    head_zeroinit: whether the head begins at zero, as for classes; a LiT's must not.
    dtype: of the matrix products; parameters, norms and logits stay float32.
  """

  num_classes: int = 1000
  patch_size: int | tuple[int, int] = 16
  hidden_dim: int = 768
  num_blocks: int = 12
  tokens_mlp_dim: int = 384
  channels_mlp_dim: int = 3072
  dropout_rate: float = 0.0
  drop_path_rate: float = 0.0
  activation: str = "gelu_tanh"
  layer_norm_eps: float = 1e-6
  remat: str = "none"
  scan_layers: bool = False
  head_bias_init: float = 0.0
  head_zeroinit: bool = True
  dtype: Dtype = jnp.float32

  def pixels_per_token(self) -> tuple[int, int]:
    """Height and width of a token in pixels of the image."""
    size = self.patch_size
    return (size, size) if isinstance(size, int) else tuple(size)

  @nn.compact
  def __call__(self, images: Float[Array, "b h w c"], *, train: bool = False) -> Array:
    check_images(self, images, "stem/kernel")
    patch = self.pixels_per_token()
    patchify_check(images.shape[1:3], patch)
    self._check_tokens(images.shape[1:3])
    x = PatchEmbedding(self.hidden_dim, patch, dtype=self.dtype, name="stem")(images)
    x = x.reshape(x.shape[0], x.shape[1] * x.shape[2], self.hidden_dim)

    block = functools.partial(
      MixerBlock,
      tokens_mlp_dim=self.tokens_mlp_dim,
      channels_mlp_dim=self.channels_mlp_dim,
      dropout_rate=self.dropout_rate,
      activation=self.activation,
      layer_norm_eps=self.layer_norm_eps,
      dtype=self.dtype,
    )
    x = apply_blocks(
      block,
      "MixerBlock",
      x,
      num_layers=self.num_blocks,
      drop_path_rate=self.drop_path_rate,
      remat=self.remat,
      scan_layers=self.scan_layers,
      train=train,
    )
    x = LayerNorm(epsilon=self.layer_norm_eps, name="pre_head_layer_norm")(x)
    capture(self, "features", "tokens", x)

    x = jnp.mean(x, axis=1)
    capture(self, "features", "representation", x)
    if self.num_classes:
      x = nn.Dense(
        self.num_classes,
        kernel_init=head_init(self.head_zeroinit),
        bias_init=nn.initializers.constant(self.head_bias_init),
        name="head",
      )(x)
    return x

  def _check_tokens(self, image: tuple[int, int]) -> None:
    """Raises a UserError if the parameters in use mix another number of tokens than the image's."""
    params = self.variables.get("params", {})
    block = params.get("MixerBlock" if self.scan_layers else "MixerBlock_0")
    if block is None:  # They are being initialised.
      return
    mixed = block["token_mixing"]["Dense_0"]["kernel"].shape[-2]
    (height, width), (step_y, step_x) = image, self.pixels_per_token()
    tokens = height // step_y * (width // step_x)
    if tokens != mixed:
      raise UserError(
        f"an image of {height}x{width} pixels has {tokens} patches, but the token-mixing MLPs of "
        f"this Mixer are for {mixed}; resize the images to the size that it was made for."
      )
