# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What a run survives: `pytest -m slow tests/training/test_faults.py`.

The fast subset is in test_loop.py (kill -9 in training and in saving, damaged checkpoints) and
test_processes.py.
"""

import contextlib
import json
import os
import pathlib
import random
import re
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tiny_run as tiny
import tiny_tfds

from vit_jax.errors import UserError
from vit_jax.training import progress
from vit_jax.training.loop import train_and_evaluate
from vit_jax.workdir import run_info

pytestmark = pytest.mark.slow

HERE = pathlib.Path(__file__).parent

CONFIG = """
import tiny_run
def get_config():
  config = tiny_run.config(total_steps={steps}, eval_every=0, checkpoint_every={every})
  config.mesh = dict(data=-1, fsdp={fsdp}, max_whole=1.0)
  return config
"""


def start(folder, *, steps=400, every=3, devices=1, fsdp=1, **options):
  (folder / "config.py").write_text(CONFIG.format(steps=steps, every=every, fsdp=fsdp))
  path = os.pathsep.join([str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")])
  flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
  return subprocess.Popen(
    [
      *(sys.executable, "-m", "vit_jax.cli.app", "train", f"--config={folder}/config.py"),
      f"--workdir={folder}/run",
    ],
    env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": path, "XLA_FLAGS": flags},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    **options,
  )


def finish(process):
  told = process.communicate(timeout=600)[1]
  return process.returncode, told


def parameters(folder):
  return tiny.leaves(run_info.load_run(folder / "run", "last")[1])


def losses(folder):
  lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
  return {r["step"]: r["train/loss"] for r in map(json.loads, lines) if "train/loss" in r}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """A run that nothing interrupted."""
  folder = tmp_path_factory.mktemp("whole")
  code, told = finish(start(folder))
  assert code == 0, told
  return folder


def assert_same(folder, whole):
  ours, theirs = parameters(folder), parameters(whole)
  for path, value in theirs.items():
    assert ours[path].tobytes() == value.tobytes(), path
  assert losses(folder) == losses(whole)


def test_twenty_kills_at_random_moments_lose_nothing(whole, tmp_path):
  """A checkpoint every 3 of 400 fast steps: most of the time one is being written."""
  rng, continued_at, unfinished = random.Random(0), [], 0
  for kill in range(21):
    process = start(tmp_path)
    told = until_training(process)
    if kill < 20:
      time.sleep(rng.uniform(0.0, 2.0))
      process.kill()
      process.communicate()
      saved = [p for p in (tmp_path / "run" / "checkpoints").iterdir() if p.is_dir()]
      unfinished += any(not (p / "manifest.json").exists() for p in saved)
    else:
      code, rest = finish(process)
      assert code == 0, told + rest
    assert "Traceback" not in told, told
    if found := re.search(r"continuing .* at step (\d+)", told):
      continued_at.append(int(found[1]))
  assert continued_at == sorted(continued_at) and continued_at[-1] > 0  # Nothing saved is lost.
  assert continued_at[-1] < 400  # The last kill was in the midst, too.
  print("continued at", continued_at, "with an unfinished save after", unfinished, "of 20 kills")
  assert len(set(continued_at)) > 8 and unfinished > 2
  assert_same(tmp_path, whole)


def until_training(process):
  """What a process says until its first line of progress, or its end."""
  told = ""
  for line in process.stderr:
    told += line
    if line.startswith("step "):
      break
  return told


def until_saved(process, run):
  """Waits for the first whole checkpoint."""
  until_training(process)
  while process.poll() is None and not list(run.glob("checkpoints/*/manifest.json")):
    time.sleep(0.01)


def test_a_full_disk_stops_the_save_and_not_the_run_before(whole, tmp_path):
  """On a tmpfs of its own where mounting is allowed, else under a limit on the size of a file."""
  run = tmp_path / "run"
  run.mkdir()
  mounted = (
    subprocess.run(
      ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(run)], capture_output=True, check=False
    ).returncode
    == 0
  )
  print("full disk: " + ("tmpfs of 1 MiB" if mounted else "limit on the size of files"))
  try:
    if mounted:
      ballast = run / "ballast"
      process = start(tmp_path)
      until_saved(process, run)
      with contextlib.suppress(OSError), ballast.open("wb") as file:
        while True:
          file.write(bytes(4096))
    else:
      process = start(tmp_path, preexec_fn=lambda: signal.signal(signal.SIGXFSZ, signal.SIG_IGN))
      until_saved(process, run)
      resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (0, 0))
    code, told = finish(process)
    # Whichever file met it first.
    assert code == 2 and "make room" in told, told
    assert "cannot be saved" in told or "the disk of the workdir is full" in told, told
    assert "Traceback" not in told
    if mounted:
      ballast.unlink()
      subprocess.run(["mount", "-o", "remount,size=64m", str(run)], check=True)
    code, told = finish(start(tmp_path))
    assert code == 0 and re.search(r"continuing .* at step \d+", told), told
    assert_same(tmp_path, whole)
  finally:
    if mounted:
      subprocess.run(["umount", str(run)], check=False)


def test_an_unreadable_data_shard_ends_the_run_and_loses_nothing(tmp_path):
  """One of four shards is emptied at step 7: the images in it are named, and nothing is skipped."""
  data = tiny_tfds.prepare(tmp_path, shards=4)
  [shard, *_] = sorted(data.glob("*train*"))
  config = tiny.config(
    dataset=str(data),
    pp=dict(train="train", val="", test="", channels=3),
    **dict(batch=8, total_steps=100, eval_every=0, checkpoint_every=3, max_bad_fraction=0.0),
  )
  undisturbed, run = tmp_path / "undisturbed" / "run", tmp_path / "disturbed" / "run"
  train_and_evaluate(config, undisturbed)
  content = shard.read_bytes()
  update = progress.Progress.update

  def damaging(self, step, metrics):
    update(self, step, metrics)
    if step == 7:
      shard.write_bytes(b"")

  sentence = r"^1 of 50 images cannot be read, .* train:\d+ \(its shard cannot be read"
  with (
    tiny.changed(progress.Progress, "update", damaging),
    pytest.raises(UserError, match=sentence),
  ):
    train_and_evaluate(config, run)
  before = max(losses(run.parent))
  assert 6 <= before < 100
  shard.write_bytes(content)
  train_and_evaluate(config, run)
  assert_same(run.parent, undisturbed.parent)


@pytest.mark.parametrize("before, after", [(4, 8), (4, 2), (4, 1)])
def test_continues_on_another_number_of_devices(tmp_path, before, after):
  """With the state split over them; equal to rounding."""
  one, other = tmp_path / "one", tmp_path / "other"
  one.mkdir(), other.mkdir()
  code, told = finish(start(one, steps=40, every=20, devices=before, fsdp=before))
  assert code == 0, told
  process = start(other, steps=40, every=20, devices=before, fsdp=before)
  until_training(process)
  process.send_signal(signal.SIGTERM)
  code, told = finish(process)
  assert code == 75, told
  code, told = finish(start(other, steps=40, every=20, devices=after, fsdp=after))
  assert code == 0 and "continuing" in told, told
  theirs, ours = losses(one), losses(other)
  assert theirs.keys() == ours.keys()
  np.testing.assert_allclose([*ours.values()], [*theirs.values()], rtol=1e-5)
