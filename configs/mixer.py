# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Fine-tunes an MLP-Mixer (arXiv:2105.01601), or trains a small one from scratch.

    vit-jax train --config=configs/mixer.py:b16,cifar10 --workdir=runs/mixer-b16-cifar10

The argument is MODEL,DATASET: b16 or l16 (or a full name), and cifar10, cifar100 or imagenet2012.
Weights come from --config.pretrained_dir (default: the paper's ImageNet-21k release, of these two;
gs://mixer_models/imagenet1k has them trained on ImageNet alone, gs://mixer_models/gsam has s32,
s16, s8, b32 and b16). A Mixer sees one image size, that of its weights: 224 pixels. On your images:

    vit-jax train --config=configs/mixer.py:b16,cifar10 --workdir=runs/mine \
        --config.dataset=/my/photos --config.total_steps=500 --config.warmup_steps=50

The ancestor reports, for CIFAR-10 on four V100: Mixer-B/16 96.82% in 9.6 hours, Mixer-L/16 98.34%
in 10.0 hours; not yet measured here. Hyperparameters are the ancestor's: SGD with momentum 0.9 in
bfloat16, learning rate 0.03, batch 512 in 8 accumulated parts, cosine decay, clipping at 1.

From scratch on scikit-learn's handwritten digits, offline, on two CPU cores:

    vit-jax train --config=configs/mixer.py:digits --workdir=runs/mixer-digits

Test accuracy 99.2%, 98.3% and 98.3% with --config.seed=0, 1 and 2 (360 images; 1-nearest-neighbour
has 98.1%) in 103 to 114 seconds on two cores (AMD EPYC), compilation included.
"""

import ml_collections

from vit_jax.configs import common
from vit_jax.errors import UserError


def get_config(arg: str = "b16,cifar10") -> ml_collections.ConfigDict:
  """Returns the configuration for `arg`: "MODEL,DATASET", or "digits"."""
  if arg == "digits":
    return digits()
  if arg.count(",") != 1:
    raise UserError(
      "configs/mixer.py takes MODEL,DATASET, as in configs/mixer.py:b16,cifar10, or digits; "
      f"it got {arg!r}."
    )
  model, dataset = arg.split(",")
  config = common.get_config()
  common.set_dataset(config, dataset)
  config.pp.crop = 224
  config.model = common.model_config(common.find_model(model, prefix="Mixer-"))
  config.pretrained_dir = "gs://mixer_models/imagenet21k"
  return config


def digits() -> ml_collections.ConfigDict:
  """A Mixer of 64 tokens from scratch, with the quickstart's settings but for fewer steps."""
  config = common.digits_config()
  config.model = common.model_config(
    "Mixer-S_16",
    patch_size=4,
    hidden_dim=64,
    num_blocks=4,
    tokens_mlp_dim=64,
    channels_mlp_dim=256,
  )
  config.total_steps = 1_000
  config.warmup_steps = 100
  config.label_smoothing = 0.1
  config.eval_every = 250
  config.checkpoint_every = 500
  return config
