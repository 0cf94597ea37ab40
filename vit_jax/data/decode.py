# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Encoded images to uint8 arrays, upright and in the asked number of channels.

OpenCV decodes JPEG, PNG and WebP where it is right and fast (its JPEG decoder is libjpeg-turbo,
bit-identical to Pillow's; it applies the EXIF orientation of JPEG and PNG). Pillow takes what is
left: the other formats, alpha channels, which are laid over white, CMYK, and WebP with EXIF.
OpenCV drops the transparency of GIF, TIFF, AVIF and JPEG 2000 and the orientation of AVIF.
"""

from __future__ import annotations

import io

import cv2
import numpy as np
from PIL import Image, ImageOps

from vit_jax.data.listing import FORMATS

# We report a damaged image ourselves, once, with its name. (OpenCV 4 and 5 differ in the place.)
(cv2.setLogLevel if hasattr(cv2, "setLogLevel") else cv2.utils.logging.setLogLevel)(0)

_REDUCED = {
  1: cv2.IMREAD_COLOR_RGB,
  2: cv2.IMREAD_REDUCED_COLOR_2,
  4: cv2.IMREAD_REDUCED_COLOR_4,
  8: cv2.IMREAD_REDUCED_COLOR_8,
}
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


class BadImage(ValueError):
  """The bytes are not an image that can be decoded."""


def decode(image: bytes | np.ndarray, channels: int = 3, reduce: int = 1) -> np.ndarray:
  """Decodes an image, whatever its file name says it is.

  EXIF orientation is applied, transparency is laid over white, 16 bits become 8, CMYK becomes RGB.
  Of several images (GIF, TIFF) it is the first.

  Args:
    image: encoded bytes, or uint8 [height, width] or [height, width, 1, 3 or 4].
    channels: 3 for RGB, 1 for grey (luma of ITU-R 601).
    reduce: 1, 2, 4 or 8: decode a JPEG at this fraction of its size, if it can be done.

  Returns:
    uint8 [height, width, channels].

  Raises:
    BadImage: the bytes cannot be decoded.
  """
  if isinstance(image, np.ndarray):
    return to_channels(image, channels)
  pixels = None
  if not _needs_pillow(image):
    try:
      pixels = cv2.imdecode(np.frombuffer(image, np.uint8), _REDUCED[reduce])
    except cv2.error:  # Empty, or larger than OpenCV allows.
      pixels = None
    if pixels is not None and reduce > 1:
      pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
  if pixels is None:
    try:
      with Image.open(io.BytesIO(image), formats=tuple(FORMATS)) as opened:
        pixels = from_pil(opened)
    except Exception as e:  # Pillow's plugins raise many types.
      reason = "it is empty" if not image else str(e).replace("\n", " ") or type(e).__name__
      raise BadImage(reason.split(" <_io.")[0]) from e
  return to_channels(pixels, channels)


def from_pil(image: Image.Image) -> np.ndarray:
  """uint8 RGB [height, width, 3] of a Pillow image: upright, over white, 16 bits scaled to 8."""
  sixteen_bits = image.mode.startswith("I;16") or image.format == "PPM"
  image = ImageOps.exif_transpose(image)
  if image.mode.startswith("I") or image.mode == "F":  # Pillow would clip instead of scale.
    pixels = np.asarray(image, np.float64)
    white = 65535 if sixteen_bits else _white(pixels.max(initial=0), image.mode)
    return to_channels(np.clip(np.round(pixels * (255 / white)), 0, 255).astype(np.uint8), 3)
  if image.has_transparency_data:
    image = image.convert("RGBA")
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
  return np.array(image.convert("RGB"))


def _white(largest: float, mode: str) -> int:
  """What white is in an image of 32-bit numbers, which no file says."""
  if mode == "F" and largest <= 1:
    return 1
  return 255 if largest <= 255 else 65535


def to_channels(image: np.ndarray, channels: int) -> np.ndarray:
  """uint8 [height, width] or [height, width, 1, 3 or 4] to [height, width, channels]."""
  if image.dtype != np.uint8 or image.ndim not in (2, 3):
    raise TypeError(
      f"images must be uint8 [height, width, channels]; this is {image.dtype} of shape "
      f"{image.shape}"
    )
  if image.ndim == 2:
    image = image[..., None]
  have = image.shape[2]
  if have == channels:
    return image
  if have == 4:
    alpha = image[..., 3:].astype(np.uint16)
    over = image[..., :3] * alpha + 255 * (255 - alpha)
    return to_channels(((over + 127) // 255).astype(np.uint8), channels)
  if have == 3 and channels == 1:
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None]
  if have == 1 and channels == 3:
    return cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
  raise TypeError(f"cannot bring an image of shape {image.shape} to {channels} channels")


def jpeg_size(data: bytes) -> tuple[int, int, int] | None:
  """(height, width, components) as stored, before EXIF orientation; None if this is no JPEG."""
  if data[:2] != b"\xff\xd8":
    return None
  at = 2
  while at + 9 < len(data) and data[at] == 0xFF:
    marker = data[at + 1]
    if marker == 0xFF:  # Fill bytes may precede a marker.
      at += 1
    elif marker in _START_OF_FRAME:
      height, width = data[at + 5] << 8 | data[at + 6], data[at + 7] << 8 | data[at + 8]
      return height, width, data[at + 9]
    else:
      at += 2 + (data[at + 2] << 8 | data[at + 3])
  return None


def _needs_pillow(data: bytes) -> bool:
  """False for JPEG, PNG and WebP but for CMYK, transparency, and WebP with EXIF."""
  if data[:2] == b"\xff\xd8":
    size = jpeg_size(data)
    return size is not None and size[2] == 4
  if data[:8] == b"\x89PNG\r\n\x1a\n":
    alpha = len(data) > 25 and data[25] in (4, 6)
    return alpha or data.find(b"tRNS", 0, max(data.find(b"IDAT"), 0)) >= 0
  if data[:4] == b"RIFF" and data[8:12] == b"WEBP" and len(data) > 24:
    # Alpha or EXIF in the extended header, alpha in the lossless one. OpenCV 4 ignores WebP's EXIF.
    return bool({b"VP8X": data[20] & 0x18, b"VP8L": data[24] & 0x10}.get(data[12:16]))
  return True
