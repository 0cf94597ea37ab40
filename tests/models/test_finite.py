# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Gradients are finite and moderate for every family, also where there is nothing to normalise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from small_models import QUICK, SLOW

import vit_jax
from vit_jax.models import lit, swin_v2
from vit_jax.models.layers import SHORTEST, BatchNorm, GroupNorm, LayerNorm
from vit_jax.models.resnet import STANDARDIZATION, StdConv

# What one norm may multiply a gradient with. Images of noise have gradients below 100 here. Without
# care for zeros they were NaN, up to 1e17 in two blocks and 3e21 in two stages of a MobileViT.
BOUND = 1 / SHORTEST


def pictures(size):
  noise = np.random.default_rng(0).normal(size=(2, *size, 3)).astype(np.float32)
  square = noise.copy()
  square[:, : size[0] // 2, : size[1] // 2] = 0
  return {
    "zeros": 0 * noise,
    "ones": np.ones_like(noise),
    "noise": noise,
    "noise x 1e4": 1e4 * noise,
    "noise x 1e-6": 1e-6 * noise,
    "a square of zeros": square,
  }


def fresh(path, x):
  """A leaf as it begins, biases and class tokens at zero, but for what begins by giving nothing."""
  name = path[-1].key
  if name in ("bias", "cls", "dist", "mean"):
    return np.zeros(x.shape, np.float32)
  if name in ("scale", "var", "t") or "scale" in name or name == "gamma":
    return np.ones(x.shape, np.float32)
  return np.random.default_rng(0).normal(0, 0.2, x.shape).astype(np.float32)


def noisy(path, x):
  noise = np.random.default_rng(1).normal(0, 0.1, x.shape).astype(np.float32)
  return fresh(path, x) if path[0].key == "batch_stats" else fresh(path, x) + noise


CASES = [
  pytest.param(case, dtype, id=f"{name}, {dtype}", marks=() if quick else pytest.mark.slow)
  for cases in (QUICK, SLOW)
  for name, case in cases.items()
  for dtype in ("float32", "bfloat16")
  for quick in [cases is QUICK and (dtype == "float32" or name == "swin_v2")]
]


@pytest.mark.parametrize("case, dtype", CASES)
def test_gradients_are_finite_and_bounded(case, dtype):
  name, fields, size = case
  fields = {key: dict(x, dtype=dtype) if key in ("img", "txt") else x for key, x in fields.items()}
  two = "img" in fields
  model = vit_jax.create_model(name, **fields, **({} if two else {"dtype": dtype}))
  tokens = (jnp.asarray([[1, 2, 3] + 13 * [0], 16 * [0]]),) if two else ()  # One of padding alone.
  images = pictures(size)
  shapes = jax.eval_shape(model.init, jax.random.key(0), images["noise"], *tokens)

  def loss(params, rest, x):
    out, _ = model.apply({"params": params, **rest}, x, *tokens, train=True, mutable=[*rest])
    logits = out[2]["t"] * out[0] @ out[1].T if two else out
    return -jnp.mean(jax.nn.log_softmax(logits)[:, 0])

  gradient = jax.jit(jax.vmap(jax.value_and_grad(loss), (None, None, 0)))
  for leaf in (fresh, noisy):
    variables = jax.tree_util.tree_map_with_path(leaf, shapes)
    rest = {key: value for key, value in variables.items() if key != "params"}
    values, gradients = gradient(variables["params"], rest, np.stack([*images.values()]))
    for picture, (label, value) in enumerate(zip(images, values, strict=True)):
      assert np.isfinite(value), label
      largest = {
        path: np.max(np.abs(leaf[picture]))  # NaN is larger than all.
        for path, leaf in flatten_dict(gradients, sep="/").items()
      }
      assert {k: x for k, x in largest.items() if not x <= BOUND} == {}, label


@pytest.mark.parametrize("magnitude", [0, 1e-30, 1e-13, 1e-9, 1e-6, 1e-3, 1, 1e4])
@pytest.mark.parametrize("kind", ["unit", "normalized"])
def test_directions_are_the_same_and_their_gradients_bounded(kind, magnitude):
  x = (magnitude * np.random.default_rng(0).normal(size=(5, 8))).astype(np.float32)
  exact = np.linalg.norm(x.astype(np.float64), axis=-1, keepdims=True)
  function, expected = {
    "unit": (swin_v2.unit, x / np.maximum(exact, 1e-12)),
    "normalized": (lit.normalized, x / (exact + 1e-8)),
  }[kind]
  np.testing.assert_allclose(function(x), expected, rtol=1e-6, atol=1e-30)
  slopes = jax.jacrev(function)(x)
  assert np.isfinite(slopes).all() and np.abs(slopes).max() <= BOUND
  if exact.min() > SHORTEST:  # That of a vector which has a direction is the true one.
    unit = x / exact
    true = (np.eye(8) - unit[:, :, None] * unit[:, None]) / exact[..., None]
    ours = slopes[np.arange(5), :, np.arange(5)]
    np.testing.assert_allclose(ours, true, atol=1e-5 * np.abs(true).max())


NORMS = {
  "layer norm": (LayerNorm, {}, {}),
  "group norm": (GroupNorm, {"num_groups": 2}, {}),
  "batch norm": (BatchNorm, {}, {"train": True}),
}


@pytest.mark.parametrize("epsilon", [1e-12, 1e-5])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("constant", [0.0, 3.7])
@pytest.mark.parametrize("spread", [0, 1e-30, 1e-5, 1e-2])
def test_norms_of_constants_have_bounded_gradients(norm, epsilon, constant, spread):
  noise = np.random.default_rng(0).normal(size=(2, 3, 8)).astype(np.float32)
  x = np.float32(constant) + np.float32(spread) * noise
  make, fields, train = NORMS[norm]
  module = make(epsilon=epsilon, **fields)
  variables = module.init(jax.random.key(0), x, **train)
  apply = lambda x: module.apply(variables, x, **train, mutable=["batch_stats"])[0]
  values, slopes = apply(x), jax.jacrev(apply)(x)
  assert np.isfinite(values).all() and np.isfinite(slopes).all()
  assert np.abs(slopes).max() <= BOUND
  if spread == 1e-2:
    assert np.abs(slopes).max() > 10  # And not cut off where there is something to learn.


@pytest.mark.parametrize("kind", STANDARDIZATION)
def test_filters_of_zeros_have_bounded_gradients(kind):
  x = np.random.default_rng(0).normal(size=(1, 5, 5, 3)).astype(np.float32)
  module = StdConv(2, (3, 3), use_bias=False, standardization=kind)
  apply = lambda kernel: module.apply({"params": {"kernel": kernel}}, x)
  kernel = jnp.zeros((3, 3, 3, 2)).at[..., 1].set(jnp.arange(27.0).reshape(3, 3, 3))
  slopes = jax.jacrev(apply)(kernel)
  assert np.isfinite(slopes).all()
  assert np.abs(slopes).max() <= 2e5 * np.abs(x).max()  # That of (w - mean) / 1e-5, at w = 0.
