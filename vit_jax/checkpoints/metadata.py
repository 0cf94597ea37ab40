# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What we write beside weights as JSON: its version, its digest, and types that readers rely on."""

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

from vit_jax import keys
from vit_jax.errors import UserError

# Version 1 did not name the model if its sizes were others than the registry's, and its image_size
# could be that of a square which was only guessed.
VERSION = 2
FORMAT = "vit_jax"
TYPES: Mapping[str, Any] = {
  "version": int,
  "model": str | None,
  **dict.fromkeys(("config", "fields", "input", "text"), dict),
  **dict.fromkeys(("layer_norm_eps", "group_norm_eps", "batch_norm_eps"), float),
  **dict.fromkeys(("activation", "weight_standardization", "final_norm"), str),
  "token_mixer": str | tuple[str, ...],
  "trained_windows": tuple[int, ...],
  "class_names": tuple[str, ...],
  "image_size": int | tuple[int, int],
}


def check(metadata: Mapping[str, Any], where: str) -> None:
  """Raises a UserError, which begins by `where`, unless all values are of their types."""
  for key, declared in TYPES.items():
    if key in metadata and not keys.fits(as_tuples(metadata[key]), declared):
      raise UserError(
        f"{where} has {key}={str(metadata[key])[:40]!r}, which is of another type than vit_jax "
        "writes; fetch or copy it again, or pass another."
      )


def encoded(metadata: Mapping[str, Any]) -> str:
  """Metadata as JSON, with a digest: a changed letter of it could mean other numbers."""
  try:
    metadata = json.loads(json.dumps(metadata))  # With the types that a reader will find.
  except (TypeError, ValueError) as error:
    raise UserError(f"metadata must be values of JSON: {error}.") from error
  return json.dumps({**metadata, "digest": _digest(metadata)}, sort_keys=True)


def _digest(metadata: Mapping[str, Any]) -> str:
  """The SHA-256 of all else in the metadata."""
  rest = {key: value for key, value in metadata.items() if key != "digest"}
  return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def decoded(text: bytes | str, path: str | os.PathLike) -> dict[str, Any]:
  """Our metadata from its JSON.

  Raises:
    UserError: it is damaged, which must not pass for weights without metadata; it is of a later
      version; or a value is of another type than we write.
  """
  try:
    found = json.loads(text)
  except (ValueError, RecursionError) as error:
    raise UserError(
      f"{path} is damaged: its metadata is no JSON; fetch or copy it again."
    ) from error
  if not isinstance(found, dict):
    raise UserError(
      f"{path} is damaged: its metadata is no object of JSON; fetch or copy it again."
    )
  check(found, f"{path} is damaged: its metadata")
  if found.get("version", VERSION) > VERSION:
    raise UserError(
      f"{path} was written by a later version of vit_jax; update this one to read it."
    )
  # The first version had no digest.
  digest = found.pop("digest", None if found.get("version") == 1 else "")
  if digest not in (None, _digest(found)):
    raise UserError(
      f"{path} is damaged: its metadata is not as vit_jax wrote it; fetch or copy it again."
    )
  return found


def as_tuples(value: Any) -> Any:
  """JSON's lists as the tuples that fields of a model hold."""
  if isinstance(value, Mapping):
    return {key: as_tuples(inner) for key, inner in value.items()}
  return tuple(map(as_tuples, value)) if isinstance(value, list) else value
