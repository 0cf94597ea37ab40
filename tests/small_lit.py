# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""configs/lit.py:digits with towers of one layer, and one short run of it for all who only look."""

import pathlib
from typing import Any, NamedTuple

import ml_collections

from vit_jax.checkpoints.convert import convert
from vit_jax.configs import lit
from vit_jax.data import datasets, samples
from vit_jax.training.loop import train_and_evaluate

NAME = "LiT-B16B_2"


def config(**changes: Any) -> ml_collections.ConfigDict:
  """The config, from scratch.

  Args:
    **changes: of keys at the top; of sections, by a dict of what is to be replaced.
  """
  keys = lit.get_config("digits")
  small = dict(hidden_size=16, num_layers=1, mlp_dim=32, num_heads=2)
  keys.model.update(img=dict(small, stem_width=32), txt=dict(small, num_classes=16))
  keys.update(total_steps=12, warmup_steps=2, batch=32, batch_eval=128, baseline=None)
  keys.update(eval_every=4, checkpoint_every=3, progress_every=2, frozen=None)
  keys.update(changes)
  return keys


class Trained(NamedTuple):
  """A run of three steps, its weights as an npz, twelve test images, and its results."""

  workdir: pathlib.Path
  npz: pathlib.Path
  images: list[pathlib.Path]
  results: dict[str, Any]


_TRAINED: list[Trained] = []


def trained(tmp_path_factory: Any) -> Trained:
  """The run, which is only made once in a test session; nothing may change it."""
  if not _TRAINED:
    root = tmp_path_factory.mktemp("lit")
    settings = config(total_steps=3, warmup_steps=1, eval_every=0, checkpoint_every=0)
    results = train_and_evaluate(settings, root / "run")
    convert(root / "run", root / "lit.npz", NAME)
    digits = datasets.open_dataset("digits")
    images = samples.write_samples(digits, "test", root / "images", count=12)
    _TRAINED.append(Trained(root / "run", root / "lit.npz", images, results))
  return _TRAINED[0]
