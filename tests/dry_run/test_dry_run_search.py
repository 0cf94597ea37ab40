# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The search: what it expects of layouts, what it compiles, and what it leaves out and why."""

import json
import pathlib
import types

import pytest

from vit_jax.cli import configuration
from vit_jax.configs import common, vit
from vit_jax.dry_run import chips, report, roofline, search
from vit_jax.errors import UserError
from vit_jax.training import plan as plan_lib

BENCHMARKS = pathlib.Path(__file__).parents[2] / "benchmarks"
PLAIN = dict(dataset="digits", total_steps=1, warmup_steps=0, batch=8)
WIDTH, MLP, LAYERS, PATCH, SIZE, CLASSES = 64, 256, 3, 8, 32, 10


def prepared(topology, *overrides):
  config = configuration.parse(
    [
      "--config=configs/vit.py:s16,imagenet2012",
      f"--config.model.hidden_size={WIDTH}",
      f"--config.model.mlp_dim={MLP}",
      f"--config.model.num_layers={LAYERS}",
      "--config.model.num_heads=4",
      f"--config.model.patch_size={PATCH}",
      f"--config.pp.crop={SIZE}",
      *overrides,
    ]
  )
  return report.prepare(config, topology)[0]


@pytest.fixture(scope="module")
def small():
  topology = chips.parse("v5e:4x4")
  plan = prepared(topology, "--config.batch=64", "--config.batch_eval=64")
  return plan, topology, search.measure(plan, CLASSES)


def test_candidates_divide_chips_heads_and_batch(small):
  plan, topology, _ = small
  found = search.candidates(plan, topology)
  assert {layout.remat for layout in found} == {"none", "dots", "full"}
  assert {layout.tensor for layout in found} == {1, 2, 4}  # Of four heads.
  for layout in found:
    assert layout.data * layout.fsdp * layout.tensor == 16
    assert layout.data * layout.fsdp * layout.accum_steps * layout.per_chip == plan.batch
  assert len({*found}) == len(found)


def test_a_batch_that_nothing_divides():
  topology = chips.parse("v5e:4x4")
  plan = prepared(topology, "--config.batch=65", "--config.batch_eval=64", "--config.accum_steps=1")
  with pytest.raises(UserError, match="no mesh of 16 devices divides batch=65"):
    search.candidates(plan, topology)


def test_what_shapes_tell(small):
  plan, _, needs = small
  tokens = (SIZE // PATCH) ** 2 + 1
  layer = 4 * tokens * WIDTH**2 + 2 * tokens**2 * WIDTH + 2 * tokens * WIDTH * MLP
  macs = 3 * (LAYERS * layer + WIDTH * CLASSES) + 2 * (tokens - 1) * PATCH**2 * 3 * WIDTH
  assert needs.operations["none"] == 2 * plan.batch * macs
  assert needs.operations["none"] <= needs.operations["dots"] < needs.operations["full"]
  assert needs.residuals["none"] > needs.residuals["dots"] > needs.residuals["full"]
  # Nothing but the inputs of the blocks, in float32, and little around them.
  assert 1 <= needs.residuals["full"] / (LAYERS * tokens * WIDTH * 4) < 3

  one = search.Layout(16, 1, 1, 1, "none", 4)
  split = search.Layout(1, 16, 1, 1, "none", 4)
  state = sum(size for _, _, size in needs.rows)
  saved = needs.memory(one) - needs.memory(split)
  parameters = sum(size for path, _, size in needs.rows if path.startswith("params/"))
  # All but the vectors; what `fsdp` gathers of a layer comes back.
  gathered = 4 * 4 * needs.parameters / LAYERS
  assert 0.9 < (saved + gathered) / ((state + 2.7 * parameters) * 15 / 16) <= 1


@pytest.mark.parametrize("model", ["B/16", pytest.param("L/16", marks=pytest.mark.slow)])
def test_what_is_expected_of_memory_is_rather_too_much(model):
  """Against programs that the TPU compiler made, as benchmarks/results/scaling.json keeps them."""
  kept = json.loads((BENCHMARKS / "results" / "scaling.json").read_text())["rows"].values()
  registered = f"ViT-{model.replace('/', '_')}"
  rows = [row for row in kept if row["model"] == registered and row["topology"][:3] == "v5p"]
  config = vit.get_config(f"{model.replace('/', '').lower()},imagenet2012")
  common.set_imagenet_from_scratch(config, batch=4096, warmup_epochs=5)
  config.mixup = config.cutmix = 0.0
  config.pretrained_dir, config.accum_steps = None, 1
  config.model.update(dtype="bfloat16", dropout_rate=0.0)
  plan, _ = report.prepare(config, chips.parse("cpu:1"), scan=True)
  needs = search.measure(plan, 1000)
  assert len(rows) >= 5
  for row in rows:
    data, fsdp, parts = row["mesh"]["data"], row["mesh"]["fsdp"], row["accum_steps"]
    share = 4096 // row["devices"]
    layout = search.Layout(data, fsdp, 1, parts, "dots", share // parts)
    # These rows do not count the batches of the next steps.
    total = row["memory_per_device"]["total"] + 8 * share * (224 * 224 * 3 + 4)
    assert 1 <= needs.memory(layout) / total < 1.45, row["topology"]


def fake(memory, seconds):
  """A compiler whose programs take what two functions of a layout say."""
  calls = []

  def compile_layout(layout):
    calls.append(layout)
    estimate = types.SimpleNamespace(images_per_second=(0.0, 64 / seconds(layout)), limit="compute")
    total = memory(layout)
    return types.SimpleNamespace(
      needs={"a step": total, "saving": 0},
      fits=total <= chips.CHIPS["v5e"].usable,
      estimate=estimate,
    )

  return compile_layout, calls


def test_the_best_of_what_fits_is_found_within_the_tries(small):
  plan, topology, needs = small
  layouts = search.candidates(plan, topology)
  seconds = lambda layout: needs.seconds(layout, topology)
  compile_layout, calls = fake(needs.memory, seconds)
  found = search.Search(
    plan, topology, tuple(search.try_out(layouts, needs, topology, compile_layout, 3))
  )
  assert len(calls) == 3 and len(found.trials) == len(layouts)
  assert found.best.layout == min(layouts, key=seconds)  # Here everything fits.
  assert {trial.outcome for trial in found.trials} == {"compiled", "not tried"}
  overrides = found.best.layout.overrides(plan)
  assert f"--config.model.remat={found.best.layout.remat}" in overrides
  assert "--config.model.scan_layers=False" in overrides  # What was compiled.
  assert search.Search(plan, topology, ()).to_dict()["assumptions"] == roofline.ASSUMPTIONS


def test_half_of_the_tries_go_to_different_meshes_and_the_rest_to_the_best(small):
  plan, topology, needs = small
  layouts = search.candidates(plan, topology)
  expected = lambda layout: needs.seconds(layout, topology)
  meshes = list(dict.fromkeys(layout.mesh for layout in sorted(layouts, key=expected)))
  # The compiler finds the fourth of them, by shapes, ten times as fast as these tell.
  best = meshes[3]
  seconds = lambda layout: expected(layout) / (10 if layout.mesh == best else 1)
  compile_layout, calls = fake(lambda layout: 1e9, seconds)
  trials = search.try_out(layouts, needs, topology, compile_layout, 8)
  assert [layout.mesh for layout in calls] == [*meshes[:4], *[best] * 4]
  assert len({*calls}) == 8 and any(layout.fsdp > 1 for layout in calls)
  assert search.Search(plan, topology, tuple(trials)).best.layout.mesh == best


def test_what_does_not_fit_is_not_compiled_again_with_more(small):
  plan, topology, needs = small
  layouts = search.candidates(plan, topology)
  # The compiler needs far more than shapes tell, unless everything is recomputed.
  memory = lambda layout: 1e9 if layout.remat == "full" else 1e11
  compile_layout, calls = fake(memory, lambda layout: needs.seconds(layout, topology))
  trials = search.try_out(layouts, needs, topology, compile_layout, 100)
  assert {layout.remat for layout in calls} == {"none", "dots", "full"}
  tried = [layout for layout in calls if layout.remat != "full"]
  assert 0 < len(tried) < len([layout for layout in layouts if layout.remat != "full"]) / 4
  pruned = [trial for trial in trials if trial.outcome == "pruned"]
  assert pruned and all(trial.why for trial in pruned)
  assert search.Search(plan, topology, tuple(trials)).best.layout.remat == "full"


def test_nothing_fits(small):
  plan, topology, needs = small
  compile_layout, calls = fake(lambda layout: 1e12, lambda layout: 1.0)
  layouts = search.candidates(plan, topology)
  found = search.try_out(layouts, needs, topology, compile_layout, 1000)
  assert search.Search(plan, topology, tuple(found)).best is None
  assert len(calls) < len(layouts) / 4


def test_only_towers_that_have_it_are_rematerialised():
  layout = search.Layout(1, 1, 1, 1, "full", 8)
  shown = lambda name: layout.overrides(plan_lib.make_plan({**PLAIN, "model": {"name": name}}))[5:]
  towers = ["--config.model.img.remat=full", "--config.model.txt.remat=full"]
  loops = ["--config.model.img.scan_layers=False", "--config.model.txt.scan_layers=False"]
  assert shown("LiT-L16S") == towers + loops
  assert shown("LiT-B16B") == [towers[0], loops[0]]  # BERT has no such fields.


def test_a_layer_is_a_share_of_what_is_left_for_the_way_back():
  mixer = dict(name="Mixer-S_16", hidden_dim=32, num_blocks=4, tokens_mlp_dim=16)
  plan = plan_lib.make_plan({**PLAIN, "model": mixer, "pp": dict(crop=32)})
  needs = search.measure(plan, CLASSES)
  assert needs.block == (needs.residuals["none"] - needs.residuals["full"]) / 4
