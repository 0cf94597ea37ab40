# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Runs a config file, a shipped one or a user's own, and says what is wrong with it."""

import importlib.machinery
import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_collections

from vit_jax.configs import common
from vit_jax.errors import UserError

_EXAMPLE = "vit_jax.configs.common.get_config()"

# What configs of google-research/vision_transformer import or call that has another name here.
_OF_THE_ANCESTOR = {
  "configs": "write `from vit_jax.configs import common`; for a model, "
  "`config.model = common.model_config('ViT-B_16')`",
  "models": "write `from vit_jax.configs import common` and `config.model = "
  "common.model_config('ViT-B_16')` instead",
  "common_fewshot": "remove it, since few-shot evaluation is not here",
  "with_dataset": "call `common.set_dataset(config, 'cifar10')`, or set `dataset` and `pp`",
}


def load(path: Path) -> Callable[..., Any]:
  """Returns the function `get_config` of a file.

  Raises:
    UserError: the file fails, or has no such function.
  """
  name = "vit_jax_config"
  loader = importlib.machinery.SourceFileLoader(name, str(path))
  module = importlib.util.module_from_spec(importlib.util.spec_from_loader(name, loader))
  sys.modules[name] = module  # As dataclasses in it need.
  _run(path, loader.exec_module, module)
  if not callable(getattr(module, "get_config", None)):
    raise UserError(
      f"{path} has no function get_config; define one that returns a ConfigDict, beginning with "
      f"`config = {_EXAMPLE}`."
    )
  return module.get_config


def call(get_config: Callable[..., Any], path: str, *arguments: str) -> ml_collections.ConfigDict:
  """Returns the config of a file, with all keys that there are.

  Args:
    get_config: the file's.
    path: of the file.
    *arguments: what follows the colon.

  Raises:
    UserError: it fails, or does not return a config.
  """
  try:
    inspect.signature(get_config).bind(*arguments)
  except TypeError:
    wrong = (
      f"its get_config takes no argument; write --config={path}"
      if arguments
      else f"its get_config takes an argument; write --config={path}:ARG"
    )
    raise UserError(f"{path}: {wrong}.") from None
  config = _run(path, get_config, *arguments)
  if isinstance(config, Mapping | ml_collections.FrozenConfigDict):
    config = _run(path, ml_collections.ConfigDict, config)
  if not isinstance(config, ml_collections.ConfigDict):
    forgot = "; did it forget to return the config?" if config is None else "."
    raise UserError(f"{path}: get_config returns {config!r:.60} instead of a ConfigDict{forgot}")
  return common.complete(config)


def _run(path: str | Path, function: Callable[..., Any], *arguments: Any) -> Any:
  """Calls a function of the file."""
  try:
    return function(*arguments)
  except UserError:
    raise
  except Exception as error:  # The file is a program of the user's, which may raise anything.
    if isinstance(error, SyntaxError):
      line = error.lineno
    else:
      calls = traceback.extract_tb(error.__traceback__)
      line = next((c.lineno for c in reversed(calls) if c.filename == str(path)), None)
    where = f"{path}, line {line}" if line else str(path)
    told = " ".join(str(error).split())
    words = [word.rpartition(".")[2] for word in re.findall(r"'([\w.]+)'", told)]
    remedy = next((_OF_THE_ANCESTOR[word] for word in words if word in _OF_THE_ANCESTOR), None)
    remedy = f"; {remedy}" if remedy else ""
    raise UserError(f"{where}: {type(error).__name__}: {told.rstrip('.')}{remedy}.") from error
