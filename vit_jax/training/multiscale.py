# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Training at a size drawn anew for each step: the multi-scale sampler of arXiv:2110.02178.

Section 3.3 and appendix B: a network that has seen many sizes is better at each. `pp.train_sizes`
turns it on; evaluation stays at `pp.crop`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vit_jax.data.transforms import Preprocessing
from vit_jax.errors import UserError
from vit_jax.models.layers import ImageSizeError
from vit_jax.models.lit import example_inputs
from vit_jax.parallel import mesh as mesh_lib

_STREAM = 0x5A15  # Tells these numbers from others that are drawn from the same seed.


def draw(sizes: Sequence[int], seed: int, step: int) -> int:
  """The size of a step: uniform, and the same in every process and after a continuation."""
  rng = np.random.default_rng((_STREAM, seed, step))
  return sizes[rng.integers(len(sizes))]


def make_resize(
  sizes: Sequence[int] | None, seed: int, mesh: jax.sharding.Mesh
) -> Callable[[int, Any], Any]:
  """Resizes the images of a batch that is on the devices to the size of its step.

  The host crops to the largest size, and each batch is shrunk as a whole, by an antialiased
  bilinear filter, rounded to grey levels. The training step is compiled once for each size.

  The paper also enlarges a batch of smaller images, to keep the device busy. Here all batches have
  as many examples: then steps, epochs and learning rates mean the same at each size, and where the
  data stands does not depend on what was drawn. Smaller images just take less time.

  Args:
    sizes: sides in pixels; None or empty leaves all batches as they are.
    seed: of the run.
    mesh: the batch is split over its data axis, before and after.

  Returns:
    `resize(step, batch) -> batch` where `batch["image"]` is uint8 [batch, height, width, channels].
  """
  if not sizes:
    return lambda step, batch: batch

  def shrink(images: jax.Array, size: int) -> jax.Array:
    shape = (images.shape[0], size, size, images.shape[3])
    pixels = jax.image.resize(images.astype(jnp.float32), shape, "bilinear", antialias=True)
    return jnp.round(pixels).astype(jnp.uint8)

  shrink = jax.jit(shrink, static_argnums=1, out_shardings=mesh_lib.batch_sharding(mesh))

  def resize(step: int, batch: Any) -> Any:
    size = draw(sizes, seed, step)
    images = batch["image"]
    return {**batch, "image": images if images.shape[1] == size else shrink(images, size)}

  return resize


def check(model: nn.Module, preprocessing: Preprocessing) -> None:
  """Traces the model at each training size.

  Raises:
    UserError: its parameters are for one size, or a size is not a whole number of patches.
  """
  if not preprocessing.train_sizes:
    return

  def inputs(size: tuple[int, int]) -> tuple[Any, ...]:
    return example_inputs(model, jnp.zeros((1, *size, preprocessing.channels), jnp.float32))

  crop, key = preprocessing.size, jax.random.key(0)
  variables = jax.eval_shape(lambda: model.init(key, *inputs(crop), train=False))
  for size in preprocessing.train_sizes:
    wrong = f"config.pp.train_sizes={preprocessing.train_sizes} does not go with this model"
    try:
      jax.eval_shape(lambda v, s=size: model.apply(v, *inputs((s, s)), train=False), variables)
    except ImageSizeError as error:
      raise UserError(
        f"{wrong}, whose parameters are for images of {crop[0]}x{crop[1]} and not for {size}; "
        "remove it, or train a model of any size (Swin, PoolFormer, MobileViT, or a ViT with "
        "position_embedding='sincos_2d')."
      ) from error
    except UserError as error:
      raise UserError(f"{wrong}: {error}") from error
