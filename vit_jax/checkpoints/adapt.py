# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Fits a checkpoint's parameters to a model of another resolution, patch size, input or head.

All functions take and return flat parameters, and log what they did in one line each.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from vit_jax.checkpoints.grids import COLUMNS, POSITIONS, RELATIVE, ROWS, TOKEN_MIXING
from vit_jax.errors import UserError, nearest
from vit_jax.params.resample import Grid, resize_filters, resize_grid
from vit_jax.params.tree import Flat

logger = logging.getLogger(__name__)

Shapes = Mapping[str, tuple[int, ...]]

# Of each list a model has one; in this order, as a hybrid embeds patches of its stem's output.
PATCHES = ("embedding/kernel", "stem/kernel")  # [height, width, channels, dim]
FIRST_CONVOLUTIONS = (
  "root_block/conv_root/kernel",
  "conv_root/kernel",
  "input_embedding/kernel",
  "stem/conv/kernel",
  *PATCHES,
)  # Sees the image.
HEADS = ("head", "head_dist")  # Linear layers to the logits; the second is DeiT's.
_HEAD_PATHS = tuple(f"{head}/" for head in HEADS)


def first_of(paths: Iterable[str], flat: Mapping[str, Any]) -> str | None:
  """The first of these paths that is there."""
  return next((path for path in paths if path in flat), None)


def pair(argument: str, size: Any) -> tuple[int, int]:
  """(height, width) of an image size, one side or both. Raises a UserError for anything else."""
  sides = (size, size) if isinstance(size, (int, np.integer)) else size
  is_side = lambda side: isinstance(side, (int, np.integer)) and side > 0
  if not isinstance(sides, (tuple, list)) or len(sides) != 2 or not all(map(is_side, sides)):
    raise UserError(
      f"{argument}={size!r} is no size in pixels; pass one side, such as 224, or (height, width)."
    )
  return int(sides[0]), int(sides[1])


def adapt_positions(
  flat: Flat,
  expected: Shapes,
  new: Grid,
  *,
  old: Grid | None,
  slots: int = 0,
  method: str = "bilinear_aligned",
  origin: str = "the checkpoint",
) -> Flat:
  """Resamples learned positions to another grid, and adds or drops the slots of learned tokens.

  A slot that is added holds zeros: big_vision adds positions before it prepends the class token,
  which is the same computation.

  Args:
    flat: the checkpoint's parameters.
    expected: the model's shapes.
    new: the model's grid of patches, (height, width).
    old: the checkpoint's, and `slots`, how many vectors of its position embedding stand before it,
      as `grids.grid_of` tells; None where that is not known.
    method: one of RESIZE_METHODS.
    origin: what messages call the checkpoint.

  Raises:
    UserError: the checkpoint's grid is not known, or is another and the model is a Mixer, whose
      token mixing has no other size to be resampled to.
  """
  flat = dict(flat)
  _refuse_other_mixing(flat, new, old)
  if POSITIONS in flat and POSITIONS in expected and flat[POSITIONS].ndim == 3:
    tokens = expected[POSITIONS][1]
    if old is None:
      raise UserError(
        f"{origin}: its position embedding has {flat[POSITIONS].shape[1]} tokens, which is not a "
        "square grid; pass the image_size that it was trained at, or that as "
        "checkpoint_image_size=(height, width) beside another one."
      )
    flat[POSITIONS] = _adapt_tokens(flat[POSITIONS], tokens, new, old, slots, method)
  for axis, path in ((0, ROWS), (1, COLUMNS)):
    if path in flat and path in expected and flat[path].ndim == 2:
      line = flat[path][:, None] if axis == 0 else flat[path][None]
      size = (new[0], 1) if axis == 0 else (1, new[1])
      flat[path] = resize_grid(line, size, method).reshape(new[axis], -1)
      if line.shape[:2] != size:
        _log_resize(path, line.shape[:2], size, method)
  tables = [path for path in flat if RELATIVE.search(path) and path in expected]
  for path in tables:
    flat[path] = _adapt_relative(flat[path], new, old, method)
  return flat


def _refuse_other_mixing(flat: Flat, new: Grid, old: Grid | None) -> None:
  """Raises a UserError if token mixing is for another grid: it says nothing about other ones."""
  if TOKEN_MIXING not in flat or old == new:
    return
  tokens = flat[TOKEN_MIXING].shape[0]
  theirs, advice = f"{tokens}, in no square", "pass the image_size that it was trained at"
  if old:
    theirs, advice = "{}x{}".format(*old), "leave image_size out, and resize the images instead"
  raise UserError(
    "a Mixer's token-mixing MLPs are tied to one grid of patches: the checkpoint's is "
    f"{theirs}, not {new[0]}x{new[1]}; {advice}."
  )


def _log_resize(what: str, old: Grid, new: Grid, method: str) -> None:
  logger.info("Resized %s from %dx%d to %dx%d (%s).", what, *old, *new, method)


def _adapt_tokens(
  embedding: np.ndarray, tokens: int, new: Grid, old: Grid, old_slots: int, method: str
) -> np.ndarray:
  new_slots = tokens - new[0] * new[1]
  slot, grid = embedding[:, :old_slots], embedding[0, old_slots:]
  if old != new:
    _log_resize("position embedding", old, new, method)
  grid = resize_grid(grid.reshape(*old, -1), new, method).reshape(1, new[0] * new[1], -1)
  if new_slots > old_slots:
    which = "class token" if new_slots == 1 else "learned tokens"
    logger.info("Added a zero position embedding for the %s; the checkpoint has none.", which)
    none = np.zeros((1, new_slots - old_slots, grid.shape[-1]), np.float32)
    slot = np.concatenate([slot, none], axis=1)
  elif new_slots < old_slots:
    logger.info("Dropped the class token's position embedding; the model has no class token.")
    slot = slot[:, :new_slots]
  return np.concatenate([slot, grid], axis=1) if slot.shape[1] else grid


def _adapt_relative(table: np.ndarray, new: Grid, old: Grid | None, method: str) -> np.ndarray:
  """Resamples a table of 2-D offsets [(2h - 1)(2w - 1) (+ 3), heads] to another grid."""
  if old is None:
    return table  # The comparison of shapes tells of it.
  sides = lambda grid: (2 * grid[0] - 1, 2 * grid[1] - 1)
  offsets = sides(old)[0] * sides(old)[1]
  if offsets > table.shape[0] or old == new:
    return table
  _log_resize("relative position bias", sides(old), sides(new), method)
  grid = resize_grid(table[:offsets].reshape(*sides(old), -1), sides(new), method)
  return np.concatenate([grid.reshape(-1, table.shape[-1]), table[offsets:]])


def patch_of(flat: Mapping[str, np.ndarray]) -> Grid | None:
  """Height and width of a checkpoint's patches; None if it has no patch embedding."""
  path = first_of(PATCHES, flat)
  return flat[path].shape[:2] if path and flat[path].ndim == 4 else None


def adapt_patches(flat: Flat, expected: Shapes, method: str) -> Flat:
  """Resamples the patch embedding's filters to the model's patch size.

  Args:
    flat: the checkpoint's parameters.
    expected: the model's shapes.
    method: how a patch is taken to be resized, one of RESIZE_METHODS; see resample.resize_filters.
  """
  path, old = first_of(PATCHES, flat), patch_of(flat)
  if old is None or path not in expected or old == (new := tuple(expected[path][:2])):
    return flat
  logger.info(
    "Resized patch embedding from %dx%d to %dx%d (pseudo-inverse of %s).", *old, *new, method
  )
  return {**flat, path: resize_filters(flat[path], new, method)}


def input_channels(flat: Mapping[str, np.ndarray]) -> int | None:
  """Channels of the images that a checkpoint was trained on; None if it does not tell."""
  path = first_of(FIRST_CONVOLUTIONS, flat)
  return flat[path].shape[2] if path and flat[path].ndim == 4 else None


def adapt_channels(flat: Flat, channels: int | None) -> Flat:
  """Changes the number of input channels of the first convolution, by timm's rules.

  One channel gets the sum over the old ones, so that a grey image gives what its copy in every
  channel gave. More channels repeat the old ones in turn, scaled by old / new to keep the size of
  the response. In a hybrid this is done before weight standardisation, which then sets the size.

  Args:
    flat: the checkpoint's parameters.
    channels: what the model's images have; None changes nothing.

  Raises:
    UserError: `channels` is not a positive whole number.
  """
  old = input_channels(flat)
  if channels is None or old in (None, channels):
    return flat
  if not isinstance(channels, (int, np.integer)) or channels < 1:
    raise UserError(f"channels={channels!r} is not a number of input channels; pass 1 or more.")
  path = first_of(FIRST_CONVOLUTIONS, flat)
  if channels == 1:
    kernel = flat[path].sum(axis=2, keepdims=True)
  else:
    kernel = flat[path][:, :, np.arange(channels) % old] * np.float32(old / channels)
  how = "summed" if channels == 1 else "repeated and scaled"
  logger.info("Changed %s from %d to %d input channels (%s).", path, old, channels, how)
  return {**flat, path: kernel}


def head_classes(flat: Mapping[str, np.ndarray]) -> int:
  """Number of classes of a checkpoint's head; 0 if it has none."""
  return int(flat["head/bias"].shape[-1]) if "head/bias" in flat else 0


def adapt_classes(
  flat: Flat, classes: Iterable[int | str] | None, names: Sequence[str] = ()
) -> Flat:
  """Keeps a choice of the head's classes, in the order given.

  Args:
    flat: the checkpoint's parameters.
    classes: indices, or names where the checkpoint has them; None keeps all.
    names: the checkpoint's class names.

  Raises:
    UserError: the checkpoint has no head or no such class, or a name stands for several.
  """
  if classes is None:
    return flat
  old = head_classes(flat)
  rows = [_class_row(label, old, names) for label in classes]
  if not rows:
    raise UserError("classes=[] keeps no class; pass num_classes=0 for a model without a head.")
  told = ", ".join(map(str, rows[:5])) + (", ..." if len(rows) > 5 else "")
  logger.info("Kept %d of the head's %d classes (%s).", len(rows), old, told)
  chosen = {path: flat[path][..., rows] for path in flat if path.startswith(_HEAD_PATHS)}
  return {**flat, **chosen}


def head_for(
  wanted: Sequence[str], theirs: Sequence[str], old: int
) -> tuple[int | None, str | None, list[int] | None]:
  """What becomes of a checkpoint's head for images of other classes, or of the same.

  Args:
    wanted: the names of the classes, by label.
    theirs: those of the checkpoint; empty where it does not name them.
    old: the number of classes of its head; 0 without one.

  Returns:
    `num_classes`, `head` and `classes` as `from_pretrained` takes them.
  """
  if not old or len(wanted) != old:
    return len(wanted), None, None
  if not theirs:
    logger.info("Kept the head: it has %d classes as the images have; it does not name them.", old)
    return old, None, None
  if tuple(theirs) == tuple(wanted):
    return old, None, None
  row = {name: index for index, name in enumerate(theirs)}
  if len(row) == old and row.keys() == {*wanted}:
    logger.info("The head has the same %d classes in another order; its rows are reordered.", old)
    return None, None, [row[name] for name in wanted]
  other = next(name for name in (*wanted, *theirs) if name not in row or name not in {*wanted})
  logger.info(
    "The head has %d classes as the images have, but not the same (%r is only in one of them).",
    *(old, other),
  )
  return old, "fresh", None


def _class_row(label: int | str, old: int, names: Sequence[str]) -> int:
  """The index of a class, given as index or name."""
  if not old:
    raise UserError("the checkpoint has no head to choose classes from; leave classes out.")
  if isinstance(label, str):
    if not names:
      raise UserError(f"the checkpoint has no class names to look up {label!r} in; pass indices.")
    rows = [row for row, name in enumerate(names) if name == label]
    if not rows:
      raise UserError(f"the checkpoint has no class {label!r}{nearest(label, names) or '.'}")
    if len(rows) > 1:
      raise UserError(
        f"classes {', '.join(map(str, rows))} are all called {label!r}; pass an index instead."
      )
    (label,) = rows
  if not isinstance(label, (int, np.integer)) or isinstance(label, bool):
    raise UserError(f"class {label!r} is neither an index nor a name.")
  if not 0 <= label < old:
    raise UserError(
      f"class {label} is out of range: the checkpoint's head has {old} classes, 0 to {old - 1}."
    )
  return int(label)


def adapt_head(flat: Flat, expected: Shapes, *, keep: bool, bias: float = 0.0) -> Flat:
  """Keeps the head, replaces it by a fresh one (zero kernel), or drops it.

  Args:
    flat: the checkpoint's parameters.
    expected: the model's shapes; without "head/kernel" in them the head is dropped.
    keep: whether the checkpoint's head stays.
    bias: what a fresh head's bias is filled with.
  """
  if keep:
    return flat
  old = head_classes(flat)
  flat = {path: value for path, value in flat.items() if not path.startswith(_HEAD_PATHS)}
  if "head/kernel" not in expected:
    if old:
      logger.info("Dropped the checkpoint's head of %d classes.", old)
    return flat
  for head in HEADS:
    if f"{head}/kernel" in expected:
      flat[f"{head}/kernel"] = np.zeros(expected[f"{head}/kernel"], np.float32)
      flat[f"{head}/bias"] = np.full(expected[f"{head}/bias"], bias, np.float32)
  logger.info(
    "Initialised a fresh zero head of %d classes%s.",
    expected["head/bias"][-1],
    f"; the checkpoint's, of {old}, is dropped" if old else "",
  )
  return flat


def adapt_representation(flat: Flat, expected: Shapes, *, keeps_head: bool) -> Flat:
  """Drops the tanh layer `pre_logits` unless the model has one.

  A head that was trained behind that layer means nothing without it, so such a head is never kept
  alone.

  Raises:
    UserError: the checkpoint's head is to be kept, and the model has no `pre_logits`.
  """
  if "pre_logits/kernel" not in flat or "pre_logits/kernel" in expected:
    return flat
  width = flat["pre_logits/kernel"].shape[-1]
  if keeps_head:
    raise UserError(
      f"the checkpoint's head was trained behind its pre_logits layer; pass "
      f"representation_size={width} to keep both, or num_classes=N for a fresh head without it."
    )
  logger.info("Dropped the checkpoint's pre_logits layer (representation_size=%d keeps it).", width)
  return {path: value for path, value in flat.items() if not path.startswith("pre_logits/")}


def adapt_class_token(flat: Flat, expected: Shapes, *, keeps_head: bool) -> Flat:
  """Drops the class token for a model that pools otherwise, if its head is not the checkpoint's.

  With the checkpoint's head the logits would silently be others than the checkpoint's, so then the
  class token stays, and the comparison names it as extra.
  """
  if "cls" not in flat or "cls" in expected or keeps_head:
    return flat
  logger.info("Dropped the checkpoint's class token; the model has none.")
  return {path: value for path, value in flat.items() if path != "cls"}
