# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Collects what the parity tests measure: `pytest tests/parity --write-parity-table`.

The table is docs/parity.md. Without the option the tests check that it names what they measure.
"""

import importlib.metadata
import pathlib
import platform

import pytest
from oracle import TOLERANCE

TABLE = pathlib.Path(__file__).resolve().parents[2] / "docs" / "parity.md"
PACKAGES = ("jax", "flax", "torch", "timm", "transformers", "torchvision")
INTRODUCTION = """\
# Parity with PyTorch

The relative error of the logits, `||ours - theirs|| / ||theirs||`, in float32 on CPU: the same
weights, with noise on every leaf, on the same random images. PyTorch's model has the activation and
the epsilons that the weights were made for. The last column is the error under the other GELU, the
other stem, another order of norm and pooling, another epsilon of MobileViT's batch norms, its
channels in the other order or, in training, its running statistics: what the tolerance of 1e-5
would have to miss.
Leaves that logits cannot show (key biases, which the softmax cancels; the last bias of a Mixer's
token mixing, which every LayerNorm cancels; the bias before a PoolFormer's pooling) are compared
by value in the same tests. Widths are the real ones; depth is reduced to a few blocks in most rows.
Rows in float64 are of what float32's own rounding moves by more than the tolerance: all of a BiT's
units, as that row's last column, the same pair in float32, tells, and norms by the statistics of a
small batch.

A Swin, V1 or V2, takes images of any size that is a whole number of patches. Where its windows do
not divide the feature map, the map is shifted first and then padded with zeros at the bottom and
right, as timm does it (timm issue #2438). The shift has brought the first rows and columns behind
the last ones; the mask that keeps them apart counts from the end of the padded map, so that with
padding the last rows see the first, and all see the padding. The rows of this table at such sizes
hold that both compute the same. The paper's detectors pad before they shift. Where the windows
divide the map, as at the sizes of all released classifiers, there is no difference.

    pytest tests/parity --write-parity-table

| model | written by | read by | relative error | with the other |
|---|---|---|---|---|
"""


def pytest_addoption(parser):
  parser.addoption("--write-parity-table", action="store_true", help=f"write {TABLE.name}")


def pytest_configure(config):
  config.parity_rows = []


def pytest_sessionfinish(session):
  rows = session.config.parity_rows
  if not (session.config.getoption("--write-parity-table") and rows):
    return
  versions = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in PACKAGES)
  lines = [
    f"| {model} | {writer} | {reader} | {error:.1e} | {f'{off:.1e}' if off else ''} |"
    for model, writer, reader, error, off in sorted(rows)
  ]
  TABLE.parent.mkdir(exist_ok=True)
  footer = f"\nMeasured with Python {platform.python_version()}, {versions}.\n"
  TABLE.write_text(INTRODUCTION + "\n".join(lines) + "\n" + footer)


@pytest.fixture
def parity(request):
  """check(model, writer, reader, error, off=None): the tolerance, and a row of the table."""

  def check(model, writer, reader, error, off=None):
    assert error <= TOLERANCE
    request.config.parity_rows.append((model, writer, reader, float(error), off and float(off)))
    if not request.config.getoption("--write-parity-table", default=False):
      row = f"| {model} | {writer} | {reader} |"
      assert row in TABLE.read_text(), f"{TABLE} has no row for it: see the table's command"

  return check
