# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""MetaFormer, "MetaFormer Is Actually What You Need for Vision" (arXiv:2111.11418): PoolFormer.

The paper's point is that a Transformer's block matters more than what mixes its tokens. So there is
one block, and the mixer is a field of it: `token_mixer="pooling"` is PoolFormer, and "attention",
"mlp" and "identity" are the paper's comparisons (section 4.4). Equation numbers are the paper's.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.errors import UserError, choose
from vit_jax.models.layers import (
  Attention,
  DropPath,
  Dtype,
  GroupNorm,
  LayerNorm,
  MlpBlock,
  capture,
  check_images,
  computed_once,
  head_init,
)

HEAD_WIDTH = 32  # Channels of an attention head, in every stage.


class Pooling(nn.Module):
  """Mean over the 3x3 neighbourhood, minus the token itself, eq. 4: the block adds that again."""

  dtype: Dtype = jnp.float32  # Of matrix products, and here are none.

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h w c"]:
    del train
    return nn.avg_pool(x, (3, 3), padding="SAME", count_include_pad=False) - x


class SelfAttention(nn.Module):
  """Attention over all positions, without position embeddings."""

  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h w c"]:
    attention = Attention(max(1, x.shape[-1] // HEAD_WIDTH), dtype=self.dtype)
    nn.share_scope(self, attention)
    batch, height, width, channels = x.shape
    tokens = x.reshape(batch, height * width, channels)
    return attention(tokens, train=train).reshape(x.shape)


class SpatialMlp(nn.Module):
  """One matrix over the positions, the same for all channels: the paper's spatial MLP.

  The image size of `init` is the only one.
  """

  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h w c"]:
    del train
    batch, height, width, channels = x.shape
    params = self.variables.get("params", {})  # Empty while they are being initialised.
    mixed = params["kernel"].shape[0] if params else height * width
    if mixed != height * width:
      raise UserError(
        f"an image of this size has {height}x{width} positions in a stage whose token_mixer='mlp' "
        f"is for {mixed}; resize the images to the size that it was made for."
      )
    dense = nn.Dense(mixed, use_bias=False, dtype=self.dtype)
    nn.share_scope(self, dense)
    y = dense(jnp.swapaxes(x.reshape(batch, mixed, channels), 1, 2))
    return jnp.swapaxes(y, 1, 2).reshape(x.shape)


class Identity(nn.Module):
  """No mixing at all: positions meet only where a stage begins."""

  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h w c"]:
    del train
    return x


TOKEN_MIXERS: dict[str, Callable[..., nn.Module]] = {
  "pooling": Pooling,
  "attention": SelfAttention,
  "mlp": SpatialMlp,
  "identity": Identity,
}


class MetaFormerBlock(nn.Module):
  """Mixes tokens, then channels, eq. 2 and 3. Maps [batch, height, width, channels] to the same.

  Its norm is the paper's modified layer norm, over positions and channels together: a group norm of
  one group.
  """

  token_mixer: str
  mlp_ratio: float = 4.0
  layer_scale_init: float = 1e-5
  activation: str = "gelu"
  group_norm_eps: float = 1e-5
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, "b h w c"], drop_path_rate: Any = None, *, train: bool
  ) -> Float[Array, "b h w c"]:
    channels = x.shape[-1]
    norm = functools.partial(GroupNorm, num_groups=1, epsilon=self.group_norm_eps)
    drop_path = functools.partial(DropPath(), rate=drop_path_rate, train=train)
    initial = nn.initializers.constant(self.layer_scale_init)
    scale = lambda name, y: self.param(name, initial, (channels,)) * y

    mixer = choose("token_mixer", self.token_mixer, TOKEN_MIXERS)
    y = norm(name="LayerNorm_0")(x)
    y = mixer(dtype=self.dtype, name="token_mixer")(y, train=train)
    x = computed_once(self, x + drop_path(scale("layer_scale_0", y)), train=train)

    y = norm(name="LayerNorm_1")(x)
    y = MlpBlock(
      round(channels * self.mlp_ratio),
      activation=self.activation,
      kernel_init=nn.initializers.normal(0.02),
      bias_init=nn.initializers.zeros,
      dtype=self.dtype,
      name="channel_mlp",
    )(y, train=train)
    return computed_once(self, x + drop_path(scale("layer_scale_1", y)), train=train)


class MetaFormer(nn.Module):
  """Maps images [batch, height, width, channels] float32 to logits [batch, classes] float32.

  Takes images of any size, unless a token mixer is "mlp".

  Attributes:
    num_classes: width of the head; 0 leaves the head out and returns the representation.
    depths: blocks of each stage.
    widths: channels of each stage.
    token_mixer: what mixes positions, a key of TOKEN_MIXERS; one for all stages, or one each. The
      paper's hybrids with attention also have position embeddings and a norm over channels alone,
      which are not here.
    mlp_ratio: width of the channel MLP, in widths of its stage.
    layer_scale_init: first value of the factors of each residual branch (arXiv:2103.17239).
    drop_path_rate: stochastic depth of the last block; grows linearly from 0 over all stages.
    final_norm: "before_pooling", over positions and channels as in the blocks (the paper,
      transformers), or "after_pooling", over the channels of the mean (timm).
    activation: "gelu" (erf), as all released weights have it, or "gelu_tanh".
    group_norm_eps: 1e-5 in all released weights.
    head_zeroinit: whether the head begins at zero, as for classes; a LiT's must not.
    dtype: of the matrix products and convolutions; parameters, norms and logits stay float32.
  """

  num_classes: int = 1000
  depths: tuple[int, ...] = (2, 2, 6, 2)
  widths: tuple[int, ...] = (64, 128, 320, 512)
  token_mixer: str | tuple[str, ...] = "pooling"
  mlp_ratio: float = 4.0
  layer_scale_init: float = 1e-5
  drop_path_rate: float = 0.0
  final_norm: str = "before_pooling"
  activation: str = "gelu"
  group_norm_eps: float = 1e-5
  head_zeroinit: bool = True
  dtype: Dtype = jnp.float32

  def pixels_per_token(self) -> tuple[int, int]:
    """Height and width of a position of the last stage in pixels of the image."""
    stride = 4 * 2 ** (len(self.depths) - 1)
    return (stride, stride)

  @nn.compact
  def __call__(self, images: Float[Array, "b h w c"], *, train: bool = False) -> Array:
    check_images(self, images, "input_embedding/kernel")
    rates = iter(jnp.linspace(0.0, self.drop_path_rate, sum(self.depths)))
    x = images
    for stage, (depth, width, mixer) in enumerate(self._stages()):
      # 7x7 of stride 4, then 3x3 of stride 2; the padding is the same on each side.
      side, stride, padding = (7, 4, 2) if stage == 0 else (3, 2, 1)
      x = nn.Conv(
        width,
        (side, side),
        (stride, stride),
        padding=((padding, padding), (padding, padding)),
        dtype=self.dtype,
        name="input_embedding" if stage == 0 else f"embedding_{stage}",
      )(x)
      for index in range(depth):
        rate = next(rates) if self.drop_path_rate > 0 else None
        x = MetaFormerBlock(
          mixer,
          self.mlp_ratio,
          self.layer_scale_init,
          self.activation,
          self.group_norm_eps,
          dtype=self.dtype,
          name=f"stage_{stage}_block_{index}",
        )(x, rate, train=train)
      capture(self, "features", f"stage{stage}", x)

    x = choose("final_norm", self.final_norm, FINAL_NORMS)(x, self.group_norm_eps)
    capture(self, "features", "representation", x)
    if self.num_classes:
      x = nn.Dense(self.num_classes, kernel_init=head_init(self.head_zeroinit), name="head")(x)
    return x

  def _stages(self) -> list[tuple[int, int, str]]:
    """Depth, width and token mixer of each stage."""
    count, mixers = len(self.depths), self.token_mixer
    mixers = (mixers,) * count if isinstance(mixers, str) else mixers
    for field, values in (("widths", self.widths), ("token_mixer", mixers)):
      if len(values) != count:
        raise UserError(
          f"{field}={values!r} is for {len(values)} stages, but depths={self.depths!r} is for "
          f"{count}; give one for each."
        )
    return list(zip(self.depths, self.widths, mixers, strict=True))


# Maps the last stage [batch, height, width, channels] to the representation [batch, channels].
FINAL_NORMS: dict[str, Callable[[Array, float], Array]] = {
  "before_pooling": lambda x, epsilon: jnp.mean(
    GroupNorm(num_groups=1, epsilon=epsilon, name="norm")(x), axis=(1, 2)
  ),
  # timm's own epsilon. The mean of a bfloat16 map is taken in float32 all the same.
  "after_pooling": lambda x, epsilon: LayerNorm(epsilon=1e-6, name="norm")(
    jnp.mean(x, axis=(1, 2), dtype=jnp.promote_types(x.dtype, jnp.float32))
  ),
}
