# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Runs that meet batches whose gradient is not finite, under each `nan_policy`."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_run as tiny
from poison import poisoned

from vit_jax.errors import Diverged
from vit_jax.training import loop
from vit_jax.training.divergence import MAX_SKIPPED, Guard
from vit_jax.workdir import run_info


def steps(workdir):
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  return {r["step"]: r["train/loss"] for r in map(json.loads, lines) if "train/loss" in r}


SETTINGS = dict(progress_every=1, checkpoint_every=3, eval_every=6)


def test_skip_leaves_one_update_out(tmp_path, capfd):
  with poisoned(5, 8):
    results = loop.train_and_evaluate(tiny.config(nan_policy="skip", **SETTINGS), tmp_path)
  assert results["steps"] == 12
  told = capfd.readouterr().err
  assert "step 5: the loss, gradient or update is not finite; left out" in told
  found = steps(tmp_path)
  assert [step for step, loss in found.items() if loss is None] == [5, 8]
  _, variables, _ = run_info.load_run(tmp_path, "last")
  assert all(np.isfinite(x).all() for x in tiny.leaves(variables).values())


def test_skip_ends_when_nothing_helps(tmp_path):
  with poisoned(*range(2, 99)), pytest.raises(Diverged, match="at step 2; no checkpoint was"):
    settings = dict(SETTINGS, checkpoint_every=0, eval_every=0, total_steps=20)
    loop.train_and_evaluate(tiny.config(nan_policy="skip", **settings), tmp_path)


def test_rollback_goes_back_and_on_with_other_data(tmp_path, capfd):
  config = tiny.config(nan_policy="rollback", **SETTINGS)
  with poisoned(5):
    results = loop.train_and_evaluate(config, tmp_path)
  assert "back to step 3, and on with other data (1 of 3)" in capfd.readouterr().err
  found = steps(tmp_path)
  assert list(found) == [*range(1, 13)] and None not in found.values()
  # The stream is ahead of the steps by the batches that were left behind, and stays so.
  saved = json.loads((tmp_path / "checkpoints" / "12" / "config" / "metadata").read_text())
  ahead = saved["stream"]["taken"] - 12
  assert ahead >= 2
  (tmp_path / "results.json").unlink()
  assert loop.train_and_evaluate(config, tmp_path)["test"] == results["test"]


@pytest.mark.parametrize("policy", ["skip", "rollback"])
def test_the_rate_that_is_told_is_the_one_of_the_update(tmp_path, monkeypatch, policy):
  """Without momentum and decay an update is as long as its gradient, times the rate."""
  make_step, applied = loop.make_planned_step, {}

  def make(plan, *rest):
    step = make_step(plan, *rest)

    def measured(state, batch, fixed):
      before = jax.tree.leaves(jax.device_get(state.params))
      state, metrics = step(state, batch, fixed)
      after = jax.tree.leaves(jax.device_get(state.params))
      length = np.sqrt(sum(np.sum((a - b) ** 2) for a, b in zip(after, before, strict=True)))
      applied[int(state.step)] = float(length / metrics["grad_norm"])
      return state, metrics

    return measured

  monkeypatch.setattr(loop, "make_planned_step", make)
  sgd = dict(name="sgd", momentum=0.0, weight_decay=0.0)
  config = tiny.config(nan_policy=policy, optim=sgd, base_lr=0.1, grad_norm_clip=None, **SETTINGS)
  with poisoned(4, 5, 8):
    loop.train_and_evaluate(config, tmp_path)
  lines = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
  told = {r["step"]: r["train/learning_rate"] for r in lines if "train/learning_rate" in r}
  left_out = {4, 5, 8} if policy == "skip" else set()
  for step in range(1, 13):
    rate = 0.1 * min((step - 1) / 2, 1.0) * 0.5 * (1 + np.cos(np.pi * max(step - 3, 0) / 10))
    assert told[step] == pytest.approx(rate, rel=1e-5), step
    assert applied[step] == pytest.approx(0.0 if step in left_out else rate, rel=1e-3), step


def test_rollback_ends_when_other_data_does_not_help(tmp_path):
  with poisoned(*range(5, 99)), pytest.raises(Diverged, match="the checkpoint of step 3 is the"):
    loop.train_and_evaluate(tiny.config(nan_policy="rollback", **SETTINGS), tmp_path)


def test_a_guard_counts_in_a_row():
  told = []
  guard = Guard("skip", told.append)
  bad, good = {"finite": jnp.bool_(False)}, {"finite": jnp.bool_(True)}
  for step in range(1, 3 * MAX_SKIPPED + 1):
    guard.update(step, good if step % MAX_SKIPPED == 0 else bad)
  guard.flush()
  assert guard.bad_step is None and len(told) == 3 * (MAX_SKIPPED - 1)
  for step in range(100, 100 + MAX_SKIPPED):
    guard.update(step, bad)
  guard.flush()
  assert guard.bad_step == 100


def test_a_guard_looks_at_a_step_when_eight_more_are_on_their_way():
  looked = []

  class Finite:
    def __init__(self, step):
      self.step = step

    def __bool__(self):
      looked.append(self.step)
      return True

  guard = Guard("stop", print)
  for step in range(1, 9):
    guard.update(step, {"finite": Finite(step)})
  assert looked == []
  guard.update(9, {"finite": Finite(9)})
  assert looked == [1]
  guard.flush()
  assert looked == [*range(1, 10)] and guard.bad_step is None


def test_a_guard_goes_back_three_times_without_a_new_checkpoint():
  told, bad = [], {"finite": jnp.bool_(False)}
  guard = Guard("rollback", told.append)

  def meet(*steps):
    for step in steps:
      guard.update(step, bad)
    guard.flush()

  for number in (1, 2, 3):
    meet(7, 8)
    assert guard.bad_step == 7  # The first; what follows it is no news.
    assert guard.goes_back(5) and guard.bad_step is None
    assert told[-1].startswith("step 7: ") and told[-1].endswith(f"({number} of 3)")
  meet(6)
  with pytest.raises(Diverged, match="at step 6; the checkpoint of step 5 is the last good one"):
    guard.goes_back(5)
  guard.rollbacks = 0  # As after a checkpoint.
  assert guard.goes_back(5) and told[-1].endswith("(1 of 3)")
  # What was on its way when it went back is forgotten.
  for step in range(6, 15):
    guard.update(step, bad)
  assert guard.bad_step == 6 and guard.goes_back(5)
  guard.flush()
  assert guard.bad_step is None


@pytest.mark.parametrize(
  "policy, last_good, message",
  [
    ("rollback", None, "no checkpoint was saved yet"),
    ("stop", 5, "checkpoint of step 5 is the last good one"),
    ("skip", 5, "checkpoint of step 5 is the last good one"),
  ],
)
def test_a_guard_ends_where_it_may_not_go_back(policy, last_good, message):
  guard, bad = Guard(policy, lambda line: None), {"finite": jnp.bool_(False)}
  for step in range(7, 7 + MAX_SKIPPED):
    guard.update(step, bad)
  guard.flush()
  with pytest.raises(Diverged, match=f"at step 7; .*{message}"):
    guard.goes_back(last_good)
