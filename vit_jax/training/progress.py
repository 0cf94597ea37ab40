# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What one sees of a run: a progress line, `metrics.jsonl`, TensorBoard events, `curves.png`."""

from __future__ import annotations

import collections
import contextlib
import logging
import os
import statistics
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import jax
import rich.console
import rich.progress
from etils import epath

from vit_jax.training.events import Events
from vit_jax.training.records import Records, read_metrics

if TYPE_CHECKING:
  from vit_jax.training.plan import Plan

log = logging.getLogger(__name__)

CURVES = "curves.png"
# Results may arrive several at once; over less training than this a rate says nothing.
RATE_SECONDS = 0.5


class Progress:
  """Reports metrics without waiting for the device.

  Metrics that are due are kept as device arrays and written once they have arrived, usually a few
  steps later. Each line of `metrics.jsonl` is `{"step": ..., "train/loss": ...}` or
  `{"step": ..., "val/accuracy": ...}`, with the evaluator's own scores; a continued run appends
  where its checkpoint stands.

  A rate is that of the last steps that took `RATE_SECONDS` or more, of training alone. The time
  left (ETA) adds to the steps the evaluations and saves, at as many seconds a step as until now.
  """

  def __init__(
    self,
    workdir: str | os.PathLike,
    *,
    total_steps: int,
    batch: int,
    every: int,
    start_step: int = 0,
    timer: Mapping[str, float] | None = None,
    started: float | None = None,
    console: rich.console.Console | None = None,
  ):
    """Opens the run's records.

    Args:
      workdir: where `metrics.jsonl` and `tensorboard/` are.
      total_steps: of the whole run.
      batch: examples in one step.
      every: steps between two reports.
      start_step: updates made before; what the records hold beyond it is dropped.
      timer: what `timer` was when the checkpoint of `start_step` was made.
      started: `time.monotonic()` when this process began; default: now.
      console: default: standard error.
    """
    self._workdir = epath.Path(workdir)
    self._total_steps, self._batch, self._every = total_steps, batch, every
    self._timer = {"seconds": 0.0, "train_seconds": 0.0, "train_steps": 0, **(timer or {})}
    self._opened = time.monotonic() if started is None else started
    self._clock: float | None = None  # Since when steps are timed; None while they are not.
    self._timed_step = start_step
    self._measured, self._rate = self._timed, 0.0  # When the rate, in steps a second, was taken.
    self._updates, self._pauses = 0, _Pauses()  # In this process.
    self._due: collections.deque = collections.deque()
    self._losses: collections.deque[float] = collections.deque(maxlen=20)
    self._last: Any = None
    self._writes = jax.process_index() == 0
    if not self._writes:
      return
    self._open(start_step)
    self._console = console or rich.console.Console(stderr=True)
    self._bar = rich.progress.Progress(
      rich.progress.BarColumn(bar_width=20),
      rich.progress.TextColumn("{task.description}", markup=False),
      console=self._console,
      disable=not self._console.is_terminal,
      refresh_per_second=4,
    )
    self._task = self._bar.add_task("compiling", total=total_steps, completed=start_step)

  def __enter__(self) -> Progress:
    if self._writes:
      self._bar.start()
    return self

  def __exit__(self, *exc: object) -> None:
    if self._writes:
      self._bar.stop()
      self._close()

  def _open(self, step: int) -> None:
    """Goes on with the records after `step`."""
    self._records = Records(self._workdir, step)
    folder = self._workdir / "tensorboard"
    try:
      self._events = Events(folder, step + 1)
    except OSError as error:  # A run does without; a full disk is told at the next checkpoint.
      log.warning("%s cannot be written (%s)", folder, error.strerror or error)
      self._events = None

  def _close(self) -> None:
    self._records.close()
    if self._events:
      self._events.close()

  @property
  def timer(self) -> dict[str, float]:
    """Seconds in total, and seconds and number of the timed steps, across all continuations."""
    return {**self._timer, "seconds": self._timer["seconds"] + time.monotonic() - self._opened}

  @property
  def images_per_second(self) -> float | None:
    """Training throughput without compilation, evaluation and the wait for saving.

    None where no step was timed: the first one of a process compiles.
    """
    steps, seconds = self._timer["train_steps"], self._timer["train_seconds"]
    return steps * self._batch / seconds if steps and seconds else None

  def update(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
    """Notes that `step` was dispatched; reports earlier steps that have arrived."""
    self._last = (step, metrics)
    self._updates += 1
    if self._clock is None:
      jax.block_until_ready(metrics)  # Compilation is over: the only wait, and once.
      self._start_clock()
    if step % self._every == 0:
      self._due.append((step, metrics))
    while self._due and self._due[0][1]["loss"].is_ready():
      self._report(*self._due.popleft())

  def flush(self) -> None:
    """Waits for the last step and reports all that is due."""
    if self._last is not None:
      jax.block_until_ready(self._last[1])
      self._measure(self._last[0])
    while self._due:
      self._report(*self._due.popleft())

  @contextlib.contextmanager
  def paused(self) -> Iterator[None]:
    """Flushes, and stops the clock meanwhile."""
    self.flush()
    began = time.monotonic()
    if self._clock is not None and self._last is not None:
      self._timer["train_seconds"] += began - self._clock
      self._timer["train_steps"] += self._last[0] - self._timed_step
    yield
    self._start_clock()
    self._pauses.add(self._updates, self._clock - began)

  def rewind(self, step: int) -> None:
    """Drops the records beyond `step`, from which the run goes on."""
    self._due.clear()
    self._last = None
    self._timed_step = step
    self._start_clock()
    self._measured = self._timed
    if self._writes:
      self._close()
      self._open(step)

  def evaluated(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
    """Records an evaluation."""
    if not self._writes:
      return
    self._write(step, {f"{split}/{k}": v for k, v in metrics.items() if k != "examples"})
    told = "  ".join(f"{k} {v:.4f}" for k, v in metrics.items() if k != "examples")
    self.say(f"step {step}  {split}: {told}  ({metrics['examples']} examples)")

  def timed(self, step: int, seconds: Mapping[str, float]) -> None:
    """Records where the time of an interval went, for TensorBoard alone; see `goodput`."""
    if self._writes and self._events:
      self._events.write(step, seconds)

  def say(self, line: str) -> None:
    """Prints a line above the bar, in the first process."""
    if self._writes:
      self._console.print(line, markup=False, highlight=False, soft_wrap=True)

  def _start_clock(self) -> None:
    self._clock = time.monotonic()
    if self._last is not None:
      self._timed_step = self._last[0]

  @property
  def _timed(self) -> tuple[int, float]:
    """Steps that were timed before the clock was started last, and their seconds."""
    return self._timer["train_steps"], self._timer["train_seconds"]

  def _measure(self, step: int) -> None:
    """Takes the rate up to `step`, which has arrived, since it was taken last; without pauses."""
    steps, seconds = self._timed
    now = (steps + step - self._timed_step, seconds + time.monotonic() - self._clock)
    steps, seconds = (a - b for a, b in zip(now, self._measured, strict=True))
    if steps > 0 and seconds > (RATE_SECONDS if self._rate else 0.0):
      self._rate, self._measured = steps / seconds, now

  def _report(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
    values = {k: v.item() for k, v in jax.device_get(dict(metrics)).items()}
    finite = values.pop("finite")
    if not self._writes:
      return
    self._measure(step)
    rate = self._rate
    if finite:
      self._note_spike(step, values["loss"])
    self._write(
      step,
      {f"train/{k}": v for k, v in values.items()}
      | ({"train/images_per_second": rate * self._batch} if rate else {}),
    )
    line = f"step {step}/{self._total_steps}  loss {values['loss']:.4f}"
    if rate:
      left = (self._total_steps - step) * (1 / rate + self._pauses.per_step)
      line += f"  {rate * self._batch:,.0f} img/s  ETA {_clock_time(left)}"
    if self._bar.disable:
      self.say(line)
    else:
      self._bar.update(self._task, completed=step, description=line)

  def _note_spike(self, step: int, loss: float) -> None:
    """Says that a loss stands out of the 20 that were reported before."""
    if len(self._losses) == self._losses.maxlen:
      usual = statistics.median(self._losses)
      spread = statistics.median(abs(x - usual) for x in self._losses)
      if loss - usual > max(10 * spread, 0.5 * abs(usual)):
        self.say(f"step {step}: loss {loss:.4f} stands out; the 20 before had {usual:.4f}")
    self._losses.append(loss)

  def _write(self, step: int, values: Mapping[str, float]) -> None:
    if self._events:
      self._events.write(step, values)
    self._records.write({"step": step, **values})


class _Pauses:
  """How long evaluating and saving take for each step of training.

  The first pause, in which the evaluation is compiled, counts until there is a second.
  """

  def __init__(self):
    self._count, self._seconds = 0, 0.0
    self._first = self._last = 0  # Steps before the first second that counts, and at the last.

  def add(self, steps: int, seconds: float) -> None:
    """Adds a pause after so many steps."""
    if self._count == 1:
      self._seconds, self._first = 0.0, self._last
    self._count += 1
    self._seconds += seconds
    self._last = steps

  @property
  def per_step(self) -> float:
    """Seconds; 0 before the first pause."""
    return self._seconds / max(1, self._last - self._first)


def plot_curves(
  workdir: str | os.PathLike, metric: str = "accuracy", plan: Plan | None = None
) -> epath.Path:
  """Draws the loss and the `metric` of validation from `metrics.jsonl` into `curves.png`.

  Args:
    workdir: the run's.
    metric: the evaluator's main score.
    plan: the run's; by it the legend says what makes the training curves another measure than those
      of validation.
  """
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  records = read_metrics(workdir)

  def series(*tags: str) -> tuple[list[int], list[float]]:
    points = [(r["step"], r[tag]) for r in records for tag in tags if r.get(tag) is not None]
    return [p[0] for p in points], [p[1] for p in points]

  figure = Figure(figsize=(9, 3.6), layout="constrained")
  FigureCanvasAgg(figure)
  loss, score = figure.subplots(1, 2)
  train_loss, train_score = _train_labels(plan)
  loss.plot(*series("train/loss"), linewidth=0.8, label=train_loss)
  loss.plot(*series("val/loss"), marker=".", label="val")
  loss.set(xlabel="step", ylabel="loss (nats)")
  loss.set_ylim(bottom=0)
  score.plot(*series("train/accuracy"), linewidth=0.8, label=train_score)
  # What recall@1 was called when the first part of this run was trained.
  score.plot(*series(*dict.fromkeys((f"val/{metric}", "val/accuracy"))), marker=".", label="val")
  score.set(xlabel="step", ylabel={"accuracy": "top-1 accuracy"}.get(metric, metric))
  for axes in (loss, score):
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
  path = epath.Path(workdir) / CURVES
  with path.open("wb") as file:
    figure.savefig(file, format="png", dpi=120)
  return path


def _train_labels(plan: Plan | None) -> tuple[str, str]:
  """What the legend calls the loss and the accuracy in training."""
  if plan is None:
    found = [], []
  elif plan.text:  # Validation compares an image with all texts, or with the classes.
    found = ["the texts of the batch"], ["the texts of the batch"]
  else:
    mixed = [name for name in ("mixup", "cutmix") if getattr(plan, name)]
    smoothed = ["smoothed labels"] if plan.label_smoothing else []
    found = [*smoothed, *mixed, *(["distillation"] if plan.distill else [])], mixed
  # Two in a line, lest the legend hide the curve.
  lines = [[", ".join(told[k : k + 2]) for k in range(0, len(told), 2)] for told in found]
  return tuple("train (one batch)" + "\nwith " * bool(own) + ",\n".join(own) for own in lines)


def _clock_time(seconds: float) -> str:
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
