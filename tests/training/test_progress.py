# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
import contextlib
import dataclasses
import io
import json
import re

import jax.numpy as jnp
import pytest
import rich.console
import tiny_run
from matplotlib.figure import Figure

from vit_jax.training import plan as plan_lib
from vit_jax.training import progress, records
from vit_jax.training.loop import train_and_evaluate


def _metrics(loss):
  return {
    "loss": jnp.float32(loss),
    "accuracy": jnp.float32(0.5),
    "grad_norm": jnp.float32(1.0),
    "learning_rate": jnp.float32(0.1),
    "finite": jnp.isfinite(loss),
  }


def _progress(workdir, start_step=0, terminal=False, **options):
  console = rich.console.Console(file=io.StringIO(), force_terminal=terminal, width=200)
  options = dict(total_steps=10, batch=4, every=2, start_step=start_step) | options
  return progress.Progress(workdir, console=console, **options), console


def _train(p, steps):
  for step in steps:
    p.update(step, _metrics(1 / step))


def test_plain_lines_where_there_is_no_terminal(tmp_path):
  p, console = _progress(tmp_path)
  with p:
    _train(p, range(1, 7))
    p.flush()
    p.evaluated(6, "val", {"accuracy": 0.75, "top5": 1.0, "loss": 0.5, "examples": 8})
  lines = console.file.getvalue().splitlines()
  assert [line.split("  ")[0] for line in lines] == [
    "step 2/10",
    "step 4/10",
    "step 6/10",
    "step 6",
  ]
  assert "loss 0.5000" in lines[0] and "img/s  ETA " in lines[2]
  assert lines[3] == "step 6  val: accuracy 0.7500  top5 1.0000  loss 0.5000  (8 examples)"


def test_one_live_line_on_a_terminal(tmp_path):
  p, console = _progress(tmp_path, terminal=True)
  with p:
    _train(p, range(1, 7))
    p.flush()
  text = console.file.getvalue()
  assert "step 6/10  loss 0.1667" in text and text.count("\n") <= 2


def test_a_continued_run_repeats_no_step(tmp_path):
  p, _ = _progress(tmp_path)
  with p:
    _train(p, range(1, 9))
    p.flush()
    p.evaluated(4, "test", {"accuracy": 0.5, "top5": 1.0, "loss": 1.0, "examples": 2})  # The best.
  with (tmp_path / "metrics.jsonl").open("a") as file:
    file.write('{"step": 10, "train/lo')  # A crash in mid-line.
  p, _ = _progress(tmp_path, start_step=5, timer={"seconds": 100.0})
  with p:
    _train(p, range(6, 11))
    p.flush()
    assert 100.0 < p.timer["seconds"] < 160.0
  lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
  assert [json.loads(line)["step"] for line in lines] == [2, 4, 6, 8, 10]


def test_infinite_values_stay_json(tmp_path):
  p, _ = _progress(tmp_path)
  with p:
    p.update(1, _metrics(1.0))
    p.update(2, _metrics(float("nan")))
    p.flush()
  assert json.loads((tmp_path / "metrics.jsonl").read_text())["train/loss"] is None


def test_a_line_of_before_with_nan_becomes_json(tmp_path):
  (tmp_path / "metrics.jsonl").write_text('{"step": 2, "train/loss": NaN, "train/x": -Infinity}\n')
  p, _ = _progress(tmp_path, start_step=4)
  with p:
    pass
  line = '{"step": 2, "train/loss": null, "train/x": null}\n'
  assert (tmp_path / "metrics.jsonl").read_text() == line


def test_a_run_that_goes_back_repeats_no_step(tmp_path):
  p, _ = _progress(tmp_path)
  with p:
    _train(p, range(1, 8))
    p.flush()
    p.rewind(4)
    _train(p, range(5, 11))
    p.flush()
  lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
  assert [json.loads(line)["step"] for line in lines] == [2, 4, 6, 8, 10]


def test_a_loss_that_stands_out_is_told(tmp_path):
  p, console = _progress(tmp_path, every=1, total_steps=100)
  with p:
    for step in range(1, 60):
      p.update(step, _metrics(9.0 if step in (3, 40) else 1 + 0.1 * (step % 3)))
      p.flush()
  told = [line for line in console.file.getvalue().splitlines() if "stands out" in line]
  assert told == ["step 40: loss 9.0000 stands out; the 20 before had 1.1000"]


def test_the_clock_leaves_out_compilation_and_pauses(tmp_path, monkeypatch):
  now = [0.0]
  monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
  p, _ = _progress(tmp_path)
  with p:
    for step in range(1, 6):
      now[0] += 60.0 if step == 1 else 0.5
      p.update(step, _metrics(1.0))
    with p.paused():
      now[0] += 30.0
    now[0] += 0.5
    p.update(6, _metrics(1.0))
    with p.paused():
      pass
    assert p.timer == {"seconds": 92.5, "train_seconds": 2.5, "train_steps": 5}
    assert p.images_per_second == 8.0


def test_curves_of_a_run_without_validation(tmp_path):
  p, _ = _progress(tmp_path)
  with p:
    _train(p, range(1, 11))
    p.flush()
  assert progress.plot_curves(tmp_path).read_bytes().startswith(b"\x89PNG")


def test_the_rate_of_results_that_arrive_together_is_that_of_the_steps(tmp_path, monkeypatch):
  now = [0.0]
  monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
  p, _ = _progress(tmp_path, total_steps=100)
  with p:
    _train(p, [1])
    for first in range(2, 42, 10):  # Ten steps of 0.1 s, of which one hears at once.
      now[0] += 1.0
      _train(p, range(first, first + 10))
  rates = [r.get("train/images_per_second") for r in progress.read_metrics(tmp_path)]
  assert rates[0] < 40 and rates[5:] == [40.0] * 15  # Batches of 4.


def test_records_in_a_bucket_are_written_anew(monkeypatch):
  """Against an object store in memory, whose files are there once they are closed."""
  import fsspec
  from fsspec.implementations.memory import MemoryFileSystem

  fsspec.register_implementation("gcs", MemoryFileSystem, clobber=True)
  monkeypatch.setattr(records, "REWRITE_SECONDS", 0.0)
  with contextlib.closing(records.Records("gs://bucket/run", 0)) as file:
    for step in (2, 4, 6):
      file.write({"step": step})
    assert [r["step"] for r in records.read_metrics("gs://bucket/run")] == [2, 4, 6]
  with contextlib.closing(records.Records("gs://bucket/run", 4)) as file:
    file.write({"step": 5})
  assert [r["step"] for r in records.read_metrics("gs://bucket/run")] == [2, 4, 5]


@pytest.mark.parametrize("every", [1, 5, 20])
@pytest.mark.parametrize("pauses", [1, 2, 3, 7, 20, 1000])
def test_the_rate_is_that_of_the_last_steps_whatever_the_pauses(
  tmp_path, monkeypatch, every, pauses
):
  now = [0.0]
  monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
  p, console = _progress(tmp_path, total_steps=200, every=every)
  with p:
    for step in range(1, 101):
      now[0] += 60.0 if step == 1 else 0.1 if step <= 50 else 0.2  # The first compiles.
      p.update(step, _metrics(1.0))
      if step % pauses == 0:
        with p.paused():
          now[0] += 3.0
    with p.paused():
      pass
    assert p.images_per_second == pytest.approx(4 * 99 / (49 * 0.1 + 50 * 0.2))
  rates = {r["step"]: r.get("train/images_per_second") for r in progress.read_metrics(tmp_path)}
  assert rates[40] == pytest.approx(40.0)  # Batches of 4.
  assert [rates[80], rates[100]] == pytest.approx([20.0, 20.0])
  assert "step 100/200  loss 1.0000  20 img/s  ETA " in console.file.getvalue()


def test_the_time_left_is_that_of_steps_and_of_pauses(tmp_path, monkeypatch):
  now = [0.0]
  monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
  p, console = _progress(tmp_path, total_steps=1000, every=5)
  with p:
    for step in range(1, 61):
      now[0] += 60.0 if step == 1 else 0.1
      p.update(step, _metrics(1.0))
      if step % 10 == 0:
        with p.paused():
          now[0] += 40.0 if step == 10 else 3.0  # The first compiles.
    p.rewind(50)
    for step in range(51, 61):
      now[0] += 0.1
      p.update(step, _metrics(1.0))
  left = dict(re.findall(r"step (\d+)/.*ETA ([\d:]+)", console.file.getvalue()))
  in_seconds = lambda steps, each: progress._clock_time(steps * each)
  assert left["10"] == in_seconds(990, 0.1)
  assert left["20"] == in_seconds(980, 0.1 + 40.0 / 10)
  assert left["30"] == in_seconds(970, 0.1 + 3.0 / 10)
  assert left["60"] == in_seconds(940, 0.1 + 3.0 / 10)


def test_what_the_device_still_computes_at_a_pause_is_training(tmp_path, monkeypatch):
  now = [0.0]
  monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])

  class Late:
    """A result that takes half a second once one waits for it."""

    def is_ready(self):
      return False

    def block_until_ready(self):
      now[0] += 0.5
      return self

  p, _ = _progress(tmp_path, every=100)
  with p:
    p.update(1, _metrics(1.0))
    p.update(2, {"loss": Late()})
    with p.paused():
      now[0] += 30.0
    assert p.timer["train_seconds"] == 0.5 and p.images_per_second == 8.0


@pytest.mark.parametrize("every", [1, 10])
def test_a_single_step_has_no_rate(tmp_path, every):
  p, console = _progress(tmp_path, total_steps=1, every=every)
  with p:
    p.update(1, _metrics(1.0))
    with p.paused():
      p.evaluated(1, "val", {"accuracy": 0.5, "loss": 0.5, "examples": 2})
    assert p.images_per_second is None
  lines = console.file.getvalue().splitlines()
  assert lines[: 1 // every] == ["step 1/1  loss 1.0000"][: 1 // every]
  assert not any("images_per_second" in key for r in progress.read_metrics(tmp_path) for key in r)


def _legends(monkeypatch):
  """What the legends of every figure that is saved from now on say."""
  found, save = [], Figure.savefig

  def noted(figure, *arguments, **options):
    found.append([[t.get_text() for t in axes.get_legend().get_texts()] for axes in figure.axes])
    return save(figure, *arguments, **options)

  monkeypatch.setattr(Figure, "savefig", noted)
  return found


def test_a_run_of_one_step(tmp_path, monkeypatch):
  legends = _legends(monkeypatch)
  config = tiny_run.config(total_steps=1, warmup_steps=0, progress_every=1, label_smoothing=0.1)
  results = train_and_evaluate(config, tmp_path / "run")
  assert results["images_per_second"] is None

  def refuse(constant):
    raise ValueError(constant)

  path = tmp_path / "run" / "results.json"
  assert json.loads(path.read_text(), parse_constant=refuse) == results
  assert legends == [
    [["train (one batch)\nwith smoothed labels", "val"], ["train (one batch)", "val"]]
  ]
  # A score that was not finite is null there, and the run as complete as any.
  path.write_text(json.dumps({**results, "test": {**results["test"], "loss": None}}))
  assert train_and_evaluate(config, tmp_path / "run")["test"]["loss"] is None


DISTILL = plan_lib.DistillPlan(teacher="runs/teacher")
TEXT = plan_lib.TextPlan("bytes", 24)


@pytest.mark.parametrize(
  "changes, loss, accuracy",
  [
    ({}, "", ""),
    ({"ema_decay": 0.9}, "", ""),
    ({"label_smoothing": 0.1}, "smoothed labels", ""),
    ({"mixup": 0.2}, "mixup", "mixup"),
    ({"cutmix": 1.0}, "cutmix", "cutmix"),
    ({"distill": DISTILL}, "distillation", ""),
    (
      {"label_smoothing": 0.1, "mixup": 0.2, "cutmix": 1.0, "distill": DISTILL},
      "smoothed labels, mixup,\ncutmix, distillation",
      "mixup, cutmix",
    ),
    ({"text": TEXT}, "the texts of the batch", "the texts of the batch"),
  ],
)
def test_curves_say_what_training_measures_otherwise(
  tmp_path, monkeypatch, changes, loss, accuracy
):
  p, _ = _progress(tmp_path)
  with p:
    _train(p, range(1, 11))
    p.flush()
  legends = _legends(monkeypatch)
  plan = dataclasses.replace(plan_lib.make_plan(tiny_run.config()), **changes)
  progress.plot_curves(tmp_path, plan=plan)
  [[(of_loss, _), (of_accuracy, _)]] = legends
  assert of_loss == "train (one batch)" + (f"\nwith {loss}" if loss else "")
  assert of_accuracy == "train (one batch)" + (f"\nwith {accuracy}" if accuracy else "")
