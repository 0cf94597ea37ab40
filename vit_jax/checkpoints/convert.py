# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""From one framework's file to another's, everything kept, and the proof that it is the same."""

import functools
import logging
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from vit_jax.checkpoints import (
  adapt,
  counterpart,
  download,
  identity,
  preprocessing,
  pretrained,
  reading,
  saving,
)
from vit_jax.errors import UserError
from vit_jax.models import registry
from vit_jax.models.lit import TwoTowers
from vit_jax.params import tree

logger = logging.getLogger(__name__)

TOLERANCE = 1e-5
_NO_TWO_TOWERS = (
  "PyTorch has no model of these two towers to verify with; convert and verify the image tower "
  "alone (tests/parity/test_lit.py puts both together)."
)


def convert(
  source: str | os.PathLike,
  destination: str | os.PathLike,
  name: str | None = None,
  *,
  scheme: str | None = None,
  format: str | None = None,
  checkpoint_image_size: int | tuple[int, int] | None = None,
  **overrides: Any,
) -> tuple[nn.Module, dict[str, Any]]:
  """Writes the weights of `source` to `destination`; head, pre_logits and class names included.

  Args:
    source: anything that `from_pretrained` takes as its checkpoint.
    destination: a path that `save_checkpoint` takes.
    name: of the model in the registry; None where the source tells it.
    scheme: whose names the source must have, a key of reading.SCHEMES; None accepts any.
    format: "npz", "timm" or "hf"; None takes it from the destination.
    checkpoint_image_size: as `from_pretrained` takes it.
    **overrides: fields of the model, such as activation="gelu".

  Returns:
    The model and its variables, as they were written.

  Raises:
    UserError: as `from_pretrained` and `save_checkpoint`, or the names are of another scheme.
  """
  saving.format_of(pathlib.Path(destination), format)  # Before the work, not after it.
  entry = registry.get_entry(identity.resolve(name, source)[0])
  options = dict(overrides, checkpoint_image_size=checkpoint_image_size)
  if entry.text:
    if scheme not in (None, "official"):
      raise UserError(f"a file of two towers has the official names only, not --from={scheme}.")
    opened = pretrained.open_checkpoint(name, source, **options)
  else:
    opened = _open(source, name, entry, scheme, options)
  model, variables, metadata = opened.model, opened.variables, opened.metadata
  kept = {key: metadata[key] for key in ("class_names", "text") if key in metadata}
  kept["model"] = metadata.get("model") or opened.name
  if not getattr(model, "num_classes", 1) and kept.pop("class_names", None):
    logger.info("Left out the class names, as %s has no head.", destination)
  if told := preprocessing.told_preprocessing(source):
    kept["input"] = preprocessing.to_metadata(told.settings)
  else:
    logger.info("The registry's preprocessing is written: %s does not tell its own.", source)
  size = opened.known_size
  saving.save_checkpoint(
    destination, model, variables, format=format, metadata=kept, image_size=size
  )
  return model, variables


def _open(
  source: str | os.PathLike,
  name: str | None,
  entry: registry.Entry,
  scheme: str | None,
  options: dict[str, Any],
) -> pretrained.Opened:
  """An image model with all that its file has."""
  size = options.pop("checkpoint_image_size")
  read = reading.read_source(download.fetch(source), entry, options)
  if scheme and not f"{read.scheme}_".startswith(f"{scheme}_"):  # "timm" is "timm_swin" too.
    has = reading.SCHEMES[read.scheme].name if read.scheme in reading.SCHEMES else "none known here"
    raise UserError(
      f"{read.origin} does not have the names of {reading.SCHEMES[scheme].name}, but of {has}; "
      "leave --from out to let the names tell."
    )
  if "pre_logits/kernel" in read.flat:
    options = {"representation_size": read.flat["pre_logits/kernel"].shape[-1], **options}
  return pretrained.open_checkpoint(name, read, checkpoint_image_size=size, **options)


def check_verifiable(destination: str | os.PathLike, name: str, format: str | None = None) -> None:
  """Refuses, before anything is written, what `verify` could not run after it.

  Args:
    destination, name, format: as `convert` takes them.

  Raises:
    UserError: torch, and timm or transformers, are not installed, or have no such model.
  """
  if registry.get_entry(name).text:
    raise UserError(_NO_TWO_TOWERS)
  is_hf = saving.format_of(pathlib.Path(destination), format) == "hf"
  counterpart.check_installed("transformers" if is_hf else "timm")


def verify(
  destination: str | os.PathLike,
  model: nn.Module,
  variables: Mapping[str, Any],
  *,
  batch: int = 2,
  seed: int = 0,
) -> dict[str, float]:
  """Runs the written file in PyTorch, beside the model here, on the same random images.

  Both compute in float32, and where that differs by more than TOLERANCE in float64, because deep
  networks amplify float32's own rounding: all units of a BiT with noise for weights to 2e-5.

  Args:
    destination: what `convert` wrote.
    model, variables: what it returned.
    batch: how many images, of the size that the file says it is for.
    seed: of the images, uniform in [-1, 1].

  Returns:
    By dtype, ||ours - theirs|| / ||theirs|| of the logits, or of the representation without a head:
    "float32", and "float64" where float32's was too large. The last one counts.

  Raises:
    UserError: torch, and timm or transformers, are not installed, or have no such model.
  """
  if isinstance(model, TwoTowers):
    raise UserError(_NO_TWO_TOWERS)
  channels = adapt.input_channels(tree.from_tree(variables["params"]))
  metadata = reading.read_metadata(destination)
  size = metadata.get("image_size") or metadata.get("input", {}).get("crop", 224)
  size = adapt.pair(f"{destination}: image_size", size)
  shape = (batch, *size, channels)
  images = np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)

  def relative_error(dtype: str) -> float:
    cast = lambda x: np.asarray(x, dtype)
    forward = jax.jit(functools.partial(model.clone(dtype=dtype).apply, train=False))
    with jax.enable_x64(dtype == "float64"):
      ours = np.asarray(forward(jax.tree.map(cast, variables), cast(images)), np.float64)
    theirs = counterpart.run(destination, model, cast(images)).astype(np.float64)
    if not theirs.any():
      raise UserError(
        f"{destination} gives zeros only, as a head that is not trained yet does, which proves "
        "nothing; verify without that head (--model.num_classes=0)."
      )
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))

  errors = {"float32": relative_error("float32")}
  if not errors["float32"] <= TOLERANCE:  # NaN neither.
    errors["float64"] = relative_error("float64")
  return errors
