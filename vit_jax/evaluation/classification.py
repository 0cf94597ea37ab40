# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Top-1, top-5 and loss of a classifier over every example of a split."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool

from vit_jax.data import loader, sources, transforms
from vit_jax.errors import UserError
from vit_jax.parallel import mesh as mesh_lib
from vit_jax.parallel import sharding
from vit_jax.training import losses

TOP = 5

EvalStep = Callable[[Any, Mapping[str, jax.Array]], dict[str, jax.Array]]


def make_eval_step(
  model: nn.Module,
  *,
  mean: tuple[float, ...],
  std: tuple[float, ...],
  mesh: jax.sharding.Mesh | None = None,
  classes: tuple[int, ...] | None = None,
) -> EvalStep:
  """Compiles the forward pass and its masked sums.

  Args:
    model: maps float32 images [batch, h, w, c] to logits [batch, classes].
    mean: per channel, for `(image / 255 - mean) / std`.
    std: per channel.
    mesh: the batch is split over its data axis; all devices by default.
    classes: the model's index of each label, where the data set has a part of the model's classes
      (as ImageNet-A and -R have) or another order; the other logits are left out.

  Returns:
    `step(variables, batch)`, where batch holds uint8 `image` [batch, h, w, c], int32 `label`
    [batch] and float32 `mask` [batch] (0 for padding); gives float32 sums over the real examples:
    `correct`, `top5`, `loss`, `count`, and `right`, bool [batch]. An example is right if its label
    is the first class in the order of the logits, and counts for `top5` if it is among the first
    five; of equal logits the lower class comes first, as in argmax and top_k. A NaN among the
    logits leaves no order, so the example is wrong. With five classes or fewer, of which every
    example would be right, there is no `top5`.
  """

  mesh = mesh or mesh_lib.make_mesh()

  def eval_step(variables: Any, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    images = transforms.normalize(batch["image"], mean, std)
    with sharding.examples_stay(mesh, len(images)):
      logits = model.apply(variables, images, train=False).astype(jnp.float32)
    if classes is not None:
      logits = logits[:, jnp.array(classes)]
    label, mask = batch["label"], batch["mask"]
    own = jnp.take_along_axis(logits, label[:, None], axis=-1)
    earlier = jnp.arange(logits.shape[-1]) < label[:, None]
    rank = ((logits > own) | ((logits == own) & earlier)).sum(-1)
    ordered = ~jnp.isnan(logits).any(-1)
    right = (rank < 1) & ordered
    sums = {
      "correct": (mask * right).sum(),
      # `where` rather than a product: a padded example may well have an infinite loss.
      "loss": jnp.where(mask > 0, losses.softmax_cross_entropy(logits, label), 0.0).sum(),
      "count": mask.sum(),
    }
    if logits.shape[-1] > TOP:
      sums["top5"] = (mask * ((rank < TOP) & ordered)).sum()
    return {"right": right, **sums}

  return jax.jit(eval_step, out_shardings=mesh_lib.replicated(mesh))


def evaluate(
  eval_step: EvalStep,
  variables: Any,
  batches: Iterable[Mapping[str, np.ndarray]],
  mesh: jax.sharding.Mesh | None = None,
) -> dict[str, float | int]:
  """Evaluates every example once.

  Args:
    eval_step: from `make_eval_step`.
    variables: the model's variables.
    batches: as `vit_jax.data.loader.eval_batches` gives: equal sizes, the last one padded, `mask` 1
      for real examples.
    mesh: the mesh that `eval_step` was made for.

  Returns:
    `{"accuracy", "top5", "loss", "examples"}`: shares in [0, 1], mean loss in nats, and the count.
    `top5` only with more than five classes.

  Raises:
    UserError: if there is no example.
  """
  mesh = mesh or mesh_lib.make_mesh()
  variables = mesh_lib.on_mesh(variables, mesh)
  # Sums stay on the device until the end, so that decoding and computing overlap.
  sums = jax.device_get([outcome for _, outcome in _each(eval_step, variables, batches, mesh)])
  # float64 here: a float32 count stops at 2^24 examples.
  total = lambda name: float(np.sum([s[name] for s in sums], dtype=np.float64))
  count = round(total("count"))
  if not count:
    raise UserError("There is no example to evaluate; check the split and the images.")
  shares = {"accuracy": "correct", "top5": "top5", "loss": "loss"}
  return {
    **{name: total(own) / count for name, own in shares.items() if own in sums[0]},
    "examples": count,
  }


def _each(
  eval_step: EvalStep,
  variables: Any,
  batches: Iterable[Mapping[str, np.ndarray]],
  mesh: jax.sharding.Mesh,
) -> Iterator[tuple[Mapping[str, np.ndarray], dict[str, jax.Array]]]:
  """Each batch and what the step gives for it; one batch at most waits for the one before it.

  Without that limit a host that decodes faster than the devices compute would fill their memory
  with images.
  """
  before = None
  for batch in batches:
    outcome = eval_step(variables, mesh_lib.place_batch(dict(batch), mesh))
    jax.block_until_ready(before)
    yield batch, outcome
    before = outcome


def batches_of(
  splits: Mapping[str, sources.Source | None],
  preprocessing: transforms.Preprocessing,
  mesh: jax.sharding.Mesh,
  *,
  batch: int,
  **options: Any,
) -> dict[str, loader.EvalBatches]:
  """This process's batches of each split that is not None; `options` are the loader's.

  They have one size, so that a step compiles once: `batch` over all processes, or what the largest
  split fills, to the nearest that the devices divide.
  """
  devices = mesh_lib.data_parallelism(mesh)
  share, shares = mesh_lib.reader(mesh)
  present = {name: source for name, source in splits.items() if source is not None}
  largest = max(map(len, present.values()), default=0)
  size = devices * max(1, min(batch // devices, math.ceil(largest / devices)))
  return {
    name: loader.eval_batches(
      source,
      preprocessing,
      batch_size=size // shares,
      shard_index=share,
      shard_count=shares,
      **options,
    )
    for name, source in present.items()
  }


class Evaluator:
  """Evaluates the splits of a data set by their names, each with batches of its own.

  Attributes:
    metric: the score that tells which of two checkpoints is better (higher is better).
  """

  metric = "accuracy"

  def __init__(
    self,
    model: nn.Module,
    splits: Mapping[str, sources.Source | None],
    preprocessing: transforms.Preprocessing,
    *,
    batch: int,
    threads: int = 4,
    max_bad_fraction: float = 0.01,
    mesh: jax.sharding.Mesh | None = None,
  ):
    """Sets up the batches; a split that is None is left out.

    Args:
      model: see `make_eval_step`.
      splits: by name.
      preprocessing: how an image is evaluated, with its mean and std.
      batch: examples in one step, over all processes; fewer if no split has as many.
      threads: that read and decode.
      max_bad_fraction: share of images that may be unreadable.
      mesh: the batch is split over its data axis; all devices by default.
    """
    self._mesh = mesh or mesh_lib.make_mesh()
    self._step = make_eval_step(
      model, mean=preprocessing.mean, std=preprocessing.std, mesh=self._mesh
    )
    self._batches = batches_of(
      splits,
      preprocessing,
      self._mesh,
      batch=batch,
      threads=threads,
      max_bad_fraction=max_bad_fraction,
    )

  def __contains__(self, split: str) -> bool:
    return split in self._batches

  def __call__(self, split: str, variables: Any) -> dict[str, float | int]:
    """Evaluates every example of `split`; see `evaluate`."""
    return evaluate(self._step, variables, self._batches[split], self._mesh)

  def right(self, split: str, variables: Any) -> Bool[np.ndarray, " examples"]:
    """Which examples of `split` are classified correctly, in their order; on one process."""
    variables = mesh_lib.on_mesh(variables, self._mesh)
    steps = [
      outcome["right"][batch["mask"] > 0]
      for batch, outcome in _each(self._step, variables, self._batches[split], self._mesh)
    ]
    return np.concatenate(jax.device_get(steps))
