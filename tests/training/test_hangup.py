# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A run whose terminal goes away stops with everything saved, as after SIGTERM."""

import contextlib
import json
import os
import pathlib
import select
import signal
import socket
import subprocess
import sys
import threading

import pytest
from test_processes import wait_for_step

from vit_jax.parallel import hangup
from vit_jax.training.preemption import StopSignal

pytestmark = pytest.mark.usefixtures("hangups_are_heard")

CONFIG = """
import tiny_run
def get_config():
  return tiny_run.config(total_steps=4000, checkpoint_every=20, eval_every=0, progress_every=1)
"""

# Makes what is its standard input the terminal of a new session, and goes on as another program.
ON_A_TERMINAL = """\
import os, sys
os.login_tty(0)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


class Terminal:
  """A terminal with one program on it. What it shows is thrown away: nobody's buffer fills up."""

  def __init__(self, *arguments, **environment):
    self._screen, side = os.openpty()
    self._closes = threading.Event()
    self._reader = threading.Thread(target=self._read)
    command = [sys.executable, "-c", ON_A_TERMINAL, *arguments]
    self.program = subprocess.Popen(
      command, env={**os.environ, **environment}, stdin=side, stdout=side, stderr=side
    )
    os.close(side)
    self._reader.start()

  def _read(self):
    with contextlib.suppress(OSError):  # The program has ended.
      while not self._closes.is_set():
        if select.select([self._screen], [], [], 0.1)[0]:
          os.read(self._screen, 4096)
    os.close(self._screen)

  def close(self):
    """Goes away; the kernel then sends SIGHUP to the program."""
    self._closes.set()
    self._reader.join()


@contextlib.contextmanager
def runs(folder, count, *options):
  """Starts the same run `count` times, each on a terminal of its own."""
  (folder / "config.py").write_text(CONFIG)
  tests = pathlib.Path(__file__).parents[1]
  path = os.pathsep.join([str(tests), os.environ.get("PYTHONPATH", "")])
  command = ["-m", "vit_jax.cli.app", "train", f"--config={folder}/config.py"]
  command.append(f"--workdir={folder}/run")
  terminals = [
    Terminal(*command, *(o.format(i) for o in options), JAX_PLATFORMS="cpu", PYTHONPATH=path)
    for i in range(count)
  ]
  try:
    yield terminals
  finally:
    for terminal in terminals:
      terminal.program.kill()
      terminal.program.wait()
      terminal.close()


@pytest.mark.parametrize(
  "count, supervised",
  [(1, False), (1, True), pytest.param(2, True, marks=pytest.mark.slow)],
)
def test_a_run_whose_terminal_is_closed_saves_everything(tmp_path, count, supervised):
  with socket.socket() as free:
    free.bind(("localhost", 0))
    port = free.getsockname()[1]
  options = (f"--coordinator=localhost:{port}", f"--processes={count}", "--process={}")
  with runs(tmp_path, count, *options * supervised) as terminals:
    wait_for_step(tmp_path, 20)
    terminals[-1].close()  # One of them is enough.
    codes = [terminal.program.wait(timeout=100) for terminal in terminals]
  assert codes == [75] * count
  saved = max(int(p.parent.name) for p in (tmp_path / "run/checkpoints").glob("*/manifest.json"))
  lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
  assert 20 < saved < 4000 and json.loads(lines[-1])["step"] == saved


def test_nohup_keeps_a_run_going():
  """It starts a program with SIGHUP ignored."""
  before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
  try:
    with StopSignal() as stop:
      os.kill(os.getpid(), signal.SIGHUP)
      assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN and not stop.reached()
    assert hangup.signals() == ()  # What a supervising process adds to those that it passes on.
  finally:
    signal.signal(signal.SIGHUP, before)
