# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A dry run sets variables for the process that it is meant to have for itself."""

import os

import pytest


@pytest.fixture(autouse=True)
def own_environment():
  """Takes them back, so that other tests' processes do not inherit them."""
  before = dict(os.environ)
  yield
  os.environ.clear()
  os.environ.update(before)
