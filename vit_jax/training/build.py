# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The model that a plan asks for: from scratch, from weights, or that of a run that continues."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax

from vit_jax.errors import UserError
from vit_jax.models import registry
from vit_jax.models.lit import example_inputs
from vit_jax.training import plan as plan_lib
from vit_jax.training.state import init_images
from vit_jax.workdir.run_info import RunInfo


def build_model(
  plan: plan_lib.Plan,
  num_classes: int,
  earlier: RunInfo | None = None,
  class_names: Sequence[str] = (),
) -> tuple[nn.Module, dict[str, Any] | None]:
  """Returns the model of a plan, and its variables as NumPy arrays if they come from a file.

  Args:
    plan: the run's.
    num_classes: of the data set.
    class_names: its classes, which decide whether the head of a checkpoint is kept; empty: their
      number does.
    earlier: the run that is being continued: its model is made again, and no file is read.

  Raises:
    UserError: if the weights, the image size or the classifier do not fit.
  """
  variables = None
  images = init_images(plan.pp)
  if plan.text:
    return _build_two_towers(plan, images, earlier)
  if earlier is not None:  # Its weights are in the checkpoint.
    model = _with_remat_of(earlier.create_model(), _planned(plan))
  elif plan.from_scratch:
    model = registry.create_model(
      plan.model.name, **{**plan.model.overrides, "num_classes": num_classes}
    )
  else:
    from vit_jax.checkpoints.pretrained import from_pretrained

    with _on_host():
      model, variables = from_pretrained(
        plan.model.name,
        checkpoint=plan.weights,
        **({"class_names": class_names} if class_names else {"num_classes": num_classes}),
        image_size=plan.pp.size,
        channels=plan.pp.channels,
        checkpoint_image_size=plan.checkpoint_image_size,
        **plan.model.overrides,
      )
  # Traces the model, so that a size that does not fit is refused before anything is written.
  logits, _ = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), images, train=False))
  if logits.shape != (1, num_classes):
    raise UserError(
      f"model {plan.model.name} gives outputs of shape {logits.shape[1:]} per image instead of "
      f"{num_classes} logits; choose a classifier that pools."
    )
  return model, jax.device_get(variables)


def _on_host() -> contextlib.AbstractContextManager[Any]:
  """Where weights are read: beside the devices, none of which may have room for all of them."""
  try:
    return jax.default_device(jax.local_devices(backend="cpu")[0])
  except RuntimeError:  # JAX_PLATFORMS leaves the CPU out.
    return contextlib.nullcontext()


def _planned(plan: plan_lib.Plan) -> nn.Module:
  return registry.create_model(plan.model.name, **plan.model.overrides)


def _with_remat_of(model: nn.Module, planned: nn.Module) -> nn.Module:
  """The model of an earlier run with what may change, where it has it."""
  known = "remat" in registry.model_fields(type(model))
  return model.clone(remat=planned.remat) if known else model


def _build_two_towers(
  plan: plan_lib.Plan, images: jax.Array, earlier: RunInfo | None
) -> tuple[nn.Module, dict[str, Any] | None]:
  from vit_jax.checkpoints import lit, pretrained

  variables = None
  name, overrides = plan.model.name, plan.model.overrides
  if earlier is not None:
    model, planned = earlier.create_model(), _planned(plan)
    model = model.clone(
      img=_with_remat_of(model.img, planned.img), txt=_with_remat_of(model.txt, planned.txt)
    )
  elif plan.init.img or plan.init.txt:
    _check_normalization(plan)
    files = dataclasses.asdict(plan.init)
    model, variables = lit.load_towers(name, files, overrides, images, plan.seed)
  elif plan.from_scratch:
    model = registry.create_model(name, **overrides)
  else:
    with _on_host():
      model, variables = pretrained.from_pretrained(
        name,
        plan.weights,
        image_size=plan.pp.size,
        channels=plan.pp.channels,
        checkpoint_image_size=plan.checkpoint_image_size,
        **overrides,
      )
  inputs = example_inputs(model, images)  # Traced, so that towers of two widths are refused here.
  jax.eval_shape(lambda: model.init(jax.random.key(0), *inputs, train=False))
  return model, jax.device_get(variables)


def _check_normalization(plan: plan_lib.Plan) -> None:
  """Refuses other pixel values than the image tower was trained on, where its file tells them."""
  from vit_jax.checkpoints import preprocessing

  if not plan.init.img:
    return
  found = preprocessing.told_preprocessing(plan.init.img)
  if found is None:
    return
  theirs = found.settings
  told = {key: getattr(theirs, key) for key in ("mean", "std")}
  if theirs.channels == plan.pp.channels and told != {k: getattr(plan.pp, k) for k in told}:
    options = " ".join(f"--config.pp.{key}={value}".replace(" ", "") for key, value in told.items())
    raise UserError(
      f"{plan.init.img} was trained on images with mean {theirs.mean} and std {theirs.std}, this "
      f"run has {plan.pp.mean} and {plan.pp.std}; add {options}."
    )
