# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The watch over a run that hangs, in one process; `test_watched_processes.py` has several."""

import logging
import threading
import time

import jax
import numpy as np
import pytest

from vit_jax.parallel import mesh as mesh_lib
from vit_jax.training import watchdog
from vit_jax.training.phases import Phases

COMPILE = "/jax/core/compile/backend_compile_duration"
TIMEOUT = 0.4


@pytest.fixture
def watched(tmp_path, monkeypatch):
  """Phases under watch, and an event that is set when the process would end."""
  ended, codes = threading.Event(), []
  with (
    Phases(time.monotonic()) as phases,
    watchdog.Watchdog(phases, tmp_path, TIMEOUT) as watching,
  ):
    end = lambda code: (codes.append(code), ended.set(), watching._closed.wait())
    monkeypatch.setattr(watchdog.os, "_exit", end)
    yield phases, ended
  assert codes == [69] * ended.is_set()


def hangs_here(event):
  event.wait(30)


def test_a_hang_is_written_down_and_then_ended(watched, tmp_path, caplog, capfd):
  phases, ended = watched
  caplog.set_level(logging.WARNING)
  began = time.monotonic()
  with phases.phase("evaluation", "the evaluation of val at step 7"):
    hangs_here(ended)
  assert ended.is_set() and time.monotonic() - began > 2 * TIMEOUT
  file = tmp_path / "stacks" / "process_0.txt"
  [line] = caplog.messages
  assert line.startswith(
    "nothing has finished for 0.4 s: process 0 waits for the evaluation of val at step 7; the "
    f"stacks of its threads are in {file}; after 0.4 s more it ends with exit code 69"
  )
  assert "for 0.8 s: process 0 waits for the evaluation of val" in capfd.readouterr().err
  text = file.read_text()
  assert text.count("process 0 waits for the evaluation of val at step 7\n") == 2
  assert text.count("in hangs_here\n") == 2 and " MainThread" in text and " watchdog" in text
  # One that begins to hang here is not taken for it.
  assert "in test_a_hang_is_written_down_and_then_ended" in text


def _steps(phases):
  phases.turn("steps", "the steps up to 8")


def _batches_of_an_evaluation(phases):
  mesh_lib.place_batch(np.zeros(jax.device_count(), np.float32), mesh_lib.make_mesh())


def _compilations(phases):
  if phases.compiling:
    jax.monitoring.record_event_duration_secs(COMPILE, 0.1)
  jax.monitoring.record_scalar(COMPILE, time.time())


@pytest.mark.parametrize("progress", [_steps, _batches_of_an_evaluation, _compilations])
def test_what_comes_to_an_end_is_progress(watched, caplog, progress):
  phases, ended = watched
  with phases.phase("evaluation", "an evaluation"):
    for _ in range(12):
      progress(phases)
      assert not ended.wait(TIMEOUT / 4)
  assert not caplog.messages


def test_a_long_compilation_is_not_a_hang(watched, caplog):
  phases, ended = watched
  with phases.phase("steps", "the steps up to 1"):
    jax.monitoring.record_scalar(COMPILE, time.time())
    assert not ended.wait(4 * TIMEOUT) and not caplog.messages
    jax.monitoring.record_event_duration_secs(COMPILE, 4 * TIMEOUT)
    assert ended.wait(30)  # But what comes after it may be one.


def test_what_has_no_parts_is_told_and_not_ended(watched, tmp_path, caplog):
  phases, ended = watched
  assert phases.doing == "the start of the run"
  assert not ended.wait(4 * TIMEOUT)
  [line] = caplog.messages
  assert "process 0 waits for the start of the run" in line and "exit code" not in line
  assert (tmp_path / "stacks" / "process_0.txt").exists()


def test_a_file_system_that_hangs_does_not_keep_the_run_from_ending(
  watched, tmp_path, monkeypatch, caplog
):
  phases, ended = watched
  monkeypatch.setattr(watchdog, "ATTEMPT_SECONDS", 0.1)
  monkeypatch.setattr(watchdog.epath.Path, "write_text", lambda *unused: ended.wait(30))
  with phases.phase("saving", "the save of step 7"):
    hangs_here(ended)
  assert ended.is_set() and "/stacks_" in caplog.text  # In the directory of temporary files.
