# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Swin Transformer V2, "Scaling Up Capacity and Resolution" (arXiv:2111.09883).

Swin with norms at the end of the branches (section 3.2), cosine attention (3.2) and position biases
that a small MLP computes from log-spaced offsets (3.3), so that no parameter is tied to a window.
"""

import functools
import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vit_jax.errors import UserError
from vit_jax.models.layers import SHORTEST, Dense, Dtype, directed, length
from vit_jax.models.swin import (
  KERNEL_INIT,
  Size,
  SwinTransformer,
  map_first,
  relative_offsets,
  windows_first,
)

POSITION_WIDTH = 512  # Of the MLP that computes position biases.
LARGEST_SCALE = 100.0  # Of the cosines: a temperature of at least 0.01.
LARGEST_BIAS = 16.0


def log_spaced(offsets: np.ndarray, window: Size) -> np.ndarray:
  """Offsets relative to a window's largest, log-spaced: eq. 4, scaled so that that one is 8.

  Args:
    offsets: [..., 2].
    window: height and width of the windows that were trained on.

  Returns:
    [..., 2] float32 within sign * log2(9) / 3.
  """
  relative = 8 * offsets / np.maximum(np.array(window) - 1, 1)
  return (np.sign(relative) * np.log2(np.abs(relative) + 1) / np.log2(8)).astype(np.float32)


def unit(x: Float[Array, "*s k"]) -> Float[Array, "*s k"]:
  """Vectors of length one, computed in at least float32."""
  exact = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  exact = directed(exact, length(exact), SHORTEST)  # Padding, and blank patches, are exactly 0.
  return (exact / jnp.maximum(length(exact), 1e-12)).astype(x.dtype)


class CosineWindowAttention(nn.Module):
  """Cosine self-attention in the windows of a map [batch, height, width, dim], eq. 2 and 3.

  `trained_window` is the side of the windows that the biases were trained with; 0: the window's.
  """

  head_dim: int
  trained_window: int = 0
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, "b h w d"], window: Size, mask: np.ndarray | None
  ) -> Float[Array, "b h w d"]:
    heads = x.shape[-1] // self.head_dim
    dense = functools.partial(Dense, kernel_init=KERNEL_INIT, dtype=self.dtype)
    query, key, value = (  # A bias of the keys would not cancel in a cosine, and there is none.
      windows_first(dense(x.shape[-1], use_bias=name != "key", name=name)(x), window, heads)
      for name in ("query", "key", "value")
    )
    scale = self.param("logit_scale", nn.initializers.constant(math.log(10)), (heads,))
    scale = jnp.exp(jnp.minimum(scale, math.log(LARGEST_SCALE)))[:, None, None]
    logits = jnp.einsum(
      "...nk,...mk->...nm",
      unit(query),
      unit(key),
      preferred_element_type=jnp.promote_types(query.dtype, jnp.float32),
    )

    # Once for every offset, and then for every pair of tokens.
    middle = np.array(window) - 1
    offsets = np.stack(np.indices(2 * middle + 1), axis=-1) - middle
    trained = (self.trained_window,) * 2 if self.trained_window else window
    y = nn.relu(nn.Dense(POSITION_WIDTH, name="position_mlp_0")(log_spaced(offsets, trained)))
    y = nn.Dense(heads, use_bias=False, name="position_mlp_1")(y)
    rows, columns = np.moveaxis(relative_offsets(window) + middle, -1, 0)
    bias = LARGEST_BIAS * jax.nn.sigmoid(jnp.moveaxis(y[rows, columns], -1, 0))

    logits = logits * scale + bias
    weights = jax.nn.softmax(logits if mask is None else logits + mask, axis=-1)
    y = weights.astype(value.dtype) @ value
    return dense(x.shape[-1], name="out")(map_first(y, x.shape, window))


class SwinTransformerV2(SwinTransformer):
  """Swin V2. Maps images [batch, height, width, channels] float32 to logits [batch, classes].

  Attributes, beside those of `SwinTransformer`:
    trained_windows: per stage the side of the windows that the position biases were trained with,
      where a model was fine-tuned with larger ones; () means `window_size`.
  """

  window_size: int = 8
  trained_windows: tuple[int, ...] = ()

  res_post_norm = True

  def attention(self, stage: int) -> Callable[..., nn.Module]:
    """Makes the attention of a stage's blocks."""
    trained = self.trained_windows or (0,) * len(self.depths)
    if len(trained) != len(self.depths):
      raise UserError(
        f"trained_windows={self.trained_windows} are not as many as the {len(self.depths)} stages; "
        "pass one for each."
      )
    return functools.partial(CosineWindowAttention, self.head_dim, trained[stage], self.dtype)
