# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What is learned, and how it is judged: all in which runs of the one loop differ.

A plan with `text` (a model of two towers) learns from pairs of images and texts: with texts of
their own it is judged by retrieval, with those made of their classes as a zero-shot classifier. Any
other plan learns to classify; with `distill` from a teacher, too.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import flax.linen as nn
import jax
import numpy as np

from vit_jax.checkpoints import vocabulary
from vit_jax.data import sources, text
from vit_jax.data.captions import CaptionedSource
from vit_jax.errors import UserError
from vit_jax.evaluation import classification, retrieval, zeroshot
from vit_jax.models import deit
from vit_jax.training import objectives
from vit_jax.training import teacher as teacher_lib
from vit_jax.training.plan import Plan
from vit_jax.workdir.run_info import RunInfo, refuse_another_vocabulary

COUNTED = 10_000  # Images whose texts are looked at before training.


class Evaluator(Protocol):
  """Evaluates splits by their names; see `classification.Evaluator`."""

  metric: str

  def __contains__(self, split: str) -> bool: ...

  def __call__(self, split: str, variables: Any) -> dict[str, float | int]: ...

  def right(self, split: str, variables: Any) -> Any: ...


class Task:
  """See `make_task`.

  Attributes:
    captions: makes the texts of training examples; None where there are none.
    fixed: variables that the objective needs and training does not change; None for none.
    teacher: whom the model learns from; None for nobody.
    vocabulary: SHA-256 of the tokenizer's file; None without one.
  """

  captions: text.Captions | None
  fixed: Any = None
  teacher: teacher_lib.Teacher | None = None
  vocabulary: str | None = None

  def objective(self, model: nn.Module) -> objectives.Objective:
    """What a training step minimises."""
    raise NotImplementedError

  def evaluator(
    self,
    model: nn.Module,
    splits: Mapping[str, sources.Source | None],
    mesh: jax.sharding.Mesh,
  ) -> Evaluator:
    """How well the model does on the splits."""
    raise NotImplementedError

  def rows(self, train: sources.Source, mesh: jax.sharding.Mesh) -> dict[str, np.ndarray]:
    """What the training examples bring along beside image and label, see `loader.TrainLoader`."""
    del train, mesh
    return {}


def make_task(plan: Plan, class_names: Sequence[str], earlier: RunInfo | None = None) -> Task:
  """The task of a plan on a data set with these classes.

  Args:
    plan: the run's.
    class_names: of the data set.
    earlier: the run that is being continued, whose teacher and vocabulary must be the same.

  Raises:
    UserError: the classes' names, their templates, the vocabulary or the teacher cannot be used.
  """
  if plan.text is None:
    if not class_names:
      raise UserError(
        f"{plan.dataset} has texts and no classes; train a model of two towers (configs/lit.py)."
      )
    if plan.distill:
      teacher = teacher_lib.load(plan, tuple(class_names), earlier)
      return Distillation(plan, len(class_names), teacher)
    return Classification(plan, len(class_names))
  tokenizer = vocabulary.tokenizer_for(plan.text)
  if earlier is not None:
    refuse_another_vocabulary(earlier, plan.text)
  if not class_names:
    if plan.text.class_names:
      raise UserError(
        f"config.text.class_names has no effect: {plan.dataset} has texts of its own; remove it."
      )
    return Pairs(plan, text.Captions(tokenizer))
  names = plan.text.class_names or tuple(class_names)
  if len(names) != len(class_names):
    raise UserError(
      f"config.text.class_names has {len(names)} names, but {plan.dataset} has {len(class_names)} "
      "classes; give one for each, in the order of the labels."
    )
  return NamedClasses(
    plan,
    text.Captions(tokenizer, text.split_names(names), plan.text.templates),
    zeroshot.make_prompts(tokenizer, names, plan.text.templates),
  )


def _evaluation(plan: Plan, mesh: jax.sharding.Mesh) -> dict[str, Any]:
  return dict(
    batch=plan.batch_eval, threads=plan.threads, max_bad_fraction=plan.max_bad_fraction, mesh=mesh
  )


@dataclasses.dataclass(frozen=True)
class Classification(Task):
  """Images have labels."""

  plan: Plan
  num_classes: int

  captions = None

  def objective(self, model: nn.Module) -> objectives.Objective:
    return objectives.classification(model, **self._options())

  def _options(self) -> dict[str, Any]:
    return dict(
      mean=self.plan.pp.mean,
      std=self.plan.pp.std,
      label_smoothing=self.plan.label_smoothing,
      mixup=self.plan.mixup,
      cutmix=self.plan.cutmix,
      num_classes=self.num_classes,
    )

  def evaluator(self, model, splits, mesh) -> Evaluator:
    options = _evaluation(self.plan, mesh)
    return classification.Evaluator(model, splits, self.plan.pp, **options)


@dataclasses.dataclass(frozen=True)
class Distillation(Classification):
  """Images have labels, and a teacher an opinion of them."""

  teacher: teacher_lib.Teacher

  @property
  def fixed(self) -> Any:
    return None if self.plan.distill.cache else self.teacher.variables

  def objective(self, model: nn.Module) -> objectives.Objective:
    if isinstance(model, deit.DistilledVisionTransformer):
      model = model.clone(average_heads=False)
    return objectives.distillation(
      model,
      self.teacher,
      compare=teacher_lib.comparison(self.plan.distill),
      weight=self.plan.distill.share,
      **self._options(),
    )

  def rows(self, train, mesh) -> dict[str, np.ndarray]:
    if not self.plan.distill.cache:
      return {}
    return {"teacher": self.teacher.answers(train, self.plan, mesh)}


@dataclasses.dataclass(frozen=True)
class Pairs(Task):
  """Images have texts of their own."""

  plan: Plan
  captions: text.Captions

  @property
  def vocabulary(self) -> str | None:
    return vocabulary.digest(self.plan.text)

  def objective(self, model: nn.Module) -> objectives.Objective:
    ids, known = self.captions.tokenizer.vocab_size, model.txt.vocab_size
    if ids > known:  # What is looked up beyond a table's end is NaN.
      raise UserError(
        f"the tokenizer has {ids} tokens, but the text tower only {known}; use the vocabulary that "
        f"the tower's weights were trained with, or set config.model.txt.vocab_size={ids}."
      )
    return objectives.contrastive(
      model, mean=self.plan.pp.mean, std=self.plan.pp.std, loss=self.plan.contrastive_loss
    )

  def evaluator(self, model, splits, mesh) -> Evaluator:
    options, tokenizer = _evaluation(self.plan, mesh), self.captions.tokenizer
    for split, source in splits.items():
      self._tell_cut(source, f"texts of {split}")
    return retrieval.RetrievalEvaluator(model, splits, self.plan.pp, tokenizer, **options)

  def rows(self, train, mesh) -> dict[str, np.ndarray]:
    self._tell_cut(train, "training texts")
    return {}

  def _tell_cut(self, source: sources.Source | None, what: str) -> None:
    """Logs how many texts are longer than what is read of them; of a large source by a sample."""
    if isinstance(source, CaptionedSource) and len(source):
      every = math.ceil(len(source) / COUNTED)
      ids = [self.captions.tokenizer.ids(text) for own in source.texts[::every] for text in own]
      self.captions.tokenizer.tell_clipped(ids, what + " looked at" * (every > 1))


@dataclasses.dataclass(frozen=True)
class NamedClasses(Pairs):
  """Images have texts that are made of their class."""

  prompts: zeroshot.Prompts

  def evaluator(self, model, splits, mesh) -> Evaluator:
    options = _evaluation(self.plan, mesh)
    return zeroshot.ZeroShotEvaluator(model, splits, self.plan.pp, self.prompts, **options)
