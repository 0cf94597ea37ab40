# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A few examples of a data set as PNG files, to look at and to predict on."""

from __future__ import annotations

import os
import pathlib

import numpy as np
from PIL import Image

from vit_jax.data.decode import BadImage, decode
from vit_jax.data.sources import Dataset
from vit_jax.errors import UserError

SMALL = 64  # Pixels; smaller images are enlarged by a whole factor, without interpolation.


def write_samples(
  dataset: Dataset, split: str, out: str | os.PathLike, *, count: int = 10, seed: int = 0
) -> list[pathlib.Path]:
  """Writes `count` random examples of a split; the file names tell the class.

  Args:
    dataset: from `datasets.open_dataset`.
    split: such as "test".
    out: folder; it is made if need be.
    count: number of images; all if there are fewer.
    seed: chooses the examples.

  Returns:
    The files, named INDEX-CLASS.png.

  Raises:
    UserError: if the folder cannot be written, an image not read, or count is not positive.
  """
  if count < 1:
    raise UserError(f"count={count} must be at least 1.")
  source = dataset.source(split)
  if not dataset.class_names:
    raise UserError(f"{dataset.name} has texts and no classes; its images are files already.")
  chosen = np.random.default_rng(seed).permutation(len(source))[:count]
  out = pathlib.Path(out)
  written = []
  try:
    out.mkdir(parents=True, exist_ok=True)
    for index in chosen:
      record = source[int(index)]
      pixels = decode(record["image"], record["image"].shape[-1] if _is_array(record) else 3)
      factor = max(1, -(-SMALL // max(pixels.shape[:2])))
      pixels = pixels.repeat(factor, axis=0).repeat(factor, axis=1)
      name = dataset.class_names[record["label"]].replace(os.sep, "_")
      path = out / f"{index:05d}-{name}.png"
      Image.fromarray(pixels.squeeze()).save(path)
      written.append(path)
  except BadImage as error:
    raise UserError(f"{record['id']} cannot be read ({error}); repair or remove it.") from error
  except OSError as error:
    raise UserError(f"cannot write to {out}: {error.strerror or error}.") from error
  return written


def _is_array(record: dict) -> bool:
  return isinstance(record["image"], np.ndarray)
