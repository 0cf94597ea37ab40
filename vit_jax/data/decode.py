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
import struct
import zlib
from collections.abc import Iterator

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
_WITHOUT_LENGTH = frozenset((0x00, 0x01, *range(0xD0, 0xDA)))  # Markers that no length follows.

# The largest photos that phones take. OpenCV's own limit, 2**30, would allow 3 GB and, of a
# progressive JPEG, 6 GB more. Pillow has a limit of its own.
MAX_PIXELS = 200_000_000
_BAND = 1 << 22  # Pixels of a Pillow image that are converted at a time.
_TILE = (322, 323)  # TIFF's tags for width and height of a tile.

# What Pillow's plugins raise for damaged files. Warnings are raised where the user asks for it.
_DAMAGE = (
  OSError, SyntaxError, ValueError, RuntimeError, EOFError, ArithmeticError, TypeError, LookupError,
  AttributeError, AssertionError, MemoryError, struct.error, zlib.error, cv2.error,
  Image.DecompressionBombError, Warning,
)  # fmt: skip


class BadImage(ValueError):
  """The bytes are not an image that can be decoded."""


def decode(image: bytes | np.ndarray, channels: int = 3, reduce: int = 1) -> np.ndarray:
  """Decodes an image, whatever its file name says it is.

  EXIF orientation is applied, transparency is laid over white, 16 bits become 8, CMYK becomes RGB.
  Of several images (GIF, TIFF) it is the first. An image of more than `MAX_PIXELS`, or if Pillow
  has to read it than `PIL.Image.MAX_IMAGE_PIXELS`, is refused by its header.

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
    except (cv2.error, MemoryError):  # Empty, or larger than OpenCV allows.
      pixels = None
    if pixels is not None and reduce > 1:
      pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
  if pixels is None:
    try:
      _check_png_sums(image)
      with Image.open(io.BytesIO(image), formats=tuple(FORMATS)) as opened:
        _refuse_bomb(opened)
        pixels = from_pil(opened)
    except _DAMAGE as e:
      reason = "it is empty" if not image else str(e).replace("\n", " ") or type(e).__name__
      raise BadImage(reason.split(" <_io.")[0]) from e
  if not pixels.size:
    raise BadImage(f"it has {pixels.shape[1]}x{pixels.shape[0]} pixels")
  return to_channels(pixels, channels)


def _refuse_bomb(image: Image.Image) -> None:
  """Raises for what Pillow only warns of, and for a tile of a TIFF, which it does not look at."""
  limit, tags = Image.MAX_IMAGE_PIXELS, getattr(image, "tag_v2", {})
  for width, height in (image.size, [tags.get(tag, 1) for tag in _TILE]):
    if limit is not None and width * height > limit:
      raise Image.DecompressionBombError(
        f"its size of {width}x{height} exceeds the limit of {limit} pixels"
      )


def from_pil(image: Image.Image) -> np.ndarray:
  """uint8 RGB [height, width, 3] of a Pillow image: upright, over white, 16 bits scaled to 8."""
  sixteen_bits = image.mode.startswith("I;16") or image.format == "PPM"
  image = ImageOps.exif_transpose(image)
  width, height = image.size
  white = None
  if image.mode.startswith("I") or image.mode == "F":  # Pillow would clip instead of scale.
    white = 65535 if sixteen_bits else _white(image.getextrema()[1], image.mode)
  pixels = np.empty((height, width, 3), np.uint8)
  rows = max(_BAND // max(width, 1), 1)  # All at once would be 20 bytes a pixel and more.
  for top in range(0, height, rows):
    bottom = min(top + rows, height)
    pixels[top:bottom] = _to_rgb(image.crop((0, top, width, bottom)), white)
  return pixels


def _to_rgb(image: Image.Image, white: int | None) -> np.ndarray:
  """uint8 RGB [height, width, 3]; `white` is the number that is white, if a pixel is a number."""
  if white is not None:
    grey = np.clip(np.round(np.asarray(image, np.float64) * (255 / white)), 0, 255)
    return to_channels(grey.astype(np.uint8), 3)
  if image.has_transparency_data:
    image = image.convert("RGBA")
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
  return np.asarray(image.convert("RGB"))


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
  at = data.find(b"\xff", 2)
  while 0 < at < len(data) - 9:
    marker = data[at + 1]
    if marker == 0xFF:  # Fill bytes may precede a marker.
      at += 1
    elif marker in _START_OF_FRAME:
      height, width = data[at + 5] << 8 | data[at + 6], data[at + 7] << 8 | data[at + 8]
      return height, width, data[at + 9]
    elif marker in _WITHOUT_LENGTH:
      at = data.find(b"\xff", at + 2)
    else:  # As libjpeg does, whatever stands before the next marker is skipped.
      at = data.find(b"\xff", at + 2 + (data[at + 2] << 8 | data[at + 3]))
  return None


def _needs_pillow(data: bytes) -> bool:
  """False for JPEG, PNG and WebP but for CMYK, transparency, WebP with EXIF, and what is too large.

  OpenCV would reserve what a PNG's chunk says it is long. Pillow refuses that, and large images.
  """
  if data[:2] == b"\xff\xd8":
    size = jpeg_size(data)
    return size is None or size[2] == 4 or size[0] * size[1] > MAX_PIXELS
  if data[:8] == b"\x89PNG\r\n\x1a\n" and len(data) > 33:
    width, height = struct.unpack(">II", data[16:24])
    is_large = width * height > MAX_PIXELS
    return is_large or data[25] in (4, 6) or not _SPECIAL.isdisjoint(_png_chunks(data))
  if data[:4] == b"RIFF" and data[8:12] == b"WEBP" and len(data) > 29:
    # Alpha or EXIF in the extended header, alpha in the lossless one. OpenCV 4 ignores WebP's EXIF.
    if data[12:16] == b"VP8X":
      width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
      return bool(data[20] & 0x18) or width * height > MAX_PIXELS
    return data[12:16] == b"VP8L" and bool(data[24] & 0x10)
  return True


# Transparency, animations, and a chunk that does not end in the file.
_SPECIAL = frozenset((b"tRNS", b"acTL", b""))


def _check_png_sums(data: bytes) -> None:
  """Raises ValueError for a PNG with a chunk that is cut, or has another sum than it says.

  OpenCV refuses both; Pillow does not look at the sums of pixels, and would show others.
  """
  if data[:8] != b"\x89PNG\r\n\x1a\n":
    return
  at, kind = 8, b""
  for kind in _png_chunks(data):
    if not kind:
      raise ValueError("it ends in the middle of a chunk")
    (length,) = struct.unpack(">I", data[at : at + 4])
    end = at + 8 + length
    if zlib.crc32(data[at + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
      raise ValueError(f"its chunk {kind!r} is not as written")
    at = end + 4
  if kind != b"IEND":
    raise ValueError("it ends before its last chunk")


def _png_chunks(data: bytes) -> Iterator[bytes]:
  """The types of a PNG's chunks; an empty one for what is no whole chunk."""
  at = 8
  while at < len(data):
    (length,) = struct.unpack(">I", data[at : at + 4]) if at + 12 <= len(data) else (len(data),)
    kind = data[at + 4 : at + 8] if at + 12 + length <= len(data) else b""
    yield kind
    if kind in (b"IEND", b""):
      return
    at += 12 + length
