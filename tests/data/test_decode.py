# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Decoding against Pillow, for every kind of file that a folder may hold."""

import json
import os
import pickle
import random
import re
import struct
import subprocess
import sys
import zlib

import cv2
import numpy as np
import pytest
from pictures import encoded, every_format, opened, photo
from PIL import Image, ImageOps

from vit_jax.data import decode as decode_lib
from vit_jax.data import listing
from vit_jax.data.decode import BadImage, decode, from_pil, jpeg_size

ASTRONAUT = photo()
FILES = every_format(ASTRONAUT)
TURN = Image.Transpose
# What brings the stored image upright, by EXIF's number.
TURNS = {
  2: TURN.FLIP_LEFT_RIGHT, 3: TURN.ROTATE_180, 4: TURN.FLIP_TOP_BOTTOM, 5: TURN.TRANSPOSE,
  6: TURN.ROTATE_270, 7: TURN.TRANSVERSE, 8: TURN.ROTATE_90,
}  # fmt: skip


@pytest.mark.parametrize("kind", listing.FORMATS)
def test_pixels_equal_pillows(kind):
  data = FILES[kind]
  np.testing.assert_array_equal(decode(data), np.asarray(opened(data).convert("RGB")))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(kind, orientation):
  exif = Image.Exif()
  exif[0x0112] = orientation
  data = encoded(ASTRONAUT, kind, exif=exif)
  upright = np.asarray(ImageOps.exif_transpose(opened(data)).convert("RGB"))
  np.testing.assert_array_equal(decode(data), upright)
  np.testing.assert_array_equal(from_pil(opened(data)), upright)
  turned = Image.fromarray(ASTRONAUT)
  if orientation != 1:
    turned = turned.transpose(TURNS[orientation])
  assert np.abs(upright.astype(int) - np.asarray(turned)).mean() < 6  # Not Pillow's word alone.


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "JPEG2000", "TGA", "QOI", "SGI"])
def test_transparency_is_laid_over_white(kind):
  alpha = np.tile(np.linspace(0, 255, 200).astype(np.uint8), (150, 1))
  rgba = np.dstack([ASTRONAUT, alpha])
  expected = ASTRONAUT * (alpha[..., None] / 255) + 255 * (1 - alpha[..., None] / 255)
  result = decode(encoded(rgba, kind, lossless=True))
  assert np.abs(result - expected).max() <= 1
  assert np.abs(decode(rgba) - expected).max() <= 1


def test_alpha_is_rounded_as_real_numbers_are():
  """Every alpha with every colour, of an array and of a file (where Pillow does it)."""
  alpha, colour = np.mgrid[0:256, 0:256].astype(np.uint8)
  rgba = np.dstack([colour, 255 - colour, colour, alpha])
  expected = np.rint((rgba[..., :3] * (alpha / 255)[..., None]) + (255.0 - alpha)[..., None])
  np.testing.assert_array_equal(decode(rgba), expected)
  np.testing.assert_array_equal(decode(encoded(rgba)), expected)
  assert np.abs((rgba[..., :3] * (alpha / 255.0)[..., None]) % 1 - 0.5).min() > 1e-3  # No ties.


def test_lossy_transparency_and_that_of_a_gif():
  rgba = np.dstack([ASTRONAUT, np.full((150, 200), 255, np.uint8)])
  rgba[:40, :, 3] = 0
  expected = np.where(rgba[..., 3:] > 0, ASTRONAUT, 255).astype(int)
  assert np.abs(decode(encoded(rgba, "AVIF", quality=95)) - expected).mean() < 2
  paletted = Image.fromarray(ASTRONAUT).quantize(255)
  indices = np.asarray(paletted).copy()
  colours = np.asarray(paletted.convert("RGB"))
  indices[:40] = 255
  clear = Image.fromarray(indices)
  clear.putpalette([*paletted.getpalette()[: 255 * 3], 1, 2, 3])
  expected = np.where(indices[..., None] == 255, 255, colours)
  for kind in ("GIF", "PNG"):
    np.testing.assert_array_equal(decode(encoded(clear, kind, transparency=255)), expected)


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "WEBP", "PNG", "AVIF", "MPO"])
def test_of_several_images_it_is_the_first(kind):
  first, second = Image.fromarray(ASTRONAUT), Image.fromarray(255 - ASTRONAUT)
  data = encoded(first, kind, save_all=True, append_images=[second])
  assert opened(data).n_frames == 2
  assert np.abs(decode(data).astype(int) - ASTRONAUT).mean() < 8


def test_a_bitmap_with_an_alpha_channel():
  """Windows' BITMAPV4HEADER, which OpenCV reads without alpha and Pillow does not write."""
  rgba = np.dstack([ASTRONAUT, np.full((150, 200), 128, np.uint8)])
  masks = struct.pack("<4I", 0xFF, 0xFF00, 0xFF0000, 0xFF000000)
  head = struct.pack("<IiiHHIIiiII", 108, 200, -150, 1, 32, 3, rgba.nbytes, 0, 0, 0, 0) + masks
  head += bytes(108 - len(head))
  data = struct.pack("<2sIII", b"BM", 14 + 108 + rgba.nbytes, 0, 14 + 108) + head + rgba.tobytes()
  np.testing.assert_array_equal(decode(data), decode(rgba))
  assert np.abs(decode(rgba).astype(int) - ASTRONAUT).mean() > 20


def test_a_transparent_image_is_turned_too():
  exif = Image.Exif()
  exif[0x0112] = 6
  rgba = np.dstack([ASTRONAUT, np.full((150, 200), 255, np.uint8)])
  rgba[0, 0, 3] = 0
  result = decode(encoded(rgba, "PNG", exif=exif))
  expected = np.rot90(np.where(rgba[..., 3:] > 0, rgba[..., :3], 255), -1)
  np.testing.assert_array_equal(result, expected)


def test_palettes_with_and_without_transparency():
  paletted = Image.fromarray(ASTRONAUT).convert("P")
  np.testing.assert_array_equal(decode(encoded(paletted)), np.asarray(paletted.convert("RGB")))
  clear = encoded(paletted, transparency=int(np.asarray(paletted)[0, 0]))
  np.testing.assert_array_equal(decode(clear)[0, 0], [255, 255, 255])


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_keeps_its_colours(kind):
  data = encoded(Image.fromarray(ASTRONAUT).convert("CMYK"), kind, quality=95)
  if kind == "JPEG":
    assert jpeg_size(data) == (150, 200, 4)
  result = decode(data)
  assert np.abs(result.astype(int) - ASTRONAUT).mean() < 2  # JPEG's own loss.
  assert np.abs((255 - result).astype(int) - ASTRONAUT).mean() > 50  # So inversion would show.


def test_grey_and_deep_images():
  grey = np.asarray(Image.fromarray(ASTRONAUT).convert("L"))
  for data in (encoded(grey), encoded(grey, "JPEG", quality=100)):
    pillows = np.asarray(opened(data))
    np.testing.assert_array_equal(decode(data), np.repeat(pillows[..., None], 3, axis=2))
    np.testing.assert_array_equal(decode(data, channels=1)[..., 0], pillows)
  deep = encoded(Image.fromarray(grey.astype(np.uint16) * 257))
  np.testing.assert_array_equal(decode(deep, channels=1)[..., 0], grey)
  np.testing.assert_array_equal(from_pil(opened(deep))[..., 0], grey)
  for kind in ("TIFF", "JPEG2000"):
    deep = encoded(Image.fromarray(grey.astype(np.uint16) * 257), kind)
    np.testing.assert_array_equal(decode(deep, channels=1)[..., 0], grey)
  deep = encoded(Image.fromarray(grey.astype(np.int32) * 257), "PPM")
  np.testing.assert_array_equal(decode(deep, channels=1)[..., 0], grey)
  bits = encoded(Image.fromarray(grey > 128))
  np.testing.assert_array_equal(decode(bits, channels=1)[..., 0], np.where(grey > 128, 255, 0))


@pytest.mark.parametrize(
  "kind, channels",
  [("pgm", 1), ("ppm", 3), *((kind, count) for kind in ("png", "tiff") for count in (1, 3, 4))],
)
def test_sixteen_bits_become_eight_however_dark_the_image(kind, channels):
  for white in (65535, 200, 0):
    image = (np.arange(60 * 80 * channels) * 977 % (white + 1)).reshape(60, 80, channels)
    data = cv2.imencode(f".{kind}", image.astype(np.uint16))[1].tobytes()
    bgr = image[..., :3] / 257
    if channels == 4:
      bgr = bgr * (image[..., 3:] / 65535) + 255 * (1 - image[..., 3:] / 65535)
    assert np.abs(decode(data) - bgr[..., ::-1]).max() <= 1.5
    with opened(data) as image:
      assert np.abs(from_pil(image) - bgr[..., ::-1]).max() <= 1.5


@pytest.mark.parametrize("scale", [1 / 255, 1.0, 257.0])
def test_numbers_of_32_bits_are_scaled_by_what_they_reach(scale):
  grey = np.asarray(Image.fromarray(ASTRONAUT).convert("L"))
  floats = encoded(Image.fromarray(grey * np.float32(scale)), "TIFF")
  np.testing.assert_array_equal(decode(floats, channels=1)[..., 0], grey)
  if scale >= 1:
    integers = encoded(Image.fromarray(grey * np.int32(scale)), "TIFF")
    np.testing.assert_array_equal(decode(integers, channels=1)[..., 0], grey)


def test_colour_becomes_grey_as_in_pillow():
  expected = np.asarray(Image.fromarray(ASTRONAUT).convert("L")).astype(int)
  assert np.abs(decode(ASTRONAUT, channels=1)[..., 0] - expected).max() <= 1
  np.testing.assert_array_equal(decode(ASTRONAUT[..., 0]), ASTRONAUT[..., [0, 0, 0]])


@pytest.mark.parametrize("kind", listing.FORMATS)
def test_a_truncated_file_is_bad(kind):
  data = FILES[kind]
  for end in (len(data) // 2, 30, 5, 0):
    with pytest.raises(BadImage):
      decode(data[:end])


def test_what_is_no_image_is_bad():
  for data in (b"hello", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF1234WEBPVP8X", bytes(999)):
    with pytest.raises(BadImage) as error:
      decode(data)
    assert "\n" not in str(error.value) and "BytesIO" not in str(error.value)


def test_floats_are_refused():
  with pytest.raises(TypeError, match="uint8"):
    decode(np.zeros((4, 4, 3), np.float32))


@pytest.mark.parametrize("reduce", [2, 4, 8])
def test_reduced_decoding_averages(reduce):
  image = photo(160, 320)
  result = decode(encoded(image, "JPEG", quality=95), reduce=reduce).astype(int)
  expected = image.reshape(160 // reduce, reduce, 320 // reduce, reduce, 3).mean(axis=(1, 3))
  assert result.shape == expected.shape
  assert np.abs(result - expected).mean() < 3
  assert np.abs(result[..., ::-1] - expected).mean() > 5  # Channels in order.


def test_a_postscript_file_never_starts_ghostscript(tmp_path, monkeypatch):
  """Whatever its name; Pillow would start it for an EPS, alone or in a DOS envelope."""
  (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
  (tmp_path / "gs").chmod(0o755)
  monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
  eps = encoded(ASTRONAUT, "EPS")
  dos = struct.pack("<6I", 0xC6D3D0C5, 30, len(eps), 0, 0, 0) + b"\0\0\xff\xff\0\0" + eps
  for data in (eps, dos, b"%!PS\nshowpage"):
    with pytest.raises(BadImage, match="cannot identify"):
      decode(data)
  assert not (tmp_path / "started").exists()


def _png(width, height, pixels):
  """A grey PNG of what is said to be `width` x `height`."""
  chunk = lambda kind, data: (
    struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
  )
  head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
  body = chunk(b"IDAT", zlib.compress(pixels))
  return b"\x89PNG\r\n\x1a\n" + head + body + chunk(b"IEND", b"")


def _bombs():
  """Small files that say that they are large, by name."""
  jpeg = bytearray(encoded(ASTRONAUT, "JPEG", progressive=True))
  at = jpeg.index(b"\xff\xc2") + 5
  jpeg[at : at + 4] = struct.pack(">HH", 20_000, 20_000)
  gif = bytearray(encoded(ASTRONAUT, "GIF"))
  gif[6:10] = struct.pack("<HH", 65000, 65000)
  webp = bytearray(encoded(ASTRONAUT, "WEBP", exif=b"Exif\0\0", lossless=True))
  webp[24:30] = (16382).to_bytes(3, "little") * 2
  # A TIFF of 16x16 pixels in a tile of 40,000x40,000: width, height, bits, compression, kind, where
  # the tile is, its sides, and how long it is.
  tile = {256: 16, 257: 16, 258: 8, 259: 8, 262: 1, 322: 40_000, 323: 40_000, 324: 122, 325: 20}
  tiff = struct.pack("<2sHIH", b"II", 42, 8, len(tile))
  tiff += b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tile.items())
  tiff += bytes(4) + zlib.compress(bytes(1000))
  pixels, cut = bytes(40_001 * 5_000), _png(9, 9, bytes(90))
  return {
    "JPEG": bytes(jpeg),
    "JPEG with junk before the frame": bytes(jpeg[:20] + b"junk" + jpeg[20:]),
    "GIF": bytes(gif),
    "WEBP": bytes(webp),
    "TIFF": tiff,
    "PNG": _png(40_000, 5_001, pixels),
    "a chunk of 4 GB": cut[:33] + b"\xff\x7f\x1b\xc8" + cut[37:],
    "BMP": struct.pack("<2s4I2i2H6I", b"BM", 54, 0, 54, 40, 20_000, 20_000, 1, 24, *[0] * 6),
  }


BOMB = """
import json, pickle, resource, sys
from vit_jax.data.decode import BadImage, decode
found = {}
for kind, data in pickle.load(sys.stdin.buffer).items():
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  try:
    decode(data)
    reason = "read"
  except BadImage as error:
    reason = str(error)
  found[kind] = reason, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10
print(json.dumps(found))
"""


def test_what_a_header_says_is_not_reserved():
  bombs = _bombs()
  done = subprocess.run(
    [sys.executable, "-c", BOMB], input=pickle.dumps(bombs), capture_output=True, check=True
  )
  found = json.loads(done.stdout)
  assert found.keys() == bombs.keys()
  for kind, (reason, megabytes) in found.items():
    assert megabytes < 100, kind
    expected = "in the middle of a chunk" if kind == "a chunk of 4 GB" else "limit|decoder"
    assert re.search(expected, reason), (kind, reason)
  for kind in ("PNG", "TIFF", "BMP", "GIF"):
    assert "limit" in found[kind][0]


def test_what_pillow_only_warns_of_is_bad(monkeypatch):
  data = encoded(ASTRONAUT, "TIFF")
  monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 150 * 200)
  assert decode(data).shape == (150, 200, 3)
  monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 150 * 200 - 1)
  with (
    pytest.warns(Image.DecompressionBombWarning),
    pytest.raises(BadImage, match="200x150 exceeds the limit of 29999 pixels"),
  ):
    decode(data)


def test_large_images_are_converted_in_parts(monkeypatch):
  rgba = np.dstack([ASTRONAUT, ASTRONAUT[..., 0]])
  deep = Image.fromarray(ASTRONAUT[..., 0].astype(np.float32) * 257)
  for data in (encoded(rgba), encoded(deep, "TIFF"), FILES["GIF"]):
    whole = decode(data)
    monkeypatch.setattr(decode_lib, "_BAND", 7 * 200)
    np.testing.assert_array_equal(decode(data), whole)
    monkeypatch.undo()


def test_the_size_of_a_jpeg_is_found_behind_junk():
  data = encoded(ASTRONAUT, "JPEG")
  for junk in (b"", b"junk", b"\xff\xff\xff", b"\xff\0\xff\xd0"):
    assert jpeg_size(data[:20] + junk + data[20:]) == (150, 200, 3)  # After the first segment.
  np.testing.assert_array_equal(decode(data[:20] + b"junk" + data[20:]), decode(data))


@pytest.mark.parametrize("kind", listing.FORMATS)
@pytest.mark.filterwarnings("ignore")
def test_a_damaged_file_is_read_or_bad(kind):
  """No other exception, whatever Pillow's plugins raise."""
  rng, outcomes = random.Random(kind), {"read": 0, "bad": 0}
  file = every_format(photo(30, 40))[kind]
  for _ in range(60 if kind == "QOI" else 300):  # Pillow decodes that in Python.
    data = bytearray(file)
    for _ in range(rng.choice((1, 2, 8))):
      at = rng.randrange(rng.choice((64, 300, len(data))))
      data[at : at + rng.choice((1, 4))] = rng.choice((b"\xff" * 4, bytes(4), b"\x7f", b"\x80\0"))
    try:
      outcomes["read"] += decode(bytes(data)).size > 0
    except BadImage as error:
      outcomes["bad"] += 1
      assert str(error)
  assert outcomes["bad"] > 5
