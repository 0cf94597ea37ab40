# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""From a record to a uint8 image of the model's size, for training and for evaluation.

Everything here runs on the host and ends in uint8; `normalize` belongs into the jitted step.
"""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import cv2
import numpy as np
from PIL import Image

from vit_jax import keys
from vit_jax.data import digits
from vit_jax.data.decode import BadImage, decode, from_pil, jpeg_size
from vit_jax.data.splits import NONE as NO_SPLIT
from vit_jax.data.text import Captions
from vit_jax.errors import UserError, nearest

__all__ = [
  "BadImage",
  "Preprocess",
  "Preprocessing",
  "decode",
  "eval_transform",
  "normalize",
  "train_transform",
]

Transform = Callable[..., dict[str, Any]]

_CHOICES = {
  "train_crop": ("inception", "random", "none"),
  "eval_resize": ("squash", "squash_crop", "resize_crop", "digit"),
  "crop_offset": ("round", "floor"),
  "interpolation": ("bilinear", "bicubic", "area"),
}
_CV2 = {"bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC, "area": cv2.INTER_AREA}
_PILLOW = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
# Weights by distance, in pixels of the source or (with antialias) of the coarser of both, and the
# distance from which they are 0; by interpolation and antialias, which "area" has anyway.
_TRIANGLE = (lambda x: 1 - x, 1)
_FILTERS = {
  ("bilinear", False): _TRIANGLE,
  ("bilinear", True): _TRIANGLE,
  ("bicubic", False): (lambda x: _cubic(x, -0.75), 2),
  ("bicubic", True): (lambda x: _cubic(x, -0.5), 2),
}
_LONGEST = 64  # Sides that an image may have on the way, in sides of what it should cover.
_AFFINE = {"degrees": 0.0, "translate": 0.0, "scale": (1.0, 1.0)}


@dataclasses.dataclass(frozen=True)
class Preprocessing:
  """The `pp` section of a config.

  Attributes:
    train, val, test: split specs such as "train[:98%]", or None.
    crop: the model's input size, pixels or (height, width).
    resize: the size before a crop, pixels or (height, width); None means `crop`. "random" and
      "squash_crop" squash to it; for "resize_crop" it is what the image just covers, pixels then
      being its shorter side.
    train_sizes: sides in pixels, of which each training step has one (`training.multiscale`): here
      training images are cropped to the largest. None or () trains at `crop`.
    train_crop: "inception" (part of the image, area `min_area`..1 and aspect 3/4..4/3), "random"
      (squash to `resize`, then crop anywhere) or "none" (as in evaluation).
    flip: mirror half of the training images.
    random_affine: None, or degrees (rotation up to +-), translate (up to this fraction of the
      side), scale (lowest, highest).
    eval_resize: "squash" (the ancestor's: the whole image to `crop`), "squash_crop" (DeiT's in
      transformers: the whole image to `resize`, centre crop), "resize_crop" (timm's: shorter side
      to `resize`, centre crop) or "digit" (`digits.prepare_digit`).
    crop_offset: "round" or "floor": where a centre crop lies whose margins add up to an odd number.
      torchvision and with it timm round the half (to even), transformers cuts it off.
    interpolation: "bilinear", "bicubic" or "area".
    antialias: False samples as `tf.image.resize` does by default; True filters as Pillow does.
    mean, std: of the channels, in 0..1.
    channels: 3 (RGB) or 1 (grey).
  """

  train: str | None = "train"
  # NONE asks for no split, which is not the same as not naming one.
  val: str | None = keys.key(None, none=NO_SPLIT)
  test: str | None = keys.key(None, none=NO_SPLIT)
  crop: int | tuple[int, int] = 224
  resize: int | tuple[int, int] | None = None
  train_sizes: tuple[int, ...] | None = None
  train_crop: str = "inception"
  min_area: float = 0.05
  flip: bool = True
  random_affine: Mapping[str, Any] | None = None
  eval_resize: str = "squash"
  crop_offset: str = "round"
  interpolation: str = "bilinear"
  antialias: bool = False
  mean: tuple[float, ...] = (0.5, 0.5, 0.5)
  std: tuple[float, ...] = (0.5, 0.5, 0.5)
  channels: int = 3

  def __post_init__(self):
    for field, choices in _CHOICES.items():
      value = getattr(self, field)
      if value not in choices:
        raise UserError(
          f"pp.{field}={value!r} is unknown{nearest(str(value), choices)}; choose one of "
          f"{', '.join(choices)}."
        )
    crop, big = _pair(self.crop), _pair(self.crop if self.resize is None else self.resize)
    for field, pair in (("crop", crop), ("resize", big)):
      if len(pair) != 2 or not all(isinstance(side, int) and side > 0 for side in pair):
        value = getattr(self, field)
        raise UserError(f"pp.{field}={value!r} must be a positive size or (height, width).")
    if big[0] < crop[0] or big[1] < crop[1]:
      raise UserError(f"pp.resize={self.resize} is smaller than pp.crop={self.crop}; enlarge it.")
    object.__setattr__(self, "train_sizes", self.train_sizes or None)
    if not 0 < self.min_area <= 1:
      raise UserError(f"pp.min_area={self.min_area} must be above 0 and at most 1.")
    if self.channels not in (1, 3):
      raise UserError(f"pp.channels={self.channels} must be 3 (RGB) or 1 (grey).")
    for field in ("mean", "std"):
      value = getattr(self, field)
      values = (value,) if isinstance(value, (int, float)) else tuple(value)
      values = tuple(float(v) for v in (values * self.channels if len(values) == 1 else values))
      finite = all(map(math.isfinite, values))
      if len(values) != self.channels or not finite or (field == "std" and min(values) <= 0):
        raise UserError(
          f"pp.{field}={value!r} must have one {'positive ' * (field == 'std')}number for each of "
          f"the {self.channels} channels."
        )
      object.__setattr__(self, field, values)
    if self.random_affine is not None:
      object.__setattr__(self, "random_affine", _affine_settings(self.random_affine))

  @property
  def size(self) -> tuple[int, int]:
    """(height, width) of what the transforms return."""
    return _pair(self.crop)

  def at(self, side: int) -> Preprocessing:
    """The same for square inputs of another size; what is cut off stays the same share."""
    scaled = lambda value: round(value * side / min(self.size))
    resize = self.resize
    if resize is not None:
      resize = scaled(resize) if isinstance(resize, int) else tuple(map(scaled, resize))
    return dataclasses.replace(self, crop=side, resize=resize)

  @property
  def resized(self) -> tuple[int, int]:
    """(height, width) that an image is squashed to, or just covers, before a crop."""
    if self.resize is None:
      return self.size
    if self.eval_resize == "resize_crop" and isinstance(self.resize, int):
      factor = self.resize / min(self.size)
      return math.floor(self.size[0] * factor), math.floor(self.size[1] * factor)
    return _pair(self.resize)


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
  return (size, size) if isinstance(size, int) else tuple(size)


def _affine_settings(given: Mapping[str, Any]) -> dict[str, Any]:
  if not isinstance(given, Mapping) and not hasattr(given, "items"):
    raise UserError(f"pp.random_affine={given!r} must be None or hold {', '.join(_AFFINE)}.")
  settings = _AFFINE | dict(given.items())
  for key in settings:
    if key not in _AFFINE:
      raise UserError(
        f"pp.random_affine.{key} is unknown{nearest(str(key), list(_AFFINE))}; it takes "
        f"{', '.join(_AFFINE)}."
      )
  scale = settings["scale"]
  two = np.shape(scale) == (2,) and all(keys.fits(end, float) for end in scale)
  low, high = map(float, scale) if two else (0.0, 0.0)
  if not 0 < low <= high < math.inf:
    raise UserError(f"pp.random_affine.scale={scale!r} must be (lowest, highest) > 0.")
  for name, most in (("degrees", 360), ("translate", 1)):
    if not keys.fits(settings[name], float) or settings[name] not in keys.Range(0, most):
      raise UserError(f"pp.random_affine.{name}={settings[name]!r} must be in [0, {most}].")
  degrees, translate = float(settings["degrees"]), float(settings["translate"])
  return {"degrees": degrees, "translate": translate, "scale": (low, high)}


def resize(
  image: np.ndarray, size: tuple[int, int], interpolation: str, antialias: bool
) -> np.ndarray:
  """Resizes [height, width, channels] to `size` = (height, width), keeping channels and dtype.

  Without antialias "bilinear" is `tf.image.resize`'s default (half-pixel centres, no filter when
  shrinking), "bicubic" torch's (a=-0.75). With it both are Pillow's, which timm and
  `jax.image.resize(antialias=True)` agree with (a=-0.5); "area" averages the covered pixels.
  uint8 results are rounded: at most one grey level from the float result.
  """
  height, width = size
  if image.shape[:2] == (height, width):
    return image
  if antialias and interpolation in _PILLOW:
    squeezed = image[..., 0] if image.shape[2] == 1 else image
    resized = Image.fromarray(squeezed).resize((width, height), _PILLOW[interpolation])
    return np.asarray(resized).reshape(height, width, image.shape[2])
  resized = cv2.resize(image, (width, height), interpolation=_CV2[interpolation])
  return resized if resized.ndim == 3 else resized[..., None]


def resize_part(
  image: np.ndarray,
  size: tuple[int, int],
  box: tuple[int, int, int, int],
  interpolation: str,
  antialias: bool,
) -> np.ndarray:
  """What `resize` to `size` gives inside of `box`, made from what is seen there alone.

  So the memory it takes is that of the box and of what it shows, however large `size` is. Computed
  in float32: at most one grey level from `resize`.

  Args:
    image: uint8 [height, width, channels].
    size: (height, width) of the whole.
    box: (top, left, height, width) of what is kept of it.
    interpolation: see `resize`.
    antialias: see `resize`.
  """
  (rows, down), (columns, across) = (
    _weights(image.shape[k], size[k], box[k], box[k + 2], interpolation, antialias) for k in (0, 1)
  )
  image = image[rows, columns].astype(np.float32)
  pillows = antialias and interpolation in _PILLOW
  for axis, weights in ((1, across), (0, down)):
    image = np.moveaxis(np.tensordot(weights, image, (1, axis)), 0, axis)
    if pillows or axis == 0:  # Pillow rounds, and cuts off what overshoots, along each axis.
      image = np.clip(np.floor(image + 0.5), 0, 255)
  return image.astype(np.uint8)


def _weights(
  old: int, new: int, first: int, count: int, interpolation: str, antialias: bool
) -> tuple[slice, np.ndarray]:
  """How `count` pixels from the `first` on, of an axis resized from `old` to `new`, are made.

  Returns:
    Which pixels of the source are seen, and how much of each: float32 [count, seen].
  """
  scale = old / new
  at = np.arange(first, first + count)[:, None]
  if interpolation == "area":
    begin, end = math.floor(first * scale), min(math.ceil((first + count) * scale), old)
    x = np.arange(begin, end)
    # How much of each pixel of the source a new one covers.
    weights = np.minimum(x + 1, (at + 1) * scale) - np.maximum(x, at * scale)
    weights = np.maximum(weights, 0)
    return slice(begin, end), (weights / weights.sum(1, keepdims=True)).astype(np.float32)
  function, support = _FILTERS[interpolation, antialias]
  coarser = max(scale, 1) if antialias else 1
  centers = (at + 0.5) * scale - 0.5
  begin = math.floor(centers[0, 0] - support * coarser)
  x = np.arange(begin, math.ceil(centers[-1, 0] + support * coarser) + 1)
  distance = np.abs(x - centers) / coarser
  weights = np.where(distance < support, function(distance), 0)
  inside = np.clip(x, 0, old - 1)
  if antialias:  # What lies outside does not count; else it is what the edge is.
    weights = weights * (x == inside)
  seen = slice(inside[0], inside[-1] + 1)
  summed = np.zeros((count, seen.stop - seen.start))
  np.add.at(summed, (slice(None), inside - seen.start), weights)
  return seen, (summed / summed.sum(1, keepdims=True)).astype(np.float32)


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
  """Keys' cubic convolution (1981) at distances below 2."""
  near = ((a + 2) * x - (a + 3)) * x * x + 1
  return np.where(x < 1, near, ((x - 5) * x + 8) * x * a - 4 * a)


def inception_box(
  height: int, width: int, min_area: float, rng: np.random.Generator
) -> tuple[int, int, int, int]:
  """A random (top, left, height, width), as `tf.image.sample_distorted_bounding_box` draws it.

  That is: the aspect ratio is uniform in 3/4..4/3, then the *height* (not the area, as in
  torchvision) is uniform between what the area limits and the image allow. Without a fit in 100
  attempts, the whole image.
  """
  area = height * width
  for _ in range(100):
    aspect = 0.75 + rng.random() * (4 / 3 - 0.75)
    low = round(math.sqrt(min_area * area / aspect))
    high = min(round(math.sqrt(area / aspect)), height, int((width + 0.499) / aspect))
    low = min(low, high)
    crop_height = low + int(rng.random() * (high - low + 1))
    crop_width = round(crop_height * aspect)
    if not 0 < crop_width <= width or not min_area * area <= crop_height * crop_width <= area:
      continue
    top = int(rng.random() * (height - crop_height + 1))
    left = int(rng.random() * (width - crop_width + 1))
    return top, left, crop_height, crop_width
  return 0, 0, height, width


def _inception(record: Mapping[str, Any], spec: Preprocessing, rng: np.random.Generator):
  """Decodes only as large as the crop needs, crops and resizes.

  A JPEG whose crop is at least twice (4, 8 times) the model's size is decoded at a half (quarter,
  eighth) by the decoder's scaled DCT. That filters, where plain bilinear would alias.
  """
  image = record["image"]
  stored = None if isinstance(image, np.ndarray) else jpeg_size(image)
  if stored is None:
    pixels = decode(image, spec.channels)
    top, left, height, width = inception_box(*pixels.shape[:2], spec.min_area, rng)
  else:
    box = inception_box(*stored[:2], spec.min_area, rng)
    room = min(min(box[2:]) // max(spec.size), 8)
    reduce = 1 << max(room.bit_length() - 1, 0)
    pixels = decode(image, spec.channels, reduce=reduce if stored[2] == 3 else 1)
    if stored[0] != stored[1] and (pixels.shape[0] > pixels.shape[1]) != (stored[0] > stored[1]):
      box = (box[1], box[0], box[3], box[2])  # EXIF orientation turned the image.
    ratio = max(pixels.shape[:2]) / max(stored[:2])
    top, left, height, width = (round(b * ratio) for b in box)
  pixels = pixels[top : top + height, left : left + width]
  return resize(pixels, spec.size, spec.interpolation, spec.antialias)


def _affine(image: np.ndarray, settings: Mapping[str, Any], rng: np.random.Generator) -> np.ndarray:
  """Rotates, scales and shifts about the centre; what comes in from outside is black."""
  height, width, channels = image.shape
  angle, scale, down, right = rng.random(4)
  angle = math.radians(settings["degrees"] * (2 * angle - 1))
  low, high = settings["scale"]
  scale = low + (high - low) * scale
  a, b = scale * math.cos(angle), scale * math.sin(angle)
  y, x = (height - 1) / 2, (width - 1) / 2
  dx = settings["translate"] * width * (2 * right - 1)
  dy = settings["translate"] * height * (2 * down - 1)
  matrix = np.array([[a, b, x - a * x - b * y + dx], [-b, a, y + b * x - a * y + dy]])
  moved = cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR)
  return moved.reshape(height, width, channels)


def train_transform(spec: Preprocessing, captions: Captions | None = None) -> Transform:
  """`(record, rng) -> {"image": uint8 [height, width, channels], "label": int32}` for training.

  With `captions` also `"tokens"`: int32 [length].
  """
  if spec.train_sizes:
    resized = spec.resize if spec.train_crop == "random" else None  # Else it is evaluation's.
    spec = dataclasses.replace(spec, crop=max(spec.train_sizes), resize=resized)
  evaluate = _eval_image(spec)
  big = _pair(max(spec.size) if spec.resize is None else spec.resize)

  def transform(record: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    if spec.train_crop == "inception":
      image = _inception(record, spec, rng)
    elif spec.train_crop == "random":
      image = decode(record["image"], spec.channels)
      image = resize(image, big, spec.interpolation, spec.antialias)
      top = int(rng.random() * (big[0] - spec.size[0] + 1))
      left = int(rng.random() * (big[1] - spec.size[1] + 1))
      image = image[top : top + spec.size[0], left : left + spec.size[1]]
    else:
      image = evaluate(record["image"])
    if spec.flip and rng.random() < 0.5:
      # Not image[:, ::-1]: stacking reversed views is 25 times slower.
      image = cv2.flip(image, 1).reshape(image.shape)
    if spec.random_affine is not None:
      image = _affine(image, spec.random_affine, rng)
    example = {"image": np.ascontiguousarray(image), "label": np.int32(record["label"])}
    return example if captions is None else {**example, "tokens": captions(record, rng)}

  return transform


def eval_transform(spec: Preprocessing) -> Transform:
  """`(record) -> {"image": uint8 [height, width, channels], "label": int32}` for evaluation."""
  evaluate = _eval_image(spec)

  def transform(
    record: Mapping[str, Any], rng: np.random.Generator | None = None
  ) -> dict[str, Any]:
    del rng  # Taken so that both transforms are called alike.
    return {"image": evaluate(record["image"]), "label": np.int32(record["label"])}

  return transform


def _eval_image(spec: Preprocessing) -> Callable[[bytes | np.ndarray], np.ndarray]:
  """`(bytes or array) -> [height, width, channels]`, without randomness."""

  def evaluate(image: bytes | np.ndarray) -> np.ndarray:
    size, filters = spec.size, (spec.interpolation, spec.antialias)
    if spec.eval_resize == "digit":
      digit = digits.prepare_digit(decode(image, 1))
      return resize(np.repeat(digit, spec.channels, axis=2), size, *filters)
    pixels = decode(image, spec.channels)
    if spec.eval_resize == "squash":
      return resize(pixels, size, *filters)
    cover = spec.resized
    if spec.eval_resize == "resize_crop":
      cover = _covering(pixels.shape[:2], cover)
    box = (*_center(cover, size, spec.crop_offset), *size)
    if max(np.divide(cover, spec.resized)) > _LONGEST:
      return resize_part(pixels, cover, box, *filters)
    return _cut(resize(pixels, cover, *filters), box)

  return evaluate


def _covering(image: tuple[int, int], cover: tuple[int, int]) -> tuple[int, int]:
  """The (height, width) at which an image, keeping its aspect, just covers `cover`."""
  height, width = image
  if cover[0] == cover[1]:  # torchvision's Resize(int), which truncates the longer side.
    side = cover[0]
    if height <= width:
      return side, int(side * width / height)
    return int(side * height / width), side
  # timm's ResizeKeepRatio, which rounds both.
  ratio = min(height / cover[0], width / cover[1])
  return round(height / ratio), round(width / ratio)


def _center(image: tuple[int, int], size: tuple[int, int], offset: str) -> tuple[int, int]:
  """(top, left) of the crop of this size in the middle of an image."""
  margins = (image[0] - size[0], image[1] - size[1])
  return tuple(round(m / 2) if offset == "round" else m // 2 for m in margins)


def _cut(image: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
  top, left, height, width = box
  return np.ascontiguousarray(image[top : top + height, left : left + width])


def normalize(images: Any, mean: Any, std: Any) -> Any:
  """uint8 [..., height, width, channels] to float32 `(images / 255 - mean) / std`.

  Works on NumPy and JAX arrays; meant to be called inside the jitted step.
  """
  mean, std = np.asarray(mean, np.float32), np.asarray(std, np.float32)
  return (images.astype(np.float32) / np.float32(255) - mean) / std


@dataclasses.dataclass(frozen=True)
class Preprocess:
  """From an image to what a model sees in evaluation; `vit_jax.preprocessing_for` gives it.

  "squash" without antialias is computed in float32, as the original did; what the loader feeds is
  the same rounded to grey levels.

  Attributes:
    settings: size, crop, interpolation, mean and std; what training does is left out.
  """

  settings: Preprocessing

  def __call__(
    self, image: str | os.PathLike[str] | bytes | np.ndarray | Image.Image
  ) -> np.ndarray:
    """Prepares one image.

    Args:
      image: a path, encoded bytes, a Pillow image, or uint8 [height, width] or [height, width,
        channels].

    Returns:
      float32 [height, width, channels] of the model's size, normalised.

    Raises:
      BadImage: the bytes cannot be decoded.
    """
    spec = self.settings
    if isinstance(image, (str, os.PathLike)):
      try:
        return self(pathlib.Path(image).read_bytes())
      except BadImage as error:
        raise BadImage(f"{image} cannot be read: {error}") from error
    if isinstance(image, Image.Image):
      image = from_pil(image)
    if spec.eval_resize == "squash" and not spec.antialias:
      pixels = decode(image, spec.channels).astype(np.float32)
      pixels = resize(pixels, spec.size, spec.interpolation, False)
    else:
      pixels = _eval_image(spec)(image)
    return normalize(pixels, spec.mean, spec.std)

  def __str__(self) -> str:
    spec = self.settings
    size, resized = ("x".join(map(str, pair)) for pair in (spec.size, spec.resized))
    before = f" from {resized}" if spec.eval_resize.endswith("crop") else ""
    return (
      f"{size} pixels, {spec.eval_resize}{before}, {spec.interpolation} "
      f"{'with' if spec.antialias else 'without'} antialias, mean {spec.mean}, std {spec.std}"
    )
