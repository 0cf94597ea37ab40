# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Finds models by name and builds them; their rows are in `entries.py`.

`create_model` is the only code that turns a row into a module.
"""

import fnmatch
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import numpy as np

from vit_jax.errors import UserError, nearest
from vit_jax.models import fields, timm_names
from vit_jax.models.entries import MODELS, TEXT_TOWERS, Entry
from vit_jax.models.entries import InputSpec as InputSpec
from vit_jax.models.entries import TextSpec as TextSpec
from vit_jax.models.fields import model_fields as model_fields
from vit_jax.models.fields import takes as takes
from vit_jax.models.weights import AUGREG, augreg_name


def resolve_name(name: str) -> str:
  """Canonical name of a model, from its own or AugReg's short name or full file name.

  "B_16" and "B_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.0-sd_0.0" are both "ViT-B_16".
  """
  if not isinstance(name, str):
    raise UserError(f"{name!r:.40} is no name of a model; pass a string, such as 'ViT-B_16'.")
  if name in MODELS:
    return name
  short = name.removesuffix(".npz").split("-")[0]
  for canonical in MODELS:
    if augreg_name(canonical) == short:
      return canonical
  known = (*MODELS, *AUGREG)
  hint = nearest(name, known) or "; `vit-jax models` lists them all."
  raise UserError(f"there is no model {name!r}{called_elsewhere(name) or hint}")


def called_elsewhere(name: str) -> str:
  """The end of a sentence on an unknown model, if timm or the Hub call one of ours so."""
  ours = timm_names.ours(name)
  return f"; here it is called {ours!r}." if ours else ""


def augreg_filename(name: str) -> str:
  """AugReg's file name, without ".npz", for a short name ("R_Ti_16"); a file name is kept.

  This is the recommendation of the ancestor's README; `checkpoints.augreg.resolve` asks AugReg's
  own index first.
  """
  short = augreg_name(name.removesuffix(".npz"))
  if "-" in short:
    return name.removesuffix(".npz")
  if short not in AUGREG:
    raise UserError(f"AugReg has no weights for {name!r}; it has {', '.join(AUGREG)}.")
  return AUGREG[short]


def get_entry(name: str) -> Entry:
  """The registry's row for a model. Raises UserError, with the nearest names, if there is none."""
  return MODELS[resolve_name(name)]


def list_models(pattern: str = "*", *, pretrained: bool = False) -> list[str]:
  """Names that match a shell pattern such as "*B_16*"; with `pretrained`, those with weights."""
  return [
    name
    for name, entry in MODELS.items()
    if entry.listed and fnmatch.fnmatchcase(name, pattern) and (entry.weights or not pretrained)
  ]


def field_types(entry: Entry, given: Mapping[str, Any]) -> dict[str, Any]:
  """The types of the fields of a model that a config may set, by path.

  Args:
    entry: of the model. `num_classes` is not among its fields, since the data set decides it.
    given: the config, whose towers may be others than the row's.

  Returns:
    "num_layers" -> int, and for the towers of a model "img.num_layers", "txt.name".
  """
  found = {}
  for field, hint in fields.types_of(entry.module).items():
    if not isinstance(entry.config.get(field), Mapping):
      found[field] = hint
      continue
    own = given.get(field)
    name = (own.get("name") if isinstance(own, Mapping) else None) or entry.config[field]["name"]
    found[f"{field}.name"] = str
    for inner, hint in fields.types_of(_tower_module(name)).items():
      found[f"{field}.{inner}"] = hint
  found.pop("num_classes", None)
  return found


def create_model(name: str, **overrides: Any) -> nn.Module:
  """Builds a model by name; keyword arguments override the registry's config by field name.

  Args:
    name: as in `list_models`, or AugReg's short name ("B_16").
    **overrides: fields of the module, e.g. num_classes=10, classifier="gap", dtype="bfloat16".
      `num_classes=None` means the registry's. A tower takes a mapping of its own fields,
      `img={"num_layers": 2}`, and with "name" it is another one: `img={"name": "Mixer-B_16"}`.

  Returns:
    A flax.linen.Module; `model.apply(variables, images, train=False)` gives logits.

  Raises:
    UserError: for an unknown name or field, with the nearest ones.
  """
  entry = get_entry(name)
  if overrides.get("num_classes", 0) is None:
    del overrides["num_classes"]
  return _build(entry.name, entry.module, entry.config, overrides)


def _build(
  name: str, module: type[nn.Module], config: Mapping[str, Any], overrides: Mapping[str, Any]
) -> nn.Module:
  _check_names(name, module, overrides)
  merged = {key: _plain(value) for key, value in {**config, **overrides}.items()}
  for key in merged:
    if isinstance(config.get(key), Mapping):
      merged[key] = _tower(key, config[key], overrides.get(key, {}))
  towers = {key for key, value in merged.items() if isinstance(value, nn.Module)}
  fields.check(name, module, {k: v for k, v in merged.items() if k not in towers})
  return module(**merged)


def check_fields(name: str, overrides: Mapping[str, Any]) -> None:
  """Refuses fields that a model does not have, and values that they never take.

  For a model whose other fields a file tells: what goes with what is seen when it is read.

  Raises:
    UserError: as `create_model`.
  """
  entry = get_entry(name)
  _check_names(entry.name, entry.module, overrides)
  towers = {key for key, value in entry.config.items() if isinstance(value, Mapping)}
  own = {key: _plain(value) for key, value in overrides.items() if key not in towers}
  fields.check_each(entry.name, entry.module, own)


def _check_names(name: str, module: type[nn.Module], overrides: Mapping[str, Any]) -> None:
  known = model_fields(module)
  for key in overrides:
    if key not in known:
      hint = nearest(key, known) or f"; it has {', '.join(known)}."
      raise UserError(f"{name} has no field {key!r}{hint}")


def _plain(value: Any) -> Any:
  """A value as a field has it: modules are hashed as static arguments of jit."""
  if isinstance(value, list):
    return tuple(value)
  return value.item() if isinstance(value, np.generic) else value


# What a row of LITS says of a tower beyond its name. Another tower keeps it where it can.
TOWER_FIELDS = ("num_classes", "head_zeroinit", "dropout_rate")


def tower_config(config: Mapping[str, Any], overrides: Any) -> dict[str, Any]:
  """The name and fields of a tower: the registry's, unless `overrides` names another one."""
  name = overrides.get("name", config["name"])
  if name != config["name"]:
    kept = {*TOWER_FIELDS} & {*model_fields(_tower_module(name))}
    config = {k: v for k, v in config.items() if k in kept}
  return {**config, **overrides}


def _tower_module(name: str) -> type[nn.Module]:
  return TEXT_TOWERS[name][0] if name in TEXT_TOWERS else get_entry(name).module


def _tower(field: str, config: Mapping[str, Any], overrides: Any) -> nn.Module:
  if isinstance(overrides, nn.Module):
    return overrides
  if not isinstance(overrides, Mapping) or not all(isinstance(key, str) for key in overrides):
    raise UserError(f"{field}={overrides!r} is no tower; pass its fields, as in {field}={{...}}.")
  name = overrides.get("name", config["name"])
  if field == "img" and get_entry(name).text:
    raise UserError(f"img={overrides} is a model of two towers itself; name an image model.")
  if field == "txt" and not (isinstance(name, str) and name in TEXT_TOWERS):
    return create_text_tower(**overrides)  # Refuses it, with the nearest.
  return (create_model if field == "img" else create_text_tower)(**tower_config(config, overrides))


def create_text_tower(name: str, **overrides: Any) -> nn.Module:
  """Builds a text tower by its name in TEXT_TOWERS; as `create_model`."""
  if not isinstance(name, str) or name not in TEXT_TOWERS:
    hint = nearest(str(name), TEXT_TOWERS) or f"; choose from {', '.join(TEXT_TOWERS)}."
    raise UserError(f"there is no text tower {name!r}{hint}")
  return _build(name, *TEXT_TOWERS[name], overrides)


def fields_of(model: nn.Module, usual: nn.Module | None = None) -> dict[str, Any]:
  """The fields of a model as `create_model` takes them; with `usual`, those that differ from its.

  Args:
    model: of a class of the registry.
    usual: another model of the same class.
  """
  found = {}
  for key in model_fields(type(model)):
    value = getattr(model, key)
    if isinstance(value, nn.Module):
      value = _tower_fields(value)
      if usual is not None and value == _tower_fields(getattr(usual, key)):
        continue
    elif usual is not None and value == getattr(usual, key):
      continue
    found[key] = np.dtype(value).name if key == "dtype" and value is not None else value
  return found


def _tower_fields(tower: nn.Module) -> dict[str, Any]:
  """A tower as the name that it differs least from, and what differs."""
  rows = {
    name: (row.module, row.config) for name, row in MODELS.items() if row.listed
  } | TEXT_TOWERS
  built = {n: _build(n, m, c, {}) for n, (m, c) in rows.items() if m is type(tower)}
  differing = {name: fields_of(tower, model) for name, model in built.items()}
  name = min(differing, key=lambda name: len({*differing[name]} - {*TOWER_FIELDS}))
  # A row of LITS may differ from the tower's own in these, so that they are always said.
  said = {key: getattr(tower, key) for key in TOWER_FIELDS if hasattr(tower, key)}
  return {"name": name, **said, **differing[name]}
