# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Names of the parameters of Swin (arXiv:2103.14030) and of its second version (arXiv:2111.09883).

Names that only one version has are read as such in any file, but written by a table a version.
"""

import collections
import logging
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vit_jax.checkpoints.npz import renamed
from vit_jax.errors import UserError
from vit_jax.params.resample import resize_grid
from vit_jax.params.tables import CONV, COPY, LINEAR, How, Table, dense, norm, to_ours
from vit_jax.params.tree import Flat, as_float32

logger = logging.getLogger(__name__)

# Where the numbers come from if nothing else is said about a file with any of these names.
NUMERICS = {"activation": "gelu", "layer_norm_eps": 1e-5}


def _split(tensor: np.ndarray, parts: int, heads: int) -> list[np.ndarray]:
  """[parts * dim, dim in] -> parts times [dim in, dim]; a bias without `dim in`."""
  del heads
  # What cannot be split stays whole: the comparison of shapes then tells of it.
  pieces = np.split(tensor, parts) if tensor.shape[0] % parts == 0 else [tensor] * parts
  return [piece.T for piece in pieces]


def _square(table: np.ndarray, parts: int, heads: int) -> list[np.ndarray]:
  """[offsets, heads] -> [rows, columns, heads]."""
  del parts, heads
  side = math.isqrt(table.shape[0])
  return [table.reshape(side, side, -1) if side * side == table.shape[0] else table]


_SPLIT = How(_split, lambda xs: np.concatenate([x.T for x in xs]))
_OFFSETS = How(_square, lambda xs: xs[0].reshape(-1, xs[0].shape[-1]))

_SCALE = How(lambda x, *_: [x.reshape(-1)], lambda xs: xs[0][:, None, None])  # [heads, 1, 1]

_BLOCK = "layers_{i}/blocks_{j}/"
_ATTENTION = _BLOCK + "attention/"
_PARTS = ("query", "key", "value")
_TABLE = "relative_position_bias_table"
_THEIR_BLOCK = "layers.{i}.blocks.{j}."


def _second(theirs: str, mlp: str) -> Table:
  """What attention of the second version has: scales of the cosines, and the MLP of the biases."""
  return [
    (f"{theirs}.logit_scale", _ATTENTION + "logit_scale", _SCALE),
    *dense(f"{theirs}.{mlp}.0", _ATTENTION + "position_mlp_0"),
    (f"{theirs}.{mlp}.2.weight", _ATTENTION + "position_mlp_1/kernel", LINEAR),
  ]


_COMMON: Table = [
  *dense("patch_embed.proj", "embedding", CONV),
  *norm("patch_embed.norm", "embedding_norm"),
  *norm(_THEIR_BLOCK + "norm1", _BLOCK + "LayerNorm_0"),
  (f"{_THEIR_BLOCK}attn.qkv.weight", tuple(f"{_ATTENTION}{p}/kernel" for p in _PARTS), _SPLIT),
  (f"{_THEIR_BLOCK}attn.{_TABLE}", _ATTENTION + _TABLE, _OFFSETS),
  *dense(_THEIR_BLOCK + "attn.proj", _ATTENTION + "out"),
  *norm(_THEIR_BLOCK + "norm2", _BLOCK + "LayerNorm_1"),
  *dense(_THEIR_BLOCK + "mlp.fc1", _BLOCK + "MlpBlock_0/Dense_0"),
  *dense(_THEIR_BLOCK + "mlp.fc2", _BLOCK + "MlpBlock_0/Dense_1"),
  *norm("norm", "norm"),
]


def _merging(theirs: str, ours: str) -> Table:
  return [
    *norm(f"{theirs}.downsample.norm", f"{ours}/downsample/norm"),
    (f"{theirs}.downsample.reduction.weight", f"{ours}/downsample/reduction/kernel", LINEAR),
  ]


_BIASES = (f"{_THEIR_BLOCK}attn.qkv.bias", tuple(f"{_ATTENTION}{p}/bias" for p in _PARTS), _SPLIT)
_V2: Table = [
  *_second(_THEIR_BLOCK + "attn", "cpb_mlp"),
  *((f"{_THEIR_BLOCK}attn.{p[0]}_bias", f"{_ATTENTION}{p}/bias", COPY) for p in ("query", "value")),
]
# timm merges patches where a stage begins, the original and Hugging Face where one ends.
_TIMM: Table = [*_COMMON, *_merging("layers.{i}", "layers_{i}"), *dense("head.fc", "head")]
TIMM_TO_OURS: Table = [*_TIMM, _BIASES]
TIMM_V2_TO_OURS: Table = [*_TIMM, *_V2]
ORIGINAL_TO_OURS: Table = [
  *_COMMON,
  _BIASES,
  *_V2,
  *_merging("layers.{i}", "layers_{i+1}"),
  *dense("head", "head"),
]

V2_SIGN = "layers_0/blocks_0/attention/logit_scale"  # A path that only its second version has.

_HF_BLOCK = "encoder.layers.{i}.blocks.{j}."
HF_TO_OURS: Table = [
  *dense("embeddings.patch_embeddings.projection", "embedding", CONV),
  *norm("embeddings.norm", "embedding_norm"),
  *norm(_HF_BLOCK + "layernorm_before", _BLOCK + "LayerNorm_0"),
  *(row for p in _PARTS for row in dense(f"{_HF_BLOCK}attention.self.{p}", _ATTENTION + p)),
  (f"{_HF_BLOCK}attention.self.{_TABLE}", _ATTENTION + _TABLE, _OFFSETS),
  *_second(_HF_BLOCK + "attention.self", "continuous_position_bias_mlp"),
  *dense(_HF_BLOCK + "attention.output.dense", _ATTENTION + "out"),
  *norm(_HF_BLOCK + "layernorm_after", _BLOCK + "LayerNorm_1"),
  *dense(_HF_BLOCK + "intermediate.dense", _BLOCK + "MlpBlock_0/Dense_0"),
  *dense(_HF_BLOCK + "output.dense", _BLOCK + "MlpBlock_0/Dense_1"),
  *_merging("encoder.layers.{i}", "layers_{i+1}"),
  *norm("layernorm", "norm"),
  *dense("classifier", "head"),
]
# The modules of transformers 5 are named anew; its files keep the old names, state dicts do not.
_HF_NEW_NAMES = [
  (r"\.attention\.q_proj\.", ".attention.self.query."),
  (r"\.attention\.k_proj\.", ".attention.self.key."),
  (r"\.attention\.v_proj\.", ".attention.self.value."),
  (r"\.attention\.o_proj\.", ".attention.output.dense."),
  (r"\.attention\.relative_position_bias\.", ".attention.self."),
  (r"\.mlp\.fc1\.", ".intermediate.dense."),
  (r"\.mlp\.fc2\.", ".output.dense."),
]

# What follows from the sizes, and old files hold all the same.
_COMPUTED = re.compile(r"(^|\.)(relative_position_index|relative_coords_table|attn_mask)$")


def _parameters(state: Mapping[str, Any]) -> Flat:
  return as_float32({n: x for n, x in state.items() if not _COMPUTED.search(n)})


def from_timm(state: Mapping[str, Any]) -> tuple[Flat, list[str]]:
  """timm's names, or the original's, as `tables.to_ours`."""
  # A first stage that merges patches does so at its end.
  original = "layers.0.downsample.reduction.weight" in state
  table = ORIGINAL_TO_OURS if original else TIMM_TO_OURS + _V2
  return to_ours(_parameters(state), table, heads=1)


def from_hf(state: Mapping[str, Any]) -> tuple[Flat, list[str]]:
  """Hugging Face's names, old and new, with and without their prefix, as `tables.to_ours`."""
  bare = {re.sub(r"^swin(v2)?\.", "", name): x for name, x in _parameters(state).items()}
  return to_ours(renamed(bare, _HF_NEW_NAMES), HF_TO_OURS, heads=1)


_SECOND = re.compile(r"(attn\.|attention(/|\.self\.))logit_scale$")
# What tells the windows: biases by offset, offsets as the MLP of the biases sees them, and indices.
_WINDOWS = re.compile(rf"(^|[./])({_TABLE}|relative_coords_table|relative_position_index)$")


def windows_told(
  arrays: Mapping[str, Any], metadata: Mapping[str, Any], origin: str
) -> dict[str, Any]:
  """The windows of a Swin as its file tells them; {} of other models, or where nothing tells.

  No parameter of the second version does, but what its authors' files hold beside them, a
  `config.json` or our metadata. The first version's table of biases tells its own, and is resampled
  for other windows.

  Args:
    arrays: of the file, under any names.
    metadata: ours, or what a `config.json` says.
    origin: what messages call the file.

  Returns:
    "window_size", and where the biases were trained with other windows "trained_windows".

  Raises:
    UserError: what the file holds tells something else than its config.
  """
  tables = {name: x for name, x in arrays.items() if _WINDOWS.search(name)}
  second = any(map(_SECOND.search, arrays))
  if not second and not any(name.endswith(_TABLE) for name in tables):
    return {}
  sides = {name: side for name, x in tables.items() if (side := _window_of(name, x))}
  largest = max(sides.values(), default=0)
  ours = metadata.get("config", {}) if second else {}
  window = metadata.get("window_size", ours.get("window_size", largest if second else None))
  if not window:
    return {}
  # Where a map is smaller than the window, its table is as well.
  if largest > window:
    name = next(name for name, side in sides.items() if side == largest)
    raise UserError(
      f"{origin} is said to have window_size={window}, but its {name} is of windows of {largest}; "
      "fetch or copy its config.json again, or remove it."
    )
  told: dict[str, Any] = {"window_size": window}
  if second and "trained_windows" not in metadata and (trained := _trained_windows(tables, sides)):
    told["trained_windows"] = trained
  return told


def _window_of(name: str, table: Any) -> int:
  """The side of the window that a table is of; 0 if its shape is of none."""
  shape = tuple(table.shape)
  if name.endswith("relative_coords_table"):  # [1, 2 * side - 1, 2 * side - 1, 2]
    return max(shape[1:3]) // 2 + 1 if len(shape) == 4 else 0
  if name.endswith("relative_position_index"):  # [side^2, side^2]
    return math.isqrt(shape[0]) if shape and math.isqrt(shape[0]) ** 2 == shape[0] else 0
  rows = shape[0] if len(shape) == 2 else shape[0] ** 2 if len(shape) == 3 else 0
  side = math.isqrt(rows)  # [(2 * side - 1)^2, heads], or ours [2 * side - 1, 2 * side - 1, heads]
  return side // 2 + 1 if side**2 == rows and side % 2 else 0


def _trained_windows(tables: Mapping[str, Any], sides: Mapping[str, int]) -> tuple[int, ...]:
  """Per stage the side that log-spaced offsets are relative to; () if it is each window's own.

  The largest offset is log2(8 * (side - 1) / (trained - 1) + 1) / 3: `swin_v2.log_spaced`.
  """
  stages = {}
  for name, table in tables.items():
    match = re.search(r"layers[._](\d+)[./]", name)
    if match and name.endswith("relative_coords_table") and sides.get(name, 0) > 1:
      largest = 8.0 ** float(np.max(as_float32({name: table})[name])) - 1
      if largest > 0:
        trained = round(8 * (sides[name] - 1) / largest) + 1
        stages[int(match[1])] = trained if trained != sides[name] else 0
  windows = tuple(stages.get(stage, 0) for stage in range(max(stages, default=-1) + 1))
  return windows if any(windows) else ()


def adapt_tables(flat: Flat, expected: Mapping[str, Sequence[int]]) -> Flat:
  """Resamples the position biases for windows of another size, bicubically as the original does.

  A table that is smaller than the others is of a stage whose map was smaller than a window. The
  biases of the offsets that did not occur are then the nearest ones.

  Args:
    flat: the checkpoint's parameters.
    expected: the model's shapes.
  """
  tables = {path: x for path, x in flat.items() if path.endswith(f"/{_TABLE}") and x.ndim == 3}
  largest = max((max(table.shape[:2]) for table in tables.values()), default=0)
  adapted, changes = {}, set()
  for path, table in tables.items():
    border = [((largest - side) // 2,) * 2 for side in table.shape[:2]]
    table = np.pad(table, [*border, (0, 0)], mode="edge")
    new = tuple(expected.get(path, table.shape))[:2]
    adapted[path] = resize_grid(table, new, "bicubic")
    changes.add((largest // 2 + 1, new[0] // 2 + 1))
  for old, new in sorted(changes):
    if old != new:
      logger.info("Resized position biases from windows of %d to %d (bicubic).", old, new)
  return {**flat, **adapted}


def sizes_of(flat: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """The fields of `models.swin.SwinTransformer` that our names and shapes tell; {} of others."""
  blocks = [
    match[1] for path in flat if (match := re.match(r"(layers_\d+)/blocks_\d+/LayerNorm_0/s", path))
  ]
  if not blocks or "embedding/kernel" not in flat:
    return {}
  depths = collections.Counter(blocks)
  sizes = {
    "embed_dim": flat["embedding/kernel"].shape[-1],
    "depths": tuple(depths[stage] for stage in sorted(depths)),
  }
  table = flat.get(f"layers_0/blocks_0/attention/{_TABLE}")
  return sizes if table is None else {**sizes, "window_size": table.shape[0] // 2 + 1}
