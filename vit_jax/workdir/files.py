# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The small files of a work directory: written as a whole, and read with a reason if damaged."""

from __future__ import annotations

import contextlib
import json
import os
from typing import Any

from etils import epath


def write_atomically(path: epath.Path, content: str | bytes) -> None:
  """Writes a file such that a reader, also after a crash, sees the old or the new content.

  Without the calls of fsync a crash of the machine may leave an empty file, or one of zeros. A
  bucket, which replaces an object as a whole, needs none.
  """
  content = content.encode() if isinstance(content, str) else content
  temporary = path.parent / f"{path.name}.tmp"
  if "://" in os.fspath(path):
    temporary.write_bytes(content)
    temporary.replace(path)
    return
  with open(temporary, "wb") as file:
    file.write(content)
    file.flush()
    os.fsync(file.fileno())
  os.replace(temporary, path)
  with contextlib.suppress(OSError):  # Some systems cannot open or sync a directory.
    directory = os.open(path.parent, os.O_RDONLY)
    try:
      os.fsync(directory)
    finally:
      os.close(directory)


def read_object(path: epath.Path) -> dict[str, Any]:
  """Reads a JSON object.

  Raises:
    OSError: the file cannot be read.
    ValueError: it holds something else; the message says what, as in "it is empty".
  """
  content = path.read_bytes()
  if not content:
    raise ValueError("it is empty")
  if not content.strip(b"\0"):
    raise ValueError("it holds only zero bytes")
  return parse_object(content)


def parse_object(content: bytes) -> dict[str, Any]:
  """As `read_object`, of what a file or one of its lines holds."""
  try:
    value = json.loads(content.decode())
  except (ValueError, RecursionError) as error:
    raise ValueError(f"it is not JSON: {error}") from error
  if not isinstance(value, dict):
    raise ValueError(f"it holds {json.dumps(value):.40}, where a JSON object was expected")
  return value
