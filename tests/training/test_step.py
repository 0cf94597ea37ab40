# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_run as tiny
from compiled import apply

from vit_jax.parallel import mesh as mesh_lib
from vit_jax.training import objectives, optim
from vit_jax.training.plan import make_plan
from vit_jax.training.state import create_state
from vit_jax.training.step import make_planned_step, make_train_step


class Small(nn.Module):
  dropout_rate: float = 0.0

  @nn.compact
  def __call__(self, x, train=False):
    x = nn.relu(nn.Dense(32)(x.reshape(x.shape[0], -1)))
    return nn.Dense(5)(nn.Dropout(self.dropout_rate, deterministic=not train)(x))


def _batch(size=16, seed=0):
  rng = np.random.default_rng(seed)
  return {
    "image": rng.integers(256, size=(size, 4, 4, 3), dtype=np.uint8),
    "label": rng.integers(5, size=size).astype(np.int32),
  }


def _setup(model=None, optimizer=None, *, accum_steps=1, frozen=None, **options):
  model, optimizer = model or Small(), optimizer or optax.sgd(0.5)
  mesh = mesh_lib.make_mesh()
  state = create_state(
    model, None, optimizer, jnp.zeros((1, 4, 4, 3)), 0, shardings=mesh_lib.replicated(mesh)
  )
  objective = objectives.classification(model, mean=(0.5,) * 3, std=(0.5,) * 3, **options)
  rate = optax.constant_schedule(0.5)
  step = make_train_step(objective, optimizer, rate, mesh, accum_steps=accum_steps, frozen=frozen)
  return state, step


def _relative_error(ours, theirs):
  ours, theirs = (
    np.concatenate([v.ravel() for v in tiny.leaves(x).values()]) for x in (ours, theirs)
  )
  return np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)


def test_equals_a_step_written_out():
  state, step = _setup(label_smoothing=0.1)
  batch, params = _batch(), jax.tree.map(jnp.copy, state.params)

  def loss_fn(params):
    images = batch["image"].astype(np.float32) / 127.5 - 1
    targets = optax.smooth_labels(jax.nn.one_hot(batch["label"], 5), 0.1)
    return optax.softmax_cross_entropy(Small().apply({"params": params}, images), targets).mean()

  loss, grads = jax.value_and_grad(loss_fn)(params)
  state, metrics = step(state, batch, None)
  assert _relative_error(state.params, jax.tree.map(lambda p, g: p - 0.5 * g, params, grads)) < 1e-6
  assert float(metrics["loss"]) == pytest.approx(float(loss), rel=1e-6)
  assert float(metrics["grad_norm"]) == pytest.approx(float(optax.tree.norm(grads)), rel=1e-5)
  assert int(state.step) == 1 and float(metrics["learning_rate"]) == 0.5


def test_the_reported_rate_is_the_one_that_was_applied():
  changes = dict(base_lr=0.5, warmup_steps=2, total_steps=6, decay_type="linear", linear_end=0.125)
  plan = make_plan(tiny.config(**changes, optim=dict(name="sgd", momentum=0.0)))
  model, mesh = Small(), mesh_lib.make_mesh()
  whole = mesh_lib.replicated(mesh)
  optimizer, images = optim.make_optimizer(plan), jnp.zeros((1, 4, 4, 3))
  state = create_state(model, None, optimizer, images, 0, shardings=whole)
  objective = objectives.classification(model, mean=(0.5,) * 3, std=(0.5,) * 3)
  step = make_planned_step(plan, objective, mesh, whole, whole)
  reported, applied = [], []
  for seed in range(6):
    before = jax.tree.map(jnp.copy, state.params)
    state, metrics = step(state, _batch(seed=seed), None)
    change = float(optax.tree.norm(jax.tree.map(jnp.subtract, state.params, before)))
    applied.append(change / float(metrics["grad_norm"]))  # Without momentum.
    reported.append(float(metrics["learning_rate"]))
  # Linear warm-up over two updates, then a fall from 0.5 by 0.375 over four.
  expected = [0.0, 0.25, 0.5, 0.40625, 0.3125, 0.21875]
  assert reported == pytest.approx(expected, rel=1e-6)
  assert applied == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("accum_steps", [2, 8])
def test_accumulation_equals_the_big_batch(accum_steps):
  optimizer = optax.sgd(1.0)
  start, whole = _setup(optimizer=optimizer)
  before = jax.tree.map(jnp.copy, start.params)
  after, metrics = whole(start, _batch(), None)
  start, accumulating = _setup(optimizer=optimizer, accum_steps=accum_steps)
  after_parts, metrics_parts = accumulating(start, _batch(), None)

  def update(after):
    return jax.tree.map(jnp.subtract, after.params, before)

  assert _relative_error(update(after_parts), update(after)) < 1e-6
  assert float(metrics_parts["loss"]) == pytest.approx(float(metrics["loss"]), rel=1e-6)
  assert float(metrics_parts["accuracy"]) == pytest.approx(float(metrics["accuracy"]))


@pytest.mark.parametrize("accum_steps", [1, 4])
def test_mixup_equals_a_step_written_out(accum_steps):
  # At rate 0 the parameters stay; the gradient's norm and the loss tell all of the rest.
  state, step = _setup(
    optimizer=optax.sgd(0.0), mixup=0.4, num_classes=5, label_smoothing=0.1, accum_steps=accum_steps
  )
  batch, params = _batch(), jax.tree.map(jnp.copy, state.params)
  rng = jax.random.fold_in(jax.random.wrap_key_data(state.rng), 0)
  share = float(jax.random.beta(jax.random.fold_in(rng, 2**31 - 1), 0.4, 0.4))
  assert 0.01 < share < 0.99

  images = batch["image"].astype(np.float32) / 127.5 - 1
  labels = np.eye(5, dtype=np.float32)[batch["label"]]
  other = [(i + 8) % 16 for i in range(16)]
  images = share * images + (1 - share) * images[other]
  labels = share * labels + (1 - share) * labels[other]
  logits = np.asarray(apply(Small(), {"params": params}, images))

  def loss_fn(params):
    targets = optax.smooth_labels(jnp.asarray(labels), 0.1)
    return optax.softmax_cross_entropy(Small().apply({"params": params}, images), targets).mean()

  loss, grads = jax.value_and_grad(loss_fn)(params)
  _, metrics = step(state, batch, None)
  assert float(metrics["loss"]) == pytest.approx(float(loss), rel=1e-6)
  assert float(metrics["grad_norm"]) == pytest.approx(float(optax.tree.norm(grads)), rel=1e-5)
  right = np.mean(logits.argmax(-1) == labels.argmax(-1))
  assert float(metrics["accuracy"]) == pytest.approx(right)


def test_without_mixup_nothing_changes():
  # Dropout too: its masks come from the same keys.
  after = []
  for options in ({}, {"mixup": 0.0, "num_classes": 5}):
    state, step = _setup(Small(dropout_rate=0.5), accum_steps=2, **options)
    after.append(tiny.leaves(step(state, _batch(), None)))
  for path, value in after[0].items():
    np.testing.assert_array_equal(value, after[1][path], err_msg=path)


@pytest.mark.parametrize(
  "model, options", [(Small(dropout_rate=0.5), {}), (Small(), {"mixup": 0.4, "num_classes": 5})]
)
def test_chance_differs_between_steps_and_seeds_but_repeats(model, options):
  # At rate 0 the parameters stay, so that only masks or mixtures can change the loss.
  def losses(seed):
    optimizer = optax.sgd(0.0)
    mesh = mesh_lib.make_mesh()
    variables = model.init(jax.random.key(0), jnp.zeros((1, 4, 4, 3)))
    state = create_state(
      model, variables, optimizer, None, seed, shardings=mesh_lib.replicated(mesh)
    )
    objective = objectives.classification(model, mean=(0.5,) * 3, std=(0.5,) * 3, **options)
    step = make_train_step(objective, optimizer, optax.constant_schedule(0.0), mesh)
    result = []
    for _ in range(2):
      state, metrics = step(state, _batch(), None)
      result.append(float(metrics["loss"]))
    return result

  first, second = losses(0)
  assert first != second
  assert losses(0) == [first, second]
  assert losses(1)[0] != first


def test_a_loss_that_is_not_finite_leaves_the_parameters_as_they_were():
  class Exploding(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
      return nn.Dense(5)(x.reshape(x.shape[0], -1)) * jnp.where(x.max() > 0.5, jnp.inf, 1.0)

  state, step = _setup(Exploding(), optax.adam(0.1))
  state, _ = step(state, _batch() | {"image": _batch()["image"] // 2}, None)
  good = tiny.leaves((state.params, state.opt_state))
  state, metrics = step(state, _batch() | {"image": np.full((16, 4, 4, 3), 255, np.uint8)}, None)
  assert int(state.first_bad_step) == 2
  state, metrics = step(state, _batch() | {"image": _batch()["image"] // 2}, None)
  assert np.isfinite(float(metrics["loss"])) and int(state.first_bad_step) == 2
  for path, value in tiny.leaves((state.params, state.opt_state)).items():
    np.testing.assert_array_equal(value, good[path], err_msg=path)


class WithStatistics(nn.Module):
  """Counts what it has seen, as batch normalisation does."""

  @nn.compact
  def __call__(self, x, train=False):
    x = nn.Dense(8)(x.reshape(x.shape[0], -1))
    return nn.Dense(5)(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x))


@pytest.mark.parametrize("accum_steps", [1, 2])
def test_batch_statistics_follow_every_micro_batch(accum_steps):
  model = WithStatistics()
  state, step = _setup(model, optax.sgd(0.0), accum_steps=accum_steps)
  batch, variables = _batch(), jax.tree.map(jnp.copy, state.variables)
  parts = [batch["image"][i::accum_steps] for i in range(accum_steps)]
  losses = []
  for i, part in enumerate(parts):
    images, labels = part.astype(np.float32) / 127.5 - 1, batch["label"][i::accum_steps]
    logits, updated = apply(model, variables, images, train=True, mutable=("batch_stats",))
    losses.append(optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean())
    variables |= updated
  state, metrics = step(state, batch, None)
  assert _relative_error(state.collections, {"batch_stats": variables["batch_stats"]}) < 1e-6
  assert float(metrics["loss"]) == pytest.approx(float(np.mean(losses)), rel=1e-5)
  # In evaluation they are what was learned, and not this batch's.
  evaluated = apply(model, state.variables, parts[0].astype(np.float32) / 127.5 - 1)
  assert _relative_error(evaluated, logits) > 0.1


def test_the_average_follows_parameters_and_statistics():
  model, optimizer, mesh = WithStatistics(), optax.sgd(0.5), mesh_lib.make_mesh()
  state = create_state(
    model,
    None,
    optimizer,
    jnp.zeros((1, 4, 4, 3)),
    0,
    shardings=mesh_lib.replicated(mesh),
    ema=True,
  )
  step = make_train_step(
    objectives.classification(model, mean=(0.5,) * 3, std=(0.5,) * 3),
    optimizer,
    optax.constant_schedule(0.5),
    mesh,
    ema_decay=0.25,
  )
  expected = jax.tree.map(jnp.copy, state.variables)
  for number, decay in enumerate((2 / 11, 3 / 12, 0.25), 1):  # (1 + n) / (10 + n), at most 0.25.
    state, _ = step(state, _batch(seed=number), None)
    expected = jax.tree.map(
      lambda a, b, decay=decay: decay * a + (1 - decay) * b, expected, state.variables
    )
  assert _relative_error(state.ema, expected) < 1e-6
  assert _relative_error(state.variables, expected) > 1e-2
  assert state.result is state.ema


def test_without_an_average_the_result_is_what_was_learned():
  state, step = _setup()
  state, _ = step(state, _batch(), None)
  assert state.ema is None
  for path, value in tiny.leaves(state.result).items():
    np.testing.assert_array_equal(value, tiny.leaves(state.variables)[path], err_msg=path)


PROGRAM = """
import json, sys
import jax
from test_step import _batch, _setup, tiny
assert jax.device_count() == int(sys.argv[1])
state, step = _setup(accum_steps=2, mixup=0.4, num_classes=5)
losses = []
for seed in range(3):
  state, metrics = step(state, _batch(32, seed), None)
  losses.append(float(metrics["loss"]))
placed = {len(x.sharding.device_set) for x in jax.tree.leaves(state)}
print(json.dumps([losses, sorted(placed)]))
"""


def test_eight_devices_compute_what_one_does():
  results = []
  for count in (1, 8):
    flags = f"--xla_force_host_platform_device_count={count}"
    done = tiny.run_python(PROGRAM, count, XLA_FLAGS=flags)
    assert done.returncode == 0, done.stderr
    losses, placed = json.loads(done.stdout)
    assert placed == [count]
    results.append(losses)
  np.testing.assert_allclose(results[1], results[0], rtol=1e-6)
