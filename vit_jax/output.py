# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What leaves the program as text: JSON that every parser reads, and names that fit a line."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

_SURROGATES = re.compile("[\ud800-\udfff]")
_UNPRINTABLE = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def to_json(value: Any, indent: int | None = None) -> str:
  """A value as JSON: NaN and infinity, which JSON does not have, become null.

  Half a surrogate pair, by which Python holds a byte of a file name that is not UTF-8, becomes
  "\\xe9": a parser may refuse it.

  Args:
    value: of the types that `json.dumps` takes.
    indent: see `json.dumps`.
  """
  return json.dumps(_plain(value), indent=indent, allow_nan=False)


def printable(text: str) -> str:
  """A text for one line: control characters and bytes that are not UTF-8 become "\\n", "\\xe9"."""
  return _UNPRINTABLE.sub(_escape, text)


def _plain(value: Any) -> Any:
  if isinstance(value, float):
    return value if math.isfinite(value) else None
  if isinstance(value, str):
    return _SURROGATES.sub(_escape, value)
  if isinstance(value, Mapping):
    return {_plain(k) if isinstance(k, str) else k: _plain(v) for k, v in value.items()}
  if isinstance(value, list | tuple):
    return [_plain(v) for v in value]
  return value


def _escape(match: re.Match) -> str:
  byte = ord(match[0]) - 0xDC00  # What `os.fsdecode` makes of a byte above 127.
  return f"\\x{byte:02x}" if 0x80 <= byte <= 0xFF else match[0].encode("unicode_escape").decode()
