# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A trained classifier that another one learns from: section 4 of arXiv:2012.12877."""

from __future__ import annotations

import dataclasses
import functools
import os
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vit_jax.checkpoints import pretrained
from vit_jax.data import sources, transforms
from vit_jax.errors import UserError
from vit_jax.evaluation import classification, classifier
from vit_jax.models import registry
from vit_jax.models.lit import TwoTowers
from vit_jax.training import losses, sharding
from vit_jax.training import mesh as mesh_lib
from vit_jax.training.plan import DistillPlan, Plan


@dataclasses.dataclass(frozen=True)
class Teacher:
  """A frozen classifier with its own resolution, channels and normalisation.

  Attributes:
    model, variables: the module and what it has learned, as NumPy arrays.
    preprocessing: how it has seen images.
  """

  model: nn.Module
  variables: Any
  preprocessing: transforms.Preprocessing

  def __call__(self, variables: Any, images: Float[Array, "b h w c"]) -> Float[Array, "b k"]:
    """What it says of a student's images, in 0..255: float32 logits [batch, classes].

    Args:
      variables: its own, as an argument of the compiled program that this is a part of.
      images: resized to its resolution; grey ones are given to a teacher of colours as they are.
    """
    spec = self.preprocessing
    shape = (images.shape[0], *spec.size, images.shape[-1])
    images = images.astype(jnp.float32)
    if images.shape != shape:
      images = jax.image.resize(images, shape, "bilinear", antialias=True)
    images = jnp.broadcast_to(images, (*shape[:3], spec.channels))
    logits = self.model.apply(
      variables, transforms.normalize(images, spec.mean, spec.std), train=False
    )
    return logits.astype(jnp.float32)

  def answers(
    self, source: sources.Source, plan: Plan, mesh: jax.sharding.Mesh
  ) -> Float[np.ndarray, "n k"]:
    """Its logits of all examples of a split, each prepared once as in evaluation.

    Returns:
      float32 [examples, classes], NaN where an image cannot be read: the loader leaves that out.
    """
    batches = classification.batches_of(
      {"train": sources.Numbered(source)},
      self.preprocessing,
      mesh,
      batch=plan.batch_eval,
      threads=plan.threads,
      max_bad_fraction=plan.max_bad_fraction,
    )["train"]

    def say(variables: Any, batch: Any) -> tuple[jax.Array, ...]:
      with sharding.examples_stay(mesh, len(batch["image"])):
        return self(variables, batch["image"]), batch["label"], batch["mask"]

    say = jax.jit(say, out_shardings=mesh_lib.replicated(mesh))
    variables = mesh_lib.place(self.variables, sharding.shardings(self.variables, mesh))
    found = None
    for batch in batches:
      placed = mesh_lib.place_batch(dict(batch), mesh)
      logits, index, mask = jax.device_get(say(variables, placed))
      if found is None:
        found = np.full((len(source), logits.shape[-1]), np.nan, np.float32)
      found[index[mask > 0]] = logits[mask > 0]
    return found


def load(plan: Plan, class_names: tuple[str, ...]) -> Teacher:
  """Loads the teacher of a plan.

  Raises:
    UserError: it cannot be loaded, or knows other classes or colours than the student.
  """
  found = _find(plan.distill)
  classifier.refuse_other_classes(found, class_names, plan.dataset, "the teacher")
  spec = found.preprocessing
  if spec.channels < plan.pp.channels:
    raise UserError(
      f"config.distill.teacher={plan.distill.teacher!r} sees grey images and the student colours; "
      "name another, or set config.pp.channels=1."
    )
  return Teacher(found.model, jax.device_get(found.variables), spec)


def _find(distill: DistillPlan) -> classifier.Classifier:
  name, size = distill.teacher, distill.image_size
  is_run = os.path.isdir(name) or "://" in name
  if not is_run:
    try:
      two_towers = registry.get_entry(name).text
    except UserError as error:
      raise UserError(
        f"config.distill.teacher={name!r} is no work directory of a run, and {error}"
      ) from error
    if not two_towers:
      return classifier.from_checkpoint(name, distill.checkpoint, size)
  found = classifier.from_run(name) if is_run else None
  if found is None or isinstance(found.model, TwoTowers):
    raise UserError(f"config.distill.teacher={name!r} has two towers; name a classifier.")
  if size and found.preprocessing.size != (size, size):
    model, variables = pretrained.from_pretrained(found.name, name, image_size=size)
    spec = found.preprocessing.at(size)
    found = dataclasses.replace(found, model=model, variables=variables, preprocessing=spec)
  return found


def comparison(plan: DistillPlan):
  """The loss between the logits of student and teacher that a plan names."""
  if plan.loss == "hard":
    return losses.hard_distillation
  return functools.partial(losses.soft_distillation, tau=plan.tau)
