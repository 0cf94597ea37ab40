# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The options by which commands name a classifier: a run, a checkpoint, or names of classes."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
  from vit_jax.evaluation.classifier import Classifier


def pixels(text: str) -> int | tuple[int, ...]:
  """An image size as options give it: "224", or "96,128" for height and width."""
  try:
    sides = tuple(int(side) for side in text.replace("x", ",").split(","))
  except ValueError as error:
    raise argparse.ArgumentTypeError(f"{text!r} is no size; pass 224, or 96,128") from error
  return sides[0] if len(sides) == 1 else sides


def add_options(parser: argparse.ArgumentParser) -> None:
  parser.add_argument("--workdir", metavar="DIR", help="a training run; or else:")
  parser.add_argument(
    "--model", metavar="NAME", help="a model, as `vit-jax models` lists them (default: the file's)"
  )
  parser.add_argument("--checkpoint", metavar="FILE", help="its weights (default: the released)")
  parser.add_argument("--image_size", type=pixels, metavar="PIXELS", help="or HEIGHT,WIDTH")
  parser.add_argument(
    "--checkpoint_image_size",
    type=pixels,
    metavar="PIXELS",
    help="of the images that the checkpoint was trained on, where its file does not tell",
  )
  parser.add_argument(
    "--which", choices=("best", "last"), default="best", help="checkpoint of the run"
  )
  texts = parser.add_argument_group("models of two towers (LiT)")
  texts.add_argument(
    "--classes", metavar="FILE", help="a class a line, alternative names separated by commas"
  )
  texts.add_argument("--templates", metavar="FILE", help="prompts with {} for the name, one a line")
  texts.add_argument("--vocabulary", metavar="FILE", help="of the tokenizer (default: released)")


def load(
  arguments: argparse.Namespace, dataset: str | None = None, data_dir: str | None = None
) -> Classifier:
  """The classifier that the options name.

  Args:
    arguments: as parsed.
    dataset: the data set at hand, whose classes a model of two towers falls back on.
    data_dir: where TFDS keeps its datasets.

  Raises:
    UserError: the options do not name just one.
  """
  from vit_jax.checkpoints import identity
  from vit_jax.data import datasets
  from vit_jax.errors import UserError
  from vit_jax.evaluation import classifier, zeroshot
  from vit_jax.models import registry

  if bool(arguments.workdir) == bool(arguments.model or arguments.checkpoint):
    raise UserError("give either --workdir=DIR of a run or --model=NAME (with --checkpoint=FILE).")
  read = lambda path: zeroshot.read_lines(path) if path else None
  classes, templates = read(arguments.classes), read(arguments.templates)

  def known_classes() -> Sequence[str]:
    return datasets.open_dataset(dataset, data_dir=data_dir).class_names if dataset else ()

  if arguments.workdir:
    arguments.workdir = os.path.expanduser(arguments.workdir)
    if arguments.image_size or arguments.checkpoint_image_size:
      raise UserError("--image_size goes with --model; a run has its own.")
    if zeroshot.is_two_towers(arguments.workdir):
      known = () if classes else known_classes()
      others = known not in ((), zeroshot.classes_of(arguments.workdir))
      return zeroshot.from_run(
        arguments.workdir,
        arguments.which,
        class_names=known if others else classes,
        templates=templates,
        vocabulary=arguments.vocabulary,
        named=others,
      )
    what = f"the run in {arguments.workdir}"
  else:
    what, checkpoint = identity.resolve(arguments.model, arguments.checkpoint)
    if registry.get_entry(what).text:
      names = classes or known_classes()
      if not names:
        raise UserError(f"{what} needs names to choose from; write them to a --classes=FILE.")
      return zeroshot.from_checkpoint(
        what,
        checkpoint,
        arguments.image_size,
        arguments.checkpoint_image_size,
        class_names=names,
        templates=templates or ("{}",),
        vocabulary=arguments.vocabulary,
        named=not classes,
      )
  if classes or templates or arguments.vocabulary:
    raise UserError(f"--classes, --templates and --vocabulary go with a LiT; {what} is none.")
  if arguments.workdir:
    return classifier.from_run(arguments.workdir, arguments.which)
  return classifier.from_checkpoint(
    arguments.model, arguments.checkpoint, arguments.image_size, arguments.checkpoint_image_size
  )
