# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A work directory as a model: what `evaluate`, `predict` and `from_pretrained` load from a run."""

from __future__ import annotations

import dataclasses
import json
import os
from typing import Any

import flax.linen as nn
import jax
from etils import epath

from vit_jax.data.transforms import Preprocessing
from vit_jax.errors import UserError
from vit_jax.models import registry
from vit_jax.training import checkpointing, continuation, data_record
from vit_jax.training import plan as plan_lib
from vit_jax.training.state import state_target

CONFIG = "config.json"
CHECKPOINTS = "checkpoints"


@dataclasses.dataclass(frozen=True)
class RunInfo:
  """What `config.json` of a work directory says.

  Attributes:
    config: the plan as plain types.
    model_name: in the registry.
    model_fields: the fields of the model's module that differ from the registry's.
    dataset: its name or directory.
    class_names: in the order of the labels.
    preprocessing: the plan's `pp`.
    parameters: how many the model has.
    data: what `data_record` describes of the splits; None in a run from before the record.
    step: the step that was loaded; None in the file.
    metrics: validation metrics of that step; None if it was not evaluated.
  """

  config: dict[str, Any]
  model_name: str
  model_fields: dict[str, Any]
  dataset: str
  class_names: tuple[str, ...]
  preprocessing: Preprocessing
  parameters: int
  data: dict[str, Any] | None = None
  step: int | None = None
  metrics: dict[str, float] | None = None

  @property
  def image_size(self) -> tuple[int, int]:
    """(height, width) in pixels."""
    return self.preprocessing.size

  @property
  def splits(self) -> dict[str, str | None]:
    """The split specifications that the run used as train, val and test."""
    return {name: getattr(self.preprocessing, name) for name in ("train", "val", "test")}

  @property
  def plan(self) -> plan_lib.Plan:
    """The plan this run was started with."""
    return plan_lib.Plan.from_dict(self.config)

  def create_model(self) -> nn.Module:
    return registry.create_model(self.model_name, **self.model_fields)


def describe_run(
  plan: plan_lib.Plan,
  model: nn.Module,
  class_names: tuple[str, ...],
  parameters: int,
  record: data_record.Record,
) -> RunInfo:
  """Describes a run that is about to start."""
  return RunInfo(
    config=plan.to_dict(),
    model_name=plan.model.name,
    model_fields=_fields_of(plan.model.name, model),
    dataset=plan.dataset,
    class_names=tuple(class_names),
    preprocessing=plan.pp,
    parameters=parameters,
    data=record.describe(),
  )


def write_run(workdir: str | os.PathLike, info: RunInfo, record: data_record.Record) -> None:
  """Writes `config.json` and `data.npz`, from the first process only.

  Raises:
    UserError: if the directory cannot be made or written.
  """
  if jax.process_index():
    return
  workdir = epath.Path(workdir)
  content = dataclasses.asdict(info)
  del content["step"], content["metrics"]
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    data_record.write(workdir, record)
    checkpointing.write_atomically(workdir / CONFIG, json.dumps(content, indent=2) + "\n")
    data_record.finish_writing(workdir)
  except OSError as error:
    raise UserError(
      f"workdir {workdir} cannot be written ({error.strerror or error}); choose another directory."
    ) from error


def read_run(workdir: str | os.PathLike) -> RunInfo | None:
  """Reads `config.json`; None if the directory holds no run.

  Raises:
    UserError: if there are checkpoints without it, or it cannot be read.
  """
  path = epath.Path(workdir) / CONFIG
  try:
    if not path.exists():
      if _has_checkpoints(path.parent):
        beside = path.parent / CHECKPOINTS
        raise UserError(f"{path} is missing beside {beside}; use another workdir.")
      return None
    content = json.loads(path.read_text())
    return RunInfo(
      **{
        **content,
        "class_names": tuple(content["class_names"]),
        "preprocessing": plan_lib.Plan.from_dict(content["config"]).pp,
        "model_fields": _tuples(content["model_fields"]),
      }
    )
  except ImportError as error:
    raise UserError(
      f"{path.parent} is in a bucket, for which packages are missing ({error}): "
      'pip install "vit_jax[gcs]".'
    ) from error
  except (OSError, TypeError, KeyError, json.JSONDecodeError) as error:
    raise UserError(f"{path} cannot be read ({error}); use another workdir.") from error


def existing_run(workdir: str | os.PathLike) -> RunInfo:
  """As `read_run`, of a directory that must hold a run."""
  info = read_run(workdir)
  if info is None:
    raise UserError(f"{workdir} is not the workdir of a training run: it has no {CONFIG}.")
  return info


def earlier_run(workdir: epath.Path) -> RunInfo | None:
  """The run that is to be continued, if there is one with a checkpoint."""
  earlier = read_run(workdir)
  return earlier if earlier and _has_checkpoints(workdir) else None


def refuse_another_run(
  workdir: epath.Path, earlier: RunInfo, plan: plan_lib.Plan, class_names: tuple[str, ...]
) -> None:
  """Raises UserError unless a plan continues the run that was started in a work directory."""
  differing = continuation.differences(earlier.config, plan, recorded=bool(earlier.data))
  if earlier.class_names != class_names:
    differing.append("the class names of the data set")
  if differing:
    raise UserError(
      f"{workdir} holds a run of another config: {', '.join(differing)}; "
      f"use another workdir, or delete this one."
    )


def load_run(
  workdir: str | os.PathLike, which: str = "best"
) -> tuple[nn.Module, dict[str, Any], RunInfo]:
  """Loads a trained model from a work directory; changes nothing in it.

  Args:
    workdir: as given to training.
    which: "best" (by the validation split, or the last if there was none), or "last".

  Returns:
    The model, its variables on the default device, and what is known about the run.

  Raises:
    UserError: if there is no run, or no usable checkpoint.
  """
  info = existing_run(workdir)
  model, plan = info.create_model(), info.plan
  directory = epath.Path(workdir) / CHECKPOINTS
  if not directory.is_dir():
    raise UserError(f"{workdir} has no checkpoint yet; train until the first one is saved.")
  with checkpointing.Checkpointer(
    directory, metric=plan.keep_best_metric, write=False
  ) as checkpointer:
    step = checkpointer.best_step if which == "best" else checkpointer.last_step
    if step is None:
      raise UserError(f"{workdir} has no usable checkpoint; train until one is saved.")
    state = checkpointer.restore(step, state_target(model, plan, None))
    metrics = checkpointer.metrics(step) or None
  return model, state.result, dataclasses.replace(info, step=step, metrics=metrics)


def _has_checkpoints(workdir: epath.Path) -> bool:
  """Whether there is any, usable or not."""
  checkpoints = workdir / CHECKPOINTS
  return checkpoints.is_dir() and any(p.name.isdigit() for p in checkpoints.iterdir())


def _fields_of(name: str, model: nn.Module) -> dict[str, Any]:
  """The model's fields that differ from what the registry gives, as plain types."""
  return registry.fields_of(model, registry.create_model(name))


def _tuples(section: dict[str, Any]) -> dict[str, Any]:
  return {k: tuple(v) if isinstance(v, list) else v for k, v in section.items()}
