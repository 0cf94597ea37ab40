# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What a training step minimises: functions of parameters and a batch, for `step.make_train_step`.

An objective maps (params, collections, batch, rng, batch_rng) to (loss, metrics), all of them
float32 scalars: means over the batch. `rng` is that of a micro-batch, `batch_rng` that of the step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vit_jax.data import transforms
from vit_jax.training import augment, losses

Batch = dict[str, jax.Array]
Objective = Callable[
  [Any, Any, Batch, jax.Array, jax.Array], tuple[jax.Array, dict[str, jax.Array]]
]


def classification(
  model: nn.Module,
  *,
  mean: tuple[float, ...],
  std: tuple[float, ...],
  label_smoothing: float = 0.0,
  mixup: float = 0.0,
  num_classes: int | None = None,
) -> Objective:
  """Softmax cross-entropy against labels.

  Args:
    model: maps float32 images [batch, h, w, c] to logits [batch, classes].
    mean: per channel, for `(image / 255 - mean) / std`.
    std: per channel.
    label_smoothing: see `losses.softmax_cross_entropy`.
    mixup: alpha of `augment.mixup`; 0 leaves images and labels alone.
    num_classes: width of the logits; only needed for `mixup`.

  Returns:
    An objective of batches with uint8 `image` [batch, h, w, c] and int32 `label` [batch]; its
    metric is `accuracy`. With `mixup` a prediction is right if it is the label of the larger share.
  """

  def objective(params, collections, batch: Batch, rng: jax.Array, batch_rng: jax.Array):
    images, labels = transforms.normalize(batch["image"], mean, std), batch["label"]
    targets = labels
    if mixup:
      one_hot = jax.nn.one_hot(labels, num_classes)
      images, targets = augment.mixup(batch_rng, images, one_hot, mixup)
      labels = targets.argmax(-1)
    logits = model.apply(
      {"params": params, **collections}, images, train=True, rngs={"dropout": rng}
    )
    loss = losses.softmax_cross_entropy(logits, targets, label_smoothing).mean()
    return loss, {"accuracy": jnp.mean(logits.argmax(-1) == labels, dtype=jnp.float32)}

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

  def objective(params, collections, batch: Batch, rng: jax.Array, batch_rng: jax.Array):
    del batch_rng
    images = transforms.normalize(batch["image"], mean, std)
    zimg, ztxt, out = model.apply(
      {"params": params, **collections}, images, batch["tokens"], train=True, rngs={"dropout": rng}
    )
    logits = out["t"] * zimg @ ztxt.T + out.get("b", 0.0)
    tokens = batch["tokens"]
    others = jnp.any(tokens[:, None] != tokens[None, :], axis=-1)
    closest = jnp.where(others, logits, -jnp.inf).max(axis=-1)
    accuracy = jnp.mean(jnp.diagonal(logits) > closest, dtype=jnp.float32)
    return compare(logits).mean(), {"accuracy": accuracy, "temperature": out["t"][0]}

  return objective
