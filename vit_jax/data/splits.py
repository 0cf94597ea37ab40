# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Which images a run learns from, chooses on and is tested on: names, the rule, and overlaps.

`train` is learned from, `val` chooses the best checkpoint, `test` is evaluated once at the end. A
data set brings these splits along, or they are drawn here by a rule that a file added or removed
disturbs as little as possible. What a run has used is recorded (`workdir.data_record`); from then
on that record decides, and not the rule.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence

import numpy as np

from vit_jax.data.sources import (
  SPLITS,
  Dataset,
  FileSource,
  Source,
  digest,
  parts_of,
  split_of,
)
from vit_jax.errors import UserError

_LOGGER = logging.getLogger(__name__)


def tell_absent(dataset: str, tables: Mapping[str, Sequence[int]], names: Sequence[str]) -> None:
  """Logs in one line which splits are empty and which classes a split lacks.

  Args:
    dataset: its name.
    tables: the labels of each split.
    names: the classes, by label.
  """
  messages = []
  for split, labels in tables.items():
    absent = sorted(set(range(len(names))) - set(labels))
    if not len(labels):
      messages.append(f"{split} is empty")
    elif absent:
      shown = ", ".join(names[k] for k in absent[:5]) + (", ..." if len(absent) > 5 else "")
      messages.append(
        f"{split} has no image of {len(absent)} of the {len(names)} classes ({shown})"
      )
  if messages:
    _LOGGER.warning("%s: %s", dataset, "; ".join(messages))


def draw(paths: Sequence[str], splits: tuple[str, ...], seed: int = 0) -> dict[str, list[int]]:
  """Draws one class: `splits` get a tenth each, and "train" the rest.

  The files are ordered by the SHA-256 of "SEED/" and their path. "test" takes the first tenth,
  "val" the next, "train" what is left, so a file that is added or removed moves at most one other
  file over each of the two borders. Therefore "val" rounds its tenth as if there were one file
  less: else the border of "train" could move by two. Each split gets at least one file that "train"
  can spare; "train" comes first, then "val".

  Args:
    paths: of the files, relative to the data set's directory, with forward slashes.
    splits: ("val", "test") or ("val",).
    seed: another seed is another draw.

  Returns:
    For "train" and each of `splits` the ascending indices of its files.
  """
  order = sorted(range(len(paths)), key=lambda k: digest(f"{seed}/{paths[k]}"))
  count, tenth = len(paths), lambda n: max(1, round(0.1 * n))
  if "test" in splits:
    val = min(tenth(count - 1), max(count - 1, 0))
    test = min(tenth(count), max(count - 1 - val, 0))
  else:
    val, test = min(tenth(count), max(count - 1, 0)), 0
  parts = {"train": order[test + val :], "val": order[test : test + val], "test": order[:test]}
  return {split: sorted(parts[split]) for split in ("train", *splits)}


def stratified(labels: np.ndarray, fractions: tuple[float, ...], seed: int = 0) -> list[np.ndarray]:
  """Rule 1, for runs from before the record: one random stream through all classes.

  A file added or removed draws all later classes anew. Returns sorted indices of the rest, then of
  each fraction.
  """
  random = np.random.RandomState(seed)
  parts: list[list[int]] = [[] for _ in range(len(fractions) + 1)]
  for label in np.unique(labels):
    members = random.permutation(np.flatnonzero(labels == label)).tolist()
    for k, fraction in enumerate(fractions):
      count = max(1, round(fraction * np.count_nonzero(labels == label)))
      count = min(count, len(members) - 1)
      parts[k + 1] += members[:count]
      members = members[count:]
    parts[0] += members
  return [np.array(sorted(part), np.int64) for part in parts]


def shuffled(paths: Sequence[str], splits: tuple[str, ...]) -> dict[str, np.ndarray]:
  """Rule 1 of images with texts: one permutation of all, of which `splits` get a tenth each."""
  order, parts = np.random.RandomState(0).permutation(len(paths)), {}
  size = max(1, round(0.1 * len(paths)))
  for split in splits:
    parts[split], order = np.sort(order[:size]), order[size:]
  return {"train": np.sort(order), **parts}


@dataclasses.dataclass(frozen=True)
class Chosen:
  """The examples of a run.

  Attributes:
    specs: for "train", "val" and "test" the split specification; None where there is none.
    sources: the examples of each, of those that there are.
  """

  specs: Mapping[str, str | None]
  sources: Mapping[str, Source]


NONE = ""  # A split specification that asks for no split.


def choose(
  dataset: Dataset, asked: Mapping[str, str | None], *, evaluation: bool = False
) -> Chosen:
  """Finds the examples that a config asks for.

  Args:
    dataset: open.
    asked: specifications for "train", "val" and "test". None takes the data set's own, where it has
      one, and `NONE` goes without.
    evaluation: whether only a part of them will be looked at: splits that are not there any more
      are left out.

  Returns:
    What to learn from and to be judged on. A slice of train that val or test take is taken out of
    train.

  Raises:
    UserError: a specification cannot be read, or selects nothing or an example twice; labels are
      hidden; or val or test overlap with train in another way.
  """
  labeled = bool(dataset.class_names)
  specs = {split: _spec(dataset, split, asked.get(split)) for split in SPLITS}
  sources = {
    split: dataset.source(spec)
    for split, spec in specs.items()
    if spec and not (evaluation and not _is_there(dataset, spec))
  }
  if labeled:
    for source in sources.values():
      source.check_labels()
  keys = {split: source.keys() for split, source in sources.items()}
  for split, found in keys.items():
    if repeated := len(found) - len(np.unique(found)):
      raise UserError(
        f"config.pp.{split}={specs[split]!r} names {repeated:,} examples of {dataset.name} twice; "
        "name each part once."
      )
  for split in [s for s in ("val", "test") if {s, "train"} <= {*sources}]:
    remaining = _not_shared(dataset, specs, keys, split)
    if len(remaining) < len(keys["train"]):
      keys["train"] = keys["train"][remaining]
      sources["train"] = sources["train"].select(remaining)
  if {"val", "test"} <= {*sources} and (shared := np.isin(keys["test"], keys["val"])).any():
    _LOGGER.warning(
      "%s: %d images of test are also in val, which chooses the best checkpoint, so the test score "
      "will be too good",
      *(dataset.name, shared.sum()),
    )
  # A slice of a folder follows the order of its classes. Whole splits are told by `open_folder`.
  cut = {
    split: source.labels
    for split, source in sources.items()
    if labeled
    and isinstance(source, FileSource)
    and len(source) != len(dataset.tables.get(split, ()))
  }
  tell_absent(f"{dataset.name}, by the splits of the config", cut, dataset.class_names)
  return Chosen(specs, sources)


def _spec(dataset: Dataset, split: str, asked: str | None) -> str | None:
  """The specification of a split; the data set's own, if it has labels, where none is asked for."""
  if asked is not None:
    return asked or None
  if split == "train":
    return split
  if split not in dataset.tables:
    return None
  try:
    if dataset.class_names:
      dataset.tables[split].check_labels()
  except UserError as error:
    _LOGGER.warning("%s: %s is not evaluated: %s", dataset.name, split, error)
    return None
  return split


def _not_shared(
  dataset: Dataset, specs: Mapping[str, str | None], keys: Mapping[str, np.ndarray], split: str
) -> np.ndarray:
  """The indices of train without what `split` takes out of it; refuses any other overlap."""
  shared = np.isin(keys["train"], keys[split])
  if shared.any() and (shared.all() or not _carved_out(specs["train"], specs[split])):
    raise UserError(
      f"{shared.sum():,} images of config.pp.{split}={specs[split]!r} are also in "
      f"config.pp.train={specs['train']!r}, so the run would be judged on what it has learned; "
      f"name splits without common images, or --config.pp.{split}= for none."
    )
  if shared.any():
    count, spec = f"{shared.sum():,}", specs[split]
    _LOGGER.info(
      "%s: %s images of %s (%s) are taken out of train", dataset.name, count, split, spec
    )
  return np.flatnonzero(~shared)


def _is_there(dataset: Dataset, spec: str) -> bool:
  """Whether a data set still has the splits of a specification, and examples in them."""
  try:
    dataset.source(spec)
  except UserError:
    return False
  return True


def _carved_out(train: str, other: str) -> bool:
  """Whether `other` takes slices of splits of which `train` takes the whole."""
  whole = {split_of(name) or name for name, limits in parts_of(train) if limits is None}
  common = [limits for name, limits in parts_of(other) if (split_of(name) or name) in whole]
  return bool(common) and None not in common
