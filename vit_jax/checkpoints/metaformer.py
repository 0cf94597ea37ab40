# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""PyTorch's names of PoolFormer (arXiv:2111.11418): the released files', timm's, Hugging Face's."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from vit_jax.params.tables import CONV, COPY, How, Table, dense, norm

# Where the numbers come from if nothing else is said about files with the released names, or ours.
NUMERICS = {"activation": "gelu", "group_norm_eps": 1e-5, "final_norm": "before_pooling"}


def _matrix(x: np.ndarray) -> np.ndarray:
  # A 1x1 convolution, or a dense layer already; another shape is told of by its comparison.
  return x[:, :, 0, 0].T if x.ndim == 4 and x.shape[2:] == (1, 1) else x.T


# The channel MLP is two 1x1 convolutions in all of them, which are our dense layers.
POINTWISE = How(lambda x, *_: [_matrix(x)], lambda xs: xs[0].T[:, :, None, None])


def _block(theirs: str, ours: str, names: tuple[str, ...]) -> Table:
  """A block, from its two norms, the layers of its MLP and its two scales."""
  norm0, norm1, fc0, fc1, scale0, scale1 = (f"{theirs}.{name}" for name in names)
  return [
    *norm(norm0, f"{ours}/LayerNorm_0"),
    *norm(norm1, f"{ours}/LayerNorm_1"),
    *dense(fc0, f"{ours}/channel_mlp/Dense_0", POINTWISE),
    *dense(fc1, f"{ours}/channel_mlp/Dense_1", POINTWISE),
    (scale0, f"{ours}/layer_scale_0", COPY),
    (scale1, f"{ours}/layer_scale_1", COPY),
  ]


_OURS = "stage_{i}_block_{j}"
_RELEASED = ("norm1", "norm2", "mlp.fc1", "mlp.fc2", "layer_scale_1", "layer_scale_2")
# `network` lists stages and the embeddings between them in turn.
RELEASED_TO_OURS: Table = [
  *dense("patch_embed.proj", "input_embedding", CONV),
  *(
    row
    for i in range(4)
    for row in (
      *dense(f"network.{2 * i + 1}.proj", f"embedding_{i + 1}", CONV),
      *_block(f"network.{2 * i}.{{j}}", f"stage_{i}_block_{{j}}", _RELEASED),
    )
  ),
  *norm("norm", "norm"),
  *dense("head", "head"),
]

_TIMM = (*_RELEASED[:4], "layer_scale1.scale", "layer_scale2.scale")
TIMM_TO_OURS: Table = [
  *dense("stem.conv", "input_embedding", CONV),
  *dense("stages.{i}.downsample.conv", "embedding_{i}", CONV),
  *_block("stages.{i}.blocks.{j}", _OURS, _TIMM),
  *norm("head.norm", "norm"),
  *dense("head.fc", "head"),
]

# Without the "poolformer." that a model with a head puts before them.
_HF = ("before_norm", "after_norm", "output.conv1", "output.conv2", *_RELEASED[4:])
HF_TO_OURS: Table = [
  *dense("encoder.patch_embeddings.0.projection", "input_embedding", CONV),
  *dense("encoder.patch_embeddings.{i}.projection", "embedding_{i}", CONV),
  *_block("encoder.block.{i}.{j}", _OURS, _HF),
  *norm("norm", "norm"),
  *dense("classifier", "head"),
]


def sizes_of(flat: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """The fields of `models.metaformer.MetaFormer` that our names and shapes tell; {} of others."""
  depths, widths = {}, {}
  for path, value in flat.items():
    if match := re.match(r"stage_(\d+)_block_(\d+)/layer_scale_0$", path):
      stage, block = int(match[1]), int(match[2])
      depths[stage] = max(depths.get(stage, 0), block + 1)
      widths[stage] = value.shape[0]
  in_order = lambda values: tuple(values[stage] for stage in sorted(values))
  return {"depths": in_order(depths), "widths": in_order(widths)} if depths else {}
