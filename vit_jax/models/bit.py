# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Big Transfer, "General Visual Representation Learning" (arXiv:1912.11370): the BiT ResNets.

Pre-activation ResNet (arXiv:1603.05027) with GroupNorm and weight-standardised convolutions in
place of BatchNorm (section 2.1). Parameter names are big_vision's; `checkpoints.bit` has the
released files' names.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.errors import UserError
from vit_jax.models.layers import Dtype, GroupNorm, capture, check_images, head_init
from vit_jax.models.resnet import StdConv

ROOT_WIDTH = 64  # Channels of the root, and of the first stage's 3x3 convolutions, at factor 1.


class PreActivationUnit(nn.Module):
  """Bottleneck that normalises first: [b, h, w, c] to [b, h / stride, w / stride, 4 * features].

  The projection sees the pre-activated input, and the 3x3 convolution has the stride. Its padding
  is one on each side whatever the size, which "SAME" is not when the stride is 2.
  """

  features: int
  stride: int = 1
  num_groups: int = 32
  weight_standardization: str = "bit"
  group_norm_eps: float = 1e-5
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c2"]:
    conv = functools.partial(
      StdConv, use_bias=False, standardization=self.weight_standardization, dtype=self.dtype
    )
    norm = functools.partial(GroupNorm, self.num_groups, epsilon=self.group_norm_eps)
    strides = (self.stride, self.stride)
    out = 4 * self.features

    shortcut = x
    y = jax.nn.relu(norm(name="gn1")(x))
    if x.shape[-1] != out or self.stride != 1:
      shortcut = conv(out, (1, 1), strides, name="conv_proj")(y)
    y = conv(self.features, (1, 1), name="conv1")(y)
    y = jax.nn.relu(norm(name="gn2")(y))
    y = conv(self.features, (3, 3), strides, padding=((1, 1), (1, 1)), name="conv2")(y)
    y = jax.nn.relu(norm(name="gn3")(y))
    return shortcut + conv(out, (1, 1), name="conv3")(y)


class BitStage(nn.Module):
  """`num_units` units, the first of which has the stage's stride."""

  num_units: int
  features: int
  stride: int
  num_groups: int = 32
  weight_standardization: str = "bit"
  group_norm_eps: float = 1e-5
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c2"]:
    for unit in range(self.num_units):
      x = PreActivationUnit(
        self.features,
        self.stride if unit == 0 else 1,
        self.num_groups,
        self.weight_standardization,
        self.group_norm_eps,
        dtype=self.dtype,
        name=f"unit{unit + 1:02}",
      )(x)
    return x


class RootBlock(nn.Module):
  """7x7 convolution and max-pool, each of stride 2: no norm, since the units begin with one.

  The max-pool is padded with zeros and not with -inf, as the released weights were trained: a
  window at the border is at least 0.
  """

  width: int
  weight_standardization: str = "bit"
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, images: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c2"]:
    x = StdConv(
      self.width,
      (7, 7),
      (2, 2),
      padding=((3, 3), (3, 3)),
      use_bias=False,
      standardization=self.weight_standardization,
      dtype=self.dtype,
      name="conv_root",
    )(images)
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return nn.max_pool(x, (3, 3), strides=(2, 2))


class BitResNet(nn.Module):
  """BiT. Maps images [batch, height, width, channels] float32 to logits [batch, classes] float32.

  Takes images of any size.

  Attributes:
    num_classes: width of the head; 0 leaves the head out and returns the representation.
    num_units: residual units per stage; (3, 4, 6, 3) is R50.
    width_factor: multiplies all widths; "R50x3" has 3.
    num_groups: of every GroupNorm; each width must be a multiple of it.
    weight_standardization: which epsilon, one of resnet.STANDARDIZATION: "bit" in Google's weights,
      "timm" in timm's.
    group_norm_eps: 1e-5 in both.
    head_zeroinit: whether the head begins at zero, as for classes; a LiT's must not.
    dtype: of the convolutions; parameters, norms, pooling and logits stay float32.
  """

  num_classes: int = 1000
  num_units: tuple[int, ...] = (3, 4, 6, 3)
  width_factor: float = 1.0
  num_groups: int = 32
  weight_standardization: str = "bit"
  group_norm_eps: float = 1e-5
  head_zeroinit: bool = True
  dtype: Dtype = jnp.float32

  def pixels_per_token(self) -> tuple[int, int]:
    """Height and width of a position of the last stage in pixels of the image."""
    stride = 4 * 2 ** (len(self.num_units) - 1)
    return (stride, stride)

  @nn.compact
  def __call__(self, images: Float[Array, "b h w c"], *, train: bool = False) -> Array:
    check_images(self, images, "root_block/conv_root/kernel")
    del train  # Nothing here differs between training and evaluation.
    width = round(ROOT_WIDTH * self.width_factor)
    if width % self.num_groups:
      raise UserError(
        f"width_factor={self.width_factor} makes {width} channels, which is not a multiple of "
        f"num_groups={self.num_groups}; change one of them."
      )
    x = RootBlock(width, self.weight_standardization, dtype=self.dtype, name="root_block")(images)
    for stage, units in enumerate(self.num_units):
      x = BitStage(
        units,
        width * 2**stage,
        1 if stage == 0 else 2,
        self.num_groups,
        self.weight_standardization,
        self.group_norm_eps,
        dtype=self.dtype,
        name=f"block{stage + 1}",
      )(x)
      capture(self, "features", f"stage{stage}", x)

    norm = GroupNorm(self.num_groups, epsilon=self.group_norm_eps, name="norm-pre-head")
    x = jnp.mean(jax.nn.relu(norm(x)), axis=(1, 2))
    capture(self, "features", "representation", x)
    if self.num_classes:
      x = nn.Dense(self.num_classes, kernel_init=head_init(self.head_zeroinit), name="head")(x)
    return x
