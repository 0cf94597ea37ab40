# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A small ViT with noise on every leaf, and its logits: what the checkpoint tests share."""

import compiled
import flax.traverse_util
import numpy as np

from vit_jax.models.registry import create_model

NAME = "ViT-Ti_16"
FIELDS = dict(hidden_size=32, num_layers=3, mlp_dim=48, num_heads=2)
CLASSES = 5
SIZE = 64  # 4 x 4 patches


def images(height=SIZE, width=None, seed=3):
  shape = (2, height, width or height, 3)
  return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def tiny(seed=0, size=(SIZE, SIZE), name=NAME, **fields):
  """Returns (model, variables) with normal noise everywhere."""
  model = create_model(name, **{**FIELDS, "num_classes": CLASSES, **fields})
  return model, compiled.noise(model, np.zeros((1, *size, 3), np.float32), seed=seed)


def flatten(variables):
  return flax.traverse_util.flatten_dict(variables["params"], sep="/")


def assert_equal(ours, theirs):
  """Same leaves with the same bits."""
  ours, theirs = flatten(ours), flatten(theirs)
  assert ours.keys() == theirs.keys()
  for path in ours:
    np.testing.assert_array_equal(ours[path], theirs[path], err_msg=path)
