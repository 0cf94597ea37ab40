# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Resampling of vectors on a grid, and of the filters that embed patches.

Every method is linear and separable, so it is a row of a table: the [new, old] matrix of weights
along one axis. Filters are resampled by the pseudo-inverse of the same matrices.
"""

from collections.abc import Callable

import numpy as np

from vit_jax.errors import choose

Grid = tuple[int, int]


def _aligned_weights(old: int, new: int) -> np.ndarray:
  """[new, old] matrix of 1-D linear interpolation whose first and last points coincide."""
  position = np.arange(new) * ((old - 1) / (new - 1) if new > 1 else 0.0)
  low = np.minimum(np.floor(position).astype(int), max(old - 2, 0))
  weights = np.zeros((new, old))
  weights[np.arange(new), low] = 1 - (position - low)
  if old > 1:
    weights[np.arange(new), low + 1] += position - low
  return weights


def _linear(x: np.ndarray) -> np.ndarray:
  return np.maximum(1 - np.abs(x), 0)


def _cubic(a: float) -> Callable[[np.ndarray], np.ndarray]:
  """Keys' kernel with slope `a` at 1 (Cubic Convolution Interpolation, IEEE TASSP 1981, eq. 4)."""

  def kernel(x: np.ndarray) -> np.ndarray:
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x**2 + 1
    far = a * (((x - 5) * x + 8) * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0))

  return kernel


def _half_pixel_weights(
  kernel: Callable[[np.ndarray], np.ndarray], *, antialias: bool
) -> Callable[[int, int], np.ndarray]:
  """Weights of a kernel around half-pixel centres; `antialias` widens it where it shrinks."""

  def weights(old: int, new: int) -> np.ndarray:
    centre = (np.arange(new)[:, None] + 0.5) * (old / new) - 0.5
    if antialias:  # What falls outside has no weight, and the rest is scaled to sum to one.
      inside = kernel((centre - np.arange(old)) / max(old / new, 1.0))
      return inside / inside.sum(axis=1, keepdims=True)
    taps = np.arange(-2, old + 2)  # What falls outside takes the value at the border.
    at_border = np.clip(taps, 0, old - 1)[:, None] == np.arange(old)
    return kernel(centre - taps) @ at_border

  return weights


# They differ: on a random grid, half-pixel from corner-aligned bilinear by 25%.
RESIZE_METHODS: dict[str, Callable[[int, int], np.ndarray]] = {
  # Corners coincide, as scipy.ndimage.zoom(order=1) in google-research/vision_transformer.
  "bilinear_aligned": _aligned_weights,
  # Half-pixel centres, without antialiasing, as tf.image.resize.
  "bilinear": _half_pixel_weights(_linear, antialias=False),
  # Half-pixel centres, cubic with a = -0.75, without antialiasing, as torch and Hugging Face.
  "bicubic": _half_pixel_weights(_cubic(-0.75), antialias=False),
  # Half-pixel centres, cubic with a = -0.5 and antialiasing, as timm.
  "bicubic_antialias": _half_pixel_weights(_cubic(-0.5), antialias=True),
}


def resize_grid(grid: np.ndarray, size: Grid, method: str = "bilinear_aligned") -> np.ndarray:
  """Resamples vectors on a grid.

  Args:
    grid: [height, width, dim] float32.
    size: new (height, width).
    method: one of RESIZE_METHODS.

  Returns:
    [*size, dim] float32; `grid` itself if it has that size already.

  Raises:
    UserError: the method is unknown.
  """
  weights = choose("method", method, RESIZE_METHODS)
  return _along_both_axes(grid, size, weights)


def resize_filters(kernel: np.ndarray, size: Grid, method: str) -> np.ndarray:
  """Resamples patch filters so that a resized patch keeps its inner product with them.

  FlexiViT, section 3.4 of arXiv:2212.08013: with B the matrix that resizes a patch by `method`, the
  new filters are pinv(B)^T w. A larger patch then gives <B x, w'> = <x, w> exactly; a smaller one
  the nearest to it in the mean over white noise. B is the Kronecker product of its two axes, and
  the pseudo-inverse of such a product is that of its factors.

  Args:
    kernel: [height, width, channels, dim] float32.
    size: new (height, width) of a patch.
    method: one of RESIZE_METHODS; the paper's code has "bilinear", timm "bicubic_antialias".

  Returns:
    [*size, channels, dim] float32; `kernel` itself if it has that size already.

  Raises:
    UserError: the method is unknown.
  """
  weights = choose("method", method, RESIZE_METHODS)
  return _along_both_axes(kernel, size, lambda old, new: np.linalg.pinv(weights(old, new)).T)


def _along_both_axes(
  x: np.ndarray, size: Grid, weights: Callable[[int, int], np.ndarray]
) -> np.ndarray:
  """Applies [new, old] matrices to the first two axes, in float64."""
  if x.shape[:2] == tuple(size):
    return x
  rows, columns = (weights(old, new) for old, new in zip(x.shape[:2], size, strict=True))
  # Two products by BLAS: `rows` over axis 0, then `columns` over what was axis 1.
  x = np.tensordot(rows, x.astype(np.float64), axes=(1, 0))
  return np.moveaxis(np.tensordot(columns, x, axes=(1, 1)), 0, 1).astype(np.float32, order="C")
