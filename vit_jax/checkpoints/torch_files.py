# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""PyTorch's containers: `.safetensors`, pickled files, and folders of Hugging Face, sharded or not.

`.safetensors` files are read and written without torch; pickled files (`.pth`, `.pt`, `.bin`) are
read by torch with `weights_only=True`, so that no code in them runs.
"""

import contextlib
import json
import logging
import os
import pickle
import re
import struct
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from vit_jax.checkpoints.huggingface import read_json
from vit_jax.checkpoints.metadata import FORMAT, decoded, encoded
from vit_jax.checkpoints.npz import DAMAGED, atomic, members
from vit_jax.errors import UserError
from vit_jax.params.tree import Flat

logger = logging.getLogger(__name__)

METADATA = "vit_jax"  # Our JSON among a safetensors file's metadata.

# What torch.load raises for a damaged file, beside what zip archives do.
DAMAGED_PICKLE = (
  *(*DAMAGED, AttributeError, AssertionError, ImportError),
  *(pickle.UnpicklingError, struct.error, tarfile.TarError),
)


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
  with _opened(path) as file:
    state = {n: _tensor(file, n, path) for n in file.keys()} if tensors else {}  # noqa: SIM118
    metadata = file.metadata() or {}
  if METADATA in metadata:
    return state, decoded(metadata[METADATA], path)
  if any(f'"{FORMAT}"' in text for text in metadata.values()):
    raise UserError(f"{path} is damaged: its metadata has lost its name; fetch or copy it again.")
  return state, {}


def safetensors_names(path: str | os.PathLike) -> list[str]:
  """The names of a `.safetensors` file's tensors, none of which is read; raises as it does."""
  with _opened(path) as file:
    return list(file.keys())


@contextlib.contextmanager
def _opened(path: str | os.PathLike) -> Iterator[Any]:
  """An open safetensors file, whose errors are UserErrors."""
  try:
    with safetensors.safe_open(path, framework="numpy") as file:
      yield file
  except OSError as error:
    raise UserError(f"{path} cannot be read ({error}); pass a .safetensors file.") from error
  except safetensors.SafetensorError as error:
    raise UserError(
      f"{path} is truncated or not a safetensors file ({_line(error)}); fetch or copy it again."
    ) from error


def _tensor(file: Any, name: str, path: str | os.PathLike) -> np.ndarray:
  """One tensor of an open safetensors file."""
  try:
    return file.get_tensor(name)
  except (AttributeError, TypeError, ValueError, OverflowError, MemoryError) as error:
    raise UserError(
      f"{path} has a tensor {name!r} that NumPy cannot hold ({_line(error)}); save it in float32 "
      "or bfloat16."
    ) from error


def _line(error: Exception) -> str:
  """The first sentence of a library's message, which may quote a whole file."""
  return str(error).partition("\n")[0].partition(". ")[0][:200].rstrip(".")


# What the weights of a folder are called, the first that is there; an index, NAME.index.json, names
# the files that hold each tensor.
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_SHARD = {  # What an index may name: a file beside it of its own kind, and nothing elsewhere.
  "model.safetensors": re.compile(r"model[\w.-]*\.safetensors"),
  "pytorch_model.bin": re.compile(r"pytorch_model[\w.-]*\.bin"),
}
# All that transformers writes as weights, in half precision too; see `_older_weights`.
_DTYPE = r"(\.(fp16|bf16|fp32))?"
_WRITTEN = re.compile(
  rf"(?=model.*\.safetensors|pytorch_model.*\.bin)(?P<bin>pytorch_)?model{_DTYPE}"
  rf"(?P<shard>-\d+-of-\d+)?\.(safetensors|bin)(?P<index>\.index{_DTYPE}\.json)?"
)


def folder_weights(folder: Path) -> list[Path]:
  """The weight files of a Hugging Face folder, all of them if sharded; [] if it is none.

  Raises:
    UserError: a shard that the index names is missing or elsewhere, or the index is damaged.
  """
  for name in WEIGHTS:
    if (folder / name).is_file():
      return [folder / name]
    index = folder / f"{name}.index.json"
    if not index.is_file():
      continue
    shards = read_json(index).get("weight_map")
    is_table = isinstance(shards, dict) and all(isinstance(v, str) for v in shards.values())
    if not shards or not is_table:
      raise UserError(f"{index} is damaged: its weight_map names no files; fetch or copy it again.")
    elsewhere = [shard for shard in shards.values() if not _SHARD[name].fullmatch(shard)]
    if elsewhere:
      raise UserError(
        f"{index} is damaged: its weight_map names {elsewhere[0][:80]!r}, which is no weight file "
        "of this folder; fetch or copy it again."
      )
    files = [folder / shard for shard in sorted({*shards.values()})]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
      raise UserError(f"{index} names {', '.join(missing)}, missing in {folder}; fetch all shards.")
    return files
  return []


def read_folder(folder: Path) -> tuple[Flat, dict[str, Any]]:
  """Reads all weight files of a Hugging Face folder: tensors by name, and our metadata."""
  state, metadata = {}, {}
  for file in folder_weights(folder):
    tensors, found = (
      read_safetensors(file) if file.suffix == ".safetensors" else (read_pickled(file), {})
    )
    if twice := state.keys() & tensors.keys():
      raise UserError(
        f"{file} has {min(twice)!r}, and so has another shard; fetch all shards of one model again."
      )
    state |= tensors
    metadata |= found
  return state, metadata


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
    _check_sums(path)
    state = torch.load(path, map_location="cpu", weights_only=True)
  except FileNotFoundError as error:
    raise UserError(f"{path} does not exist; pass a PyTorch file.") from error
  except pickle.UnpicklingError as error:
    raise UserError(
      f"{path} holds other objects than tensors, or is damaged, and code in it is never run; "
      "save the model's state_dict() and pass that."
    ) from error
  except UserError:
    raise
  except DAMAGED_PICKLE as error:
    raise UserError(
      f"{path} is truncated or not a PyTorch file ({type(error).__name__}); fetch or copy it again."
    ) from error
  result = {}
  for key, tensor in _model_part(path, state).items():
    name = key.removeprefix("module.")  # Of torch.nn.DataParallel.
    if name in result:
      raise UserError(f"{path} has both {name!r} and 'module.{name}'; save the one that is meant.")
    try:
      # NumPy has no bfloat16.
      tensor = tensor.detach()
      result[name] = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    except (TypeError, RuntimeError) as error:  # Sparse, quantised, without data, of 8 bits, ...
      raise UserError(
        f"{path} has a tensor {key!r} that NumPy cannot hold ({_line(error)}); save it dense, in "
        "float32 or bfloat16."
      ) from error
  return result


def _check_sums(path: str | os.PathLike) -> None:
  """Refuses a zip archive with a damaged member; torch itself does not look at their sums."""
  if not zipfile.is_zipfile(path):  # Before torch 1.6, or cut, which torch tells.
    return
  with zipfile.ZipFile(path) as archive:
    # Sums are left out under torch.serialization.set_crc32_options(False).
    if any(info.CRC for info in members(archive, path)) and (name := archive.testzip()):
      raise UserError(f"{path} is damaged: {name!r} in it is not as written; fetch it again.")


def _model_part(path: str | os.PathLike, state: Any) -> dict[str, Any]:
  """The state dict within a training state."""
  import torch

  for _ in range(3):
    if not isinstance(state, dict):
      break
    if state and all(isinstance(value, torch.Tensor) for value in state.values()):
      if not all(isinstance(name, str) for name in state):
        break
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
  with atomic(Path(path)) as temporary:
    _write_safetensors(temporary, state, metadata)


def _write_safetensors(
  path: str, state: Mapping[str, np.ndarray], metadata: Mapping[str, Any] | None
) -> None:
  # "format" is what PyTorch's loaders ask for.
  texts = {"format": "pt", **({METADATA: encoded(metadata)} if metadata else {})}
  try:
    safetensors.numpy.save_file(dict(state), path, metadata=texts)
  except safetensors.SafetensorError as error:  # As which it tells a full disk.
    raise OSError(_line(error)) from error


def write_folder(
  folder: str | os.PathLike,
  state: Mapping[str, np.ndarray],
  files: Mapping[str, Mapping[str, Any]],
  metadata: Mapping[str, Any],
) -> None:
  """Writes a Hugging Face folder: JSON files by name, and the weights.

  All is written beside what is there, then the older weights are removed, of every container, and
  the new files take their names, the weights last: at no time are weights beside the config of
  another model, which would give wrong numbers. Files that are no weights stay, and so does all
  that an index names elsewhere.

  Raises:
    UserError: the folder cannot be made or written.
  """
  folder = Path(folder)
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(f"{folder} cannot be written ({error.strerror}).") from error
  with contextlib.ExitStack() as renamed:  # In the reverse of this order.
    _write_safetensors(renamed.enter_context(atomic(folder / WEIGHTS[0])), state, metadata)
    for name, content in files.items():
      temporary = renamed.enter_context(atomic(folder / name))
      Path(temporary).write_text(json.dumps(content, indent=2) + "\n")
    for old in _older_weights(folder):
      old.unlink()


def _older_weights(folder: Path) -> list[Path]:
  """The weight files and indexes in a folder, in the order in which they may be removed.

  What a reader would take first comes last, so that until then it takes nothing older for it.
  """
  found = [match for name in os.listdir(folder) if (match := _WRITTEN.fullmatch(name))]
  found.sort(key=lambda match: [not match[kind] for kind in ("bin", "index", "shard")])
  return [folder / match[0] for match in found]
