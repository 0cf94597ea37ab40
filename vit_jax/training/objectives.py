# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What a training step minimises: functions of parameters and a batch, for `step.make_train_step`.

An objective maps (params, collections, batch, rng, batch_rng, fixed) to (loss, (metrics,
collections)). Loss and metrics are float32 scalars, means over the batch; the collections are those
that the model updates as it goes, such as batch statistics. `rng` is that of a micro-batch,
`batch_rng` that of the step; `fixed` is what `train_step` was given under that name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vit_jax.data import transforms
from vit_jax.training import augment, losses

Batch = dict[str, jax.Array]
Outcome = tuple[jax.Array, tuple[dict[str, jax.Array], Any]]


class Objective(Protocol):
  """See the module."""

  def __call__(
    self,
    params: Any,
    collections: Any,
    batch: Batch,
    rng: jax.Array,
    batch_rng: jax.Array,
    fixed: Any = None,
  ) -> Outcome: ...


def apply(
  model: nn.Module, params: Any, collections: Any, rng: jax.Array, *inputs: jax.Array
) -> tuple[Any, Any]:
  """The model's output in training, and its collections after that."""
  return model.apply(
    {"params": params, **collections},
    *inputs,
    train=True,
    rngs={"dropout": rng},
    mutable=[*collections],
  )


def mixed(
  batch: Batch, batch_rng: jax.Array, *, mixup: float, cutmix: float, num_classes: int | None
) -> tuple[Float[Array, "b h w c"], Int[Array, " b"] | Float[Array, "b k"], Int[Array, " b"]]:
  """Images in 0..255, targets, and the labels that a prediction is compared with.

  Where examples are mixed, targets are shares of the classes, and a label is that of the largest.
  """
  images, labels = batch["image"], batch["label"]
  if not mixup and not cutmix:
    return images, labels, labels
  targets = jax.nn.one_hot(labels, num_classes)
  images, targets = augment.mix(
    batch_rng, images.astype(jnp.float32), targets, mixup=mixup, cutmix=cutmix
  )
  return images, targets, targets.argmax(-1)


def classification(
  model: nn.Module,
  *,
  mean: tuple[float, ...],
  std: tuple[float, ...],
  label_smoothing: float = 0.0,
  mixup: float = 0.0,
  cutmix: float = 0.0,
  num_classes: int | None = None,
) -> Objective:
  """Softmax cross-entropy against labels.

  Args:
    model: maps float32 images [batch, h, w, c] to logits [batch, classes].
    mean: per channel, for `(image / 255 - mean) / std`.
    std: per channel.
    label_smoothing: see `losses.softmax_cross_entropy`.
    mixup: alpha of `augment.mix`; 0 leaves images and labels alone.
    cutmix: likewise.
    num_classes: width of the logits; only needed for `mixup` and `cutmix`.

  Returns:
    An objective of batches with uint8 `image` [batch, h, w, c] and int32 `label` [batch]; its
    metric is `accuracy`. Of mixed examples a prediction is right if it is the label of the larger
    share.
  """

  def objective(params, collections, batch, rng, batch_rng, fixed=None) -> Outcome:
    del fixed
    images, targets, labels = mixed(
      batch, batch_rng, mixup=mixup, cutmix=cutmix, num_classes=num_classes
    )
    images = transforms.normalize(images, mean, std)
    logits, collections = apply(model, params, collections, rng, images)
    loss = losses.softmax_cross_entropy(logits, targets, label_smoothing).mean()
    accuracy = jnp.mean(logits.argmax(-1) == labels, dtype=jnp.float32)
    return loss, ({"accuracy": accuracy}, collections)

  return objective


def distillation(
  model: nn.Module,
  teach: Callable[[Any, Float[Array, "b h w c"]], Float[Array, "b k"]],
  *,
  compare: Callable[[Float[Array, "b k"], Float[Array, "b k"]], Float[Array, " b"]],
  weight: float,
  mean: tuple[float, ...],
  std: tuple[float, ...],
  label_smoothing: float = 0.0,
  mixup: float = 0.0,
  cutmix: float = 0.0,
  num_classes: int | None = None,
) -> Objective:
  """Labels and a teacher: (1 - weight) * cross-entropy + weight * compare(student, teacher).

  Section 4 of arXiv:2012.12877. The teacher sees the very images that the student sees, mixed ones
  too. A student with a distillation head learns from the teacher with that, and from the labels
  with the other; any other student learns from both with its only head.

  Args:
    model: the student: maps images to logits [batch, classes], or [batch, 2, classes] of the class
      head and the distillation head (`models.deit` with `average_heads=False`).
    teach: maps (`fixed`, images [batch, h, w, c] in 0..255) to the teacher's logits.
    compare: such as `losses.hard_distillation`.
    weight: the teacher's share, in [0, 1].
    mean, std, label_smoothing, mixup, cutmix, num_classes: see `classification`.

  Returns:
    An objective of batches with uint8 `image` and int32 `label`, and of `fixed`, what `teach`
    takes. A batch with `teacher`, float32 logits [batch, classes], needs no `fixed`. Metrics are
    `accuracy` (of the mean of both heads), `teacher_accuracy`, and `agreement`, how often student
    and teacher name the same class.
  """

  def objective(params, collections, batch, rng, batch_rng, fixed=None) -> Outcome:
    images, targets, labels = mixed(
      batch, batch_rng, mixup=mixup, cutmix=cutmix, num_classes=num_classes
    )
    taught = batch["teacher"] if "teacher" in batch else teach(fixed, images)
    images = transforms.normalize(images, mean, std)
    logits, collections = apply(model, params, collections, rng, images)
    heads = (logits[:, 0], logits[:, 1]) if logits.ndim == 3 else (logits, logits)
    loss = (1.0 - weight) * losses.softmax_cross_entropy(heads[0], targets, label_smoothing)
    loss = loss + weight * compare(heads[1], jax.lax.stop_gradient(taught))
    said, taught = (heads[0] + heads[1]).argmax(-1), taught.argmax(-1)
    metrics = {
      "accuracy": said == labels,
      "teacher_accuracy": taught == labels,
      "agreement": said == taught,
    }
    metrics = {name: jnp.mean(right, dtype=jnp.float32) for name, right in metrics.items()}
    return loss.mean(), (metrics, collections)

  return objective


def contrastive(
  model: nn.Module,
  *,
  mean: tuple[float, ...],
  std: tuple[float, ...],
  loss: str = "softmax",
) -> Objective:
  """Images and their texts should lie close, and far from the others of the whole batch.

  The batch is one array over all devices, so every image meets every text: XLA gathers the
  embeddings, which are small.

  Args:
    model: of two towers, as `models.lit.TwoTowers`.
    mean: per channel, for `(image / 255 - mean) / std`.
    std: per channel.
    loss: a key of `losses.CONTRASTIVE`.

  Returns:
    An objective of batches with uint8 `image` [batch, h, w, c] and int32 `tokens` [batch, length].
    Its metrics are `accuracy`, how often an image's own text is closer than every other text of the
    batch (the same words count as the same text), and `temperature`.
  """
  compare = losses.CONTRASTIVE[loss]

  def objective(params, collections, batch, rng, batch_rng, fixed=None) -> Outcome:
    del batch_rng, fixed
    images = transforms.normalize(batch["image"], mean, std)
    (zimg, ztxt, out), collections = apply(model, params, collections, rng, images, batch["tokens"])
    logits = out["t"] * zimg @ ztxt.T + out.get("b", 0.0)
    tokens = batch["tokens"]
    others = jnp.any(tokens[:, None] != tokens[None, :], axis=-1)
    closest = jnp.where(others, logits, -jnp.inf).max(axis=-1)
    accuracy = jnp.mean(jnp.diagonal(logits) > closest, dtype=jnp.float32)
    metrics = {"accuracy": accuracy, "temperature": out["t"][0]}
    return compare(logits).mean(), (metrics, collections)

  return objective
