# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""`--config=FILE[:ARG] --config.KEY=VALUE`: a locked ConfigDict from a file and its overrides."""

import importlib.util
import logging
import pathlib

import ml_collections
from absl import flags
from ml_collections import config_dict, config_flags

from vit_jax.errors import UserError, nearest

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
  if asked.parent.name == "configs" and (folder / asked.name).is_file():
    if asked.parent.parts not in (("configs",), ("vit_jax", "configs")):
      log.info("there is no file %s; taking configs/%s of vit_jax", path, asked.name)
    return folder / asked.name
  others = ("__init__", "common", "inference_time")
  known = [f"configs/{p.name}" for p in sorted(folder.glob("*.py")) if p.stem not in others]
  raise UserError(f"there is no config file {path!r}; shipped ones are {', '.join(known)}.")


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

  Another `config.dataset` than the preset's replaces what belongs to the preset's: splits, class
  names, and of `pp` what `common.DATASET_KEYS` lists; the other hyperparameters stay. `epochs` and
  `total_steps`, and the same of the warm-up, replace each other.

  Raises:
    UserError: naming what is unknown or of the wrong type.
  """
  # absl wants --config before its overrides.
  files = [arg for arg in argv if arg.startswith("--config=")]
  if len(files) != 1:
    raise UserError("give one --config=FILE[:ARG], as in --config=configs/vit.py:b16,cifar10.")
  path, colon, arg = files[0].removeprefix("--config=").partition(":")
  file = f"--config={find_config(path)}{colon}{arg}"
  overrides = [arg for arg in argv if not arg.startswith("--config=")]
  for override in overrides:
    if not override.startswith("--config.") or "=" not in override:
      raise UserError(f"{override!r} is not understood; settings are --config.KEY=VALUE.")

  # The file alone first: its keys are needed to explain a wrong override.
  preset = _read([file])
  keys = known_keys(preset)
  for override in overrides:
    key = override.removeprefix("--config.").partition("=")[0]
    if key.split("[")[0] not in keys:
      hint = nearest(key, keys) or f"; {path} has {', '.join(keys)}."
      raise UserError(f"there is no config key {key!r}{hint}")
  config = _read([file, *overrides])

  changed = {override.partition("=")[0].removeprefix("--config.") for override in overrides}
  named = config.dataset.split(":")[0] if config.dataset else None  # A version is the same one.
  if preset.dataset is not None and named != preset.dataset:
    _replace_dataset(config, preset, changed)
  for steps, epochs in (("total_steps", "epochs"), ("warmup_steps", "warmup_epochs")):
    if steps in changed and epochs in changed:
      raise UserError(
        f"--config.{steps} and --config.{epochs} both say how long; leave one of them out."
      )
    if epochs in changed and steps in config:
      config[steps] = None
    if steps in changed and epochs in config:
      config[epochs] = None
  if changed & {"total_steps", "epochs"} and not changed & {"warmup_steps", "warmup_epochs"}:
    _shorten_warmup(config, preset)
  return config


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
  from vit_jax.configs import common

  usual, replaced = common.get_config(), []
  for key in common.DATASET_KEYS:
    *sections, name = key.split(".")
    section, default = config, usual
    for part in sections:
      section, default = section.get(part), default.get(part)
    typed = any(k == key or k.startswith((f"{key}.", f"{key}[")) for k in changed)
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


def _read(arguments: list[str]) -> ml_collections.ConfigDict:
  values = flags.FlagValues()
  argv = ["vit-jax", *arguments]
  config_flags.DEFINE_config_file(
    "config", None, "", flag_values=values, lock_config=True, sys_argv=argv
  )
  try:
    values(argv)
    return values.config
  except Exception as error:  # Whatever the config file raises arrives here, wrapped as text.
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
      chain.append(cause)
    ours = [cause for cause in chain if isinstance(cause, UserError)]
    if ours:
      raise ours[-1] from None
    lines = [line for line in str(error).splitlines() if line.strip()]
    shown = lines[0] if len(lines) == 1 else f"{lines[0]} {lines[-1]}"
    raise UserError(f"the config could not be read: {shown}") from error
