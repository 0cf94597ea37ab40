# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""ResNet with weight-standardised convolutions and GroupNorm: the hybrids' stem.

Weight standardisation: arXiv:1903.10520. GroupNorm: arXiv:1803.08494. Parameter names are the
released files'.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.errors import choose
from vit_jax.models.layers import Dtype, GroupNorm

# Divisor of (w - mean), from the variance over a filter's inputs. Each origin of weights has its
# own epsilon, and the wrong one changes the logits.
STANDARDIZATION: dict[str, Callable[[Array], Array]] = {
  # A filter of zeros has variance 0, where the derivative of the root is infinite.
  "google": lambda variance: jnp.sqrt(jnp.maximum(variance, jnp.finfo(variance.dtype).tiny)) + 1e-5,
  "timm": lambda variance: jnp.sqrt(variance + 1e-8),
  "bit": lambda variance: jnp.sqrt(variance + 1e-10),
}


class StdConv(nn.Conv):
  """Convolution whose filters have mean 0 and variance 1 over (height, width, input)."""

  standardization: str = "google"

  def param(self, name: str, *args, **kwargs):
    value = super().param(name, *args, **kwargs)
    if name == "kernel":
      divisor = choose("weight_standardization", self.standardization, STANDARDIZATION)
      value = value - jnp.mean(value, axis=(0, 1, 2), keepdims=True)
      value = value / divisor(jnp.mean(value**2, axis=(0, 1, 2), keepdims=True))
    return value


class ResidualUnit(nn.Module):
  """Post-activation bottleneck: [b, h, w, c] to [b, h / stride, w / stride, 4 * features]."""

  features: int
  stride: int = 1
  weight_standardization: str = "google"
  group_norm_eps: float = 1e-6
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c2"]:
    conv = functools.partial(
      StdConv, use_bias=False, standardization=self.weight_standardization, dtype=self.dtype
    )
    norm = functools.partial(GroupNorm, epsilon=self.group_norm_eps)
    strides = (self.stride, self.stride)
    out = 4 * self.features

    shortcut = x
    if x.shape[-1] != out or self.stride != 1:
      shortcut = norm(name="gn_proj")(conv(out, (1, 1), strides, name="conv_proj")(x))

    y = jax.nn.relu(norm(name="gn1")(conv(self.features, (1, 1), name="conv1")(x)))
    y = jax.nn.relu(norm(name="gn2")(conv(self.features, (3, 3), strides, name="conv2")(y)))
    y = conv(out, (1, 1), name="conv3")(y)
    y = norm(name="gn3", scale_init=nn.initializers.zeros)(y)
    return jax.nn.relu(shortcut + y)


class ResNetStage(nn.Module):
  """`num_units` residual units, the first of which has the stage's stride."""

  num_units: int
  features: int
  stride: int
  weight_standardization: str = "google"
  group_norm_eps: float = 1e-6
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c2"]:
    for unit in range(self.num_units):
      x = ResidualUnit(
        self.features,
        self.stride if unit == 0 else 1,
        self.weight_standardization,
        self.group_norm_eps,
        dtype=self.dtype,
        name=f"unit{unit + 1}",
      )(x)
    return x


class ResNetStem(nn.Module):
  """Root convolution, max-pool and `num_units` stages: images to a feature map of stride 4 or more.

  Maps [batch, height, width, channels] to [batch, height / s, width / s, features] with
  s = 4 * 2 ** (stages - 1). Convolutions are padded SAME, the max-pool with -inf.
  """

  num_units: tuple[int, ...]
  width: int = 64
  weight_standardization: str = "google"
  group_norm_eps: float = 1e-6
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, images: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c2"]:
    x = StdConv(
      self.width,
      (7, 7),
      (2, 2),
      use_bias=False,
      standardization=self.weight_standardization,
      dtype=self.dtype,
      name="conv_root",
    )(images)
    x = jax.nn.relu(GroupNorm(epsilon=self.group_norm_eps, name="gn_root")(x))
    x = nn.max_pool(x, (3, 3), strides=(2, 2), padding="SAME")
    for stage, units in enumerate(self.num_units):
      x = ResNetStage(
        units,
        self.width * 2**stage,
        1 if stage == 0 else 2,
        self.weight_standardization,
        self.group_norm_eps,
        dtype=self.dtype,
        name=f"block{stage + 1}",
      )(x)
    return x
