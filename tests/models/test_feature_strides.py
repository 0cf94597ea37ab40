# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The pyramid of the hierarchical families: which maps there are, and their strides."""

import jax
import jax.numpy as jnp
import pytest

import vit_jax


@pytest.mark.parametrize(
  "name, fields, strides",
  [
    ("Swin-T", {"depths": (1, 1, 1, 1)}, (4, 8, 16, 32)),
    ("SwinV2-T-w8", {"depths": (1, 1, 1)}, (4, 8, 16)),
    ("PoolFormer-S12", {"depths": (1, 1, 1, 1)}, (4, 8, 16, 32)),
    ("MobileViT-XXS", {"num_layers": (1, 1, 1)}, (2, 4, 8, 16, 32)),
    ("MobileViTV2-0.5", {"num_layers": (1, 1, 1)}, (2, 4, 8, 16, 32)),
    ("BiT-R50x1", {"num_units": (1, 1, 1, 1)}, (4, 8, 16, 32)),
    ("ViT-Ti_16", {"num_layers": 1}, ()),
    ("R+ViT-Ti_16", {"num_layers": 1}, ()),
  ],
)
def test_strides_are_those_of_the_maps(name, fields, strides):
  model = vit_jax.create_model(name, **fields)
  assert vit_jax.feature_strides(model) == {f"stages/{i}": s for i, s in enumerate(strides)}
  if not strides:
    return
  size = (128, 192)  # MobileViT V2 enlarges maps that are no whole number of patches.
  images = jnp.zeros((2, *size, 3))
  variables = jax.eval_shape(lambda: model.init(jax.random.key(0), images))
  maps = jax.eval_shape(
    lambda v: vit_jax.extract_features(model, v, images, layers=["stages/*"]), variables
  )
  for level, stride in enumerate(strides):
    assert maps[f"stages/{level}"].shape[:3] == (2, size[0] // stride, size[1] // stride)
