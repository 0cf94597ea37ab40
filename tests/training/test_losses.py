# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
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
