# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Whether a plan may continue a saved run: which keys may differ, which differ; and its teacher."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any

from vit_jax.data.datasets import is_same_place
from vit_jax.parallel.mesh import MeshPlan
from vit_jax.training.plan import Plan

# Keys that may change when a run continues: they leave the meaning of the saved state as it is.
_FREE = (
  *("batch_eval", "eval_every", "checkpoint_every", "progress_every", "threads"),
  "checkpoint_minutes",
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
_TEACHER = ("distill.teacher", "distill.checkpoint")


@dataclasses.dataclass(frozen=True)
class TeacherRecord:
  """What a run notes of its teacher, which may move but not be another one.

  Attributes:
    digest: SHA-256 of its parameters.
    model: its module's class and those fields that decide what it computes.
    class_names: in the order of its logits; empty if its file does not name them.
    preprocessing: how it sees images.
    step: of the run that has trained it; None for a file.
  """

  digest: str
  model: dict[str, Any]
  class_names: tuple[str, ...]
  preprocessing: dict[str, Any]
  step: int | None = None

  def differences(self, now: TeacherRecord) -> list[str]:
    """What makes `now` another teacher, in words; empty if it is the same, wherever it lies."""
    found = []
    if self.digest != now.digest:
      steps = f" (of step {self.step} then, of step {now.step} now)"
      found.append("its weights" + (steps if self.step != now.step else ""))
    if self.class_names and now.class_names and self.class_names != now.class_names:
      found.append("its class names or their order")
    for name, old, new in (
      ("model", self.model, now.model),
      ("preprocessing", self.preprocessing, now.preprocessing),
    ):
      # Written alike, and only what both versions know of.
      old, new = ({k: json.dumps(v) for k, v in side.items()} for side in (old, new))
      found += [f"its {name} ({k} {v} -> {new[k]})" for k, v in old.items() if new.get(k, v) != v]
    return found


def differences(
  saved: Mapping[str, Any], plan: Plan, *, recorded: bool = True, knows_teacher: bool = False
) -> list[str]:
  """Names the keys that keep `plan` from continuing a run that was saved as `saved`.

  `total_steps` may be raised where the learning rate does not depend on it (constant or rsqrt
  without cooldown): the first steps are then the same as in a run planned longer from the start.

  Args:
    saved: the plan of the run, as plain types.
    plan: that is to continue it.
    recorded: whether the run has a record of its files; then that tells whether another directory
      holds the same data set.
    knows_teacher: whether the run has a record of its teacher, which then may lie elsewhere.

  Returns:
    One `key (saved value -> value now)` for each that differs; empty if the run may continue.
  """
  # Through `from_dict`, so that a key that was added since has its default.
  old, new = flatten(Plan.from_dict(saved).to_dict()), flatten(plan.to_dict())
  differing = [k for k in sorted({*old, *new} - {*_FREE}) if old.get(k) != new.get(k)]
  moved = recorded and os.path.isdir(plan.dataset)
  taught = knows_teacher and plan.distill is not None
  differing = [
    k
    for k in differing
    if not (k == "dataset" and moved)
    and not (k in _TEACHER and taught)
    and not (k in _PATHS and is_same_place(old.get(k) or "", new.get(k) or ""))
  ]
  extendable = plan.decay_type in ("constant", "rsqrt") and not plan.cooldown_steps
  if extendable and plan.total_steps >= old.get("total_steps", 0):
    differing = [k for k in differing if k != "total_steps"]
  hint = ", of which an older version noted nothing but the path: put it back there"
  hints = dict.fromkeys(_TEACHER, hint) if plan.distill and old.get("distill.teacher") else {}
  return [f"{k} ({old.get(k)!r} -> {new.get(k)!r}{hints.get(k, '')})" for k in differing]


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  """The values of nested mappings by their paths, as "model.name"."""
  flat = {}
  for key, value in tree.items():
    if isinstance(value, Mapping):
      flat |= flatten(value, f"{prefix}{key}.")
    else:
      flat[prefix + key] = value
  return flat
