# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Importing this makes torchvision importable beside a CPU-only torch: tests and benchmarks do."""

import torch

# The torchvision wheel expects C++ operators that a CPU-only torch does not bring. timm needs only
# the import, so the names are declared here; calling one would still fail, loudly.
_LIBRARY = torch.library.Library("torchvision", "DEF")
for _signature in (
  "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
  "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
):
  try:
    _LIBRARY.define(_signature)
  except RuntimeError:  # Already there: a torchvision built for this torch.
    break
