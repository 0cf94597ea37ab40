# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What a plan must not say: keys without effect, and contradictions; `keys` checks ranges."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vit_jax.errors import UserError
from vit_jax.keys import NONE
from vit_jax.models import registry

if TYPE_CHECKING:
  from vit_jax.training.plan import Plan

# Where a key is read. Setting it elsewhere would be silently ignored, so it is refused.
_EFFECT = (
  ("linear_end", "with decay_type='linear'", lambda p: p.decay_type == "linear"),
  ("rsqrt_timescale", "with decay_type='rsqrt'", lambda p: p.decay_type == "rsqrt"),
  ("decay_at", "with decay_type='step'", lambda p: p.decay_type == "step"),
  ("decay_factor", "with decay_type='step'", lambda p: p.decay_type == "step"),
  ("optim.momentum", "with optim.name='sgd'", lambda p: p.optim.name == "sgd"),
  ("optim.b1", "with optim.name='adamw'", lambda p: p.optim.name == "adamw"),
  ("optim.b2", "with optim.name='adamw'", lambda p: p.optim.name == "adamw"),
  ("optim.eps", "with optim.name='adamw'", lambda p: p.optim.name == "adamw"),
  ("optim_dtype", "with momentum", lambda p: p.optim.name == "adamw" or p.optim.momentum),
  ("baseline", "with dataset='digits'", lambda p: p.dataset == "digits"),
  ("tfds_data_dir", "with a TFDS name", lambda p: not _is_local(p.dataset)),
  (
    "model_or_filename",
    "without model.name or when pretrained_dir holds that file",
    lambda p: p.pretrained_dir or p.model.name == registry.get_entry(p.model_or_filename).name,
  ),
  ("contrastive_loss", "with a model of two towers (LiT)", lambda p: p.text),
  ("init.img", "with a model of two towers (LiT)", lambda p: p.text),
  ("init.txt", "with a model of two towers (LiT)", lambda p: p.text),
  ("distill.tau", "with distill.loss='soft'", lambda p: not p.distill or p.distill.loss == "soft"),
  (
    "distill.checkpoint",
    "where distill.teacher is a name of the registry",
    lambda p: not p.distill or not _is_path(p.distill.teacher),
  ),
  ("pp.min_area", "with pp.train_crop='inception'", lambda p: p.pp.train_crop == "inception"),
  (
    "pp.resize",
    "with pp.train_crop='random' or pp.eval_resize='resize_crop'",
    lambda p: p.pp.train_crop == "random" or p.pp.eval_resize == "resize_crop",
  ),
)


def _is_path(name: str) -> bool:
  return os.path.isdir(name) or "://" in name


def _is_local(dataset: str) -> bool:
  return dataset == "digits" or os.path.isdir(dataset)


def refuse_without_effect(plan: Plan, keys: Mapping[str, Any]) -> None:
  """Raises a UserError for a key that is set where nothing reads it."""
  for key, where, effective in _EFFECT:
    value: Any = keys
    for part in key.split("."):
      value = value.get(part) if isinstance(value, Mapping) else None
    if value is not None and value not in NONE and not effective(plan):
      raise UserError(
        f"config.{key}={value!r} has no effect here, it is only read {where}; "
        f"set it to None or remove it."
      )


def check(plan: Plan) -> None:
  """Refuses what contradicts itself."""
  other = "pretrained_dir" if plan.pretrained_dir else "model_or_filename"
  if plan.checkpoint and getattr(plan, other):
    raise UserError(
      f"config.checkpoint and config.{other} both name weights to start from; "
      f"set one of them to nothing (--config.{other}=)."
    )
  if plan.text:
    _check_two_towers(plan)
  _check_length(plan)
  if plan.keep_every and not plan.checkpoint_every:
    raise UserError(
      f"config.keep_every={plan.keep_every} has no effect with config.checkpoint_every=0, which "
      f"saves nothing before the end; set that to {plan.keep_every} too."
    )
  if plan.keep_every and plan.keep_every % plan.checkpoint_every:
    raise UserError(
      f"config.keep_every={plan.keep_every} should be a multiple of config.checkpoint_every="
      f"{plan.checkpoint_every}; 0 keeps none for good."
    )
  if (plan.mixup or plan.cutmix) and plan.batch == plan.accum_steps:
    raise UserError(
      f"config.mixup and config.cutmix have no effect on parts of one example (batch={plan.batch}, "
      f"accum_steps={plan.accum_steps}); enlarge the batch, or set both to 0."
    )
  if plan.distill:
    _check_distillation(plan)
  if plan.pp.train_sizes:
    _check_train_sizes(plan)
  if plan.batch % plan.accum_steps:
    raise UserError(
      f"config.batch={plan.batch} is not a multiple of accum_steps={plan.accum_steps}; "
      f"use a multiple of it."
    )


def _check_length(plan: Plan) -> None:
  """Refuses a length that is not said, or said twice."""
  if plan.total_steps is None and plan.epochs is None:
    raise UserError(
      "config.total_steps is missing; set it to an integer, or config.epochs to a number of passes "
      "over the training images."
    )
  for steps, epochs in (("total_steps", "epochs"), ("warmup_steps", "warmup_epochs")):
    if getattr(plan, steps) is not None and getattr(plan, epochs) is not None:
      raise UserError(
        f"config.{steps}={getattr(plan, steps)} and config.{epochs}={getattr(plan, epochs)} both "
        "say how long; remove one of them."
      )


def check_steps(plan: Plan) -> None:
  """Refuses a warm-up and cool-down that are longer than the run."""
  if plan.warmup_steps + plan.cooldown_steps > plan.total_steps:
    raise UserError(
      f"config.warmup_steps={plan.warmup_steps} plus cooldown_steps={plan.cooldown_steps} is more "
      f"than total_steps={plan.total_steps}; shorten them or train longer."
    )


def _check_train_sizes(plan: Plan) -> None:
  sizes, resize = plan.pp.train_sizes, plan.pp.resize
  resized = min(resize) if isinstance(resize, tuple) else resize
  if min(sizes) < 1:
    why = "should be positive sides in pixels, such as (160, 192, 256)"
  elif plan.pp.train_crop == "none":
    why = "needs images cropped to the largest; set pp.train_crop to 'inception' or 'random'"
  elif plan.pp.train_crop == "random" and resized and resized < max(sizes):
    why = f"has a side above pp.resize={resize}, from which images are cropped; enlarge that"
  else:
    return
  raise UserError(f"config.pp.train_sizes={sizes} {why}.")


def _check_distillation(plan: Plan) -> None:
  distill = plan.distill
  if plan.text:
    raise UserError(
      f"config.distill.teacher={distill.teacher!r} has no effect on {plan.model.name}, which does "
      "not learn classes; remove it."
    )
  if distill.cache and (plan.mixup or plan.cutmix):
    raise UserError(
      "config.distill.cache=True does not go with mixing, since a mixed image has no answer in the "
      "cache; set it to False, or config.mixup and config.cutmix to 0."
    )


def _check_two_towers(plan: Plan) -> None:
  locked = plan.frozen and plan.frozen.startswith("img/")
  if locked and plan.from_scratch and not plan.init.img:
    raise UserError(
      f"config.frozen={plan.frozen!r} locks an image tower that nothing has trained; name its "
      "weights in config.init.img, or unlock it (--config.frozen=)."
    )
  bias, fields = plan.model.overrides.get("bias_init"), plan.model.overrides
  if plan.contrastive_loss == "softmax" and bias is not None:
    raise UserError(
      f"config.model.bias_init={bias} has no effect on the softmax loss; set it to None, or "
      "config.contrastive_loss='sigmoid'."
    )
  if plan.contrastive_loss == "sigmoid" and bias is None:
    raise UserError(
      "config.contrastive_loss='sigmoid' needs config.model.bias_init, such as -10: few of all "
      "images and texts are pairs."
    )
  temperature = fields.get("temperature_init")
  if temperature is not None and not plan.from_scratch:
    raise UserError(
      f"config.model.temperature_init={temperature} has no effect: the checkpoint has its own; "
      "set it to None or remove it."
    )
  for key, off in (
    ("accum_steps", 1),
    ("label_smoothing", 0.0),
    ("mixup", 0.0),
    ("cutmix", 0.0),
  ):
    if getattr(plan, key) != off:
      raise UserError(
        f"config.{key}={getattr(plan, key)} does not go with a contrastive loss, which compares "
        f"all images and texts of a batch; set it to {off}."
      )
  if (plan.init.img or plan.init.txt) and not plan.from_scratch:
    raise UserError(
      "config.init and config.checkpoint (or pretrained_dir) both name weights to start from; "
      "set one of them to nothing."
    )
