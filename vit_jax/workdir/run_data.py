# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The examples of a run: by its specifications when it starts, by its record from then on."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Mapping

import numpy as np

from vit_jax.data import datasets, splits
from vit_jax.data import sources as sources_lib
from vit_jax.data.sources import SPLITS, Dataset, FileSource, Source
from vit_jax.errors import UserError
from vit_jax.training.plan import Plan
from vit_jax.workdir import data_record, run_info
from vit_jax.workdir.data_record import Change, Record

log = logging.getLogger(__name__)

_FEW_STEPS = 500  # Of training from scratch; even digits take some hundreds.
_FEW = 100  # Images of a split, below which one of them counts for more than a percent.


@dataclasses.dataclass(frozen=True)
class RunData:
  """What a run learns from and is judged on.

  Attributes:
    dataset: open.
    specs: for "train", "val" and "test" the split specification; None where there is none.
    sources: the examples of each split that has some.
    record: what is to be recorded of them.
    changes: how the splits differ from what the run has recorded before; empty if nothing does.
  """

  dataset: Dataset
  specs: Mapping[str, str | None]
  sources: Mapping[str, Source]
  record: Record
  changes: Mapping[str, Change]

  def planned(self, plan: Plan) -> Plan:
    """The plan with these splits, and with steps instead of epochs."""
    plan = dataclasses.replace(plan, pp=dataclasses.replace(plan.pp, **self.specs))
    return plan.with_steps(self.record.epoch)

  def as_dataset(self) -> Dataset:
    """The data set with the run's splits, where these are whole splits of it."""
    own = {s: source for s, source in self.sources.items() if self.specs[s] == s}
    return dataclasses.replace(self.dataset, tables={**self.dataset.tables, **own})


def open_run_data(
  plan: Plan,
  workdir: str | os.PathLike,
  earlier: run_info.RunInfo | None,
  *,
  evaluation: bool = False,
) -> RunData:
  """Opens the data set of a run that starts, continues, or is evaluated.

  Args:
    plan: the run's; a split that it does not name is the data set's own.
    workdir: where the run's record is, if it has one.
    earlier: what is known of the run, if it has been started before.
    evaluation: whether only some of it is to be looked at; then parts may be missing.

  Raises:
    UserError: the data set cannot be used, see `splits.choose`; no training image is left; or the
      record is lost and the files are others than it described.
  """
  described = earlier.data if earlier else None
  rule = described["rule"] if described else sources_lib.RULE if earlier is None else 1
  dataset = datasets.open_dataset(plan.dataset, data_dir=plan.tfds_data_dir, rule=rule)
  asked = {split: getattr(plan.pp, split) for split in SPLITS}
  if earlier:  # What was not named then, and is not named now, stays as it was.
    usual = {**earlier.splits, "val": earlier.splits["val"] or splits.NONE}
    if not described:  # Splits that were not named were none at that time.
      usual["test"] = usual["test"] or splits.NONE
    asked = {split: usual[split] if spec is None else spec for split, spec in asked.items()}
  if earlier and not described and _specs(asked) == earlier.splits:
    return _from_before_the_record(dataset, earlier)
  chosen = splits.choose(dataset, asked, evaluation=evaluation)
  found = {split: data_record.in_order(source) for split, source in chosen.sources.items()}
  record, origins = None, {}
  if described:
    record = _read_record(workdir, earlier, dataset, found)
    respecified = [s for s in ("val", "test") if earlier.splits[s] != chosen.specs[s]]
    if record.paths:
      found = data_record.follow(dataset, found, record, respecified)
    elif respecified:
      found = _without_record(dataset, found, earlier)
  else:
    origins = _records_of_origins(plan, dataset)
  found = _without_origins(dataset, found, record, origins)
  if "train" not in found and not evaluation:
    raise UserError(f"no training image of the run is left in {dataset.name}; bring some back.")
  if "train" not in found:
    return RunData(dataset, chosen.specs, found, record or Record(rule, {}, 0), {})
  now = data_record.make(dataset.rule, found, record, [*origins.values()])
  changes = data_record.changes(record, now) if record else {}
  if changes:
    message = "; ".join(f"{split}: {change}" for split, change in changes.items())
    log.warning(
      "%s has other images than when the run was last started (%s)", dataset.name, message
    )
  return RunData(dataset, chosen.specs, found, now, changes)


def _specs(asked: Mapping[str, str | None]) -> dict[str, str | None]:
  return {split: spec or None for split, spec in asked.items()}


def _from_before_the_record(dataset: Dataset, earlier: run_info.RunInfo) -> RunData:
  """Reads a run as it was read then, when overlaps were not looked for."""
  if dataset.drawn:
    log.warning(
      "the run has no record of its splits, since it was started by an older version; they are "
      "drawn from %s by the old rule, which gives the same splits only if no file has changed",
      dataset.name,
    )
  specs = earlier.splits
  found = {split: dataset.source(spec) for split, spec in specs.items() if spec}
  return RunData(dataset, specs, found, data_record.make(dataset.rule, found), {})


def _without_record(
  dataset: Dataset, found: Mapping[str, Source], earlier: run_info.RunInfo
) -> dict[str, Source]:
  """As `data_record.follow`, of a data set without files of which splits were specified anew."""
  before = splits.choose(dataset, {s: spec or splits.NONE for s, spec in earlier.splits.items()})
  learned = before.sources["train"].keys()
  kept = {"train": before.sources["train"]}
  for split in [s for s in ("val", "test") if s in found]:
    kept[split] = _leave_out(
      found[split], np.isin(found[split].keys(), learned), split, "since the run has learned them"
    )
  return {split: source for split, source in kept.items() if len(source)}


def _leave_out(source: Source, learned: np.ndarray, split: str, why: str) -> Source:
  if not learned.any():
    return source
  log.warning("%d of the %d images of %s are left out, %s", learned.sum(), len(source), split, why)
  return source.select(np.flatnonzero(~learned))


def _read_record(
  workdir: str | os.PathLike,
  earlier: run_info.RunInfo,
  dataset: Dataset,
  found: Mapping[str, Source],
) -> Record:
  try:
    return data_record.read(workdir, earlier.data)
  except data_record.Damaged as error:
    now = None
    if "train" in found:
      now = dataclasses.replace(data_record.make(dataset.rule, found), epoch=earlier.data["epoch"])
    if now is None or now.digest != earlier.data["digest"]:
      raise UserError(
        f"{error}, and {dataset.name} does not hold exactly the files that the run was started "
        "with, so nobody can tell which of them it has learned from; bring that file back, or use "
        "another workdir."
      ) from error
    log.warning("%s; the files of %s have not changed, so it is made again", error, dataset.name)
    return now


def _records_of_origins(plan: Plan, dataset: Dataset) -> dict[str, Record]:
  """The records of the runs whose weights this one starts from, or whose answers it learns."""
  names = [plan.checkpoint, plan.init.img, plan.init.txt, plan.distill and plan.distill.teacher]
  found = {}
  for name in names:
    if not name or not os.path.isdir(name) or not run_info.has_checkpoints(name):
      continue
    info = run_info.existing_run(name)
    try:
      record = data_record.read(name, info.data)
    except data_record.Damaged as error:
      log.warning("what %s has learned from cannot be told: %s", name, error)
      continue
    if record is not None and record.paths:
      found[name] = record
    elif datasets.is_same_place(info.dataset, dataset.name) and not dataset.drawn:
      # The splits are the data set's, so the specifications still tell.
      asked = {split: spec or splits.NONE for split, spec in info.splits.items()}
      train = splits.choose(dataset, asked).sources["train"]
      found[name] = Record(dataset.rule, {}, len(train), {"train": train.keys()})
  return found


def _without_origins(
  dataset: Dataset,
  found: Mapping[str, Source],
  record: Record | None,
  origins: Mapping[str, Record],
) -> dict[str, Source]:
  """Takes out of val and test what other runs have learned, whose weights this one starts from."""
  kept = dict(found)
  for split in [s for s in ("val", "test") if s in kept]:
    source = kept[split]
    learned = np.zeros(len(source), bool)
    if isinstance(source, FileSource):
      files = data_record.file_keys(source)
      for origin in origins.values():
        learned |= origin.has_file("train", files) | origin.has_file("origin", files)
      if record is not None:
        learned |= record.has_file("origin", files)
    else:
      for origin in origins.values():
        learned |= origin.knows("train", source.keys())
    kept[split] = _leave_out(
      source, learned, split, "since the weights or the teacher of this run have learned them"
    )
  return {split: source for split, source in kept.items() if len(source)}


def of_run(
  workdir: str | os.PathLike,
  run: run_info.RunInfo,
  dataset: str | None = None,
  data_dir: str | os.PathLike | None = None,
) -> RunData:
  """Opens the data set of a run that is to be evaluated; where it is now, if it has moved."""
  specs = {split: spec or splits.NONE for split, spec in run.splits.items()}
  plan = run.plan
  plan = dataclasses.replace(
    plan,
    dataset=dataset or plan.dataset,
    tfds_data_dir=os.fspath(data_dir) if data_dir else plan.tfds_data_dir,
    pp=dataclasses.replace(plan.pp, **specs),
  )
  return open_run_data(plan, workdir, run, evaluation=True)


def find_own(
  workdir: str | os.PathLike,
  run: run_info.RunInfo,
  dataset: str | None,
  data_dir: str | os.PathLike | None,
) -> tuple[RunData | None, Dataset | None]:
  """Opens `dataset`, as the run's own if it is that, perhaps moved or copied to another place.

  Returns:
    The run's data with its data set, or None and the other data set.
  """
  if dataset is None or datasets.is_same_place(dataset, run.dataset):
    own = of_run(workdir, run, data_dir=data_dir)
    return own, own.dataset
  other = datasets.open_dataset(dataset, data_dir=data_dir or run.plan.tfds_data_dir)
  everything = sources_lib.concatenate([*other.tables.values()])
  record = _record_for(workdir, run, everything)
  if record is None:
    return None, other
  files = data_record.file_keys(everything)
  known = np.logical_or.reduce([record.has_file(split, files) for split in SPLITS])
  if known.mean() < 0.5:
    return None, other
  log.info(
    "%s holds the files of %s, on which the run was trained, so its splits are the run's",
    *(dataset, run.dataset),
  )
  own = of_run(workdir, run, dataset)
  return own, own.dataset


def without_learned(
  source: Source, split: str, workdir: str | os.PathLike, run: run_info.RunInfo, own: RunData | None
) -> Source:
  """Leaves out what a run has learned from, unless `split` asks for a part of its train.

  Args:
    source: the examples of `split`, of the run's data set or of another one.
    split: as the user named it.
    workdir, run: of the run.
    own: the run's data, if `source` is of its data set.
  """
  if own:
    learned = np.zeros(len(source), bool)
    if "train" in own.sources:
      learned |= np.isin(source.keys(), own.sources["train"].keys())
    if own.record.paths:
      learned |= own.record.knows("train", source.keys())
  else:
    learned = _learned_elsewhere(source, workdir, run)
  if not learned.any():
    return source
  if own and any(sources_lib.split_of(name) == "train" for name, _ in sources_lib.parts_of(split)):
    log.warning("the run has learned from %d of these images", learned.sum())
    return source
  if learned.all():
    raise UserError(f"the run has learned from all images of {split}; name another split.")
  return _leave_out(source, learned, split, "since the run has learned them")


def _record_for(workdir: str | os.PathLike, run: run_info.RunInfo, source: Source) -> Record | None:
  """The run's record, to compare the files of another folder with; None if there is none."""
  if not isinstance(source, FileSource):
    return None
  if run.data is None and os.path.isdir(run.dataset):
    log.warning(
      "the run has no record of its files, since it was started by an older version; whether it "
      "has learned from these images cannot be told"
    )
    return None
  try:
    record = data_record.read(workdir, run.data)
  except data_record.Damaged as error:
    log.warning("whether the run has learned from these images cannot be told: %s", error)
    return None
  return record if record is not None and record.paths else None


def _learned_elsewhere(
  source: Source, workdir: str | os.PathLike, run: run_info.RunInfo
) -> np.ndarray:
  """bool [examples]: which files of another folder the run has learned from.

  That are those which lie in the run's folder, or are linked from there, and those with the same
  path below their folder and the same size.
  """
  learned = np.zeros(len(source), bool)
  record = _record_for(workdir, run, source)
  if record is None:
    return learned
  learned |= record.has_file("train", data_record.file_keys(source))
  root = os.path.realpath(run.dataset)
  real = [os.path.realpath(os.path.join(source.root, name)) for name in source.files]
  inside = np.array([path.startswith(root + os.sep) for path in real])
  if inside.any():
    names = [os.path.relpath(path, root).replace(os.sep, "/") for path in real]
    learned |= inside & record.knows("train", sources_lib.hashes(names))
  same_name = record.knows("train", source.keys()) & ~learned
  if same_name.any():
    log.warning(
      "%d images have the names of images that the run has learned from, but other sizes in bytes; "
      "if they are copies of those, the result will be too good",
      same_name.sum(),
    )
  return learned


def summary(data: RunData, plan: Plan, parameters: int) -> list[str]:
  """What a run prints at its start: its images, classes, model and length, and what is small."""
  counts = {split: len(source) for split, source in data.sources.items()}
  images = ", ".join(f"{counts.get(split, 0):,} {split}" for split in SPLITS)
  classes = f"{len(data.dataset.class_names)} classes" if data.dataset.class_names else "texts"
  lines = [
    f"images: {images}; {classes}; {plan.model.name} with {parameters:,} parameters; "
    f"{plan.total_steps:,} steps of {plan.batch:,} images, "
    f"{plan.total_steps * plan.batch / counts['train']:,.1f} epochs"
  ]
  if plan.from_scratch and plan.total_steps < _FEW_STEPS:
    lines.append(
      f"{plan.total_steps:,} steps are few for training from scratch: raise config.epochs or "
      "config.total_steps, or start from weights"
    )
  for split in ("val", "test"):
    if 0 < counts.get(split, 0) < _FEW:
      lines.append(
        f"{split} has only {counts[split]} images, so each of them is "
        f"{1 / counts[split]:.1%} of its accuracy"
      )
  if not {"val", "test"} & {*counts}:
    train, name = data.sources["train"], data.dataset.name
    advice = "name a part of train, as in --config.pp.val='train[90%:]'"
    if isinstance(train, FileSource):
      advice = f"add a folder val, or name {os.path.join(name, 'train')}, of which a tenth each is"
      advice += " then val and test"
    lines.append(f"nothing will be evaluated, since the run has neither val nor test; {advice}")
  return lines
