# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Losses: per example, in float32, so that a caller may mask or average them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def softmax_cross_entropy(
  logits: Float[Array, "b k"],
  labels: Int[Array, " b"] | Float[Array, "b k"],
  label_smoothing: float = 0.0,
) -> Float[Array, " b"]:
  """Cross-entropy of softmax(logits) against labels, in nats.

  Args:
    logits: [batch, classes], any float type; computed in float32.
    labels: [batch], class indices, or [batch, classes], shares of the classes that add up to 1.
    label_smoothing: weight s of the uniform distribution: the target is (1 - s) * label + s / k
      (arXiv:1512.00567, section 7).

  Returns:
    [batch] float32, one loss per example.
  """
  log_probs = jax.nn.log_softmax(logits.astype(jnp.float32))
  if labels.ndim == 2:
    loss = -jnp.sum(labels * log_probs, axis=-1)
  else:
    loss = -jnp.take_along_axis(log_probs, labels[:, None], axis=-1)[:, 0]
  if label_smoothing:
    loss = (1.0 - label_smoothing) * loss - label_smoothing * log_probs.mean(axis=-1)
  return loss
