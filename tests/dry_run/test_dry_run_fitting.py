# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The ladder of changes to a run that does not fit: their order, and which of them are compiled.

What they really need is compiled in tests/training/test_room.py.
"""

import dataclasses
import types

import jax
import pytest
import small_lit

from vit_jax.cli import configuration
from vit_jax.dry_run import chips, fitting, report, search, step
from vit_jax.parallel import mesh as mesh_lib
from vit_jax.training.plan import make_plan

QUICK = ["--config=configs/quickstart.py", "--config.model.num_layers=2", "--config.batch=8"]


class Grid:
  """A mesh of more devices than there are."""

  def __init__(self, **sizes):
    self.shape = {axis: sizes.get(axis, 1) for axis in mesh_lib.AXES}
    self.devices = types.SimpleNamespace(flat=jax.devices())


def plan_of(*arguments):
  return report.prepare(configuration.parse(list(arguments)), chips.parse("cpu:1"))[0]


@pytest.fixture
def any_split(monkeypatch):
  monkeypatch.setattr(fitting, "_splits", lambda *unused: True)


def shown(rungs):
  layouts = [(rung.batch, rung.layout) for rung in rungs]
  return [(batch, at.accum_steps, at.remat, at.fsdp, at.per_chip) for batch, at in layouts]


def test_one_change_comes_before_two_and_another_batch_last(any_split):
  keeping, smaller = fitting.ladder(plan_of(*QUICK), Grid(data=2), 10)
  assert shown(keeping) == [
    (8, 2, None, 1, 2),
    (8, 4, None, 1, 1),
    (8, 1, "full", 1, 4),
    (8, 1, None, 2, 4),
    (8, 2, "full", 1, 2),
    (8, 4, "full", 1, 1),
    (8, 2, None, 2, 2),
    (8, 4, None, 2, 1),
    (8, 1, "full", 2, 4),
    (8, 2, "full", 2, 2),
    (8, 4, "full", 2, 1),
  ]
  assert shown(smaller) == [(4, 1, "full", 2, 2), (2, 1, "full", 2, 1)]
  assert all(rung.layout.data == (1 if rung.layout.fsdp == 2 else 2) for rung in keeping)


@pytest.mark.parametrize(
  "changes, sizes, expected",
  [
    # Nothing is left to turn but the batch, and not that of examples that are mixed.
    (["--config.model.remat=full", "--config.accum_steps=8"], {}, []),
    (
      ["--config.model.remat=full", "--config.mixup=0.2"],
      {},
      [(8, 2, None, 1, 4), (8, 4, None, 1, 2)],
    ),
    (["--config.accum_steps=2"], dict(fsdp=4), [(8, 2, "full", 4, 1)]),
  ],
)
def test_changes_that_a_plan_cannot_have_are_left_out(any_split, changes, sizes, expected):
  keeping, smaller = fitting.ladder(plan_of(*QUICK, *changes), Grid(**sizes), 10)
  assert shown(keeping) == expected
  if "--config.mixup=0.2" in changes:
    assert [rung.batch for rung in smaller] == [4, 2]


def test_a_contrastive_batch_is_not_taken_apart(any_split):
  keeping, smaller = fitting.ladder(make_plan(small_lit.config(batch=8)), Grid(data=2), 0)
  assert shown(keeping) == [(8, 1, "full", 1, 4), (8, 1, None, 2, 4), (8, 1, "full", 2, 4)]
  assert [rung.batch for rung in smaller] == [4, 2]


def test_a_split_that_leaves_too_much_whole_is_left_out():
  plan = plan_of(*QUICK)
  keeping, _ = fitting.ladder(plan, Grid(data=1), 10)
  assert {rung.layout.fsdp for rung in keeping} == {1}


@pytest.fixture(scope="module")
def measured():
  return search.measure(plan_of(*QUICK), 10, (None, "full"))


@pytest.fixture
def compiler(monkeypatch, measured):
  """Compiles nothing: what a step needs is a function of its plan, set by each test."""
  tried = []

  def trace(plan, mesh, num_classes):
    tried.append(plan)
    return plan

  def compile_run(plan, room):
    total, refused = compiler.needs(plan)
    needs = {"a step": total, "saving": 0, "an evaluation": compiler.evaluation(plan)}
    memory = types.SimpleNamespace(total=total)
    return step.Run(types.SimpleNamespace(memory=memory, refused=refused), None, needs)

  compiler = types.SimpleNamespace(tried=tried, evaluation=lambda plan: 0)
  monkeypatch.setattr(fitting, "measure", lambda *unused: measured)
  monkeypatch.setattr(fitting.step, "trace", trace)
  monkeypatch.setattr(fitting.step, "compile_run", compile_run)
  return compiler


GIB = 2**30


def test_the_first_that_fits_ends_the_search(compiler, measured):
  plan, mesh = plan_of(*QUICK), mesh_lib.make_mesh(devices=jax.devices()[:1])
  layouts = {1: 8, 2: 4, 4: 2, 8: 1}
  at = lambda count, remat=None: search.Layout(1, 1, 1, count, remat, layouts[count])

  def needs(plan):
    remat = plan.model.overrides.get("remat")
    return round(measured.memory(at(plan.accum_steps, remat))), False

  compiler.needs = needs
  room = round(measured.memory(at(4))) + 1  # What is learned of the first is rounded too.
  trials = fitting.find(plan, mesh, 10, room)
  assert [trial.overrides for trial in trials] == [(), ("--config.accum_steps=4",)]
  assert trials[-1].fits and trials[-1].total == room - 1
  assert trials[0].total == round(measured.memory(at(1))) and not trials[0].fits


def test_an_evaluation_that_does_not_fit_gets_smaller_batches(compiler):
  plan = dataclasses.replace(plan_of(*QUICK), batch_eval=96)
  mesh = mesh_lib.make_mesh(devices=jax.devices()[:1])
  compiler.needs = lambda plan: (GIB, False)
  # What each image needs, beside 1 GiB: 24 of them fit, and 48 do not.
  compiler.evaluation = lambda plan: GIB + plan.batch_eval * GIB // 4
  trials = fitting.find(plan, mesh, 10, 8 * GIB)
  assert [trial.overrides for trial in trials] == [(), ("--config.batch_eval=24",)]
  assert trials[-1].fits and trials[-1].total == 7 * GIB and trials[-1].keeps_batch
  assert [plan.accum_steps for plan in compiler.tried] == [1, 1]


def test_the_least_is_compiled_before_all_is_given_up(compiler):
  plan, mesh = plan_of(*QUICK), mesh_lib.make_mesh(devices=jax.devices()[:1])
  compiler.needs = lambda plan: (99 * GIB, False)
  trials = fitting.find(plan, mesh, 10, 1000)
  assert [trial.overrides for trial in trials] == [
    (),
    ("--config.accum_steps=8", "--config.model.remat=full"),
  ]


def test_no_more_is_compiled_than_allowed(compiler):
  plan, mesh = plan_of(*QUICK), mesh_lib.make_mesh(devices=jax.devices()[:1])
  compiler.needs = lambda plan: (1000, True)  # Without a word of the size.
  trials = fitting.find(plan, mesh, 10, 99 * GIB)
  assert len(trials) == len(compiler.tried) == 6
  assert {trial.total for trial in trials} == {None} and not any(t.fits for t in trials)
  assert [trial.keeps_batch for trial in trials] == [True] * 5 + [False]
  assert trials[-1].overrides == ("--config.batch=4", "--config.model.remat=full")


def test_weights_are_not_read_and_layers_are_as_in_the_run(compiler):
  plan = dataclasses.replace(plan_of(*QUICK), checkpoint="/nowhere.npz")
  compiler.needs = lambda plan: (1000, False)
  (trial,) = fitting.find(plan, mesh_lib.make_mesh(devices=jax.devices()[:1]), 10, GIB)
  assert trial.fits and trial.overrides == ()
  (compiled,) = compiler.tried
  # The mesh is the same, in numbers.
  assert compiled == dataclasses.replace(plan, checkpoint=None, mesh=compiled.mesh)
