# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Reads mutated files in a process of its own, which may hang or die.

  python tests/fuzz/worker.py DIRECTORY

Each line of its input is a JSON list [container, seed]; it answers by a line [outcome, message].
`python tests/fuzz/worker.py DIRECTORY "npz" 17` tries a single mutation and shows the traceback.
"""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import dataclasses
import functools
import json
import logging
import pathlib
import resource
import shutil
import sys
import traceback
import warnings
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import cpu_torchvision  # noqa: F401
import numpy as np
from containers import CONTAINERS, Container
from mutations import changed_part, mutated

from vit_jax.data.decode import BadImage
from vit_jax.errors import UserError
from vit_jax.workdir import steps

MEMORY = 2 << 30

# Outcomes that are right.
REFUSED = "refused"
TOLD = "left out and told"
EQUAL = "read as it was"
DATA = "other tensors or pixels"
ANOTHER = "another valid file"
RIGHT = (REFUSED, TOLD, EQUAL, DATA, ANOTHER)
# And those that are not.
WRONG = "wrong without a word"
UNNAMED = "refused without the file's name"
RAISED = "another error"


class Warned(logging.Handler):
  """Keeps what is told."""

  def __init__(self):
    super().__init__(logging.WARNING)
    self.messages: list[str] = []

  def emit(self, record: logging.LogRecord) -> None:
    self.messages.append(record.getMessage())


@dataclasses.dataclass
class Subject:
  """A container that has been written, and what it holds."""

  folder: pathlib.Path
  files: list[tuple[pathlib.Path, str]]
  answers: dict[pathlib.Path, Any]
  used: Any


def _has_content(path: pathlib.Path) -> bool:
  return path.is_file() and path.stat().st_size > 0


@functools.cache
def subject(name: str) -> Subject:
  container: Container = CONTAINERS[name]
  folder = pathlib.Path(name.replace(", ", "-").replace(" ", "-"))
  mark = pathlib.Path(f"{folder}.written")
  if not mark.exists():
    shutil.rmtree(folder, ignore_errors=True)  # Of a worker that did not come to its end.
    container.write(folder)
    mark.touch()
  kinds = {}
  for pattern, kind in container.files.items():
    kinds |= {path: kind for path in sorted(folder.glob(pattern)) if _has_content(path)}
  answers = {path: container.read(folder, path) for path in kinds}
  return Subject(folder, [*kinds.items()], answers, container.use and container.use(folder))


def difference(one: Any, other: Any, path: str = "") -> str:
  """The first place where two answers differ, to the bit and the type; "" if they are the same."""
  if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
    alike = (one.dtype, one.shape) == (other.dtype, other.shape)
    return "" if alike and one.tobytes() == other.tobytes() else f"{path} ({one.dtype}{one.shape})"
  if isinstance(one, dict) and isinstance(other, dict):
    if one.keys() != other.keys():
      return f"{path}: {sorted(map(str, one.keys() ^ other.keys()))}"
    return next(filter(None, (difference(one[k], other[k], f"{path}/{k}") for k in one)), "")
  if isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
    pairs = enumerate(zip(one, other, strict=True))
    return next(filter(None, (difference(*pair, f"{path}/{k}") for k, pair in pairs)), "")
  alike = type(one) is type(other) and (one == other or (one != one and other != other))
  return "" if alike else f"{path}: {other!r:.60} became {one!r:.60}"


def same(one: Any, other: Any) -> bool:
  return not difference(one, other)


def outcome(name: str, seed: int, warned: Warned) -> tuple[str, str]:
  """What reading one mutation comes to, and a message."""
  container, whole = CONTAINERS[name], subject(name)
  path, kind = whole.files[seed % len(whole.files)]
  before = path.read_bytes()
  after = mutated(before, kind, seed)
  warned.messages.clear()
  path.write_bytes(after)
  try:
    return _judged(container, whole, path, before, after, warned)
  except (UserError, BadImage) as error:
    # Bytes of an image have no name; a step is known by its run, and a shard by its folder.
    by_folder = "checkpoints" in path.parts or path.suffix == ".safetensors"
    names = (path.name, str(whole.folder)) if by_folder else (path.name,)
    told = [str(error), *warned.messages]
    is_named = isinstance(error, BadImage) or any(n in text for n in names for text in told)
    return REFUSED if is_named else UNNAMED, f"{path}: {error}"
  except Exception as error:  # noqa: BLE001 - Whatever it is, it is what is looked for.
    if "-v" in sys.argv:
      traceback.print_exc()
    last = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in last if "/vit_jax/" in frame.filename]
    at = f"{ours[-1].filename.split('/vit_jax/')[-1]}:{ours[-1].lineno}" if ours else "?"
    return RAISED, f"{path}: {type(error).__name__} at {at}: {str(error)[:200]}"
  finally:
    path.write_bytes(before)


def _judged(
  container: Container,
  whole: Subject,
  path: pathlib.Path,
  before: bytes,
  after: bytes,
  warned: Warned,
) -> tuple[str, str]:
  answer, expected = container.read(whole.folder, path), whole.answers[path]
  if same(answer, expected):
    return EQUAL, ""
  if any(path.name in message for message in warned.messages):
    return TOLD, warned.messages[-1]
  inside = container.data(path, before, expected)
  touched = any(place in part for part in inside for place in changed_part(before, after))
  if touched and same(container.without_values(answer), container.without_values(expected)):
    return DATA, ""
  if container.use and same(container.use(whole.folder), whole.used):
    return EQUAL, ""
  if container.is_valid(path, before, after, answer):
    return ANOTHER, ""
  return WRONG, f"{path}: {difference(answer, expected)}"


def main(directory: str, *single: str) -> None:
  os.chdir(directory)
  steps.SETTLE_SECONDS = 0  # Nobody else writes the steps.
  warned = Warned()
  logging.getLogger("vit_jax").addHandler(warned)
  logging.getLogger("vit_jax").propagate = False
  warnings.filterwarnings("error", module="vit_jax")
  if len(single) > 1:
    print(*outcome(single[0], int(single[1]), warned), sep=": ")
    return
  channel = os.fdopen(os.dup(1), "w")  # Libraries print, too.
  os.dup2(2, 1)
  limit = None
  for line in sys.stdin:
    name, seed = json.loads(line)
    subject(name)
    if limit is None:  # Beyond what is in use: JAX and its threads reserve more than they take.
      in_use = int(pathlib.Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
      limit = in_use + MEMORY
      resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    print(json.dumps(outcome(name, seed, warned)), file=channel, flush=True)


if __name__ == "__main__":
  main(*[a for a in sys.argv[1:] if a != "-v"])
