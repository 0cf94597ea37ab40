# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""torchvision can be imported beside any torch, each time in a process of its own."""

import pathlib
import subprocess
import sys

import pytest

# As the C++ of a torchvision that was built for this torch.
ORDINARY = """
import torch
import torchvision.extension
LIBRARY = torch.library.Library("torchvision", "DEF")
LIBRARY.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
LIBRARY.impl("nms", lambda dets, scores, iou_threshold: scores + 41, "CPU")
"""
# As that of one whose C++ does not load.
WITHOUT_OPERATORS = """
import torch
import torchvision.extension
torch.library.register_fake("torchvision::nms")(lambda dets, scores, iou_threshold: scores)
"""


def run(program, *paths):
  path = [*map(str, paths), str(pathlib.Path(__file__).parent)]
  program = f"import sys; sys.path[:0] = {path}; import cpu_torchvision, torch; {program}"
  done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  return done.stdout.strip()


@pytest.fixture
def package(tmp_path):
  (tmp_path / "torchvision").mkdir()
  (tmp_path / "torchvision" / "extension.py").write_text("LOADED = 'once'")
  return tmp_path / "torchvision" / "__init__.py"


def test_one_that_brings_its_operators_keeps_them(package):
  package.write_text(ORDINARY)
  call = "print(torch.ops.torchvision.nms(torch.ones(1), torch.ones(1), 0.5).item())"
  assert run(call, package.parent.parent) == "42.0"


def test_one_without_operators_is_imported_whole(package):
  package.write_text(WITHOUT_OPERATORS)
  call = "import torchvision; print(torchvision.extension.LOADED, torch.ops.torchvision.qnms)"
  assert run(call, package.parent.parent) == "once torchvision.qnms"


def test_timm_can_be_imported_beside_the_installed_one():
  call = "import timm, torchvision; print(torchvision.extension and torchvision.ops.nms.__name__)"
  assert run(call) == "nms"
