# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""MobileViTV2, "Separable Self-attention for Mobile Vision Transformers" (arXiv:2206.02680).

Every token is weighed once for all others, instead of anew for each of them: one softmax over the
tokens and products of elements, linear in their number. Equation numbers are the paper's.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.models.layers import Dtype, GroupNorm, MlpBlock, computed_once
from vit_jax.models.mobilevit import MobileTransformer, fold, multiple, unfold


class SeparableAttention(nn.Module):
  """Section 3.2, over the patches n of [batch, positions, patches, dim]; the same shape."""

  dropout_rate: float = 0.0
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "b p n d"], *, train: bool) -> Float[Array, "b p n d"]:
    dense = functools.partial(
      nn.Dense, dtype=self.dtype, kernel_init=nn.initializers.xavier_uniform()
    )
    query, key, value = (
      dense(width, name=name)(x)
      for width, name in ((1, "query"), (x.shape[-1], "key"), (x.shape[-1], "value"))
    )
    # Softmax and sum in at least float32, as in layers.attention_weights.
    query = query.astype(jnp.promote_types(query.dtype, jnp.float32))
    context = jnp.sum(jax.nn.softmax(query, axis=-2) * key, axis=-2, keepdims=True)
    y = dense(x.shape[-1], name="out")(nn.relu(value) * context.astype(value.dtype))
    return nn.Dropout(self.dropout_rate)(y, deterministic=not train)


class SeparableBlock(nn.Module):
  """Pre-norm Transformer layer, whose norms are over positions, patches and channels together."""

  mlp_dim: int
  dropout_rate: float = 0.0
  activation: str = "silu"
  group_norm_eps: float = 1e-5
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "b p n d"], *, train: bool) -> Float[Array, "b p n d"]:
    norm = functools.partial(GroupNorm, num_groups=1, epsilon=self.group_norm_eps)
    y = norm(name="LayerNorm_0")(x)
    y = SeparableAttention(self.dropout_rate, self.dtype, name="attention")(y, train=train)
    x = computed_once(self, x + y, train=train)
    y = norm(name="LayerNorm_1")(x)
    y = MlpBlock(
      self.mlp_dim, self.dropout_rate, self.activation, dtype=self.dtype, name="MlpBlock_0"
    )(y, train=train)
    return computed_once(self, x + y, train=train)


def resized_aligned(x: Float[Array, "b h w c"], size: tuple[int, int]) -> Float[Array, "b i j c"]:
  """Bilinear, with the corners on the corners, as the authors' code has it."""
  for axis, new in ((1, size[0]), (2, size[1])):
    old = x.shape[axis]
    if old == 1:
      x = jnp.repeat(x, new, axis)
    elif old != new:
      shape = (*x.shape[:axis], new, *x.shape[axis + 1 :])
      scale = jnp.array([(new - 1) / (old - 1)], jnp.float32)
      x = jax.image.scale_and_translate(
        x, shape, (axis,), scale, (1 - scale) / 2, "bilinear", antialias=False
      )
  return x


class MobileViTV2Block(nn.Module):
  """Section 3.3: as the first version's block, with a depthwise convolution and no fusion.

  Maps [batch, height, width, channels] to the same; a height or width that is no whole number of
  patches becomes the next that is.
  """

  hidden_size: int
  num_layers: int
  patch_size: int
  group_norm_eps: float
  layer: Any  # Makes a SeparableBlock.
  conv: Any  # Makes a ConvNorm.
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b i j c"]:
    channels, size = x.shape[-1], multiple(x.shape[1:3], self.patch_size)
    x = self.conv(channels, 3, depthwise=True, name="local")(resized_aligned(x, size), train=train)
    x = nn.Dense(self.hidden_size, use_bias=False, dtype=self.dtype, name="embed")(x)
    x = unfold(x, self.patch_size)
    for index in range(self.num_layers):
      x = self.layer(name=f"encoderblock_{index}")(x, train=train)
    x = GroupNorm(num_groups=1, epsilon=self.group_norm_eps, name="norm")(x)
    x = fold(x, self.patch_size, size)
    return self.conv(channels, activation=None, name="project")(x, train=train)


class MobileViTV2(MobileTransformer):
  """The second version: separable self-attention, of linear cost.

  Attributes:
    group_norm_eps: of the Transformers.
  """

  stem_width: int = 32
  widths: tuple[int, ...] = (64, 128, 256, 384, 512)
  num_residuals: tuple[int, ...] = (1, 2, 1, 1, 1)
  hidden_sizes: tuple[int, ...] = (128, 192, 256)
  final_width: int = 0
  group_norm_eps: float = 1e-5

  def mobile_block(self, hidden_size: int, num_layers: int, conv: Any, name: str) -> nn.Module:
    layer = functools.partial(
      SeparableBlock,
      int(hidden_size * self.mlp_ratio),
      self.dropout_rate,
      self.activation,
      self.group_norm_eps,
      self.dtype,
    )
    sizes = (hidden_size, num_layers, self.patch_size, self.group_norm_eps)
    return MobileViTV2Block(*sizes, layer, conv, self.dtype, name=name)
