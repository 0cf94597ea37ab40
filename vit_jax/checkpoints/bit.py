# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Names of BiT's parameters (arXiv:1912.11370): those of the released files, and timm's."""

import collections
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from vit_jax.checkpoints import npz
from vit_jax.models.bit import ROOT_WIDTH
from vit_jax.params.tables import (
  CONV,
  COPY,
  TAKE_OUT,
  How,
  Table,
  norm,
  refuse_left,
  to_ours,
  to_theirs,
)
from vit_jax.params.tree import Flat, as_float32

# Where the numbers come from if nothing else is said about Google's files.
NUMERICS = {"weight_standardization": "bit", "group_norm_eps": 1e-5}


def _without(axes: tuple[int, int], x: np.ndarray) -> np.ndarray:
  # Another shape stays as it is: the comparison of shapes then tells of it.
  return x.squeeze(axes) if x.ndim == 4 and all(x.shape[a] == 1 for a in axes) else x


# The head is a 1x1 convolution after pooling in both, which is our dense layer.
_HEAD = How(lambda x, *_: [_without((0, 1), x)], lambda xs: xs[0][None, None])  # HWIO
_TIMM_HEAD = How(lambda x, *_: [_without((2, 3), x).T], lambda xs: xs[0].T[:, :, None, None])

_UNIT = "block{i}/unit{j:02}/"
OFFICIAL_TO_OURS: Table = [
  ("resnet/root_block/standardized_conv2d/kernel", "root_block/conv_root/kernel", COPY),
  *(
    row
    for number, part in enumerate("abc", start=1)
    for row in (
      (f"resnet/{_UNIT}{part}/standardized_conv2d/kernel", f"{_UNIT}conv{number}/kernel", COPY),
      (f"resnet/{_UNIT}{part}/group_norm/gamma", f"{_UNIT}gn{number}/scale", COPY),
      (f"resnet/{_UNIT}{part}/group_norm/beta", f"{_UNIT}gn{number}/bias", COPY),
    )
  ),
  (f"resnet/{_UNIT}a/proj/standardized_conv2d/kernel", f"{_UNIT}conv_proj/kernel", COPY),
  ("resnet/group_norm/gamma", "norm-pre-head/scale", COPY),
  ("resnet/group_norm/beta", "norm-pre-head/bias", COPY),
  ("resnet/head/conv2d/kernel", "head/kernel", _HEAD),
  ("resnet/head/conv2d/bias", "head/bias", COPY),
]
# TensorFlow numbered the layers of some files across the network ("standardized_conv2d_17"), which
# says nothing that their path does not.
UNNUMBERED = [(r"/(standardized_conv2d|group_norm|conv2d)_\d+/", r"/\1/")]

_TIMM_UNIT = "stages.{i}.blocks.{j}."
_NEXT_UNIT = "block{i+1}/unit{j+1:02}/"
TIMM_TO_OURS: Table = [
  ("stem.conv.weight", "root_block/conv_root/kernel", CONV),
  *(
    row
    for n in (1, 2, 3)
    for row in (
      (f"{_TIMM_UNIT}conv{n}.weight", f"{_NEXT_UNIT}conv{n}/kernel", CONV),
      *norm(f"{_TIMM_UNIT}norm{n}", f"{_NEXT_UNIT}gn{n}"),
    )
  ),
  (f"{_TIMM_UNIT}downsample.conv.weight", f"{_NEXT_UNIT}conv_proj/kernel", CONV),
  *norm("norm", "norm-pre-head"),
  ("head.fc.weight", "head/kernel", _TIMM_HEAD),
  ("head.fc.bias", "head/bias", COPY),
]


def from_official(flat: Mapping[str, Any]) -> tuple[Flat, list[str]]:
  """The names of the released files as ours; also those that have none here."""
  flat = npz.renamed(npz.strip_prefixes(flat), UNNUMBERED)
  return to_ours(as_float32(flat), OFFICIAL_TO_OURS, heads=1)


def to_released(flat: Mapping[str, np.ndarray]) -> Flat:
  """Our names as the released files'.

  Raises:
    UserError: there are parameters that those have no place for; nothing is dropped.
  """
  released, left = to_theirs(flat, OFFICIAL_TO_OURS)
  refuse_left("Google's .npz of BiT", left, TAKE_OUT)
  return released


def sizes_of(flat: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """The fields of `models.bit.BitResNet` that our names and shapes tell; {} of other families."""
  root = flat.get("root_block/conv_root/kernel")
  if root is None:
    return {}
  units = {match[0]: match[1] for path in flat if (match := re.match(r"(block\d+)/unit\d+/", path))}
  stages = collections.Counter(units.values())
  return {
    "num_units": tuple(stages[stage] for stage in sorted(stages)),
    "width_factor": root.shape[-1] / ROOT_WIDTH,
  }
