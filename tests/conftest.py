# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What all tests share: a CPU backend, quick compilation, and an importable torchvision."""

import gc
import logging
import os
import signal
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Nearly all of the time goes into compiling programs that run once. Without LLVM's optimisations,
# and with what one process has compiled kept for the others, ten of test_vit.py took 70 s of CPU
# time instead of 249.
# `XLA_FLAGS= pytest` runs the programs as users do.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # The workers inherit it.
  _programs = tempfile.TemporaryDirectory(prefix="vit_jax-programs-")
  os.environ["JAX_COMPILATION_CACHE_DIR"] = _programs.name
  os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
  os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "0"
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import cpu_torchvision  # noqa: F401
import pytest
import torch

# Its threads wait for work in a loop, and take from the other workers what they don't use.
torch.set_num_threads(1)


def pytest_collection_finish():
  """Spares the collector what stays: it takes a tenth of the time, mostly for imported modules."""
  gc.collect()
  gc.freeze()


@pytest.fixture(autouse=True)
def usual_log_level():
  """Commands raise it for their process; the tests after them see what users of the library do."""
  yield
  logging.getLogger("vit_jax").setLevel(logging.NOTSET)


@pytest.fixture(scope="module")
def hangups_are_heard():
  """SIGHUP has its usual effect, here and in programs that are started; `nohup` has it ignored."""
  before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
  yield
  signal.signal(signal.SIGHUP, before)
