# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Which grid of patches a checkpoint's learned positions are for: the one place that decides it.

A position embedding [1, tokens, dim] has no height and no width, and no sign where the slots of the
class token end: 49 tokens are 7x7 patches, or a class token and 6x8. What is told counts first (by
the caller, the file's metadata, a `config.json`, a release). Then the slots are those that the
names imply, and the grid is square, or as the caller's images have it. Where both are possible and
are not the same, nothing decides between the two, and it is refused; but the files of Google's
projects, which know squares only, are square.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from vit_jax.errors import UserError
from vit_jax.params.resample import Grid

POSITIONS = "Transformer/posembed_input/pos_embedding"
ROWS = "Transformer/posembed_input/row_embedding"
COLUMNS = "Transformer/posembed_input/column_embedding"
RELATIVE = re.compile(r"/relative_position_bias/table$")
CLASS_ROWS = 3  # Rows at the end of a relative table for pairs with the class token.
# Mixes tokens by a matrix [tokens, width], which ties a Mixer to one grid.
TOKEN_MIXING = "MixerBlock_0/token_mixing/Dense_0/kernel"
TOKENS = ("cls", "dist")  # Learned tokens before the patches; the second is DeiT's.

Size = tuple[int, int]


def square(patches: int) -> Grid | None:
  """The square grid of this many patches, if there is one."""
  side = math.isqrt(patches) if patches > 0 else 0
  return (side, side) if side and side * side == patches else None


def _square_of_offsets(rows: int) -> Grid | None:
  """The square grid whose 2-D offsets are this many, if there is one."""
  sides = square(rows)
  return (sides[0] // 2 + 1,) * 2 if sides and sides[0] % 2 else None


def of_size(model: Any, size: Size) -> Grid:
  """The grid of a model's tokens for images of (height, width) pixels."""
  height, width = model.pixels_per_token()
  if min(height, width) < 1:
    raise UserError(f"patch_size makes tokens of {height}x{width} pixels; pass positive numbers.")
  return size[0] // height, size[1] // width


def learned_tokens(flat: Mapping[str, np.ndarray]) -> int:
  """How many learned tokens stand before the patches."""
  return sum(name in flat for name in TOKENS)


def _table(
  flat: Mapping[str, np.ndarray], slots: Sequence[int]
) -> tuple[str, int, Sequence[int], Callable[[Grid], int], Callable[[int], Grid | None]] | None:
  """What ties the parameters to one grid: its name, its rows, and how both belong together."""
  patches = lambda grid: grid[0] * grid[1]
  if POSITIONS in flat and flat[POSITIONS].ndim == 3:
    return "position embedding", flat[POSITIONS].shape[1], slots, patches, square
  if TOKEN_MIXING in flat and flat[TOKEN_MIXING].ndim == 2:
    return "token mixing", flat[TOKEN_MIXING].shape[0], (0,), patches, square
  table = next((flat[path] for path in flat if RELATIVE.search(path)), None)
  if table is None or table.ndim != 2:
    return None
  offsets = lambda grid: (2 * grid[0] - 1) * (2 * grid[1] - 1)
  extra = CLASS_ROWS if learned_tokens(flat) else 0
  return "relative position bias", table.shape[0], (extra,), offsets, _square_of_offsets


def is_free(flat: Mapping[str, np.ndarray]) -> bool:
  """Whether the parameters are for images of any size."""
  return ROWS not in flat and _table(flat, (0,)) is None


def fits(flat: Mapping[str, np.ndarray], grid: Grid, slots: Sequence[int]) -> int | None:
  """How many rows stand beside those of a grid in the checkpoint's table; None if it isn't for it.

  Where no table has a size, any grid fits.
  """
  if ROWS in flat and COLUMNS in flat:
    return 0 if (flat[ROWS].shape[0], flat[COLUMNS].shape[0]) == grid else None
  if (found := _table(flat, slots)) is None:
    return 0
  _, rows, slots, cells, _ = found
  return next((extra for extra in slots if cells(grid) + extra == rows), None)


def grid_of(
  flat: Mapping[str, np.ndarray],
  slots: Sequence[int],
  *,
  told: Grid | None = None,
  wanted: Grid | None = None,
  square_first: bool = False,
  patch: Size = (1, 1),
  origin: str = "the checkpoint",
) -> tuple[Grid | None, int]:
  """The grid that a checkpoint's learned positions or token mixing are for.

  Args:
    flat: the checkpoint's parameters.
    slots: how many vectors may stand before those of the patches, as its names imply.
    told: the grid, where something tells it.
    wanted: that of the images that the caller has, which the checkpoint's may be too.
    square_first: whether the checkpoint is of those whose grids are square if they can be.
    patch: height and width of a token in pixels, for the message.
    origin: what messages call the checkpoint.

  Returns:
    The grid, or None if there is none or it cannot be told; and how many vectors of the position
    embedding stand before it.

  Raises:
    UserError: what is told is not so, or the checkpoint may be for either of two grids.
  """
  if ROWS in flat and COLUMNS in flat:
    return (flat[ROWS].shape[0], flat[COLUMNS].shape[0]), 0
  if (found := _table(flat, slots)) is None:
    return told, 0
  what, rows, slots, _, square_of = found
  pixels = lambda grid: "{}x{}".format(*(n * side for n, side in zip(grid, patch, strict=True)))
  if told is not None:
    # Told is more than implied, so that any slots will do which the learned tokens can have.
    every = (*slots, *range(learned_tokens(flat) + 1)) if POSITIONS in flat else slots
    extra = fits(flat, told, every)
    if extra is None:
      raise UserError(
        f"{origin} is said to be for images of {pixels(told)}, which is {told[0]}x{told[1]} "
        f"patches, but its {what} has {rows} rows; pass the size that it was trained at as "
        "checkpoint_image_size=(height, width)."
      )
    return told, extra if POSITIONS in flat else 0
  candidates = {grid: extra for extra in reversed(slots) if (grid := square_of(rows - extra))}
  extra = None if wanted is None else fits(flat, wanted, slots)
  if extra is not None and not (square_first and candidates):
    candidates.setdefault(wanted, extra)
  if len(candidates) > 1:
    either = " or ".join(f"{h}x{w} patches ({pixels((h, w))} pixels)" for h, w in candidates)
    raise UserError(
      f"{origin}: its {what} has {rows} rows, which may be for {either}, and nothing in the file "
      "tells; pass the size that it was trained at as checkpoint_image_size=(height, width)."
    )
  for grid, extra in candidates.items():
    return grid, extra if POSITIONS in flat else 0
  return None, learned_tokens(flat)
