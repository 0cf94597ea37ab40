# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Whether a saved step is whole: hashes of its files, and the lock of the one run that writes.

Each process hashes the files that it wrote. `manifest.json` holds the hashes of the first process
and the number of processes; `manifest.process_1.json` and so on hold those of the others. A step is
complete when all of them are there, so no process waits for the hashes of another.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
import logging
import os
import re
from collections.abc import Iterable, Iterator

import jax
from etils import epath

from vit_jax.errors import UserError
from vit_jax.workdir.files import read_object, write_atomically

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
_WRITER = re.compile(r"(?:^|[/.])process_(\d+)")  # As Orbax and Grain name what each one writes.
NONE = slice(0)  # Of the files to hash: only looks whether all of them are there.


def write_manifest(step_directory: epath.Path) -> None:
  """Notes the hashes of the files that this process wrote; ask in every process."""
  process, processes = jax.process_index(), jax.process_count()
  names = [n for n in sorted(files(step_directory)) if _writer(n, processes) == process]
  content = {"sha256": _sha256s(step_directory, names)}
  if processes > 1 and process == 0:
    content["processes"] = processes
  write_atomically(step_directory / _manifest(process), json.dumps(content, indent=1))


def _manifest(process: int) -> str:
  return f"manifest.process_{process}.json" if process else MANIFEST


def _writer(name: str, processes: int) -> int:
  """The process that hashes a file: the one that wrote it, or the first one."""
  found = _WRITER.search(name)
  return int(found[1]) % processes if found else 0


def defect(step_directory: epath.Path, part: slice = slice(None)) -> str | None:
  """Looks whether a step is whole.

  Args:
    step_directory: of the step.
    part: which of its files to hash, by their order; the others only have to be there.

  Returns:
    None for a whole step, "" for one whose saving was interrupted, else the damaged file.
  """
  if not (step_directory / MANIFEST).exists():
    return ""
  try:
    content = read_object(step_directory / MANIFEST)
    hashes = dict(content["sha256"])
    if not hashes:
      return f"{MANIFEST} names no files"
    for process in range(1, content.get("processes", 1)):
      if not (step_directory / _manifest(process)).exists():
        return ""
      hashes |= read_object(step_directory / _manifest(process))["sha256"]
    for name in hashes:
      if not (step_directory / name).exists():
        return f"{name} is missing"
    for name, found in _sha256s(step_directory, [*hashes][part]).items():
      if found != hashes[name]:
        return f"{name} has changed"
  except (OSError, ValueError, KeyError, TypeError):
    return f"{MANIFEST} cannot be read"
  return None


def report(step_directory: epath.Path, reason: str) -> None:
  """Says what `defect` has found."""
  what = f"is damaged ({reason})" if reason else "was not completed"
  log.warning("checkpoint %s %s and is not used", step_directory, what)


def clear_away(step_directory: epath.Path, reason: str) -> None:
  """Makes room for the step to be saved again; keeps damaged files for their owner to look at."""
  report(step_directory, reason)
  if not reason or "://" in os.fspath(step_directory):  # A bucket has no directories to move.
    step_directory.rmtree()
    return
  attic = step_directory.parent.parent / "damaged"
  attic.mkdir(parents=True, exist_ok=True)
  taken = {p.name for p in attic.iterdir()}
  name = next(n for i in range(len(taken) + 1) if (n := f"{step_directory.name}-{i}") not in taken)
  step_directory.rename(attic / name)
  log.warning("moved it to %s", attic / name)


def files(directory: epath.Path, prefix: str = "") -> Iterator[str]:
  """The files of a step, without its manifests, which other processes may be writing."""
  for path in directory.iterdir():
    if path.is_dir():
      yield from files(path, f"{prefix}{path.name}/")
    elif prefix or not path.name.startswith("manifest."):
      yield prefix + path.name


def lock(directory: epath.Path) -> int | None:
  """Keeps a second run out until this process ends, however it ends; local directories only.

  Raises:
    UserError: another process holds the lock, or the directory cannot be written.
  """
  if jax.process_index() or "://" in os.fspath(directory):
    return None
  try:
    import fcntl
  except ImportError:  # Not on Windows.
    return None
  try:
    directory.mkdir(parents=True, exist_ok=True)
    held = os.open(os.fspath(directory.parent / ".lock"), os.O_RDWR | os.O_CREAT, 0o644)
  except OSError as error:
    raise UserError(
      f"workdir {directory.parent} cannot be written ({error.strerror}); choose another directory."
    ) from error
  try:
    fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError as error:
    os.close(held)
    raise UserError(
      f"another process is training in {directory.parent}; wait for it or use another workdir."
    ) from error
  except OSError:  # A file system without locks.
    os.close(held)
    return None
  return held


def _sha256s(directory: epath.Path, names: Iterable[str]) -> dict[str, str]:
  """Hashes of files, several at a time: a large state, or a bucket, would take too long."""
  with concurrent.futures.ThreadPoolExecutor(8) as threads:
    return dict(zip(names, threads.map(lambda name: _sha256(directory / name), names), strict=True))


def _sha256(path: epath.Path) -> str:
  digest = hashlib.sha256()
  with path.open("rb") as file:
    while block := file.read(1 << 20):
      digest.update(block)
  return digest.hexdigest()
