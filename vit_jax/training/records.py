# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""`metrics.jsonl`: a run's numbers, one JSON object a line."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import time
from collections.abc import Mapping
from typing import Any

from etils import epath

from vit_jax.errors import UserError
from vit_jax.output import to_json
from vit_jax.workdir.files import parse_object, write_atomically

log = logging.getLogger(__name__)

METRICS = "metrics.jsonl"
REWRITE_SECONDS = 30


class Records:
  """Appends to `metrics.jsonl`.

  A file in a bucket cannot be appended to; it is written anew every `REWRITE_SECONDS`.
  """

  def __init__(self, workdir: str | os.PathLike, last_step: int):
    """Goes on after `last_step`; what is there of later steps will be written again.

    Test scores are written again too: they carry the best step, which may be earlier.

    Raises:
      UserError: the file cannot be written.
    """
    self._path = epath.Path(workdir) / METRICS
    self._in_bucket = "://" in os.fspath(self._path)
    try:
      self._lines = [
        to_json(record) + "\n"
        for record in read_metrics(workdir)
        if record["step"] <= last_step
        and not any(key.startswith(("test/", "test_raw/")) for key in record)
      ]
      self._rewrite()
      self._file = None if self._in_bucket else self._path.open("a")
    except OSError as error:
      if error.errno == errno.ENOSPC:
        raise
      raise UserError(
        f"{self._path} cannot be written ({error.strerror or error}); remove what is in its place, "
        "or use another workdir."
      ) from error

  def write(self, record: Mapping[str, Any]) -> None:
    """Adds a record; what is not finite becomes null."""
    line = to_json(record) + "\n"
    if self._file:
      self._file.write(line)
      self._file.flush()
      return
    self._lines.append(line)
    if time.monotonic() - self._rewritten > REWRITE_SECONDS:
      self._rewrite()

  def close(self) -> None:
    if self._file:
      self._file.close()
    else:
      self._rewrite()

  def _rewrite(self) -> None:
    text = "".join(self._lines)
    if self._in_bucket:  # Where a file is there as a whole or not at all.
      self._path.write_text(text)
    else:
      write_atomically(self._path, text)
    self._rewritten = time.monotonic()


def read_metrics(workdir: str | os.PathLike) -> list[dict[str, Any]]:
  """Reads `metrics.jsonl`. What is no record is left out and told, but for a last half line."""
  path = epath.Path(workdir) / METRICS
  *lines, half = path.read_bytes().split(b"\n") if path.exists() else [b""]
  records, problems = [], []
  for number, line in enumerate(lines, start=1):
    try:
      records.append(_record(line))
    except ValueError as error:
      problems.append(f"line {number}: {error}")
  with contextlib.suppress(ValueError):
    records.append(_record(half))
  if problems:
    log.warning(
      "%s has %d lines that are left out: they are no records (%s)",
      *(path, len(problems), problems[0]),
    )
  return records


def _record(line: bytes) -> dict[str, Any]:
  record = parse_object(line)
  is_number = {key: isinstance(value, int | float) for key, value in record.items()}
  if not is_number.get("step") or not all(
    is_number[key] or value is None for key, value in record.items()
  ):
    raise ValueError("it needs a step and numbers")
  return record
