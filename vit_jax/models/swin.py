# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Swin Transformer, "Hierarchical Vision Transformer using Shifted Windows" (arXiv:2103.14030).

Self-attention within windows of the feature map, which every other block shifts by half a window.
Where the map is not a whole number of windows it is padded as timm does it, whose names the
parameter tree follows. Section and equation numbers are the paper's.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vit_jax.errors import UserError
from vit_jax.models.layers import (
  Dense,
  DropPath,
  Dtype,
  LayerNorm,
  MlpBlock,
  PatchEmbedding,
  attention_weights,
  capture,
  check_images,
  computed_once,
  head_init,
  patchify_check,
)

Size = tuple[int, int]  # Height and width.

# What is added to the logits of pairs that must not see each other, as in the released models.
MASKED = -100.0
KERNEL_INIT = nn.initializers.normal(stddev=0.02)


def windows_of(image: Size, window: int, *, shifted: bool) -> tuple[Size, Size]:
  """Size of the windows on a feature map, and how far they are shifted.

  A side of the map that is no longer than the window is one window, and nothing is shifted on it.
  """
  size = tuple(min(side, window) for side in image)
  shift = tuple(window // 2 if shifted and side > window else 0 for side in image)
  return size, shift


def split(x: Any, window: Size) -> Any:
  """[batch, height, width, ...] to [batch, rows, columns, window height, window width, ...]."""
  batch, height, width, *rest = x.shape
  rows, columns = height // window[0], width // window[1]
  x = x.reshape(batch, rows, window[0], columns, window[1], *rest)
  return x.swapaxes(2, 3)


@functools.lru_cache
def shift_mask(image: Size, window: Size, shift: Size) -> np.ndarray:
  """What the cyclic shift brought into one window, but is not adjacent, is masked: section 3.2.

  Args:
    image: height and width of the map, whole numbers of windows.
    window: height and width of a window.
    shift: how far the map was rolled up and left.

  Returns:
    [windows, 1, tokens, tokens] float32, 0 or MASKED, for all heads.
  """
  wrapped = [np.arange(side) >= side - step for side, step in zip(image, shift, strict=True)]
  part = 2 * wrapped[0][:, None] + wrapped[1]  # Of the four that the shift may bring together.
  part = split(part[None], window).reshape(-1, window[0] * window[1])
  return np.where(part[:, None, :, None] == part[:, None, None], 0, MASKED).astype(np.float32)


def relative_offsets(window: Size) -> np.ndarray:
  """Offset of every token of a window from every other: [tokens, tokens, 2] int."""
  places = np.stack(np.indices(window), axis=-1).reshape(-1, 2)
  return places[:, None] - places


def in_shifted_windows(
  attention: Any, x: Float[Array, "b h w d"], window: int, *, shifted: bool
) -> Float[Array, "b h w d"]:
  """Applies attention in windows, cyclically shifted or not: section 3.2, Fig. 4.

  The padding comes after the shift and is not masked, as timm has it; the paper's detectors pad
  first. At sizes that the windows divide, which all released classifiers have, both are the same.

  Args:
    attention: maps (x, window size, mask) to the shape of x.
    x: feature map.
    window: its side in tokens.
    shifted: whether the windows are shifted by half of one.
  """
  image = x.shape[1:3]
  size, shift = windows_of(image, window, shifted=shifted)
  if any(shift):
    x = jnp.roll(x, (-shift[0], -shift[1]), axis=(1, 2))
  x = jnp.pad(x, ((0, 0), (0, -image[0] % size[0]), (0, -image[1] % size[1]), (0, 0)))
  x = attention(x, size, shift_mask(x.shape[1:3], size, shift) if any(shift) else None)
  x = x[:, : image[0], : image[1]]
  return jnp.roll(x, shift, axis=(1, 2)) if any(shift) else x


def windows_first(x: Float[Array, "b h w d"], window: Size, heads: int) -> Array:
  """A map to [batch, windows, heads, tokens of a window, dim of a head]: batched products.

  Projections come before this and after `map_first`, so that each value is moved only once.
  """
  batch, height, width, dim = x.shape
  windows, tokens = height // window[0] * (width // window[1]), window[0] * window[1]
  x = jnp.moveaxis(split(x.reshape(batch, height, width, heads, dim // heads), window), 5, 3)
  return x.reshape(batch, windows, heads, tokens, dim // heads)


def map_first(x: Float[Array, "b w h n k"], shape: tuple[int, ...], window: Size) -> Array:
  """The inverse of `windows_first`: back to the map of this shape."""
  batch, height, width, _ = shape
  rows, columns = height // window[0], width // window[1]
  x = x.reshape(batch, rows, columns, x.shape[2], *window, x.shape[-1])
  return x.transpose(0, 1, 4, 2, 5, 3, 6).reshape(shape)


class WindowAttention(nn.Module):
  """Multi-head self-attention within the windows of a map [batch, height, width, dim], eq. 4.

  The table of biases [2 * window_size - 1, 2 * window_size - 1, heads] does not depend on the
  image: where the map is smaller than a window, the offsets that occur are those in its middle.
  """

  head_dim: int
  window_size: int
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, "b h w d"], window: Size, mask: np.ndarray | None
  ) -> Float[Array, "b h w d"]:
    heads = x.shape[-1] // self.head_dim
    dense = functools.partial(Dense, x.shape[-1], kernel_init=KERNEL_INIT, dtype=self.dtype)
    query, key, value = (
      windows_first(dense(name=name)(x), window, heads) for name in ("query", "key", "value")
    )
    middle = self.window_size - 1
    shape = (2 * middle + 1, 2 * middle + 1, heads)
    table = self.param("relative_position_bias_table", KERNEL_INIT, shape)
    rows, columns = np.moveaxis(relative_offsets(window) + middle, -1, 0)
    bias = jnp.moveaxis(table[rows, columns], -1, 0)
    weights = attention_weights(query, key, bias, mask)
    y = weights.astype(value.dtype) @ value
    return dense(name="out")(map_first(y, x.shape, window))


class SwinBlock(nn.Module):
  """Attention in windows, then an MLP, eq. 3. Maps [batch, height, width, dim] to the same shape.

  With `res_post_norm` the norms end the branches instead of beginning them: arXiv:2111.09883.
  """

  attention: Callable[..., nn.Module]
  window_size: int
  shifted: bool
  mlp_ratio: float = 4.0
  res_post_norm: bool = False
  activation: str = "gelu"
  layer_norm_eps: float = 1e-5
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, "b h w d"], drop_path_rate: Any = None, *, train: bool
  ) -> Float[Array, "b h w d"]:
    drop_path = functools.partial(DropPath(), rate=drop_path_rate, train=train)
    mlp = MlpBlock(
      int(self.mlp_ratio * x.shape[-1]),
      activation=self.activation,
      kernel_init=KERNEL_INIT,
      bias_init=nn.initializers.zeros,
      dtype=self.dtype,
      name="MlpBlock_0",
    )
    attend = functools.partial(
      in_shifted_windows,
      self.attention(name="attention"),
      window=self.window_size,
      shifted=self.shifted,
    )
    for number, layer in enumerate((attend, functools.partial(mlp, train=train))):
      norm = LayerNorm(
        epsilon=self.layer_norm_eps,
        scale_init=nn.initializers.zeros if self.res_post_norm else nn.initializers.ones,
        name=f"LayerNorm_{number}",
      )
      y = norm(layer(x)) if self.res_post_norm else layer(norm(x).astype(self.dtype))
      x = computed_once(self, x + drop_path(y), train=train)
    return x


class PatchMerging(nn.Module):
  """Concatenates each 2x2 neighbouring tokens, column by column, and halves that: section 3.1.

  Maps [batch, height, width, dim] to [batch, height / 2, width / 2, 2 * dim]; an odd side is padded
  with zeros. The norm is before the reduction, or with `res_post_norm` behind it.
  """

  res_post_norm: bool = False
  layer_norm_eps: float = 1e-5
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "b h w d"]) -> Float[Array, "b h2 w2 d2"]:
    norm = LayerNorm(epsilon=self.layer_norm_eps, name="norm")
    reduction = Dense(
      2 * x.shape[-1],
      use_bias=False,
      kernel_init=KERNEL_INIT,
      dtype=self.dtype,
      name="reduction",
    )
    x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))
    x = split(x, (2, 2)).swapaxes(3, 4)
    x = x.reshape(*x.shape[:3], math.prod(x.shape[3:]))
    return norm(reduction(x)) if self.res_post_norm else reduction(norm(x))


class SwinStage(nn.Module):
  """Merges patches, except in the first stage, and applies `blocks` with their drop-path rates."""

  blocks: Sequence[Callable[..., nn.Module]]
  rates: Sequence[float | None]
  merging: Callable[..., nn.Module] | None

  @nn.compact
  def __call__(self, x: Float[Array, "b h w d"], *, train: bool) -> Float[Array, "b h2 w2 d2"]:
    if self.merging:
      x = self.merging(name="downsample")(x)
    for number, (block, rate) in enumerate(zip(self.blocks, self.rates, strict=True)):
      x = block(name=f"blocks_{number}")(x, rate, train=train)
    return x


class SwinTransformer(nn.Module):
  """Swin. Maps images [batch, height, width, channels] float32 to logits [batch, classes] float32.

  Takes images of any size that is a whole number of patches.

  Attributes:
    num_classes: width of the head; 0 leaves the head out and returns the representation.
    patch_size: side of a patch in pixels.
    embed_dim: width C of the first stage; each later one has twice that of the one before.
    depths: blocks per stage, section 3.3.
    head_dim: width d of an attention head, 32 in all published models.
    window_size: side M of a window in tokens.
    mlp_ratio: width of the MLPs in terms of that of the tokens, alpha.
    drop_path_rate: stochastic depth of the last block; grows linearly from 0.
    activation: "gelu" (erf) in the released weights, or "gelu_tanh".
    layer_norm_eps: 1e-5 in the released weights.
    head_zeroinit: whether the head begins at zero, as for classes; a LiT's must not.
    dtype: of the matrix products; parameters, norms, softmax and logits stay float32.
  """

  num_classes: int = 1000
  patch_size: int = 4
  embed_dim: int = 96
  depths: tuple[int, ...] = (2, 2, 6, 2)
  head_dim: int = 32
  window_size: int = 7
  mlp_ratio: float = 4.0
  drop_path_rate: float = 0.0
  activation: str = "gelu"
  layer_norm_eps: float = 1e-5
  head_zeroinit: bool = True
  dtype: Dtype = jnp.float32

  res_post_norm = False

  def pixels_per_token(self) -> Size:
    """Height and width of a token of the first stage in pixels of the image."""
    return (self.patch_size, self.patch_size)

  def attention(self, stage: int) -> Callable[..., nn.Module]:
    """Makes the attention of a stage's blocks."""
    del stage
    return functools.partial(WindowAttention, self.head_dim, self.window_size, self.dtype)

  @nn.compact
  def __call__(self, images: Float[Array, "b h w c"], *, train: bool = False) -> Array:
    check_images(self, images, "embedding/kernel")
    if self.embed_dim % self.head_dim:
      raise UserError(
        f"embed_dim={self.embed_dim} is not a multiple of head_dim={self.head_dim}; change one."
      )
    if self.window_size < 1:
      raise UserError(f"window_size={self.window_size} is no side of a window; pass 1 or more.")
    patch = self.pixels_per_token()
    patchify_check(images.shape[1:3], patch)
    norm = functools.partial(LayerNorm, epsilon=self.layer_norm_eps)
    x = PatchEmbedding(self.embed_dim, patch, dtype=self.dtype, name="embedding")(images)
    x = norm(name="embedding_norm")(x)

    common = dict(
      res_post_norm=self.res_post_norm, layer_norm_eps=self.layer_norm_eps, dtype=self.dtype
    )
    rates = np.linspace(0, self.drop_path_rate, sum(self.depths)).tolist()
    for stage, depth in enumerate(self.depths):
      block = functools.partial(
        SwinBlock,
        self.attention(stage),
        self.window_size,
        mlp_ratio=self.mlp_ratio,
        activation=self.activation,
        **common,
      )
      x = SwinStage(
        tuple(functools.partial(block, shifted=number % 2 == 1) for number in range(depth)),
        tuple(rates.pop(0) if self.drop_path_rate > 0 else None for _ in range(depth)),
        functools.partial(PatchMerging, **common) if stage else None,
        name=f"layers_{stage}",
      )(x, train=train)
      capture(self, "features", f"stage{stage}", x)

    x = jnp.mean(norm(name="norm")(x), axis=(1, 2))
    capture(self, "features", "representation", x)
    if self.num_classes:
      x = nn.Dense(self.num_classes, kernel_init=head_init(self.head_zeroinit), name="head")(x)
    return x
