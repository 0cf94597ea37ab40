# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Trains a DeiT on ImageNet alone, or fine-tunes one: arXiv:2012.12877.

    vit-jax train --config=configs/deit.py:s16,imagenet2012 --workdir=runs/deit-s16

The argument is MODEL,DATASET: ti16, s16, b16, each with _distilled, and imagenet2012 (from scratch,
Table 9 of the paper) or cifar10 and cifar100 (fine-tuning of the released weights, with the
ancestor's settings and no teacher; also of DeiT-III, 3_s16 to 3_h14). From scratch a distilled
model learns from a teacher as well:

    vit-jax train --config=configs/deit.py:s16_distilled,imagenet2012 --workdir=runs/deit-s16d \
        --config.distill.teacher=BiT-R101x1 \
        --config.distill.checkpoint=gs://bit_models/BiT-M-R101x1-ILSVRC2012.npz

which is the default teacher, at 224 pixels. Any model of the registry with ImageNet's classes will
do, or the work directory of a run of yours, at its own size:

    --config.distill.teacher=runs/mine --config.distill.checkpoint= --config.distill.image_size=0

It is asked in every step, about the images as they are after augmentation. With
--config.distill.loss=soft the student learns all its probabilities (tau 3, weight 0.1) instead of
the class that it names (weight 0.5, section 4). A model without _distilled takes a teacher too, and
then learns from both with its only head.

300 epochs of AdamW at batch 1024: rate 1e-3 with 5 epochs of warm-up, weight decay 0.05, label
smoothing 0.1, stochastic depth 0.1, Mixup 0.8 and CutMix 1.0 by turns, and an average of the
weights (decay 0.99996) that is evaluated beside them. The paper also has RandAugment, random
erasing and repeated augmentation, which are not here: expect less than its accuracies, which are
72.2% (ti16), 79.9% (s16) and 81.8% (b16); distilled by its own teacher, a RegNetY-16GF, 74.5%,
81.2% and 83.4%. Its DeiT-S took less than 3 days on 4 GPUs and DeiT-B 53 hours on 8. Not yet
measured here.

From scratch, offline, on scikit-learn's handwritten digits:

    vit-jax train --config=configs/deit.py:digits --workdir=runs/deit-digits --config.seed=0

Of 10 images a class, taught by a small BiT that has seen all of them:

    vit-jax train --config=configs/bit.py:digits --workdir=runs/bit-digits
    vit-jax train --config=configs/deit.py:digits_distilled --workdir=runs/deit-taught \
        --config.distill.teacher=runs/bit-digits

Test accuracy of the first is 98.6%, 99.2% and 98.3% with seeds 0, 1 and 2, in 3 minutes on two busy
cores (AMD EPYC). Of the second, over seeds 0 to 4, 94.1% +- 0.9 alone, 95.7% +- 0.5 by hard and
97.4% +- 0.5 by soft labels (the teacher has 99.7%), by benchmarks/distillation.py.
"""

import ml_collections
from ml_collections import config_dict

from vit_jax.configs import common
from vit_jax.errors import UserError
from vit_jax.models import registry


def get_config(arg: str = "s16,imagenet2012") -> ml_collections.ConfigDict:
  """Returns the configuration for `arg`: "MODEL,DATASET", "digits" or "digits_distilled"."""
  if arg in ("digits", "digits_distilled"):
    return digits(distilled=arg == "digits_distilled")
  if arg.count(",") != 1:
    raise UserError(
      "configs/deit.py takes MODEL,DATASET, as in configs/deit.py:s16,imagenet2012, or digits, or "
      f"digits_distilled; it got {arg!r}."
    )
  model, dataset = arg.split(",")
  name = common.find_model(model, prefix="DeiT")
  config = common.get_config()
  config.model = common.model_config(name)
  if dataset != "imagenet2012":
    common.set_dataset(config, dataset)
    config.pp.crop = registry.get_entry(name).input.image_size
    config.model_or_filename = name
    return config
  if name.startswith("DeiT3-"):
    raise UserError(
      f"the recipe of {name} (arXiv:2204.07118) is not here; fine-tune its released weights, as in "
      f"configs/deit.py:{model},cifar10."
    )
  common.set_imagenet_from_scratch(config, batch=1_024, warmup_epochs=5)
  config.model.drop_path_rate = 0.1
  config.ema_decay = 0.99996
  if name.endswith("-distilled"):
    config.distill.teacher = "BiT-R101x1"
    config.distill.checkpoint = "gs://bit_models/BiT-M-R101x1-ILSVRC2012.npz"
    config.distill.image_size = 224  # What the student sees; BiT was tuned at 480.
  return config


def digits(*, distilled: bool = False) -> ml_collections.ConfigDict:
  """A DeiT of 16 tokens; distilled, of few images, whose mixtures the teacher tells apart.

  Settings were chosen on the validation split.
  """
  config = common.digits_config()
  config.model = common.model_config(
    "DeiT-Ti_16-distilled" if distilled else "DeiT-Ti_16",
    patch_size=8,
    hidden_size=64,
    num_layers=4,
    mlp_dim=256,
    num_heads=4,
    drop_path_rate=0.1,
  )
  config.total_steps = 800
  config.warmup_steps = 150
  config.label_smoothing = 0.1
  config.eval_every = 200
  config.checkpoint_every = 400
  if distilled:
    config.pp.train, config.pp.val, config.pp.test = "few", "val", "test"
    config.baseline = config_dict.placeholder(str)
    config.mixup = 0.8
    config.cutmix = 1.0
    config.distill.weight = 0.9  # The teacher knows far more than the labels.
    return config
  config.mixup = 0.2
  config.cutmix = 0.2
  config.ema_decay = 0.99
  return config
