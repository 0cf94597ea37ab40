# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Mistakes in what is to be profiled; a real trace is in `test_watched_processes.py`."""

import socket

import pytest
import tiny_run as tiny

from vit_jax.errors import UserError
from vit_jax.training import profiling
from vit_jax.training.loop import train_and_evaluate


@pytest.mark.parametrize("text", ["", "5", "5:", ":5", "a:b", "-1:5", "1.5:2", "1:2:3", "5-8"])
def test_what_is_no_range_is_refused(text):
  with pytest.raises(UserError, match=r"^--profile=.* should be FROM:TO, .* such as 20:25\.$"):
    profiling.parse(text)


@pytest.mark.parametrize("steps", [(0, 3), (5, 4), (13, 14), (3, 13)])
def test_steps_that_the_run_does_not_have_are_refused(tmp_path, steps):
  expected = rf"^--profile={steps[0]}:{steps[1]} should be .* 1 <= FROM <= TO <= 12, the number"
  with pytest.raises(UserError, match=expected):
    train_and_evaluate(tiny.config(), tmp_path / "run", profile=steps)
  assert not (tmp_path / "run").exists()


def test_steps_that_a_continued_run_has_behind_it_leave_nothing(tmp_path):
  with profiling.Trace(tmp_path, (3, 5), print) as trace:
    for step in range(6, 9):
      with trace.step(step):
        assert not trace.ends(step)
  assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("port", ["taken", 70_000])
def test_a_port_that_cannot_be_used_is_refused(port):
  with socket.socket() as taken:
    taken.bind(("", 0))
    taken.listen()
    port = taken.getsockname()[1] if port == "taken" else port
    with (
      pytest.raises(
        UserError, match=rf"^--profile-port: port {port} cannot be used \(.*\); choose"
      ),
      profiling.server(port),
    ):
      pass


def test_a_server_listens_until_the_run_ends():
  with socket.socket() as free:
    free.bind(("", 0))
    port = free.getsockname()[1]
  with profiling.server(port):
    socket.create_connection(("localhost", port), timeout=10).close()
  with pytest.raises(OSError, match="refused"):
    socket.create_connection(("localhost", port), timeout=10)
