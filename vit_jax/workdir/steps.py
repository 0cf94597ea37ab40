# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: state, data position, config and metrics of a step, proven whole before use.

Orbax writes a step atomically, but restores a flipped bit without a word. So each step directory
also holds the SHA-256 of every file, written once Orbax has finished (see `integrity`). A step
without it was interrupted; a step that contradicts it is damaged; neither is ever used.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import grain
import jax
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers

from vit_jax.errors import UserError
from vit_jax.parallel import coordination, processes
from vit_jax.training.state import TrainState
from vit_jax.workdir import integrity, parts

READS = 20  # Attempts to read the steps of a run that deletes them meanwhile.
SETTLE_SECONDS = 0.3  # Deleting or completing a step takes no break of this length.

T = TypeVar("T")


class _Manager(ocp.CheckpointManager):
  """Orbax's, which would ask for a preemption by step, while `preemption.StopSignal` counts."""

  def reached_preemption(self, step: int) -> bool:
    return False


class Checkpointer:
  """Saves and restores the steps of one run; keeps the best, the last two, and more if asked to.

  The last but one stands in if the last is damaged. Saving goes on in the background.
  """

  def __init__(
    self,
    directory: str | os.PathLike,
    *,
    metric: str = "accuracy",
    keep_last: int = 2,
    keep_every: int = 0,
    write: bool = True,
  ):
    """Opens `directory`; with `write`, creates it and clears away steps that cannot be used.

    Of a run's earlier steps those that were not completed are cleared away, and the last one if it
    is damaged. The others are looked at when they are to be used.

    Args:
      directory: holds one directory per step.
      metric: the score that makes a step the best, as "accuracy" or "recall@1" (the higher the
        better, ties go to the lower loss), or "loss". Steps without this score are ranked by their
        "accuracy": that is what recall@1 was called.
      keep_last: how many of the last steps to keep.
      keep_every: steps that are multiples of this are kept for good; 0: none.
      write: False only reads, also while another process writes. See `read_steps`. Those who
        write are all processes of the run, which ask for steps together.

    Raises:
      UserError: if it cannot be written, or another process is writing it.
    """
    # Orbax insists on absolute paths.
    directory = os.fspath(directory)
    self._directory = epath.Path(directory if "://" in directory else os.path.abspath(directory))
    self._metric = metric
    self._pending: int | None = None  # The step that Orbax is writing,
    self._sealing: int | None = None  # and the one whose files are being hashed.
    self._hashing: concurrent.futures.Future | None = None
    self._scores: dict[int, dict[str, float]] = {}  # Of the steps that this process saved.
    self._writes = write
    self._defects: dict[int, str | None] = {}  # Of the steps that were looked at, or saved here.
    with contextlib.ExitStack() as opened:  # Given back if what comes after it fails.
      if write and (lock := integrity.lock(self._directory)) is not None:
        opened.callback(os.close, lock)
      self._threads = concurrent.futures.ThreadPoolExecutor(1)
      opened.callback(self._threads.shutdown)
      if write:
        self._clear_away_unusable()
      self._manager = self._open_manager(keep_last, keep_every, write)
      opened.callback(self._manager.close)
      self._opened = opened.pop_all()

  def _clear_away_unusable(self) -> None:
    """The first process clears away; all of them look at the last step, each at a part of it."""
    is_first, directory = jax.process_index() == 0, self._directory
    while True:
      steps = sorted(step_numbers(directory)) if is_first else []
      for step in [*steps]:
        if (reason := integrity.defect(directory / str(step), integrity.NONE)) is not None:
          integrity.clear_away(directory / str(step), reason)
          steps.remove(step)
      [last, *_] = coordination.gather(steps[-1] if steps else None)
      if last is None:
        return
      self._defects[last] = reason = self._defect(last)
      if reason is None:
        return
      if is_first:
        integrity.clear_away(directory / str(last), reason)

  def _defect(self, step: int) -> str | None:
    """As `integrity.defect`; of those who write each process hashes a part of the files."""
    directory = self._directory / str(step)
    if not self._writes:
      return integrity.defect(directory)
    part = slice(jax.process_index(), None, jax.process_count())
    found = coordination.gather(integrity.defect(directory, part))
    return next((reason for reason in found if reason is not None), None)

  def _open_manager(self, keep_last: int, keep_every: int, write: bool) -> _Manager:
    kept = [
      checkpoint_managers.LatestN(keep_last),
      checkpoint_managers.BestN(get_metric_fn=self._rank, n=1),
    ]
    if keep_every:
      kept.append(checkpoint_managers.EveryNSteps(keep_every))
    return _Manager(
      self._directory,
      options=ocp.CheckpointManagerOptions(
        create=write,
        cleanup_tmp_directories=write,
        lightweight_initialize=not write,  # Or one step with damaged metrics ends all reading.
        # Without best_fn Orbax does not write metrics, and the next process deletes the best.
        best_fn=self._rank,
        preservation_policy=checkpoint_managers.AnyPreservationPolicy(kept),
      ),
    )

  def __enter__(self) -> Checkpointer:
    return self

  def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
    # What went wrong first is what matters.
    with contextlib.suppress(*([ValueError, RuntimeError, OSError] if kind else [])):
      self.close()

  def _rank(self, metrics: Mapping[str, float]) -> tuple[float, float]:
    """Sort key of a step by its metrics; steps without any come first."""
    loss = metrics.get("loss", math.inf)
    loss = loss if math.isfinite(loss) else math.inf
    accuracy = metrics.get("accuracy", -math.inf)
    if self._metric == "loss":
      return (-loss, accuracy)
    return (metrics.get(self._metric, accuracy), -loss)

  @property
  def steps(self) -> list[int]:
    """The usable steps, ascending."""
    return [step for step in sorted(self._manager.all_steps()) if self._is_usable(step)]

  @property
  def last_step(self) -> int | None:
    return self._first_usable(lambda step: step)

  @property
  def best_step(self) -> int | None:
    """The step with the best validation metric, or the last if none was evaluated."""
    return self._first_usable(lambda step: (self._rank(self.metrics(step)), step))

  def _first_usable(self, key: Callable[[int], Any]) -> int | None:
    steps = sorted(self._manager.all_steps(), key=key, reverse=True)
    if not self._writes and (gone := {*steps} - step_numbers(self._directory)):
      raise FileNotFoundError(f"{self._directory}: steps {sorted(gone)} were deleted meanwhile")
    return next((step for step in steps if self._is_usable(step)), None)

  def _is_usable(self, step: int) -> bool:
    """Whether a step is whole.

    Raises:
      FileNotFoundError: the step was deleted meanwhile.
    """
    if step not in self._defects:
      directory = self._directory / str(step)
      # The run may be deleting it, or completing it, as long as there are fewer or more files.
      read = lambda: None if self._writes else {*integrity.files(directory)}
      files, before, reason = read(), None, self._defect(step)
      while reason is not None and files != before:
        time.sleep(SETTLE_SECONDS)
        files, before, reason = read(), files, self._defect(step)
      self._defects[step] = reason
      if reason is not None and (not self._writes or jax.process_index() == 0):
        integrity.report(directory, reason)
    return self._defects[step] is None

  def metrics(self, step: int) -> dict[str, float]:
    """Validation metrics of a step, as given to `save`; empty if it was not evaluated."""
    # The files of a step that is still being written do not tell.
    try:
      scores = self._scores[step] if step in self._scores else self._manager.metrics(step)
    except (OSError, ValueError):  # Damaged, which is told if the step is to be used.
      scores = None
    return dict(scores) if isinstance(scores, Mapping) else {}

  def is_better(self, metrics: Mapping[str, float]) -> bool:
    """Whether `metrics` beat those of every saved step, whole or not; looks at no files."""
    steps = self._manager.all_steps()
    return all(self._rank(metrics) > self._rank(self.metrics(step)) for step in steps)

  def save(
    self,
    step: int,
    state: TrainState,
    iterator: Any,
    config: Mapping[str, Any],
    metrics: Mapping[str, float] | None = None,
  ) -> None:
    """Saves a step in the background.

    Args:
      step: the updates made.
      state: the state after them.
      iterator: the training data's Grain iterator; its position is saved.
      config: any JSON, restored as it is.
      metrics: of the validation split, if evaluated at this step.

    Raises:
      UserError: if the directory cannot be written.
    """
    self.wait()
    self._scores[step] = dict(metrics or {})
    with self._explaining_failure(step):
      self._manager.save(
        step,
        args=ocp.args.Composite(
          state=ocp.args.StandardSave(parts.of(state)),
          data=grain.checkpoint.CheckpointSave(iterator),
          config=ocp.args.JsonSave(dict(config)),
        ),
        metrics=self._scores[step],
      )
    self._pending, self._defects[step] = step, None

  @contextlib.contextmanager
  def _explaining_failure(self, step: int | None) -> Iterator[None]:
    try:
      yield
    except (OSError, ValueError) as error:  # TensorStore reports a full disk as ValueError.
      self._pending = self._hashing = None
      if processes.is_loss(error):
        raise
      reason = (str(error).strip() or type(error).__name__).splitlines()[0]
      raise UserError(
        f"{self._directory}: step {step} cannot be saved ({reason}); make room or use another "
        f"workdir, and run the same command to continue from the step before."
      ) from error

  def poll(self) -> None:
    """Notes the hashes of a save that has finished meanwhile; does not wait for one."""
    if self._pending is not None and not self._manager.is_saving_in_progress():
      self._seal()

  def wait(self) -> None:
    """Waits until the last save is complete and sealed by its hashes.

    Raises:
      UserError: if it failed, because the disk is full for example.
    """
    self._seal()
    if self._hashing is not None:
      with self._explaining_failure(self._sealing):
        self._hashing.result()
      self._hashing = None

  def _seal(self) -> None:
    """Waits for Orbax, and starts hashing what it wrote."""
    if self._pending is None:
      return
    with self._explaining_failure(self._pending):
      self._manager.wait_until_finished()
    self._sealing, self._pending = self._pending, None
    directory = self._directory / str(self._sealing)
    self._hashing = self._threads.submit(integrity.write_manifest, directory)

  def restore(self, step: int, target: TrainState, iterator: Any = None) -> TrainState:
    """Restores a usable step.

    Args:
      step: one of `steps`.
      target: the state's structure, as `jax.ShapeDtypeStruct`s with the shardings to restore to.
        Without `opt_state` only the parts that it has are read.
      iterator: a Grain iterator, set to the saved position in place.

    Raises:
      UserError: if the step was made for another state (another version of the model).
    """
    items = {"state": ocp.args.StandardRestore(parts.of(target))}
    if iterator is not None:
      items["data"] = grain.checkpoint.CheckpointRestore(iterator)
    try:
      if target.opt_state is None:
        state = parts.read(self._directory / str(step) / "state", parts.of(target))
      else:
        state = self._manager.restore(step, args=ocp.args.Composite(**items)).state
    except ValueError as error:  # Its files are intact, so the structure must differ.
      if processes.is_loss(error):
        raise
      reason = str(error).strip().splitlines()[0]
      raise UserError(
        f"{self._directory / str(step)} does not fit this model and optimizer ({reason}); "
        f"use another workdir."
      ) from error
    return target.replace(**state)

  def saved(self, step: int) -> dict[str, Any]:
    """The config given to `save` for a usable step."""
    items = ocp.args.Composite(config=ocp.args.JsonRestore())
    return self._manager.restore(step, args=items).config

  def close(self) -> None:
    """Completes the last save."""
    with self._opened:
      self.wait()


def step_numbers(directory: epath.Path) -> set[int]:
  """The steps that a directory holds, usable or not."""
  if not directory.is_dir():
    return set()
  return {int(path.name) for path in directory.iterdir() if path.name.isdigit()}


def read_steps(
  directory: epath.Path, read: Callable[[Checkpointer], T], *, metric: str = "accuracy"
) -> T:
  """Returns what `read` makes of the steps in `directory`, which may be those of a running run.

  The run deletes old steps at any time. If reading fails and the steps are no longer the same, it
  is tried again with those that are there then.

  Args:
    directory: holds one directory per step.
    read: gets a `Checkpointer` that only reads.
    metric: see `Checkpointer`.

  Raises:
    UserError: they changed each time.
  """
  for _ in range(READS):
    found = step_numbers(directory)
    try:
      with Checkpointer(directory, metric=metric, write=False) as checkpointer:
        return read(checkpointer)
    except Exception as error:  # Orbax raises many types, Exception itself among them.
      time.sleep(SETTLE_SECONDS)  # A step that is being deleted still has its directory.
      if found == step_numbers(directory):
        raise
      reason = error
  raise UserError(
    f"{directory} changed each of the {READS} times that it was read, because a run is saving its "
    "steps there; try again, or wait until the run has ended."
  ) from reason
