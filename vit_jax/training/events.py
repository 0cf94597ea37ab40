# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Scalars for TensorBoard."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

FLUSH_SECONDS = 30  # A flush waits for the disk.


class Events:
  """An event file, written at once.

  `tensorboardX.SummaryWriter` has a thread write instead, which a full disk ends; what is handed to
  it afterwards waits for ever.
  """

  def __init__(self, folder: str | os.PathLike, first_step: int):
    """Opens a new file in `folder`; scalars from `first_step` on in older files count no more."""
    from tensorboardX import event_file_writer, record_writer
    from tensorboardX.proto import event_pb2

    folder = os.fspath(folder)
    record_writer.directory_check(folder)  # It writes to gs:// and s3:// too.
    # Two files may be opened in one second.
    self._file = event_file_writer.EventsWriter(os.path.join(folder, "events"), f".{first_step}")
    self._event = event_pb2.Event
    start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    self._file.write_event(self._event(step=first_step, session_log=start))
    self._flushed = time.monotonic()

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Adds scalars by tag.

    Raises:
      OSError: the disk is full, for example.
    """
    from tensorboardX.proto import summary_pb2

    entries = [summary_pb2.Summary.Value(tag=tag, simple_value=v) for tag, v in values.items()]
    summary = summary_pb2.Summary(value=entries)
    self._file.write_event(self._event(step=step, wall_time=time.time(), summary=summary))
    if time.monotonic() - self._flushed > FLUSH_SECONDS:
      self._file.flush()
      self._flushed = time.monotonic()

  def close(self) -> None:
    self._file.close()
