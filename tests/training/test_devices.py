# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Every kind of training gives the same losses on eight devices as on one, for the same batches."""

import json

import compiled
import jax
import numpy as np
import optax
import pytest
import tiny_run as tiny

from vit_jax.models.lit import example_inputs
from vit_jax.models.registry import create_model
from vit_jax.parallel import mesh as mesh_lib
from vit_jax.parallel import sharding
from vit_jax.parallel.mesh import MeshPlan
from vit_jax.training import objectives
from vit_jax.training.losses import hard_distillation
from vit_jax.training.state import create_state
from vit_jax.training.step import make_train_step

STEPS, BATCH, SIZE, CLASSES, HALF = 5, 16, 16, 5, (0.5,) * 3

SMALL = dict(hidden_size=16, num_layers=1, mlp_dim=32, num_heads=2)
TOWERS = dict(
  img=dict(SMALL, name="ViT-Ti_16", patch_size=4),
  txt=dict(SMALL, name="Text-Ti", num_classes=16, vocab_size=259, max_len=12),
)
LIT = "LiT-B16B_2"

# Name, fields, options of the objective, what is frozen, rate. Rounding differs between device
# counts, and grows in training: where norms follow convolutions, only small steps keep it small.
RUNS = {
  "vit": ("ViT-Ti_16", dict(SMALL, patch_size=4, dropout_rate=0.1), {}, None, 0.1),
  "hybrid": ("R+ViT-Ti_16", dict(SMALL, patch_size=2, stem_width=32), {}, None, 0.01),
  "mixer": (
    "Mixer-S_16",
    dict(hidden_dim=16, num_blocks=1, tokens_mlp_dim=8, channels_mlp_dim=32, patch_size=4),
    dict(mixup=0.4, num_classes=CLASSES),
    None,
    0.1,
  ),
  "bit": ("BiT-R50x1", dict(num_units=(1,), width_factor=0.5), {}, None, 0.01),
  "swin": (
    "Swin-T",
    dict(patch_size=2, embed_dim=16, depths=(2,), head_dim=8, window_size=4),
    {},
    None,
    0.1,
  ),
  "poolformer": ("PoolFormer-S12", dict(depths=(1,), widths=(16,)), {}, None, 0.1),
  "mobilevit": (
    "MobileViT-XXS",
    dict(widths=(8,), num_residuals=(1,), hidden_sizes=(16,), num_layers=(1,), final_width=0),
    {},
    None,
    0.01,
  ),
  "deit-distilled": (
    "DeiT-Ti_16-distilled",
    dict(SMALL, patch_size=4, drop_path_rate=0.1, average_heads=False),
    dict(
      teach=lambda kernel, images: images.reshape(len(images), -1) @ kernel,
      compare=hard_distillation,
      weight=0.5,
      cutmix=1.0,
      num_classes=CLASSES,
    ),
    None,
    0.1,
  ),
  "lit": (LIT, TOWERS, dict(loss="softmax"), None, 0.1),
  "lit-frozen": (LIT, dict(TOWERS, bias_init=-10.0), dict(loss="sigmoid"), "img/", 0.001),
}


MESHES = {
  "one": MeshPlan(data=1),
  "data": MeshPlan(data=8),
  "fsdp": MeshPlan(fsdp=8),
  "tensor": MeshPlan(data=4, tensor=2),
  "mixed": MeshPlan(replica=2, fsdp=2, tensor=2),
}


def losses(run, mesh, steps=STEPS):
  """The losses of the first steps, and the axes of the mesh that the state was split over."""
  name, fields, options, frozen, rate = RUNS[run]
  two_towers = "img" in fields
  model = create_model(name, **fields, **({} if two_towers else {"num_classes": CLASSES}))
  make_objective = objectives.contrastive if two_towers else objectives.classification
  make_objective = objectives.distillation if "teach" in options else make_objective
  mesh = mesh_lib.make_mesh(MESHES[mesh])
  optimizer = optax.sgd(rate, momentum=0.9)
  inputs = example_inputs(model, np.zeros((1, SIZE, SIZE, 3), np.float32))
  variables = compiled.noise(model, *inputs)
  if two_towers:  # Near their usual values, which no noise has.
    variables["params"] |= {"t": np.log([10.0], dtype=np.float32)}
    variables["params"] |= {"b": np.float32([-10.0])} if "bias_init" in fields else {}
  make_state = lambda variables, where=None: create_state(
    model, variables, optimizer, None, 0, shardings=where
  )
  shardings = sharding.shardings(jax.eval_shape(make_state, variables), mesh)
  state = make_state(variables, shardings)
  step = make_train_step(
    make_objective(model, mean=HALF, std=HALF, **options),
    optimizer,
    optax.constant_schedule(rate),
    mesh,
    frozen=frozen,
    state_shardings=shardings,
  )
  rng = np.random.default_rng(1)
  teacher = rng.normal(size=(SIZE * SIZE * 3, CLASSES)).astype(np.float32)
  found = []
  for _ in range(steps):
    batch = {
      "image": rng.integers(256, size=(BATCH, SIZE, SIZE, 3), dtype=np.uint8),
      "label": rng.integers(CLASSES, size=BATCH).astype(np.int32),
      "tokens": rng.integers(259, size=(BATCH, 12)).astype(np.int32),
    }
    state, metrics = step(state, mesh_lib.place_batch(batch, mesh), teacher)
    found.append(float(metrics["loss"]))
  leaves = jax.tree.leaves(state)
  assert {len(x.sharding.device_set) for x in leaves} == {mesh.size}
  assert jax.tree.map(lambda x: x.sharding, state) == shardings
  return found, sorted({axis for x in leaves for axis in x.sharding.spec if axis})


PROGRAM = """
import json, sys
from test_devices import losses
run, steps, *meshes = sys.argv[1:]
print(json.dumps({mesh: losses(run, mesh, int(steps)) for mesh in meshes}))
"""


def _compare(run, steps, meshes, rtol):
  # LLVM's optimizations would take longer than all the rest; splitting happens before them.
  flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
  done = tiny.run_python(PROGRAM, run, steps, "one", *meshes, XLA_FLAGS=flags)
  assert done.returncode == 0, done.stderr
  found = json.loads(done.stdout)
  one, axes = found.pop("one")
  assert not axes
  assert len({*one}) == steps and np.ptp(one) > 5e-3  # They learn, from another batch every time.
  for mesh, (losses, axes) in found.items():
    split = {"data": [], "fsdp": ["fsdp"], "tensor": ["tensor"], "mixed": ["fsdp", "tensor"]}[mesh]
    if run == "bit":  # It has neither heads nor hidden units.
      split = [axis for axis in split if axis != "tensor"]
    assert axes == split, mesh
    np.testing.assert_allclose(losses, one, rtol=rtol, err_msg=mesh)


@pytest.mark.parametrize("run", ["vit", "swin", "deit-distilled"])
def test_eight_devices_compute_what_one_does(run):
  # The largest difference when this was written was 6e-7, of the sum over all pairs.
  _compare(run, STEPS, ("mixed",), 2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("run", RUNS)
def test_every_mesh_computes_what_one_device_does(run):
  _compare(run, 20, tuple(MESHES)[1:], 2e-6)
