# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Thousands of damaged files: refused by name, or read as they were; no other error, no hang.

The slow test leaves the number of each outcome in benchmarks/results/fuzz.txt.
"""

import collections
import datetime
import importlib.metadata
import json
import pathlib
import platform
import select
import subprocess
import sys

import pytest
from containers import CONTAINERS
from mutations import changed_part, mutated
from worker import RIGHT

SHARE, ALL = 60, 2_000
SECONDS = 10  # In which a file is read.
SECONDS_TO_WRITE = 120  # In which a container is written and first read.
SUMMARY = pathlib.Path(__file__).parents[2] / "benchmarks" / "results" / "fuzz.txt"


class Worker:
  """Asks `worker.py`, and starts it again when it has died or hangs."""

  def __init__(self, directory: pathlib.Path):
    self._directory = directory
    self._process = None
    self._known: set[str] = set()  # Of this process.
    self._readable: set[str] = set()

  def ask(self, name: str, seed: int) -> tuple[str, str]:
    """The outcome of a mutation, and a message."""
    if self._process is None:
      command = [sys.executable, str(pathlib.Path(__file__).with_name("worker.py"))]
      with open(self._directory / "log", "a") as log:
        self._process = subprocess.Popen(
          [*command, self._directory], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log
        )
      self._known = set()
    self._process.stdin.write(json.dumps([name, seed]).encode() + b"\n")
    self._process.stdin.flush()
    seconds = SECONDS if name in self._known else SECONDS_TO_WRITE
    ready, _, _ = select.select([self._process.stdout], [], [], seconds)
    answer = self._process.stdout.readline() if ready else b""
    if answer:
      self._known.add(name)
      self._readable.add(name)
      return tuple(json.loads(answer))
    if not ready:
      self._process.kill()
    code, self._process = self._process.wait(), None
    if name not in self._readable:
      pytest.fail(f"{name} cannot be written and read: see {self._directory / 'log'}")
    return ("died", f"exit code {code}") if ready else ("hangs", f"over {seconds} s")

  def close(self) -> None:
    if self._process is not None:
      self._process.stdin.close()
      self._process.wait()


@pytest.fixture(scope="module")
def worker(tmp_path_factory):
  worker = Worker(tmp_path_factory.mktemp("fuzz"))
  yield worker
  worker.close()


def tried(worker: Worker, name: str, count: int) -> tuple[collections.Counter, list[str]]:
  """The number of each outcome of the first mutations of a container, and what was wrong."""
  outcomes, wrong = collections.Counter(), []
  for seed in range(count):
    outcome, message = worker.ask(name, seed)
    outcomes[outcome] += 1
    if outcome not in RIGHT:
      wrong.append(f"{outcome}: {name!r} {seed}: {message}")
  return outcomes, wrong


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_damaged_file_is_refused_or_read_as_it_was(worker, name):
  outcomes, wrong = tried(worker, name, SHARE)
  assert not wrong, "\n".join([f"{len(wrong)} of {SHARE}", *wrong])
  assert sum(outcomes.values()) == SHARE and outcomes["refused"] + outcomes["left out and told"]


@pytest.mark.slow
def test_all_damaged_files_are_refused_or_read_as_they_were(worker):
  found = {name: tried(worker, name, ALL) for name in CONTAINERS}
  wrong = [line for _, lines in found.values() for line in lines]
  SUMMARY.write_text(summary({name: outcomes for name, (outcomes, _) in found.items()}, wrong))
  assert not wrong, "\n".join([f"{len(wrong)} of {ALL * len(CONTAINERS)}", *wrong[:200]])


def summary(found: dict[str, collections.Counter], wrong: list[str]) -> str:
  packages = ("jax", "numpy", "safetensors", "torch", "orbax-checkpoint", "pillow")
  versions = [f"{name} {importlib.metadata.version(name)}" for name in packages]
  versions += [f"opencv {importlib.metadata.version('opencv-python-headless')}"]
  columns = [*RIGHT, *sorted({o for counts in found.values() for o in counts} - {*RIGHT})]
  lines = [
    f"pytest -m slow tests/fuzz, {datetime.date.today()}: {ALL:,} mutations of each container",
    f"Python {platform.python_version()}, {', '.join(versions)}",
    "",
    "".join(f"{title:>{len(title) + 2}}" for title in [f"{'container':22}", *columns]),
  ]
  for name, counts in found.items():
    lines.append(f"  {name:22}" + "".join(f"{counts[c]:>{len(c) + 2}}" for c in columns))
  return "\n".join([*lines, *([""] if wrong else []), *wrong]) + "\n"


def test_a_seed_is_a_mutation():
  for kind, content in {"json": b'{"a": [1, {"b": 2}]}', "binary": bytes(range(200))}.items():
    assert mutated(content, kind, 3) == mutated(content, kind, 3)
    assert len({mutated(content, kind, seed) for seed in range(50)}) > 20


def test_what_has_changed():
  assert changed_part(b"abcd", b"abXd") == [2]
  assert changed_part(b"abcd", b"abd") == [2, 2]
  assert changed_part(b"abcd", b"ab") == [2, 3]
  assert changed_part(b"abcd", b"abcdX") == [4, 4]
