# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""PyTorch's names of MobileViT (arXiv:2110.02178): timm's and Hugging Face's.

Our models take RGB. timm feeds its files, which it made from the authors', with RGB too.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from vit_jax.checkpoints.tables import (
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
from vit_jax.checkpoints.tree import Flat, as_float32

# Where the numbers come from if nothing else is said about files with these names.
NUMERICS = {"activation": "silu", "layer_norm_eps": 1e-5, "batch_norm_eps": 1e-5}


def _matrix(x: np.ndarray) -> np.ndarray:
  # A 1x1 convolution, which is a dense layer here; the comparison of shapes tells of others.
  return x[:, :, 0, 0].T if x.ndim == 4 and x.shape[2:] == (1, 1) else x.T


POINTWISE = How(lambda x, *_: [_matrix(x)], lambda xs: xs[0].T[:, :, None, None])


def _conv(theirs: str, ours: str, how: How = POINTWISE) -> Table:
  return [
    (f"{theirs}.conv.weight", f"{ours}/conv/kernel", how),
    *batch_norm(f"{theirs}.bn", f"{ours}/norm"),
  ]


_RESIDUAL = "stage_{i}_residual_{j}/"
_MOBILE = "stage_{i}_mobilevit/"
_LAYER = _MOBILE + "encoderblock_{k}/"
_ATTENTION = _LAYER + "MultiHeadDotProductAttention_0/"
_PARTS = ("query", "key", "value")
_THEIRS, _THEIR_LAYER = "stages.{i}.1.", "stages.{i}.1.transformer.{k}."

TIMM_TO_OURS: Table = [
  *_conv("stem", "stem", CONV),
  *_conv("stages.{i}.{j}.conv1_1x1", _RESIDUAL + "expand"),
  *_conv("stages.{i}.{j}.conv2_kxk", _RESIDUAL + "depthwise", CONV),
  *_conv("stages.{i}.{j}.conv3_1x1", _RESIDUAL + "project"),
  *_conv(_THEIRS + "conv_kxk", _MOBILE + "local", CONV),
  (_THEIRS + "conv_1x1.weight", _MOBILE + "embed/kernel", POINTWISE),
  *norm(_THEIR_LAYER + "norm1", _LAYER + "LayerNorm_0"),
  *(
    (
      f"{_THEIR_LAYER}attn.qkv.{theirs}",
      tuple(f"{_ATTENTION}{p}/{ours}" for p in _PARTS),
      HEADS_OUT,
    )
    for theirs, ours in (("weight", "kernel"), ("bias", "bias"))
  ),
  *dense(_THEIR_LAYER + "attn.proj", _ATTENTION + "out", HEADS_IN),
  *norm(_THEIR_LAYER + "norm2", _LAYER + "LayerNorm_1"),
  *dense(_THEIR_LAYER + "mlp.fc1", _LAYER + "MlpBlock_0/Dense_0"),
  *dense(_THEIR_LAYER + "mlp.fc2", _LAYER + "MlpBlock_0/Dense_1"),
  *norm(_THEIRS + "norm", _MOBILE + "norm"),
  *_conv(_THEIRS + "conv_proj", _MOBILE + "project"),
  *_conv(_THEIRS + "conv_fusion", _MOBILE + "fusion", CONV),
  *_conv("final_conv", "final"),
  *dense("head.fc", "head"),
]


def from_timm(state: Mapping[str, Any], heads: int) -> tuple[Flat, list[str]]:
  """timm's names, as `tables.to_ours`."""
  return to_ours(as_float32(without_counters(state)), TIMM_TO_OURS, heads)


def sizes_of(flat: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """The fields of `models.mobilevit.MobileViT` that our names and shapes tell; {} of others."""
  widths = {
    int(match[1]): value.shape[0]
    for path, value in flat.items()
    if (match := re.match(r"stage_(\d+)_residual_0/project/norm/scale$", path))
  }
  return {"widths": tuple(widths[stage] for stage in sorted(widths))} if widths else {}
