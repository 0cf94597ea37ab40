# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""PyTorch weights in and out: tables of names, and one function a direction that applies any table.

`.safetensors` files are read and written without torch; pickled files (`.pth`, `.pt`, `.bin`) are
read by torch with `weights_only=True`, so that no code in them runs.
"""

import dataclasses
import functools
import json
import logging
import os
import pickle
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from vit_jax.checkpoints.npz import atomic
from vit_jax.checkpoints.tree import Flat
from vit_jax.errors import UserError

logger = logging.getLogger(__name__)

METADATA = "vit_jax"  # Our JSON among a safetensors file's metadata.


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
  if left:
    raise UserError(
      f"timm's ViT has no place for {', '.join(left)}; save an .npz file, which keeps everything."
    )
  return state


def read_safetensors(
  path: str | os.PathLike, *, tensors: bool = True
) -> tuple[Flat, dict[str, Any]]:
  """Reads a `.safetensors` file: tensors by name, and our metadata ({} in files of others).

  Args:
    path: the file.
    tensors: whether to read the tensors at all.

  Raises:
    UserError: the file is missing, truncated or not a safetensors file.
  """
  try:
    with safetensors.safe_open(path, framework="numpy") as file:
      state = {name: file.get_tensor(name) for name in file.keys()} if tensors else {}  # noqa: SIM118
      metadata = file.metadata() or {}
  except OSError as error:
    raise UserError(f"{path} cannot be read ({error}); pass a .safetensors file.") from error
  except safetensors.SafetensorError as error:
    raise UserError(
      f"{path} is truncated or not a safetensors file ({error}); fetch or copy it again."
    ) from error
  try:
    ours = json.loads(metadata.get(METADATA, "{}"))
  except ValueError:
    ours = {}
  return state, ours if isinstance(ours, dict) else {}


def read_pickled(path: str | os.PathLike) -> Flat:
  """Reads a `.pth`, `.pt` or `.bin` file with torch, tensors only: code in the file never runs.

  A training state is accepted; its model part is found.

  Raises:
    UserError: torch is not installed, or the file is missing, damaged or holds other objects.
  """
  try:
    import torch
  except ImportError as error:
    raise UserError(
      f"{path} is a PyTorch file, and reading it needs torch; "
      "install it with `pip install 'vit_jax[torch]'`, or save the weights as .safetensors."
    ) from error
  try:
    state = torch.load(path, map_location="cpu", weights_only=True)
  except FileNotFoundError as error:
    raise UserError(f"{path} does not exist; pass a PyTorch file.") from error
  except pickle.UnpicklingError as error:
    raise UserError(
      f"{path} holds other objects than tensors, or is damaged, and code in it is never run; "
      "save the model's state_dict() and pass that."
    ) from error
  except Exception as error:  # torch raises many types for a damaged file.
    raise UserError(
      f"{path} is truncated or not a PyTorch file ({type(error).__name__}); fetch or copy it again."
    ) from error
  tensors = {n.removeprefix("module."): t.detach() for n, t in _model_part(path, state).items()}
  # NumPy has no bfloat16.
  return {n: (t.float() if t.dtype == torch.bfloat16 else t).numpy() for n, t in tensors.items()}


def _model_part(path: str | os.PathLike, state: Any) -> dict[str, Any]:
  """The state dict within a training state."""
  is_tensor = lambda x: hasattr(x, "numpy") and hasattr(x, "shape")
  for _ in range(3):
    if not isinstance(state, dict):
      break
    if state and all(is_tensor(v) for v in state.values()):
      return state
    inner = next(
      (k for k in ("state_dict", "model", "module") if isinstance(state.get(k), dict)), None
    )
    if inner is None:
      break
    logger.info("Read %r of the training state in %s.", inner, path)
    state = state[inner]
  raise UserError(f"{path} holds no state dict of tensors; save the model's state_dict().")


def write_safetensors(
  path: str | os.PathLike,
  state: Mapping[str, np.ndarray],
  metadata: Mapping[str, Any] | None = None,
) -> None:
  """Writes tensors by name and our metadata as JSON; the file appears only when complete."""
  # "format" is what PyTorch's loaders ask for.
  texts = {"format": "pt", **({METADATA: json.dumps(metadata)} if metadata else {})}
  with atomic(Path(path)) as temporary:
    safetensors.numpy.save_file(dict(state), temporary, metadata=texts)
