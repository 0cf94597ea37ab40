# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Trains any model from scratch on images of your own.

vit-jax train --config=configs/scratch.py:small,32 --workdir=runs/mine --config.dataset=/my/photos
"""

import ml_collections
from ml_collections import config_dict

from vit_jax.configs import common, quickstart
from vit_jax.errors import UserError
from vit_jax.models import registry


def get_config(arg: str = "small,32") -> ml_collections.ConfigDict:
  """Returns the configuration for `arg` = "MODEL" or "MODEL,PIXELS"."""
  model, _, pixels = arg.partition(",")
  config = common.get_config()
  if model == "small":
    config.model = common.model_config(quickstart.MODEL, **quickstart.FIELDS)
    config.pp.crop = 32
  else:
    config.model = common.model_config(common.find_model(model))
    config.pp.crop = registry.get_entry(config.model.name).input.image_size
  if pixels:
    config.pp.crop = int(pixels)
  config.pp.min_area = 0.35
  config.pp.antialias = True
  config.epochs = 100.0
  config.warmup_steps = config_dict.placeholder(int)
  config.warmup_epochs = 5.0
  config.batch, config.batch_eval, config.accum_steps = 64, 256, 1
  config.base_lr = 1e-3
  config.optim = ml_collections.ConfigDict({"name": "adamw", "weight_decay": 0.05})
  config.optim_dtype = "float32"
  config.label_smoothing = 0.1
  config.eval_every = 200
  config.checkpoint_every = 500
  config.progress_every = 50
  return config
