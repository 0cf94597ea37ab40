# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What the micro-batches of one step share and what each of them draws for itself."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vit_jax.parallel import mesh as mesh_lib
from vit_jax.training import losses, objectives
from vit_jax.training.state import create_state
from vit_jax.training.step import make_train_step

COUNT = 4
HALF = (0.5,) * 3


class Dropping(nn.Module):
  @nn.compact
  def __call__(self, x, train=False):
    x = nn.Dropout(0.5, deterministic=not train)(x.reshape(x.shape[0], -1))
    return nn.Dense(5)(x)


def batch_of_equal_parts(count=COUNT):
  """Every micro-batch gets the same four examples."""
  rng = np.random.default_rng(0)
  images = rng.integers(256, size=(4, 4, 4, 3), dtype=np.uint8)
  labels = rng.integers(5, size=4).astype(np.int32)
  return {"image": images.repeat(count, axis=0), "label": labels.repeat(count)}


def make_step(objective, accum_steps):
  """A state and a step that leaves the parameters as they are."""
  optimizer, mesh = optax.sgd(0.0), mesh_lib.make_mesh()
  state = create_state(
    Dropping(), None, optimizer, jnp.zeros((1, 4, 4, 3)), 0, shardings=mesh_lib.replicated(mesh)
  )
  rate = optax.constant_schedule(0.0)
  return state, make_train_step(objective, optimizer, rate, mesh, accum_steps=accum_steps)


def test_each_draws_from_its_own_key_and_all_share_the_batch_key():
  def objective(params, collections, batch, rng, batch_rng, fixed=None):
    del fixed
    # Each micro-batch is told its number by its images, and writes its draws into its own place.
    place = jnp.zeros(COUNT).at[batch["image"][0, 0, 0, 0]]
    draws = {"own": jax.random.uniform(rng), "shared": jax.random.uniform(batch_rng)}
    return params["Dense_0"]["bias"].sum(), ({k: place.set(v) for k, v in draws.items()}, {})

  batch = batch_of_equal_parts()
  batch["image"][:] = np.tile(np.arange(COUNT), 4)[:, None, None, None]
  state, step = make_step(objective, COUNT)
  drawn = []
  for _ in range(2):
    state, metrics = step(state, batch, None)
    own, shared = (COUNT * np.asarray(metrics[name]) for name in ("own", "shared"))
    assert len({*shared.tolist()}) == 1
    drawn += [*own.tolist(), shared[0]]
  assert len({*drawn}) == 2 * (COUNT + 1)  # Another step draws anew.


@pytest.mark.parametrize("name", ["classification", "distillation"])
def test_dropout_masks_differ_between_micro_batches(name):
  model, taught = Dropping(), jax.nn.one_hot(jnp.arange(4), 5)
  options = dict(mean=HALF, std=HALF)
  if name == "classification":
    objective = objectives.classification(model, **options)
  else:
    compare, teach = losses.hard_distillation, lambda fixed, images: taught
    objective = objectives.distillation(model, teach, compare=compare, weight=0.3, **options)
  batch = batch_of_equal_parts()
  part = {key: value[::COUNT] for key, value in batch.items()}
  state, step = make_step(objective, COUNT)
  rng = jax.random.fold_in(jax.random.wrap_key_data(state.rng), 0)
  batch_rng = jax.random.fold_in(rng, 2**31 - 1)

  losses_apart = jax.jit(jax.vmap(lambda key: objective(state.params, {}, part, key, batch_rng)[0]))
  apart = np.asarray(losses_apart(jnp.stack([jax.random.fold_in(rng, k) for k in range(COUNT)])))
  _, metrics = step(state, batch, None)
  assert float(metrics["loss"]) == pytest.approx(np.mean(apart), rel=1e-5)
  # The examples are the same, so that equal masks would give the loss of one of them.
  assert np.min(np.abs(apart - np.mean(apart))) > 1e-3
