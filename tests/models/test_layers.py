# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Layers that families share: the branch that keeps the residual stream in training on CPU."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vit_jax

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
