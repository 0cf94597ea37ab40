# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Where the time of a run goes: by a clock that the test sets."""

import threading
import time

import jax
import pytest
import tiny_run as tiny

from vit_jax.errors import Stopped
from vit_jax.training import goodput as goodput_lib
from vit_jax.training import phases as phases_lib
from vit_jax.training import results as results_lib
from vit_jax.training.loop import train_and_evaluate
from vit_jax.training.phases import Phases
from vit_jax.training.progress import Progress

COMPILE = "/jax/core/compile/backend_compile_duration"
TRACE = "/jax/core/compile/jaxpr_trace_duration"
BARRIER = "/jax/checkpoint/sync_global_devices_duration_sec"


@pytest.fixture
def clock(monkeypatch):
  """`clock(seconds)` lets so many seconds pass."""
  now = [100.0]
  for module in (phases_lib, goodput_lib):
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])

  def passes(seconds):
    now[0] += seconds

  return passes


def _spent(phases):
  return {kind: pytest.approx(s) for kind, s in phases.spent().items() if s}


def test_each_second_belongs_to_one_kind(clock):
  with Phases(99.0) as phases:
    clock(1.0)
    with phases.phase("evaluation", "an evaluation"):
      clock(4.0)
      with phases.phase("saving", "a save"):
        clock(8.0)
      clock(16.0)
    phases.turn("steps", "the steps up to 1")
    clock(32.0)
    assert phases.spent() == dict.fromkeys(phases_lib.KINDS, 0.0) | {
      "starting": 2.0,
      "evaluation": 20.0,
      "saving": 8.0,
      "steps": 32.0,
    }


def test_what_jax_and_orbax_report_is_counted_once(clock):
  with Phases(100.0) as phases:
    phases.turn("steps", "the steps up to 1")
    clock(10.0)
    # A trace of 3 s in a trace of 5 s, a compilation in a barrier, and one of another thread.
    jax.monitoring.record_event_duration_secs(TRACE, 3.0)
    clock(1.0)
    jax.monitoring.record_event_duration_secs(TRACE, 5.0)
    clock(4.0)
    jax.monitoring.record_event_duration_secs(COMPILE, 2.0)
    clock(1.0)
    jax.monitoring.record_event_duration_secs(BARRIER, 4.0)
    other = threading.Thread(target=lambda: jax.monitoring.record_event_duration_secs(COMPILE, 3.0))
    other.start()
    other.join()
    assert phases.spent() == dict.fromkeys(phases_lib.KINDS, 0.0) | {
      "steps": 7.0,
      "compiling": 7.0,
      "barriers": 2.0,
    }
  jax.monitoring.record_event_duration_secs(COMPILE, 1.0)
  assert phases.seconds["compiling"] == 7.0


class Computed:
  """An array that the devices compute until `arrive` is called."""

  def __init__(self, goodput):
    self._goodput, self._event = goodput, threading.Event()

  def block_until_ready(self):
    self._event.wait(30)

  def arrive(self):
    arrived = self._goodput._arrived
    self._event.set()
    until = time.time() + 30
    while self._goodput._arrived == arrived and time.time() < until:
      time.sleep(0.001)


def test_input_counts_while_the_devices_have_nothing_to_do(clock):
  phases = Phases(100.0)
  phases.turn("steps", "the steps up to 1")
  with goodput_lib.Goodput(phases) as goodput:

    def batches():
      clock(5.0)  # Nothing to compute yet.
      yield 1
      clock(1.0)  # The first step goes on, and is finished before the second batch comes.
      first.arrive()
      clock(2.0)
      yield 2
      clock(7.0)  # The second step goes on.
      yield 3
      second.arrive()
      clock(3.0)
      yield 4

    stream = batches()
    goodput.next_batch(stream, "data")
    first = Computed(goodput)
    goodput.dispatched(first)
    goodput.next_batch(stream, "data")
    assert (phases.spent()["input"], phases.spent()["steps"]) == (7.0, 1.0)
    clock(0.5)  # The host did something else.
    second = Computed(goodput)
    goodput.dispatched(second)
    goodput.next_batch(stream, "data")
    assert (phases.spent()["input"], phases.spent()["steps"]) == (7.0, 8.5)
    goodput.next_batch(stream, "data")
    assert (phases.spent()["input"], phases.spent()["steps"]) == (10.0, 8.5)
    goodput.dispatched(Computed(goodput))
    assert goodput._idle == 2.5 + 3.0
    with goodput.paused() as seconds:
      assert seconds["time/input"] == 10.0 and seconds["time/steps"] == 8.5
      clock(2.0)
    with goodput.paused() as seconds:
      assert seconds["time/steps"] == 2.0 and seconds["time/input"] == 0.0


def test_what_was_lost_to_a_restart(clock, monkeypatch):
  monkeypatch.setattr(phases_lib.time, "time", lambda: 5000.0)
  phases = Phases(90.0)  # Began ten seconds ago, at 4990.
  phases.continue_from({"steps": 60.0, "lost_to_restarts": 1.0}, saved_at=4950.0)
  spent = {kind: seconds for kind, seconds in phases.spent().items() if seconds}
  assert spent == {"starting": 10.0, "steps": 60.0, "lost_to_restarts": 41.0}
  phases.continue_from({}, saved_at=6000.0)  # By a clock that goes ahead.
  assert phases.seconds["lost_to_restarts"] == 41.0


def test_the_times_of_a_continued_run_add_up(tmp_path, monkeypatch):
  config = tiny.config(eval_every=0)
  update, began = Progress.update, time.time()

  def stop(self, step, metrics):
    update(self, step, metrics)
    if step == 8:
      raise Stopped("as if it were killed")

  with monkeypatch.context() as patched:
    patched.setattr(Progress, "update", stop)
    with pytest.raises(Stopped):
      train_and_evaluate(config, tmp_path / "run")
  time.sleep(0.5)
  ended = []
  monkeypatch.setattr(results_lib, "write", lambda *unused: ended.append(time.time()))
  results = train_and_evaluate(config, tmp_path / "run")
  wall = ended[0] - began
  spent = dict(results["time"])
  total = spent.pop("total")
  assert sum(spent.values()) == pytest.approx(total)
  assert wall - 2 < total < wall
  assert spent["lost_to_restarts"] > 0.5
  assert results["goodput"] == pytest.approx(spent["steps"] / total)
  assert goodput_lib.in_words(results).startswith(f"{total:,.1f} s in all: ")
