# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""PyTorch's names of MobileViT (arXiv:2110.02178) and MobileViTV2 (arXiv:2206.02680).

Models here take RGB, and so do timm's, which feeds its copies of the authors' files with it.
Hugging Face's take BGR: its image processor flips the channels. So the first convolution of its
files is flipped when they are read, unless the `preprocessor_config.json` beside them says that
nothing flips.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vit_jax.params.tables import (
  CONV,
  HEADS_IN,
  HEADS_OUT,
  How,
  Table,
  batch_norm,
  dense,
  norm,
  to_ours,
  without_counters,
)
from vit_jax.params.tree import Flat, as_float32

logger = logging.getLogger(__name__)

# Where the numbers come from if nothing else is said about files with these names.
NUMERICS = {
  "activation": "silu",
  "layer_norm_eps": 1e-5,
  "group_norm_eps": 1e-5,
  "batch_norm_eps": 1e-5,
}


def _matrix(x: np.ndarray) -> np.ndarray:
  # A 1x1 convolution, which is a dense layer here; the comparison of shapes tells of others.
  return x[:, :, 0, 0].T if x.ndim == 4 and x.shape[2:] == (1, 1) else x.T


POINTWISE = How(lambda x, *_: [_matrix(x)], lambda xs: xs[0].T[:, :, None, None])


def _conv(theirs: str, ours: str, how: How = POINTWISE) -> Table:
  return [
    (f"{theirs}.conv.weight", f"{ours}/conv/kernel", how),
    *batch_norm(f"{theirs}.bn", f"{ours}/norm"),
  ]


def _fused(x: np.ndarray, *_: int) -> list[np.ndarray]:
  """[1 + 2 dim, ...] -> query [..., 1], key and value [..., dim]."""
  dim = (x.shape[0] - 1) // 2
  return [_matrix(piece) if piece.ndim > 1 else piece for piece in np.split(x, [1, 1 + dim])]


def _fused_back(xs: Sequence[np.ndarray]) -> np.ndarray:
  x = np.concatenate(xs, axis=-1)
  return x if x.ndim == 1 else x.T[:, :, None, None]


_SEPARABLE = How(_fused, _fused_back)

_RESIDUAL = "stage_{i}_residual_{j}/"
_MOBILE = "stage_{i}_mobilevit/"
_LAYER = _MOBILE + "encoderblock_{k}/"
_ATTENTION = _LAYER + "MultiHeadDotProductAttention_0/"
_SEPARATED = _LAYER + "attention/"
_PARTS = ("query", "key", "value")
_LEAVES = (("weight", "kernel"), ("bias", "bias"))
_THEIRS, _THEIR_LAYER = "stages.{i}.1.", "stages.{i}.1.transformer.{k}."


def _fused_rows(theirs: str, ours: str, how: How) -> Table:
  """One layer of theirs that is query, key and value."""
  return [(f"{theirs}.{x}", tuple(f"{ours}{p}/{y}" for p in _PARTS), how) for x, y in _LEAVES]


_TIMM: Table = [
  *_conv("stem", "stem", CONV),
  *_conv("stages.{i}.{j}.conv1_1x1", _RESIDUAL + "expand"),
  *_conv("stages.{i}.{j}.conv2_kxk", _RESIDUAL + "depthwise", CONV),
  *_conv("stages.{i}.{j}.conv3_1x1", _RESIDUAL + "project"),
  *_conv(_THEIRS + "conv_kxk", _MOBILE + "local", CONV),
  (_THEIRS + "conv_1x1.weight", _MOBILE + "embed/kernel", POINTWISE),
  *norm(_THEIR_LAYER + "norm1", _LAYER + "LayerNorm_0"),
  *norm(_THEIR_LAYER + "norm2", _LAYER + "LayerNorm_1"),
  *norm(_THEIRS + "norm", _MOBILE + "norm"),
  *_conv(_THEIRS + "conv_proj", _MOBILE + "project"),
  *_conv("final_conv", "final"),
  *dense("head.fc", "head"),
]
TIMM_TO_OURS: Table = [
  *_TIMM,
  *_fused_rows(_THEIR_LAYER + "attn.qkv", _ATTENTION, HEADS_OUT),
  *dense(_THEIR_LAYER + "attn.proj", _ATTENTION + "out", HEADS_IN),
  *dense(_THEIR_LAYER + "mlp.fc1", _LAYER + "MlpBlock_0/Dense_0"),
  *dense(_THEIR_LAYER + "mlp.fc2", _LAYER + "MlpBlock_0/Dense_1"),
  *_conv(_THEIRS + "conv_fusion", _MOBILE + "fusion", CONV),
]
TIMM_V2_TO_OURS: Table = [
  *_TIMM,
  *_fused_rows(_THEIR_LAYER + "attn.qkv_proj", _SEPARATED, _SEPARABLE),
  *dense(_THEIR_LAYER + "attn.out_proj", _SEPARATED + "out", POINTWISE),
  *dense(_THEIR_LAYER + "mlp.fc1", _LAYER + "MlpBlock_0/Dense_0", POINTWISE),
  *dense(_THEIR_LAYER + "mlp.fc2", _LAYER + "MlpBlock_0/Dense_1", POINTWISE),
]
V2_SIGN = "stage_2_mobilevit/encoderblock_0/attention/"  # Only the second version's trees have it.


def _hf_conv(theirs: str, ours: str, how: How = POINTWISE) -> Table:
  return [
    (f"{theirs}.convolution.weight", f"{ours}/conv/kernel", how),
    *batch_norm(f"{theirs}.normalization", f"{ours}/norm"),
  ]


def _hf_dense(theirs: str, ours: str) -> Table:
  return dense(f"{theirs}.convolution", ours, POINTWISE)


def _hf_residual(theirs: str, ours: str) -> Table:
  return [
    *_hf_conv(f"{theirs}.expand_1x1", f"{ours}expand"),
    *_hf_conv(f"{theirs}.conv_3x3", f"{ours}depthwise", CONV),
    *_hf_conv(f"{theirs}.reduce_1x1", f"{ours}project"),
  ]


_HF_STAGE, _HF_LAYER = "encoder.layer.{i}.", "encoder.layer.{i}.transformer.layer.{k}."
_HF: Table = [
  *_hf_conv("conv_stem", "stem", CONV),
  *(
    row
    for i in range(5)
    for row in (
      _hf_residual(f"encoder.layer.{i}.layer.{{j}}", f"stage_{i}_residual_{{j}}/")
      if i < 2
      else _hf_residual(f"encoder.layer.{i}.downsampling_layer", f"stage_{i}_residual_0/")
    )
  ),
  *_hf_conv(_HF_STAGE + "conv_kxk", _MOBILE + "local", CONV),
  (_HF_STAGE + "conv_1x1.convolution.weight", _MOBILE + "embed/kernel", POINTWISE),
  *norm(_HF_LAYER + "layernorm_before", _LAYER + "LayerNorm_0"),
  *norm(_HF_LAYER + "layernorm_after", _LAYER + "LayerNorm_1"),
  *norm(_HF_STAGE + "layernorm", _MOBILE + "norm"),
  *_hf_conv(_HF_STAGE + "conv_projection", _MOBILE + "project"),
  *dense("classifier", "head"),
]
HF_TO_OURS: Table = [
  *_HF,
  *(
    row
    for part in _PARTS
    for row in (
      (f"{_HF_LAYER}attention.attention.{part}.{x}", f"{_ATTENTION}{part}/{y}", HEADS_OUT)
      for x, y in _LEAVES
    )
  ),
  *dense(_HF_LAYER + "attention.output.dense", _ATTENTION + "out", HEADS_IN),
  *dense(_HF_LAYER + "intermediate.dense", _LAYER + "MlpBlock_0/Dense_0"),
  *dense(_HF_LAYER + "output.dense", _LAYER + "MlpBlock_0/Dense_1"),
  *_hf_conv(_HF_STAGE + "fusion", _MOBILE + "fusion", CONV),
  *_hf_conv("conv_1x1_exp", "final"),
]
HF_V2_TO_OURS: Table = [
  *_HF,
  *_fused_rows(_HF_LAYER + "attention.qkv_proj.convolution", _SEPARATED, _SEPARABLE),
  *_hf_dense(_HF_LAYER + "attention.out_proj", _SEPARATED + "out"),
  *_hf_dense(_HF_LAYER + "ffn.conv1", _LAYER + "MlpBlock_0/Dense_0"),
  *_hf_dense(_HF_LAYER + "ffn.conv2", _LAYER + "MlpBlock_0/Dense_1"),
]


def from_timm(state: Mapping[str, Any], heads: int) -> tuple[Flat, list[str]]:
  """timm's names of either version, as `tables.to_ours`."""
  second = any(name.endswith(".attn.qkv_proj.weight") for name in state)
  table = TIMM_V2_TO_OURS if second else TIMM_TO_OURS
  return to_ours(as_float32(without_counters(state)), table, heads)


def from_hf(state: Mapping[str, Any], heads: int) -> tuple[Flat, list[str]]:
  """Hugging Face's names of either version, with and without their prefix, as `tables.to_ours`.

  The first convolution stays as it is in the file; see `flipped`.
  """
  parameters = as_float32(without_counters(state))
  bare = {re.sub(r"^mobilevit(v2)?\.", "", name): x for name, x in parameters.items()}
  second = any(name.endswith(".attention.qkv_proj.convolution.weight") for name in bare)
  return to_ours(bare, HF_V2_TO_OURS if second else HF_TO_OURS, heads)


STEM = "stem/conv/kernel"


def flipped(flat: Mapping[str, np.ndarray], orders: str) -> Flat:
  """The same model for images in the opposite order of channels; `orders` is for the log."""
  if STEM not in flat or flat[STEM].ndim != 4 or flat[STEM].shape[2] != 3:
    return dict(flat)
  logger.info("Flipped the input channels of %s, %s.", STEM, orders)
  return {**flat, STEM: np.ascontiguousarray(flat[STEM][:, :, ::-1])}


def sizes_of(flat: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """The fields of `models.mobilevit.MobileViT` that our names and shapes tell; {} of others."""
  widths = {
    int(match[1]): value.shape[0]
    for path, value in flat.items()
    if (match := re.match(r"stage_(\d+)_residual_0/project/norm/scale$", path))
  }
  return {"widths": tuple(widths[stage] for stage in sorted(widths))} if widths else {}
