# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The accuracy of mixed examples: a prediction is right if it is the label of the larger share."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.training import augment, losses, objectives

# The partners of 16 examples are 8 places further, where the colour is another.
LABELS = np.repeat([0, 1, 2, 1, 1, 2, 0, 2], 2).astype(np.int32)
assert not np.any(np.roll(LABELS, 8) == LABELS)
BATCH = {
  "image": np.broadcast_to(255 * np.eye(3, dtype=np.uint8)[LABELS][:, None, None], (16, 9, 9, 3)),
  "label": LABELS,
}


class Colour(nn.Module):
  """Names the colour that an image has most of."""

  def __call__(self, x, train=False):
    return x.mean((1, 2))


@pytest.mark.parametrize("options", [{"mixup": 1.0}, {"cutmix": 1.0}])
@pytest.mark.parametrize("taught", [False, True])
def test_who_names_the_larger_share_is_always_right(options, taught):
  options |= dict(mean=(0.0,) * 3, std=(1.0,) * 3, num_classes=3)
  if taught:
    teach, compare = lambda fixed, images: images.mean((1, 2)), losses.hard_distillation
    objective = objectives.distillation(Colour(), teach, compare=compare, weight=0.5, **options)
  else:
    objective = objectives.classification(Colour(), **options)
  mixing = {name: options.get(name, 0.0) for name in ("mixup", "cutmix")}

  @jax.jit
  @jax.vmap
  def outcome(key):
    _, targets = augment.mix(key, BATCH["image"], jnp.eye(3)[LABELS], **mixing)
    return objective({}, {}, BATCH, key, key)[1][0], targets[0, LABELS[0]]

  metrics, share = outcome(jax.random.split(jax.random.key(0), 16))
  for name, values in metrics.items():
    np.testing.assert_array_equal(values, 1.0, err_msg=name)
  # An example's own label is the one of the larger share in some draws only.
  assert 0 < np.mean(share > 0.5) < 1
