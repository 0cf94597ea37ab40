# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""`vit-jax plan` of a tiny ViT, for eight CPU devices and, where its compiler is here, for TPUs."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from vit_jax.cli import app
from vit_jax.dry_run import chips
from vit_jax.dry_run.report import SCANNED

WIDTH, MLP, LAYERS, HEADS, PATCH, SIZE, CLASSES, BATCH = 128, 512, 3, 4, 8, 32, 24, 64
TINY = [
  "plan",
  "--config=configs/vit.py:s16,imagenet2012",
  f"--config.model.hidden_size={WIDTH}",
  f"--config.model.mlp_dim={MLP}",
  f"--config.model.num_layers={LAYERS}",
  f"--config.model.num_heads={HEADS}",
  f"--config.model.patch_size={PATCH}",
  f"--config.pp.crop={SIZE}",
  f"--config.batch={BATCH}",
  "--config.batch_eval=64",
  f"--classes={CLASSES}",
  "--json",
]
LIBTPU = pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None,
  reason="libtpu is not installed: pip install 'vit_jax[tpu]'",
)


def planned(*calls):
  """Reports of several calls, from one process of its own; those of cpu:8 need eight devices."""
  program = (
    "import contextlib, io, json, sys\n"
    "from vit_jax.cli import app\n"
    "for call in json.loads(sys.argv[1]):\n"
    "  out = io.StringIO()\n"
    "  with contextlib.redirect_stdout(out):\n"
    "    code = app.main(call)\n"
    "  assert code == 0, call\n"
    "  print(json.dumps(out.getvalue()))\n"
  )
  environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
  done = subprocess.run(
    [sys.executable, "-c", program, json.dumps([[*TINY, *call] for call in calls])],
    capture_output=True,
    text=True,
    env=environment,
  )
  assert done.returncode == 0, done.stderr
  return [json.loads(json.loads(line)) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def reports():
  """By name, so that all of them start one process."""
  calls = {
    "all three": ["--mesh=data=2,fsdp=2,tensor=2"],
    "fsdp=8": ["--mesh=fsdp=8", "--config.model.remat=full", "--config.accum_steps=1"],
    "plain": ["--mesh=data=8", "--config.accum_steps=1"],
    "tensor=8": ["--mesh=tensor=8", "--config.accum_steps=1", "--config.batch=8"],
  }
  common = ["--topology=cpu:8", "--parameters", "--scan"]
  found = planned(*[[*common, *call] for call in calls.values()])
  return dict(zip(calls, found, strict=True))


def test_arguments_are_the_state_and_the_batch(reports):
  for name, parts in (("all three", 4), ("fsdp=8", 8), ("plain", 8)):
    report = reports[name]
    batch = BATCH * (SIZE * SIZE * 3 + 4) // parts  # uint8 images and int32 labels.
    state = sum(row["device_bytes"] for row in report["arrays"])
    assert state == report["state_bytes_per_device"]
    memory = report["memory_per_device"]
    assert memory["arguments"] == state + batch
    judged = 64 * (SIZE * SIZE * 3 + 4 + 4) // parts  # Of batch_eval=64, with masks.
    held = report["held_per_device"]
    assert state < held.pop("saving") <= 1.5 * state  # At least two devices have each array.
    assert held == {"step": state + batch, "evaluation": state + judged, "end": state + judged}
    # The host sends so many more steps before it looks at the result of one.
    assert memory["ahead"] == 8 * batch
    others = ("arguments", "outputs", "temporaries", "code", "ahead")
    assert memory["total"] == sum(memory[name] for name in others) - memory["aliased"]
  whole, some, least = (
    reports[name]["state_bytes_per_device"] for name in ("plain", "all three", "fsdp=8")
  )
  assert whole == reports["plain"]["state_bytes"] > 3.7 * some > 3.7 * 1.8 * least


def test_operations_are_those_of_the_formula(reports):
  tokens = (SIZE // PATCH) ** 2 + 1
  layer = 4 * tokens * WIDTH**2 + 2 * tokens**2 * WIDTH + 2 * tokens * WIDTH * MLP
  patches = (tokens - 1) * PATCH**2 * 3 * WIDTH
  # Backwards every product has two of its own, but nothing asks for the gradient of the pixels.
  macs = 3 * (LAYERS * layer + WIDTH * CLASSES) + 2 * patches
  for name in ("all three", "fsdp=8", "plain"):
    assert reports[name]["flops"]["model"] == 2 * BATCH * macs
  assert reports["plain"]["flops"]["hardware"] == 2 * BATCH * macs
  again = reports["fsdp=8"]["flops"]["hardware"] - 2 * BATCH * macs
  # Nothing backwards needs what the last product of a block gives.
  assert again == 2 * BATCH * LAYERS * (layer - tokens * WIDTH * MLP)


def test_operations_of_a_device_show_what_several_of_them_compute(reports):
  share = lambda name: reports[name]["flops"]["hardware"] / 8
  # Products with a vector, of the classes' means, are not among those of the compiled program.
  assert reports["plain"]["operations_per_device"] == pytest.approx(share("plain"), rel=1e-3)
  assert reports["plain"]["replication"] == pytest.approx(1, rel=1e-3)
  # Eight devices cannot share four heads: each computes all of the attention.
  tokens = (SIZE // PATCH) ** 2 + 1
  attention = 3 * LAYERS * (4 * tokens * WIDTH**2 + 2 * tokens**2 * WIDTH)
  split = reports["tensor=8"]
  assert split["operations_per_device"] > share("tensor=8") + 7 / 8 * 2 * 8 * attention
  assert split["replication"] > 2


def test_what_is_sent_goes_along_the_axes_that_it_should(reports):
  axes = lambda name: {
    axis for one in reports[name]["collectives"] for axis in one["axes"] if one["bytes"] > 1000
  }
  kinds = lambda name: {one["kind"] for one in reports[name]["collectives"]}
  assert axes("plain") == {"data"} and "all-gather" not in kinds("plain")
  assert axes("fsdp=8") == {"fsdp"} and "all-gather" in kinds("fsdp=8")
  assert axes("all three") == {"data", "fsdp", "tensor"}
  # Gradients are summed in float32: a parameter's four bytes at least, at most a little more.
  (reduced,) = [one for one in reports["plain"]["collectives"] if one["bytes"] > 1000]
  assert 1.0 <= reduced["bytes"] / (4 * reports["plain"]["parameters"]) < 1.1


def test_it_says_what_it_assumes(reports):
  report = reports["plain"]
  assert (report["num_classes"], report["classes_from"]) == (CLASSES, "--classes")
  assert SCANNED in report["notes"]
  assert any("weights" in note for note in report["notes"])
  assert report["estimate"] is None and report["fits"] is None and report["assumptions"] is None


@LIBTPU
def test_a_tpu_program_is_compiled_without_a_tpu():
  (report,) = planned(
    ["--topology=v5litepod-4", "--mesh=data=2,fsdp=2", "--config.model.dtype=bfloat16", "--scan"]
  )
  assert report["fits"] is True and report["devices"] == 4 and report["topology"] == "v5e:2x2"
  assert report["replication"] == pytest.approx(1, rel=0.02)  # The compiler writes convolutions.
  assert report["flops"]["bfloat16"] > 0.9
  kinds = {(one["kind"], *one["axes"]) for one in report["collectives"]}
  assert ("all-gather", "fsdp") in kinds
  assert any("data" in axes for _, *axes in kinds)
  estimate = report["estimate"]
  assert 0 < estimate["mfu"]["sequential"] <= estimate["mfu"]["overlapped"] < 1
  assert report["memory_per_device"]["arguments"] >= report["state_bytes_per_device"]
  assert report["memory_for_programs"] == 15.75 * 2**30
  assert "1 us for each hop" in report["assumptions"]
  assert 0 < estimate["latency_seconds"] <= estimate["ici_seconds"]


TOO_LARGE = """
import sys
import jax
from vit_jax.dry_run import chips
device = chips.devices(chips.parse(sys.argv[1]))[0]
place = jax.sharding.SingleDeviceSharding(device)
rows = jax.ShapeDtypeStruct((2**17, 2**20), "float32", sharding=place)  # 512 GiB.
try:
  jax.jit(lambda rows: jax.numpy.sort(rows, axis=0) + 1).lower(rows).compile()
except jax.errors.JaxRuntimeError as error:
  print(str(error).splitlines()[0])
"""


@LIBTPU
@pytest.mark.slow
@pytest.mark.parametrize("name", chips.CHIPS)
def test_programs_get_the_memory_that_the_compiler_says(name):
  smallest = "x".join(map(str, chips.CHIPS[name].small[-1]))
  call = [sys.executable, "-c", TOO_LARGE, f"{name}:{smallest}"]
  done = subprocess.run(call, capture_output=True, text=True, timeout=300)
  usable = f"exceeds available HBM ({chips.CHIPS[name].usable / 2**30:.2f}G)"
  assert usable in done.stdout, done.stderr


def test_mistakes_are_one_sentence(capsys, monkeypatch):
  quick = ["plan", "--config=configs/quickstart.py"]

  def refused(*arguments):
    assert app.main([*quick, *arguments]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and error[0].startswith("vit-jax plan: ")
    return error[0]

  assert "did you mean 'v5p'" in refused("--topology=v5q:4x4")
  assert "v5e comes as 1x1, 2x2" in refused("--topology=v5e:4x5")
  assert "names data twice" in refused("--topology=cpu:8", "--mesh=data=4,data=2")
  assert "write sizes of replica, data" in refused("--topology=cpu:1", "--mesh=model=2")
  assert "name a TPU slice" in refused("--topology=cpu:1", "--search")
  for ignored in (["--tries=3"], ["--search", "--mesh=fsdp=2"], ["--search", "--parameters"]):
    assert "has no effect" in refused("--topology=v5e:2x2", *ignored)
  assert "--classes=0" in refused("--topology=cpu:1", "--classes=0")
  assert "no config key 'bach'" in refused("--topology=cpu:1", "--config.bach=2")
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  assert 'pip install "vit_jax[tpu]"' in refused("--topology=v5e:4x4")


def test_variables_are_set_for_the_compiler(monkeypatch):
  for name in ("TPU_SKIP_MDS_QUERY", "XLA_FLAGS"):
    monkeypatch.setenv(name, "--xla_other=1")
  monkeypatch.delenv("TPU_SKIP_MDS_QUERY")
  chips.prepare(chips.parse("v5e:4x4"))
  assert os.environ["TPU_SKIP_MDS_QUERY"] == "1" and os.environ["JAX_PLATFORMS"] == "cpu"
  chips.prepare(chips.parse("cpu:6"))
  chips.prepare(chips.parse("cpu:4"))
  flags = os.environ["XLA_FLAGS"].split()
  assert flags[0] == "--xla_other=1"
  assert [f for f in flags if "count" in f] == ["--xla_force_host_platform_device_count=4"]
