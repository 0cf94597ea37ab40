# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What the families share: patches, attention, MLP, the run through the blocks, captured values."""

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vit_jax.errors import UserError, choose

Dtype = Any


def gelu(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
  """x * P(normal <= x), the exact GELU (arXiv:1606.08415)."""
  if x.dtype.itemsize < 4:  # 1 + erf cancels in bfloat16, where erfc does not.
    return jax.nn.gelu(x, approximate=False)
  # As exact in float32 as with erfc, which takes 3.7 times as long with its gradient on CPU.
  return 0.5 * x * (1 + jax.lax.erf(x * math.sqrt(0.5)))


# Google's releases use the tanh approximation; timm, Hugging Face and DeiT the exact function.
# The same weights under the wrong one move the logits by 2.6e-4 relative.
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
  "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
  "gelu": gelu,
  "silu": jax.nn.silu,
}

# What is shorter than this (a vector), or deviates by less (the values that a norm sees), is
# normalised like everything else, but no gradient goes through it. The slope there is that of
# x / epsilon, up to 1e12, and that of a LayerNorm, 316 to 1e6, multiplies over the depth: a blank
# image, whose activations are zeros up to the head, had gradients of 1e21 in a MobileViT of two
# stages. Queries, embeddings and activations of networks that have learned anything are far longer.
SHORTEST = 1e-4


def directed(
  x: Float[Array, "*s k"], size: Float[Array, "*s k"], shortest: float
) -> Float[Array, "*s k"]:
  """Returns `x`; its gradient is zero where `size` is `shortest` or less."""
  return _gated(x, size > shortest)


@jax.custom_jvp
def _gated(x: Array, is_open: Array) -> Array:
  """Returns `x` itself, so that nothing is kept for the backward pass but where it is open."""
  del is_open
  return x


@_gated.defjvp
def _gated_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Any]) -> tuple[Array, Array]:
  (x, is_open), (tangent, _) = primals, tangents
  return x, tangent * is_open.astype(tangent.dtype)


def length(x: Float[Array, "*s k"]) -> Float[Array, "*s 1"]:
  """Euclidean length of vectors, of finite derivative at zero, where that of a root is infinite."""
  squares = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
  return jnp.sqrt(jnp.maximum(squares, jnp.finfo(x.dtype).tiny))


def varied(x: Array, axes: tuple[int, ...]) -> Array:
  """Returns `x`, whose gradient is zero where the values along `axes` are as good as constant."""
  exact = jax.lax.stop_gradient(x).astype(jnp.promote_types(x.dtype, jnp.float32))
  deviation = exact - jnp.mean(exact, axes, keepdims=True)
  return directed(x, jnp.mean(jnp.square(deviation), axes, keepdims=True), SHORTEST**2)


# Fast variance, E[x^2] - E[x]^2, cancels in float32 and alone moves a hybrid's logits by 2e-5.
# Without a dtype the norms compute in their parameters' float32, also for bfloat16 input.
class LayerNorm(nn.LayerNorm):
  """Flax's, over the last axis (arXiv:1607.06450); see SHORTEST."""

  use_fast_variance: bool = False

  def __call__(self, x: Float[Array, "*s d"]) -> Float[Array, "*s d"]:
    return super().__call__(varied(x, (-1,)))


class GroupNorm(nn.GroupNorm):
  """Flax's, over groups of channels and all positions (arXiv:1803.08494); see SHORTEST."""

  use_fast_variance: bool = False

  def __call__(self, x: Float[Array, "b ... c"]) -> Float[Array, "b ... c"]:
    channels = x.shape[-1]
    if channels % self.num_groups:
      raise UserError(
        f"{channels} channels are not a multiple of the group norm's {self.num_groups} groups; "
        "change the width."
      )
    groups = x.reshape(*x.shape[:-1], self.num_groups, channels // self.num_groups)
    groups = varied(groups, (*range(1, x.ndim - 1), x.ndim))
    return super().__call__(groups.reshape(x.shape))


class BatchNorm(nn.Module):
  """Normalises each channel over the batch and all positions (arXiv:1502.03167, algorithm 1).

  As in PyTorch the batch is normalised by its biased variance, while the running variance takes the
  unbiased one, n / (n - 1) times it, which flax's own does not. Statistics and the norm are float32
  also for bfloat16 input. Under jit over a mesh the batch is one array, so that its statistics are
  those of all devices' examples.

  Attributes:
    momentum: share of the batch in the running statistics, as PyTorch counts it.
    epsilon: added to the variance.
  """

  momentum: float = 0.1
  epsilon: float = 1e-5

  @nn.compact
  def __call__(self, x: Float[Array, "b ... c"], *, train: bool) -> Float[Array, "b ... c"]:
    """Normalises x [batch, ..., channels].

    Args:
      x: of any float dtype; the result is float32 at least.
      train: whether the statistics are those of this batch, and the running ones in the collection
        "batch_stats" follow, which must then be mutable; otherwise the running ones normalise.

    Raises:
      UserError: in training a channel has one value alone, which has no variance.
    """
    shape, axes = (x.shape[-1],), tuple(range(x.ndim - 1))
    mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
    var = self.variable("batch_stats", "var", jnp.ones, shape)
    scale = self.param("scale", nn.initializers.ones, shape)
    bias = self.param("bias", nn.initializers.zeros, shape)
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    if not train or self.is_initializing():
      return (x - mean.value) * (scale * jax.lax.rsqrt(var.value + self.epsilon)) + bias

    values = math.prod(x.shape[:-1])
    if values < 2:
      raise UserError(
        "batch norm cannot train on one value a channel, which has no variance; train with a batch "
        "of two examples or more, or with larger images."
      )
    x = varied(x, axes)
    batch_mean = jnp.mean(x, axes)
    batch_var = jnp.mean(jnp.square(x - batch_mean), axes)
    unbiased = batch_var * (values / (values - 1))
    mean.value = (1 - self.momentum) * mean.value + self.momentum * batch_mean
    var.value = (1 - self.momentum) * var.value + self.momentum * unbiased
    return (x - batch_mean) * (scale * jax.lax.rsqrt(batch_var + self.epsilon)) + bias


REMAT_POLICIES = {
  "none": None,
  "full": jax.checkpoint_policies.nothing_saveable,
  "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


def captures(module: nn.Module, collection: str) -> bool:
  """Whether the caller of `apply` asked for `collection` ("features" or "attention")."""
  return module.is_mutable_collection(collection) and not module.is_initializing()


def capture(module: nn.Module, collection: str, name: str, value: Array) -> None:
  """Stores `value` in `collection` if the caller asked for it; see models.features."""
  if captures(module, collection):
    module.sow(collection, name, value, init_fn=lambda: None, reduce_fn=lambda _, new: new)


class DropPath(nn.Module):
  """Stochastic depth (arXiv:1603.09382): drops the residual branch of whole examples.

  Takes its rate as an argument, which may be traced, because layers under `nn.scan` share one
  module and differ in their rate.
  """

  @nn.compact
  def __call__(self, x: Float[Array, "b ..."], rate: Any, *, train: bool) -> Float[Array, "b ..."]:
    if not train or rate is None:
      return x
    keep = 1.0 - rate
    mask_shape = (x.shape[0],) + (1,) * (x.ndim - 1)
    mask = jax.random.bernoulli(self.make_rng("dropout"), keep, mask_shape)
    return jnp.where(mask, x / jnp.asarray(keep, x.dtype), jnp.zeros_like(x))


class LayerScale(nn.Module):
  """A learned factor for each channel of a residual branch (arXiv:2103.17239, eq. 4)."""

  initial: float

  @nn.compact
  def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
    gamma = self.param("gamma", nn.initializers.constant(self.initial), (x.shape[-1],))
    return x * gamma.astype(x.dtype)


def apply_blocks(
  make: Callable[..., nn.Module],
  name: str,
  x: Float[Array, "b n d"],
  *,
  num_layers: int,
  drop_path_rate: float,
  remat: str,
  scan_layers: bool,
  train: bool,
) -> Float[Array, "b n d"]:
  """Applies blocks of one shape, one after the other, inside a module's compact method.

  Stochastic depth grows linearly from 0 in the first block to `drop_path_rate` in the last. With
  `scan_layers` the blocks' parameters are stacked on a leading axis under `name`, which keeps
  compile time flat in depth; outputs are the same from the same checkpoint, while initial values
  and dropout masks differ between the two for the same key.

  Args:
    make: makes a block of a given `name`; the block maps (x, drop_path_rate, train=...) to x.
    name: of the parameters: `{name}_{i}`, or `name` where they are stacked.
    x: tokens [batch, tokens, dim].
    num_layers: how many blocks.
    drop_path_rate: of the last block; 0 asks for no random numbers.
    remat: what is recomputed backwards, a key of REMAT_POLICIES.
    scan_layers: whether to compile one block and scan over the layers.
    train: whether dropout and stochastic depth act.
  """
  policy = choose("remat", remat, REMAT_POLICIES)
  apply = lambda block, x, rate: block(x, rate, train=train)
  if remat != "none":
    apply = nn.remat(apply, prevent_cse=not scan_layers, policy=policy)

  rates = jnp.linspace(0.0, drop_path_rate, num_layers) if drop_path_rate > 0 else None
  if scan_layers:
    scan = nn.scan(
      lambda block, x, rate: (apply(block, x, rate), None),
      variable_axes={"params": 0, "features": 0, "attention": 0},
      split_rngs={"params": True, "dropout": True},
      length=num_layers,
    )
    return scan(make(name=name), x, rates)[0]
  for layer in range(num_layers):
    x = apply(make(name=f"{name}_{layer}"), x, None if rates is None else rates[layer])
  return x


def computed_once(
  block: nn.Module, x: Float[Array, "b n d"], *, train: bool
) -> Float[Array, "b n d"]:
  """Returns `x`; in training on CPU, it and its gradient are computed once and kept.

  The gradient of a residual stream is a sum over all later layers. XLA's CPU compiler takes such
  sums for cheap and fuses them into each of their uses: every layer adds up all layers behind it
  anew, a quarter of a training step of ViT-S/16 or more (benchmarks/speed.py). A fusion ends
  at a branch, so this is one, whose condition holds as long as the parameters are numbers.

  Args:
    block: the module in whose compact method this stands, after its "LayerNorm_0".
    x: residual stream.
    train: whether a gradient is taken; without one there is no branch.
  """
  if not train:
    return x
  # A parameter, since parameters are the same on all devices.
  anchor = block.get_variable("params", "LayerNorm_0")["scale"]
  branch = lambda x, anchor: jax.lax.cond(
    anchor[0] > -jnp.inf, lambda x: x, lambda x: jnp.full_like(x, jnp.nan), x
  )
  return jax.lax.platform_dependent(x, anchor, cpu=branch, default=lambda x, anchor: x)


def head_init(zero: bool) -> nn.initializers.Initializer:
  """A classifier begins at zero; an embedding, whose length is divided out, must not."""
  return nn.initializers.zeros if zero else nn.initializers.lecun_normal()


class Dense(nn.Dense):
  """A dense layer over the last axis, which sees all others as one.

  Where there are several, XLA's CPU compiler copies and transposes the gradient before it
  multiplies the inputs with it: a window attention with its gradient took 22% to 37% longer.
  """

  def __call__(self, x: Float[Array, "*s d"]) -> Float[Array, "*s k"]:
    flat = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])  # -1 is unknown in an empty batch.
    return super().__call__(flat).reshape(*x.shape[:-1], self.features)


class MlpBlock(nn.Module):
  """Two dense layers with the activation between. Maps [batch, tokens, dim] to the same shape."""

  mlp_dim: int
  dropout_rate: float = 0.0
  activation: str = "gelu_tanh"
  kernel_init: nn.initializers.Initializer = nn.initializers.xavier_uniform()
  bias_init: nn.initializers.Initializer = nn.initializers.normal(stddev=1e-6)
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "b n d"], *, train: bool) -> Float[Array, "b n d"]:
    dense = functools.partial(
      Dense, dtype=self.dtype, kernel_init=self.kernel_init, bias_init=self.bias_init
    )
    activation = choose("activation", self.activation, ACTIVATIONS)
    y = activation(dense(self.mlp_dim, name="Dense_0")(x))
    y = nn.Dropout(self.dropout_rate)(y, deterministic=not train)
    y = dense(x.shape[-1], name="Dense_1")(y)
    return nn.Dropout(self.dropout_rate)(y, deterministic=not train)


def attention_weights(
  query: Float[Array, "*b h n k"],
  key: Float[Array, "*b h m k"],
  bias: Array | None,
  mask: Array | None = None,
) -> Float[Array, "*b h n m"]:
  """softmax(q k^T / sqrt(k) + bias + mask), eq. 6 of arXiv:2010.11929, in at least float32."""
  logits = jnp.einsum(
    "...nk,...mk->...nm",
    query * jnp.asarray(1 / math.sqrt(query.shape[-1]), query.dtype),
    key,
    preferred_element_type=jnp.promote_types(query.dtype, jnp.float32),
  )
  for addend in (bias, mask):
    logits = logits if addend is None else logits + addend
  return jax.nn.softmax(logits, axis=-1)


def attend_by_matmul(query: Array, key: Array, value: Array, bias: Array | None) -> Array:
  """Attention [batch, tokens, heads, width] by two matrix products with the heads in front."""
  query, key, value = (jnp.swapaxes(x, 1, 2) for x in (query, key, value))
  weights = attention_weights(query, key, bias).astype(value.dtype)
  return jnp.swapaxes(jnp.einsum("bhnm,bhmk->bhnk", weights, value), 1, 2)


def attend(
  query: Float[Array, "b n h k"],
  key: Float[Array, "b m h k"],
  value: Float[Array, "b m h k"],
  bias: Float[Array, "#b h n m"] | None = None,
) -> Float[Array, "b n h k"]:
  """Attention without materialised weights where the backend can do so.

  On CPU heads-first matrix products are the fastest way (benchmarks/attention.py), so the path is
  chosen per platform, at lowering: a program compiled ahead of time for a TPU on a CPU machine gets
  the TPU's path.
  """
  if bias is None:
    return jax.lax.platform_dependent(
      query,
      key,
      value,
      cpu=functools.partial(attend_by_matmul, bias=None),
      default=jax.nn.dot_product_attention,
    )
  return jax.lax.platform_dependent(
    query, key, value, bias, cpu=attend_by_matmul, default=jax.nn.dot_product_attention
  )


class Attention(nn.Module):
  """Multi-head attention, appendix A of arXiv:2010.11929, with the official parameter names.

  Maps queries [batch, tokens, dim] (and, for cross-attention, other keys and values
  [batch, others, dim]) to [batch, tokens, dim]. The weights [batch, heads, tokens, others] are
  captured in the collection "attention" when that is mutable, and only then kept.
  """

  num_heads: int
  dropout_rate: float = 0.0
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "b n d"],
    context: Float[Array, "b m d"] | None = None,
    bias: Float[Array, "#b h n m"] | None = None,
    *,
    train: bool,
  ) -> Float[Array, "b n d"]:
    dim = x.shape[-1]
    if dim % self.num_heads:
      raise UserError(f"hidden_size={dim} is not a multiple of num_heads={self.num_heads}.")
    dense = functools.partial(
      nn.DenseGeneral, dtype=self.dtype, kernel_init=nn.initializers.xavier_uniform()
    )
    project = functools.partial(dense, features=(self.num_heads, dim // self.num_heads))
    context = x if context is None else context
    query = project(name="query")(x)
    key = project(name="key")(context)
    value = project(name="value")(context)

    drop = train and self.dropout_rate > 0
    if drop or captures(self, "attention"):
      weights = attention_weights(jnp.swapaxes(query, 1, 2), jnp.swapaxes(key, 1, 2), bias)
      capture(self, "attention", "weights", weights)
      weights = nn.Dropout(self.dropout_rate)(weights, deterministic=not train)
      y = jnp.einsum("bhnm,bmhk->bnhk", weights.astype(value.dtype), value)
    else:
      y = attend(query, key, value, bias)
    return dense(features=dim, axis=(-2, -1), name="out")(y)


def _given(name: str, x: Array, expected: str) -> str:
  """The beginning of a sentence on a wrong input."""
  shape = ", ".join(map(str, jnp.shape(x)))
  return f"{name} have shape [{shape}] and dtype {x.dtype}, but the model takes {expected}; "


def check_images(model: nn.Module, images: Float[Array, "b h w c"], kernel: str) -> None:
  """What every image model begins with: refuses what is no batch of images for its parameters.

  Looks at shapes alone, so that it costs nothing under jit; the batch may be of 0 images or
  symbolic (`jax.export`).

  Args:
    model: the module, in whose compact method this stands.
    images: what it was called with.
    kernel: path of the parameter that sees the images first, [..., channels, features].

  Raises:
    UserError: `images` has no batch axis, is [batch, channels, height, width], has no pixels or
      another number of channels than the parameters, or is not of floating point numbers.
  """
  given = _given("images", images, "float [batch, height, width, channels]")
  if images.ndim != 4:
    advice = "pass images[None] for a single one" if images.ndim == 3 else "reshape them"
    raise UserError(f"{given}{advice}.")
  if not jnp.issubdtype(images.dtype, jnp.floating):
    raise UserError(
      f"{given}normalise them as the weights expect, (images / 255 - mean) / std, which "
      "vit_jax.preprocessing_for(name) does."
    )
  first = model.variables.get("params", {})  # Empty while they are being initialised.
  for part in kernel.split("/"):
    first = first.get(part, {})
  channels = first.shape[-2] if hasattr(first, "shape") else None
  _, *sides, last = images.shape
  known = (channels,) if channels else (1, 3)
  if last not in known and sides[0] in known and (channels or last > 4):
    raise UserError(
      f"{given}they look like [batch, channels, height, width]: pass images.transpose(0, 2, 3, 1)."
    )
  if channels and last != channels:
    raise UserError(
      f"{given}these parameters are for {channels} channels, not {last}: convert the images, or "
      f"load the weights with from_pretrained(..., channels={last})."
    )
  if 0 in (*sides, last):
    raise UserError(f"{given}these have no pixels: pass images of 1 pixel or more.")


def check_tokens(tokens: Int[Array, "b n"]) -> None:
  """What every text tower begins with: raises a UserError for what is no batch of tokens."""
  given = _given("tokens", tokens, "integers [texts, length]")
  if tokens.ndim != 2:
    advice = "pass tokens[None] for a single text" if tokens.ndim == 1 else "reshape them"
    raise UserError(f"{given}{advice}.")
  if not jnp.issubdtype(tokens.dtype, jnp.integer):
    raise UserError(f"{given}pass what the tokenizer gives, int32.")
  if tokens.shape[1] == 0:
    raise UserError(f"{given}a text has one token at least: pad with the tokenizer's max_len.")


class ImageSizeError(UserError):
  """The parameters in use are for images of another size."""


def check_sized(module: nn.Module, name: str, shape: tuple[int, ...], what: str) -> None:
  """Raises an ImageSizeError if the parameter `name` in use has another shape than images need.

  Args:
    module: that has the parameter.
    name: of the parameter.
    shape: that it has where the model is initialised with these images.
    what: the images, as the sentence calls them.
  """
  value = module.get_variable("params", name) if module.has_variable("params", name) else None
  if value is not None and value.shape != shape:
    path = "/".join((*module.path, name))
    raise ImageSizeError(
      f"{what} need {path} of shape {shape}, but these parameters have {value.shape}, for another "
      "image size; resize the images to that size, or load the weights for this one with "
      "from_pretrained(..., image_size=...)."
    )


def patchify_check(image: tuple[int, int], patch: tuple[int, int]) -> None:
  """Raises a UserError if an image [height, width] is not a whole number of patches."""
  if min(patch) < 1:
    height, width = patch
    raise UserError(f"patch_size makes patches of {height}x{width} pixels; pass positive numbers.")
  for size, step in zip(image, patch, strict=True):
    if size % step or size == 0:
      low = size // step * step
      near = f"{low} or {low + step}" if low else f"{step}"
      raise UserError(f"image_size={size} is not a multiple of patch size {step}; use {near}.")


class PatchEmbedding(nn.Module):
  """Linear projection of flattened patches, eq. 1 of arXiv:2010.11929, as a strided convolution.

  Maps [batch, height, width, channels] to [batch, height / patch, width / patch, dim].
  """

  dim: int
  patch_size: tuple[int, int]
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, images: Float[Array, "b h w c"]) -> Float[Array, "b gh gw d"]:
    conv = nn.Conv(self.dim, self.patch_size, self.patch_size, padding="VALID", dtype=self.dtype)
    nn.share_scope(self, conv)
    return conv(images)
