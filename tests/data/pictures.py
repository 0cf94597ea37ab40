# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Pictures for the tests of data: real photos, encoded in many ways, and folders of them."""

import io
import pathlib

import numpy as np
from PIL import Image
from skimage import data


def photo(height: int = 150, width: int = 200) -> np.ndarray:
  """A real photo, uint8 [height, width, 3], that no mirror or turn maps to itself."""
  return np.ascontiguousarray(data.astronaut()[:height, 100 : 100 + width])


def encoded(image: np.ndarray | Image.Image, kind: str = "PNG", **options) -> bytes:
  buffer = io.BytesIO()
  image = image if isinstance(image, Image.Image) else Image.fromarray(image)
  image.save(buffer, kind, **options)
  return buffer.getvalue()


def opened(data: bytes) -> Image.Image:
  return Image.open(io.BytesIO(data))


def write_folder(root: pathlib.Path, counts: dict[str, int], seed: int = 0) -> pathlib.Path:
  """Makes small JPEGs in `root` for counts such as {"train/cat": 3}; each has its own content."""
  rng = np.random.default_rng(seed)
  for name, count in counts.items():
    directory = root / name
    directory.mkdir(parents=True, exist_ok=True)
    for k in range(count):
      noise = rng.integers(0, 256, (3, 4, 3), dtype=np.uint8)
      image = Image.fromarray(noise).resize((24 + k, 20), Image.Resampling.BICUBIC)
      image.save(directory / f"{k:03d}.jpg")
  return root
