# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Two processes, as on two hosts, joined by JAX's own coordination service on this machine."""

import json
import socket
from concurrent import futures

import pytest
import tiny_run as tiny

PROGRAM = """
import json, os, signal, sys, time
import jax
address, rank, workdir, stops = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4] == "stops"
jax.distributed.initialize(address, 2, rank)
import tiny_run as tiny
from vit_jax.errors import Stopped
from vit_jax.training import progress
from vit_jax.training.loop import train_and_evaluate

update = progress.Progress.update

def patched(self, step, metrics):
  update(self, step, metrics)
  if stops:
    if step == 3 and rank == 0:  # Only one of them is told.
      os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.5)

progress.Progress.update = patched
try:
  print(json.dumps(train_and_evaluate(tiny.config(), workdir)))
except Stopped as error:
  print(json.dumps(str(error)))
"""


def _both(workdir, stops=""):
  with socket.socket() as free:
    free.bind(("localhost", 0))
    address = f"localhost:{free.getsockname()[1]}"
  with futures.ThreadPoolExecutor(2) as threads:
    runs = [threads.submit(tiny.run_python, PROGRAM, address, r, workdir, stops) for r in (0, 1)]
  done = [run.result() for run in runs]
  assert all(d.returncode == 0 for d in done), done[0].stderr + done[1].stderr
  return [json.loads(d.stdout.splitlines()[-1]) for d in done]


@pytest.mark.slow
def test_two_processes_train_stop_together_and_continue(tmp_path):
  first, second = _both(tmp_path / "whole")
  assert first["test"] == second["test"] and first["test"]["examples"] == 360

  stopped = _both(tmp_path / "parts", "stops")
  assert stopped[0] == stopped[1] and stopped[0].startswith("Stopped at step")
  assert _both(tmp_path / "parts")[0]["test"] == first["test"]
