# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""PyTorch's names: tables of them, and one function a direction that applies any table."""

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from vit_jax.checkpoints.npz import renamed
from vit_jax.checkpoints.tree import Flat
from vit_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class How:
  """One torch tensor and the arrays of ours that it stands for.

  Attributes:
    to_ours: (tensor, number of our arrays, attention heads) -> our arrays.
    to_theirs: our arrays -> tensor.
  """

  to_ours: Callable[[np.ndarray, int, int], Sequence[np.ndarray]]
  to_theirs: Callable[[Sequence[np.ndarray]], np.ndarray]


def _transposed(axes: tuple[int, ...], x: np.ndarray) -> np.ndarray:
  # A tensor of another rank stays as it is: the comparison of shapes then tells of it.
  return x.transpose(axes) if x.ndim == len(axes) else x


def _reshaped(x: np.ndarray, *shape: int) -> np.ndarray:
  return x.reshape(shape) if x.size == np.prod(shape) else x


def _heads_out(tensor: np.ndarray, parts: int, heads: int) -> list[np.ndarray]:
  """[parts * dim, dim in] -> parts times [dim in, heads, dim head]; a bias without `dim in`."""
  width = tensor.shape[0] // (parts * heads)
  pieces = np.split(tensor, parts) if tensor.shape[0] % parts == 0 else [tensor] * parts
  return [_reshaped(p.T, *p.shape[1:], heads, width) for p in pieces]


def _heads_out_back(arrays: Sequence[np.ndarray]) -> np.ndarray:
  return np.concatenate([a.reshape(*a.shape[:-2], -1).T for a in arrays])


def _heads_in(tensor: np.ndarray, parts: int, heads: int) -> list[np.ndarray]:
  """[dim out, dim] -> [heads, dim head, dim out]."""
  del parts
  return [_reshaped(tensor.T, heads, tensor.shape[-1] // heads, tensor.shape[0])]


COPY = How(lambda x, *_: [x], lambda xs: xs[0])
LINEAR = How(
  lambda x, *_: [_transposed((1, 0), x)], lambda xs: _transposed((1, 0), xs[0])
)  # [out, in] <-> [in, out]
CONV = How(
  lambda x, *_: [_transposed((2, 3, 1, 0), x)], lambda xs: _transposed((3, 2, 0, 1), xs[0])
)  # OIHW <-> HWIO
HEADS_OUT = How(_heads_out, _heads_out_back)
HEADS_IN = How(_heads_in, lambda xs: xs[0].reshape(-1, xs[0].shape[-1]).T)

_BLOCK = "Transformer/encoderblock_{i}/"
_ATTENTION = _BLOCK + "MultiHeadDotProductAttention_0/"
_UNIT = "block{i+1}/unit{j+1}/"
_THEIR_UNIT = "patch_embed.backbone.stages.{i}.blocks.{j}."


def _norm(theirs: str, ours: str) -> list[tuple[str, str, How]]:
  return [(f"{theirs}.weight", f"{ours}/scale", COPY), (f"{theirs}.bias", f"{ours}/bias", COPY)]


def _dense(theirs: str, ours: str, how: How = LINEAR) -> list[tuple[str, str, How]]:
  return [(f"{theirs}.weight", f"{ours}/kernel", how), (f"{theirs}.bias", f"{ours}/bias", COPY)]


# (timm's name, our path or paths, how). {i} and {j} stand for a number, {i+1} for the one after it.
Table = list[tuple[str, str | tuple[str, ...], How]]

TIMM_TO_OURS: Table = [
  ("cls_token", "cls", COPY),
  ("pos_embed", "Transformer/posembed_input/pos_embedding", COPY),
  *_dense("patch_embed.proj", "embedding", CONV),
  *_norm("blocks.{i}.norm1", _BLOCK + "LayerNorm_0"),
  *(
    (f"blocks.{{i}}.attn.qkv.{theirs}", tuple(_ATTENTION + n for n in names), HEADS_OUT)
    for theirs, names in (
      ("weight", ("query/kernel", "key/kernel", "value/kernel")),
      ("bias", ("query/bias", "key/bias", "value/bias")),
    )
  ),
  *_dense("blocks.{i}.attn.proj", _ATTENTION + "out", HEADS_IN),
  *_norm("blocks.{i}.norm2", _BLOCK + "LayerNorm_1"),
  *_dense("blocks.{i}.mlp.fc1", _BLOCK + "MlpBlock_0/Dense_0"),
  *_dense("blocks.{i}.mlp.fc2", _BLOCK + "MlpBlock_0/Dense_1"),
  *_norm("norm", "Transformer/encoder_norm"),
  *_dense("head", "head"),
]

_POOL = "MAPHead_0/MultiHeadDotProductAttention_0/"
TIMM_MAP_TO_OURS: Table = [
  ("attn_pool.latent", "MAPHead_0/probe", COPY),
  ("attn_pool.q.weight", _POOL + "query/kernel", HEADS_OUT),
  ("attn_pool.q.bias", _POOL + "query/bias", HEADS_OUT),
  ("attn_pool.kv.weight", (_POOL + "key/kernel", _POOL + "value/kernel"), HEADS_OUT),
  ("attn_pool.kv.bias", (_POOL + "key/bias", _POOL + "value/bias"), HEADS_OUT),
  *_dense("attn_pool.proj", _POOL + "out", HEADS_IN),
  *_norm("attn_pool.norm", "MAPHead_0/LayerNorm_0"),
  *_dense("attn_pool.mlp.fc1", "MAPHead_0/MlpBlock_0/Dense_0"),
  *_dense("attn_pool.mlp.fc2", "MAPHead_0/MlpBlock_0/Dense_1"),
]

# A stem with stages is a ResNetV2 in timm; a root convolution alone is that module's `stem` itself.
TIMM_RESNET_TO_OURS: Table = [
  ("patch_embed.backbone.stem.conv.weight", "conv_root/kernel", CONV),
  *_norm("patch_embed.backbone.stem.norm", "gn_root"),
  *(
    row
    for n in (1, 2, 3)
    for row in [
      (f"{_THEIR_UNIT}conv{n}.weight", f"{_UNIT}conv{n}/kernel", CONV),
      *_norm(f"{_THEIR_UNIT}norm{n}", f"{_UNIT}gn{n}"),
    ]
  ),
  (f"{_THEIR_UNIT}downsample.conv.weight", f"{_UNIT}conv_proj/kernel", CONV),
  *_norm(f"{_THEIR_UNIT}downsample.norm", f"{_UNIT}gn_proj"),
]
TIMM_ROOT_TO_OURS: Table = [
  ("patch_embed.backbone.conv.weight", "conv_root/kernel", CONV),
  *_norm("patch_embed.backbone.norm", "gn_root"),
]
TIMM = TIMM_TO_OURS + TIMM_MAP_TO_OURS + TIMM_RESNET_TO_OURS + TIMM_ROOT_TO_OURS

# Hugging Face's ViT, without the "vit." that models with a head put before it. Its pooler is a
# dense layer with tanh on the class token: our `pre_logits`.
HF_TO_OURS: Table = [
  ("embeddings.cls_token", "cls", COPY),
  ("embeddings.position_embeddings", "Transformer/posembed_input/pos_embedding", COPY),
  *_dense("embeddings.patch_embeddings.projection", "embedding", CONV),
  *_norm("encoder.layer.{i}.layernorm_before", _BLOCK + "LayerNorm_0"),
  *(
    (f"encoder.layer.{{i}}.attention.attention.{part}.{theirs}", f"{_ATTENTION}{part}/{ours}", how)
    for part in ("query", "key", "value")
    for theirs, ours, how in (("weight", "kernel", HEADS_OUT), ("bias", "bias", HEADS_OUT))
  ),
  *_dense("encoder.layer.{i}.attention.output.dense", _ATTENTION + "out", HEADS_IN),
  *_norm("encoder.layer.{i}.layernorm_after", _BLOCK + "LayerNorm_1"),
  *_dense("encoder.layer.{i}.intermediate.dense", _BLOCK + "MlpBlock_0/Dense_0"),
  *_dense("encoder.layer.{i}.output.dense", _BLOCK + "MlpBlock_0/Dense_1"),
  *_norm("layernorm", "Transformer/encoder_norm"),
  *_dense("pooler.dense", "pre_logits"),
  *_dense("classifier", "head"),
]
# The modules of transformers 5 are named anew; its files keep the old names, state dicts do not.
HF_NEW_NAMES = [
  (r"^layers\.(\d+)\.attention\.o_proj\.", r"encoder.layer.\1.attention.output.dense."),
  (r"^layers\.(\d+)\.attention\.q_proj\.", r"encoder.layer.\1.attention.attention.query."),
  (r"^layers\.(\d+)\.attention\.k_proj\.", r"encoder.layer.\1.attention.attention.key."),
  (r"^layers\.(\d+)\.attention\.v_proj\.", r"encoder.layer.\1.attention.attention.value."),
  (r"^layers\.(\d+)\.mlp\.fc1\.", r"encoder.layer.\1.intermediate.dense."),
  (r"^layers\.(\d+)\.mlp\.fc2\.", r"encoder.layer.\1.output.dense."),
  (r"^layers\.(\d+)\.layernorm_", r"encoder.layer.\1.layernorm_"),
]

_TV_BLOCK = "encoder.layers.encoder_layer_{i}."
TORCHVISION_TO_OURS: Table = [
  ("class_token", "cls", COPY),
  ("encoder.pos_embedding", "Transformer/posembed_input/pos_embedding", COPY),
  *_dense("conv_proj", "embedding", CONV),
  *_norm(_TV_BLOCK + "ln_1", _BLOCK + "LayerNorm_0"),
  *(
    (
      f"{_TV_BLOCK}self_attention.in_proj_{leaf[0]}",
      tuple(f"{_ATTENTION}{part}/{leaf[1]}" for part in ("query", "key", "value")),
      HEADS_OUT,
    )
    for leaf in (("weight", "kernel"), ("bias", "bias"))
  ),
  *_dense(_TV_BLOCK + "self_attention.out_proj", _ATTENTION + "out", HEADS_IN),
  *_norm(_TV_BLOCK + "ln_2", _BLOCK + "LayerNorm_1"),
  *(
    row
    for first, second in (("mlp.0", "mlp.3"), ("mlp.linear_1", "mlp.linear_2"))  # new, before 0.12
    for row in (
      *_dense(_TV_BLOCK + first, _BLOCK + "MlpBlock_0/Dense_0"),
      *_dense(_TV_BLOCK + second, _BLOCK + "MlpBlock_0/Dense_1"),
    )
  ),
  *_norm("encoder.ln", "Transformer/encoder_norm"),
  *_dense("heads.pre_logits", "pre_logits"),
  *_dense("heads.head", "head"),
]

# Parts of a pretraining model that are not the image model: the decoder of masked images (MAE).
BESIDE = re.compile(r"^(decoder\.|decoder_|(\w+\.)?(embeddings\.)?mask_token$)")

# Names of timm's that have no counterpart, and why: a file with them is refused, never cut down.
NOT_OURS = [
  (re.compile(r"fc_norm\."), "timm's norm after pooling (fc_norm=True) has no counterpart here"),
  (re.compile(r"reg_token"), "register tokens have no counterpart here"),
  (re.compile(r"norm_pre\."), "a norm before the blocks has no counterpart here"),
  (re.compile(r"blocks\.\d+\.ls[12]\."), "layer scale has no counterpart here"),
]

# Where the numbers of a timm model come from if nothing else is said about a file with its names.
TIMM_NUMERICS = {
  "activation": "gelu",
  "layer_norm_eps": 1e-6,
  "weight_standardization": "timm",
  "group_norm_eps": 1e-5,
}
HF_NUMERICS = {"activation": "gelu", "layer_norm_eps": 1e-12}
TORCHVISION_NUMERICS = {"activation": "gelu", "layer_norm_eps": 1e-6}


@functools.cache
def _pattern(template: str) -> re.Pattern[str]:
  parts = re.split(r"\{(\w)(?:\+\d+)?\}", template)
  return re.compile(
    "".join(rf"(?P<{p}>\d+)" if n % 2 else re.escape(p) for n, p in enumerate(parts)) + "$"
  )


def _matched(template: str, name: str) -> dict[str, int] | None:
  """The numbers for which `template` is `name`, or None."""
  match = _pattern(template).match(name)
  offsets = dict(re.findall(r"\{(\w)(\+\d+)?\}", template))
  return match and {k: int(v) - int(offsets[k] or 0) for k, v in match.groupdict().items()}


def _filled(template: str, numbers: Mapping[str, int]) -> str:
  return re.sub(r"\{(\w)(\+\d+)?\}", lambda m: str(numbers[m[1]] + int(m[2] or 0)), template)


def _paths(ours: str | tuple[str, ...]) -> tuple[str, ...]:
  return (ours,) if isinstance(ours, str) else ours


def to_ours(state: Mapping[str, np.ndarray], table: Table, heads: int) -> tuple[Flat, list[str]]:
  """Applies a table to a torch state.

  Args:
    state: tensors by torch's names.
    table: rows (their name, our path or paths, how).
    heads: attention heads, which the names and shapes of a fused projection do not tell.

  Returns:
    Our arrays by path, and the names that no row of the table knows.
  """
  flat, unknown = {}, []
  for name, tensor in state.items():
    for theirs, ours, how in table:
      numbers = _matched(theirs, name)
      if numbers is not None:
        paths = _paths(ours)
        arrays = how.to_ours(tensor, len(paths), heads)
        flat.update((_filled(p, numbers), array) for p, array in zip(paths, arrays, strict=True))
        break
    else:
      unknown.append(f"{name} {tuple(tensor.shape)}")
  return flat, unknown


def to_theirs(flat: Mapping[str, np.ndarray], table: Table) -> tuple[Flat, list[str]]:
  """Applies a table backwards: tensors by torch's names, and our paths that it has no name for."""
  state, used = {}, set()
  for theirs, ours, how in table:
    first, *_ = paths = _paths(ours)
    for path in flat:
      numbers = _matched(first, path)
      if numbers is None:
        continue
      mine = [_filled(p, numbers) for p in paths]
      used.update(mine)
      state[_filled(theirs, numbers)] = np.ascontiguousarray(how.to_theirs([flat[p] for p in mine]))
  return state, [path for path in flat if path not in used]


def to_timm(flat: Mapping[str, np.ndarray]) -> Flat:
  """Our flat parameters under timm's names.

  Raises:
    UserError: the model has parameters that timm's ViT has no place for; nothing is dropped.
  """
  has_stages = any(path.startswith("block1/") for path in flat)
  stem = TIMM_RESNET_TO_OURS if has_stages else TIMM_ROOT_TO_OURS
  state, left = to_theirs(flat, TIMM_TO_OURS + TIMM_MAP_TO_OURS + stem)
  _refuse_left("timm's ViT", left)
  return state


def from_hf(state: Mapping[str, np.ndarray], heads: int) -> tuple[Flat, list[str]]:
  """Hugging Face's names, old and new, with and without their prefix, as `to_ours`."""
  bare = {re.sub(r"^(vit|deit)\.", "", name): tensor for name, tensor in state.items()}
  return to_ours(renamed(bare, HF_NEW_NAMES), HF_TO_OURS, heads)


def to_hf(flat: Mapping[str, np.ndarray]) -> Flat:
  """Our flat parameters under the names that transformers writes into files.

  With a head they are ViTForImageClassification's, else ViTModel's.

  Raises:
    UserError: the model has parameters that these have no place for; nothing is dropped.
  """
  state, left = to_theirs(flat, HF_TO_OURS)
  if "head/kernel" not in flat:
    _refuse_left("transformers' ViTModel", left)
    return state
  left += [path for path in flat if path.startswith("pre_logits/")]
  _refuse_left("transformers' ViTForImageClassification", left)
  return {n if n.startswith("classifier.") else f"vit.{n}": x for n, x in state.items()}


def _refuse_left(where: str, left: Sequence[str]) -> None:
  if left:
    raise UserError(
      f"{where} has no place for {', '.join(left)}; save an .npz file, which keeps everything."
    )
