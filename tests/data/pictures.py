# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Pictures for the tests of data: real photos, encoded in many ways, and folders of them."""

import io
import pathlib
import struct

import cv2
import numpy as np
from PIL import Image
from skimage import data

from vit_jax.data import listing


def photo(height: int = 150, width: int = 200) -> np.ndarray:
  """A real photo, uint8 [height, width, 3], that no mirror or turn maps to itself."""
  return np.ascontiguousarray(data.astronaut()[:height, 100 : 100 + width])


def encoded(image: np.ndarray | Image.Image, kind: str = "PNG", **options) -> bytes:
  buffer = io.BytesIO()
  image = image if isinstance(image, Image.Image) else Image.fromarray(image)
  image.save(buffer, kind, **options)
  return buffer.getvalue()


def every_format(image: np.ndarray) -> dict[str, bytes]:
  """The image, uint8 [height, width, 3], in every format that `decode` reads, by Pillow's name."""
  height, width = image.shape[:2]
  options = {
    "JPEG": {"quality": 95},
    "AVIF": {"quality": 95},
    "WEBP": {"lossless": True},
    "ICO": {"sizes": [(width, height)]},
  }
  files = {
    kind: encoded(image, kind, **options.get(kind, {}))
    for kind in listing.FORMATS.keys() - {"SUN", "PSD"}  # Which Pillow only reads.
  }
  files["SUN"] = cv2.imencode(".ras", image[..., ::-1])[1].tobytes()
  head = struct.pack(">4sH6xHIIHHIIIH", b"8BPS", 1, 3, height, width, 8, 3, 0, 0, 0, 0)
  files["PSD"] = head + image.transpose(2, 0, 1).tobytes()
  return files


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
