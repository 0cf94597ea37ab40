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
  """Resolves a config file: as it stands first, then among the shipped ones."""
  asked = pathlib.Path(path)
  if asked.is_file():
    return asked
  folder = shipped_configs()
  if asked.parts[:1] == ("configs",) and folder.joinpath(*asked.parts[1:]).is_file():
    return folder.joinpath(*asked.parts[1:])
  known = [f"configs/{p.name}" for p in sorted(folder.glob("*.py")) if p.stem[0] != "_"]
  known.remove("configs/common.py")
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

  An override of `config.dataset` alone on a preset also takes the new dataset's own splits, since
  the preset's belong to the preset's dataset; the hyperparameters stay.

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
  splits = ("train", "val", "test")
  if preset.dataset is not None and config.dataset != preset.dataset:
    for split in splits:
      if f"pp.{split}" not in changed and split in config.pp:
        config.pp[split] = None
    if "baseline" in config and "baseline" not in changed:
      config.baseline = None
    if "text" in config and "text.class_names" not in changed:
      config.text.class_names = None
    log.info(
      "dataset %s instead of the preset's %s: its own splits and classes, the preset's settings.",
      config.dataset,
      preset.dataset,
    )
  return config


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
