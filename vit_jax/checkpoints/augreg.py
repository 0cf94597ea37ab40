# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""AugReg's files (arXiv:2106.10270): fifty thousand, found by name through their `index.csv`.

A row of the index is one fine-tuning (columns adapt_*) of one pre-training (`filename`, `ds`,
`final_val`: the accuracy that pre-training ended with on its validation set).
"""

import csv
import functools
import logging
import re

from vit_jax.checkpoints import download
from vit_jax.errors import UserError
from vit_jax.models import registry

logger = logging.getLogger(__name__)

DIRECTORY = "gs://vit_models/augreg"
UPSTREAM = "i21k"  # ImageNet-21k for 300 epochs, the best upstream in nearly all cases.
COLUMNS = ("ds", "filename", "final_val")

_NUMBER = r"[0-9.]+"
FILENAME = re.compile(
  rf"\w+-\w+-\d+ep-lr_{_NUMBER}-aug_\w+-wd_{_NUMBER}-do_{_NUMBER}-sd_{_NUMBER}"
  rf"(--\w+-steps_\w+-lr_{_NUMBER}-res_\d+)?"
)
EXAMPLE = "R_Ti_16-i21k-300ep-lr_0.001-aug_none-wd_0.03-do_0.0-sd_0.0"


def resolve(name: str, directory: str = DIRECTORY) -> str:
  """AugReg's file name, without ".npz", that a short or full name stands for.

  As in the ancestor, a short name is the ImageNet-21k pre-training of that model with the best
  upstream validation accuracy (section 4.5 of the paper). Where the index cannot be had, it is the
  one that the ancestor recommends, which is the same by its own account; the log tells.

  Args:
    name: "R_Ti_16", "R+ViT-Ti_16", or a file name as in the index, with or without ".npz".
    directory: where `index.csv` is: an address, or a local copy of some files.

  Raises:
    UserError: AugReg has no such model, or the name is not of its form.
  """
  file = name.removesuffix(".npz")
  short, *rest = registry.augreg_name(file).split("-")
  if rest and not FILENAME.fullmatch(file):
    raise UserError(f"{name!r} is no file name of AugReg; these are spelled like {EXAMPLE!r}.")
  recommended = registry.augreg_filename(short)  # Refuses a model that AugReg does not have.
  return file if rest else _best(short, recommended, directory)


@functools.cache
def _best(short: str, recommended: str, directory: str) -> str:
  index = f"{directory.rstrip('/')}/index.csv"
  try:
    path = download.fetch(index)
    if not path.is_file():
      raise UserError(f"there is no {index}.")
  except UserError as error:
    logger.warning("AugReg's index is out of reach, using the built-in %s: %s", recommended, error)
    return recommended
  with open(path, newline="", encoding="utf-8") as file:
    reader = csv.DictReader(file)
    missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
    if missing:
      raise UserError(f"{path} is not AugReg's index (no column {missing[0]!r}); delete it.")
    found = {
      row["filename"]: float(row["final_val"])
      for row in reader
      if row["ds"] == UPSTREAM and row["final_val"] and row["filename"].split("-")[0] == short
    }
  if not found:
    raise UserError(f"{path} lists no {UPSTREAM} file of {short}; delete it to fetch it anew.")
  filename = max(found, key=found.get)
  accuracy = found[filename]
  logger.info("AugReg's index: %s is %s (final_val=%.3f).", short, filename, accuracy)
  return filename
