# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Batch norm against PyTorch's: what it returns, what it remembers, its gradient, and precision."""

import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from vit_jax.errors import UserError
from vit_jax.models.layers import BatchNorm

CHANNELS = 5


def relative_error(ours, theirs):
  ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
  return np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)


def pair(**arguments):
  """PyTorch's layer with noise on every leaf, ours, and the same variables."""
  generator = torch.Generator().manual_seed(0)
  theirs = torch.nn.BatchNorm2d(CHANNELS, **arguments)
  with torch.no_grad():
    for leaf in (theirs.weight, theirs.bias, theirs.running_mean, theirs.running_var):
      leaf.copy_(torch.rand(CHANNELS, generator=generator) + 0.5)
  leaves = {"scale": theirs.weight, "bias": theirs.bias}
  statistics = {"mean": theirs.running_mean, "var": theirs.running_var}
  copied = lambda tree: {name: jnp.array(leaf.detach().numpy()) for name, leaf in tree.items()}
  return theirs, {"params": copied(leaves), "batch_stats": copied(statistics)}


def batch(seed=0, shape=(2, 3, 2, CHANNELS), offset=1.0):
  return np.random.default_rng(seed).normal(offset, 2, shape).astype(np.float32)


def on(theirs, x):
  return theirs(torch.from_numpy(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def trained(variables, x, **fields):
  return BatchNorm(**fields).apply(variables, x, train=True, mutable=["batch_stats"])


@pytest.mark.parametrize("fields", [{}, {"momentum": 0.3, "epsilon": 1e-2}])
def test_three_steps_and_an_evaluation_equal_pytorchs(fields):
  theirs, variables = pair(momentum=fields.get("momentum", 0.1), eps=fields.get("epsilon", 1e-5))
  for seed in range(3):
    y, changed = trained(variables, batch(seed), **fields)
    assert relative_error(y, on(theirs, batch(seed)).detach()) < 1e-6
    variables = {**variables, **changed}
  statistics = variables["batch_stats"]
  assert relative_error(statistics["mean"], theirs.running_mean) < 1e-6
  assert relative_error(statistics["var"], theirs.running_var) < 1e-6
  # With the biased variance, 11 / 12 of it here, the running one is visibly smaller.
  assert relative_error(statistics["var"] * 11 / 12, theirs.running_var) > 1e-2
  y = BatchNorm(**fields).apply(variables, batch(), train=False)
  assert relative_error(y, on(theirs.eval(), batch()).detach()) < 1e-6
  other = BatchNorm(**{**fields, "epsilon": 1e-3}).apply(variables, batch(), train=False)
  assert relative_error(other, on(theirs, batch()).detach()) > 5e-5


def test_gradients_equal_pytorchs():
  """They go through the statistics: of the sum of what is normalised there would be none."""
  theirs, variables = pair()
  weights = batch(5)
  x = torch.from_numpy(batch()).requires_grad_()
  (theirs(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1) * torch.from_numpy(weights)).sum().backward()
  loss = lambda params, x: jnp.sum(trained({**variables, "params": params}, x)[0] * weights)
  params, inputs = jax.grad(loss, (0, 1))(variables["params"], batch())
  for ours, gradient in (
    (inputs, x),
    (params["scale"], theirs.weight),
    (params["bias"], theirs.bias),
  ):
    assert relative_error(ours, gradient.grad) < 1e-5
  fixed = {
    "params": variables["params"],
    "batch_stats": {"mean": batch().mean((0, 1, 2)), "var": batch().var((0, 1, 2))},
  }
  constant = jax.grad(lambda x: jnp.sum(BatchNorm().apply(fixed, x, train=False) * weights))(
    batch()
  )
  assert relative_error(constant, x.grad) > 1e-2


def test_a_large_mean_does_not_cancel_the_variance():
  """E[x^2] - E[x]^2 in float32 loses a part of it."""
  _, variables = pair()
  x = np.random.default_rng(0).normal(10, 0.1, (8, 16, 16, CHANNELS)).astype(np.float32)
  y, _ = trained(variables, x)
  exact = x.astype(np.float64)
  exact = (exact - exact.mean((0, 1, 2))) / np.sqrt(exact.var((0, 1, 2)) + 1e-5)
  exact = exact * variables["params"]["scale"] + variables["params"]["bias"]
  assert relative_error(y, exact) < 1e-5
  fast = np.mean(np.square(x), (0, 1, 2)) - np.square(np.mean(x, (0, 1, 2)))
  assert relative_error(fast, x.astype(np.float64).var((0, 1, 2))) > 5e-5


@pytest.mark.parametrize("train", [True, False])
def test_bfloat16_is_normalised_in_float32(train):
  _, variables = pair()
  x = jnp.asarray(batch(shape=(16, 8, 8, CHANNELS)), jnp.bfloat16)
  apply = functools.partial(BatchNorm().apply, variables, train=train, mutable=["batch_stats"])
  (half, changed), (full, expected) = apply(x), apply(x.astype(jnp.float32))
  assert half.dtype == jnp.float32
  np.testing.assert_array_equal(half, full)
  jax.tree.map(np.testing.assert_array_equal, changed, expected)


def test_initial_statistics_change_nothing_and_initialising_does_not_train():
  x = batch()
  y, variables = BatchNorm().init_with_output(jax.random.key(0), x, train=True)
  np.testing.assert_allclose(y, x / np.sqrt(1 + 1e-5), rtol=1e-6)
  assert not variables["batch_stats"]["mean"].any()
  np.testing.assert_array_equal(variables["batch_stats"]["var"], np.ones(CHANNELS))


def test_one_value_a_channel_is_refused():
  _, variables = pair()
  with pytest.raises(UserError, match=r"cannot train on one value a channel.*two examples or more"):
    trained(variables, batch(shape=(1, 1, 1, CHANNELS)))
  trained(variables, batch(shape=(1, 1, 2, CHANNELS)))


SHARDED = """
import os
import jax, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from vit_jax.models.layers import BatchNorm

x = np.random.default_rng(0).normal(1, 2, (16, 3, 3, 4)).astype(np.float32)
x *= 1 + np.arange(16, dtype=np.float32)[:, None, None, None]  # Devices see other statistics.
norm = BatchNorm()
variables = norm.init(jax.random.key(0), x, train=False)
step = lambda v, x: norm.apply(v, x, train=True, mutable=["batch_stats"])
one = jax.jit(step)(variables, x)
mesh = Mesh(jax.devices(), "data")
assert mesh.size == 8
put = lambda tree, *spec: jax.device_put(tree, NamedSharding(mesh, PartitionSpec(*spec)))
many = jax.jit(step)(put(variables), put(x, "data"))
assert len(many[0].addressable_shards) == 8
error = lambda a, b: np.linalg.norm(a - b) / np.linalg.norm(b)
assert max(jax.tree.leaves(jax.tree.map(error, many, one))) < 1e-6
alone = step(variables, x[:2])  # What a device would find by itself.
assert error(alone[1]["batch_stats"]["var"], one[1]["batch_stats"]["var"]) > 0.1
"""


def test_statistics_are_those_of_all_devices():
  flags = "--xla_force_host_platform_device_count=8"
  environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
  run = subprocess.run(
    [sys.executable, "-c", SHARDED], env=environment, capture_output=True, text=True
  )
  assert run.returncode == 0, run.stderr
