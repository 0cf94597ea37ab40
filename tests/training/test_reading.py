# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Reading a run while it trains, which saves and deletes steps meanwhile."""

import os
import pathlib
import shutil
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import pytest
import tiny_run as tiny

from vit_jax.errors import UserError
from vit_jax.training.loop import train_and_evaluate
from vit_jax.workdir import integrity, run_info, steps
from vit_jax.workdir.steps import Checkpointer

# Saves as fast as it can. All parameters of a step are its number; most steps are a new best.
WRITER = """
import sys, grain, jax, jax.numpy as jnp
from vit_jax.training import state
from vit_jax.workdir import data_record, run_info
from vit_jax.workdir.steps import Checkpointer
info = run_info.existing_run(sys.argv[1])
record = data_record.read(sys.argv[1], info.data)
target = state.state_target(info.create_model(), info.plan, None)
data = iter(grain.MapDataset.range(9).to_iter_dataset())
with Checkpointer(sys.argv[1] + "/checkpoints") as checkpointer:
  for step in range(5, 10**6):
    new = jax.tree.map(lambda x: jnp.full(x.shape, step, x.dtype), target)
    scores = {"accuracy": step % 3 and 1 + step, "loss": 1.0}
    checkpointer.save(step, new, data, {}, scores)
    run_info.write_run(sys.argv[1], info, record)
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """A run of four steps; nothing may change it."""
  workdir = tmp_path_factory.mktemp("run") / "run"
  train_and_evaluate(tiny.config(total_steps=4, eval_every=2, checkpoint_every=2), workdir)
  return workdir


@pytest.fixture
def workdir(finished, tmp_path):
  return shutil.copytree(finished, tmp_path / "run")


@pytest.mark.parametrize("reads", [20, pytest.param(300, marks=pytest.mark.slow)])
def test_a_run_can_be_read_while_it_saves(workdir, reads):
  here = pathlib.Path(__file__).parent
  path = os.pathsep.join([str(here), str(here.parent)])
  writer = subprocess.Popen(
    [sys.executable, "-c", WRITER, str(workdir)],
    env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": path},
  )
  newest = lambda: max(steps.step_numbers(workdir / "checkpoints"))
  try:
    started = time.monotonic()
    while newest() < 8:
      assert writer.poll() is None and time.monotonic() - started < 100
      time.sleep(0.05)
    first = newest()
    for read in range(reads):
      which = "last" if read % 2 else "best"
      before = newest()
      _, variables, info = run_info.load_run(workdir, which)
      values = {np.unique(value).item() for value in tiny.leaves(variables["params"]).values()}
      assert values == {info.step}
      assert info.step >= before - 3  # One is being hashed, and every third is no best.
    assert writer.poll() is None
    print(f"{newest() - first} steps were saved beside {reads} reads")
    assert newest() - first > reads / 4
  finally:
    writer.kill()
    writer.wait()


def test_loading_brings_the_weights_and_nothing_else(workdir, monkeypatch):
  """Neither the optimizer's state, twice as large, nor what else a step of training needs."""
  live_bytes = lambda: sum(x.nbytes for x in jax.live_arrays())
  usual, grown = Checkpointer.restore, []

  def restored(self, *arguments):
    before = live_bytes()
    state = usual(self, *arguments)
    grown.append(live_bytes() - before)
    return state

  monkeypatch.setattr(Checkpointer, "restore", restored)
  _, variables, _ = run_info.load_run(workdir)
  assert grown == [sum(x.nbytes for x in jax.tree.leaves(variables))]


def _meanwhile(monkeypatch, owner, name, action):
  """Does something the first time that a function is called."""
  usual, done = getattr(owner, name), []

  def changed(*arguments, **options):
    if not done:
      done.append(name)
      action()
    return usual(*arguments, **options)

  monkeypatch.setattr(owner, name, changed)


def _delete_slowly(directory):
  for path in sorted(p for p in directory.rglob("*") if p.is_file()):
    path.unlink()
    time.sleep(0.1)
  shutil.rmtree(directory)


@pytest.mark.parametrize(
  "owner, name, slowly",
  [
    *((Checkpointer, "restore", False), (Checkpointer, "metrics", False)),
    *((integrity, "_sha256", False), (integrity, "defect", True)),
  ],
)
def test_a_new_best_takes_the_place_of_the_old(workdir, monkeypatch, caplog, owner, name, slowly):
  _, expected, info = run_info.load_run(workdir)
  old = workdir / "checkpoints" / str(info.step)
  deletion = threading.Thread(target=_delete_slowly if slowly else shutil.rmtree, args=[old])

  def replace():
    shutil.copytree(old, old.parent / "9")
    deletion.start()
    deletion.join(0.05 if slowly else None)

  _meanwhile(monkeypatch, owner, name, replace)
  _, variables, info = run_info.load_run(workdir)
  deletion.join()
  assert info.step == 9 and not [r for r in caplog.records if r.name.startswith("vit_jax")]
  for path, value in tiny.leaves(expected).items():
    np.testing.assert_array_equal(tiny.leaves(variables)[path], value)


def test_what_fails_for_another_reason_is_not_tried_again(workdir, monkeypatch):
  tried = []

  def fails(self, step, target):
    tried.append(step)
    raise RuntimeError("out of memory")

  monkeypatch.setattr(Checkpointer, "restore", fails)
  with pytest.raises(RuntimeError, match="out of memory"):
    run_info.load_run(workdir)
  assert len(tried) == 1


def test_a_run_that_changes_each_time_is_a_sentence(workdir, monkeypatch):
  monkeypatch.setattr(steps, "SETTLE_SECONDS", 0.0)

  def fails(self, step, target):
    (workdir / "checkpoints" / str(100 + step)).mkdir()
    raise FileNotFoundError("gone")

  monkeypatch.setattr(Checkpointer, "restore", fails)
  monkeypatch.setattr(steps, "READS", 3)
  monkeypatch.setattr(
    Checkpointer,
    "best_step",
    property(lambda self: max(steps.step_numbers(self._directory))),
  )
  with pytest.raises(UserError, match=r"changed each of the 3 times .* is saving .*; try again"):
    run_info.load_run(workdir)


# Of the first two steps that are read, the run deletes the files in the midst of it.
COMMAND = """
import shutil, sys
from vit_jax.cli import app
from vit_jax.workdir.steps import Checkpointer
usual, read = Checkpointer.restore, []
def restore(self, step, *arguments):
  read.append(step)
  if len(read) > 2:
    return usual(self, step, *arguments)
  directory = f"{sys.argv[1]}/checkpoints/{step}"
  shutil.copytree(directory, f"{sys.argv[1]}/checkpoints/{step + 10}")
  shutil.rmtree(f"{directory}/state/d")
  try:
    return usual(self, step, *arguments)
  finally:
    shutil.rmtree(directory)
Checkpointer.restore = restore
code = app.main(["evaluate", f"--workdir={sys.argv[1]}", "--json"])
sys.exit(code or len(read) != 3)
"""


@pytest.mark.slow
def test_a_command_says_nothing_of_steps_that_are_deleted_meanwhile(workdir):
  done = tiny.run_python(COMMAND, workdir)
  assert done.returncode == 0 and '"examples": 360' in done.stdout
  assert "Traceback" not in done.stderr and "ERROR" not in done.stderr, done.stderr
