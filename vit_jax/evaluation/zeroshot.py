# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Zero-shot classification: the names of classes, read by a text tower, are the classifier.

Each class has prompts, every one of its names in every template; the class is the mean of their
embeddings, which is how arXiv:2103.00020 (section 3.1.4) and LiT are evaluated. The result is a
`classifier.Classifier` like any other.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from vit_jax.checkpoints import download
from vit_jax.checkpoints import vocabulary as vocabulary_lib
from vit_jax.data import sources, text, transforms
from vit_jax.errors import UserError
from vit_jax.evaluation import classification, classifier
from vit_jax.evaluation.classifier import Classifier
from vit_jax.models import registry
from vit_jax.models.lit import TwoTowers, ZeroShotClassifier, normalized

BATCH = 64  # Prompts in one forward pass.


@dataclasses.dataclass(frozen=True)
class Prompts:
  """Tokenised prompts of a list of classes.

  Attributes:
    tokens: int32 [prompts, length].
    owners: the class of each prompt, int [prompts].
    class_names: by label, the first name of each.
  """

  tokens: Int[np.ndarray, "p n"]
  owners: Int[np.ndarray, " p"]
  class_names: tuple[str, ...]


def make_prompts(
  tokenizer: text.Tokenizer, class_names: Sequence[str], templates: Sequence[str] = ("{}",)
) -> Prompts:
  """Makes the prompts of classes whose alternative names are separated by commas.

  Raises:
    UserError: there is no class, a class has no name, or a template no place for it.
  """
  if not class_names:
    raise UserError("there are no classes to choose from; give the name of at least one.")
  names = text.split_names(class_names)
  prompts = text.prompts(names, templates)
  counts = collections.Counter(map(tuple, prompts))
  for name, own in zip(class_names, prompts, strict=True):
    if "" in own or counts[tuple(own)] > 1:
      others = [other for other, theirs in zip(class_names, prompts, strict=True) if theirs == own]
      which = " and ".join(map(repr, others)) if len(others) > 1 else repr(name)
      raise UserError(
        f"without punctuation and capitals, {which} {'are one' if len(others) > 1 else 'is empty'};"
        " write the names in words."
      )
  owners = np.repeat(np.arange(len(prompts)), [len(own) for own in prompts])
  tokens = tokenizer([prompt for own in prompts for prompt in own])
  return Prompts(tokens, owners, tuple(own[0] for own in names))


@functools.partial(jax.jit, static_argnums=0)
def _embed_texts(model: TwoTowers, variables: Any, tokens: Int[Array, "b n"]) -> Array:
  return model.apply(variables, None, tokens)[1]


def embed_texts(
  model: TwoTowers, variables: Mapping[str, Any], tokens: Int[np.ndarray, "m n"]
) -> Float[np.ndarray, "m d"]:
  """The embeddings of texts, of length 1: float32 [texts, dim]; by one program, in batches.

  Raises:
    UserError: a token is none of the text tower's, as of another vocabulary.
  """
  count, known = len(tokens), model.txt.vocab_size
  if (largest := tokens.max()) >= known:  # What is looked up beyond a table's end is NaN.
    raise UserError(
      f"the texts have token {largest}, but the text tower only {known} tokens; use the vocabulary "
      "that it was trained with."
    )
  batch = min(BATCH, count)
  padded = np.zeros((-(-count // batch) * batch, tokens.shape[1]), np.int32)
  padded[:count] = tokens
  parts = [_embed_texts(model, variables, part) for part in np.split(padded, len(padded) // batch)]
  return np.concatenate(jax.device_get(parts))[:count]


def embed_classes(
  model: TwoTowers, variables: Mapping[str, Any], prompts: Prompts
) -> Float[np.ndarray, "classes d"]:
  """The mean of the embeddings of each class's prompts, of length 1: float32 [classes, dim]."""
  embedded = embed_texts(model, variables, prompts.tokens)
  classes = np.zeros((len(prompts.class_names), embedded.shape[1]), np.float32)
  np.add.at(classes, prompts.owners, embedded)
  return np.asarray(normalized(classes))


def classifier_of(
  model: TwoTowers, variables: Mapping[str, Any], prompts: Prompts
) -> tuple[ZeroShotClassifier, dict[str, Any]]:
  """The image tower with the prompts' embeddings as its head, and the variables of that."""
  params = dict(variables["params"])
  del params["txt"]
  params["classes"] = embed_classes(model, variables, prompts)
  module = ZeroShotClassifier(model.img, len(prompts.class_names), bias_init=model.bias_init)
  return module, {**variables, "params": params}


def from_checkpoint(
  name: str,
  checkpoint: str | None = None,
  image_size: int | tuple[int, int] | None = None,
  checkpoint_image_size: int | tuple[int, int] | None = None,
  *,
  class_names: Sequence[str],
  templates: Sequence[str] = ("{}",),
  vocabulary: str | None = None,
  named: bool = False,
) -> Classifier:
  """The classifier that a model of two towers makes of names.

  Args:
    name: of the model in the registry.
    checkpoint: its weights; None means the registry's.
    image_size: pixels; None keeps the checkpoint's.
    checkpoint_image_size: where the checkpoint does not tell it.
    class_names: a class each, alternatives separated by commas.
    templates: with "{}" where the name belongs.
    vocabulary: of the tokenizer, a path or address; None means the file's own or the registry's.
    named: whether these are the very names of a data set that is to be evaluated.
  """
  from vit_jax.checkpoints import pretrained

  entry = registry.get_entry(name)
  path = download.fetch(checkpoint) if checkpoint else None
  spec = vocabulary_lib.with_default(path, entry.name)
  tokenizer = vocabulary_lib.tokenizer_for(spec, vocabulary)
  # Before the weights, so that a mistake there is found at once.
  prompts = make_prompts(tokenizer, class_names, templates)
  opened = pretrained.open_checkpoint(
    name, checkpoint, image_size=image_size, checkpoint_image_size=checkpoint_image_size
  )
  module, variables = classifier_of(opened.model, opened.variables, prompts)
  settings = classifier.settings_for(entry.name, path, opened.image_size)
  labels = tuple(class_names) if named else prompts.class_names
  return Classifier(entry.name, module, variables, settings, labels, named=named)


def from_run(
  workdir: str | os.PathLike,
  which: str = "best",
  *,
  class_names: Sequence[str] | None = None,
  templates: Sequence[str] | None = None,
  vocabulary: str | None = None,
  named: bool = False,
) -> Classifier:
  """The classifier of a run that trained two towers; other classes or templates if given.

  `vocabulary` is the tokenizer's file where that has moved; `named` as in `from_checkpoint`.
  """
  from vit_jax.training import restore

  model, variables, info = restore.load_run(workdir, which)
  plan = info.plan.text
  names = class_names or plan.class_names or info.class_names
  if not names:
    raise UserError(f"{workdir} was trained on texts, not classes; write some to a --classes=FILE.")
  tokenizer = vocabulary_lib.tokenizer_for(plan, vocabulary)
  prompts = make_prompts(tokenizer, names, templates or plan.templates)
  module, variables = classifier_of(model, variables, prompts)
  return Classifier(
    info.model_name,
    module,
    variables,
    info.preprocessing,
    prompts.class_names if class_names and not named else tuple(class_names or info.class_names),
    (info, workdir),
    named=named or not class_names,
  )


def is_two_towers(workdir: str | os.PathLike) -> bool:
  """Whether a work directory is of a run that trains two towers."""
  from vit_jax.training import restore

  return restore.existing_run(workdir).plan.text is not None


def classes_of(workdir: str | os.PathLike) -> tuple[str, ...]:
  """The class names of the data set that a run was trained on."""
  from vit_jax.training import restore

  return restore.existing_run(workdir).class_names


def read_lines(path: str) -> tuple[str, ...]:
  """The lines of a file of class names or templates; blank ones are left out.

  Raises:
    UserError: it cannot be read, or is empty.
  """
  try:
    # Not `splitlines`: names may have other marks, such as U+2028, that it takes for line ends.
    lines = pathlib.Path(path).read_text(encoding="utf-8-sig").split("\n")
  except (OSError, UnicodeDecodeError) as error:
    raise UserError(f"{path} cannot be read ({error}); pass a text file, a name a line.") from error
  lines = tuple(line.strip() for line in lines if line.strip())
  if not lines:
    raise UserError(f"{path} is empty; write one name a line, alternatives separated by commas.")
  return lines


class ZeroShotEvaluator:
  """What `classification.Evaluator` is for a model of two towers while it is being trained."""

  metric = "accuracy"

  def __init__(
    self,
    model: TwoTowers,
    splits: Mapping[str, sources.Source | None],
    preprocessing: transforms.Preprocessing,
    prompts: Prompts,
    **options: Any,
  ):
    """Sets up the batches; `options` are those of `classification.Evaluator`."""
    self._model, self._prompts = model, prompts
    module = ZeroShotClassifier(model.img, len(prompts.class_names), bias_init=model.bias_init)
    self._evaluator = classification.Evaluator(module, splits, preprocessing, **options)

  def __contains__(self, split: str) -> bool:
    return split in self._evaluator

  def __call__(self, split: str, variables: Any) -> dict[str, float | int]:
    """Evaluates every example of `split`; see `classification.evaluate`."""
    return self._evaluator(split, classifier_of(self._model, variables, self._prompts)[1])

  def right(self, split: str, variables: Any) -> Bool[np.ndarray, " examples"]:
    """Which examples of `split` are classified correctly, in their order; on one process."""
    return self._evaluator.right(split, classifier_of(self._model, variables, self._prompts)[1])
