# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Resizing, cropping and normalising against timm, Pillow, JAX and hand computation."""

import collections
import itertools
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import timm.data
from pictures import encoded, photo
from PIL import Image
from skimage import data as skimage_data
from sklearn.datasets import load_sample_images

from vit_jax.checkpoints.preprocessing import preprocessing_for
from vit_jax.data import transforms
from vit_jax.data.transforms import (
  Preprocessing,
  eval_transform,
  inception_box,
  normalize,
  train_transform,
)
from vit_jax.errors import UserError


def input_spec(**fields):
  """Like `vit_jax.models.registry.InputSpec`, which tests/models cover."""
  defaults = dict(
    image_size=224, mean=(0.5,) * 3, std=(0.5,) * 3, resize="squash", crop=1.0,
    interpolation="bilinear", antialias=False, channels=3,
  )  # fmt: skip
  return types.SimpleNamespace(**(defaults | fields))


def photos():
  flower, temple = load_sample_images().images[::-1]
  return [flower, temple, skimage_data.astronaut(), skimage_data.coffee(), skimage_data.chelsea()]


def bilinear(image: np.ndarray, height: int, width: int) -> np.ndarray:
  """tf.image.resize(method="bilinear"): half-pixel centres, no antialias; in float64."""

  def weights(out_size, in_size):
    centre = (np.arange(out_size) + 0.5) * in_size / out_size - 0.5
    low = np.floor(centre)
    matrix = np.zeros((out_size, in_size))
    for row, (left, part) in enumerate(zip(low, centre - low, strict=True)):
      matrix[row, int(np.clip(left, 0, in_size - 1))] += 1 - part
      matrix[row, int(np.clip(left + 1, 0, in_size - 1))] += part
    return matrix

  rows, columns = weights(height, image.shape[0]), weights(width, image.shape[1])
  return np.einsum("yh,hwc,xw->yxc", rows, image.astype(np.float64), columns, optimize=True)


@pytest.mark.parametrize("size", [(224, 224), (600, 700), (97, 384)])
def test_squash_is_tf_image_resize(size):
  for image in photos()[:3]:
    expected = bilinear(image, *size)
    exact = preprocessing_for(input_spec(image_size=size))(image)
    assert exact.dtype == np.float32 and exact.shape == (*size, 3)
    np.testing.assert_allclose(exact, expected / 127.5 - 1, atol=2e-4)
    record = {"image": image, "label": 3}
    rounded = eval_transform(Preprocessing(crop=size))(record)
    assert rounded["image"].dtype == np.uint8 and rounded["label"] == 3
    error = np.abs(rounded["image"] - expected)  # What uint8 costs: a quarter level on average.
    assert error.max() <= 1.0 and error.mean() < 0.3


@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
def test_antialias_is_pillows_and_jaxs(method):
  image = photos()[0]
  result = transforms.resize(image, (100, 130), method, True)
  pillow = Image.fromarray(image).resize((130, 100), Image.Resampling[method.upper()])
  np.testing.assert_array_equal(result, np.asarray(pillow))
  jaxs = jax.image.resize(image.astype(np.float32), (100, 130, 3), method, antialias=True)
  assert np.abs(result - np.clip(jaxs, 0, 255)).mean() < 0.6
  plain = transforms.resize(image, (100, 130), method, False)
  assert np.abs(plain.astype(int) - result).mean() > 1.5  # The bound above can see it.


def test_area_averages():
  image = photo(160, 200)
  expected = image.reshape(40, 4, 50, 4, 3).mean(axis=(1, 3))
  assert np.abs(transforms.resize(image, (40, 50), "area", False) - expected).max() <= 0.51


@pytest.mark.parametrize(
  "size, crop, interpolation",
  [(224, 0.875, "bicubic"), (224, 0.9, "bicubic"), (384, 1.0, "bicubic"), (160, 0.95, "bilinear"),
   ((192, 256), 0.9, "bicubic"), (600, 0.9, "bilinear")],
)  # fmt: skip
def test_resize_crop_is_timms_evaluation(size, crop, interpolation):
  mean, std = timm.data.IMAGENET_DEFAULT_MEAN, timm.data.IMAGENET_DEFAULT_STD
  wanted = (3, size, size) if isinstance(size, int) else (3, *size)
  theirs = timm.data.create_transform(
    wanted, interpolation=interpolation, mean=mean, std=std, crop_pct=crop
  )
  ours = preprocessing_for(
    input_spec(
      image_size=size, crop=crop, interpolation=interpolation, antialias=True,
      resize="resize_crop", mean=mean, std=std,
    )
  )  # fmt: skip
  for image in photos():
    for view in (image, np.ascontiguousarray(image.transpose(1, 0, 2))):
      expected = theirs(Image.fromarray(view)).numpy().transpose(1, 2, 0)
      result = ours(view)
      assert result.shape == expected.shape
      grey_levels = np.abs(result - expected) * np.array(std) * 255
      assert grey_levels.max() < 0.01


def test_loader_and_preprocessing_for_agree_on_resize_crop():
  image = photos()[0]
  spec = input_spec(image_size=224, crop=0.9, resize="resize_crop", antialias=True)
  pp = Preprocessing(crop=224, resize=248, eval_resize="resize_crop", antialias=True)
  pixels = eval_transform(pp)({"image": image, "label": 0})["image"]
  np.testing.assert_array_equal(
    normalize(pixels, spec.mean, spec.std), preprocessing_for(spec)(image)
  )


def test_every_kind_of_input_gives_the_same(tmp_path):
  image = photo()
  path = tmp_path / "picture.jpg"  # A PNG in truth.
  path.write_bytes(encoded(image))
  preprocess = preprocessing_for(input_spec(image_size=32))
  expected = preprocess(image)
  for given in (path, str(path), path.read_bytes(), Image.fromarray(image), Image.open(path)):
    np.testing.assert_array_equal(preprocess(given), expected)
  grey = preprocessing_for(input_spec(image_size=32, channels=1, mean=(0.5,), std=(0.5,)))
  assert grey(image).shape == (32, 32, 1)


def test_names_are_looked_up():
  result = preprocessing_for("ViT-B_16")(photo())
  assert result.shape == (224, 224, 3) and -1 <= result.min() < result.max() <= 1
  with pytest.raises(UserError):
    preprocessing_for("ViT-B_17")


def test_pixels_lie_between_minus_one_and_one_by_default():
  """As in google-research/vision_transformer, whatever the model."""
  black_and_white = np.array([0, 255], np.uint8)[:, None] * np.ones(3, np.uint8)
  plain = Preprocessing()
  found = normalize(black_and_white, plain.mean, plain.std)
  np.testing.assert_array_equal(found, [[-1, -1, -1], [1, 1, 1]])


def test_normalize_on_numpy_and_jax():
  images = np.arange(0, 252, dtype=np.uint8).reshape(2, 6, 7, 3)
  mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
  expected = (images / 255.0 - mean) / std
  result = normalize(images, mean, std)
  assert result.dtype == np.float32
  np.testing.assert_allclose(result, expected, atol=1e-6)
  jitted = jax.jit(lambda x: normalize(x, mean, std))(jnp.asarray(images))
  assert jitted.dtype == jnp.float32
  np.testing.assert_allclose(jitted, expected, atol=1e-6)


def test_inception_boxes_are_within_the_published_limits():
  rng = np.random.default_rng(0)
  height, width = 300, 400
  boxes = np.array([inception_box(height, width, 0.05, rng) for _ in range(4000)])
  top, left, h, w = boxes.T
  assert (top >= 0).all() and (left >= 0).all()
  assert (top + h <= height).all() and (left + w <= width).all()
  area, aspect = h * w / (height * width), w / h
  assert area.min() >= 0.05 and area.max() > 0.9 and area.min() < 0.06
  assert aspect.min() > 0.73 and aspect.max() < 1.36
  assert aspect.min() < 0.77 and aspect.max() > 1.30
  # Positions are uniform: the mean of (top / room) is 1/2, standard error 0.005.
  assert abs(np.mean(top / np.maximum(height - h, 1)) - 0.5) < 0.03
  assert abs(np.mean(left / np.maximum(width - w, 1)) - 0.5) < 0.03
  # Heights, not areas, are uniform in TensorFlow: the mean height is the middle of its range.
  square = aspect.round(1) == 1.0
  assert abs(np.mean(h[square]) - (np.sqrt(0.05 * height * width) + height) / 2) < 8


def test_inception_boxes_reach_every_edge_and_none_lies_outside():
  """In a small image every place that a box of some size can take occurs, the last ones too."""
  height, width = 7, 6
  rng = np.random.default_rng(0)
  places = collections.defaultdict(set)
  for _ in range(20000):
    top, left, h, w = inception_box(height, width, 0.2, rng)
    places[h, w].add((top, left))
  for (h, w), found in places.items():
    assert found == set(itertools.product(range(height - h + 1), range(width - w + 1))), (h, w)
  assert max(h for h, _ in places) == height and max(w for _, w in places) == width


def test_inception_falls_back_to_the_whole_image():
  assert inception_box(4, 4000, 0.9, np.random.default_rng(0)) == (0, 0, 4, 4000)


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_large_jpegs_are_cropped_where_small_ones_are(orientation):
  """The reduced decode: a gradient image shows where the crop came from."""
  y, x = np.mgrid[0:1200, 0:1600]
  image = np.stack([y / 1200 * 255, x / 1600 * 255, 0 * x + 128], axis=-1).astype(np.uint8)
  exif = Image.Exif()
  exif[0x0112] = orientation
  jpeg = encoded(image, "JPEG", quality=95, exif=exif)
  transform = train_transform(Preprocessing(crop=32, flip=False, min_area=0.3))
  reduced = [
    transform({"image": jpeg, "label": 0}, np.random.default_rng(s))["image"] for s in range(20)
  ]
  upright = transforms.decode(jpeg)
  assert upright.shape[:2] == ((1600, 1200) if orientation == 6 else (1200, 1600))
  for seed, result in enumerate(reduced):
    box = inception_box(1200, 1600, 0.3, np.random.default_rng(seed))
    top, left, h, w = (box[1], box[0], box[3], box[2]) if orientation == 6 else box
    expected = transforms.resize(upright[top : top + h, left : left + w], (32, 32), "area", False)
    assert np.abs(result.astype(int) - expected).mean() < 2.5


def test_random_crop_resizes_first():
  image = photo(100, 160)
  transform = train_transform(Preprocessing(crop=24, resize=32, train_crop="random", flip=False))
  squashed = transforms.resize(image, (32, 32), "bilinear", False)
  windows = {squashed[y : y + 24, x : x + 24].tobytes() for y in range(9) for x in range(9)}
  rng = np.random.default_rng(0)
  seen = {transform({"image": image, "label": 0}, rng)["image"].tobytes() for _ in range(200)}
  assert seen <= windows and len(seen) > 60


@pytest.mark.parametrize(
  "crop, big", [((24, 20), (27, 22)), ((20, 24), (20, 26)), ((9, 9), (9, 9))]
)
def test_random_crops_reach_every_offset_and_none_lies_outside(crop, big):
  image = photo(100, 160)
  transform = train_transform(Preprocessing(crop=crop, resize=big, train_crop="random", flip=False))
  squashed = transforms.resize(image, big, "bilinear", False)
  offsets = itertools.product(range(big[0] - crop[0] + 1), range(big[1] - crop[1] + 1))
  windows = {squashed[y : y + crop[0], x : x + crop[1]].tobytes() for y, x in offsets}
  rng = np.random.default_rng(0)
  seen = {transform({"image": image, "label": 0}, rng)["image"].tobytes() for _ in range(200)}
  assert seen == windows


def test_flip_mirrors_half():
  image = photo(32, 32)
  transform = train_transform(Preprocessing(crop=32, train_crop="none"))
  rng = np.random.default_rng(0)
  results = [transform({"image": image, "label": 0}, rng)["image"] for _ in range(400)]
  mirrored = sum(np.array_equal(r, image[:, ::-1]) for r in results)
  assert mirrored + sum(np.array_equal(r, image) for r in results) == 400
  assert 150 < mirrored < 250
  assert all(r.flags.c_contiguous for r in results)


def test_affine_moves_a_dot_as_told():
  image = np.zeros((41, 41, 1), np.uint8)
  image[19:22, 29:32] = 255  # Ten pixels right of the centre.
  base = dict(crop=41, train_crop="none", flip=False, channels=1, mean=0.5, std=0.5)

  def centres(**affine):
    transform = train_transform(Preprocessing(**base, random_affine=affine))
    rng = np.random.default_rng(0)
    moved = [transform({"image": image, "label": 0}, rng)["image"][..., 0] for _ in range(300)]
    y, x = np.mgrid[0:41, 0:41]
    return np.array([[(y * m).sum() / m.sum(), (x * m).sum() / m.sum()] for m in moved]) - 20

  still = centres()
  np.testing.assert_allclose(still, [[0, 10]] * 300, atol=0.05)
  turned = centres(degrees=30)
  angle = np.degrees(np.arctan2(turned[:, 0], turned[:, 1]))
  assert np.abs(np.hypot(*turned.T) - 10).max() < 0.3
  assert -30.5 < angle.min() < -25 and 25 < angle.max() < 30.5
  shifted = centres(translate=0.1) - [0, 10]
  assert 3.5 < np.abs(shifted).max() <= 4.2 and abs(shifted.mean()) < 0.4
  scaled = centres(scale=(0.8, 1.2))[:, 1]
  assert 7.8 < scaled.min() < 8.4 and 11.6 < scaled.max() < 12.2


@pytest.mark.parametrize(
  "fields, words",
  [
    (dict(interpolation="bilinar"), "did you mean 'bilinear'.*bicubic, area"),
    (dict(train_crop="centre"), "inception, random, none"),
    (dict(eval_resize="crop"), "squash, squash_crop, resize_crop, digit"),
    (dict(crop_offset="ceil"), "round, floor"),
    (dict(resize=(256, 200)), "pp.resize=.256, 200. is smaller"),
    (dict(resize=(256, 300, 3)), "pp.resize"),
    (dict(crop=0), "pp.crop"),
    (dict(crop=(224,)), "pp.crop"),
    (dict(crop=224, resize=200), "pp.resize=200 is smaller"),
    (dict(min_area=0.0), "min_area"),
    (dict(channels=2), "channels"),
    (dict(mean=(0.5, 0.5)), "pp.mean"),
    (dict(std=(0.5, 0.0, 0.5)), "positive"),
    (dict(random_affine=dict(degree=3)), "did you mean 'degrees'"),
    (dict(random_affine=dict(scale=(2, 1))), "scale"),
    (dict(random_affine=dict(scale=2)), "scale"),
    (dict(random_affine="yes"), "random_affine"),
  ],
)
def test_wrong_settings_are_one_sentence(fields, words):
  with pytest.raises(UserError, match=words) as error:
    Preprocessing(**fields)
  assert "\n" not in str(error.value)


def test_settings_may_be_a_config_dict():
  from ml_collections import ConfigDict

  config = ConfigDict(
    dict(crop=(8, 8), channels=1, mean=0.5, std=[0.25], random_affine=dict(scale=(0.9, 1.1)))
  )
  spec = Preprocessing(**config)
  assert spec.size == (8, 8) and spec.mean == (0.5,) and spec.std == (0.25,)
  assert spec.random_affine["scale"] == (0.9, 1.1)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "area"])
@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize(
  "shape", [(1, 400, 3), (400, 3, 3), (7, 700, 1), (31, 900, 3), (150, 200, 3)]
)
def test_a_part_is_what_the_whole_would_show(shape, antialias, interpolation):
  image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
  for cover in ((64, 64), (40, 56)):
    size, crop = transforms._covering(shape[:2], cover), (cover[0] - 8, cover[1] - 5)
    whole = transforms.resize(image, size, interpolation, antialias).astype(int)
    middle = transforms._center(size, crop, "round")
    for top, left in (middle, (0, 0), (size[0] - crop[0], size[1] - crop[1])):
      part = transforms.resize_part(image, size, (top, left, *crop), interpolation, antialias)
      expected = whole[top : top + crop[0], left : left + crop[1]]
      assert part.dtype == np.uint8 and np.abs(part - expected).max() <= 1


STRIPS = """
import resource
import numpy as np
from vit_jax.data import transforms
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
for height, width, resize, interpolation, antialias in (
  (1, 40_000, "resize_crop", "bilinear", False),
  (40_000, 1, "resize_crop", "bicubic", True),
  (2, 30_000, "resize_crop", "bicubic", False),
  (3, 65_500, "resize_crop", "area", False),
  (65_500, 3, "resize_crop", "bilinear", True),
  (100_000, 1, "squash", "bilinear", True),
  (1, 40_000, "digit", "bilinear", False),
):
  image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
  spec = transforms.Preprocessing(
    crop=224,
    resize=None if resize == "squash" else 256,
    eval_resize=resize,
    interpolation=interpolation,
    antialias=antialias,
  )
  before, record = peak(), {"image": image, "label": 0}
  shapes = {transforms.eval_transform(spec)(record)["image"].shape}
  shapes |= {transforms.train_transform(spec)(record, np.random.default_rng(0))["image"].shape}
  assert shapes == {(224, 224, 3)}, shapes
  assert peak() - before < 60, (height, width, resize, peak() - before)  # MB.
"""


def test_the_memory_is_the_crops_whatever_the_aspect():
  done = subprocess.run([sys.executable, "-c", STRIPS], capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr


def test_a_path_that_cannot_be_read_is_named(tmp_path):
  path = tmp_path / "half.jpg"
  path.write_bytes(encoded(photo(), "JPEG")[:1000])
  with pytest.raises(transforms.BadImage, match=rf"^{path} cannot be read: .*truncated"):
    transforms.Preprocess(transforms.Preprocessing())(path)
