# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A trained classifier with all that its numbers need: weights, preprocessing and class names."""

from __future__ import annotations

import dataclasses
import glob
import logging
import math
import os
import pathlib
import time
from collections.abc import Mapping, Sequence
from concurrent import futures
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax
import numpy as np
from jaxtyping import Array, Float

from vit_jax.data import datasets, decode, listing, sources, transforms
from vit_jax.errors import UserError
from vit_jax.output import printable

if TYPE_CHECKING:
  from vit_jax.workdir.run_data import RunData
  from vit_jax.workdir.run_info import RunInfo

log = logging.getLogger(__name__)

TELL_SECONDS = 1.0


@dataclasses.dataclass(frozen=True)
class Classifier:
  """What `evaluate` and `predict` work on.

  Attributes:
    name: of the model in the registry.
    model, variables: the module and its parameters.
    preprocessing: from an image to the model's uint8 input, with mean and std.
    class_names: in the order of the logits.
    run: what is known of the run of ours that trained it, and the run's work directory.
    named: whether the class names are known, as opposed to numbered.
  """

  name: str
  model: nn.Module
  variables: Mapping[str, Any]
  preprocessing: transforms.Preprocessing
  class_names: tuple[str, ...]
  run: tuple[RunInfo, str | os.PathLike] | None = None
  named: bool = True


def from_run(workdir: str | os.PathLike, which: str = "best") -> Classifier:
  """The classifier of a training run's work directory. Raises UserError if it holds none."""
  from vit_jax.workdir import run_info

  model, variables, info = run_info.load_run(workdir, which)
  spec, run = info.preprocessing, (info, workdir)
  return Classifier(info.model_name, model, variables, spec, info.class_names, run)


def from_checkpoint(
  name: str | None,
  checkpoint: str | None = None,
  image_size: int | tuple[int, int] | None = None,
  checkpoint_image_size: int | tuple[int, int] | None = None,
) -> Classifier:
  """The classifier of a registry name, with a checkpoint or the registry's own weights.

  Images are prepared as the checkpoint says, at its resolution unless `image_size` asks for another
  (pixels). Class names come from the file where it has them, else they are "class 0", ... The name
  may be None where the checkpoint tells its model; the sizes are as `from_pretrained` takes them.
  """
  from vit_jax.checkpoints import pretrained

  opened = pretrained.open_checkpoint(
    name, checkpoint, image_size=image_size, checkpoint_image_size=checkpoint_image_size
  )
  model, names = opened.model, opened.metadata.get("class_names", ())
  if not model.num_classes:
    raise UserError(f"{checkpoint or name} has no classification head; fine-tune it first.")
  if not (named := bool(names)):
    names = [f"class {index}" for index in range(model.num_classes)]
  settings = settings_for(opened.name, checkpoint and opened.path, opened.image_size)
  return Classifier(opened.name, model, opened.variables, settings, tuple(names), named=named)


def settings_for(
  name: str, path: str | os.PathLike | None, image_size: int | Sequence[int] | None
) -> transforms.Preprocessing:
  """How a checkpoint's images are prepared; as its model's where nothing tells it.

  Raises:
    UserError: what tells it is damaged, or asks for something that we don't do.
  """
  from vit_jax.checkpoints import preprocessing

  told = preprocessing.told_preprocessing(path or name, image_size)
  if told is None:  # A bare file of another project; the model's own is the best guess.
    log.info("Images are prepared as for %s: %s does not tell how.", name, path)
    told = preprocessing.preprocessing_for(name, image_size)
  return told.settings


def find_images(paths: Sequence[str]) -> list[pathlib.Path]:
  """Expands files, folders (searched for images) and glob patterns, in the order given.

  What a pattern matches is treated as if it had been given itself, as a shell would do it. A file
  is listed once, at its first place. Whether it can be read is seen when it is: a broken link is
  listed. A folder that cannot be read, or has no images, is named in the log where there are other
  images.

  Raises:
    UserError: naming the first path that is nothing of these; no image is found; or there is a
      folder that cannot be read inside one that is searched.
  """
  found: dict[str, pathlib.Path] = {}  # By the absolute path.
  problems: list[str] = []
  for path in paths:
    matches = [path] if os.path.lexists(path) else _matches(path)
    if not matches:
      raise UserError(
        f"there is no image, folder or pattern match at {path or repr(path)}; check the path."
      )
    for match in matches:
      images, problem = _images_in(match) if os.path.isdir(match) else ([pathlib.Path(match)], None)
      for image in images:
        found.setdefault(os.path.abspath(image), image)
      if problem:
        problems.append(problem)
  if not found:
    raise UserError(problems[0])
  for problem in problems:
    log.warning("left out: %s", problem)
  return [*found.values()]


def _matches(pattern: str) -> list[str]:
  """What a pattern matches: files, broken links and folders, but not pipes and devices."""
  if not glob.has_magic(pattern):
    return []
  matches = sorted(glob.glob(pattern, recursive=True))
  if "**" in pattern:  # It goes through the folders itself.
    return [m for m in matches if not os.path.isdir(m)]
  return [m for m in matches if os.path.isfile(m) or os.path.isdir(m) or not os.path.exists(m)]


def _images_in(folder: str) -> tuple[list[pathlib.Path], str | None]:
  """The images of a folder, or why there are none."""
  if not os.access(folder, os.R_OK | os.X_OK):
    return [], f"the folder {folder} cannot be read; make it readable for this user."
  inside = listing.list_folder(folder)
  others = listing.told(inside.left_out)
  if not inside.images:
    only = f" that can be read, only files of other kinds ({others})" if others else ""
    return [], f"the folder {folder} holds no images{only}; pass a folder with images."
  if others:
    log.warning("%s: left out %s (not images that can be read)", folder, others)
  return [pathlib.Path(folder) / name for name in inside.images], None


@dataclasses.dataclass(frozen=True)
class Prediction:
  """The likeliest classes of an image with their probabilities, best first."""

  path: str
  classes: tuple[str, ...]
  probabilities: tuple[float, ...]


def predict(
  classifier: Classifier, paths: Sequence[str | os.PathLike], *, top: int = 5, batch: int = 32
) -> list[Prediction]:
  """Classifies image files.

  Files that cannot be read as images are named in the log, counted and left out. If it takes long,
  the log tells how far it is, at most once a second.

  Args:
    classifier: from `from_run` or `from_checkpoint`.
    paths: image files.
    top: number of classes to keep; all if there are fewer.
    batch: images per forward pass; the last batch is padded, so that one program serves all.

  Returns:
    One prediction for each image, in the order of the paths; of equal logits the lower class comes
    first. Where a logit is NaN or +infinity, the probabilities are NaN.

  Raises:
    UserError: if none of the files is an image.
  """
  if not len(paths):
    raise UserError("there are no images to classify; name at least one file.")
  spec = classifier.preprocessing
  transform = transforms.eval_transform(spec)
  batch = min(batch, len(paths))
  left_out: list[str] = []

  def load(path: str | os.PathLike) -> np.ndarray | None:
    try:
      return transform({"image": pathlib.Path(path).read_bytes(), "label": 0})["image"]
    except (OSError, decode.BadImage) as error:
      left_out.append(f"{printable(str(path))} ({getattr(error, 'strerror', None) or error})")
      if len(paths) > 1:  # Of a single one the error tells.
        log.warning("skipped %s", left_out[-1])
      return None
    except Exception as error:
      error.add_note(f"It happened with the image {path}.")
      raise

  @jax.jit
  def answers(variables: Any, images: Array) -> tuple[Float[Array, "b classes"], ...]:
    inputs = transforms.normalize(images, spec.mean, spec.std)
    logits = classifier.model.apply(variables, inputs, train=False)
    return logits, jax.nn.softmax(logits, axis=-1)

  top = min(top, len(classifier.class_names))
  results, tell = [], _Pace(len(paths))
  with futures.ThreadPoolExecutor(4) as pool:
    for start in range(0, len(paths), batch):
      tell(start)
      chunk = paths[start : start + batch]
      loaded = [(p, i) for p, i in zip(chunk, pool.map(load, chunk), strict=True) if i is not None]
      if not loaded:
        continue
      images = np.zeros((batch, *spec.size, spec.channels), np.uint8)
      images[: len(loaded)] = [image for _, image in loaded]
      logits, probabilities = map(np.asarray, answers(classifier.variables, images))
      # By the logits: among the probabilities, many are rounded to 0 and 1.
      order = np.argsort(-logits, axis=-1, kind="stable")[:, :top]
      for (path, _), best, row in zip(loaded, order, probabilities, strict=False):
        names = tuple(classifier.class_names[k] for k in best)
        results.append(Prediction(str(path), names, tuple(row[best].tolist())))
  if not results:
    which = f"none of the {len(paths)} files is" if len(paths) > 1 else "there is not"
    raise UserError(f"{which} an image that can be read: {left_out[0]}; check the path.")
  if left_out:
    log.warning("%d of %d files are left out: they cannot be read", len(left_out), len(paths))
  if unknown := sum(not np.isfinite(result.probabilities).all() for result in results):
    log.warning(
      "%d of %d images have no probabilities, because the model's logits are NaN or infinite; its "
      "weights may be damaged",
      *(unknown, len(results)),
    )
  return results


class _Pace:
  """Logs how far a long work is: at most once a second, and less and less often."""

  def __init__(self, total: int):
    self._total = total
    self._begun: tuple[int, float] | None = None  # When the first part was done: it compiles.
    self._told = 0.0

  def __call__(self, done: int) -> None:
    if not done:
      return
    now = time.monotonic()
    if self._begun is None:
      self._begun, self._told = (done, now), now
    first, begun = self._begun
    if now - self._told >= max(TELL_SECONDS, 0.1 * (now - begun)):
      rate = (done - first) / (now - begun)
      log.info("%d of %d images, %.1f a second", done, self._total, rate)
      self._told = now


def refuse_other_classes(
  classifier: Classifier, class_names: Sequence[str], dataset: str, model: str = "the model"
) -> None:
  """Raises UserError unless a classifier has the classes of a data set, as far as it names them."""
  if len(class_names) != len(classifier.class_names):
    raise UserError(
      f"{dataset} has {len(class_names)} classes, but {model} has "
      f"{len(classifier.class_names)}; use a data set with the same classes."
    )
  if classifier.named and tuple(class_names) != classifier.class_names:
    pairs = zip(class_names, classifier.class_names, strict=True)
    ours, theirs = next(pair for pair in pairs if pair[0] != pair[1])
    raise UserError(
      f"{dataset} has class {ours!r} where {model} has {theirs!r}; use a data set with the same "
      "classes in the same order."
    )


def class_indices(
  classifier: Classifier, class_names: Sequence[str], dataset: str
) -> tuple[int, ...] | None:
  """The model's index of each class of a data set; None if they are the same in the same order.

  Raises:
    UserError: the data set has a class that the model does not have, as far as its names are known.
  """
  if tuple(class_names) == classifier.class_names or not classifier.named:
    refuse_other_classes(classifier, class_names, dataset)
    return None
  index = {name: k for k, name in enumerate(classifier.class_names)}
  unknown = [name for name in class_names if name not in index]
  if unknown:
    raise UserError(
      f"{dataset} has {len(unknown)} classes that the model does not know, such as {unknown[0]!r}; "
      f"use a data set whose classes are among the model's {len(index)}."
    )
  if len(index) < len(classifier.class_names):
    twice = next(n for n in class_names if classifier.class_names.count(n) > 1)
    raise UserError(f"the model has several classes called {twice!r}; give each another name.")
  log.info(
    "%s has %d of the model's %d classes; each image is judged among those",
    *(dataset, len(class_names), len(classifier.class_names)),
  )
  return tuple(index[name] for name in class_names)


@dataclasses.dataclass(frozen=True)
class Examples:
  """What a classifier is evaluated on.

  Attributes:
    split: its name, or "all" for a whole folder that has no splits.
    source: the examples.
    dataset: the name of the data set.
    class_names: of the data set, in the order of its labels.
  """

  split: str
  source: sources.Source
  dataset: str
  class_names: tuple[str, ...]


def find_examples(
  classifier: Classifier,
  split: str | None = None,
  *,
  dataset: str | None = None,
  data_dir: str | None = None,
) -> Examples:
  """The examples to evaluate a classifier on; none that its run has learned from, unless asked for.

  Args:
    classifier: from `from_run` or `from_checkpoint`.
    split: "val" or "test", which mean what they meant in training, or a spec as "train[:10%]". None
      means "test", else "val"; of another folder without splits all of it.
    dataset: another data set than the run's.
    data_dir: where TFDS keeps its datasets; None means the run's.

  Raises:
    UserError: there is no such data set or split.
  """
  from vit_jax.workdir import run_data

  if dataset is None and classifier.run is None:
    raise UserError("give a data set to evaluate on, as in --dataset=/my/photos.")
  own, data = None, None
  if classifier.run is not None:
    info, workdir = classifier.run
    own, data = run_data.find_own(workdir, info, dataset, data_dir)
  if data is None:
    data = datasets.open_dataset(dataset, data_dir=data_dir)
  if not data.class_names:
    raise UserError(
      f"{data.name} has texts and no classes; how well they are found is measured in training."
    )
  if split is None:
    split = _usual_split(data, own)
  split = sources.split_of(split) or split
  if split == "all":
    source = _all(own.as_dataset() if own else data)
  elif own and own.specs.get(split):
    if split not in own.sources:
      raise UserError(f"the run's {split} has no images left in {data.name}; name another split.")
    return Examples(split, own.sources[split], data.name, data.class_names)
  else:
    source = (own.as_dataset() if own else data).source(split)
  if classifier.run is not None:
    source = run_data.without_learned(source, split, workdir, info, own)
  source.check_labels()
  return Examples(split, source, data.name, data.class_names)


def _all(data: sources.Dataset) -> sources.Source:
  """All examples of a data set, each once."""
  everything = sources.concatenate([*data.tables.values()])
  _, first = np.unique(everything.keys(), return_index=True)
  return everything if len(first) == len(everything) else everything.select(np.sort(first))


def _usual_split(data: sources.Dataset, own: RunData | None) -> str:
  if own is None and "test" in data.drawn:
    return "all"
  known = own.sources if own else data.tables
  for split in ("test", "val"):
    if split in known:
      return split
  whose = "the run" if own else data.name
  raise UserError(
    f"{whose} has neither test nor val; name what to evaluate on with --split: {data.name} has "
    f"{', '.join(data.splits)}."
  )


def evaluate_split(
  classifier: Classifier,
  split: str | None = None,
  *,
  dataset: str | None = None,
  data_dir: str | None = None,
  batch: int = 64,
) -> dict[str, float | int]:
  """Accuracy of a classifier over every example of a split.

  Args:
    classifier, split, dataset, data_dir: see `find_examples`. The classes of another data set must
      be among the model's, by name.
    batch: see `evaluate_examples`.

  Returns:
    {"accuracy", "top5", "loss", "examples"} as evaluation.classification.evaluate, which leaves
    top5 out of few classes.
  """
  found = find_examples(classifier, split, dataset=dataset, data_dir=data_dir)
  return evaluate_examples(classifier, found, batch=batch)


def evaluate_examples(
  classifier: Classifier, examples: Examples, *, batch: int = 64
) -> dict[str, float | int]:
  """As `evaluate_split`; `batch` is rounded up to a multiple of the devices."""
  from vit_jax.data import loader
  from vit_jax.evaluation import classification

  classes = class_indices(classifier, examples.class_names, examples.dataset)
  spec = classifier.preprocessing
  batch = math.ceil(batch / jax.device_count()) * jax.device_count()
  batches = loader.eval_batches(examples.source, spec, batch_size=batch)
  step = classification.make_eval_step(
    classifier.model, mean=spec.mean, std=spec.std, classes=classes
  )
  return classification.evaluate(step, classifier.variables, batches)
