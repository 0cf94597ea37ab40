# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""`data.npz` of a work directory: which file a run has in which split.

A rule draws splits from the files that are there at the time, and a folder may change. So a run
notes what it learned from and what it was judged on, and its record decides from then on: a file
that the record knows keeps its split, when the run continues and when it is evaluated. Files that
are new go where the specification or the rule puts them; they were never learned from.

Only folders of files have such a record. Of other data sets, whose splits do not change, the counts
are noted.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import hashlib
import io
import json
import os
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from vit_jax.data.sources import (
  RULE,
  SPELLINGS,
  SPLITS,
  Dataset,
  FileSource,
  Source,
  concatenate,
  hashes,
  split_of,
)
from vit_jax.errors import UserError
from vit_jax.workdir.files import write_atomically

FILE = "data.npz"
_NEXT = "data.npz.next"
_FORMER = "former-"  # Before a split's name: files of it that have gone since, and may come back.
_ORIGIN = "origin"  # Files that the runs have learned from whose weights this one starts from.
_NO_HASHES = np.array([], np.uint64)
# What NumPy and zipfile raise for a damaged file, a header that lies about its size among them.
_DAMAGED = (
  *(OSError, ValueError, TypeError, LookupError, EOFError, SyntaxError, MemoryError),
  *(NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error, struct.error),
)


@dataclasses.dataclass(frozen=True)
class Record:
  """What a run has in which split.

  Attributes:
    rule: the version of the rule that drew splits, see `datasets.open_dataset`.
    counts: the examples of each split.
    epoch: the training examples at the start of the run, in which its epochs are counted.
    paths: for each split, with "former-" before its name for what has gone of it, and for "origin",
      which other runs have learned from, the sorted 64-bit hashes of the files' paths, relative to
      the data set's directory; empty where the data set has no files.
    files: the same of paths with sizes in bytes, which tell that a file was replaced.
  """

  rule: int
  counts: Mapping[str, int]
  epoch: int
  paths: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict, repr=False)
  files: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict, repr=False)

  @property
  def digest(self) -> str | None:
    """SHA-256 of all hashes; None where there are none."""
    if not self.paths:
      return None
    digest = hashlib.sha256()
    for split in sorted(self.paths):
      digest.update(split.encode() + b"\0")
      digest.update(self.paths[split].astype("<u8").tobytes())
      digest.update(self.files[split].astype("<u8").tobytes())
    return digest.hexdigest()

  def describe(self) -> dict[str, Any]:
    """What `config.json` says of it."""
    return {
      "rule": self.rule,
      "counts": dict(self.counts),
      "epoch": self.epoch,
      "digest": self.digest,
    }

  def knows(self, split: str, paths: np.ndarray) -> np.ndarray:
    """bool [files]: which of them, by the hashes of their paths, are or were in a split."""
    return np.isin(paths, _ever(self.paths, split))

  def has_file(self, split: str, files: np.ndarray) -> np.ndarray:
    """bool [files]: as `knows`, by the hashes of paths with sizes."""
    return np.isin(files, _ever(self.files, split))


def _ever(hashes: Mapping[str, np.ndarray], *splits: str) -> np.ndarray:
  """The hashes of splits with those of what has gone of them."""
  names = [name for split in splits for name in (split, _FORMER + split)]
  return np.unique(np.concatenate([hashes.get(name, _NO_HASHES) for name in names]))


def make(
  rule: int,
  sources: Mapping[str, Source],
  before: Record | None = None,
  origins: Sequence[Record] = (),
) -> Record:
  """The record of a run with these examples.

  Args:
    rule: by which splits were drawn.
    sources: of each split.
    before: the run's record until now, if it continues.
    origins: the records of other runs whose weights it starts from, if it begins.
  """
  counts = {split: len(source) for split, source in sources.items()}
  epoch = before.epoch if before else counts["train"]
  if not all(isinstance(source, FileSource) for source in sources.values()):
    return Record(rule, counts, epoch)
  paths = {split: np.sort(source.keys()) for split, source in sources.items()}
  files = {split: np.sort(file_keys(source)) for split, source in sources.items()}
  if before and before.paths:
    for now, then in ((paths, before.paths), (files, before.files)):
      present = np.concatenate([*now.values()])
      for split in SPLITS:
        now[_FORMER + split] = np.setdiff1d(_ever(then, split), present)
    origins = [before]
  for now, kind in ((paths, "paths"), (files, "files")):
    learned = [
      getattr(record, kind).get(_ORIGIN, _NO_HASHES)
      if record is before
      else _ever(getattr(record, kind), "train", _ORIGIN)
      for record in origins
    ]
    now[_ORIGIN] = np.unique(np.concatenate([_NO_HASHES, *learned]))
  empty = [
    name for name in paths if name not in sources and not len(paths[name]) + len(files[name])
  ]
  for name in empty:
    del paths[name], files[name]
  return Record(rule, counts, epoch, paths, files)


def file_keys(source: FileSource) -> np.ndarray:
  """uint64 [files]: hashes of path and size in bytes, and of the texts where there are some.

  A file that is not there has size -1.
  """

  def sizes(names: Sequence[str]) -> list[int]:
    return [_size(os.path.join(source.root, name)) for name in names]

  # Several at a time, since a file server answers each question after a while.
  parts = [source.files[k : k + 1_000] for k in range(0, len(source), 1_000)]
  with concurrent.futures.ThreadPoolExecutor(16) as threads:
    found = [size for part in threads.map(sizes, parts) for size in part]
  texts = getattr(source, "texts", None)
  endings = ["\0" + json.dumps(own) for own in texts] if texts else [""] * len(found)
  return hashes(
    f"{name}\0{size}{end}" for name, size, end in zip(source.files, found, endings, strict=True)
  )


def _size(path: str) -> int:
  try:
    return os.stat(path).st_size
  except OSError:
    return -1


def write(workdir: epath.Path, record: Record) -> None:
  """Writes the record beside the one that `config.json` describes; then call `finish_writing`."""
  if jax.process_index() or not record.paths:
    return
  arrays = {f"{split}/path": values for split, values in record.paths.items()}
  arrays |= {f"{split}/file": values for split, values in record.files.items()}
  content = io.BytesIO()
  np.savez(content, **arrays)
  write_atomically(workdir / _NEXT, content.getvalue())


def finish_writing(workdir: epath.Path) -> None:
  """Makes the record that was written last `data.npz`, once `config.json` describes it."""
  if not jax.process_index() and (workdir / _NEXT).exists():
    (workdir / _NEXT).replace(workdir / FILE)


def check_described(described: Any) -> None:
  """Raises TypeError or KeyError unless this is what `Record.describe` gives, of a known rule."""
  if not described["rule"] <= RULE or {*described} < {"rule", "counts", "epoch", "digest"}:
    raise KeyError(f"rule {described['rule']!r}, which only a newer version knows")
  numbers = [described["rule"], described["epoch"], *described["counts"].values()]
  if not all(type(number) is int and number >= 0 for number in numbers):
    raise TypeError(f"counts of examples that are no integers: {described!r:.80}")
  if not isinstance(described["digest"], str | None):
    raise TypeError(f"digest={described['digest']!r:.40}")


def read(workdir: str | os.PathLike, described: Mapping[str, Any] | None) -> Record | None:
  """Reads the record that `config.json` describes; None for a run from before the record.

  Raises:
    Damaged: it is missing, cannot be read, or is another than `config.json` describes.
  """
  if described is None:
    return None
  record = Record(described["rule"], described["counts"], described["epoch"])
  if described["digest"] is None:
    return record
  problem = f"{epath.Path(workdir) / FILE} is missing"
  for name in (FILE, _NEXT):  # The second where a crash came before `finish_writing`.
    path = epath.Path(workdir) / name
    if not path.exists():
      continue
    try:
      with np.load(io.BytesIO(path.read_bytes())) as arrays:
        found = [(*name.split("/"), arrays[name]) for name in arrays.files]
    except _DAMAGED as error:
      problem = f"{path} cannot be read ({error})"
      continue
    paths, files = (
      {split: hashes for split, kind, hashes in found if kind == wanted}
      for wanted in ("path", "file")
    )
    whole = dataclasses.replace(record, paths=paths, files=files)
    counts = {split: len(own) for split, own in paths.items() if split in SPLITS}
    if whole.digest == described["digest"] and counts == described["counts"]:
      return whole
    problem = f"{path} is not the one that config.json describes"
  raise Damaged(problem)


class Damaged(UserError):
  """The record of a run is lost."""


def follow(
  dataset: Dataset, sources: Mapping[str, Source], record: Record, respecified: Sequence[str] = ()
) -> dict[str, Source]:
  """The examples of a run by its record.

  Args:
    dataset: open.
    sources: what the run's specifications select now, see `splits.choose`.
    record: the run's.
    respecified: splits whose specification has changed since, so that it decides and not the
      record; nothing that was learned from gets into them.

  Returns:
    For each split that is not empty its source, in the order of `in_order`.
  """
  if not record.paths:
    return dict(sources)
  pool = in_order(concatenate([*dataset.tables.values()]))
  keys = pool.keys()
  learned = record.knows("train", keys) | _moved(pool, keys, record)
  assigned = {"train": learned}
  for split in ("val", "test"):
    assigned[split] = record.knows(split, keys) & ~learned & (split not in respecified)
  is_new = ~np.logical_or.reduce([*assigned.values()])
  found = {}
  for split, source in sources.items():
    selected = np.isin(keys, source.keys())
    here = selected & ~learned if split in respecified else assigned[split] | (selected & is_new)
    found[split] = pool.select(np.flatnonzero(here))
  return {split: source for split, source in found.items() if len(source)}


def _moved(pool: FileSource, keys: np.ndarray, record: Record) -> np.ndarray:
  """bool [files]: which new files were learned from, in or out of a folder of a split.

  As when a folder of classes has been sorted into `train/` and `test/` after training: the same
  name below that folder, the same size, and the file that was recorded is not there any more.
  """
  known = np.logical_or.reduce([record.knows(split, keys) for split in SPLITS])
  moved = np.zeros(len(pool), bool)
  new = np.flatnonzero(~known)
  if not len(new):
    return moved
  gone = np.setdiff1d(_ever(record.files, "train"), file_keys(pool))
  names = [pool.files[k] for k in new]
  sizes = [_size(os.path.join(pool.root, name)) for name in names]
  inner = [name.partition("/")[2] if split_of(name.split("/")[0]) else name for name in names]
  folders = ("", *(f"{spelling}/" for spelling in SPELLINGS["train"]))
  for folder in folders:
    was = hashes(f"{folder}{name}\0{size}" for name, size in zip(inner, sizes, strict=True))
    moved[new] |= np.isin(was, gone)
  return moved


def in_order(source: Source) -> Source:
  """Files ordered by label and path; other sources as they are.

  So the order of a split is the same however its files were selected.
  """
  if not isinstance(source, FileSource):
    return source
  labels = source.labels if type(source) is FileSource else np.zeros(len(source))
  order = sorted(range(len(source)), key=lambda k: (labels[k], source.files[k]))
  return source.select(np.array(order, np.int64))


@dataclasses.dataclass(frozen=True)
class Change:
  """How the files of a split differ from the record: how many are new, gone, and replaced."""

  added: int
  gone: int
  replaced: int

  def __bool__(self) -> bool:
    return bool(self.added or self.gone or self.replaced)

  def __str__(self) -> str:
    words = {
      "new": self.added,
      "gone": self.gone,
      "replaced by others of the same name": self.replaced,
    }
    return ", ".join(f"{count:,} {word}" for word, count in words.items() if count)


def changes(record: Record, now: Record) -> dict[str, Change]:
  """What has changed since the record was made, by split; only splits with changes."""
  found = {}
  for split in sorted({*record.counts, *now.counts}):
    if not record.paths:
      more = now.counts.get(split, 0) - record.counts.get(split, 0)
      change = Change(max(more, 0), max(-more, 0), 0)
    else:
      old, new = (r.paths.get(split, _NO_HASHES) for r in (record, now))
      added, gone = np.setdiff1d(new, old).size, np.setdiff1d(old, new).size
      other = np.setdiff1d(*(r.files.get(split, _NO_HASHES) for r in (now, record))).size
      change = Change(added, gone, max(other - added, 0))
    if change:
      found[split] = change
  return found
