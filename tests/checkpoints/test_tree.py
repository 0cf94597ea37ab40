# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The way from flat arrays to a tree of jax.Arrays holds each parameter little longer than once."""

import tracemalloc

import numpy as np
import pytest

from vit_jax.checkpoints.tree import from_tree, to_tree

LAYERS, LEAVES, SIZE = 12, 8, 32_768


def flat():
  return {
    f"Transformer/encoderblock_{layer}/x{leaf}": np.full(SIZE, 10 * layer + leaf, np.float32)
    for layer in range(LAYERS)
    for leaf in range(LEAVES)
  }


@pytest.mark.parametrize("scanned, most", [(False, 0.05), (True, 2.1 / LEAVES)])
def test_arrays_are_dropped_one_by_one(scanned, most):
  """Beside what it is given, NumPy holds at most a stacked leaf (and JAX's staging of it)."""
  arrays = flat()
  to_tree({"warm up": np.zeros(1, np.float32)}, scanned=scanned)
  tracemalloc.start()
  given = {path: array.copy() for path, array in arrays.items()}
  held, _ = tracemalloc.get_traced_memory()
  tracemalloc.reset_peak()
  tree = to_tree(given, scanned=scanned)
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert not given
  assert peak - held < most * held
  restored = from_tree(tree)
  assert restored.keys() == arrays.keys()
  assert all(np.array_equal(restored[path], arrays[path]) for path in arrays)
