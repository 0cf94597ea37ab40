# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""`save_checkpoint`: a model's parameters, with all that is needed to read them back the same."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn

from vit_jax.checkpoints import (
  adapt,
  bit,
  hf_models,
  huggingface,
  lit,
  npz,
  preprocessing,
  torch,
  torch_files,
  tree,
)
from vit_jax.checkpoints.reading import NUMERICS
from vit_jax.errors import UserError
from vit_jax.models import registry
from vit_jax.models.layers import choose
from vit_jax.models.lit import TwoTowers
from vit_jax.models.mobilevit import MobileTransformer

FORMATS = ("npz", "timm", "hf")
# By a path that only such a tree begins with: to the names of the released files.
TO_RELEASED = (
  ("img/", lit.to_released),
  ("root_block/", bit.to_released),
  ("", npz.to_released),
)


def save_checkpoint(
  path: str | os.PathLike,
  model: nn.Module,
  variables: Mapping[str, Any],
  *,
  format: str | None = None,
  metadata: Mapping[str, Any] | None = None,
) -> None:
  """Writes a model's parameters with what is needed to read them back with the same numbers.

  "npz" is the official flat format in the numbering of the released files, which timm's own loader
  reads; "timm" a .safetensors file with timm's names; "hf" a folder that transformers'
  `from_pretrained` opens. Layers are written one by one even if the model scans over them. A file
  appears only when it is complete.

  Args:
    path: ends in .npz or .safetensors, or is the folder for "hf".
    model: the module that the parameters belong to.
    variables: {"params": ...} and, if the model has batch norms, "batch_stats", as from `init`,
      `from_pretrained` or training. In a file these are under "batch_stats/" (npz).
    format: one of FORMATS; None takes it from the suffix of the path, and no suffix means "hf".
    metadata: JSON values to keep beside ours (activation, eps, configuration), such as
      {"class_names": [...], "image_size": [224, 224]}. A grid of patches that is not square can
      only be resized later if "image_size" is there. "input" (preprocessing.to_metadata) says how
      images are prepared; default: as for the registry's weights of that model.

  Raises:
    UserError: a suffix that is not the format's, a path that cannot be written, or something in
      the model that the format cannot hold; nothing is dropped.
  """
  path = Path(path)
  format = format_of(path, format)
  if isinstance(model, TwoTowers) and format != "npz":
    raise UserError(
      "neither timm nor transformers has a model of these two towers; save an .npz file, or the "
      "image tower alone (model.img with variables['params']['img'])."
    )
  if "params" not in variables:
    raise UserError("variables hold no 'params'; pass what `init` or `from_pretrained` returned.")
  if hasattr(model, "batch_norm_eps") and tree.STATISTICS[:-1] not in variables:
    raise UserError(
      f"variables hold no {tree.STATISTICS[:-1]!r}, which this model's batch norms need; pass what "
      "`init` or `from_pretrained` returned, or a state's `variables`."
    )
  flat = tree.from_variables(variables)
  size = image_size(model, variables)
  described = {**describe(model), **({"image_size": [*size]} if size else {}), **(metadata or {})}
  if "input" not in described:
    settings = preprocessing.of_registry(described["model"], described.get("image_size"))
    described["input"] = preprocessing.to_metadata(settings)
  if isinstance(model, TwoTowers) and "text" not in described and described["model"]:
    usual = registry.create_model(described["model"]).txt
    if (usual.vocab_size, usual.max_len) == (model.txt.vocab_size, model.txt.max_len):
      described["text"] = dataclasses.asdict(registry.get_entry(described["model"]).text)
  if format == "npz":
    to_released = next(
      convert for start, convert in TO_RELEASED if any(path.startswith(start) for path in flat)
    )
    npz.write_npz(path, to_released(flat), described)
  elif format == "timm":
    _refuse_what_timm_lacks(model)
    torch_files.write_safetensors(path, torch.to_timm(flat), described)
  else:
    hf_models.of(model)  # Refuses first what it is not.
    if "image_size" not in described:
      if any(path.startswith("Transformer/posembed_input/") for path in flat):
        raise UserError('the grid is not square; pass metadata={"image_size": [height, width]}.')
      crop = described["input"]["crop"]
      described["image_size"] = [crop, crop] if isinstance(crop, int) else [*crop]
    size, channels = described["image_size"], adapt.input_channels(flat)
    files = {
      huggingface.CONFIG: hf_models.config_of(
        model, size, channels, described.get("class_names", ())
      ),
      huggingface.PREPROCESSOR: hf_models.preprocessor_of(model, described["input"]),
    }
    torch_files.write_folder(path, hf_models.to_hf(flat, model), files, described)


def format_of(path: Path, format: str | None) -> str:
  """The format for a path, given or by its suffix."""
  suffixes = {".npz": "npz", ".safetensors": "timm", "": "hf"}
  by_suffix = "hf" if path.is_dir() else suffixes.get(path.suffix)
  if format is not None:
    choose("format", format, dict.fromkeys(FORMATS))
    if by_suffix in (None, format) and (format == "hf" or by_suffix):
      return format
    ending = {"npz": "a file that ends in .npz", "timm": "a file that ends in .safetensors"}
    raise UserError(f"{path} is not {ending.get(format, 'a folder')}, as format={format!r} needs.")
  if by_suffix is None:
    raise UserError(
      f"{path} ends in neither .npz nor .safetensors, and is no folder; use one of them."
    )
  return by_suffix


def image_size(model: nn.Module, variables: Mapping[str, Any]) -> tuple[int, int] | None:
  """(height, width) that learned positions on a square grid are for; None if they don't tell."""
  params = variables["params"]
  grid, _ = adapt.grid_of(tree.from_tree(params.get("img", params)))
  if grid is None:
    return None
  height, width = model.pixels_per_token()
  return grid[0] * height, grid[1] * width


def _refuse_what_timm_lacks(model: nn.Module) -> None:
  embedding = getattr(model, "position_embedding", "learned_1d")
  if embedding not in ("learned_1d", "none"):
    raise UserError(
      f"timm's ViT has no position_embedding={embedding!r}; save an .npz file, which keeps it."
    )
  if isinstance(model, MobileTransformer):
    mobile = model.num_residuals[len(model.widths) - len(model.hidden_sizes) :]
    if {*mobile} != {1}:
      raise UserError(
        f"timm's MobileViT has no num_residuals={model.num_residuals!r}, only 1 in the last "
        f"{len(mobile)} stages; save an .npz file, which keeps it."
      )


def describe(model: nn.Module) -> dict[str, Any]:
  """JSON metadata of a model: its registry name where one fits, numerics, and all its fields."""
  fields = registry.fields_of(model)
  config = {key: value for key, value in fields.items() if _is_plain(value)}
  numerics = {key: config.pop(key) for key in NUMERICS if key in config}
  name = next((n for n, e in registry.MODELS.items() if _is_built_from(model, e)), None)
  return {"format": "vit_jax", "version": 1, "model": name, **numerics, "config": config}


def _is_plain(value: Any) -> bool:
  if isinstance(value, tuple):
    return all(_is_plain(v) for v in value)
  if isinstance(value, dict):  # A tower.
    return all(_is_plain(v) for v in value.values())
  return value is None or isinstance(value, (bool, int, float, str))


def _is_built_from(model: nn.Module, entry: registry.Entry) -> bool:
  if type(model) is not entry.module:
    return False
  return _holds(registry.fields_of(model), entry.config)


def _holds(fields: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
  """Whether fields, and those of towers, are as the registry has them; dropout does not count."""
  return all(
    _holds(fields[key], value) if isinstance(value, dict) else value == fields[key]
    for key, value in config.items()
    if "dropout" not in key
  )
