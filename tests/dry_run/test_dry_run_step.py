# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What a dry run compiles is the step that training runs, without its data and its weights."""

import dataclasses

import jax
import pytest

from vit_jax.cli import configuration
from vit_jax.dry_run import chips, report, step
from vit_jax.errors import UserError
from vit_jax.parallel import mesh as mesh_lib
from vit_jax.parallel import sharding
from vit_jax.training import loop
from vit_jax.training import step as training_step

ONE = chips.parse("cpu:1")
QUICK = ["--config=configs/quickstart.py", "--config.model.num_layers=1"]


class Reached(Exception):
  """A step was about to be made."""


def captured(monkeypatch, run):
  """What is given to `make_train_step`."""

  def make_train_step(*arguments, **options):
    raise Reached(arguments, options)

  monkeypatch.setattr(training_step, "make_train_step", make_train_step)
  with pytest.raises(Reached) as reached:
    run()
  return reached.value.args


@pytest.mark.parametrize(
  "overrides",
  [
    ["--config.accum_steps=2", "--config.nan_policy=skip"],
    ["--config.ema_decay=0.99", "--config.frozen=embedding", "--config.mixup=0.2"],
  ],
)
def test_the_step_is_made_as_training_makes_it(monkeypatch, tmp_path, overrides):
  config = configuration.parse([*QUICK, *overrides])
  train = lambda: loop.train_and_evaluate(config, tmp_path / "run")
  theirs, their_options = captured(monkeypatch, train)
  plan, notes = report.prepare(config, ONE)
  mesh = mesh_lib.make_mesh(plan.mesh, jax.devices()[:1])
  classes, _ = report.find_classes(plan, None)
  ours, our_options = captured(monkeypatch, lambda: step.trace(plan, mesh, classes))
  assert (classes, notes) == (10, ())
  assert len(ours) == len(theirs) and {*our_options} == {*their_options}
  for name, value in their_options.items():
    assert our_options[name] == value, name
  # Objective, optimizer and schedule are closures: the same function, over the same values.
  assert ours[0].__code__ is theirs[0].__code__
  values = lambda function: [cell.cell_contents for cell in function.__closure__]
  assert values(ours[0]) == values(theirs[0])
  assert ours[2](7) == theirs[2](7)


def test_layers_are_compiled_as_the_run_has_them():
  for scanned in (False, True):
    config = configuration.parse([*QUICK, f"--config.model.scan_layers={scanned}"])
    plan, notes = report.prepare(config, ONE)
    assert step.field_values(plan, "scan_layers") == {scanned} and notes == ()
    plan, notes = report.prepare(config, ONE, scan=True)
    assert step.field_values(plan, "scan_layers") == {True}
    assert notes == (() if scanned else (report.SCANNED,))
  pooled = dict(dataset="digits", total_steps=1, warmup_steps=0, model=dict(name="PoolFormer-S12"))
  with pytest.raises(UserError, match="--scan has no effect on PoolFormer-S12"):
    report.prepare(pooled, ONE, scan=True)


def test_weights_are_not_read_and_a_data_set_need_not_be_there():
  config = configuration.parse(
    [
      "--config=configs/augreg.py:Ti_16",
      "--config.model.num_layers=1",
      "--config.pretrained_dir=/nowhere",
      "--config.pp.crop=32",
      "--config.batch=4",
      "--config.batch_eval=4",
      "--config.accum_steps=1",
    ]
  )
  plan, notes = report.prepare(config, ONE)
  assert "weights to start from are not read: they have the same shapes" in notes
  assert report.find_classes(plan, None) == (
    1000,
    "the registry's ViT-Ti_16: no data set is named",
  )
  assert report.find_classes(plan, 37) == (37, "--classes")
  mesh = mesh_lib.make_mesh(plan.mesh, jax.devices()[:1])
  traced = step.trace(plan, mesh, 37)
  assert traced.target.params["head"]["kernel"].shape == (192, 37)
  assert traced.arguments[1]["image"].shape == (4, 32, 32, 3)


def test_of_several_sizes_the_largest_is_compiled():
  sizes = ["--config.pp.train_sizes=(32, 48)", "--config.pp.train_crop=random"]
  model = ["--config.model.position_embedding=sincos_2d", "--config.model.classifier=gap"]
  plan, notes = report.prepare(configuration.parse([*QUICK, *sizes, *model]), ONE)
  assert notes[-1] == "images of 48 pixels, the largest of pp.train_sizes"
  traced = step.trace(plan, mesh_lib.make_mesh(plan.mesh, jax.devices()[:1]), 10)
  assert traced.arguments[1]["image"].shape == (plan.batch, 48, 48, 1)


def test_a_teacher_is_part_of_the_step_without_its_weights():
  teacher = ["--config.distill.teacher=ViT-Ti_16", "--config.distill.image_size=32"]
  config = configuration.parse([*QUICK, *teacher])
  plan, _ = report.prepare(config, ONE)
  mesh = mesh_lib.make_mesh(plan.mesh, jax.devices()[:1])
  with_teacher = step.trace(plan, mesh, 10)
  plan, _ = report.prepare(configuration.parse(QUICK), ONE)
  alone = step.trace(plan, mesh, 10)
  assert with_teacher.parameters == alone.parameters
  # Forwards only: 16-pixel patches of 32 pixels are 4, and the class token.
  tokens, width = 5, 192
  layer = 4 * tokens * width**2 + 2 * tokens**2 * width + 8 * tokens * width**2
  macs = 12 * layer + 4 * 16 * 16 * 3 * width + width * 10
  operations = lambda traced: report.count_flops(traced, 10).model
  assert operations(with_teacher) - operations(alone) == 2 * plan.batch * macs


@pytest.mark.parametrize(
  "message, temporaries, total",
  [
    ("Ran out of memory in memory space hbm. Used 20.50G of 15.75G hbm.", None, 20.5 * 2**30),
    (
      "Ran out of memory on HBM, the total memory required for HLO temporaries (268.90G) exceeds "
      "available HBM (15.75G).",
      int(268.9 * 2**30),
      None,  # With the arguments.
    ),
  ],
)
def test_a_refusal_of_the_compilers_is_a_report(message, temporaries, total):
  plan, _ = report.prepare(configuration.parse(QUICK), ONE)
  mesh = mesh_lib.make_mesh(plan.mesh, jax.devices()[:1])

  class Traced:
    def lower(self):
      raise jax.errors.JaxRuntimeError(f"RESOURCE_EXHAUSTED: {message}")

  traced = dataclasses.replace(step.trace(plan, mesh, 10), traced=Traced())
  compiled = step.compile_step(traced)
  state = sum(row.device_bytes for row in sharding.summary(traced.target, mesh))
  arguments = state + plan.batch * (32 * 32 + 4)
  assert compiled.refused and compiled.memory.arguments == arguments
  assert compiled.memory.temporaries == temporaries
  ahead = 8 * plan.batch * (32 * 32 + 4)  # Batches of the next steps.
  assert compiled.memory.total == (total or arguments + temporaries) + ahead
  # No time is spent on the evaluation of a run that does not fit.
  run = step.compile_run(traced)
  assert run.evaluation is None and not run.fits(2**60)


def test_a_run_needs_what_its_largest_phase_does():
  sizes = [
    "--config.model.hidden_size=32",
    "--config.model.mlp_dim=64",
    "--config.model.num_heads=2",
  ]
  overrides = ["--config.batch=8", "--config.batch_eval=256", "--config.ema_decay=0.9", *sizes]
  plan, _ = report.prepare(configuration.parse([*QUICK, *overrides]), ONE)
  traced = step.trace(plan, mesh_lib.make_mesh(plan.mesh, jax.devices()[:1]), 10)
  run = step.compile_run(traced)
  state = sum(row.device_bytes for row in sharding.summary(traced.target, traced.mesh))
  judged = 2 * 256 * (32 * 32 + 4 + 4)  # Two batches of images, labels and masks.
  memory = run.evaluation.memory
  assert run.needs["a step"] == run.step.memory.total
  assert run.needs["saving"] == state  # There are no copies to share the work.
  assert run.needs["an evaluation"] == state + judged + memory.working
  # A batch 32 times as large as that of training needs more, even without gradients.
  most = run.needs["an evaluation"]
  assert max(run.needs.values()) == most > run.step.memory.total
  assert run.fits(most) and not run.fits(most - 1)
