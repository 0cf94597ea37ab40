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
import logging
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

log = logging.getLogger(__name__)

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
    UserError: there is no class, a class has no name, a template no place for it, or the text tower
      would read the same of two classes, or nothing of a name.
  """
  if not class_names:
    raise UserError("there are no classes to choose from; give the name of at least one.")
  names = text.split_names(class_names)
  prompts = text.prompts(names, templates)
  alike = _first_alike([frozenset(own) for own in prompts])
  empty = next((k for k, own in enumerate(names) if "" in map(text.canonical, own)), None)
  if alike or empty is not None:
    which = [class_names[label] for label in alike] or [class_names[empty]]
    raise UserError(
      f"without punctuation and capitals, {_few(which)} {'are one' if alike else 'is empty'}; "
      "write the names in words."
    )
  owners = np.repeat(np.arange(len(prompts)), [len(own) for own in prompts])
  ids = [tokenizer.ids(prompt) for own in prompts for prompt in own]
  tokens = tokenizer.clipped(ids)
  _check_tokens(tokenizer, names, templates, owners, ids, tokens)
  tokenizer.tell_clipped(ids, "prompts")
  return Prompts(tokens, owners, tuple(own[0] for own in names))


def _check_tokens(
  tokenizer: text.Tokenizer,
  names: Sequence[Sequence[str]],
  templates: Sequence[str],
  owners: Int[np.ndarray, " p"],
  ids: Sequence[Sequence[int]],
  tokens: Int[np.ndarray, "p n"],
) -> None:
  """Compares what the text tower reads of the classes; `ids` are the prompts', not yet clipped.

  Raises:
    UserError: where a text is cut nothing is left of a name, or of what names of different classes
      differ in; or the vocabulary has the same tokens for two classes, or none for a name.
  """
  flat_names, count = [name for own in names for name in own], len(templates)
  names_of = lambda prompts: _few([flat_names[prompt // count] for prompt in prompts])
  rows, room = [row.tobytes() for row in tokens], tokenizer.max_len - 1
  read = lambda text_of: [
    row.tobytes() for row in tokenizer([text.canonical(text_of(t)) + " " for t in templates])
  ]
  before_name = read(lambda template: template.partition("{}")[0])
  without_name = read(lambda template: template.replace("{}", ""))
  prompts_of: dict[bytes, list[int]] = collections.defaultdict(list)
  for prompt, row in enumerate(rows):
    prompts_of[row].append(prompt)
  shared = []
  for row, group in prompts_of.items():
    across = len({*owners[group]}) > 1
    for prompt in group:
      is_cut = len(ids[prompt]) > room
      is_lost = row == (before_name if is_cut else without_name)[prompt % count]
      if is_cut and (is_lost or (across and any(ids[i] != ids[prompt] for i in group))):
        what = "" if is_lost else "what tells apart "
        raise UserError(
          f"the template {templates[prompt % count]!r} has no room for {what}{names_of(group)}: "
          f"only the first {room} tokens of a text are read (max_len={tokenizer.max_len}); shorten "
          "the template or the names."
        )
      if is_lost:
        raise UserError(
          f"the vocabulary has no token for {names_of([prompt])}; write the name in other words."
        )
    if across and len({flat_names[prompt // count] for prompt in group}) > 1:
      shared.append(group)
  by_class = np.split(np.array(rows, object), np.flatnonzero(np.diff(owners)) + 1)
  if alike := _first_alike([frozenset(own) for own in by_class]):
    raise UserError(
      f"{_few([names[label][0] for label in alike])} become the same tokens: the vocabulary does "
      "not know their words, or spells them alike; write the names in other words."
    )
  if shared:
    log.warning(
      "%d prompts of different classes become the same tokens, such as those of %s: the vocabulary "
      "does not know their words, or spells them alike",
      *(sum(map(len, shared)), names_of(shared[0])),
    )


def _first_alike(keys: Sequence[Any]) -> list[int]:
  """The places of the first key that is there more than once, or none."""
  places: dict[Any, list[int]] = collections.defaultdict(list)
  for place, key in enumerate(keys):
    places[key].append(place)
  return next((found for found in places.values() if len(found) > 1), [])


def _few(names: Sequence[str]) -> str:
  """The first names of a list in words, each once."""
  names = [*dict.fromkeys(names)]
  shown = [repr(name) for name in names[:3]]
  if more := len(names) - len(shown):
    shown.append(f"{more} other{'s' if more > 1 else ''}")
  return " and ".join(filter(None, [", ".join(shown[:-1]), shown[-1]]))


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
  from vit_jax.workdir import run_info

  model, variables, info = run_info.load_run(workdir, which)
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
  from vit_jax.workdir import run_info

  return run_info.existing_run(workdir).plan.text is not None


def classes_of(workdir: str | os.PathLike) -> tuple[str, ...]:
  """The class names of the data set that a run was trained on."""
  from vit_jax.workdir import run_info

  return run_info.existing_run(workdir).class_names


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
