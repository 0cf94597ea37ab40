# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What is said when the devices have too little memory: what would suffice, by a dry run of it."""

import json

import jax
import pytest
import tiny_run as tiny

from vit_jax.dry_run import fitting
from vit_jax.errors import UserError
from vit_jax.parallel import mesh as mesh_lib
from vit_jax.training import loop, room
from vit_jax.training.plan import make_plan

# On two devices, of which each holds a tenth more than what the step needs with a change, which is
# less than it needs without it.
PROGRAM = """
import json, sys
import jax
import tiny_run as tiny
from vit_jax.dry_run import step
from vit_jax.errors import UserError
from vit_jax.parallel import mesh as mesh_lib
from vit_jax.training import room
from vit_jax.training.plan import make_plan

MODELS = dict(
  pool=dict(name="PoolFormer-S12", depths=(1,), widths=(64,), token_mixer="identity"),
  mixer=dict(
    name="Mixer-S_16", patch_size=1, hidden_dim=32, num_blocks=8, tokens_mlp_dim=16,
    channels_mlp_dim=64, scan_layers=True,
  ),
)  # fmt: skip

def plan_of(kind, batch, **changes):
  config = tiny.config(batch=batch, optim=dict(name="sgd", momentum=0.0)).to_dict()
  config["model"] = dict(MODELS[kind], **changes.pop("model", {}))
  config["mesh"] = dict(max_whole=0.1, **changes.pop("mesh", {}))
  return make_plan({**config, **changes})

def total(*arguments, **changes):
  plan = plan_of(*arguments, **changes)
  traced = step.trace(plan, mesh_lib.make_mesh(plan.mesh), 10)
  return step.compile_step(traced).memory.total

FSDP = dict(mesh=dict(data=1, fsdp=2))
CASES = dict(
  accumulation=("pool", 64, dict(accum_steps=2)),
  remat=("mixer", 2, dict(model=dict(remat="full"))),
  fsdp=("pool", 2, FSDP),
)
found = {}
for name, (model, batch, change) in CASES.items():
  needs = total(model, batch), total(model, batch, **change)
  plan = plan_of(model, batch)
  told = []
  for limit in (int(1.1 * needs[1]), needs[0], 1000)[: 3 if name == "fsdp" else 1]:
    room.memory_of = lambda mesh: limit
    try:
      with room.explained(plan, mesh_lib.make_mesh(plan.mesh), 10):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.")
    except UserError as error:
      told.append(str(error))
  found[name] = needs, told
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def told():
  """By case: the bytes of the step as it is and changed, and what was said under each limit."""
  flags = (
    "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0 "
    "--xla_llvm_disable_expensive_passes=true"
  )
  done = tiny.run_python(PROGRAM, XLA_FLAGS=flags)
  assert done.returncode == 0, done.stderr
  return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize(
  "case, change",
  [
    ("accumulation", "--config.accum_steps=2"),
    ("remat", "--config.model.remat=full"),
    ("fsdp", "--config.mesh.data=1 --config.mesh.fsdp=2"),
  ],
)
def test_what_suffices_is_named_with_its_figures(told, case, change):
  (as_it_is, changed), (sentence, *_) = told[case]
  assert 1.1 * changed < as_it_is
  mib = lambda size: f"{size / 2**20:.1f} MiB"
  assert sentence == (
    f"the devices have too little memory for this run, which needs {mib(as_it_is)} of "
    f"{mib(1.1 * changed)}. By a dry run {change} would suffice ({mib(changed)})."
  )


@pytest.mark.slow
def test_without_any_that_suffices_it_says_what_remains(told):
  (as_it_is, changed), (_, _, sentence) = told["fsdp"]
  mib = lambda size: f"{size / 2**20:.1f} MiB"
  assert sentence == (
    f"the devices have too little memory for this run, which needs {mib(as_it_is)} of 0.0 MiB. "
    f"By a dry run --config.mesh.data=1 --config.mesh.fsdp=2 ({mib(changed)}) would not suffice. "
    "What remains is a smaller batch, image or model, or more or larger chips: `vit-jax plan "
    "--search` with this config finds what fits other chips."
  )


@pytest.mark.slow
def test_a_step_that_fits_is_not_to_blame(told):
  _, (_, sentence, _) = told["fsdp"]
  assert "(RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.), though by a dry run" in sentence
  assert "try a smaller --config.batch_eval (now 128)" in sentence


def exhausted(*unused):
  def step(*unused):
    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\n...")

  return step


PLAIN = r"allocating 9 bytes.*accum_steps=2 .*remat=full.*a smaller.*plan --search"


def test_without_a_limit_it_says_what_may_help(tmp_path, monkeypatch, caplog):
  monkeypatch.setattr(loop, "make_planned_step", exhausted)
  with pytest.raises(UserError, match=PLAIN):
    loop.train_and_evaluate(tiny.config(), tmp_path)
  assert "looking for" not in caplog.text


def test_the_state_is_gone_before_anything_is_compiled(tmp_path, monkeypatch, caplog):
  width = 17  # Of no other array.
  seen = []
  of_the_run = lambda: [x for x in jax.live_arrays() if width in x.shape]

  def memory_of(mesh):
    seen.append(len(of_the_run()))
    return 1000

  def find(plan, mesh, num_classes, limit):
    assert (num_classes, limit) == (10, 1000)
    seen.append(len(of_the_run()))
    raise KeyboardInterrupt

  monkeypatch.setattr(loop, "make_planned_step", exhausted)
  monkeypatch.setattr(room, "memory_of", memory_of)
  monkeypatch.setattr(fitting, "find", find)
  with pytest.raises(UserError, match=PLAIN):  # As if it were not known.
    loop.train_and_evaluate(tiny.config(model=dict(mlp_dim=width)), tmp_path)
  assert seen[0] > 0 and seen[1] == 0
  assert "looking for a setting that fits" in caplog.text


def failing(plan, message="RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes."):
  with room.explained(plan, mesh_lib.make_mesh(), 10):
    raise jax.errors.JaxRuntimeError(message)


def test_a_search_that_fails_does_not_hide_what_happened(monkeypatch, caplog):
  def find(*unused):
    raise RuntimeError("no compiler")

  monkeypatch.setattr(room, "memory_of", lambda mesh: 1000)
  monkeypatch.setattr(fitting, "find", find)
  with pytest.raises(UserError, match=PLAIN):
    failing(make_plan(tiny.config()))
  assert "could be looked for: no compiler" in caplog.text


def test_several_processes_do_not_look(monkeypatch, caplog):
  monkeypatch.setattr(room, "memory_of", lambda mesh: 1000)
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  with pytest.raises(UserError, match=PLAIN):
    failing(make_plan(tiny.config()))
  assert not caplog.records


def test_other_errors_pass(monkeypatch):
  with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
    failing(make_plan(tiny.config()), "INTERNAL: something else")


def test_devices_that_do_not_tell():
  assert room.memory_of(mesh_lib.make_mesh()) is None


def test_alternatives_that_do_not_suffice_are_named(monkeypatch):
  trials = [
    fitting.Trial((), None, False),
    fitting.Trial(("--config.accum_steps=8",), 17 * 2**30, False),
    fitting.Trial(("--config.model.remat=full",), None, False),
    fitting.Trial(("--config.batch=64", "--config.mesh.fsdp=4"), 10 * 2**30, True, False),
  ]
  monkeypatch.setattr(room, "memory_of", lambda mesh: 16 * 2**30)
  monkeypatch.setattr(fitting, "find", lambda *unused: trials)
  with pytest.raises(UserError) as caught:
    failing(make_plan(tiny.config()))
  assert str(caught.value) == (
    "the devices have too little memory for this run, which needs more than 16.0 GiB. By a dry "
    "run --config.batch=64 --config.mesh.fsdp=4 would suffice (10.0 GiB, with another batch and so "
    "another recipe), but not --config.accum_steps=8 (17.0 GiB) or --config.model.remat=full."
  )
