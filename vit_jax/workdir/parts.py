# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The parts of a saved state: parameters, optimizer, average; and reading some of them alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from vit_jax.training.state import TrainState


def of(state: TrainState) -> dict[str, Any]:
  """What a state consists of; an average that is not kept leaves no trace."""
  return {name: value for name, value in vars(state).items() if value is not None}


def read(directory: epath.Path, target: Mapping[str, Any]) -> dict[str, Any]:
  """Reads these parts of a saved state, and not its others.

  The manager, which has saved the whole state, would not take arguments of another kind for it.

  Raises:
    ValueError: the parts have other arrays than `target`.
  """
  handler = ocp.PyTreeCheckpointHandler()
  saved = handler.metadata(directory).tree
  # Orbax would give back what it does not find as it was asked for. And whoever does not ask for
  # the average, although there is one, would take other weights than the result.
  expected, found = _shapes(target), _shapes({k: saved[k] for k in {*target, "ema"} & {*saved}})
  if differing := sorted(k for k in {**expected, **found} if expected.get(k) != found.get(k)):
    k = differing[0]
    raise ValueError(f"{k} should be {expected.get(k, 'absent')}, but is {found.get(k, 'absent')}")
  args = ocp.args.PyTreeRestore(
    target, ocp.checkpoint_utils.construct_restore_args(target), partial_restore=True
  )
  with ocp.Checkpointer(handler) as reader:
    return reader.restore(directory, args=args)


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
  arrays, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {jax.tree_util.keystr(k, simple=True, separator="/"): tuple(x.shape) for k, x in arrays}
