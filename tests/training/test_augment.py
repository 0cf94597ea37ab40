# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from vit_jax.training import augment


def test_mixup_equals_numpy():
  rng = np.random.default_rng(0)
  images = rng.normal(size=(6, 4, 4, 3)).astype(np.float32)
  labels = np.eye(5, dtype=np.float32)[rng.integers(5, size=6)]
  key = jax.random.key(3)
  share = np.float32(jax.random.beta(key, 0.5, 0.5))
  mixed, targets = augment.mix(key, jnp.asarray(images), jnp.asarray(labels), mixup=0.5)
  for i, other in enumerate([3, 4, 5, 0, 1, 2]):
    np.testing.assert_allclose(
      mixed[i], share * images[i] + (1 - share) * images[other], rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(targets[i], share * labels[i] + (1 - share) * labels[other])
  np.testing.assert_allclose(targets.sum(-1), 1, rtol=1e-6)


def test_mixups_share_is_beta_distributed():
  draw = lambda key: augment.mixup_share(key, 0.1)
  shares = jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(0), 2000))
  # Not the whole distribution function: a tenth of it lies so close to 1 that float32 rounds it.
  for point in (0.01, 0.1, 0.5, 0.9, 0.99):
    expected = scipy.stats.beta(0.1, 0.1).cdf(point)
    assert abs(np.mean(shares <= point) - expected) < 0.045  # Four standard errors.


def test_an_odd_batch_and_a_single_image_are_mixed_too():
  for size in (1, 3):
    images = jnp.arange(size, dtype=jnp.float32).reshape(size, 1, 1, 1)
    mixed, _ = augment.mix(jax.random.key(0), images, jnp.eye(size), mixup=1.0)
    np.testing.assert_allclose(mixed.sum(), images.sum(), rtol=1e-6)


def test_cutmix_pastes_a_box_and_labels_go_by_its_area():
  images = jnp.stack([jnp.full((16, 24, 1), value) for value in (0.0, 1.0, 2.0, 3.0)])
  shares = []
  for seed in range(20):
    mixed, labels = augment.mix(jax.random.key(seed), images, jnp.eye(4), cutmix=1.0)
    changed = np.asarray(mixed[0, ..., 0] == 2)
    assert (changed | np.asarray(mixed[0, ..., 0] == 0)).all()  # Nothing in between.
    rows, columns = changed.any(1), changed.any(0)
    assert (changed == rows[:, None] & columns).all()  # A box,
    assert all(np.abs(np.diff(side.astype(int))).sum() <= 2 for side in (rows, columns))  # one.
    for i, other in enumerate([2, 3, 0, 1]):
      assert float(labels[i, other]) == pytest.approx(changed.mean(), abs=1e-6)
      np.testing.assert_array_equal(mixed[i, ..., 0] == other, changed)
    shares.append(changed.mean())
  assert min(shares) < 0.1 and max(shares) > 0.4


def test_an_uncut_box_has_the_area_of_its_share():
  # A box in the middle of a large image, whose share follows from the same key.
  for seed in range(200):
    key = jax.random.key(seed)
    mask = np.asarray(augment.cutmix_mask(key, (200, 200), 1.0))
    inside = mask[[0, -1]].all() and mask[:, [0, -1]].all()
    if inside and mask.min() == 0:
      share = float(jax.random.beta(jax.random.split(key)[0], 1.0, 1.0))
      assert mask.mean() == pytest.approx(share, abs=0.01)
      return
  raise AssertionError("no box was inside")


def test_with_both_either_is_used_half_of_the_time():
  images = jnp.stack([jnp.zeros((8, 8, 1)), jnp.ones((8, 8, 1))])
  draw = lambda key: augment.mix(key, images, jnp.eye(2), mixup=1.0, cutmix=1.0)[0][0]
  mixed = np.asarray(jax.vmap(draw)(jax.random.split(jax.random.key(0), 400)))
  by_cutmix = np.isin(mixed, (0.0, 1.0)).all(axis=(1, 2, 3))
  assert 0.4 < by_cutmix.mean() < 0.6
