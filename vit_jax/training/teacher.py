# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A trained classifier that another one learns from: section 4 of arXiv:2012.12877."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import logging
import os
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vit_jax.checkpoints import grids, pretrained
from vit_jax.data import sources, transforms
from vit_jax.errors import UserError
from vit_jax.evaluation import classification, classifier
from vit_jax.models import registry
from vit_jax.parallel import mesh as mesh_lib
from vit_jax.parallel import sharding
from vit_jax.params import tree
from vit_jax.training import losses
from vit_jax.training.continuation import TeacherRecord
from vit_jax.training.plan import DistillPlan, Plan
from vit_jax.workdir import run_info
from vit_jax.workdir.run_info import RunInfo

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Teacher:
  """A frozen classifier with its own resolution, channels and normalisation.

  Attributes:
    model, variables: the module and what it has learned, as NumPy arrays.
    preprocessing: how it has seen images.
    record: how a run that continues knows it again.
  """

  model: nn.Module
  variables: Any
  preprocessing: transforms.Preprocessing
  record: TeacherRecord | None = None

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


def load(plan: Plan, class_names: tuple[str, ...], earlier: RunInfo | None = None) -> Teacher:
  """Loads the teacher of a plan.

  Args:
    plan: the student's.
    class_names: of the student's data set.
    earlier: the run that is being continued; its teacher may have moved, but must be the same.

  Raises:
    UserError: it cannot be loaded, is another than the run's, or knows other classes or colours
      than the student.
  """
  name = plan.distill.teacher
  found = _find(plan.distill, continues=earlier is not None)
  found = dataclasses.replace(found, variables=jax.device_get(found.variables))
  record = _describe(found, plan.distill)
  if earlier is not None and earlier.teacher is None:
    log.warning(
      "the run has no record of its teacher, since it was started by an older version; it goes on "
      "with what is at %s now",
      name,
    )
  elif earlier is not None and (differing := earlier.teacher.differences(record)):
    raise UserError(
      f"config.distill.teacher={name!r} is not the teacher that this run has learned from, for "
      f"{' and '.join(differing)} differ; set it to where that one is now, or use another workdir."
    )
  classifier.refuse_other_classes(found, class_names, plan.dataset, "the teacher")
  spec = found.preprocessing
  if spec.channels < plan.pp.channels:
    raise UserError(
      f"config.distill.teacher={name!r} sees grey images and the student colours; name another, or "
      "set config.pp.channels=1."
    )
  return Teacher(found.model, found.variables, spec, record)


def _describe(found: classifier.Classifier, distill: DistillPlan) -> TeacherRecord:
  """What tells a teacher from another one, and not how it is stored or computed."""
  arrays = tree.from_variables(found.variables)
  if distill.image_size:  # Resampled, by products of matrices that differ between processors.
    tables = (grids.POSITIONS, grids.ROWS, grids.COLUMNS)
    arrays = {k: v for k, v in arrays.items() if k not in tables and not grids.RELATIVE.search(k)}
  digest = hashlib.sha256()
  for path, array in sorted(arrays.items()):
    digest.update(f"{path} {array.dtype.name} {array.shape}\n".encode())
    digest.update(np.ascontiguousarray(array).view(np.uint8))
  fields = registry.fields_of(found.model)
  spec = found.preprocessing
  seen = {"size": spec.size, "channels": spec.channels, "mean": spec.mean, "std": spec.std}
  if distill.cache:  # Otherwise the student's images are resized to its size, and no more.
    rest = ("eval_resize", "resized", "crop_offset", "interpolation", "antialias")
    seen |= {key: getattr(spec, key) for key in rest}
  return TeacherRecord(
    digest=digest.hexdigest(),
    model={"class": type(found.model).__name__}
    | {k: v for k, v in fields.items() if k not in pretrained.HOW_COMPUTED and "_rate" not in k},
    class_names=found.class_names if found.named else (),
    preprocessing=seen,
    step=found.run[0].step if found.run else None,
  )


def _find(distill: DistillPlan, *, continues: bool) -> classifier.Classifier:
  name, size = distill.teacher, distill.image_size
  run = run_info.existing_run(name) if os.path.isdir(name) or "://" in name else None
  try:
    two_towers = run.plan.text if run else registry.get_entry(name).text
  except UserError as error:
    hint = " any more (if it has moved, name its new place)" if continues else ""
    raise UserError(
      f"config.distill.teacher={name!r} is no work directory of a run{hint}, and {error}"
    ) from error
  if two_towers:
    raise UserError(f"config.distill.teacher={name!r} has two towers; name a classifier.")
  if not run:
    return classifier.from_checkpoint(name, distill.checkpoint, size)
  if not size or run.image_size == (size, size):
    return classifier.from_run(name)
  model, variables = pretrained.from_pretrained(run.model_name, name, image_size=size)
  spec = run.preprocessing.at(size)
  return classifier.Classifier(
    run.model_name, model, variables, spec, run.class_names, run=(run, name)
  )


def comparison(plan: DistillPlan):
  """The loss between the logits of student and teacher that a plan names."""
  if plan.loss == "hard":
    return losses.hard_distillation
  return functools.partial(losses.soft_distillation, tau=plan.tau)
