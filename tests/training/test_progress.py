# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
import contextlib
import io
import json

import jax.numpy as jnp
import rich.console

from vit_jax.training import progress, records


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
