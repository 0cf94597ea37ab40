# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Whether a plan may continue a saved run: which keys may differ, and which differ."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from vit_jax.data.sources import is_same_place
from vit_jax.training.plan import MeshPlan, Plan

# Keys that may change when a run continues: they leave the meaning of the saved state as it is.
_FREE = (
  *("batch_eval", "eval_every", "checkpoint_every", "progress_every", "threads"),
  *("keep_last", "keep_every"),
  # What makes a step fit into less memory.
  *("accum_steps", *(f"model.overrides.{tower}remat" for tower in ("", "img.", "txt."))),
  *("tfds_data_dir", "shuffle_buffer", "max_bad_fraction", "nan_policy", "stall_timeout"),
  "baseline",
  "pp.test",  # Judged at the end; `data_record.follow` keeps out what was learned from.
  *(f"mesh.{field.name}" for field in dataclasses.fields(MeshPlan)),
  *("text.vocabulary", "init.img", "init.txt"),  # Files that may have moved.
)


# Directories: where they are resolved to counts, not how they are written.
_PATHS = ("dataset", "pretrained_dir", "checkpoint", "distill.teacher")


def differences(saved: Mapping[str, Any], plan: Plan, *, recorded: bool = True) -> list[str]:
  """Names the keys that keep `plan` from continuing a run that was saved as `saved`.

  `total_steps` may be raised where the learning rate does not depend on it (constant or rsqrt
  without cooldown): the first steps are then the same as in a run planned longer from the start.

  Args:
    saved: the plan of the run, as plain types.
    plan: that is to continue it.
    recorded: whether the run has a record of its files; then that tells whether another directory
      holds the same data set.

  Returns:
    One `key (saved value -> value now)` for each that differs; empty if the run may continue.
  """
  # Through `from_dict`, so that a key that was added since has its default.
  old, new = _flatten(Plan.from_dict(saved).to_dict()), _flatten(plan.to_dict())
  differing = [k for k in sorted({*old, *new} - {*_FREE}) if old.get(k) != new.get(k)]
  moved = recorded and os.path.isdir(plan.dataset)
  differing = [
    k
    for k in differing
    if not (k == "dataset" and moved)
    and not (k in _PATHS and is_same_place(old.get(k) or "", new.get(k) or ""))
  ]
  extendable = plan.decay_type in ("constant", "rsqrt") and not plan.cooldown_steps
  if extendable and plan.total_steps >= old.get("total_steps", 0):
    differing = [k for k in differing if k != "total_steps"]
  return [f"{k} ({old.get(k)!r} -> {new.get(k)!r})" for k in differing]


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  flat = {}
  for key, value in tree.items():
    if isinstance(value, Mapping):
      flat |= _flatten(value, f"{prefix}{key}.")
    else:
      flat[prefix + key] = value
  return flat
