# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Fine-tunes an ImageNet-21k ViT or hybrid at 384 pixels, Table 4 of arXiv:2010.11929.

    vit-jax train --config=configs/vit.py:b16,cifar10 --workdir=runs/b16-cifar10

The argument is MODEL,DATASET: a ViT or hybrid in the ancestor's short spelling (ti16, s16, b16,
b32, l16, h14, r50_b16, ...) or by its full name, and cifar10, cifar100 or imagenet2012. Weights
come from --config.pretrained_dir (default: the paper's ImageNet-21k release, which has b8, b16,
b32, l16, l32, h14 and r50_b16); for models that were released only with AugReg use
configs/augreg.py. On images of your own:

    vit-jax train --config=configs/vit.py:b16,cifar10 --workdir=runs/mine \
        --config.dataset=/my/photos --config.total_steps=500 --config.warmup_steps=50

Published accuracy of ViT-B/16 on CIFAR-10: 99.02% (dropout 0). The ancestor reports 2.2 hours on
8 A100; not yet measured here. Hyperparameters are the ancestor's: SGD with momentum 0.9 in
bfloat16, batch 512 in 8 accumulated parts, cosine decay, clipping at 1, no weight decay.
"""

import ml_collections

from vit_jax.configs import common
from vit_jax.errors import UserError
from vit_jax.models import presets, registry


def get_config(arg: str = "b16,cifar10") -> ml_collections.ConfigDict:
  """Returns the configuration for `arg` = "MODEL,DATASET"."""
  if arg.count(",") != 1:
    raise UserError(
      f"configs/vit.py takes MODEL,DATASET, as in configs/vit.py:b16,cifar10; it got {arg!r}."
    )
  model, dataset = arg.split(",")
  config = common.get_config()
  common.set_dataset(config, dataset)
  name = common.find_model(model)
  if (family := registry.get_entry(name).family) in presets.PRESETS:
    raise UserError(
      f"configs/vit.py fine-tunes ViTs and hybrids, and {name} is none; use "
      f"--config={presets.preset_of(name, family, dataset)}."
    )
  config.model = common.model_config(name)
  config.pretrained_dir = "gs://vit_models/imagenet21k"
  if (name, dataset) == ("ViT-B_16", "cifar10"):
    config.base_lr = 0.01
  return config
