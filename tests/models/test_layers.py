# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Layers that families share: the branch that keeps the residual stream on CPU, and dropout."""

import collections
import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vit_jax
from vit_jax.models.layers import BatchNorm, GroupNorm, LayerNorm, MlpBlock

MODELS = {
  "ViT-Ti_16": dict(hidden_size=24, num_layers=2, mlp_dim=48, num_heads=3),
  "Mixer-S_16": dict(
    hidden_dim=24, num_blocks=2, tokens_mlp_dim=16, channels_mlp_dim=48, scan_layers=True
  ),
}
IMAGES = np.random.default_rng(7).normal(size=(2, 16, 24, 3)).astype(np.float32)


def relative_error(a, b):
  a, b = (np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(x)]) for x in (a, b))
  return np.linalg.norm(a - b) / np.linalg.norm(b)


@pytest.fixture(params=MODELS)
def case(request):
  """(loss(variables, images, train=...), variables with noise on every leaf)."""
  fields = MODELS[request.param]
  model = vit_jax.create_model(request.param, patch_size=8, num_classes=5, **fields)
  shapes = jax.eval_shape(model.init, jax.random.key(0), IMAGES)
  rng = np.random.default_rng(0)
  variables = jax.tree.map(lambda x: rng.normal(0.1, 0.3, x.shape).astype(np.float32), shapes)
  return lambda v, images, *, train: jnp.mean(model.apply(v, images, train=train) ** 2), variables


def test_gradients_are_those_without_the_branch(case):
  loss, variables = case
  gradient = jax.jit(jax.grad(loss, (0, 1)), static_argnames="train")
  ours, plain = (gradient(variables, IMAGES, train=train) for train in (True, False))
  assert relative_error(ours, plain) < 1e-6


def test_the_branch_is_for_training_on_cpu(case):
  loss, variables = case

  def has_branch(function, platform):
    """Whether one is left when XLA's CPU compiler compiles what was lowered for `platform`."""
    anywhere = [jax.export.DisabledSafetyCheck.platform()]
    export = jax.export.export(jax.jit(function), platforms=[platform], disabled_checks=anywhere)
    call = jax.jit(export(variables, IMAGES).call)
    return " conditional(" in call.lower(variables, IMAGES).compile().as_text()

  step = jax.grad(functools.partial(loss, train=True))
  assert {p for p in ("cpu", "cuda", "tpu") if has_branch(step, p)} == {"cpu"}
  assert not has_branch(functools.partial(loss, train=False), "cpu")


def test_forward_derivatives_and_batches_pass_the_branch(case):
  loss, variables = case
  gradient = jax.grad(functools.partial(loss, train=True))
  one = jax.jit(gradient)
  expected = one(variables, IMAGES)

  along = jax.jit(lambda v: jax.jvp(lambda v: loss(v, IMAGES, train=True), (v,), (v,))[1])
  dot = sum(jax.tree.leaves(jax.tree.map(np.vdot, expected, variables)))
  assert along(variables) == pytest.approx(dot, rel=1e-5)

  examples = jax.jit(jax.vmap(gradient, (None, 0)))(variables, IMAGES[:, None])
  average = lambda g: np.mean(g, axis=0)
  assert relative_error(jax.tree.map(average, examples), expected) < 1e-5
  other = jax.tree.map(lambda x: 1.1 * x, variables)
  both = jax.tree.map(lambda *pair: np.stack(pair), variables, other)
  members = jax.jit(jax.vmap(gradient, (0, None)))(both, IMAGES)
  separate = jax.tree.map(lambda *pair: np.stack(pair), expected, one(other, IMAGES))
  assert relative_error(members, separate) < 1e-5


def test_the_mlp_drops_what_both_of_its_layers_give():
  """At a rate of nearly 1: not even the last bias is left of it, and no hidden unit is."""
  x = np.random.default_rng(0).normal(size=(2, 5, 8)).astype(np.float32)
  variables = MlpBlock(16).init(jax.random.key(0), x, train=False)
  variables = jax.tree.map(lambda leaf: leaf + 0.5, variables)
  seen = []

  def record(call, args, kwargs, context):
    out = call(*args, **kwargs)
    if isinstance(context.module, nn.Dropout):
      seen.append(out)
    return out

  with nn.intercept_methods(record):
    y = MlpBlock(16, 1 - 1e-6).apply(variables, x, train=True, rngs={"dropout": jax.random.key(1)})
  assert [out.shape for out in seen] == [(2, 5, 16), (2, 5, 8)]
  assert not np.any(seen[0]) and not np.any(y)


TOKENS = dict(hidden_size=24, num_layers=2, mlp_dim=48, num_heads=3)
TOWERS = dict(img=dict(TOKENS, dropout_rate=0.0), txt=dict(TOKENS, dropout_rate=0.5))
STAGES = dict(depths=(1, 2), widths=(8, 16), drop_path_rate=0.5)
MOBILE = dict(widths=(8, 8), num_residuals=(1, 1), hidden_sizes=(16,), num_layers=(2,))
LAST = dict(TOWERS, txt=dict(TOWERS["txt"], num_classes=24))
# Dropouts of a rate above 0, stochastic depths and layer scales that an image passes in training.
DROPS = {  # In each block after attention, after both layers of the MLP; and after the positions.
  "ViT-Ti_16": (dict(TOKENS, dropout_rate=0.5), dict(Dropout=1 + 2 * 3)),
  "ViT-S_16": (
    dict(TOKENS, attention_dropout_rate=0.5, drop_path_rate=0.5, layer_scale_init=1.0),
    dict(Dropout=2, DropPath=4, LayerScale=4),
  ),
  "DeiT-Ti_16-distilled": (dict(TOKENS, dropout_rate=0.5), dict(Dropout=1 + 2 * 3)),
  "Mixer-S_16": (
    dict(hidden_dim=24, num_blocks=2, dropout_rate=0.5, drop_path_rate=0.5),
    dict(Dropout=2 * 4, DropPath=4),
  ),
  "Swin-T": (dict(depths=(1, 2), drop_path_rate=0.5), dict(DropPath=6)),
  "SwinV2-T-w8": (dict(depths=(1, 2), drop_path_rate=0.5), dict(DropPath=6)),
  "PoolFormer-S12": (STAGES, dict(DropPath=6)),
  "MobileViT-XXS": (dict(MOBILE, dropout_rate=0.5), dict(Dropout=2 * 3 + 1)),  # And the head's.
  "MobileViTV2-0.5": (dict(MOBILE, dropout_rate=0.5), dict(Dropout=2 * 3 + 1)),
  "LiT-B16B": (TOWERS, dict(Dropout=1 + 2 * 3)),  # BERT's follow both branches
  "LiT-L16Ti": (LAST, dict(Dropout=1 + 2 * 3)),  # and drop attention weights.
}


@pytest.mark.parametrize("name", DROPS)
def test_nothing_drops_less_than_it_says(name):
  fields, expected = DROPS[name]
  model = vit_jax.create_model(name, **fields)
  inputs = (jnp.zeros((2, 64, 64, 3)),)
  inputs += (jnp.ones((2, 16), jnp.int32),) if name.startswith("LiT") else ()
  found = collections.Counter()

  def record(call, args, kwargs, context):
    module, kind = context.module, type(context.module).__name__
    rate = kwargs.get("rate") if kind == "DropPath" else getattr(module, "rate", None)
    off = kind == "Dropout" and (not rate or kwargs.get("deterministic"))
    if kind in ("Dropout", "DropPath", "LayerScale") and not off:
      found[kind] += kind != "DropPath" or (rate is not None and kwargs["train"])
    return call(*args, **kwargs)

  def forward(key):
    variables = model.init(key, *inputs)
    rest = [collection for collection in variables if collection != "params"]
    with nn.intercept_methods(record):
      return model.apply(variables, *inputs, train=True, rngs={"dropout": key}, mutable=rest)

  jax.eval_shape(forward, jax.random.key(0))
  assert +found == collections.Counter(expected)


@pytest.mark.parametrize("scan_layers", [False, True])
@pytest.mark.parametrize("name, depth", [("ViT-Ti_16", "num_layers"), ("Mixer-S_16", "num_blocks")])
def test_what_is_kept_for_the_way_back_is_as_remat_says(name, depth, scan_layers):
  kept = {}
  for remat in ("none", "dots", "full"):
    fields = {depth: 3, "num_classes": 2, "remat": remat, "scan_layers": scan_layers}
    model = vit_jax.create_model(name, **fields)
    images = jax.ShapeDtypeStruct((4, 32, 32, 3), jnp.float32)
    variables = jax.eval_shape(lambda x, model=model: model.init(jax.random.key(0), x), images)
    back = lambda v, x, model=model: jax.vjp(lambda v: model.apply(v, x), v)[1]
    shapes = jax.tree.leaves(jax.eval_shape(back, variables, images))
    kept[remat] = sum(math.prod(x.shape) * x.dtype.itemsize for x in shapes)
  assert kept["full"] < kept["dots"] < kept["none"], kept


@pytest.mark.parametrize(
  "norm", [LayerNorm(), GroupNorm(num_groups=2), BatchNorm()], ids=lambda x: type(x).__name__
)
def test_norms_do_not_cancel(norm):
  """E[x^2] - E[x]^2 would lose all digits here, where the values are far from zero."""
  x = (300 + np.random.default_rng(0).normal(size=(4, 5, 5, 8))).astype(np.float32)
  train = {"train": True} if isinstance(norm, BatchNorm) else {}
  variables = norm.init(jax.random.key(0), x, **train)
  found, _ = norm.apply(variables, x, **train, mutable=["batch_stats"])
  exact = x.astype(np.float64)
  grouped = exact.reshape(4, 5, 5, 2, 4) if isinstance(norm, GroupNorm) else exact
  axes = {LayerNorm: (3,), GroupNorm: (1, 2, 4), BatchNorm: (0, 1, 2)}[type(norm)]
  mean, variance = grouped.mean(axes, keepdims=True), grouped.var(axes, keepdims=True)
  expected = ((grouped - mean) / np.sqrt(variance + norm.epsilon)).reshape(x.shape)
  assert relative_error(found, expected) < 1e-4
