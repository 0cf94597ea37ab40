# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Vision Transformers in JAX and Flax: official weights, fine-tuning, training and inspection.

The public names below are imported on first use, so `import vit_jax` itself is instant and loads
neither TensorFlow nor torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
  "class_names": "vit_jax.checkpoints.identity",
  "create_model": "vit_jax.models.registry",
  "extract_features": "vit_jax.models.features",
  "feature_strides": "vit_jax.models.features",
  "from_pretrained": "vit_jax.checkpoints.pretrained",
  "list_models": "vit_jax.models.registry",
  "preprocessing_for": "vit_jax.checkpoints.preprocessing",
  "save_checkpoint": "vit_jax.checkpoints.saving",
  "tokenizer_for": "vit_jax.checkpoints.vocabulary",
  "train_and_evaluate": "vit_jax.training.loop",
}

__all__ = [
  "class_names",
  "create_model",
  "extract_features",
  "feature_strides",
  "from_pretrained",
  "list_models",
  "preprocessing_for",
  "save_checkpoint",
  "tokenizer_for",
  "train_and_evaluate",
]

if TYPE_CHECKING:
  from vit_jax.checkpoints.identity import class_names
  from vit_jax.checkpoints.preprocessing import preprocessing_for
  from vit_jax.checkpoints.pretrained import from_pretrained
  from vit_jax.checkpoints.saving import save_checkpoint
  from vit_jax.checkpoints.vocabulary import tokenizer_for
  from vit_jax.models.features import extract_features, feature_strides
  from vit_jax.models.registry import create_model, list_models
  from vit_jax.training.loop import train_and_evaluate


def __getattr__(name: str) -> Any:
  if name not in _PUBLIC:
    raise AttributeError(f"module 'vit_jax' has no attribute {name!r}")
  value = getattr(importlib.import_module(_PUBLIC[name]), name)
  globals()[name] = value
  return value


def __dir__() -> list[str]:
  return [*globals(), *_PUBLIC]
