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
from vit_jax.checkpoints.resample import resize_grid
from vit_jax.checkpoints.tables import CONV, COPY, LINEAR, How, Table, dense, norm, to_ours
from vit_jax.checkpoints.tree import Flat, as_float32

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
