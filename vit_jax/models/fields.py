# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What the fields of models take: types, ranges, choices, and what has to divide what."""

import dataclasses
import fnmatch
import functools
import typing
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import numpy as np

from vit_jax import keys
from vit_jax.errors import UserError, choose
from vit_jax.models import layers
from vit_jax.models.metaformer import FINAL_NORMS, TOKEN_MIXERS
from vit_jax.models.positions import POSITION_EMBEDDINGS
from vit_jax.models.resnet import STANDARDIZATION
from vit_jax.models.vit import CLASSIFIERS, HybridVisionTransformer

# Of matrix products; float64 is for comparisons, and needs jax.enable_x64.
DTYPES = ("float32", "bfloat16", "float16", "float64")

# By names of fields, of which the first that fits counts. What is no number is always in a range.
RANGES = (
  ("*_rate", keys.BELOW_1),
  ("*_eps", keys.POSITIVE),
  *(
    (field, keys.AT_LEAST_0)
    for field in ("num_classes", "final_width", "num_residuals", "trained_windows")
  ),
  *((field, keys.POSITIVE) for field in ("width_factor", "mlp_ratio", "expansion")),
  ("temperature_init", keys.POSITIVE),
  ("patch_size", keys.Range(1, words="be at least 1: pass positive numbers")),
  ("*_init", keys.FINITE),
  ("*", keys.AT_LEAST_1),
)

CHOICES = {
  "activation": layers.ACTIVATIONS,
  "classifier": CLASSIFIERS,
  "final_norm": FINAL_NORMS,
  "position_embedding": POSITION_EMBEDDINGS,
  "remat": layers.REMAT_POLICIES,
  "token_mixer": TOKEN_MIXERS,
  "weight_standardization": STANDARDIZATION,
}

# Which widths a model splits, and into how many parts: a field, or a number.
PARTS = (
  (nn.Module, "hidden_size", "num_heads"),
  (nn.Module, "hidden_sizes", "num_heads"),
  (nn.Module, "embed_dim", "head_dim"),
  (HybridVisionTransformer, "stem_width", layers.GroupNorm.num_groups),
)


@functools.cache
def model_fields(module: type[nn.Module]) -> tuple[str, ...]:
  """Names of the fields that `create_model` lets a caller override."""
  return tuple(
    field.name for field in dataclasses.fields(module) if field.name not in ("parent", "name")
  )


@functools.cache
def types_of(module: type[nn.Module]) -> Mapping[str, Any]:
  """The type of each field, that of `dtype` as it is written."""
  hints = typing.get_type_hints(module)
  return {name: str if name == "dtype" else hints[name] for name in model_fields(module)}


def takes(module: type[nn.Module], field: str, value: Any) -> bool:
  """Whether a value is of the type that a field of a model is declared with."""
  hint = types_of(module)[field]
  if field == "dtype":
    return value is None or (isinstance(value, str) and value in DTYPES)
  if isinstance(hint, type) and issubclass(hint, nn.Module):
    return isinstance(value, Mapping)  # A tower, by its own fields.
  return keys.fits(value, hint)


def check(name: str, module: type[nn.Module], given: Mapping[str, Any]) -> None:
  """Refuses fields that no model of this class can be built with.

  Args:
    name: of the model, for messages.
    module: its class.
    given: fields other than towers; the others have their defaults.

  Raises:
    UserError: naming a field, and what it takes.
  """
  check_each(name, module, given)
  fields = {field.name: field.default for field in dataclasses.fields(module)} | dict(given)
  for kind, field, parts in PARTS:
    if not issubclass(module, kind) or field not in fields or fields.get(parts, parts) is None:
      continue
    count = fields.get(parts, parts)
    if isinstance(count, str):
      continue  # The class splits nothing.
    for width in fields[field] if isinstance(fields[field], tuple) else (fields[field],):
      if width % count:
        by = f"{parts}={count}" if isinstance(parts, str) else count
        use = count * max(1, round(width / count))
        raise UserError(f"{name}: {field}={width} is not a multiple of {by}; use {use}.")


def check_each(name: str, module: type[nn.Module], given: Mapping[str, Any]) -> None:
  """As `check`, but of each field alone, where the others are not known yet."""
  for field, value in given.items():
    _check_field(f"{name}: {field}", module, field, value)


def _check_field(shown: str, module: type[nn.Module], field: str, value: Any) -> None:
  hint = types_of(module)[field]
  if field == "dtype":
    if value is not None and not _is_dtype(value):
      known = ", ".join(DTYPES)
      raise UserError(f"{shown}={value!r} is no type to compute in; choose one of {known}.")
    return
  if not keys.fits(value, hint):
    raise UserError(f"{shown}={value!r} is not {keys.name_of(hint)}.")
  for choice in (value if isinstance(value, tuple) else (value,)) if field in CHOICES else ():
    choose(shown, choice, CHOICES[field])
  values = next(values for pattern, values in RANGES if fnmatch.fnmatchcase(field, pattern))
  if value not in values:
    raise UserError(keys.out_of_range(shown, value, values))


def _is_dtype(value: Any) -> bool:
  if isinstance(value, str):
    return value in DTYPES
  return isinstance(value, type | np.dtype) and np.dtype(value).name in DTYPES
