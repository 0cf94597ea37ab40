# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Losses: per example, in float32, so that a caller may mask or average them."""

from __future__ import annotations

import math

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


def soft_distillation(
  student: Float[Array, "b k"], teacher: Float[Array, "b k"], tau: float
) -> Float[Array, " b"]:
  """tau^2 times the KL divergence of the student's softmax(./tau) from the teacher's.

  Eq. 2 of arXiv:2012.12877, after arXiv:1503.02531, section 2: the factor keeps the gradient's size
  whatever the temperature. Right to float32 for any tau from 1e-3 to 1e4: at high temperatures both
  distributions are almost uniform, and the terms of their divergence cancel but for the squares of
  what they differ by, which the factor enlarges again.

  Args:
    student: logits [batch, classes], any float type; computed in float32.
    teacher: likewise.
    tau: the temperature; a high one shows how the teacher ranks the wrong classes.

  Returns:
    [batch] float32, in nats.
  """
  student, teacher = (_from_largest(x.astype(jnp.float32)) for x in (student, teacher))
  log_student, log_teacher = (jax.nn.log_softmax(x / tau) for x in (student, teacher))
  weights = jnp.exp(log_teacher)
  # KL = log E[exp(x)], where x is by how much the student's logit is larger, less its mean E under
  # the teacher; log(1 + E[exp(x) - 1 - x]) has only positive terms.
  x = (student - teacher) / tau
  x = x - jnp.sum(weights * x, axis=-1, keepdims=True)
  near = jnp.abs(x).max(axis=-1) < 16  # Else exp(x) may overflow, and little cancels.
  excess = _exp_beyond_tangent(jnp.where(near[:, None], x, 0.0))
  close = jnp.log1p(jnp.sum(weights * excess, axis=-1))
  far = jnp.sum(weights * (log_teacher - log_student), axis=-1)
  return tau**2 * jnp.where(near, close, far)


def _from_largest(logits: Float[Array, "b k"]) -> Float[Array, "b k"]:
  """Logits less their largest, exact for those near it, which no softmax can tell from before."""
  return logits - jax.lax.stop_gradient(logits.max(axis=-1, keepdims=True))


def _exp_beyond_tangent(x: Float[Array, "b k"]) -> Float[Array, "b k"]:
  """exp(x) - 1 - x to float32's precision, where the difference has lost its digits too."""
  small = jnp.abs(x) < 0.5
  series = jnp.array([1 / math.factorial(n) for n in range(9, 1, -1)], jnp.float32)
  below = jnp.where(small, x, 0.0)
  return jnp.where(small, below**2 * jnp.polyval(series, below), jnp.expm1(x) - x)


def hard_distillation(
  student: Float[Array, "b k"], teacher: Float[Array, "b k"]
) -> Float[Array, " b"]:
  """Cross-entropy against the class that the teacher names, eq. 3 of arXiv:2012.12877.

  Args:
    student: logits [batch, classes].
    teacher: likewise.

  Returns:
    [batch] float32, in nats.
  """
  return softmax_cross_entropy(student, teacher.argmax(axis=-1))


def contrastive_softmax(logits: Float[Array, "b b"]) -> Float[Array, " b"]:
  """Each image should find its text among those of the batch, and each text its image.

  The mean of both cross-entropies, section 3.1 of arXiv:2111.07991.

  Args:
    logits: [images, texts]; the pairs are on the diagonal.

  Returns:
    [batch] float32, in nats.
  """
  pairs = jnp.arange(logits.shape[0])
  return (softmax_cross_entropy(logits, pairs) + softmax_cross_entropy(logits.T, pairs)) / 2


def contrastive_sigmoid(logits: Float[Array, "b b"]) -> Float[Array, " b"]:
  """Is this a pair, for each image and each text of the batch: Algorithm 1 of arXiv:2303.15343.

  Args:
    logits: [images, texts], with a bias that begins near -10 (`bias_init`), since few are pairs.

  Returns:
    [batch] float32, in nats: the sum over the texts.
  """
  signs = 2 * jnp.eye(logits.shape[0]) - 1
  return -jax.nn.log_sigmoid(signs * logits.astype(jnp.float32)).sum(axis=-1)


# By the value of `config.contrastive_loss`.
CONTRASTIVE = {"softmax": contrastive_softmax, "sigmoid": contrastive_sigmoid}
