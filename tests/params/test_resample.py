# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Resampling of grids and of patch filters: against scipy, torch and timm, up, down, not square."""

import numpy as np
import pytest
import scipy.ndimage
import timm.layers
import torch
from timm.layers.patch_embed import resample_patch_embed

from vit_jax.errors import UserError
from vit_jax.params.resample import RESIZE_METHODS, resize_filters, resize_grid

SIZES = [
  ((14, 14), (24, 24)),
  ((24, 24), (14, 14)),
  ((7, 7), (12, 5)),
  ((5, 12), (7, 7)),
  ((6, 9), (9, 6)),
  ((37, 3), (11, 64)),
  ((4, 4), (1, 3)),
  ((1, 4), (3, 4)),
]
PATCHES = [
  ((16, 16), (8, 8)),
  ((16, 16), (32, 32)),
  ((16, 16), (14, 14)),
  ((14, 14), (16, 16)),
  ((16, 16), (8, 20)),
  ((4, 8), (8, 4)),
]
# What each method is in torch; corner-aligned bilinear there is not scipy's at size 1.
TORCH = {
  "bilinear": dict(mode="bilinear", align_corners=False),
  "bicubic": dict(mode="bicubic", align_corners=False),
  "bicubic_antialias": dict(mode="bicubic", antialias=True),
}


def noise(*shape):
  return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def relative_error(ours, theirs):
  theirs = np.asarray(theirs, np.float64)
  return np.linalg.norm(np.asarray(ours, np.float64) - theirs) / np.linalg.norm(theirs)


def by_torch(grid, size, method):
  """torch's resampling of [height, width, dim], in float64: its float32 has errors of its own."""
  images = torch.from_numpy(grid).double().permute(2, 0, 1)[None]
  return torch.nn.functional.interpolate(images, size, **TORCH[method])[0].permute(1, 2, 0).numpy()


@pytest.mark.parametrize("old, new", SIZES)
def test_bilinear_aligned_equals_scipy_zoom(old, new):
  grid = noise(*old, 6)
  expected = scipy.ndimage.zoom(grid, (new[0] / old[0], new[1] / old[1], 1), order=1)
  assert expected.shape[:2] == new
  assert relative_error(resize_grid(grid, new), expected) < 1e-6


@pytest.mark.parametrize("old, new", SIZES)
@pytest.mark.parametrize("method", TORCH)
def test_half_pixel_methods_equal_torch(method, old, new):
  grid = noise(*old, 6)
  ours = resize_grid(grid, new, method)
  expected = by_torch(grid, new, method)
  assert ours.dtype == np.float32 and ours.shape == (*new, 6)
  assert relative_error(ours, expected) < 1e-6
  np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)


def test_the_methods_are_no_synonyms():
  for old, new in SIZES[:2]:
    results = {method: resize_grid(noise(*old, 6), new, method) for method in RESIZE_METHODS}
    for one in results:
      for other in results:
        assert one == other or relative_error(results[one], results[other]) > 0.02


@pytest.mark.parametrize("old, new", SIZES)
def test_bicubic_antialias_equals_timms_position_embedding(old, new):
  embedding = torch.from_numpy(noise(1, old[0] * old[1], 6))
  theirs = timm.layers.resample_abs_pos_embed(embedding, list(new), list(old), num_prefix_tokens=0)
  ours = resize_grid(embedding.numpy().reshape(*old, 6), new, "bicubic_antialias")
  assert relative_error(ours.reshape(1, -1, 6), theirs) < 1e-5


@pytest.mark.parametrize("old, new", PATCHES)
def test_filters_equal_timms(old, new):
  kernel = noise(*old, 3, 5)
  theirs = resample_patch_embed(torch.from_numpy(kernel).permute(3, 2, 0, 1), list(new))
  ours = resize_filters(kernel, new, "bicubic_antialias")
  assert ours.dtype == np.float32 and ours.shape == (*new, 3, 5)
  assert relative_error(ours, theirs.permute(2, 3, 1, 0)) < 1e-5
  # Resampling the filters like an image is not the same: up to 4 times the response, among others.
  plain = resize_grid(kernel.reshape(*old, -1), new, "bicubic_antialias")
  assert relative_error(plain.reshape(ours.shape), ours) > 0.1


@pytest.mark.parametrize("method", TORCH)
@pytest.mark.parametrize("old, new", [((8, 8), (16, 16)), ((8, 8), (8, 11)), ((4, 6), (9, 7))])
def test_an_enlarged_patch_keeps_its_embedding(method, old, new):
  """<B x, w'> = <x, w>, FlexiViT's aim, with B applied by torch."""
  kernel, patch = noise(*old, 3, 5), noise(1, *old, 3)[0] + 0.5
  larger = by_torch(patch, new, method)
  before = np.einsum("hwc,hwcd->d", patch, kernel)
  after = np.einsum("hwc,hwcd->d", larger, resize_filters(kernel, new, method))
  assert relative_error(after, before) < 1e-5


def test_the_same_size_changes_nothing():
  kernel = noise(4, 4, 3, 5)
  assert resize_filters(kernel, (4, 4), "bilinear") is kernel
  assert resize_grid(kernel[..., 0], (4, 4)) is not None
  np.testing.assert_array_equal(resize_grid(kernel[..., 0], (4, 4)), kernel[..., 0])


def test_an_unknown_method_is_refused():
  with pytest.raises(UserError, match=r"method='cubic' is not known; choose from: .*bicubic_anti"):
    resize_grid(noise(2, 2, 1), (3, 3), "cubic")
