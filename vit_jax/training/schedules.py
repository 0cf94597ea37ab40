# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Learning rates: linear warm-up, then cosine, linear, rsqrt, step or no decay, then cool-down."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
import optax


def warmup_then_decay(
  decay_type: str,
  base_lr: float,
  total_steps: int,
  warmup_steps: int = 0,
  *,
  cooldown_steps: int = 0,
  linear_end: float = 1e-5,
  rsqrt_timescale: int = 10_000,
  decay_at: Sequence[float] = (),
  decay_factor: float = 0.1,
) -> optax.Schedule:
  """Returns the learning rate as a function of the number of updates made so far.

  Warm-up multiplies by `step / warmup_steps`, so the very first update has rate 0, and cool-down by
  `(total_steps - step) / cooldown_steps`, both capped at 1. Between them, with
  `progress = (step - warmup_steps) / (total_steps - warmup_steps)` in [0, 1]:

  - `cosine`: `base_lr * (1 + cos(pi * progress)) / 2`, arXiv:1608.03983 eq. 5, ending at 0;
  - `linear`: from `base_lr` to `linear_end`;
  - `rsqrt`: `base_lr / sqrt(1 + (step - warmup_steps) / rsqrt_timescale)`, arXiv:2106.04560
    section 3.5, which is independent of `total_steps`;
  - `step`: `base_lr * decay_factor ** n`, where n is how many of the points `decay_at`, shares of
    `total_steps`, lie behind; as in arXiv:1912.11370 section 3.3 (the update at a point itself
    still has the rate before it, as in that paper's code);
  - `constant`: `base_lr`.

  Args:
    decay_type: one of the five names.
    base_lr: the peak rate, used as it is (not scaled by the batch size).
    total_steps: number of updates of the whole run.
    warmup_steps: number of updates until the peak.
    cooldown_steps: number of updates over which the rate falls to 0 at the end.
    linear_end: where `linear` ends.
    rsqrt_timescale: updates after which `rsqrt` has fallen by sqrt(2).
    decay_at: where `step` falls, in (0, 1).
    decay_factor: by what `step` multiplies the rate there.
  """

  def schedule(step: int | jnp.ndarray) -> jnp.ndarray:
    step = jnp.asarray(step, jnp.float32)
    since_warmup = jnp.maximum(step - warmup_steps, 0.0)
    progress = jnp.minimum(since_warmup / max(total_steps - warmup_steps, 1), 1.0)
    if decay_type == "cosine":
      rate = base_lr * 0.5 * (1.0 + jnp.cos(jnp.pi * progress))
    elif decay_type == "linear":
      rate = linear_end + (base_lr - linear_end) * (1.0 - progress)
    elif decay_type == "rsqrt":
      rate = base_lr / jnp.sqrt(1.0 + since_warmup / rsqrt_timescale)
    elif decay_type == "step":
      points = jnp.array([round(share * total_steps) for share in decay_at], jnp.float32)
      rate = base_lr * decay_factor ** jnp.sum(step > points)
    elif decay_type == "constant":
      rate = jnp.float32(base_lr)
    else:
      raise ValueError(f"decay_type={decay_type!r} is not cosine, linear, rsqrt, step or constant")
    if warmup_steps:
      rate *= jnp.minimum(1.0, step / warmup_steps)
    if cooldown_steps:
      rate *= jnp.clip((total_steps - step) / cooldown_steps, 0.0, 1.0)
    return rate

  return schedule
