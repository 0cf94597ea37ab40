# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The training step: normalise, forward, backward, update, all in one compiled call."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from vit_jax.models.layers import BatchNorm
from vit_jax.parallel import mesh as mesh_lib
from vit_jax.parallel import sharding
from vit_jax.training import optim
from vit_jax.training.objectives import Batch, Objective
from vit_jax.training.plan import Plan
from vit_jax.training.state import TrainState

Metrics = dict[str, jax.Array]

# Folded into a step's key for what the whole batch shares; micro-batches fold in 0, 1, ...
_WHOLE_BATCH = 2**31 - 1


def make_train_step(
  objective: Objective,
  optimizer: optax.GradientTransformation,
  learning_rate: optax.Schedule,
  mesh: jax.sharding.Mesh,
  *,
  accum_steps: int = 1,
  frozen: str | None = None,
  ema_decay: float | None = None,
  skip_bad_steps: bool = False,
  state_shardings: Any = None,
  fixed_shardings: Any = None,
) -> Callable[[TrainState, Batch, Any], tuple[TrainState, Metrics]]:
  """Compiles one update.

  Args:
    objective: what is minimised, see `objectives`.
    optimizer: as `optim.make_optimizer` gives.
    learning_rate: of the number of steps made before. Only reported here: the optimizer has its
      own, which is told that number.
    mesh: the batch is split over its batch axes.
    accum_steps: micro-batches whose gradients are averaged; the batch is a multiple of it.
    frozen: pattern of the parameters that are left as they are, see `optim.frozen_mask`. Nothing is
      computed backwards that only they would need. Batch norms whose parameters are all among them
      keep their statistics too, see `_frozen_norms`.
    ema_decay: of the state's average, see `averaged`; for a state that keeps one.
    skip_bad_steps: leaves out the update of a step whose loss, gradient or update is not finite,
      and goes on; otherwise nothing is learned from the first such step on. A step that is left out
      counts for the learning rate and the average, but not for the optimizer's moments.
    state_shardings: of the state, see `sharding.shardings`; None keeps it whole on every device.
    fixed_shardings: likewise of what does not change.

  Returns:
    `step(state, batch, fixed) -> (state, metrics)`; the state passed in is donated, and `fixed` is
    what the objective needs that does not change (a teacher's variables), or None. Metrics are
    scalars: `loss` and those of the objective, `grad_norm` (before clipping), `learning_rate`,
    `finite` (whether all was).
  """

  optimizer = optax.with_extra_args_support(optimizer)

  def loss_fn(params: Any, collections: Any, batch: Batch, *arguments: Any):
    norms = contextlib.nullcontext()
    if frozen is not None:
      stop = lambda stays, x: jax.lax.stop_gradient(x) if stays else x
      mask = optim.frozen_mask(params, frozen)
      params, norms = jax.tree.map(stop, mask, params), _frozen_norms(mask)
    with norms, sharding.examples_stay(mesh, len(batch["image"])):
      return objective(params, collections, batch, *arguments)

  def gradients(state: TrainState, batch: Batch, fixed: Any, rng: jax.Array):
    value_and_grad = jax.value_and_grad(loss_fn, has_aux=True)
    batch_rng = jax.random.fold_in(rng, _WHOLE_BATCH)
    if accum_steps == 1:
      return value_and_grad(state.params, state.collections, batch, rng, batch_rng, fixed)

    # Every accum_steps-th example goes into the same micro-batch: then each device keeps its own
    # examples, while consecutive slices would move them between devices.
    def split(x: jax.Array) -> jax.Array:
      x = x.reshape(x.shape[0] // accum_steps, accum_steps, *x.shape[1:])
      return jnp.moveaxis(x, 1, 0)

    def one(collections: Any, index: jax.Array, micro: Batch):
      micro_rng = jax.random.fold_in(rng, index)
      (loss, (own, collections)), grads = value_and_grad(
        state.params, collections, micro, micro_rng, batch_rng, fixed
      )
      return (loss, own, grads), collections

    # Batch statistics see the micro-batches one after the other, as PyTorch's do.
    def add_one(carry, index_and_micro):
      total, collections = carry
      part, collections = one(collections, *index_and_micro)
      return (jax.tree.map(jnp.add, total, part), collections), None

    parts = (jnp.arange(accum_steps), jax.tree.map(split, batch))
    shapes, _ = jax.eval_shape(one, state.collections, *jax.tree.map(lambda x: x[0], parts))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    (total, collections), _ = jax.lax.scan(add_one, (zeros, state.collections), parts)
    loss, own, grads = jax.tree.map(lambda x: x / accum_steps, total)
    return (loss, (own, collections)), grads

  def train_step(state: TrainState, batch: Batch, fixed: Any) -> tuple[TrainState, Metrics]:
    rng = jax.random.fold_in(jax.random.wrap_key_data(state.rng), state.step)
    (loss, (own, collections)), grads = gradients(state, batch, fixed, rng)
    grad_norm = optax.tree.norm(grads)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params, step=state.step)
    params = optax.apply_updates(state.params, updates)

    # The host looks at the loss much later, so the step itself keeps a NaN out of the parameters.
    # Updates too: a rate that is far too high overflows there first.
    finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm) & jnp.isfinite(optax.tree.norm(updates))
    first_bad_step = jnp.where(
      (state.first_bad_step < 0) & ~finite, state.step + 1, state.first_bad_step
    )
    if skip_bad_steps:
      first_bad_step = state.first_bad_step
    good = finite & (first_bad_step < 0)
    params, opt_state, collections = jax.tree.map(
      lambda new, old: jnp.where(good, new, old),
      (params, opt_state, collections),
      (state.params, state.opt_state, state.collections),
    )
    metrics = {
      "loss": loss,
      **own,
      "grad_norm": grad_norm,
      "learning_rate": learning_rate(state.step),
      "finite": finite,
    }
    state = state.replace(
      step=state.step + 1,
      params=params,
      opt_state=opt_state,
      first_bad_step=first_bad_step,
      collections=collections,
    )
    if ema_decay is not None:
      state = state.replace(ema=averaged(state.ema, state.variables, ema_decay, state.step))
    return state, metrics

  state_shardings = state_shardings or mesh_lib.replicated(mesh)
  whole, split_batch = mesh_lib.replicated(mesh), mesh_lib.batch_sharding(mesh)
  return jax.jit(
    train_step,
    in_shardings=(state_shardings, split_batch, fixed_shardings or whole),
    out_shardings=(state_shardings, whole),
    donate_argnums=0,
  )


@contextlib.contextmanager
def _frozen_norms(mask: Any) -> Iterator[None]:
  """While a model is traced: batch norms whose parameters are all frozen work as in evaluation.

  They normalise by their running statistics, which stay as they are. With the statistics of each
  batch, a frozen part would compute other features in training than in evaluation, and its running
  statistics would move. All other norms follow the batches: one whose scale or bias is trained is
  itself trained, and it does not matter what is frozen before or after it.

  Args:
    mask: as `optim.frozen_mask` gives for the model's parameters.
  """

  def interceptor(call: Any, arguments: Any, options: Any, context: nn.module.InterceptorContext):
    # A teacher's norms, whose paths are not in the mask, are not in training.
    if isinstance(context.module, BatchNorm) and options.get("train"):
      own = functools.reduce(lambda tree, name: tree[name], context.module.path, mask)
      options = {**options, "train": not all(jax.tree.leaves(own))}
    return call(*arguments, **options)

  with nn.intercept_methods(interceptor):
    yield


def make_planned_step(
  plan: Plan,
  objective: Objective,
  mesh: jax.sharding.Mesh,
  state_shardings: Any,
  fixed_shardings: Any,
) -> Callable[[TrainState, Batch, Any], tuple[TrainState, Metrics]]:
  """The step of a plan, for training and for a dry run; see `make_train_step`."""
  return make_train_step(
    objective,
    optim.make_optimizer(plan),
    optim.learning_rate(plan),
    mesh,
    accum_steps=plan.accum_steps,
    frozen=plan.frozen,
    ema_decay=plan.ema_decay,
    skip_bad_steps=plan.nan_policy == "skip",
    state_shardings=state_shardings,
    fixed_shardings=fixed_shardings,
  )


def averaged(average: Any, values: Any, decay: float, step: jax.Array) -> Any:
  """Moves an exponential moving average towards the values after update number `step`.

  In the first steps by more than `1 - decay`: the decay is at most (1 + step) / (10 + step), as in
  TensorFlow's, so that a short run's average does not remember its initial values.
  """
  decay = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
  return jax.tree.map(lambda old, new: old + (1.0 - decay) * (new - old), average, values)
