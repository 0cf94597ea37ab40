# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""configs/mixer.py: what it names, and a Mixer through training, its work directory and back."""

import numpy as np
import pytest
from compiled import apply

from vit_jax.checkpoints.pretrained import from_pretrained
from vit_jax.configs import mixer
from vit_jax.errors import UserError
from vit_jax.models.registry import create_model
from vit_jax.training.loop import train_and_evaluate
from vit_jax.training.plan import make_plan


def test_fine_tuning_is_the_ancestors():
  plan = make_plan(mixer.get_config("l16,cifar10"))
  assert plan.weights == "gs://mixer_models/imagenet21k/Mixer-L_16.npz"
  assert (plan.pp.crop, plan.total_steps, plan.base_lr, plan.batch) == (224, 10_000, 0.03, 512)
  plan = make_plan(mixer.get_config("Mixer-S_8,cifar100"))
  assert create_model(plan.model.name, **plan.model.overrides).patch_size == 8


@pytest.mark.parametrize(
  "argument, message",
  [
    ("b16", "takes MODEL,DATASET, as in configs/mixer.py:b16,cifar10, or digits; it got 'b16'"),
    ("b14,cifar10", "no model 'b14' in this configuration; did you mean 'h14' or 'b16'"),
    ("ViT-B_16,cifar10", "no model 'ViT-B_16' in this configuration"),
    ("b16,mnist", "no preset for dataset 'mnist'"),
  ],
)
def test_wrong_arguments_are_refused(argument, message):
  with pytest.raises(UserError, match=message):
    mixer.get_config(argument)


def test_a_run_loads_and_is_fine_tuned_at_its_own_size_only(tmp_path):
  config = mixer.get_config("digits")
  config.model.num_blocks = 1
  config.baseline = None
  for key in ("total_steps", "eval_every", "checkpoint_every"):
    config[key] = 4
  config.warmup_steps, config.progress_every = 1, 2
  train_and_evaluate(config, tmp_path / "first")
  model, variables = from_pretrained("Mixer-S_16", tmp_path / "first")
  assert (model.num_blocks, model.hidden_dim, model.num_classes) == (1, 64, 10)
  assert apply(model, variables, np.zeros((1, 32, 32, 1), np.float32)).shape == (1, 10)

  config.checkpoint, config.pp.crop = str(tmp_path / "first"), 64
  with pytest.raises(UserError, match="the checkpoint's is 8x8, not 16x16; leave image_size out"):
    train_and_evaluate(config, tmp_path / "second")
  assert not (tmp_path / "second").exists()
