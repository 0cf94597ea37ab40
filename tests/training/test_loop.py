# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Runs from outside: what they leave behind, and that interruptions change nothing of it."""

import hashlib
import json
import logging
import os
import re
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_lit
import tiny_run as tiny
from PIL import Image

from vit_jax.checkpoints.saving import save_checkpoint
from vit_jax.data import datasets
from vit_jax.errors import Diverged, Stopped, UserError
from vit_jax.evaluation.classification import Evaluator
from vit_jax.models import registry
from vit_jax.training import progress
from vit_jax.training.loop import train_and_evaluate
from vit_jax.workdir import run_info
from vit_jax.workdir.steps import Checkpointer


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """A run that nothing interrupted, and its results."""
  workdir = tmp_path_factory.mktemp("run") / "finished"
  return workdir, train_and_evaluate(tiny.config(), workdir)


def _snapshot(directory):
  files = sorted(p for p in directory.rglob("*") if p.is_file())
  return {str(p.relative_to(directory)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def _records(workdir):
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  return [
    {k: v for k, v in json.loads(line).items() if "images_per_second" not in k} for line in lines
  ]


def _assert_same_run(workdir, results, finished):
  """Parameters bit for bit, the same history without gaps or repetitions, the same scores."""
  other_workdir, other_results = finished
  for which in ("last", "best"):
    _, ours, info = run_info.load_run(workdir, which)
    _, theirs, other_info = run_info.load_run(other_workdir, which)
    assert info.step == other_info.step
    ours, theirs = tiny.leaves(ours), tiny.leaves(theirs)
    assert ours.keys() == theirs.keys()
    for path, value in ours.items():
      assert value.tobytes() == theirs[path].tobytes(), path
  assert _records(workdir) == _records(other_workdir)
  for key in ("val", "test", "best_step", "steps", "parameters"):
    assert results[key] == other_results[key], key


def _on_step(step, action):
  """Does something right after a step was dispatched."""
  update = progress.Progress.update

  def patched(self, at, metrics):
    update(self, at, metrics)
    if at == step:
      action()

  return tiny.changed(progress.Progress, "update", patched)


def test_what_a_run_leaves(finished):
  workdir, results = finished
  assert json.loads((workdir / "results.json").read_text()) == results
  assert results["val"]["examples"] == 180 and results["test"]["examples"] == 360
  assert results["steps"] == 12 and results["best_step"] in (4, 8, 12)
  assert results["images_per_second"] > 0 and results["seconds"] > 0
  records = _records(workdir)
  assert [r["step"] for r in records if "train/loss" in r] == [2, 4, 6, 8, 10, 12]
  assert [r["step"] for r in records if "val/accuracy" in r] == [4, 8, 12]
  assert next(r for r in records if r["step"] == 2)["train/learning_rate"] == pytest.approx(5e-4)
  assert Image.open(workdir / "curves.png").size[0] > 500
  assert list((workdir / "tensorboard").glob("events.out.tfevents.*"))
  steps = {int(p.name) for p in (workdir / "checkpoints").iterdir()}
  assert steps == {9, 12, results["best_step"]}
  assert not list(workdir.rglob("*.tmp"))


def test_load_run_gives_the_best_model_and_changes_nothing(finished):
  workdir, results = finished
  before = _snapshot(workdir)
  model, variables, info = run_info.load_run(workdir)
  assert _snapshot(workdir) == before
  assert info.class_names == tuple("0123456789") and info.image_size == (8, 8)
  assert info.step == results["best_step"] and info.metrics == results["val"]
  assert info.parameters == sum(v.size for v in tiny.leaves(variables).values())
  splits = {"test": datasets.open_dataset(info.dataset).source(info.splits["test"])}
  again = Evaluator(model, splits, info.preprocessing, batch=100)("test", variables)
  assert again["accuracy"] == results["test"]["accuracy"]
  assert again["loss"] == pytest.approx(results["test"]["loss"], rel=1e-5)


def test_a_finished_run_is_left_alone(finished):
  workdir, results = finished
  before = _snapshot(workdir)
  assert train_and_evaluate(tiny.config(), workdir) == results
  assert _snapshot(workdir) == before


KILLED = """
import os, signal, sys
import tiny_run as tiny
from vit_jax.training import progress
from vit_jax.workdir import integrity
from vit_jax.training.loop import train_and_evaluate

def die(*unused):
  os.kill(os.getpid(), signal.SIGKILL)

if sys.argv[2] == "training":
  update = progress.Progress.update
  progress.Progress.update = lambda self, step, m: die() if step == 8 else update(self, step, m)
else:  # When Orbax has finished step 6, before its hashes are written.
  write = integrity.write_manifest
  integrity.write_manifest = lambda d: die() if d.name == "6" else write(d)
train_and_evaluate(tiny.CONFIGS[sys.argv[3]](), sys.argv[1])
"""


@pytest.fixture(scope="module")
def finished_with_mixup(tmp_path_factory):
  """Like `finished`, and each step draws what it mixes beside what it drops."""
  workdir = tmp_path_factory.mktemp("run") / "mixup"
  return workdir, train_and_evaluate(tiny.CONFIGS["mixup"](), workdir)


# At step 8 the hashes of step 6 may or may not have been written already.
@pytest.mark.parametrize(
  "moment, continues_at",
  [pytest.param("training", "[46]", marks=pytest.mark.slow), ("saving", "4")],
)
def test_kill_9_changes_nothing(finished_with_mixup, tmp_path, caplog, moment, continues_at):
  results = _killed_and_continued("mixup", tmp_path / "run", moment, continues_at, caplog)
  _assert_same_run(tmp_path / "run", results, finished_with_mixup)


@pytest.mark.slow
def test_kill_9_changes_nothing_of_two_towers(tmp_path, caplog):
  finished = tmp_path / "finished", train_and_evaluate(small_lit.config(), tmp_path / "finished")
  results = _killed_and_continued("lit", tmp_path / "run", "training", "[46]", caplog)
  _assert_same_run(tmp_path / "run", results, finished)


def _killed_and_continued(name, workdir, moment, continues_at, caplog):
  done = tiny.run_python(KILLED, workdir, moment, name)
  assert done.returncode == -signal.SIGKILL, done.stderr
  with caplog.at_level(logging.INFO, "vit_jax"):
    results = train_and_evaluate(tiny.CONFIGS[name](), workdir)
  assert re.search(f"continuing .* at step {continues_at} of 12", caplog.text)
  return results


@pytest.mark.usefixtures("hangups_are_heard")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_stops_on_request_and_continues(finished, tmp_path, number):
  before = signal.getsignal(number)
  with (
    _on_step(5, lambda: os.kill(os.getpid(), number)),
    pytest.raises(Stopped, match=r"Stopped at step 5 .*same command") as stopped,
  ):
    train_and_evaluate(tiny.config(), tmp_path / "run")
  assert stopped.value.exit_code == 75
  assert signal.getsignal(number) is before
  # How often to report, and with how many threads to read, may change in between.
  results = train_and_evaluate(tiny.config(threads=1), tmp_path / "run")
  _assert_same_run(tmp_path / "run", results, finished)


@pytest.mark.slow
def test_continues_in_less_memory(tmp_path):
  """What the sentence on too little memory advises."""
  usual = tiny.config(model=dict(dropout_rate=0.0))
  whole = train_and_evaluate(usual, tmp_path / "whole")
  stop = _on_step(5, lambda: os.kill(os.getpid(), signal.SIGTERM))
  with stop, pytest.raises(Stopped):
    train_and_evaluate(usual, tmp_path / "run")
  less = tiny.config(model=dict(dropout_rate=0.0, remat="full"), accum_steps=2)
  results = train_and_evaluate(less, tmp_path / "run")
  assert results["test"] == pytest.approx(whole["test"], rel=1e-5)
  losses = [r["train/loss"] for r in _records(tmp_path / "run") if "train/loss" in r]
  expected = [r["train/loss"] for r in _records(tmp_path / "whole") if "train/loss" in r]
  assert losses == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_a_damaged_checkpoint_is_not_used(finished, tmp_path, caplog, damage):
  workdir = tmp_path / "run"
  shutil.copytree(finished[0], workdir)
  (workdir / "results.json").unlink()
  files = (p for p in (workdir / "checkpoints" / "12" / "state").rglob("*") if p.is_file())
  victim = max(files, key=lambda p: p.stat().st_size)
  content = bytearray(victim.read_bytes())
  content[len(content) // 2] ^= 1
  {
    "flip": lambda: victim.write_bytes(content),
    "truncate": lambda: victim.write_bytes(content[:100]),
    "remove": victim.unlink,
  }[damage]()
  with caplog.at_level(logging.INFO, "vit_jax"):
    results = train_and_evaluate(tiny.config(), workdir)
  assert (
    f"12 is damaged (state/{victim.relative_to(workdir / 'checkpoints/12/state')}" in caplog.text
  )
  assert "at step 9 of 12" in caplog.text
  assert (workdir / "damaged" / "12-0" / "state").is_dir()
  _assert_same_run(workdir, results, finished)


def test_divergence_stops_and_keeps_the_last_good_checkpoint(tmp_path):
  config = tiny.config(base_lr=1e30, checkpoint_every=1)
  for _ in range(2):  # The second time from the checkpoint.
    with pytest.raises(Diverged, match="infinite at step 2; the checkpoint of step 1 is") as error:
      train_and_evaluate(config, tmp_path / "run")
    assert error.value.exit_code == 3
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == ["1"]
  _, variables, _ = run_info.load_run(tmp_path / "run")
  assert all(np.isfinite(v).all() for v in tiny.leaves(variables).values())


def test_refuses_the_workdir_of_another_config(finished):
  workdir, _ = finished
  before = _snapshot(workdir)
  with pytest.raises(UserError, match=r"another config: base_lr \(0.001 -> 0.1\).*delete this"):
    train_and_evaluate(tiny.config(base_lr=0.1), workdir)
  assert _snapshot(workdir) == before


@pytest.mark.parametrize(
  "changes, message",
  [
    (dict(pp=dict(crop=9)), "9"),
    (dict(model=dict(classifier="unpooled")), "choose a classifier that pools"),
    (dict(pp=dict(train="trainig")), "trainig"),
    (dict(batch=33, accum_steps=2), "use a multiple of"),
    (dict(mesh=dict(data=1000)), "there are"),
  ],
)
def test_mistakes_are_found_before_anything_is_written(tmp_path, changes, message):
  with pytest.raises(UserError, match=message):
    train_and_evaluate(tiny.config(**changes), tmp_path / "run")
  assert not (tmp_path / "run").exists()


def test_unwritable_workdir(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(UserError, match=r"cannot be written .*choose another directory"):
    train_and_evaluate(tiny.config(), tmp_path / "file" / "run")


def test_two_processes_cannot_share_a_workdir(tmp_path):
  with (
    Checkpointer(tmp_path / "checkpoints"),
    pytest.raises(UserError, match="another process is training"),
  ):
    Checkpointer(tmp_path / "checkpoints")
  Checkpointer(tmp_path / "checkpoints").close()


def test_load_run_of_something_else(tmp_path):
  with pytest.raises(UserError, match="is not the workdir of a training run"):
    run_info.load_run(tmp_path)


def test_without_validation_the_last_is_the_best(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)  # A relative workdir, as on most command lines.
  config = tiny.config(total_steps=4, pp=dict(train="train[:64]", val="", test="test[:40]"))
  results = train_and_evaluate(config, "run")
  assert run_info.load_run("run")[2].step == 4
  assert "val" not in results and results["best_step"] == 4
  assert results["test"]["examples"] == 40


def test_the_loop_never_waits_for_a_step(tmp_path):
  """Between reports and saves nothing may be fetched from the device."""
  fetched = []
  get = jax.device_get
  with tiny.changed(jax, "device_get", lambda x: (fetched.append(x), get(x))[1]):
    config = tiny.config(progress_every=6, eval_every=0, checkpoint_every=0)
    train_and_evaluate(config, tmp_path / "run")
  metrics = [x for x in fetched if isinstance(x, dict) and "loss" in x]
  assert len(metrics) == 2  # Steps 6 and 12.


def test_fine_tunes_from_a_file_and_needs_it_only_once(tmp_path):
  fields = dict(tiny.config().model)
  pretrained = registry.create_model(fields.pop("name"), **fields, num_classes=7)
  variables = pretrained.init(jax.random.key(5), jnp.zeros((1, 8, 8, 1)))
  file = tmp_path / "weights.npz"
  save_checkpoint(file, pretrained, variables)
  config = tiny.config(checkpoint=str(file), base_lr=0.0, total_steps=2)  # Nothing moves.
  results = train_and_evaluate(config, tmp_path / "run")
  _, trained, _ = run_info.load_run(tmp_path / "run", "last")
  theirs = tiny.leaves(variables["params"])
  for path, value in tiny.leaves(trained["params"]).items():
    if "head" in path:
      assert value.shape[-1] == 10 and not value.any()  # Fresh, since there are ten digits.
    else:
      np.testing.assert_array_equal(value, theirs[path], err_msg=path)

  file.unlink()
  (tmp_path / "run" / "results.json").unlink()
  again = train_and_evaluate(config, tmp_path / "run")
  assert again["test"] == results["test"]
