# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The `config.json` beside PyTorch's weights: whose it is, and what it says of these weights."""

import logging
from collections.abc import Collection
from pathlib import Path
from typing import Any

from vit_jax.checkpoints import huggingface, timm_config

logger = logging.getLogger(__name__)


def read_config(
  folder: Path, names: Collection[str], scheme: str | None, *, owned: bool
) -> dict[str, Any]:
  """What `config.json` says, as our metadata; {} if there is none, or it is of something else.

  Args:
    folder: where the weights lie.
    names: of the weights.
    scheme: what these are, a key of reading.SCHEMES; None if they are unknown.
    owned: whether the weights are those of the folder, as `model.safetensors`, and not a file of
      any name that happens to lie beside a config.

  Raises:
    UserError: as `huggingface.read_config` and `timm_config.read_config`.
  """
  config = huggingface.read_json(folder / huggingface.CONFIG)
  if huggingface.is_config(config):
    if owned or huggingface.is_for(config, scheme):
      return huggingface.read_config(folder, scheme)
  elif timm_config.is_config(config) and scheme and scheme.startswith("timm"):
    return timm_config.read_config(folder, names)
  if config:
    logger.info("%s is not of the weights beside it; their names decide.", folder / "config.json")
  return {}
