# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""`--config=FILE[:ARG] --config.KEY=VALUE`: a locked ConfigDict from a file and its overrides."""

import importlib.util
import logging
import pathlib
from collections.abc import Mapping
from typing import Any

import ml_collections
from ml_collections import config_dict

from vit_jax.cli import own_config
from vit_jax.configs import common
from vit_jax.errors import UserError, nearest
from vit_jax.keys import NONE, Key, closest, declared, flat
from vit_jax.training import plan, synonyms

log = logging.getLogger(__name__)


def shipped_configs() -> pathlib.Path:
  """Folder of the configs that came with the installed package."""
  spec = importlib.util.find_spec("vit_jax.configs")
  if spec is None or not spec.submodule_search_locations:
    raise UserError("the shipped configs are not installed; run `pip install -e .` again.")
  return pathlib.Path(next(iter(spec.submodule_search_locations)))


def find_config(path: str) -> pathlib.Path:
  """Resolves a config file: as it stands first, then among the shipped ones, by `configs/NAME.py`.

  Users of the ancestor type `$(pwd)/vit_jax/configs/NAME.py`, wherever they are.
  """
  asked = pathlib.Path(path)
  if asked.is_file():
    return asked
  folder = shipped_configs()
  ends = asked.parent.parts[-2:]
  if ends in (("configs",), ("vit_jax", "configs")) and (folder / asked.name).is_file():
    if asked.is_absolute():
      log.info("there is no file %s; taking configs/%s of vit_jax", path, asked.name)
    return folder / asked.name
  others = ("__init__", "common", "inference_time")
  known = [f"configs/{p.name}" for p in sorted(folder.glob("*.py")) if p.stem not in others]
  near = nearest(path, known) or f"; shipped ones are {', '.join(known)}."
  raise UserError(f"there is no config file {path!r}{near}")


def known_keys(config: ml_collections.ConfigDict, prefix: str = "") -> list[str]:
  """All keys of a config with their sections, as in "pp.crop"."""
  keys = []
  for key, value in config.items(preserve_field_references=True):
    value = value.get() if isinstance(value, config_dict.FieldReference) else value
    keys.append(prefix + key)
    if isinstance(value, ml_collections.ConfigDict):
      keys += known_keys(value, f"{prefix}{key}.")
  return keys


def parse(argv: list[str]) -> ml_collections.ConfigDict:
  """Parses `--config=FILE[:ARG]` and its overrides `--config.KEY=VALUE`, in any order.

  All keys of the plan can be set, whether the file names them or not, and of each the last value
  counts. `None`, `none` or nothing means none, where a key may be none. Another `config.dataset`
  than the preset's replaces what belongs to the preset's: splits, class names, and of `pp` what
  `common.DATASET_KEYS` lists; the other hyperparameters stay. `epochs` and `total_steps`, and the
  same of the warm-up, replace each other.

  Raises:
    UserError: naming what is unknown or of the wrong type.
  """
  files = [arg for arg in argv if arg.startswith("--config=")]
  if len(files) != 1:
    raise UserError("give one --config=FILE[:ARG], as in --config=configs/vit.py:b16,cifar10.")
  path, colon, arg = files[0].removeprefix("--config=").partition(":")
  overrides = {}
  for override in (arg for arg in argv if not arg.startswith("--config=")):
    key, is_setting, text = override.removeprefix("--config.").partition("=")
    if not override.startswith("--config.") or not is_setting:
      raise UserError(f"{override!r} is not understood; settings are --config.KEY=VALUE.")
    overrides[key] = text

  get_config = own_config.load(find_config(path))
  # Twice, since the one changes, and what the file computes from its other keys with it.
  preset, config = (own_config.call(get_config, path, *[arg] * bool(colon)) for _ in range(2))
  for key in sorted(overrides, key=_order):
    _set(config, key, overrides[key])

  changed, given = {*overrides}, {key for key, text in overrides.items() if text not in NONE}
  if preset.dataset is not None and config.dataset is not None:
    named = str(config.dataset).split(":")[0]  # A version is the same one.
    if named != preset.dataset:
      _replace_dataset(config, preset, changed)
  for steps, epochs in (("total_steps", "epochs"), ("warmup_steps", "warmup_epochs")):
    if steps in given and epochs in given:
      raise UserError(
        f"--config.{steps} and --config.{epochs} both say how long; leave one of them out."
      )
    if epochs in given:
      config[steps] = None
    if steps in given:
      config[epochs] = None
  if (changed - given) & {"warmup_steps", "warmup_epochs"} and not config.warmup_epochs:
    config.warmup_steps = config.warmup_steps or 0  # Where nothing is said it is 500.
  if given & {"total_steps", "epochs"} and not changed & {"warmup_steps", "warmup_epochs"}:
    _shorten_warmup(config, preset)
  return config.lock()


def _order(key: str) -> tuple[bool, bool, int]:
  """Sections before their keys, and the names of models before the fields, which follow them."""
  return "." in key, not (key.startswith("model.") and key.endswith(".name")), key.count(".")


def _set(config: ml_collections.ConfigDict, path: str, text: str) -> None:
  """Sets a key to what is written for it."""
  known, own = plan.declared_keys(config), known_keys(config)  # A file may have other keys.
  if path not in known and (path not in own or path.startswith("model.")):
    remedy = synonyms.in_our_words(path, known)
    if path in flat(plan.Plan):
      remedy = "only models of two towers read it: use configs/lit.py"
    end = f"; {remedy}." if remedy else closest(path, [*known, *own])
    raise UserError(f"there is no config key {path!r}{end}")
  section, [*sections, name] = config, path.split(".")
  for part in sections:
    section = section[part]
    if not isinstance(section, ml_collections.ConfigDict):
      raise UserError(f"config.{part} should be a ConfigDict of its own keys, but is {section!r}.")
  usual = section[name]
  is_section = path not in known and isinstance(usual, ml_collections.ConfigDict)
  try:
    value = (known.get(path) or _own_key(path, usual)).parse(text)
  except ValueError as error:
    such = [key for key in known if key.startswith(f"{path}.")]
    advice = f"; set its keys, such as --config.{such[0]}=VALUE" if is_section and such else ""
    raise UserError(f"--config.{path}={text} {error}{advice}.") from None
  if is_section or isinstance(value, Mapping):
    value = ml_collections.ConfigDict(value or {})
  with section.ignore_type(), section.unlocked():
    if isinstance(value, ml_collections.ConfigDict):
      del section[name]  # A reference would not let it become a section.
    section[name] = value
  if is_section or path == "model_or_filename" or path.endswith(".name"):
    common.complete(config)


def _own_key(path: str, usual: Any) -> Key:
  """How a section is read, or a key that only the file has."""
  if isinstance(usual, ml_collections.ConfigDict):
    sections = declared(plan.Plan)
    return Key(Mapping, nones=sections[path].nones if path in sections else ())
  return Key({int: float, type(None): Any}.get(type(usual), type(usual)))


def _shorten_warmup(config: ml_collections.ConfigDict, preset: ml_collections.ConfigDict) -> None:
  """Keeps the share of the preset's warm-up, where it does not fit or is not in the same unit."""
  length = {key: preset.get(key) for key in ("total_steps", "epochs") if preset.get(key)}
  warmup = {key: preset.get(key) for key in ("warmup_steps", "warmup_epochs") if preset.get(key)}
  if len(length) != 1 or len(warmup) != 1 or not {*warmup} <= {*config}:
    return
  [(unit, usual)], [(of_warmup, steps)] = length.items(), warmup.items()
  if (unit == "epochs") != (of_warmup == "warmup_epochs"):
    return
  total, epochs = config.get("total_steps"), config.get("epochs")
  if steps < (config.get(unit) or 0):
    return
  config[of_warmup] = None
  if total is not None:
    config.warmup_steps = round(steps / usual * total)
  else:
    config.warmup_epochs = steps / usual * epochs
  log.info("the warm-up keeps its share of the run, %.1f%%", 100 * steps / usual)


def _replace_dataset(
  config: ml_collections.ConfigDict, preset: ml_collections.ConfigDict, changed: set[str]
) -> None:
  """Takes out of a config what belongs to the preset's data set, unless the user has set it."""
  usual, replaced = common.get_config(), []
  for key in common.DATASET_KEYS:
    *sections, name = key.split(".")
    section, default = config, usual
    for part in sections:
      section, default = section.get(part), default.get(part)
    typed = any(
      k == key or f"{k}.".startswith(f"{key}.") or key.startswith(f"{k}.") for k in changed
    )
    if section is None or name not in section or typed:
      continue
    value = default.get(name) if default is not None else None
    if section[name] in (value, None) or (name == "eval_resize" and section[name] != "digit"):
      continue
    before = section[name].to_dict() if hasattr(section[name], "to_dict") else section[name]
    replaced.append(f"{key}={before}")
    with section.unlocked():
      del section[name]
      section[name] = value
  log.info(
    "the data set is %s instead of the preset's %s, so these of the preset's settings do not hold: "
    "%s; the others stay",
    *(config.dataset, preset.dataset, ", ".join(replaced) or "none"),
  )
