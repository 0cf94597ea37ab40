# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Batches of uint8 images: shuffled and endless for training, each example once for evaluation."""

from __future__ import annotations

import dataclasses
import logging
import math
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import cv2
import grain
import numpy as np

from vit_jax.data.sources import ArraySource, Source
from vit_jax.data.text import Captions
from vit_jax.data.transforms import BadImage, Preprocessing, eval_transform, train_transform
from vit_jax.errors import UserError

_LOGGER = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class _Failure:
  """What a worker thread returns instead of an example: raising there would break the stream."""

  id: str
  error: Exception

  def named(self) -> Exception:
    """The error, which tells with which example it happened."""
    if isinstance(self.error, UserError):
      return UserError(f"{self.id}: {self.error}")
    self.error.add_note(f"It happened with the image {self.id}.")
    return self.error


class BadImages:
  """The images that could not be read: counted once each, logged once each, limited.

  The limit is a share of what this process has to read of the split: its part, and what it has been
  given beyond that, since in training every epoch has another part for it.

  Attributes:
    given: images that were read so far, or could not be.
  """

  def __init__(self, examples: int, max_fraction: float, processes: int):
    self._examples = examples
    self._max_fraction = max_fraction
    self._part = math.ceil(examples / processes)
    self._reasons: dict[str, str] = {}
    self.given = 0

  @property
  def names(self) -> tuple[str, ...]:
    return tuple(self._reasons)

  def add(self, failure: _Failure) -> None:
    """Notes a failure in the consumer's thread.

    Raises:
      UserError: too many distinct images have failed by now.
      Exception: the failure was not the image's but ours.
    """
    if not isinstance(failure.error, (BadImage, OSError)):
      raise failure.named()
    if failure.id in self._reasons:
      return
    self._reasons[failure.id] = str(failure.error)
    _LOGGER.warning("skipped the bad image %s: %s", failure.id, failure.error)
    # One bad image never stops a run, however small the split, unless the fraction is 0.
    seen = min(max(self._part, self.given), self._examples)
    allowed = max(int(self._max_fraction * seen), 1 if self._max_fraction > 0 else 0)
    if len(self._reasons) > min(allowed, self._examples - 1):
      raise UserError(
        f"{len(self._reasons)} of {seen} images cannot be read, the last of them "
        f"{failure.id} ({failure.error}); this is more "
        f"than the allowed share of {self._max_fraction:g}; repair or remove them and "
        "continue with --resume=changed-data, or raise config.max_bad_fraction."
      )


class _SkipBad(grain.IterDataset):
  """Takes failures out of the stream, in the thread that consumes it."""

  def __init__(self, parent: grain.IterDataset, bad: BadImages):
    super().__init__(parent)
    self._bad = bad

  def __iter__(self) -> grain.DatasetIterator:
    return _SkipBadIterator(iter(self._parent), self._bad)


class _SkipBadIterator(grain.DatasetIterator):
  def __init__(self, parent: grain.DatasetIterator, bad: BadImages):
    super().__init__(parent)
    self._bad = bad

  def __next__(self) -> dict[str, Any]:
    while True:
      element = next(self._parent)
      self._bad.given += 1
      if not isinstance(element, _Failure):
        return element
      self._bad.add(element)

  def get_state(self) -> dict[str, Any]:
    return self._parent.get_state()

  def set_state(self, state: dict[str, Any]) -> None:
    self._parent.set_state(state)


class _Load:
  """Reads one example by its index and transforms it; any error becomes a `_Failure`."""

  def __init__(self, source: Source, transform, rows: Mapping[str, np.ndarray] | None = None):
    self._source = source
    self._transform = transform
    self._rows = rows or {}

  def __call__(self, index: int, rng: np.random.Generator | None = None) -> dict | _Failure:
    record = None
    try:
      record = self._source[int(index)]
      example = self._transform(record, rng)
      for name, values in self._rows.items():
        example[name] = values[index]
        if np.isnan(example[name]).any():
          raise BadImage(f"it could not be read for its {name!r}, either")
      return example
    except Exception as e:  # noqa: BLE001 - It is raised where the batches are asked for.
      name = record["id"] if record else self._source.name(int(index))
      return _Failure(name, e)


class _Order:
  """Which example stands at a position of the endless stream: one permutation an epoch.

  A permutation costs 25 ms a million; grain's `shuffle` costs 44 us for each example. RandomState,
  because its streams are frozen: a resumed run sees the same order under any NumPy.
  """

  def __init__(self, examples: int, seed: int):
    self._examples = examples
    self._seed = seed
    self._epochs: dict[int, np.ndarray] = {}
    self._lock = threading.Lock()

  def __len__(self) -> int:
    return sys.maxsize

  def __getitem__(self, position: int) -> int:
    epoch, offset = divmod(position, self._examples)
    order = self._epochs.get(epoch)
    return int((self._permutation(epoch) if order is None else order)[offset])

  def _permutation(self, epoch: int) -> np.ndarray:
    with self._lock:
      if epoch not in self._epochs:
        order = np.random.RandomState([self._seed, epoch]).permutation(self._examples)
        # Threads that run ahead still need the epoch before.
        self._epochs = {k: v for k, v in self._epochs.items() if k == epoch - 1} | {epoch: order}
      return self._epochs[epoch]


class TrainLoader:
  """An endless stream of training batches, shuffled globally in every epoch.

  The example at a position of the stream and its augmentation depend on the seed and the position
  only, not on threads, timing or batch sizes. So any number of processes together see the same
  examples in a step, augmented alike. The iterator's state is its position, restores exactly, and
  works with `grain.checkpoint`.

  Images in memory (digits) are transformed a batch at a time, since for them handing single
  images between threads would cost more than the work.
  """

  def __init__(
    self,
    source: Source,
    preprocessing: Preprocessing,
    *,
    batch_size: int,
    seed: int,
    threads: int = 4,
    prefetch: int = 256,
    max_bad_fraction: float = 0.01,
    shard_index: int = 0,
    shard_count: int = 1,
    first: int = 0,
    captions: Captions | None = None,
    rows: Mapping[str, np.ndarray] | None = None,
  ):
    """Sets up the stream; nothing is read before the first batch is asked for.

    Args:
      source: the split to train on.
      preprocessing: what becomes of an image.
      batch_size: examples in a batch of this process.
      seed: decides order and augmentation.
      threads: that read and decode; 0 works in the calling thread.
      prefetch: examples to have ready.
      max_bad_fraction: share of the split's images that may fail to decode.
      shard_index, shard_count: this process among those that share each batch.
      first: how many examples of the stream all processes together leave out, whole batches of all.
      captions: makes the texts, for models that read them.
      rows: arrays [examples of the source, ...], whose rows become part of the batches by name; an
        example with a NaN there is left out, like one that cannot be read.
    """
    if batch_size < 1:
      raise UserError(f"batch={batch_size} must be at least 1.")
    self.batch_size = batch_size
    self._bad = BadImages(len(source), max_bad_fraction, shard_count)
    transform = train_transform(preprocessing, captions)
    seed = int(np.random.SeedSequence(seed).generate_state(1)[0])  # Any seed to 32 bits.
    order = _Order(len(source), seed)
    if isinstance(source, ArraySource):
      share = (shard_index, shard_count)
      load = _LoadBatch(_Load(source, transform, rows), order, seed, batch_size, share)
      work = grain.MapDataset.range(sys.maxsize // batch_size // shard_count).map(load)
      work = work.slice(slice(first // batch_size // shard_count, None))
      buffer = max(2, prefetch // batch_size)
      self._dataset = work.to_iter_dataset(_read_options(min(threads, 1), buffer))
    else:
      work = grain.MapDataset.source(order).random_map(_Load(source, transform, rows), seed=seed)
      work = work.slice(slice(first + shard_index, None, shard_count))
      examples = _SkipBad(work.to_iter_dataset(_read_options(threads, prefetch)), self._bad)
      self._dataset = examples.batch(batch_size, drop_remainder=True)

  @property
  def bad_images(self) -> tuple[str, ...]:
    """The ids of the images that were skipped so far, each once."""
    return self._bad.names

  def iterator(self) -> grain.DatasetIterator:
    """A new iterator over `{"image": uint8 [batch, h, w, channels], "label": int32 [batch]}`.

    With captions also `"tokens"`: int32 [batch, length].
    """
    cv2.setNumThreads(1)  # The threads here are enough; OpenCV's own would fight with XLA's.
    return iter(self._dataset)

  def __iter__(self) -> grain.DatasetIterator:
    return self.iterator()


class _LoadBatch:
  """Transforms a whole batch of images in memory, given its number."""

  def __init__(
    self, load: _Load, order: _Order, seed: int, batch_size: int, share: tuple[int, int]
  ):
    self._load = load
    self._order = order
    self._seed = seed
    self._batch_size = batch_size
    self._share = share

  def __call__(self, batch: int) -> dict[str, np.ndarray]:
    index, count = self._share
    philox = np.random.Philox(self._seed)
    rng, state = np.random.Generator(philox), philox.state
    examples = []
    for k in range(batch * self._batch_size, (batch + 1) * self._batch_size):
      position = k * count + index
      # Each position has its own random stream, the one that grain's `random_map` gives to files.
      # Resetting one generator costs 1 us, a new one 8 us.
      state["state"]["counter"][3] = position
      philox.state = state
      example = self._load(self._order[position], rng)
      if isinstance(example, _Failure):  # Images in memory need no decoding, so it is ours.
        raise example.named()
      examples.append(example)
    return {key: np.stack([e[key] for e in examples]) for key in examples[0]}


def _read_options(threads: int, prefetch: int) -> grain.ReadOptions:
  return grain.ReadOptions(num_threads=threads, prefetch_buffer_size=prefetch if threads else 0)


class EvalBatches:
  """Every example of a source once, in order; can be iterated again and again."""

  def __init__(
    self,
    source: Source,
    preprocessing: Preprocessing,
    *,
    batch_size: int,
    threads: int = 4,
    prefetch: int = 256,
    max_bad_fraction: float = 0.01,
    shard_index: int = 0,
    shard_count: int = 1,
  ):
    if batch_size < 1:
      raise UserError(f"batch_eval={batch_size} must be at least 1.")
    self.batch_size = batch_size
    self._shape = (*preprocessing.size, preprocessing.channels)
    self._bad = BadImages(len(source), max_bad_fraction, shard_count)
    order = grain.MapDataset.range(len(source)).slice(slice(shard_index, None, shard_count))
    # All processes get as many batches, since they have to step together.
    self._batches = math.ceil(math.ceil(len(source) / shard_count) / batch_size)
    if isinstance(source, ArraySource):
      threads = 0
    work = order.map(_Load(source, eval_transform(preprocessing)))
    self._dataset = _SkipBad(work.to_iter_dataset(_read_options(threads, prefetch)), self._bad)

  @property
  def bad_images(self) -> tuple[str, ...]:
    """The ids of the images that were skipped so far, each once."""
    return self._bad.names

  def __len__(self) -> int:
    """The number of batches."""
    return self._batches

  def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
    cv2.setNumThreads(1)
    self._bad.given = 0  # Every time it is the same part.
    examples = iter(self._dataset)
    for _ in range(self._batches):
      images = np.zeros((self.batch_size, *self._shape), np.uint8)
      labels = np.zeros(self.batch_size, np.int32)
      mask = np.zeros(self.batch_size, np.float32)
      for k in range(self.batch_size):
        example = next(examples, None)
        if example is None:
          break
        images[k], labels[k], mask[k] = example["image"], example["label"], 1
      yield {"image": images, "label": labels, "mask": mask}


def eval_batches(
  source: Source, preprocessing: Preprocessing, *, batch_size: int, threads: int = 4, **options: Any
) -> EvalBatches:
  """Batches `{"image", "label", "mask"}` that hold every example once, in order.

  The last batch is padded with zeros; mask float32 [batch] is 1 for an example and 0 for padding.
  Images that cannot be decoded are left out, counted and named, as in training.
  """
  return EvalBatches(source, preprocessing, batch_size=batch_size, threads=threads, **options)
