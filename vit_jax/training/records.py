# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""`metrics.jsonl`: a run's numbers, one JSON object a line."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from typing import Any

from etils import epath

from vit_jax.training.checkpointing import write_atomically

METRICS = "metrics.jsonl"
REWRITE_SECONDS = 30


class Records:
  """Appends to `metrics.jsonl`.

  A file in a bucket cannot be appended to; it is written anew every `REWRITE_SECONDS`.
  """

  def __init__(self, workdir: str | os.PathLike, last_step: int):
    """Goes on after `last_step`; what is there of later steps will be written again.

    So will tests, which are of the best step, that may lie before.
    """
    self._path = epath.Path(workdir) / METRICS
    self._lines = [
      json.dumps(record) + "\n"
      for record in read_metrics(workdir)
      if record.get("step", 0) <= last_step
      and not any(key.startswith(("test/", "test_raw/")) for key in record)
    ]
    self._in_bucket = "://" in os.fspath(self._path)
    self._rewrite()
    self._file = None if self._in_bucket else self._path.open("a")

  def write(self, record: Mapping[str, Any]) -> None:
    line = json.dumps(record) + "\n"
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
  """Reads `metrics.jsonl`; a last line that a crash cut short is left out."""
  path = epath.Path(workdir) / METRICS
  records = []
  for line in path.read_text().splitlines() if path.exists() else []:
    try:
      records.append(json.loads(line))
    except json.JSONDecodeError:
      continue
  return records
