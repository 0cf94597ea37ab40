# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A work directory as a model: what `evaluate`, `predict` and `from_pretrained` load from a run."""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import os
import typing
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
from etils import epath

from vit_jax import keys
from vit_jax.checkpoints import vocabulary
from vit_jax.data.transforms import Preprocessing
from vit_jax.errors import UserError
from vit_jax.models import registry
from vit_jax.training import continuation
from vit_jax.training import plan as plan_lib
from vit_jax.training.state import TrainState, state_target
from vit_jax.workdir import data_record, files, steps

log = logging.getLogger(__name__)

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
    metric: the score that `keep_best_metric="accuracy"` ranks checkpoints by.
    teacher: whom it learns from; None without one, and in a run from before this record.
    vocabulary: SHA-256 of its tokenizer's file; None likewise.
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
  metric: str = "accuracy"
  teacher: continuation.TeacherRecord | None = None
  vocabulary: str | None = None
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

  @property
  def best_by(self) -> str:
    """What makes a checkpoint the best: the name of a score, or "loss"."""
    chosen = self.plan.keep_best_metric
    return self.metric if chosen == "accuracy" else chosen

  def create_model(self) -> nn.Module:
    return registry.create_model(self.model_name, **self.model_fields)

  def to_dict(self) -> dict[str, Any]:
    """What `config.json` and each checkpoint hold."""
    content = dataclasses.asdict(self)
    del content["step"], content["metrics"]
    return content


def describe_run(
  plan: plan_lib.Plan,
  model: nn.Module,
  class_names: tuple[str, ...],
  parameters: int,
  record: data_record.Record,
  metric: str = "accuracy",
  teacher: continuation.TeacherRecord | None = None,
  vocabulary: str | None = None,
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
    metric=metric,
    teacher=teacher,
    vocabulary=vocabulary,
  )


def write_run(workdir: str | os.PathLike, info: RunInfo, record: data_record.Record) -> None:
  """Writes `config.json` and `data.npz`, from the first process only.

  Raises:
    UserError: if the directory cannot be made or written.
  """
  if jax.process_index():
    return
  workdir = epath.Path(workdir)
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    data_record.write(workdir, record)
    files.write_atomically(workdir / CONFIG, json.dumps(info.to_dict(), indent=2) + "\n")
    data_record.finish_writing(workdir)
  except OSError as error:
    raise UserError(
      f"workdir {workdir} cannot be written ({error.strerror or error}); choose another directory."
    ) from error


def read_run(workdir: str | os.PathLike) -> RunInfo | None:
  """Reads `config.json`, or what the last checkpoint holds of it where it is lost.

  Returns:
    None if the directory holds no run.

  Raises:
    UserError: if it is missing or damaged, and no checkpoint holds it.
  """
  path = epath.Path(workdir).expanduser() / CONFIG
  has_steps = has_checkpoints(path.parent)
  try:
    if path.exists():
      info = _from_dict(files.read_object(path))
      if info.data is None and (path.parent / data_record.FILE).exists():
        raise ValueError(f"it says nothing of the {data_record.FILE} beside it")
      return info
    if not has_steps:
      return None
    problem, complaint = "is missing", f"is missing beside {path.parent / CHECKPOINTS}"
  except (OSError, ValueError) as error:
    reason = getattr(error, "strerror", None) or error
    problem, complaint = f"is damaged ({reason})", f"cannot be read ({reason})"
  step, content = _saved_run(path.parent / CHECKPOINTS) if has_steps else (None, None)
  try:
    info = _from_dict(content)
  except ValueError as error:  # No checkpoint holds it, or only as another version writes it.
    raise UserError(f"{path} {complaint}; use another workdir.") from error
  _tell_restored(path, problem, step)
  return info


@functools.cache  # Once, although a command may read the file several times.
def _tell_restored(path: epath.Path, problem: str, step: int) -> None:
  log.warning("%s %s; its content was restored from checkpoint %d", path, problem, step)


def _from_dict(content: dict[str, Any] | None) -> RunInfo:
  """The opposite of `RunInfo.to_dict`. Raises ValueError if the content is another."""
  try:
    json.dumps(content, allow_nan=False)  # Raises ValueError for NaN and infinity.
    if (data := content.get("data")) is not None:
      data_record.check_described(data)
    config, teacher = content["config"], content.get("teacher")
    if teacher is not None:
      teacher = keys.read(continuation.TeacherRecord, teacher, "teacher.", saved=True)
    info = RunInfo(
      **{
        **content,
        "class_names": _tuples(content)["class_names"],
        "preprocessing": plan_lib.Plan.from_dict(config).pp,
        "model_fields": _tuples(content["model_fields"]),
        "teacher": teacher,
      }
    )
    # Said twice, so that a damaged one shows.
    saved, model = content["preprocessing"], config["model"]
    said = {"model_name": (info.model_name, model["name"]), "pp": (saved, config["pp"])}
    said["dataset"] = (info.dataset, config["dataset"])
    fields = registry.fields_of(info.create_model())
    said |= {
      key: (fields[key], value)
      for key, value in _tuples(model["overrides"]).items()
      if not (isinstance(value, Mapping) and isinstance(fields[key], Mapping))  # Part of a tower.
    }
    for name, (one, other) in said.items():
      if one != other:
        raise ValueError(f"it has both {one!r:.40} and {other!r:.40} as {name}")
    _check_types(info)
  except (TypeError, KeyError, AttributeError) as error:
    raise ValueError(f"it is not what a run writes: {error!r}") from error
  return info


def _check_types(info: RunInfo) -> None:
  """Raises ValueError unless all values are of their types, also those of the model's fields."""
  found = [info, info.create_model()]
  for owner in found:
    hints = typing.get_type_hints(type(owner))
    for name in (field.name for field in dataclasses.fields(owner) if field.init):
      if name in ("parent", "name"):  # Of every module.
        continue
      value = getattr(owner, name)
      if isinstance(value, nn.Module):
        found.append(value)
      elif not keys.fits(value, hints[name]):
        raise ValueError(f"it is not what a run writes: {name}={value!r:.40}")
  classes = getattr(found[1], "num_classes", None)
  if info.class_names and classes not in (None, len(info.class_names)):
    raise ValueError(f"it names {len(info.class_names)} classes of a model of {classes}")


def _saved_run(directory: epath.Path) -> tuple[int | None, dict[str, Any] | None]:
  """The last usable step and what it holds of `config.json`; None if it holds nothing of it."""

  def read(checkpointer: steps.Checkpointer) -> tuple[int | None, dict[str, Any] | None]:
    step = checkpointer.last_step
    return step, None if step is None else checkpointer.saved(step).get("run")

  return steps.read_steps(directory, read)


def existing_run(workdir: str | os.PathLike) -> RunInfo:
  """As `read_run`, of a directory that must hold a run."""
  info = read_run(workdir)
  if info is None:
    raise UserError(f"{workdir} is not the workdir of a training run: it has no {CONFIG}.")
  return info


def earlier_run(workdir: epath.Path) -> RunInfo | None:
  """The run that is to be continued, if there is one with a checkpoint."""
  return read_run(workdir) if has_checkpoints(workdir) else None


def refuse_another_run(
  workdir: epath.Path, earlier: RunInfo, plan: plan_lib.Plan, class_names: tuple[str, ...]
) -> None:
  """Raises UserError unless a plan continues the run that was started in a work directory."""
  has_files = bool(earlier.data and earlier.data["digest"])
  differing = continuation.differences(
    earlier.config, plan, recorded=has_files, knows_teacher=earlier.teacher is not None
  )
  if earlier.class_names != class_names:
    differing.append("the class names of the data set")
  if differing:
    raise UserError(
      f"{workdir} holds a run of another config: {', '.join(differing)}; "
      f"use another workdir, or delete this one."
    )


def refuse_another_vocabulary(earlier: RunInfo, text: plan_lib.TextPlan) -> None:
  """Raises UserError if the file of a tokenizer's vocabulary is another than the run's."""
  now = vocabulary.digest(text)
  if now and earlier.vocabulary is None:
    log.warning(
      "the run has no record of its vocabulary, since it was started by an older version; it goes "
      "on with what is at %s now",
      text.vocabulary,
    )
  elif now != earlier.vocabulary:
    raise UserError(
      f"config.text.vocabulary={text.vocabulary!r} is not the vocabulary that this run has learned "
      "with, for its content differs; set it to where that one is now, or use another workdir."
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
  model = info.create_model()
  target = _result_alone(state_target(model, info.plan, None))
  directory = epath.Path(workdir).expanduser() / CHECKPOINTS
  if not directory.is_dir():
    raise UserError(f"{workdir} has no checkpoint yet; train until the first one is saved.")

  def read(checkpointer: steps.Checkpointer) -> tuple[Any, int, dict[str, float] | None]:
    step = checkpointer.best_step if which == "best" else checkpointer.last_step
    if step is None:
      raise UserError(f"{workdir} has no usable checkpoint; train until one is saved.")
    metrics = checkpointer.metrics(step) or None
    return checkpointer.restore(step, target).result, step, metrics

  variables, step, metrics = steps.read_steps(directory, read, metric=info.best_by)
  return model, variables, dataclasses.replace(info, step=step, metrics=metrics)


def _result_alone(state: TrainState) -> TrainState:
  """A state that has `result` and nothing else, so that nothing else is read."""
  parts = ("params", "collections") if state.ema is None else ("ema",)
  nothing = dict.fromkeys(vars(state))
  return TrainState(**{**nothing, **{name: getattr(state, name) for name in parts}})


def has_checkpoints(workdir: str | os.PathLike) -> bool:
  """Whether there is any, usable or not. Raises UserError if that cannot be read."""
  try:
    return bool(steps.step_numbers(epath.Path(workdir).expanduser() / CHECKPOINTS))
  except ImportError as error:
    raise UserError(
      f"{workdir} is in a bucket, for which packages are missing ({error}): "
      'pip install "vit_jax[gcs]".'
    ) from error
  except OSError as error:
    raise UserError(f"{workdir} cannot be read ({error.strerror}); use another workdir.") from error


def _fields_of(name: str, model: nn.Module) -> dict[str, Any]:
  """The model's fields that differ from what the registry gives, as plain types."""
  return registry.fields_of(model, registry.create_model(name))


def _tuples(section: dict[str, Any]) -> dict[str, Any]:
  return {k: tuple(v) if isinstance(v, list) else v for k, v in section.items()}
