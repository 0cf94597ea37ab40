# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The examples of a run: by its specifications when it starts, by its record from then on."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Mapping, Sequence

import numpy as np

from vit_jax.data import sources as sources_lib
from vit_jax.data import splits
from vit_jax.errors import UserError
from vit_jax.training import data_record, restore
from vit_jax.training.data_record import Change, Record
from vit_jax.training.plan import Plan

log = logging.getLogger(__name__)

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

  dataset: sources_lib.Dataset
  specs: Mapping[str, str | None]
  sources: Mapping[str, sources_lib.Source]
  record: Record
  changes: Mapping[str, Change]

  def planned(self, plan: Plan) -> Plan:
    """The plan with these splits, and with steps instead of epochs."""
    plan = dataclasses.replace(plan, pp=dataclasses.replace(plan.pp, **self.specs))
    return plan.with_steps(self.record.epoch)


def open_run_data(
  plan: Plan,
  workdir: str | os.PathLike,
  earlier: restore.RunInfo | None,
) -> RunData:
  """Opens the data set of a run that starts or continues.

  Args:
    plan: the run's; a split that it does not name is the data set's own.
    workdir: where the run's record is, if it has one.
    earlier: what is known of the run, if it has been started before.

  Raises:
    UserError: the data set cannot be used, see `splits.choose`; or the record is lost and the files
      are others than it described.
  """
  described = earlier.data if earlier else None
  rule = described["rule"] if described else sources_lib.RULE if earlier is None else 1
  dataset = sources_lib.open_dataset(plan.dataset, data_dir=plan.tfds_data_dir, rule=rule)
  asked = {split: getattr(plan.pp, split) for split in sources_lib.SPLITS}
  labeled = bool(dataset.class_names)
  if earlier and not described:
    return _from_before_the_record(dataset, earlier, asked)
  if earlier:  # What was not named then, and is not named now, stays as it was.
    usual = {**earlier.splits, "val": earlier.splits["val"] or splits.NONE}
    asked = {split: usual[split] if spec is None else spec for split, spec in asked.items()}
  chosen = splits.choose(dataset, asked, labeled=labeled)
  found = {split: data_record.in_order(source) for split, source in chosen.sources.items()}
  record = None
  if described:
    record = _read_record(workdir, earlier, dataset, found)
    changed_specs = [s for s in ("val", "test") if earlier.splits[s] != chosen.specs[s]]
    found = data_record.follow(dataset, found, record, changed_specs)
  found = data_record.keep_out_learned(found, _records_of_origins(plan, dataset))
  now = data_record.make(dataset.rule, found, record)
  changes = data_record.changes(record, now) if record else {}
  if changes:
    told = "; ".join(f"{split}: {change}" for split, change in changes.items())
    log.warning("%s has other images than when the run was last started (%s)", dataset.name, told)
  return RunData(dataset, chosen.specs, found, now, changes)


def of_run(
  workdir: str | os.PathLike,
  run: restore.RunInfo,
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
  return open_run_data(plan, workdir, run)


def find_own(
  workdir: str | os.PathLike,
  run: restore.RunInfo,
  dataset: str | None,
  data_dir: str | os.PathLike | None,
) -> tuple[RunData | None, sources_lib.Dataset | None]:
  """Opens `dataset`, as the run's own if it is that, perhaps moved or copied to another place.

  Returns:
    The run's data with its data set, or None and the other data set.
  """
  if dataset is None or is_same_place(sources_lib.absolute(dataset), run.dataset):
    own = of_run(workdir, run, data_dir=data_dir)
    return own, own.dataset
  other = sources_lib.open_dataset(dataset, data_dir=data_dir or run.plan.tfds_data_dir)
  known = _known_files(workdir, run, sources_lib.concatenate([*other.tables.values()]))
  if known is None or known.mean() < 0.5:
    return None, other
  log.info(
    "%s holds the files of %s, on which the run was trained, so its splits are the run's",
    *(dataset, run.dataset),
  )
  own = of_run(workdir, run, dataset)
  return own, own.dataset


def without_learned(
  source: sources_lib.Source,
  split: str,
  workdir: str | os.PathLike,
  run: restore.RunInfo,
  own: RunData | None,
) -> sources_lib.Source:
  """Leaves out what a run has learned from, unless `split` asks for a part of its train."""
  if own:
    learned = np.isin(source.keys(), own.sources["train"].keys())
    if own.record.paths:
      learned |= own.record.learned(source.keys())
  else:
    known = _known_files(workdir, run, source, ("train",))
    learned = np.zeros(len(source), bool) if known is None else known
  if not learned.any():
    return source
  if own and any(sources_lib.split_of(name) == "train" for name, _ in sources_lib.parts_of(split)):
    log.warning("the run has learned from %d of these images", learned.sum())
    return source
  log.warning("%d images are left out, since the run has learned from them", learned.sum())
  if learned.all():
    raise UserError(f"the run has learned from all images of {split}; name another split.")
  return source.select(np.flatnonzero(~learned))


def _known_files(
  workdir: str | os.PathLike,
  run: restore.RunInfo,
  source: sources_lib.Source,
  within: Sequence[str] = sources_lib.SPLITS,
) -> np.ndarray | None:
  """bool [examples]: which files, by path and size, the run has recorded; None without a record."""
  if not isinstance(source, sources_lib.FileSource) or not (run.data and run.data["digest"]):
    return None
  record = data_record.read(workdir, run.data)
  known = [record.files[split] for split in within if split in record.files]
  return np.isin(data_record.file_keys(source), np.concatenate(known))


def _from_before_the_record(
  dataset: sources_lib.Dataset, earlier: restore.RunInfo, asked: Mapping[str, str | None]
) -> RunData:
  """Reads a run as it was read then: unnamed splits were none, and overlaps were not looked for."""
  if dataset.drawn:
    log.warning(
      "the run has no record of its splits, since it was started by an older version; they are "
      "drawn from %s by the old rule, which gives the same splits only if no file has changed",
      dataset.name,
    )
  specs = {split: asked[split] or earlier.splits[split] for split in asked}
  found = {split: dataset.source(spec) for split, spec in specs.items() if spec}
  return RunData(dataset, specs, found, data_record.make(dataset.rule, found), {})


def _read_record(
  workdir: str | os.PathLike,
  earlier: restore.RunInfo,
  dataset: sources_lib.Dataset,
  found: Mapping[str, sources_lib.Source],
) -> Record:
  try:
    return data_record.read(workdir, earlier.data)
  except data_record.Damaged as error:
    now = dataclasses.replace(data_record.make(dataset.rule, found), epoch=earlier.data["epoch"])
    if now.digest != earlier.data["digest"]:
      raise UserError(
        f"{error}, and {dataset.name} does not hold exactly the files that the run was started "
        "with, so nobody can tell which of them it has learned from; bring that file back, or use "
        "another workdir."
      ) from error
    log.warning("%s; the files of %s have not changed, so it is made again", error, dataset.name)
    return now


def _records_of_origins(plan: Plan, dataset: sources_lib.Dataset) -> dict[str, Record]:
  """The records of the runs on the same data set that this one starts from or learns from."""
  names = [plan.checkpoint, plan.init.img, plan.init.txt, plan.distill and plan.distill.teacher]
  found = {}
  for name in names:
    if not name or not os.path.isfile(os.path.join(name, restore.CONFIG)):
      continue
    info = restore.existing_run(name)
    if not is_same_place(info.dataset, dataset.name):
      continue
    record = data_record.read(name, info.data)
    if record is not None and record.paths:
      found[name] = record
    elif not dataset.drawn:  # The splits are the data set's, so the specifications still tell.
      train = dataset.source(info.splits["train"])
      found[name] = Record(dataset.rule, {}, len(train), {"train": train.keys()})
  return found


def is_same_place(one: str, other: str) -> bool:
  """Whether two names of data sets are one directory, or the same name."""
  return one == other or (
    os.path.isdir(one) and os.path.isdir(other) and os.path.samefile(one, other)
  )


def summary(data: RunData, plan: Plan, parameters: int) -> list[str]:
  """What a run prints at its start: its images, classes, model and length, and what is small."""
  counts = {split: len(source) for split, source in data.sources.items()}
  images = ", ".join(f"{counts.get(split, 0):,} {split}" for split in sources_lib.SPLITS)
  classes = f"{len(data.dataset.class_names)} classes" if data.dataset.class_names else "texts"
  lines = [
    f"images: {images}; {classes}; {plan.model.name} with {parameters:,} parameters; "
    f"{plan.total_steps:,} steps of {plan.batch:,} images, "
    f"{plan.total_steps * plan.batch / counts['train']:,.1f} epochs"
  ]
  if plan.batch > counts["train"]:
    lines.append(
      f"the batch of {plan.batch:,} is larger than the training set of {counts['train']:,} images, "
      "so a step holds some images more than once"
    )
  for split in ("val", "test"):
    if 0 < counts.get(split, 0) < _FEW:
      lines.append(
        f"{split} has only {counts[split]} images: one of them is "
        f"{1 / counts[split]:.1%} of its accuracy"
      )
  if not {"val", "test"} & {*counts}:
    lines.append(
      f"nothing will be evaluated: {data.dataset.name} has neither val nor test; name a part of "
      "train, as in --config.pp.train='train[:90%]' --config.pp.val='train[90%:]'"
    )
  return lines
