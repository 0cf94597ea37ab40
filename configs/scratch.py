# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Trains any model from scratch on images of your own, a folder or a TFDS name.

    vit-jax train --config=configs/scratch.py:small,32 --workdir=runs/mine \
        --config.dataset=/my/photos

The argument is MODEL or MODEL,PIXELS: a model by its short name (ti16, s16, deit_s16, swin_t,
mobilevit_xxs, poolformer_s12, r_ti16, ...) or by its full one, and the side of its input, by
default the one that it was published with. For images of up to 64 pixels `small` is recommended,
the hybrid ViT of configs/quickstart.py, of 0.2 million parameters, which trains on two CPU cores.
For photos on one GPU take s16 or deit_s16 at 224 pixels, or mobilevit_xxs for fewer images.

AdamW with a warm-up of 5 epochs and cosine decay, batch 64, label smoothing 0.1, flips, and crops
of at least a fifth of the image; images of up to 64 pixels are turned, shifted and scaled a little
instead, since a part of so few pixels shows too little. Where a mirrored image means something else
(letters, signs), add --config.pp.flip=False. 75 epochs are sensible for thousands of images; below
a thousand more of them help (--config.epochs=300), and for a hundred thousand a larger batch keeps
a GPU busy (--config.batch=512; the rate of 1e-3 is that of DeiT for batch 1,024). With few photos,
fine-tuning (configs/vit.py) is the better choice.

Measured with `small,32` on scikit-learn's digits, written as PNG files of 8x8 pixels into ten
folders: 98.9% of the 179 test images and 99.4% of the 179 of val (seed 0), in 2 minutes 42 seconds
on two cores (AMD EPYC, shared with other work). On 10 images a class it runs, says that 94 steps
are few and what is small, and gets 6 of 10 right. Photos are not yet measured here.
"""

import ml_collections
from ml_collections import config_dict

from vit_jax.configs import common, quickstart
from vit_jax.errors import UserError
from vit_jax.models import registry

SMALL = 64  # Pixels, up to which a crop is a shift: a part of so few pixels shows too little.


def get_config(arg: str = "small,32") -> ml_collections.ConfigDict:
  """Returns the configuration for `arg` = "MODEL" or "MODEL,PIXELS"."""
  model, comma, pixels = arg.partition(",")
  if comma and not (pixels.isascii() and pixels.isdecimal() and int(pixels)):
    raise UserError(
      "configs/scratch.py takes MODEL or MODEL,PIXELS, as in configs/scratch.py:s16,224 or "
      f"configs/scratch.py:small,32; it got {arg!r}."
    )
  config = common.get_config()
  if model == "small":
    config.model = common.model_config(quickstart.MODEL, **quickstart.FIELDS)
    size = 32
  else:
    name = common.find_model(model)
    if registry.get_entry(name).text:
      raise UserError(f"{name} has two towers and learns from texts; use configs/lit.py.")
    config.model = common.model_config(name)
    size = registry.get_entry(name).input.image_size
  config.pp.crop = int(pixels) if comma else size
  if config.pp.crop <= SMALL:
    config.pp.train_crop = "none"
    config.pp.random_affine = {"degrees": 10.0, "translate": 0.1, "scale": (0.9, 1.1)}
  else:
    config.pp.min_area = 0.2
  config.pp.antialias = True
  config.epochs = 75.0
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
  return common.complete(config)
