# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Several processes, as on several hosts, joined by JAX's own coordination service on this machine.

Each is the command that a user types on a host.
"""

import contextlib
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import pytest
import tiny_run as tiny

from vit_jax.training.loop import train_and_evaluate

HERE = pathlib.Path(__file__).parent

CONFIG = """
import poison, tiny_run
tiny_run.kept = poison.poisoned(*{poisoned!r})
{before}
def get_config():
  if {poisoned!r}:
    tiny_run.kept.__enter__()
  config = tiny_run.config(**{changes!r})
  config.mesh = dict(data=-1, fsdp={fsdp}, tensor={tensor}, max_whole=1.0)
  return config
"""


@contextlib.contextmanager
def hosts(
  count,
  folder,
  *options,
  fsdp=1,
  tensor=1,
  devices=1,
  poisoned=(),
  before="",
  last=None,
  **changes,
):
  """Starts the same command `count` times; gives their processes.

  `before` is a program that each of them runs before it joins the others. `last` says what the last
  of them has otherwise: `changes`, `options`, `workdir`, `devices`, `before`, or `cwd`, from where
  it imports.
  """
  with socket.socket() as free:
    free.bind(("localhost", 0))
    address = f"localhost:{free.getsockname()[1]}"
  started = []
  for index in range(count):
    own = (last or {}) if index == count - 1 else {}
    config = folder / f"config{index}.py"
    config.write_text(
      CONFIG.format(
        changes=changes | own.get("changes", {}),
        fsdp=fsdp,
        tensor=tensor,
        poisoned=poisoned,
        before=before + own.get("before", ""),
      )
    )
    command = [
      *(sys.executable, "-m", "vit_jax.cli.app", "train", f"--config={config}"),
      *(f"--workdir={own.get('workdir', folder / 'run')}", f"--coordinator={address}"),
      *(f"--processes={count}", f"--process={index}", "--heartbeat-timeout=10"),
      *(*options, *own.get("options", ())),
    ]
    path = os.pathsep.join([str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    number = own.get("devices", devices)
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={number}"
    started.append(
      subprocess.Popen(
        command,
        cwd=own.get("cwd"),
        env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": path, "XLA_FLAGS": flags},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
      )
    )
  try:
    yield started
  finally:
    for process in started:
      process.kill()
      process.wait()


def end(processes, timeout=600):
  """Waits for all; their exit codes and what they wrote to standard error."""
  told = [process.communicate(timeout=timeout)[1] for process in processes]
  return [process.returncode for process in processes], told


def patience(seconds):
  """So many seconds, and more where more processes want to run than there are cores."""
  return seconds * max(1.0, os.getloadavg()[0] / os.cpu_count())


def losses(folder):
  lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
  return {r["step"]: r["train/loss"] for r in map(json.loads, lines) if "train/loss" in r}


def wait_for_step(folder, step, seconds=200):
  """Waits until a checkpoint of at least this step is there."""
  until = time.monotonic() + seconds
  while time.monotonic() < until:
    with contextlib.suppress(OSError):
      found = (folder / "run" / "checkpoints").glob("*/manifest.json")
      if any(int(path.parent.name) >= step for path in found):
        return
    time.sleep(0.05)
  raise AssertionError(f"no checkpoint of step {step} within {seconds} s")


def children(process):
  """The processes that one has started: `supervise` does the work in a child."""
  told = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
  return [int(pid) for pid in told.split()]


@pytest.mark.parametrize(
  "count, devices, axes",
  [
    (2, 1, {}),
    pytest.param(2, 2, dict(fsdp=2, tensor=2), marks=pytest.mark.slow),
    pytest.param(4, 1, dict(fsdp=4), marks=pytest.mark.slow),
    # Two processes hold the halves of each matrix, and read the same examples.
    pytest.param(4, 1, dict(fsdp=2, tensor=2), marks=pytest.mark.slow),
  ],
)
def test_processes_train_together(tmp_path, count, devices, axes):
  alone, together = tmp_path / "alone", tmp_path / "together"
  alone.mkdir(), together.mkdir()
  settings = dict(
    model=dict(dropout_rate=0.0),
    pp=dict(random_affine=None, val=""),
    total_steps=6,
    progress_every=1,
    eval_every=0,
  )
  train_and_evaluate(tiny.config(**settings), alone / "run")
  with hosts(count, together, devices=devices, **axes, **settings) as processes:
    codes, told = end(processes)
    assert codes == [0] * count, told
  one, many = losses(alone), losses(together)
  assert one.keys() == many.keys() == {*range(1, 7)}
  assert list(many.values()) == pytest.approx(list(one.values()), rel=1e-5)
  tested = [json.loads((f / "run" / "results.json").read_text())["test"] for f in (alone, together)]
  assert tested[1] == pytest.approx(tested[0], rel=1e-5) and tested[0]["examples"] == 360
  assert all("step 6/6" not in text for text in told[1:])  # One of them speaks.


@pytest.mark.slow
def test_a_lost_process_ends_the_others_and_all_continue(tmp_path):
  settings = dict(total_steps=400, checkpoint_every=20, eval_every=0)
  with hosts(2, tmp_path, **settings) as processes:
    wait_for_step(tmp_path, 40)
    [victim] = children(processes[1])
    os.kill(victim, signal.SIGKILL)
    killed = time.monotonic()
    codes, told = end(processes, timeout=60)
    assert time.monotonic() - killed < 30
  assert codes == [69, 128 + signal.SIGKILL], told
  assert "Another process stopped answering" in told[0] and "Traceback" not in told[0]
  # To make it harder, the last checkpoint is not whole.
  whole = sorted((tmp_path / "run" / "checkpoints").glob("*/manifest.json"), key=_step_of)
  whole[-1].unlink()
  with hosts(2, tmp_path, **settings) as processes:
    codes, told = end(processes)
  assert codes == [0, 0], told
  assert f"at step {_step_of(whole[-2])} of 400" in told[0]


def _step_of(manifest):
  return int(manifest.parent.name)


@pytest.mark.slow
def test_a_command_that_is_killed_takes_its_child_along(tmp_path):
  with hosts(1, tmp_path, total_steps=4000, checkpoint_every=20, eval_every=0) as [process]:
    wait_for_step(tmp_path, 20)
    [child] = children(process)
    process.kill()
    process.wait()
    until = time.monotonic() + 10
    while pathlib.Path(f"/proc/{child}").exists() and time.monotonic() < until:
      time.sleep(0.05)
  assert not pathlib.Path(f"/proc/{child}").exists()


@pytest.mark.slow
def test_a_process_that_hangs_is_lost_too(tmp_path):
  settings = dict(total_steps=4000, checkpoint_every=20, eval_every=0)
  with hosts(2, tmp_path, **settings) as processes:
    wait_for_step(tmp_path, 20)
    [victim] = children(processes[1])
    os.kill(victim, signal.SIGSTOP)
    try:
      codes, told = end(processes[:1], timeout=60)
    finally:
      os.kill(victim, signal.SIGKILL)
  assert codes == [69], told
  assert told[0].rstrip().endswith("to continue from it.")


@pytest.mark.slow
def test_all_stop_when_one_is_told_and_continue(tmp_path):
  settings = dict(total_steps=400, checkpoint_every=100, eval_every=0)

  def stop(processes, number, who):
    processes[who].send_signal(number)
    codes, told = end(processes)
    assert codes == [75, 75], told
    steps = [int(re.search(r"Stopped at step (\d+) with all saved", text)[1]) for text in told]
    assert steps[0] == steps[1]
    return steps[0]

  with hosts(2, tmp_path, **settings) as processes:
    wait_for_step(tmp_path, 100)
    first = stop(processes, signal.SIGTERM, 0)
  with hosts(2, tmp_path, **settings) as processes:
    for line in processes[0].stderr:
      if f"continuing {tmp_path}/run at step {first} of 400" in line:
        break
    assert first < stop(processes, signal.SIGINT, 1) < 400  # However early one is told.
  with hosts(2, tmp_path, **settings) as processes:
    codes, told = end(processes)
  assert codes == [0, 0] and "continuing" in told[0]


@pytest.mark.slow
def test_all_go_back_from_a_bad_step_and_on_with_other_data(tmp_path):
  settings = dict(nan_policy="rollback", checkpoint_every=10, eval_every=0, progress_every=1)
  with hosts(2, tmp_path, poisoned=(25,), total_steps=60, **settings) as processes:
    codes, told = end(processes)
  assert codes == [0, 0], told
  assert "back to step 20, and on with other data (1 of 3)" in told[0]
  found = losses(tmp_path)
  assert list(found) == [*range(1, 61)] and None not in found.values()


def test_mistakes(tmp_path):
  with hosts(1, tmp_path, "--process=3") as processes:
    codes, told = end(processes)
  assert codes == [2] and "--process=3 is not one of the 1 processes" in told[0]
  program = "from vit_jax.cli import app; raise SystemExit(app.main())"
  done = tiny.run_python(
    program, "train", "--config=configs/quickstart.py", f"--workdir={tmp_path}/x", "--distributed"
  )
  assert done.returncode == 2 and "found neither SLURM nor Open MPI" in done.stderr
  assert "Traceback" not in done.stderr
