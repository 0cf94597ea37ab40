# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Augmentation of a whole batch, inside the jitted step: what needs other examples than its own."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def mixup(
  key: jax.Array, images: Float[Array, "b h w c"], labels: Float[Array, "b k"], alpha: float
) -> tuple[Float[Array, "b h w c"], Float[Array, "b k"]]:
  """Mixes each example with another one: `share * x + (1 - share) * x'`, arXiv:1710.09412.

  One share for the batch, as in that paper's code. An example's partner is the one half a batch
  further, since batches are shuffled anyway: then a batch that is split for gradient accumulation,
  every n-th example into the same part, has the pairs of the whole one if its parts are even.

  Args:
    key: decides the share; the same for all parts of a split batch.
    images: [batch, height, width, channels] float32, normalised.
    labels: [batch, classes] float32, one-hot or shares.
    alpha: the share is drawn from Beta(alpha, alpha); small values rarely mix much.

  Returns:
    Images and labels of the same shapes.
  """
  share = jax.random.beta(key, alpha, alpha)
  mix = lambda x: share * x + (1 - share) * jnp.roll(x, x.shape[0] // 2, axis=0)
  return mix(images), mix(labels)
