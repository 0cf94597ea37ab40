# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""`config.frozen` of models with batch norms: which statistics follow the batches, which stay."""

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest
import tiny_run as tiny
from compiled import apply

from vit_jax.models.layers import BatchNorm
from vit_jax.models.registry import create_model
from vit_jax.parallel import mesh as mesh_lib
from vit_jax.training import loop, objectives, optim
from vit_jax.training.plan import make_plan
from vit_jax.training.state import create_state
from vit_jax.training.step import make_train_step
from vit_jax.workdir import run_info

SMALL = dict(
  stem_width=8,
  widths=(8, 16),
  num_residuals=(1, 1),
  hidden_sizes=(16,),
  num_layers=(1,),
  final_width=16,
)
MODELS = {"MobileViT-XXS": dict(SMALL, num_heads=2), "MobileViTV2-0.5": dict(SMALL, final_width=0)}
HALF = (0.5,) * 3


class Part(nn.Module):
  @nn.compact
  def __call__(self, x, train):
    x = x + nn.Dense(3, name="attention")(x)
    return nn.relu(BatchNorm(name="norm")(nn.Dense(3, name="conv")(x), train=train))


class Stack(nn.Module):
  """Compiles in a second, with parts that are named as those of the models are."""

  num_classes: int

  @nn.compact
  def __call__(self, x, train=False):
    for name in ("stem", *(f"stage_{k}" for k in range(5))):
      x = Part(name=name)(x, train)
    return nn.Dense(self.num_classes, name="head")(x.mean((1, 2)))


def make_model(name):
  return create_model(name, num_classes=5, **MODELS[name]) if name in MODELS else Stack(5)


def batch_of(seed=0):
  rng = np.random.default_rng(seed)
  images = rng.integers(256, size=(8, 16, 16, 3), dtype=np.uint8)
  return {"image": images, "label": rng.integers(5, size=8).astype(np.int32)}


def trained(name, frozen, steps=2, accum_steps=1):
  """The model, its variables before and after some steps, and the first step's metrics."""
  model, mesh = make_model(name), mesh_lib.make_mesh()
  shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), np.zeros((1, 16, 16, 3))))
  rng = np.random.default_rng(1)  # No leaf is as it is initialised.
  start = jax.tree.map(lambda x: rng.uniform(0.2, 0.6, x.shape).astype(np.float32), shapes)
  optimizer = optax.sgd(0.05)
  where = mesh_lib.replicated(mesh)
  state = create_state(model, start, optimizer, None, 0, shardings=where, ema=True)
  objective = objectives.classification(model, mean=HALF, std=HALF)
  rate = optax.constant_schedule(0.05)
  options = dict(frozen=frozen, accum_steps=accum_steps, ema_decay=0.9)
  step = make_train_step(objective, optimizer, rate, mesh, **options)
  state, first = step(state, batch_of(0), None)
  for seed in range(1, steps):
    state, _ = step(state, batch_of(seed), None)
  return model, start, state, first


def norms_of(tree):
  """The paths of modules with statistics."""
  flat = jax.tree_util.tree_flatten_with_path(tree)[0]
  return {jax.tree_util.keystr(path[:-1], simple=True, separator="/"): None for path, _ in flat}


def moved(before, after):
  """The paths of arrays that are no longer the same, bit for bit."""
  flat = jax.tree_util.tree_flatten_with_path(before)[0]
  return {
    jax.tree_util.keystr(path, simple=True, separator="/")
    for (path, old), new in zip(flat, jax.tree.leaves(after), strict=True)
    if old.tobytes() != np.asarray(new).tobytes()
  }


# A pattern, and which norms it freezes of all.
PATTERNS = {
  "head": lambda norm: False,
  ".*attention/": lambda norm: False,
  "stem/norm": lambda norm: norm == "stem/norm",
  "stem/norm/scale": lambda norm: False,  # Its bias is trained.
  ".*kernel": lambda norm: False,
  "stem|stage_0": lambda norm: norm.startswith(("stem/", "stage_0")),
  "(?!head)": lambda norm: True,
}


@pytest.mark.parametrize(
  "name, pattern",
  [
    *(("Stack", pattern) for pattern in PATTERNS),
    ("MobileViT-XXS", "stem|stage_0"),
    ("MobileViTV2-0.5", "(?!head)"),
  ],
)
def test_the_statistics_of_frozen_norms_stay_and_all_others_follow(name, pattern):
  _, start, state, _ = trained(name, pattern)
  norms = norms_of(start["batch_stats"])
  assert "stem/norm" in norms and len(norms) > 5
  following = {norm for norm in norms if not PATTERNS[pattern](norm)}
  found = moved(start["batch_stats"], state.collections["batch_stats"])
  assert found == {f"{norm}/{kind}" for norm in following for kind in ("mean", "var")}
  mask = tiny.leaves(optim.frozen_mask(start["params"], pattern))
  before, after = tiny.leaves(start["params"]), tiny.leaves(state.params)
  stays = {path for path in before if before[path].tobytes() == after[path].tobytes()}
  assert stays >= {path for path, frozen in mask.items() if frozen}
  assert any("'head'" in path for path in stays) == (pattern == "head" or pattern == ".*kernel")
  assert moved(start["batch_stats"], state.ema["batch_stats"]) == found


@pytest.mark.parametrize("accum_steps", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_head_is_trained_on_the_features_of_evaluation(accum_steps):
  model, start, state, first = trained("MobileViT-XXS", "(?!head)", accum_steps=accum_steps)
  batch = batch_of(0)
  images = batch["image"].astype(np.float32) / 127.5 - 1
  loss = lambda logits: float(
    optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean()
  )
  assert float(first["loss"]) == pytest.approx(loss(apply(model, start, images)), rel=1e-5)
  after = model.apply(state.variables, images, capture_intermediates=True, train=False)[1]
  before = model.apply(start, images, capture_intermediates=True, train=False)[1]
  assert {path.split("/")[1] for path in moved(*map(jax.device_get, (before, after)))} == {
    "__call__", "head"
  }  # fmt: skip
  # By the batch's statistics it would be another number.
  trains = apply(model, start, images, train=True, mutable=("batch_stats",))[0]
  assert loss(trains) != pytest.approx(float(first["loss"]), rel=1e-2)


def test_a_run_trains_the_head_alone(tmp_path):
  model = dict(name="MobileViT-XXS", **MODELS["MobileViT-XXS"])
  config = tiny.config(total_steps=3, warmup_steps=0, frozen="(?!head)", pp=dict(crop=16))
  config.model = model
  assert make_plan(config).frozen
  loop.train_and_evaluate(config, tmp_path / "short")
  _, first, _ = run_info.load_run(tmp_path / "short", "last")
  config.total_steps = 6
  loop.train_and_evaluate(config, tmp_path / "long")
  _, last, _ = run_info.load_run(tmp_path / "long", "last")
  assert moved(*map(jax.device_get, (first, last))) == {"params/head/bias", "params/head/kernel"}
