# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""PyTorch's containers: `.safetensors`, pickled files, and folders of Hugging Face, sharded or not.

`.safetensors` files are read and written without torch; pickled files (`.pth`, `.pt`, `.bin`) are
read by torch with `weights_only=True`, so that no code in them runs.
"""

import json
import logging
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from vit_jax.checkpoints.huggingface import read_json
from vit_jax.checkpoints.npz import atomic
from vit_jax.checkpoints.tree import Flat
from vit_jax.errors import UserError

logger = logging.getLogger(__name__)

METADATA = "vit_jax"  # Our JSON among a safetensors file's metadata.


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


def safetensors_names(path: str | os.PathLike) -> list[str]:
  """The names of a `.safetensors` file's tensors, none of which is read."""
  with safetensors.safe_open(path, framework="numpy") as file:
    return list(file.keys())


# What the weights of a folder are called; an index names the files that hold each tensor.
WEIGHTS = ("model.safetensors", "pytorch_model.bin")


def folder_weights(folder: Path) -> list[Path]:
  """The weight files of a Hugging Face folder, all of them if sharded; [] if it is none.

  Raises:
    UserError: a shard that the index names is missing, or the index is damaged.
  """
  for name in WEIGHTS:
    if (folder / name).is_file():
      return [folder / name]
    index = folder / f"{name}.index.json"
    shards = read_json(index).get("weight_map", {})
    if not shards:
      continue
    if not isinstance(shards, dict) or not all(isinstance(v, str) for v in shards.values()):
      raise UserError(f"{index} is damaged: its weight_map names no files; fetch or copy it again.")
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


def write_folder(
  folder: str | os.PathLike,
  state: Mapping[str, np.ndarray],
  files: Mapping[str, Mapping[str, Any]],
  metadata: Mapping[str, Any],
) -> None:
  """Writes a Hugging Face folder: JSON files by name, then the weights.

  The weights come last, and older ones are removed first: weights beside the config of another
  model would give wrong numbers.

  Raises:
    UserError: the folder cannot be made or written.
  """
  folder = Path(folder)
  try:
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder_weights(folder):
      old.unlink()
  except OSError as error:
    raise UserError(f"{folder} cannot be written ({error.strerror}).") from error
  for name, content in files.items():
    with atomic(folder / name) as temporary:
      Path(temporary).write_text(json.dumps(content, indent=2) + "\n")
  write_safetensors(folder / WEIGHTS[0], state, metadata)
