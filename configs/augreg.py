# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Fine-tunes a ViT or hybrid from an AugReg checkpoint (arXiv:2106.10270).

    vit-jax train --config=configs/augreg.py:R_Ti_16 --workdir=runs/pets \
        --config.dataset=oxford_iiit_pet --config.pp.train='train[:90%]' \
        --config.pp.val='train[90%:]' --config.base_lr=0.01

The argument is MODEL or MODEL,DATASET. MODEL is a short name (Ti_16, S_32, S_16, B_32, B_16, B_8,
L_16, R_Ti_16, R26_S_32, R50_L_32), which stands for the ImageNet-21k checkpoint of that model with
the best upstream validation accuracy in AugReg's index, or any full file name of
gs://vit_models/augreg without ".npz". DATASET is cifar10, cifar100 or imagenet2012, whose splits
are set; without it `config.dataset` must be given.

Accuracy and time are not yet measured here.
"""

import ml_collections

from vit_jax.configs import common
from vit_jax.models import registry


def get_config(arg: str = "R_Ti_16") -> ml_collections.ConfigDict:
  """Returns the configuration for `arg` = "MODEL" or "MODEL,DATASET", by AugReg's names."""
  model_or_filename, comma, dataset = arg.partition(",")
  config = common.get_config()
  if comma:
    common.set_dataset(config, dataset)
  name = registry.resolve_name(model_or_filename)
  config.model = common.model_config(name, dropout_rate=0.0)  # As the ancestor fine-tunes.
  registry.augreg_filename(model_or_filename)  # Refuses a model that AugReg does not have.
  config.model_or_filename = registry.augreg_name(model_or_filename.removesuffix(".npz"))
  config.pretrained_dir = "gs://vit_models/augreg"
  config.base_lr = 0.03
  config.total_steps = 500
  config.warmup_steps = 100
  config.pp.crop = 384
  return config
