# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The pyramid of the hierarchical families: which maps there are, and their strides."""

import jax
import jax.numpy as jnp
import pytest

import vit_jax


@pytest.mark.parametrize(
  "name, strides",
  [
    ("Swin-T", (4, 8, 16, 32)),
    ("SwinV2-T-w8", (4, 8, 16, 32)),
    ("PoolFormer-S12", (4, 8, 16, 32)),
    ("MobileViT-XXS", (2, 4, 8, 16, 32)),
    ("MobileViTV2-0.5", (2, 4, 8, 16, 32)),
    ("BiT-R50x1", (4, 8, 16, 32)),
    ("ViT-Ti_16", ()),
    ("R+ViT-Ti_16", ()),
  ],
)
def test_strides_are_those_of_the_maps(name, strides):
  model = vit_jax.create_model(name)
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
