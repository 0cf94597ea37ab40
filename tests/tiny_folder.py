# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Small folders of images, and runs of seconds on them."""

import contextlib
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vit_jax.training import progress
from vit_jax.training.loop import train_and_evaluate

SIDE = 8


def write(root: pathlib.Path, counts: dict[str, int], seed: int = 0) -> pathlib.Path:
  """Writes random images, `counts` of them for each subfolder; other seeds give other sizes too."""
  random = np.random.default_rng(seed)
  for name, count in counts.items():
    (root / name).mkdir(parents=True)
    for k in range(count):
      shape = (SIDE + seed, SIDE, 3)
      pixels = random.integers(0, 256, shape, dtype=np.uint8)
      Image.fromarray(pixels).save(root / name / f"{k:03d}.png")
  return root


def config(dataset: str, **changes: Any) -> dict[str, Any]:
  """A ViT of one layer and four steps; `changes` are keys, those of splits belong to `pp`."""
  splits = {key: changes.pop(key) for key in ("train", "val", "test") if key in changes}
  usual = dict(
    dataset=dataset,
    total_steps=4,
    warmup_steps=1,
    batch=8,
    batch_eval=16,
    eval_every=2,
    checkpoint_every=2,
    progress_every=2,
    model=dict(
      name="ViT-Ti_16", patch_size=4, hidden_size=16, num_layers=1, mlp_dim=32, num_heads=2
    ),
    pp=dict(crop=SIDE, train_crop="none", **splits),
    optim=dict(name="adamw"),
  )
  return {**usual, **changes}


@contextlib.contextmanager
def at_step(step: int, action: Callable[[], Any]) -> Iterator[None]:
  """Does something right after a step was dispatched."""
  update = progress.Progress.update

  def patched(self, at, metrics):
    update(self, at, metrics)
    if at == step:
      action()

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(progress.Progress, "update", patched)
    yield


def train(workdir: str | os.PathLike, dataset: str, resume: Any = True, **changes: Any) -> dict:
  """Trains as `config` says."""
  return train_and_evaluate(config(dataset, **changes), workdir, resume=resume)
