# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Augmentation of a whole batch, inside the jitted step: what needs other examples than its own."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def mix(
  key: jax.Array,
  images: Float[Array, "b h w c"],
  labels: Float[Array, "b k"],
  *,
  mixup: float = 0.0,
  cutmix: float = 0.0,
) -> tuple[Float[Array, "b h w c"], Float[Array, "b k"]]:
  """Mixes each example with another one by Mixup or CutMix; by either half of the time if both.

  One share for the batch, as in the papers' code. An example's partner is the one half a batch
  further, since batches are shuffled anyway: then a batch that is split for gradient accumulation,
  every n-th example into the same part, has the pairs of the whole one if its parts are even.

  Args:
    key: decides share and box; the same for all parts of a split batch.
    images: [batch, height, width, channels] float32, normalised or not.
    labels: [batch, classes] float32, one-hot or shares.
    mixup: alpha of `mixup_share`; 0 turns it off.
    cutmix: alpha of `cutmix_mask`; 0 turns it off.

  Returns:
    Images and labels of the same shapes.
  """
  size = images.shape[1:3]
  if not cutmix:
    mask = mixup_share(key, mixup)[None, None]
  else:
    mask = cutmix_mask(jax.random.fold_in(key, 0), size, cutmix)
    if mixup:
      chosen = jax.random.bernoulli(jax.random.fold_in(key, 1))
      mask = jnp.where(chosen, mask, mixup_share(jax.random.fold_in(key, 2), mixup))
  partner = lambda x: jnp.roll(x, x.shape[0] // 2, axis=0)
  share, mask = mask.mean(), mask[None, :, :, None]
  return (
    mask * images + (1 - mask) * partner(images),
    share * labels + (1 - share) * partner(labels),
  )


def mixup_share(key: jax.Array, alpha: float) -> Float[Array, ""]:
  """Share of an example itself, from Beta(alpha, alpha): arXiv:1710.09412; a small alpha's are
  near 0 or 1."""
  return jax.random.beta(key, alpha, alpha)


def cutmix_mask(key: jax.Array, size: tuple[int, int], alpha: float) -> Float[Array, "h w"]:
  """1 where an example keeps its own pixels, 0 in a box anywhere: arXiv:1905.04899, appendix A.

  The box has the image's aspect ratio, and 1 - share of its area with a share from
  Beta(alpha, alpha); what sticks out of the image is cut off, so labels go by the pixels that
  remain.
  """
  share_key, centre_key = jax.random.split(key)
  side = jnp.sqrt(1 - jax.random.beta(share_key, alpha, alpha))
  centre = jax.random.uniform(centre_key, (2,))
  inside = []
  for axis, length in enumerate(size):
    position = (jnp.arange(length) + 0.5) / length
    inside.append(jnp.abs(position - centre[axis]) < side / 2)
  return 1.0 - (inside[0][:, None] & inside[1]).astype(jnp.float32)
