# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The training step: normalise, forward, backward, update, all in one compiled call."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from vit_jax.data import transforms
from vit_jax.training import augment, losses
from vit_jax.training import mesh as mesh_lib
from vit_jax.training.state import TrainState

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]

# Folded into a step's key for what the whole batch shares; micro-batches fold in 0, 1, ...
_WHOLE_BATCH = 2**31 - 1


def make_train_step(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  learning_rate: optax.Schedule,
  mesh: jax.sharding.Mesh,
  *,
  mean: tuple[float, ...],
  std: tuple[float, ...],
  accum_steps: int = 1,
  label_smoothing: float = 0.0,
  mixup: float = 0.0,
  num_classes: int | None = None,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
  """Compiles one update.

  Args:
    model: maps float32 images [batch, h, w, c] to logits [batch, classes].
    optimizer: as `optim.make_optimizer` gives.
    learning_rate: only reported here; the optimizer has its own.
    mesh: the batch is split over its data axis, the state replicated.
    mean: per channel, for `(image / 255 - mean) / std`.
    std: per channel.
    accum_steps: micro-batches whose gradients are averaged; the batch is a multiple of it.
    label_smoothing: see `losses.softmax_cross_entropy`.
    mixup: alpha of `augment.mixup`; 0 leaves images and labels alone.
    num_classes: width of the logits; only needed for `mixup`.

  Returns:
    `step(state, batch) -> (state, metrics)`. `batch` holds uint8 images [batch, h, w, c] and int32
    labels [batch]; the state passed in is donated. Metrics are scalars: `loss`, `accuracy`,
    `grad_norm` (before clipping), `learning_rate`, `first_bad_step`. With `mixup` a prediction
    is right if it is the label of the larger share.
  """

  def loss_fn(params, collections, batch: Batch, rng: jax.Array, batch_rng: jax.Array):
    images, labels = transforms.normalize(batch["image"], mean, std), batch["label"]
    targets = labels
    if mixup:
      one_hot = jax.nn.one_hot(labels, num_classes)
      images, targets = augment.mixup(batch_rng, images, one_hot, mixup)
      labels = targets.argmax(-1)
    logits = model.apply(
      {"params": params, **collections}, images, train=True, rngs={"dropout": rng}
    )
    loss = losses.softmax_cross_entropy(logits, targets, label_smoothing).mean()
    return loss, jnp.mean(logits.argmax(-1) == labels, dtype=jnp.float32)

  def gradients(state: TrainState, batch: Batch, rng: jax.Array):
    value_and_grad = jax.value_and_grad(loss_fn, has_aux=True)
    batch_rng = jax.random.fold_in(rng, _WHOLE_BATCH)
    if accum_steps == 1:
      return value_and_grad(state.params, state.collections, batch, rng, batch_rng)

    # Every accum_steps-th example goes into the same micro-batch: then each device keeps its own
    # examples, while consecutive slices would move them between devices.
    def split(x: jax.Array) -> jax.Array:
      x = x.reshape(x.shape[0] // accum_steps, accum_steps, *x.shape[1:])
      return jnp.moveaxis(x, 1, 0)

    def add_one(total, index_and_micro):
      index, micro = index_and_micro
      result = value_and_grad(
        state.params, state.collections, micro, jax.random.fold_in(rng, index), batch_rng
      )
      return jax.tree.map(jnp.add, total, result), None

    zeros = ((jnp.float32(0), jnp.float32(0)), jax.tree.map(jnp.zeros_like, state.params))
    total, _ = jax.lax.scan(add_one, zeros, (jnp.arange(accum_steps), jax.tree.map(split, batch)))
    return jax.tree.map(lambda x: x / accum_steps, total)

  def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    rng = jax.random.fold_in(jax.random.wrap_key_data(state.rng), state.step)
    (loss, accuracy), grads = gradients(state, batch, rng)
    grad_norm = optax.tree.norm(grads)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)

    # The host looks at the loss much later, so the step itself keeps a NaN out of the parameters.
    # Updates too: a rate that is far too high overflows there first.
    finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm) & jnp.isfinite(optax.tree.norm(updates))
    first_bad_step = jnp.where(
      (state.first_bad_step < 0) & ~finite, state.step + 1, state.first_bad_step
    )
    good = first_bad_step < 0
    params, opt_state = jax.tree.map(
      lambda new, old: jnp.where(good, new, old),
      (params, opt_state),
      (state.params, state.opt_state),
    )
    metrics = {
      "loss": loss,
      "accuracy": accuracy,
      "grad_norm": grad_norm,
      "learning_rate": learning_rate(state.step),
      "first_bad_step": first_bad_step,
    }
    state = state.replace(
      step=state.step + 1, params=params, opt_state=opt_state, first_bad_step=first_bad_step
    )
    return state, metrics

  whole, split_batch = mesh_lib.replicated(mesh), mesh_lib.batch_sharding(mesh)
  return jax.jit(
    train_step, in_shardings=(whole, split_batch), out_shardings=(whole, whole), donate_argnums=0
  )
