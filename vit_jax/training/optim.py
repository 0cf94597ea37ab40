# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Optimizers: clip by global norm, then SGD with momentum or AdamW, then the learning rate."""

from __future__ import annotations

import re
from typing import Any

import jax
import optax

from vit_jax.errors import UserError
from vit_jax.training import schedules
from vit_jax.training.plan import Plan


def decay_mask(params: Any) -> Any:
  """Marks the parameters that weight decay applies to: those named `kernel`, and nothing else.

  Biases (of any rank), scales of LayerNorm and GroupNorm, class tokens, position embeddings and
  tables and the probe of the attention-pooling head have other names, and are skipped.

  Args:
    params: any tree of arrays with named leaves.

  Returns:
    A tree of the same structure with True where the leaf is decayed.
  """

  def decayed(path: tuple, leaf: Any) -> bool:
    del leaf
    return getattr(path[-1], "key", None) == "kernel"

  return jax.tree_util.tree_map_with_path(decayed, params)


def frozen_mask(params: Any, pattern: str) -> Any:
  """Marks the parameters that stay as they are: those whose path begins with a match of `pattern`.

  Args:
    params: any tree of arrays with named leaves.
    pattern: a regular expression for paths such as "img/Transformer/encoder_norm/scale".

  Returns:
    A tree of the same structure with True where the leaf is frozen.

  Raises:
    UserError: it matches all of them, or none, or is no regular expression.
  """
  try:
    matches = re.compile(pattern).match
  except re.error as error:
    raise UserError(
      f"config.frozen={pattern!r} is no regular expression ({error}); write one such as 'img/'."
    ) from error
  paths = []

  def frozen(path: tuple, leaf: Any) -> bool:
    del leaf
    paths.append("/".join(str(getattr(key, "key", key)) for key in path))
    return bool(matches(paths[-1]))

  mask = jax.tree_util.tree_map_with_path(frozen, params)
  if len({*jax.tree.leaves(mask)}) == 1:
    all_or_none = "all parameters" if jax.tree.leaves(mask)[0] else "no parameter"
    raise UserError(
      f"config.frozen={pattern!r} matches {all_or_none}; write a pattern of some, whose paths are "
      f"like {paths[0]} and {paths[-1]}, or None."
    )
  return mask


def learning_rate(plan: Plan) -> optax.Schedule:
  """Returns the plan's learning rate as a function of the steps made so far."""
  return schedules.warmup_then_decay(
    plan.decay_type,
    plan.base_lr,
    plan.total_steps,
    plan.warmup_steps,
    cooldown_steps=plan.cooldown_steps,
    linear_end=plan.linear_end,
    rsqrt_timescale=plan.rsqrt_timescale,
    decay_at=plan.decay_at,
    decay_factor=plan.decay_factor,
  )


def scale_by_rate_of_step(rate: optax.Schedule) -> optax.GradientTransformationExtraArgs:
  """As `optax.scale_by_learning_rate`, with the rate of the step that `update` is told.

  Optax counts the updates that were made. A step that `config.nan_policy` leaves out is none, so
  the rates of all later steps would be those of earlier ones and the schedule would not reach its
  end. The state is Optax's, and so is its count where no step is told.
  """
  by_count = optax.scale_by_learning_rate(rate)

  def update(updates, state, params=None, *, step: jax.Array | None = None, **others):
    del others
    return by_count.update(updates, state if step is None else state._replace(count=step), params)

  return optax.GradientTransformationExtraArgs(by_count.init, update)


def make_optimizer(plan: Plan) -> optax.GradientTransformationExtraArgs:
  """Returns the plan's optimizer, whose `update` takes the number of steps made so far as `step`.

  Weight decay is decoupled (arXiv:1711.05101): multiplied by the learning rate, but not seen by
  momentum, second moments or clipping. `optim_dtype` is the type of the momentum accumulator (of
  AdamW: of the first moment); parameters and updates stay float32.

  A step that is left out (`config.nan_policy`) is one for the learning rate, but neither for
  moments nor for Adam's bias correction, which goes by the gradients that the moments have seen.
  """
  transforms = []
  if plan.grad_norm_clip is not None:
    transforms.append(optax.clip_by_global_norm(plan.grad_norm_clip))
  if plan.optim.name == "adamw":
    transforms.append(
      optax.scale_by_adam(plan.optim.b1, plan.optim.b2, plan.optim.eps, mu_dtype=plan.optim_dtype)
    )
  elif plan.optim.momentum:
    transforms.append(optax.trace(plan.optim.momentum, accumulator_dtype=plan.optim_dtype))
  if plan.optim.weight_decay:
    transforms.append(optax.add_decayed_weights(plan.optim.weight_decay, mask=decay_mask))
  transforms.append(scale_by_rate_of_step(learning_rate(plan)))
  optimizer = optax.chain(*transforms)
  if plan.frozen is None:
    return optimizer
  # What is frozen has no momentum either.
  labels = lambda params: jax.tree.map(
    lambda frozen: "frozen" if frozen else "trained", frozen_mask(params, plan.frozen)
  )
  return optax.partition({"trained": optimizer, "frozen": optax.set_to_zero()}, labels)
