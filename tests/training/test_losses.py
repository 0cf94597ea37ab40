# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from vit_jax.training import losses


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_equals_torch(smoothing):
  rng = np.random.default_rng(0)
  logits, labels = rng.normal(size=(16, 7)) * 5, rng.integers(7, size=16)
  expected = torch.nn.functional.cross_entropy(
    torch.tensor(logits), torch.tensor(labels), reduction="none", label_smoothing=smoothing
  )
  ours = losses.softmax_cross_entropy(jnp.float32(logits), jnp.int32(labels), smoothing)
  np.testing.assert_allclose(ours, expected.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_shares_of_classes_equal_torch(smoothing):
  rng = np.random.default_rng(0)
  logits, labels = rng.normal(size=(16, 7)) * 5, rng.dirichlet(np.ones(7), size=16)
  expected = torch.nn.functional.cross_entropy(
    torch.tensor(logits), torch.tensor(labels), reduction="none", label_smoothing=smoothing
  )
  ours = losses.softmax_cross_entropy(jnp.float32(logits), jnp.float32(labels), smoothing)
  np.testing.assert_allclose(ours, expected.numpy(), rtol=1e-5, atol=1e-6)


def test_is_float32_for_bfloat16_logits():
  logits = jnp.array([[300.0, 0.0]], jnp.bfloat16)
  loss = losses.softmax_cross_entropy(logits, jnp.array([1]))
  assert loss.dtype == jnp.float32 and float(loss[0]) == 300.0


@pytest.mark.parametrize("tau", [1.0, 3.0])
def test_soft_distillation_equals_torch(tau):
  rng = np.random.default_rng(0)
  student, teacher = rng.normal(size=(2, 16, 7)) * 5
  expected = torch.nn.functional.kl_div(
    torch.log_softmax(torch.tensor(student) / tau, -1),
    torch.log_softmax(torch.tensor(teacher) / tau, -1),
    reduction="none",
    log_target=True,
  ).sum(-1)
  ours = losses.soft_distillation(jnp.float32(student), jnp.float32(teacher), tau)
  np.testing.assert_allclose(ours, tau**2 * expected.numpy(), rtol=1e-5, atol=1e-6)


def _logits(kind):
  """(student, teacher), float32 [8, 50]."""
  rng = np.random.default_rng(0)
  noise, base = rng.normal(size=(2, 8, 50))
  one = 30.0 * (np.arange(50) == 3)
  others = np.where(np.arange(50) < 2, 0.0, -50.0)
  student, teacher = {
    "wide": (5 * noise, 5 * base),
    "large": (50 * noise, 50 * base),
    "alike": (5 * base + 0.01 * noise, 5 * base),
    "shifted": (5 * base + 1000, 5 * base + noise - 300),
    "untrained": (0 * base, 5 * base),
    "small": (0.05 * noise, 0.05 * base),
    "certain": (base, base + one),
    "wrongly certain": (base + one, base),
    "two classes": (others + 1e-3 * noise, others + 1e-3 * base),
  }[kind]
  return np.float32(student), np.float32(teacher)


KINDS = (
  *("wide", "large", "alike", "shifted", "untrained", "small"),
  *("certain", "wrongly certain", "two classes"),
)


@pytest.mark.parametrize("tau", [1e-3, 1e-2, 0.1, 1.0, 3.0, 30.0, 1e3, 1e4])
def test_soft_distillation_is_right_at_any_temperature(tau):
  """Against float64, whose own error is below 1e-7 of a nat at tau = 1e4.

  The bounds are those of float32: 80 units in the last place (6e-8) of the loss, 160 of the
  gradient's largest entry, for sums over 50 classes whose terms may be ten times the result; and,
  where student and teacher agree to less than that, 1e-6 of a nat at tau = 1, which is what
  probabilities rounded to float32 leave of their difference.
  """
  soft = functools.partial(losses.soft_distillation, tau=tau)
  both = jax.jit(lambda s, t: (soft(s, t), jax.grad(lambda s: soft(s, t).sum())(s)))
  for kind in KINDS:
    student, teacher = _logits(kind)
    logs = []
    for logits in (student, teacher):
      x = logits.astype(np.float64)
      x = (x - x.max(-1, keepdims=True)) / tau
      logs.append(x - np.log(np.exp(x).sum(-1, keepdims=True)))
    weights = np.exp(logs[1])
    expected = tau**2 * np.sum(weights * (logs[1] - logs[0]), -1)
    slope = tau * (np.exp(logs[0]) - weights)
    loss, gradient = both(student, teacher)
    floor = 1e-6 * min(tau, 1.0)
    np.testing.assert_array_less(abs(loss - expected), 5e-6 * expected + floor, err_msg=kind)
    wrong, largest = abs(gradient - slope).max(-1), abs(slope).max(-1)
    np.testing.assert_array_less(wrong, 1e-5 * largest + floor, err_msg=kind)


def test_soft_distillation_is_the_divergence_from_the_teacher():
  """KL(teacher || student), which is infinite for a class that only the student rules out."""
  sure, open_minded = jnp.array([[20.0, 0.0]]), jnp.array([[0.0, 0.0]])
  assert float(losses.soft_distillation(open_minded, sure, 1.0)[0]) == pytest.approx(np.log(2))
  # 1/2 log(1/2) - 1/2 log(softmax(20, 0)), 1/2 of them each.
  ruled_out = float(losses.soft_distillation(sure, open_minded, 1.0)[0])
  assert ruled_out == pytest.approx(10 - np.log(2), rel=1e-6)


def test_soft_distillation_is_zero_where_both_agree():
  logits = jnp.float32(np.random.default_rng(0).normal(size=(4, 7)) * 5)
  for tau in (1e-3, 3.0, 1e4):
    loss, slope = jax.value_and_grad(
      lambda s, tau=tau: losses.soft_distillation(s, logits, tau).sum()
    )(logits)
    assert float(loss) == 0.0 and float(jnp.abs(slope).max()) < 1e-7 * max(tau, 1.0)
