# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""LiT, "Zero-Shot Transfer with Locked-image text Tuning" (arXiv:2111.07991): two towers.

An image tower, which is any model of the registry, and a text tower map images and texts to the
same space, where matching pairs lie close. The parameter tree is `img/...`, `txt/...` and `t`, as
in the released files; BERT's own names are shorter than theirs (see `checkpoints.lit`).
"""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vit_jax.errors import UserError
from vit_jax.models.layers import (
  SHORTEST,
  Attention,
  Dtype,
  LayerNorm,
  MlpBlock,
  check_tokens,
  directed,
  length,
)
from vit_jax.models.vit import Encoder


class BertLayer(nn.Module):
  """Post-norm Transformer block of BERT (arXiv:1810.04805). Maps [batch, tokens, dim] to the same.

  `bias` is added to the attention logits: 0 for real tokens, very negative for padding.
  """

  num_heads: int
  mlp_dim: int
  dropout_rate: float = 0.0
  activation: str = "gelu_tanh"
  layer_norm_eps: float = 1e-12
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, "b n d"], bias: Float[Array, "b 1 1 n"], *, train: bool
  ) -> Float[Array, "b n d"]:
    norm = functools.partial(LayerNorm, epsilon=self.layer_norm_eps)
    dropout = functools.partial(nn.Dropout(self.dropout_rate), deterministic=not train)

    y = Attention(
      self.num_heads, self.dropout_rate, dtype=self.dtype, name="MultiHeadDotProductAttention_0"
    )(x, bias=bias, train=train)
    x = norm(name="LayerNorm_0")(x + dropout(y))

    y = MlpBlock(self.mlp_dim, activation=self.activation, dtype=self.dtype, name="MlpBlock_0")(
      x, train=train
    )
    return norm(name="LayerNorm_1")(x + dropout(y))


class BertTower(nn.Module):
  """BERT and a linear layer on its [CLS]. Maps tokens int32 [batch, length] to [batch, classes].

  Attributes:
    num_classes: width of the head, which is that of the embedding; 0 leaves the head out.
    max_len: length of the token sequences; `max_positions` is how many there could be.
    activation: "gelu_tanh" in LiT's weights, "gelu" (erf) in those of Hugging Face.
    dtype: of the matrix products; parameters, norms, softmax and embeddings stay float32.
  """

  num_classes: int = 768
  hidden_size: int = 768
  num_layers: int = 12
  mlp_dim: int = 3072
  num_heads: int = 12
  vocab_size: int = 30_522
  max_len: int = 16
  max_positions: int = 512
  dropout_rate: float = 0.1
  activation: str = "gelu_tanh"
  layer_norm_eps: float = 1e-12
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, tokens: Int[Array, "b n"], *, train: bool = False) -> Float[Array, "b k"]:
    check_tokens(tokens)
    count = tokens.shape[1]
    if count > self.max_positions:
      raise UserError(
        f"this BERT has {self.max_positions} positions, but got {count} tokens; "
        f"use a tokenizer with max_len={self.max_positions} or less."
      )
    embed = functools.partial(
      nn.Embed, features=self.hidden_size, embedding_init=nn.initializers.truncated_normal(0.02)
    )
    x = embed(self.vocab_size, name="token_embedding")(tokens)
    x += embed(self.max_positions, name="position_embedding")(jnp.arange(count))
    x += embed(2, name="segment_embedding")(jnp.zeros_like(tokens))  # One sentence, the first.
    x = LayerNorm(epsilon=self.layer_norm_eps, name="embedding_norm")(x)
    x = nn.Dropout(self.dropout_rate)(x, deterministic=not train).astype(self.dtype)

    padding = jnp.where(tokens == 0, -1e10, 0.0)[:, None, None, :]
    for layer in range(self.num_layers):
      x = BertLayer(
        self.num_heads,
        self.mlp_dim,
        self.dropout_rate,
        self.activation,
        self.layer_norm_eps,
        dtype=self.dtype,
        name=f"encoderblock_{layer}",
      )(x, padding, train=train)
    x = x[:, 0]
    return nn.Dense(self.num_classes, name="head")(x) if self.num_classes else x


class TextTransformer(nn.Module):
  """ViT's encoder on token embeddings. Maps tokens int32 [batch, length] to [batch, classes].

  Every token sees every other, padding too, and the representation is that of the *last* one, which
  the tokenizer makes the end-of-sentence token whatever the length of the text.

  Attributes:
    num_classes: width of the head, which is that of the embedding; 0 leaves the head out.
    max_len: length of the token sequences, and of the learned positions.
    The others: see vit.VisionTransformer.
  """

  num_classes: int = 768
  hidden_size: int = 512
  num_layers: int = 12
  mlp_dim: int = 2048
  num_heads: int = 8
  vocab_size: int = 32_000
  max_len: int = 16
  dropout_rate: float = 0.0
  activation: str = "gelu_tanh"
  layer_norm_eps: float = 1e-6
  remat: str = "none"
  scan_layers: bool = False
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, tokens: Int[Array, "b n"], *, train: bool = False) -> Float[Array, "b k"]:
    check_tokens(tokens)
    x = nn.Embed(self.vocab_size, self.hidden_size, name="Embed_0")(tokens)
    positions = self.param(
      "pos_embedding",
      nn.initializers.normal(1 / math.sqrt(self.hidden_size)),
      (1, self.max_len, self.hidden_size),
    )
    if tokens.shape[1] != self.max_len:
      raise UserError(
        f"the text tower takes {self.max_len} tokens, but got {tokens.shape[1]}; "
        f"use a tokenizer with max_len={self.max_len}."
      )
    x = Encoder(
      grid=(1, self.max_len),
      prefix=0,
      num_layers=self.num_layers,
      num_heads=self.num_heads,
      mlp_dim=self.mlp_dim,
      dropout_rate=self.dropout_rate,
      activation=self.activation,
      layer_norm_eps=self.layer_norm_eps,
      position_embedding="none",
      remat=self.remat,
      scan_layers=self.scan_layers,
      dtype=self.dtype,
      name="Encoder_0",
    )((x + positions).astype(self.dtype), train=train)
    x = x[:, -1]
    return nn.Dense(self.num_classes, name="head")(x) if self.num_classes else x


def normalized(x: Float[Array, "b d"]) -> Float[Array, "b d"]:
  """Scales each row to length 1, in at least float32."""
  x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  x = directed(x, length(x), SHORTEST)
  return x / (length(x) + 1e-8)


class TwoTowers(nn.Module):
  """Embeds images and texts in one space; see section 3 of the paper.

      zimg, ztxt, out = model.apply(variables, images, tokens)
      logits = out["t"] * zimg @ ztxt.T    # [images, texts]; plus out["b"] if there is one

  Attributes:
    img: image tower; maps (images, train) to [batch, dim].
    txt: text tower; maps (tokens, train) to [batch, dim].
    temperature_init: of `out["t"]`, which is learned as its logarithm `t`.
    bias_init: of `out["b"]`, for the sigmoid loss (arXiv:2303.15343); None leaves it out.
  """

  img: nn.Module
  txt: nn.Module
  temperature_init: float = 10.0
  bias_init: float | None = None

  def setup(self) -> None:
    constant = nn.initializers.constant
    self.t = self.param("t", constant(math.log(self.temperature_init)), (1,))
    if self.bias_init is not None:
      self.b = self.param("b", constant(self.bias_init), (1,))

  def __call__(
    self,
    images: Float[Array, "b h w c"] | None = None,
    tokens: Int[Array, "m n"] | None = None,
    *,
    train: bool = False,
  ) -> tuple[Array | None, Array | None, dict[str, Array]]:
    """Embeds what is given.

    Args:
      images: float32 [batch, height, width, channels], or None.
      tokens: int32 [texts, length], or None.
      train: whether dropout acts.

    Returns:
      Embeddings of the images [batch, dim] and of the texts [texts, dim], float32 of length 1 (None
      for what is not given), and {"t": temperature [1]}, with "b": bias [1] if there is one.

    Raises:
      UserError: the towers' embeddings differ in their dimension.
    """
    zimg = None if images is None else normalized(self.img(images, train=train))
    ztxt = None if tokens is None else normalized(self.txt(tokens, train=train))
    if zimg is not None and ztxt is not None and zimg.shape[-1] != ztxt.shape[-1]:
      raise UserError(
        f"the image tower embeds in {zimg.shape[-1]} dimensions and the text tower in "
        f"{ztxt.shape[-1]}; set txt.num_classes={zimg.shape[-1]}."
      )
    out = {"t": jnp.exp(self.t)}
    if self.bias_init is not None:
      out["b"] = self.b
    return zimg, ztxt, out

  def pixels_per_token(self) -> tuple[int, int]:
    return self.img.pixels_per_token()


class ZeroShotClassifier(nn.Module):
  """An image tower and texts that have been embedded: a classifier. Maps images to logits.

  Its parameters are `img`, the image tower's; `classes`, the embedding of each class's prompts
  [classes, dim]; and `t` and `b` as in TwoTowers.
  """

  img: nn.Module
  num_classes: int
  bias_init: float | None = None

  @nn.compact
  def __call__(self, images: Float[Array, "b h w c"], *, train: bool = False) -> Array:
    zimg = normalized(self.img(images, train=train))
    zeros = nn.initializers.zeros
    classes = self.param("classes", zeros, (self.num_classes, zimg.shape[-1]))
    logits = jnp.exp(self.param("t", zeros, (1,))) * jnp.matmul(zimg, classes.T)
    return logits if self.bias_init is None else logits + self.param("b", zeros, (1,))


def example_inputs(model: nn.Module, images: jax.ShapeDtypeStruct | Array) -> tuple:
  """What `model.init` needs: images, and for two towers tokens as well, of the same kind.

  Args:
    model: of the registry.
    images: [batch, height, width, channels], an array or its shape.
  """
  if not isinstance(model, TwoTowers):
    return (images,)
  shape = (images.shape[0], model.txt.max_len)
  if isinstance(images, jax.ShapeDtypeStruct):
    return images, jax.ShapeDtypeStruct(shape, jnp.int32)
  return images, jnp.ones(shape, jnp.int32)
