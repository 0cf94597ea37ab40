# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Makes a LiT (arXiv:2111.07991): a text tower learns to speak for a locked image tower.

    vit-jax train --config=configs/lit.py:b16b2 --workdir=runs/lit --config.dataset=/my/photos \
        --config.init.img=ViT-B_16 --config.init.txt=/my/bert-base-uncased \
        --config.total_steps=2000 --config.warmup_steps=200 --config.batch=256

The argument is the model: b16b2 (the better of the two B), b16b, l16l, l16s or l16ti. `init.img`
takes any weights of that image tower (a name means the recommended ones), `init.txt` a folder or
file with transformers' BERT; without it the text tower learns from scratch. Texts stand beside the
images in a folder's `metadata.jsonl` or `metadata.csv` (`file_name`, `text`); in a folder of
classes, or a TFDS data set, the class names are read in `text.templates`. A released LiT is tuned
further by --config.checkpoint=LiT-B16B_2.npz instead of `init`.

Hyperparameters are the paper's (appendix, AdamW for AdaFactor, whose first moment is in bfloat16):
learning rate 1e-3, weight decay 1e-4, cosine decay, clipping at 1. Its batch is 16,384 pairs on 64
TPU v4 chips for three hours (LiT-B16B, ImageNet zero-shot 72.1%, by the ancestor's model card); not
yet measured here.

On scikit-learn's handwritten digits, offline, on two CPU cores, with the quickstart's run as the
image tower:

    vit-jax train --config=configs/quickstart.py --workdir=runs/quickstart
    vit-jax train --config=configs/lit.py:digits --workdir=runs/lit-digits \
        --config.init.img=runs/quickstart

Zero-shot accuracy by prompts on the 360 test images: 99.2% with --config.seed=0, 1 and 2, which is
the image tower's own as a classifier, and the same with the sigmoid loss
(--config.contrastive_loss=sigmoid --config.model.bias_init=-10). The second command takes half a
minute on two idle cores (AMD EPYC), compilation included.
"""

import ml_collections
from ml_collections import config_dict

from vit_jax.configs import common, quickstart

# Of the seven that arXiv:2103.00020 found best on ImageNet, the plainest, and the bare name.
TEMPLATES = ("{}", "a photo of a {}")


def get_config(arg: str = "b16b2") -> ml_collections.ConfigDict:
  """Returns the configuration for `arg`: a model, or "digits"."""
  if arg == "digits":
    return _digits()
  name = common.find_model(arg, prefix="LiT-")
  config = common.get_config()
  config.model = common.model_config(name)
  _add_text(config)
  config.text.templates = TEMPLATES
  config.frozen = "img/(?!head)"
  config.total_steps = 60_000
  config.warmup_steps = 10_000
  config.batch = 16_384
  config.accum_steps = 1
  config.base_lr = 1e-3
  config.optim = ml_collections.ConfigDict({"name": "adamw", "weight_decay": 1e-4})
  config.eval_every = 1_000
  return common.complete(config)


def _add_text(config: ml_collections.ConfigDict) -> None:
  """Adds what only models of two towers have."""
  config.text = ml_collections.ConfigDict(
    {
      "tokenizer": config_dict.placeholder(str),  # None: that of the released model.
      "vocabulary": config_dict.placeholder(str),  # None: that of the released model.
      "class_names": config_dict.placeholder(tuple),  # None: the data set's.
    }
  )
  config.init = ml_collections.ConfigDict(
    {"img": config_dict.placeholder(str), "txt": config_dict.placeholder(str)}
  )
  config.contrastive_loss = "softmax"  # Or "sigmoid", with config.model.bias_init=-10.


def _digits() -> ml_collections.ConfigDict:
  """The quickstart's image tower, and a text tower that spells; chosen on the validation split."""
  config = common.digits_config()
  config.model = common.model_config(
    "LiT-B16B_2",
    img=dict(name=quickstart.MODEL, **quickstart.FIELDS),
    txt=dict(
      name="Text-Ti",
      num_classes=64,
      hidden_size=64,
      num_layers=2,
      mlp_dim=256,
      num_heads=4,
      vocab_size=259,
      max_len=24,
    ),
  )
  _add_text(config)
  config.text.tokenizer = "bytes"
  config.text.templates = ("{}", "the number {}", "a handwritten {}", "the digit {}")
  config.text.class_names = (
    *("zero, nought", "one", "two", "three", "four"),
    *("five", "six", "seven", "eight", "nine"),
  )
  config.frozen = "img/"
  config.total_steps = 500
  config.warmup_steps = 50
  config.eval_every = 100
  config.checkpoint_every = 250
  return common.complete(config)
