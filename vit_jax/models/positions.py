# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Position embeddings: those of the ablation in appendix D.4 of arXiv:2010.11929, and sin-cos."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vit_jax.errors import UserError, choose
from vit_jax.models.layers import check_sized

POSITION_EMBEDDINGS = {
  "none": "no information about position: a bag of patches",
  "learned_1d": "one learned vector per token in raster order: the paper's default",
  "learned_2d": "learned row and column vectors of half the width each, concatenated",
  "sinusoidal_1d": "fixed sines and cosines of the raster index (arXiv:1706.03762, section 3.5)",
  "sincos_2d": "fixed sines and cosines of column and row (arXiv:2205.01580, big_vision's)",
  "relative": "a learned bias per head and 2-D offset, in every layer's attention logits",
}


def _sincos(positions: np.ndarray, exponents: np.ndarray) -> np.ndarray:
  """[tokens] positions and [k] exponents to [tokens, 2 * k]: first all sines, then all cosines."""
  angle = positions[:, None] * 10_000.0 ** -exponents[None, :]
  return np.concatenate([np.sin(angle), np.cos(angle)], axis=1)


def sinusoidal_1d(grid: tuple[int, int], dim: int) -> Float[np.ndarray, "n d"]:
  """Fixed embedding of the raster index, [grid height * grid width, dim] float32."""
  if dim % 2:
    raise UserError(f"position_embedding='sinusoidal_1d' needs an even width; it is {dim}.")
  exponents = np.arange(dim // 2) / (dim // 2)
  return _sincos(np.arange(grid[0] * grid[1]), exponents).astype(np.float32)


def sincos_2d(grid: tuple[int, int], dim: int) -> Float[np.ndarray, "n d"]:
  """Fixed embedding of column (first half) and row, [grid height * grid width, dim] float32.

  The frequencies are big_vision's, whose lowest is 1/10,000 exactly, so that its weights load with
  the right numbers; MoCo v3 divides the exponents by one more.
  """
  if dim % 4 or dim < 8:
    raise UserError(
      f"position_embedding='sincos_2d' needs a width that is a multiple of 4, 8 at least; "
      f"it is {dim}."
    )
  rows, columns = np.mgrid[: grid[0], : grid[1]]
  exponents = np.arange(dim // 4) / (dim // 4 - 1)
  halves = [_sincos(axis.reshape(-1), exponents) for axis in (columns, rows)]
  return np.concatenate(halves, axis=1).astype(np.float32)


class AddPositionEmbedding(nn.Module):
  """Adds a position embedding to [batch, tokens, dim], whose grid tokens follow `prefix` others.

  Only "learned_1d" gives the class token a vector of its own (as the official files do); under
  the others it is told apart by its content alone.
  """

  kind: str
  grid: tuple[int, int]
  prefix: int = 0

  @nn.compact
  def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
    choose("position_embedding", self.kind, POSITION_EMBEDDINGS)
    if self.kind in ("none", "relative"):
      return x
    dim = x.shape[-1]
    normal = nn.initializers.normal(stddev=0.02)
    height, width = self.grid
    images = f"images of {height}x{width} patches ({x.shape[1]} tokens)"
    if self.kind == "learned_1d":
      check_sized(self, "pos_embedding", (1, x.shape[1], dim), images)
      embedding = self.param("pos_embedding", normal, (1, x.shape[1], dim))
      return x + embedding.astype(x.dtype)
    if self.kind == "learned_2d":
      check_sized(self, "row_embedding", (height, dim // 2), images)
      check_sized(self, "column_embedding", (width, dim - dim // 2), images)
      rows = self.param("row_embedding", normal, (height, dim // 2))
      columns = self.param("column_embedding", normal, (width, dim - dim // 2))
      rows = jnp.broadcast_to(rows[:, None], (height, width, rows.shape[-1]))
      columns = jnp.broadcast_to(columns[None], (height, width, columns.shape[-1]))
      embedding = jnp.concatenate([rows, columns], axis=-1).reshape(height * width, dim)
    else:
      fixed = {"sinusoidal_1d": sinusoidal_1d, "sincos_2d": sincos_2d}[self.kind]
      embedding = jnp.asarray(fixed(self.grid, dim))
    embedding = jnp.pad(embedding, ((self.prefix, 0), (0, 0)))
    return x + embedding.astype(x.dtype)


def relative_index(grid: tuple[int, int], prefix: int) -> np.ndarray:
  """Index of each (query, key) pair's offset in the table of RelativePositionBias, [n, n] int.

  The last three rows of the table are for class token to patch, patch to class token, and class
  token to itself, as in BEiT (arXiv:2106.08254).
  """
  height, width = grid
  rows, columns = (axis.reshape(-1) for axis in np.mgrid[:height, :width])
  offset_rows = rows[:, None] - rows[None] + height - 1
  offset_columns = columns[:, None] - columns[None] + width - 1
  index = offset_rows * (2 * width - 1) + offset_columns
  if not prefix:
    return index
  offsets = (2 * height - 1) * (2 * width - 1)
  index = np.pad(index, ((prefix, 0), (prefix, 0)))
  index[:prefix, prefix:] = offsets
  index[prefix:, :prefix] = offsets + 1
  index[:prefix, :prefix] = offsets + 2
  return index


class RelativePositionBias(nn.Module):
  """A learned bias per head and 2-D offset, [1, heads, tokens, tokens], for attention logits."""

  num_heads: int
  grid: tuple[int, int]
  prefix: int = 0

  @nn.compact
  def __call__(self) -> Float[Array, "1 h n n"]:
    height, width = self.grid
    entries = (2 * height - 1) * (2 * width - 1) + (3 if self.prefix else 0)
    images = f"images of {height}x{width} patches"
    check_sized(self, "table", (entries, self.num_heads), images)
    table = self.param("table", nn.initializers.normal(stddev=0.02), (entries, self.num_heads))
    return jnp.transpose(table[relative_index(self.grid, self.prefix)], (2, 0, 1))[None]
