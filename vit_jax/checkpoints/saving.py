# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""`save_checkpoint`: a model's parameters, with all that is needed to read them back the same."""

import dataclasses
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn

from vit_jax.checkpoints import (
  adapt,
  bit,
  grids,
  hf_models,
  huggingface,
  lit,
  npz,
  preprocessing,
  torch,
  torch_files,
)
from vit_jax.checkpoints import metadata as metadata_lib
from vit_jax.checkpoints.metadata import FORMAT, VERSION
from vit_jax.checkpoints.reading import NUMERICS
from vit_jax.errors import UserError, choose
from vit_jax.models import registry
from vit_jax.models.lit import TwoTowers
from vit_jax.models.mobilevit import MobileTransformer
from vit_jax.params import tree
from vit_jax.params.tree import Flat

logger = logging.getLogger(__name__)

FORMATS = ("npz", "timm", "hf")
# What readers are told of a model, in our metadata or in a config: not to be taken from a caller,
# who may have read it from another file.
SAID_BY_US = (
  *("format", "version", "model", "config", "digest", "fields", "told", "written_in"),
  *("window_size", "channel_order", "num_heads", "pooler_act", "classifier", *NUMERICS),
)
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
  image_size: int | tuple[int, int] | None = None,
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
    metadata: JSON values to keep beside ours (the model and all its fields), such as
      {"class_names": [...]}. "input" says how images are prepared, in the fields of
      preprocessing.to_metadata; what it leaves out is as for the registry's weights of that model.
    image_size: of the images that the model is for, pixels or (height, width). A position embedding
      does not tell the grid that it covers: without this, another program or another size may take
      it for a square one. "image_size" in `metadata` is the same.

  Raises:
    UserError: a suffix that is not the format's, a path that cannot be written, a size or class
      names that are not the model's, or something in the model that the format cannot hold; nothing
      is dropped.
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
  if not isinstance(metadata or {}, Mapping):
    raise UserError(f"metadata={metadata!r:.80} is no mapping; pass a dict of JSON values.")
  told = {key: value for key, value in (metadata or {}).items() if key not in SAID_BY_US}
  described = {**told, **describe(model, (metadata or {}).get("model"))}
  metadata_lib.check(described, "metadata")
  _check_class_names(model, described.get("class_names", ()))
  given = described.get("input", {})
  # The size of a crop may be a guess, which must not become that of a position embedding.
  crop = given.get("crop") if grids.is_free(_image_part(flat)) else None
  told = (image_size, described.pop("image_size", None), crop)
  size = checked_size(model, flat, next((size for size in told if size is not None), None))
  described |= {"image_size": [*size]} if size else {}
  name = (metadata or {}).get("model")
  usual = _usual_input(model, flat, name, size, tell=not given)
  if "crop" in given:
    usual.pop("resize", None)  # The size before the crop, which is the published one's.
  if given := {**usual, **given}:
    described["input"] = preprocessing.checked_metadata(
      given, adapt.input_channels(_image_part(flat))
    )
  if isinstance(model, TwoTowers) and "text" not in described:
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
    size = size or _size_for_hf(model, flat, described)
    if "input" not in described:
      raise UserError(
        "a Hugging Face folder says how images are prepared, which the registry does not know for "
        "this model; pass it as metadata={'input': ...}."
      )
    if grids.is_free(flat):
      described["image_size"] = [*size]
    channels = adapt.input_channels(flat)
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


def checked_size(model: nn.Module, flat: Mapping[str, Any], size: Any) -> tuple[int, int] | None:
  """The size of the images that a model is for, or None if nobody tells it.

  Args:
    model: the module.
    flat: its parameters.
    size: as the caller gives it; None where it is not known.

  Raises:
    UserError: the parameters are for another size.
  """
  image = _image_part(flat)
  slots = (grids.learned_tokens(image),)
  if size is None:
    # Rows and columns have a position of their own in a table of each.
    own = grids.grid_of(image, slots)[0] if grids.ROWS in image else None
    return own and _pixels(model, own)
  size = adapt.pair("image_size", size)
  if grids.fits(image, grids.of_size(model, size), slots) is None:
    raise UserError(
      f"image_size={size[0]}x{size[1]} is not the size that the model's position embedding is for; "
      "pass the size of the images that it was initialised or loaded with."
    )
  return size


def _image_part(flat: Mapping[str, Any]) -> Mapping[str, Any]:
  """The parameters of the image model: of two towers, the image tower's."""
  tower = {path[4:]: value for path, value in flat.items() if path.startswith("img/")}
  return tower or flat


def _check_class_names(model: nn.Module, names: Sequence[str]) -> None:
  classes = getattr(model, "num_classes", 0)
  if names and classes and len(names) != classes:
    raise UserError(
      f"{len(names)} class names do not go with a head of {classes} classes; pass a name for each."
    )


def _pixels(model: nn.Module, grid: tuple[int, int]) -> tuple[int, int]:
  height, width = model.pixels_per_token()
  return grid[0] * height, grid[1] * width


def _usual_input(
  model: nn.Module, flat: Flat, name: str | None, size: tuple[int, int] | None, *, tell: bool
) -> dict[str, Any]:
  """How images are prepared for the registry's weights of a model; {} if that cannot be its own.

  A model of other sizes, of which the caller does not say by what name it was made, has the
  ancestor's.
  """
  nearest = nearest_row(model, name)
  of_registry = nearest == name or _is_built_from(model, registry.get_entry(nearest))
  image = _image_part(flat)
  spec = registry.get_entry(nearest).input if of_registry else registry.InputSpec()
  channels, slots = adapt.input_channels(image) or spec.channels, (grids.learned_tokens(image),)
  if size is None:
    usual = adapt.pair("image_size", spec.image_size)
    size = usual if grids.fits(image, grids.of_size(model, usual), slots) is not None else None
  if size is None and (grid := grids.grid_of(image, slots)[0]):
    size = _pixels(model, grid)  # What `from_pretrained` takes it for, too.
  grey = channels == 1 and len({*zip(spec.mean, spec.std, strict=True)}) == 1
  if size is None or not (grey or channels == spec.channels):
    if tell:
      logger.info("The file does not say how images are prepared; pass metadata={'input': ...}.")
    return {}
  if grey:
    spec = dataclasses.replace(spec, channels=1, mean=spec.mean[:1], std=spec.std[:1])
  if tell and not of_registry:
    logger.info("Images are said to be prepared as the ancestor does; or pass metadata's 'input'.")
  return preprocessing.to_metadata(preprocessing.of_spec(spec, size))


def _size_for_hf(model: nn.Module, flat: Flat, described: Mapping[str, Any]) -> tuple[int, int]:
  """The size that `config.json` must name, where nobody tells it: the registry's, or a square's."""
  size = adapt.pair("image_size", registry.get_entry(described["model"]).input.image_size)
  slots = (grids.learned_tokens(flat),)
  if grids.fits(flat, grids.of_size(model, size), slots) is not None:
    return size
  grid, _ = grids.grid_of(flat, slots)
  if grid is None:
    raise UserError(
      "a Hugging Face folder names the size of the images, and the position embedding does not "
      "tell it; pass image_size=(height, width)."
    )
  size = _pixels(model, grid)
  logger.warning(
    "config.json says that the images are of %dx%d pixels, a square; pass image_size= if not.",
    *size,
  )
  return size


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


def describe(model: nn.Module, name: str | None = None) -> dict[str, Any]:
  """JSON metadata of a model: one of the registry, numerics, and all its fields.

  Args:
    model: the module.
    name: of the registry's model that it was made from; None takes the nearest.
  """
  fields = registry.fields_of(model)
  config = {key: value for key, value in fields.items() if _is_plain(value)}
  numerics = {key: config.pop(key) for key in NUMERICS if key in config}
  return {
    "format": FORMAT,
    "version": VERSION,
    "model": nearest_row(model, name),
    **numerics,
    "config": config,
  }


def nearest_row(model: nn.Module, name: str | None = None) -> str:
  """The name of the registry's model that has the fewest fields unlike this one's, or `name`."""
  rows = [name for name, entry in registry.MODELS.items() if type(model) is entry.module]
  if not rows:
    raise UserError(f"{type(model).__name__} is no model of the registry, and cannot be saved.")
  unlike = lambda name: len(registry.fields_of(model, registry.create_model(name)))
  exact = [name for name in rows if _is_built_from(model, registry.MODELS[name])]
  if name in (exact or rows):
    return name
  listed = [name for name in rows if registry.MODELS[name].listed]
  return (exact or sorted(listed, key=unlike))[0]


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
