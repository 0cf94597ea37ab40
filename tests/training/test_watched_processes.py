# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Two real processes: where their time goes, what a trace holds, and what is left of a hang."""

import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import time

import jax
import pytest
from tensorboardX.proto import event_pb2

HERE = pathlib.Path(__file__).parent

# For so long the second process waits before each batch, and the first one while it hashes.
CONFIG = """
import time, jax, tiny_run
from vit_jax.training import stream
from vit_jax.workdir import integrity

def hangs_here(seconds):
  time.sleep(seconds)

if {slow}:
  take = stream.Stream.__next__
  def slowly(self):
    if jax.process_index() == 1 and self.position["taken"] >= 4:
      hangs_here({slow})
    return take(self)
  stream.Stream.__next__ = slowly

if {hashing}:
  defect = integrity.defect
  def hashes_slowly(directory, part=slice(None)):
    if jax.process_index() == 0 and part != integrity.NONE:
      time.sleep({hashing})
    return defect(directory, part)
  integrity.defect = hashes_slowly

def get_config():
  return tiny_run.config(**{changes!r})
"""


def run(folder, *options, slow=0.0, hashing=0.0, **changes):
  """Starts the same command twice; gives exit codes, what they said, and the seconds it took."""
  with socket.socket() as free:
    free.bind(("localhost", 0))
    address = f"localhost:{free.getsockname()[1]}"
  (folder / "config.py").write_text(CONFIG.format(slow=slow, hashing=hashing, changes=changes))
  path = os.pathsep.join([str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")])
  began = time.monotonic()
  started = [
    subprocess.Popen(
      [
        *(sys.executable, "-m", "vit_jax.cli.app", "train", f"--config={folder}/config.py"),
        *(f"--workdir={folder}/run", f"--coordinator={address}", "--processes=2"),
        *(f"--process={index}", *options),
      ],
      env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": path},
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for index in range(2)
  ]
  try:
    told = [process.communicate(timeout=600)[1] for process in started]
  finally:
    for process in started:
      process.kill()
      process.wait()
  return [process.returncode for process in started], told, time.monotonic() - began


def test_each_process_leaves_its_stacks_when_one_hangs(tmp_path):
  codes, told, _ = run(tmp_path, slow=1000.0, stall_timeout=3.0)
  assert codes == [69, 69], told
  for process, text in enumerate(told):
    file = tmp_path / "run" / "stacks" / f"process_{process}.txt"
    assert f"nothing has finished for 3 s: process {process} waits for " in text, text
    assert f"; the stacks of its threads are in {file}; after 3 s more it ends" in text, text
    assert "Traceback" not in text
    assert ("in hangs_here\n" in file.read_text()) == (process == 1)
  assert ", process 1 for a training batch of digits; the stacks" in told[0]


def events(folder):
  """TensorBoard's scalars: tag -> {step: value}."""
  found = {}
  for path in sorted((folder / "tensorboard").iterdir()):
    content, at = path.read_bytes(), 0
    while at < len(content):  # Records are a length, its checksum, the content and its checksum.
      size = int.from_bytes(content[at : at + 8], "little")
      event = event_pb2.Event.FromString(content[at + 12 : at + 12 + size])
      at += 12 + size + 4
      for value in event.summary.value:
        found.setdefault(value.tag, {})[event.step] = value.simple_value
  return found


KINDS = [
  *("starting", "compiling", "input", "steps", "evaluation", "saving", "barriers"),
  *("lost_to_restarts", "other"),
]


def test_a_profiled_run_accounts_for_its_time(tmp_path):
  # Saved at step 20, where all have heard at step 10 that it is time, and at the last one.
  settings = dict(total_steps=24, eval_every=0, checkpoint_every=0, checkpoint_minutes=1e-4)
  codes, told, seconds = run(tmp_path, "--profile=5:7", slow=0.5, **settings)
  assert codes == [0, 0], told
  results = json.loads((tmp_path / "run" / "results.json").read_text())
  spent = results["time"]
  total = spent.pop("total")
  assert list(spent) == KINDS and min(spent.values()) >= 0
  assert sum(spent.values()) == pytest.approx(total) and total < seconds
  assert total == pytest.approx(results["seconds"], abs=0.5)
  for kind in ("starting", "compiling", "steps", "evaluation", "saving", "barriers"):
    assert spent[kind] > 0, kind
  assert results["goodput"] == pytest.approx(spent["steps"] / total)
  # The second process waited for its data; of the first one the devices waited for the second.
  assert results["slowest_process"] == 1 and spent["input"] < 1.0
  assert "process 1 kept the others waiting most" in told[0]
  scalars = events(tmp_path / "run")
  assert scalars["time/slowest_process"] == {20: 1, 24: 1}
  # It waited 0.5 s before each of steps 5 to 20 and 21 to 24, less what a step takes.
  idle = scalars["time/slowest_idle"]
  assert 3 < idle[20] < seconds and 0.8 < idle[24] < seconds, idle
  assert {f"time/{kind}" for kind in KINDS} <= {*scalars}
  for process in range(2):
    assert traced_steps(tmp_path / "run" / "profile" / f"process_{process}") == {5, 6, 7}
  assert "wrote the profile of steps 5 to 7" in told[0]
  steps = {int(path.name): path for path in (tmp_path / "run" / "checkpoints").iterdir()}
  assert {*steps} == {20, 24}
  for step in steps.values():
    assert_hashed_by_those_who_wrote(step)


def assert_hashed_by_those_who_wrote(step):
  files = {str(p.relative_to(step)) for p in step.rglob("*") if p.is_file()}
  hashed = []
  for name in ("manifest.json", "manifest.process_1.json"):
    files.remove(name)
    hashed.append(json.loads((step / name).read_text())["sha256"])
  own = [{name for name in files if f"process_{process}" in name} for process in range(2)]
  assert {*hashed[1]} == own[1] and {*hashed[0]} == files - own[1]
  largest = lambda names: max((step / name).stat().st_size for name in names)
  assert largest(own[0]) > 1000 and largest(own[1]) > 1000  # Each wrote a part of the state.


def traced_steps(folder):
  """The numbers of the annotated steps in a trace, in which the devices have computed something."""
  [file] = folder.rglob("*.xplane.pb")
  found, names = set(), set()
  for plane in jax.profiler.ProfileData.from_file(str(file)).planes:
    for line in plane.lines:
      for event in line.events:
        names.add(event.name)
        if event.name == "train":
          found.add(dict(event.stats)["step_num"])
  assert any(re.search("dot|fusion|Execute", name) for name in names)
  return found


@pytest.mark.slow
def test_a_process_may_hash_for_longer_than_collective_operations_wait(tmp_path):
  """Those of CPUs end a run after 30 s."""
  settings = dict(total_steps=8, decay_type="constant", eval_every=0, checkpoint_every=4)
  codes, told, _ = run(tmp_path, **settings)
  assert codes == [0, 0], told
  codes, told, seconds = run(tmp_path, hashing=40.0, **settings | dict(total_steps=12))
  assert codes == [0, 0], told
  assert "at step 8 of 12" in told[0] and seconds > 40
