# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from vit_jax.training import augment


def test_mixup_equals_numpy():
  rng = np.random.default_rng(0)
  images = rng.normal(size=(6, 4, 4, 3)).astype(np.float32)
  labels = np.eye(5, dtype=np.float32)[rng.integers(5, size=6)]
  key = jax.random.key(3)
  share = np.float32(jax.random.beta(key, 0.5, 0.5))
  mixed, targets = augment.mixup(key, jnp.asarray(images), jnp.asarray(labels), 0.5)
  for i, other in enumerate([3, 4, 5, 0, 1, 2]):
    np.testing.assert_allclose(
      mixed[i], share * images[i] + (1 - share) * images[other], rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(targets[i], share * labels[i] + (1 - share) * labels[other])
  np.testing.assert_allclose(targets.sum(-1), 1, rtol=1e-6)


def test_mixups_share_is_beta_distributed():
  draw = lambda key: augment.mixup(key, jnp.zeros((2, 1, 1, 1)), jnp.eye(2), 0.1)[1][0, 0]
  shares = jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(0), 2000))
  # Not the whole distribution function: a tenth of it lies so close to 1 that float32 rounds it.
  for point in (0.01, 0.1, 0.5, 0.9, 0.99):
    expected = scipy.stats.beta(0.1, 0.1).cdf(point)
    assert abs(np.mean(shares <= point) - expected) < 0.045  # Four standard errors.


def test_an_odd_batch_and_a_single_image_are_mixed_too():
  for size in (1, 3):
    images = jnp.arange(size, dtype=jnp.float32).reshape(size, 1, 1, 1)
    mixed, _ = augment.mixup(jax.random.key(0), images, jnp.eye(size), 1.0)
    np.testing.assert_allclose(mixed.sum(), images.sum(), rtol=1e-6)
