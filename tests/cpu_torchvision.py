# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Importing this makes torchvision importable beside a CPU-only torch: tests and benchmarks do."""

import sys

import torch

try:
  import torchvision  # Where it fits this torch, it brings its operators, which may be there once.
except RuntimeError:
  # The torchvision wheel expects C++ operators that a CPU-only torch does not bring. timm needs
  # only the import, so the names are declared here; calling one would still fail, loudly.
  _LIBRARY = torch.library.Library("torchvision", "DEF")
  for _name in ("nms", "qnms"):
    _LIBRARY.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
  # Submodules that the failed import left would not become attributes of the new torchvision.
  for _module in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
    del sys.modules[_module]
  import torchvision  # noqa: F401
