# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""`tokenizer_for`: how texts become tokens for given weights, as `preprocessing_for` for images."""

import hashlib
import os
from typing import Any

from vit_jax.checkpoints import download, reading
from vit_jax.data import text
from vit_jax.errors import UserError
from vit_jax.models import registry


def tokenizer_for(source: Any, vocabulary: str | os.PathLike | None = None) -> text.Tokenizer:
  """The tokenizer of a text tower; its vocabulary is fetched once, and cached like weights.

  Args:
    source: a model's name, a checkpoint that we wrote, or what has `tokenizer`, `vocabulary` and
      `max_len`, such as a `models.registry.TextSpec`.
    vocabulary: another file, by its path or address.

  Returns:
    A function from texts to int32 [texts, max_len].

  Raises:
    UserError: the source has no text tower, or its vocabulary cannot be had.
  """
  if isinstance(source, (str, os.PathLike)):
    source = _spec(source)
  path = vocabulary or source.vocabulary
  return text.make_tokenizer(source.tokenizer, path and download.fetch(path), source.max_len)


def digest(source: registry.TextSpec) -> str | None:
  """SHA-256 of the file of a tokenizer's vocabulary; None where it needs none."""
  if not source.vocabulary:
    return None
  with open(download.fetch(source.vocabulary), "rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def _spec(source: str | os.PathLike) -> registry.TextSpec:
  if source in registry.MODELS:
    if spec := registry.MODELS[source].text:
      return spec
    raise UserError(f"{source} has no text tower; the models with one are LiT's.")
  if stored := reading.read_metadata(download.fetch(source)).get("text"):
    return registry.TextSpec(**stored)
  raise UserError(f"{source} does not tell its tokenizer; pass the name of its model.")


def with_default(path: str | os.PathLike | None, name: str) -> registry.TextSpec:
  """What a checkpoint tells of its tokenizer, or else the registry for the model's name."""
  metadata = reading.read_metadata(path) if path else {}
  if stored := metadata.get("text"):
    return registry.TextSpec(**stored)
  if metadata:  # A file of ours, whose text tower is not the registry's.
    raise UserError(
      f"{path} does not tell its tokenizer; save it with "
      'metadata={"text": {"tokenizer": ..., "vocabulary": ..., "max_len": ...}}.'
    )
  return _spec(name)
