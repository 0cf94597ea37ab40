# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Decoding against Pillow, for every kind of file that a folder may hold."""

import numpy as np
import pytest
from pictures import encoded, opened, photo
from PIL import Image, ImageOps

from vit_jax.data.decode import BadImage, decode, from_pil, jpeg_size

ASTRONAUT = photo()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP"])
def test_pixels_equal_pillows(kind):
  data = encoded(ASTRONAUT, kind)
  np.testing.assert_array_equal(decode(data), np.asarray(opened(data).convert("RGB")))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(kind, orientation):
  exif = Image.Exif()
  exif[0x0112] = orientation
  data = encoded(ASTRONAUT, kind, exif=exif)
  upright = np.asarray(ImageOps.exif_transpose(opened(data)).convert("RGB"))
  np.testing.assert_array_equal(decode(data), upright)
  np.testing.assert_array_equal(from_pil(opened(data)), upright)
  if orientation != 1:
    stored = np.asarray(opened(data).convert("RGB"))
    assert stored.shape != upright.shape or np.abs(stored.astype(int) - upright).mean() > 5


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_transparency_is_laid_over_white(kind):
  alpha = np.tile(np.linspace(0, 255, 200).astype(np.uint8), (150, 1))
  rgba = np.dstack([ASTRONAUT, alpha])
  expected = ASTRONAUT * (alpha[..., None] / 255) + 255 * (1 - alpha[..., None] / 255)
  result = decode(encoded(rgba, kind, lossless=True))
  assert np.abs(result - expected).max() <= 1
  assert np.abs(decode(rgba) - expected).max() <= 1


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


def test_cmyk_keeps_its_colours():
  data = encoded(Image.fromarray(ASTRONAUT).convert("CMYK"), "JPEG", quality=95)
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
  bits = encoded(Image.fromarray(grey > 128))
  np.testing.assert_array_equal(decode(bits, channels=1)[..., 0], np.where(grey > 128, 255, 0))


def test_colour_becomes_grey_as_in_pillow():
  expected = np.asarray(Image.fromarray(ASTRONAUT).convert("L")).astype(int)
  assert np.abs(decode(ASTRONAUT, channels=1)[..., 0] - expected).max() <= 1
  np.testing.assert_array_equal(decode(ASTRONAUT[..., 0]), ASTRONAUT[..., [0, 0, 0]])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP"])
def test_a_truncated_file_is_bad(kind):
  data = encoded(ASTRONAUT, kind)
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
