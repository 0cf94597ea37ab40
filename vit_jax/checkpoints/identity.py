# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What a name or a path stands for: a model of the registry, or a file that tells its model."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vit_jax.checkpoints import download, reading
from vit_jax.checkpoints.augreg import FILENAME
from vit_jax.errors import UserError, nearest
from vit_jax.models import registry


def is_path(source: str | os.PathLike) -> bool:
  """Whether `source` is a file, folder or address, as opposed to the name of a model.

  A model's name wins over a directory of that name, but not over a file: those end in a suffix.

  Raises:
    UserError: it is neither.
  """
  if not isinstance(source, str) or download.is_address(source):
    return True
  if source in {*registry.MODELS, *map(registry.augreg_name, registry.MODELS)}:
    return False
  if os.path.exists(os.path.expanduser(source)):
    return True
  try:
    registry.resolve_name(source)
  except UserError as error:
    if os.sep not in source and not Path(source).suffix:
      raise
    near = registry.called_elsewhere(source) or nearest(source, registry.MODELS) or "."
    raise UserError(f"{source} is neither a file or folder nor a model{near}") from error
  return False


def released(path: Path) -> registry.Entry | None:
  """The model that the name of a released file tells; None if it is no such name."""
  if path.suffix == ".npz" and (path.stem in registry.MODELS or FILENAME.fullmatch(path.stem)):
    return registry.get_entry(path.stem)
  for entry in registry.MODELS.values():
    if any(weights.url.endswith(f"/{path.name}") for weights in entry.weights):
      return entry
  return None


def model_of(path: Path, metadata: Mapping[str, Any]) -> str:
  """The name of the model that a file, folder or work directory is of.

  Args:
    path: of a local file or directory.
    metadata: as `reading.read_metadata` returned it.

  Raises:
    UserError: it does not tell, or tells a model that is not known.
  """
  if name := metadata.get("model"):
    if not isinstance(name, str) or name not in registry.MODELS:
      raise UserError(
        f"{path} says that it is of the model {name!r}, which is not known here"
        f"{nearest(str(name), registry.MODELS) or '; pass the name of a model.'}"
      )
    return name
  if not path.is_dir() and (entry := released(path)):
    return entry.name
  raise UserError(
    f"{path} does not tell which model it is of, as the files do that vit_jax writes; pass the "
    "name of the model beside it (`vit-jax models` lists them)."
  )


def resolve(name: str | os.PathLike | None, checkpoint: Any) -> tuple[str, Any]:
  """The model's name and its checkpoint, of which one may tell the other.

  Args:
    name: of a model; or, without a checkpoint, a path or address; or None.
    checkpoint: as `from_pretrained` takes it.

  Raises:
    UserError: as `is_path` and `model_of`.
  """
  if checkpoint is None and is_path(name):
    name, checkpoint = None, name
  for argument in (name, checkpoint):
    if not isinstance(argument, (str, os.PathLike, reading.Source, type(None))):
      raise UserError(f"{argument!r} is neither a model's name nor a path; pass one of them.")
  if name is None and checkpoint is None:
    raise UserError("neither a model nor a checkpoint is named; pass one of them.")
  if isinstance(checkpoint, reading.Source):
    return name or model_of(Path(checkpoint.origin), checkpoint.metadata), checkpoint
  if name is None:
    path = download.fetch(checkpoint)
    return model_of(path, reading.read_metadata(path)), checkpoint
  return name, checkpoint


def class_names(source: str | os.PathLike) -> tuple[str, ...] | None:
  """The names of a classifier's classes, in the order of its logits.

  Args:
    source: a file or folder that we or transformers wrote, the work directory of a run, an address,
      or the name of a model.

  Returns:
    None where they are not told, as by a model's name or the released files.

  Raises:
    UserError: there is no such file or model, or it is damaged.
  """
  if not is_path(source):
    return None
  names = reading.read_metadata(download.fetch(source)).get("class_names") or None
  return names and tuple(names)
