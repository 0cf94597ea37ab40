# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""MobileViT, "Light-weight, General-purpose, and Mobile-friendly Vision Transformer".

arXiv:2110.02178. Convolutions look at the neighbourhood, and a Transformer at the whole map: it
sees a position of every patch, so that a patch has as many sequences as it has positions, and none
of its order is lost. There are no position embeddings, and images may have any size.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.errors import UserError, choose
from vit_jax.models.layers import (
  ACTIVATIONS,
  BatchNorm,
  Dtype,
  LayerNorm,
  capture,
  check_images,
  head_init,
)
from vit_jax.models.vit import EncoderBlock


def _depthwise_by_shifts(
  x: Float[Array, "b h w c"], kernel: Float[Array, "k k 1 c"], stride: int
) -> Float[Array, "b i j c"]:
  """A depthwise convolution as a sum of shifted maps."""
  side, padding = kernel.shape[0], kernel.shape[0] // 2
  x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
  height, width = ((size - side) // stride * stride + 1 for size in x.shape[1:3])
  shifted = lambda i, j: x[:, i : i + height : stride, j : j + width : stride]
  return sum(shifted(i, j) * kernel[i, j, 0] for i in range(side) for j in range(side))


def _depthwise_by_conv(x: Array, kernel: Array, stride: int) -> Array:
  padding = (kernel.shape[0] // 2,) * 2
  return jax.lax.conv_general_dilated(
    x,
    kernel,
    (stride, stride),
    (padding, padding),
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
    feature_group_count=x.shape[-1],
  )


class DepthwiseConv(nn.Module):
  """Convolution of each channel with a filter of its own, without a bias.

  XLA's CPU compiler has no fast one: a sum of shifted maps took a twentieth of its time or
  less, and its gradient a third or less (eight maps of 128x128x32 to 32x32x96, float32, 2 cores).
  """

  side: int
  stride: int
  dtype: Dtype

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b i j c"]:
    shape = (self.side, self.side, 1, x.shape[-1])
    kernel = self.param("kernel", nn.initializers.he_normal(), shape)
    return jax.lax.platform_dependent(
      x.astype(self.dtype),
      kernel.astype(self.dtype),
      cpu=functools.partial(_depthwise_by_shifts, stride=self.stride),
      default=functools.partial(_depthwise_by_conv, stride=self.stride),
    )


class ConvNorm(nn.Module):
  """Convolution without a bias, batch norm, and the activation if there is one."""

  features: int
  side: int = 1
  stride: int = 1
  depthwise: bool = False
  activation: str | None = "silu"
  batch_norm_eps: float = 1e-5
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b i j d"]:
    x = self._conv()(x)
    x = BatchNorm(epsilon=self.batch_norm_eps, name="norm")(x, train=train)
    return choose("activation", self.activation, ACTIVATIONS)(x) if self.activation else x

  def _conv(self) -> nn.Module:
    if self.depthwise:
      return DepthwiseConv(self.side, self.stride, self.dtype, name="conv")
    common = dict(
      use_bias=False, kernel_init=nn.initializers.he_normal(), dtype=self.dtype, name="conv"
    )
    if self.side == 1:  # On CPU a matrix product is the faster of the two.
      return nn.Dense(self.features, **common)
    padding = (self.side // 2,) * 2  # The same on each side, as in PyTorch; SAME is not, by 2.
    return nn.Conv(
      self.features, (self.side, self.side), self.stride, padding=(padding, padding), **common
    )


class InvertedResidual(nn.Module):
  """MobileNetV2's block (arXiv:1801.04381, Table 1): wide inside, narrow and linear outside."""

  features: int
  stride: int
  expansion: float
  conv: Any  # Makes a ConvNorm.

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h w d"]:
    wide = rounded(x.shape[-1] * self.expansion)
    y = self.conv(wide, name="expand")(x, train=train)
    y = self.conv(wide, 3, self.stride, depthwise=True, name="depthwise")(y, train=train)
    y = self.conv(self.features, activation=None, name="project")(y, train=train)
    return x + y if y.shape == x.shape else y


def rounded(width: float, step: int = 8) -> int:
  """The multiple of `step` that is nearest, but not less than nine tenths of `width`."""
  nearest = max(step, int(width + step / 2) // step * step)
  return nearest + step if nearest < 0.9 * width else nearest


def resized(x: Float[Array, "b h w c"], size: tuple[int, int]) -> Float[Array, "b i j c"]:
  """Bilinear, with half-pixel centres, without antialias."""
  if x.shape[1:3] == size:
    return x
  return jax.image.resize(x, (x.shape[0], *size, x.shape[3]), "bilinear", antialias=False)


def multiple(size: tuple[int, int], patch: int) -> tuple[int, int]:
  """The next size that is a whole number of patches."""
  return tuple(-(-side // patch) * patch for side in size)


def unfold(x: Float[Array, "b h w c"], patch: int) -> Float[Array, "b p n c"]:
  """[batch, height, width, dim] to [batch, positions of a patch, patches, dim]."""
  batch, height, width, dim = x.shape
  x = x.reshape(batch, height // patch, patch, width // patch, patch, dim)
  patches = height // patch * (width // patch)
  return x.transpose(0, 2, 4, 1, 3, 5).reshape(batch, patch * patch, patches, dim)


def fold(x: Float[Array, "b p n c"], patch: int, size: tuple[int, int]) -> Array:
  """The inverse of `unfold`, to [batch, *size, dim]."""
  batch, dim = x.shape[0], x.shape[-1]
  x = x.reshape(batch, patch, patch, size[0] // patch, size[1] // patch, dim)
  return x.transpose(0, 3, 1, 4, 2, 5).reshape(batch, *size, dim)


class MobileViTBlock(nn.Module):
  """Section 3.1: a convolution, a Transformer over all patches, and what came in fused with both.

  Maps [batch, height, width, channels] to the same shape.
  """

  hidden_size: int
  num_layers: int
  patch_size: int
  layer_norm_eps: float
  layer: Any  # Makes an EncoderBlock.
  conv: Any  # Makes a ConvNorm.
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h w c"]:
    channels, size = x.shape[-1], x.shape[1:3]
    y = self.conv(channels, 3, name="local")(x, train=train)
    y = nn.Dense(self.hidden_size, use_bias=False, dtype=self.dtype, name="embed")(y)

    whole = multiple(size, self.patch_size)
    y = unfold(resized(y, whole), self.patch_size)
    # The positions of a patch never meet here: each is an image of its own to the Transformer.
    tokens = y.reshape(y.shape[0] * y.shape[1], *y.shape[2:])
    for index in range(self.num_layers):
      tokens = self.layer(name=f"encoderblock_{index}")(tokens, train=train)
    tokens = LayerNorm(epsilon=self.layer_norm_eps, name="norm")(tokens)
    y = resized(fold(tokens.reshape(y.shape), self.patch_size, whole), size)

    y = self.conv(channels, name="project")(y, train=train)
    return self.conv(channels, 3, name="fusion")(jnp.concatenate([x, y], -1), train=train)


class MobileTransformer(nn.Module):
  """Convolutions, and a Transformer in the last stages: what both versions of MobileViT have.

  Maps images [batch, height, width, channels] float32 to logits [batch, classes] float32. Images
  are RGB in [0, 1], and of any size. In training "batch_stats" is mutable.

  Attributes:
    num_classes: width of the head; 0 leaves the head out and returns the representation.
    stem_width: channels of the first convolution.
    widths: channels of each stage; all but the first halve the map.
    num_residuals: inverted residual blocks of each stage.
    hidden_sizes: of the Transformers in the last stages, one each.
    num_layers: of these Transformers.
    final_width: channels of the convolution before the mean; 0 leaves it out.
    expansion: of the inverted residual blocks.
    mlp_ratio: width of the Transformers' MLP, in hidden sizes.
    patch_size: positions of one side of a patch.
    dropout_rate: in the Transformers, and before the head.
    activation: "silu" in all released weights, or another of layers.ACTIVATIONS.
    batch_norm_eps: of all convolutions.
    head_zeroinit: whether the head begins at zero, as for classes; a LiT's must not.
    dtype: of the matrix products and convolutions; parameters, norms and logits stay float32.
  """

  num_classes: int = 1000
  stem_width: int = 16
  widths: tuple[int, ...] = (16, 24, 48, 64, 80)
  num_residuals: tuple[int, ...] = (1, 3, 1, 1, 1)
  hidden_sizes: tuple[int, ...] = (64, 80, 96)
  num_layers: tuple[int, ...] = (2, 4, 3)
  final_width: int = 320
  expansion: float = 2.0
  mlp_ratio: float = 2.0
  patch_size: int = 2
  dropout_rate: float = 0.0
  activation: str = "silu"
  batch_norm_eps: float = 1e-5
  head_zeroinit: bool = True
  dtype: Dtype = jnp.float32

  def pixels_per_token(self) -> tuple[int, int]:
    """Height and width of a position of the last stage in pixels of the image."""
    return (2 ** len(self.widths),) * 2

  def mobile_block(self, hidden_size: int, num_layers: int, conv: Any, name: str) -> nn.Module:
    """The block behind the residual ones of a stage; `conv` makes a ConvNorm."""
    raise NotImplementedError

  @nn.compact
  def __call__(self, images: Float[Array, "b h w c"], *, train: bool = False) -> Array:
    check_images(self, images, "stem/conv/kernel")
    conv = functools.partial(
      ConvNorm,
      activation=self.activation,
      batch_norm_eps=self.batch_norm_eps,
      dtype=self.dtype,
    )
    x = conv(self.stem_width, 3, 2, name="stem")(images, train=train)
    for stage, (width, residuals, hidden_size, layers) in enumerate(self.stages()):
      for index in range(residuals):
        stride = 2 if stage and not index else 1
        x = InvertedResidual(
          width, stride, self.expansion, conv, name=f"stage_{stage}_residual_{index}"
        )(x, train=train)
      if layers:
        block = self.mobile_block(hidden_size, layers, conv, f"stage_{stage}_mobilevit")
        x = block(x, train=train)
      capture(self, "features", f"stage{stage}", x)

    if self.final_width:
      x = conv(self.final_width, name="final")(x, train=train)
    x = jnp.mean(x, axis=(1, 2), dtype=jnp.promote_types(x.dtype, jnp.float32))
    capture(self, "features", "representation", x)
    if self.num_classes:
      x = nn.Dropout(self.dropout_rate)(x, deterministic=not train)
      x = nn.Dense(self.num_classes, kernel_init=head_init(self.head_zeroinit), name="head")(x)
    return x

  def stages(self) -> list[tuple[int, int, int, int]]:
    """Width, residual blocks, hidden size and layers of each stage; 0 where there are no layers."""
    count, last = len(self.widths), len(self.hidden_sizes)
    if len(self.num_residuals) != count or len(self.num_layers) != last or last > count:
      raise UserError(
        f"widths={self.widths!r} and num_residuals={self.num_residuals!r} are for each stage, "
        f"hidden_sizes={self.hidden_sizes!r} and num_layers={self.num_layers!r} for the last ones; "
        "give one for each."
      )
    none = (0,) * (count - last)
    sizes = (self.widths, self.num_residuals, none + self.hidden_sizes, none + self.num_layers)
    return list(zip(*sizes, strict=True))


class MobileViT(MobileTransformer):
  """The first version: self-attention, and a fusion with what came in.

  A map that the patches don't divide is resized to the next that they do, and back.

  Attributes:
    num_heads: of the Transformers.
    layer_norm_eps: of the Transformers.
  """

  num_heads: int = 4
  layer_norm_eps: float = 1e-5

  def mobile_block(self, hidden_size: int, num_layers: int, conv: Any, name: str) -> nn.Module:
    layer = functools.partial(
      EncoderBlock,
      self.num_heads,
      int(hidden_size * self.mlp_ratio),
      self.dropout_rate,
      activation=self.activation,
      layer_norm_eps=self.layer_norm_eps,
      dtype=self.dtype,
    )
    sizes = (hidden_size, num_layers, self.patch_size, self.layer_norm_eps)
    return MobileViTBlock(*sizes, layer, conv, self.dtype, name=name)
