# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Refuses weights that Google's folders do not hold, before any data is read or file fetched."""

import os

from vit_jax.checkpoints import augreg, download
from vit_jax.errors import UserError
from vit_jax.models import presets, registry
from vit_jax.models.weights import AUGREG, WEIGHTS, augreg_name

FILES = frozenset(weights.url for rows in WEIGHTS.values() for weights in rows)
FOLDERS = frozenset(os.path.dirname(url) for url in FILES if url.startswith("gs://"))


def check(
  name: str, pretrained_dir: str | None, file: str | None = None, dataset: str | None = None
) -> None:
  """Raises UserError for a file that was never released, with where there are weights of the model.

  Args:
    name: of the model.
    pretrained_dir: the folder that should hold its file. One of the user's own is not looked at.
    file: its name, if it is not the model's; with or without ".npz".
    dataset: the run's, for the preset that the error names.
  """
  folder = (pretrained_dir or "").rstrip("/")
  stem = (file or name).removesuffix(".npz")
  url = f"{folder}/{stem}.npz"
  if folder not in FOLDERS or url in FILES:
    return
  if file and folder == augreg.DIRECTORY and _is_augregs(stem):
    if (theirs := registry.resolve_name(stem)) != name:
      raise UserError(
        f"config.model_or_filename={file!r} is a {theirs}, and config.model.name a {name}; use "
        f"--config=configs/augreg.py:{stem}."
      )
    return  # Its index knows fifty thousand files.
  if os.environ.get("VIT_JAX_MIRROR") or download.cached_path(url).is_file():
    return  # Somebody has put it there.
  advice = _advice(registry.get_entry(name), dataset)
  if file and _is_augregs(stem):
    advice = f"add --config.pretrained_dir={augreg.DIRECTORY}"
  raise UserError(
    f"{folder} holds no {stem}.npz; {advice}, or name a folder of yours that does "
    "(--config.pretrained_dir=FOLDER)."
  )


def _is_augregs(stem: str) -> bool:
  return stem in AUGREG or augreg.FILENAME.fullmatch(stem) is not None


def _advice(entry: registry.Entry, dataset: str | None) -> str:
  urls = [weights.url for weights in entry.weights]
  if holding := [url for url in urls if os.path.basename(url) == f"{entry.name}.npz"]:
    return f"add --config.pretrained_dir={os.path.dirname(holding[0])}"
  if (short := augreg_name(entry.name)) in AUGREG:
    end = f",{dataset}" if dataset in presets.DATASETS else ""
    return f"use --config=configs/augreg.py:{short}{end}"
  if not urls:
    return f"no weights of it were released: train it by configs/scratch.py:{entry.name}"
  if entry.family in presets.PRESETS:
    return f"use --config={presets.preset_of(entry.name, entry.family, dataset)}"
  return f"add --config.pretrained_dir= --config.model_or_filename={entry.name}"
