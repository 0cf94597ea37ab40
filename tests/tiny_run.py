# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Runs that take seconds, on the embedded digits: a ViT of one layer, and a LiT."""

import contextlib
import os
import pathlib
import subprocess
import sys
from typing import Any

import jax
import ml_collections
import numpy as np
import small_lit


def config(**changes: Any) -> ml_collections.ConfigDict:
  """The config, with top-level keys or sections replaced."""
  keys = dict(
    dataset="digits",
    total_steps=12,
    warmup_steps=2,
    base_lr=1e-3,
    batch=32,
    batch_eval=128,
    eval_every=4,
    checkpoint_every=3,
    progress_every=2,
    seed=0,
    model=dict(
      name="ViT-Ti_16",
      patch_size=4,
      hidden_size=16,
      num_layers=1,
      mlp_dim=32,
      num_heads=2,
      dropout_rate=0.1,
    ),
    pp=dict(
      train="train",
      val="val",
      test="test",
      crop=8,
      channels=1,
      train_crop="none",
      flip=False,
      random_affine=dict(degrees=10.0, translate=0.1, scale=(0.9, 1.1)),
    ),
    optim=dict(name="adamw", weight_decay=0.01),
  )
  for key, value in changes.items():
    if isinstance(value, dict) and key in ("model", "pp"):
      keys[key] = {**keys[key], **value}
    else:
      keys[key] = value
  return ml_collections.ConfigDict(keys)


# By the names by which programs of their own ask for them.
CONFIGS = {"mixup": lambda: config(mixup=0.4), "lit": small_lit.config}


def run_python(program: str, *arguments: Any, **environment: str) -> subprocess.CompletedProcess:
  """Runs a program in its own process, which can import this module."""
  here = pathlib.Path(__file__).parent
  path = [str(here), str(here / "training"), os.environ.get("PYTHONPATH", "")]
  return subprocess.run(
    [sys.executable, "-c", program, *map(str, arguments)],
    env={
      **os.environ,
      "JAX_PLATFORMS": "cpu",
      "PYTHONPATH": os.pathsep.join(filter(None, path)),
      **environment,
    },
    capture_output=True,
    text=True,
    timeout=300,
    check=False,
  )


def leaves(variables: Any) -> dict[str, np.ndarray]:
  """All arrays of a tree, by path."""
  flat, _ = jax.tree_util.tree_flatten_with_path(variables)
  return {jax.tree_util.keystr(path): np.asarray(value) for path, value in flat}


@contextlib.contextmanager
def changed(owner: Any, name: str, value: Any):
  """Replaces an attribute for a while."""
  before = getattr(owner, name)
  setattr(owner, name, value)
  try:
    yield before
  finally:
    setattr(owner, name, before)
