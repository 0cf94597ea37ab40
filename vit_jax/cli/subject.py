# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The options by which `evaluate` and `predict` name a classifier: a run or a checkpoint."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
  from vit_jax.evaluation.classifier import Classifier


def add_options(parser: argparse.ArgumentParser) -> None:
  parser.add_argument("--workdir", metavar="DIR", help="a training run; or else:")
  parser.add_argument("--model", metavar="NAME", help="a model, as `vit-jax models` lists them")
  parser.add_argument("--checkpoint", metavar="FILE", help="its weights (default: the released)")
  parser.add_argument("--image_size", type=int, metavar="PIXELS", help="with --model")
  parser.add_argument(
    "--which", choices=("best", "last"), default="best", help="checkpoint of the run"
  )


def load(arguments: argparse.Namespace) -> Classifier:
  """The classifier that the options name. Raises UserError unless they name just one."""
  from vit_jax.errors import UserError
  from vit_jax.evaluation import classifier

  if bool(arguments.workdir) == bool(arguments.model):
    raise UserError("give either --workdir=DIR of a run or --model=NAME (with --checkpoint=FILE).")
  if arguments.workdir:
    if arguments.checkpoint or arguments.image_size:
      raise UserError("--checkpoint and --image_size go with --model; a run has its own.")
    return classifier.from_run(arguments.workdir, arguments.which)
  return classifier.from_checkpoint(arguments.model, arguments.checkpoint, arguments.image_size)
