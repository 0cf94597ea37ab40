# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Where a state lies on a mesh, and which examples a process reads."""

import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_run as tiny
from jax.sharding import AbstractMesh
from jax.sharding import PartitionSpec as P

from vit_jax.errors import UserError
from vit_jax.models.lit import example_inputs
from vit_jax.models.registry import create_model, list_models
from vit_jax.parallel import mesh as mesh_lib
from vit_jax.parallel import sharding
from vit_jax.parallel.mesh import MeshPlan
from vit_jax.training import optim
from vit_jax.training.plan import make_plan
from vit_jax.training.state import create_state

SIZES = dict(replica=1, data=1, fsdp=4, tensor=2)
BLOCK = "params/Transformer/encoderblock_0/"
ATTENTION = BLOCK + "MultiHeadDotProductAttention_1/"


@pytest.mark.parametrize(
  "path, shape, axes",
  [
    (ATTENTION + "query/kernel", (768, 12, 64), P("fsdp", "tensor")),
    (ATTENTION + "query/bias", (12, 64), P("tensor")),
    (ATTENTION + "out/kernel", (12, 64, 768), P("tensor", None, "fsdp")),
    (ATTENTION + "out/bias", (768,), P()),
    (BLOCK + "MlpBlock_3/Dense_0/kernel", (768, 3072), P("fsdp", "tensor")),
    (BLOCK + "MlpBlock_3/Dense_0/bias", (3072,), P("tensor")),
    (BLOCK + "MlpBlock_3/Dense_1/kernel", (3072, 768), P("tensor", "fsdp")),
    (BLOCK + "LayerNorm_0/scale", (768,), P()),
    # Three heads on two devices: the heads stay whole, the rest is as it was.
    (ATTENTION + "query/kernel", (192, 3, 64), P("fsdp")),
    # Scanned layers have an axis in front, which nothing is split along.
    (
      "opt_state/1/0/mu/Transformer/encoderblock/MlpBlock_0/Dense_0/kernel",
      (12, 768, 3072),
      P(None, "fsdp", "tensor"),
    ),
    ("params/Transformer/encoderblock/LayerNorm_0/scale", (12, 768), P()),
    # What the table does not name: the longest axis that is a multiple.
    ("params/embedding/kernel", (16, 16, 3, 768), P(None, None, None, "fsdp")),
    ("params/head/kernel", (768, 1001), P("fsdp")),
    ("params/txt/token_embedding/embedding", (30522, 768), P(None, "fsdp")),
    ("params/block1/unit1/conv1/kernel", (1, 1, 7, 9), P()),
    ("step", (), P()),
  ],
)
def test_the_axes_of_an_array(path, shape, axes):
  assert sharding.spec(path, shape, SIZES) == axes
  assert sharding.spec(path, shape, dict.fromkeys(mesh_lib.AXES, 1)) == P()


@pytest.mark.parametrize(
  "name, size",
  [
    ("ViT-L_16", 224),
    ("R50+ViT-B_16", 224),
    ("Mixer-B_16", 224),
    ("BiT-R50x1", 224),
    ("DeiT-B_16-distilled", 224),
    ("Swin-B", 224),
    ("SwinV2-B-w8", 256),
    ("PoolFormer-M48", 224),
    ("MobileViT-S", 256),
    ("MobileViTV2-1.0", 256),
    ("LiT-B16B_2", 224),
  ],
)
def test_eight_ways_split_every_family(name, size):
  model = create_model(name)
  inputs = example_inputs(model, jnp.zeros((1, size, size, 3)))
  shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), *inputs, train=False))
  mesh = AbstractMesh((1, 1, 8, 1), mesh_lib.AXES)
  sharding.check(shapes, mesh, 0.02)
  rows = sharding.summary(shapes, mesh)
  assert sum(row.bytes for row in rows) == sum(x.nbytes for x in map(_zeros, _leaves(shapes)))
  each = sum(row.device_bytes for row in rows)
  assert each < 0.15 * sum(row.bytes for row in rows)  # An eighth, and what is whole.


EIGHT, MIXED = dict(replica=1, data=1, fsdp=8, tensor=1), dict(replica=1, data=1, fsdp=2, tensor=4)
TEXT = dict(name="Text-Ti", num_layers=2)
# One of each kind of name, and what no row of the registry has. Two layers tell as much as twelve.
FAMILIES = [
  (name, {}) for name in {n.split("-")[0]: n for n in reversed(list_models())}.values()
] + [
  ("ViT-S_16", dict(position_embedding="learned_2d", classifier="map")),
  ("ViT-S_16", dict(position_embedding="relative", layer_scale_init=0.1)),
  ("DeiT-S_16-distilled", {}),
  # Eight layers on eight devices; widths of the number of layers, and prime ones.
  ("ViT-S_16", dict(num_layers=8, hidden_size=8, num_heads=8, mlp_dim=8)),
  ("ViT-S_16", dict(num_layers=8, hidden_size=21, num_heads=3, mlp_dim=13)),
  ("Mixer-S_16", dict(num_blocks=8, hidden_dim=8, tokens_mlp_dim=8, channels_mlp_dim=8)),
  ("Mixer-S_16", dict(num_blocks=8, hidden_dim=13, tokens_mlp_dim=7, channels_mlp_dim=11)),
  ("LiT-B16B_2", dict(img=dict(name="Mixer-S_16", num_classes=768), txt=TEXT, bias_init=-10.0)),
]


def _shapes(name, fields, scanned):
  """The shape of every leaf by its path; None if the model cannot scan over its layers."""
  scan = {"scan_layers": True} if scanned else {}
  if "img" in fields:
    fields = {**fields, **{tower: {**fields[tower], **scan} for tower in ("img", "txt")}}
    scan = {}
  if scan and not hasattr(create_model(name), "scan_layers"):
    return None
  model = create_model(name, **fields, **scan)
  size = 256 if "V2" in name or "Mobile" in name else 224
  inputs = example_inputs(model, jnp.zeros((1, size, size, 3)))
  shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), *inputs, train=False))
  leaves, _ = jax.tree_util.tree_flatten_with_path(shapes)
  return {sharding.path_of(path): leaf.shape for path, leaf in leaves}


@pytest.mark.parametrize("name, fields", FAMILIES)
def test_every_leaf_of_every_family_is_in_the_table(name, fields):
  """Norms, biases and scalars stay whole under `fsdp`, and scanned layers lie as single ones."""
  single, scanned = _shapes(name, fields, False), _shapes(name, fields, True)
  for sizes in (EIGHT, MIXED):
    for path, shape in single.items():
      assert any(re.search(f"(^|/)({end})$", path) for end, _ in sharding.TABLE), path
      axes = sharding.spec(path, shape, sizes)
      if len(shape) < 2 or path.endswith("/bias"):
        assert "fsdp" not in axes, path
      for axis, length in zip(axes, shape, strict=False):
        assert axis is None or length % sizes[axis] == 0, path
    for path, shape in (scanned or {}).items():
      axes, alone = sharding.spec(path, shape, sizes), path
      if path not in single:
        alone = re.sub(r"(encoderblock|MixerBlock)/", r"\1_0/", path)
        assert axes == P() or axes[0] is None, path  # Not along the layers.
        axes, shape = P(*axes[1:]), shape[1:]
      assert shape == single[alone] and axes == sharding.spec(alone, shape, sizes), path


def test_rows_that_are_looked_up_stay_whole():
  for path in ("txt/Embed_0/embedding", "txt/token_embedding/embedding"):
    assert sharding.spec(path, (32_000, 512), SIZES) == P(None, "fsdp")


def _leaves(tree):
  return jax.tree.leaves(tree)


def _zeros(x):
  return np.broadcast_to(np.zeros((), x.dtype), x.shape)


def test_optimizer_and_average_lie_with_their_parameters():
  config = tiny.config(ema_decay=0.99)
  plan = make_plan(config)
  model = create_model(plan.model.name, **plan.model.overrides, num_classes=10)
  images = jnp.zeros((1, 8, 8, 1))
  state = jax.eval_shape(
    lambda: create_state(model, None, optim.make_optimizer(plan), images, 0, ema=True)
  )
  axes = {
    row.path: row.axes for row in sharding.summary(state, AbstractMesh((1, 1, 2, 2), mesh_lib.AXES))
  }
  kernel = "Transformer/encoderblock_0/MlpBlock_0/Dense_0/kernel"
  found = {path: spec for path, spec in axes.items() if path.endswith(kernel)}
  assert len(found) == 4 and {*found.values()} == {P("fsdp", "tensor")}  # With mu, nu and ema.


def test_what_is_left_whole_is_refused():
  shapes = {"params": {"a": {"kernel": jax.ShapeDtypeStruct((6, 6), jnp.float32)}}}
  mesh = AbstractMesh((1, 1, 4, 1), mesh_lib.AXES)
  with pytest.raises(UserError, match=r"fsdp=4 leaves 100% .*params/a/kernel \[6, 6\].*max_whole"):
    sharding.check(shapes, mesh, 0.02)
  sharding.check(shapes, mesh, 1.0)
  with pytest.raises(UserError, match="tensor=2 splits nothing"):
    sharding.check(shapes, AbstractMesh((1, 1, 1, 2), mesh_lib.AXES), 1.0)


def _mesh(processes, axes):
  """A mesh whose devices belong to processes; all that `reader` looks at."""
  devices = np.array([types.SimpleNamespace(process_index=p) for p in processes]).reshape(axes)
  return types.SimpleNamespace(devices=devices, shape=dict(zip(mesh_lib.AXES, axes, strict=True)))


@pytest.mark.parametrize(
  "processes, axes, shares",
  [
    ([0, 0, 1, 1], (1, 4, 1, 1), [(0, 2), (1, 2)]),
    ([0, 0, 1, 1], (1, 1, 4, 1), [(0, 2), (1, 2)]),
    ([0, 0, 1, 1], (1, 2, 1, 2), [(0, 2), (1, 2)]),
    ([0, 0, 1, 1], (1, 1, 1, 4), [(0, 1), (0, 1)]),  # Both see all examples.
    ([0, 1, 2, 3], (2, 1, 1, 2), [(0, 2), (0, 2), (1, 2), (1, 2)]),
    ([1, 1, 0, 0], (1, 4, 1, 1), [(1, 2), (0, 2)]),
    ([0, 1, 0, 1], (1, 4, 1, 1), [(0, 2), (1, 2)]),
  ],
)
def test_each_process_reads_its_share(processes, axes, shares):
  mesh = _mesh(processes, axes)
  assert [mesh_lib.reader(mesh, p) for p in sorted({*processes})] == shares


def test_shares_that_overlap_are_refused():
  with pytest.raises(UserError, match=r"mesh.tensor=3 lies across 2 processes"):
    mesh_lib.reader(_mesh([0, 0, 0, 0, 1, 1], (1, 2, 1, 3)), 0)


@pytest.mark.parametrize(
  "plan, words",
  [
    (MeshPlan(data=1000), "there are"),
    (MeshPlan(data=-1, fsdp=-1), "several axes of size -1"),
    (MeshPlan(fsdp=3), "asks for 3 devices.*a number that divides"),
  ],
)
def test_a_mesh_that_does_not_fit(plan, words):
  with pytest.raises(UserError, match=words):
    mesh_lib.make_mesh(plan)


def test_a_mesh_that_leaves_a_process_out_is_refused():
  devices = [types.SimpleNamespace(platform="gpu", process_index=i // 4) for i in range(8)]
  with pytest.raises(UserError, match="leaves nothing to do to 1 of 2 processes"):
    mesh_lib.make_mesh(MeshPlan(data=4), devices)
