# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Flat arrays: held little longer than once on their way to a tree, and compared in few lines."""

import tracemalloc

import numpy as np
import pytest

from vit_jax.params.tree import MOST_LINES, differences, from_tree, to_tree

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


def zeros(*paths, shape=(3,)):
  return {path: np.zeros(shape, np.int8) for path in paths}


def test_both_indexes_fold_and_names_of_others_fold_alike():
  blocks = [f"layers_{i}/blocks_{j}/query/bias" for i in (0, 1) for j in (0, 1)]
  theirs = [f"layers.{i}.blocks.{j}.x.weight (3,)" for i in range(3) for j in (0, 1)]
  assert differences({}, dict.fromkeys([*blocks, "head/bias"], (3,)), theirs) == (
    "5 missing: layers_{0..1}/blocks_{0..1}/query/bias, head/bias; "
    "6 extra: layers.{0..2}.blocks.{0..1}.x.weight (3,)"
  )
  # Only where all that is folded agrees; and an index of its own is no fold.
  assert differences(zeros(*blocks[:3], "stage_2_block_1/x"), {}) == (
    "4 extra: layers_0/blocks_{0..1}/query/bias (3,), layers_1/blocks_0/query/bias (3,), "
    "stage_2_block_1/x (3,)"
  )


def test_a_mismatch_of_many_arrays_is_told_in_ten_lines():
  have = {f"encoderblock_{i}/{k}/kernel": np.zeros((i + 2, 3)) for i in range(9) for k in "ab"}
  expected = dict.fromkeys(have, (1, 3)) | {f"other{i}/kernel": (2,) for i in range(30)}
  message = differences(have | zeros("extra"), expected, [f"x{i}.weight (3,)" for i in range(40)])
  missing, extra, shapes = message.split("; ")
  assert missing.startswith("30 missing: other0/kernel, other1/kernel, ")
  assert extra.startswith("41 extra: extra (3,), ") and shapes.startswith("18 of another shape: ")
  lines = 0
  for clause, total in ((missing, 30), (extra, 41), (shapes, 18)):
    shown = clause.count("/kernel") if clause != extra else clause.count("(3,)")
    lines += shown
    assert clause.endswith(f", and {total - shown} more")
  assert lines == MOST_LINES
  assert "encoderblock_0/a/kernel is (2, 3), expected (1, 3)" in shapes
  assert differences(have, {path: x.shape for path, x in have.items()}) == ""
