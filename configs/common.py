# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What all configurations share: every key that training reads, with the ancestor's values.

`complete` adds the other keys of `vit_jax.training.plan.Plan`, as placeholders: None leaves a key
as it is by default. A key that is set where a run doesn't use it is an error before its first step.
"""

import re
from typing import Any

import ml_collections
from ml_collections import config_dict

from vit_jax.errors import UserError, nearest
from vit_jax.keys import Key
from vit_jax.models import registry, timm_names
from vit_jax.models.presets import short_name
from vit_jax.training import plan as plan_lib


def get_config() -> ml_collections.ConfigDict:
  """Fine-tuning as the ancestor does it, without a model and a dataset yet."""
  config = ml_collections.ConfigDict()
  config.seed = 0

  # A TFDS name prepared as ArrayRecord, a folder of images, or "digits". See docs in README.md.
  config.dataset = config_dict.placeholder(str)
  config.tfds_data_dir = config_dict.placeholder(str)
  config.max_bad_fraction = 0.01  # Share of undecodable images above which the run stops.
  config.pp = ml_collections.ConfigDict()
  config.pp.train = config_dict.placeholder(str)  # Splits; None takes the dataset's own.
  config.pp.val = config_dict.placeholder(str)
  config.pp.test = config_dict.placeholder(str)
  config.pp.crop = 224  # Side of the model's input in pixels.
  config.pp.resize = config_dict.placeholder(int)
  config.pp.train_sizes = config_dict.placeholder(tuple)  # Each step trains at one of these sides.
  config.pp.train_crop = "inception"  # Or "random" (from pp.resize), or "none".
  config.pp.min_area = config_dict.placeholder(float)  # Of the inception crop; None means 0.05.
  config.pp.flip = True
  config.pp.eval_resize = "squash"  # The ancestor's; "resize_crop" is timm's.
  config.pp.interpolation = config_dict.placeholder(str)
  config.pp.antialias = config_dict.placeholder(bool)
  config.pp.channels = config_dict.placeholder(int)  # 3 (RGB) or 1 (grey); None means 3.
  config.pp.mean = config_dict.placeholder(tuple)  # Of pixels in [0, 1]; None: the model's.
  config.pp.std = config_dict.placeholder(tuple)

  # One source of weights at most; none of them set means from scratch.
  config.pretrained_dir = config_dict.placeholder(str)  # Holds NAME.npz for model NAME.
  config.model_or_filename = config_dict.placeholder(str)  # AugReg's name or file name.
  config.checkpoint = config_dict.placeholder(str)  # A file, URL or work directory.
  config.checkpoint_image_size = config_dict.placeholder(tuple)  # Where the file does not tell it.
  config.model = ml_collections.ConfigDict()
  config.frozen = config_dict.placeholder(str)  # Pattern of parameter paths that stay, "img/".

  config.batch = 512
  config.batch_eval = 512
  config.accum_steps = 8
  config.total_steps = config_dict.placeholder(int)
  config.epochs = config_dict.placeholder(float)  # Instead of total_steps: passes over train.
  config.warmup_steps = 500
  config.warmup_epochs = config_dict.placeholder(float)  # Instead of warmup_steps.
  config.base_lr = 0.03  # Used as it is, whatever the batch.
  config.decay_type = "cosine"
  config.grad_norm_clip = 1.0
  config.label_smoothing = 0.0
  config.mixup = 0.0  # Alpha; 0 turns it off.
  config.cutmix = 0.0  # Alpha; with mixup, either in half of the steps.
  config.ema_decay = config_dict.placeholder(float)  # Of an average of the weights.
  config.distill = ml_collections.ConfigDict()
  config.distill.teacher = config_dict.placeholder(str)  # A run's work directory, or a model.
  config.distill.checkpoint = config_dict.placeholder(str)  # Weights of that model.
  config.distill.image_size = config_dict.placeholder(int)  # None: the teacher's own.
  config.distill.loss = config_dict.placeholder(str)  # "hard" (None) or "soft".
  config.distill.tau = config_dict.placeholder(float)
  config.distill.weight = config_dict.placeholder(float)
  config.distill.cache = config_dict.placeholder(bool)
  config.optim = ml_collections.ConfigDict({"name": "sgd", "momentum": 0.9, "weight_decay": 0.0})
  config.optim_dtype = "bfloat16"  # Of the momentum.

  # Devices along each axis, see docs/many-hosts.md; -1: all that are left.
  config.mesh = ml_collections.ConfigDict({"replica": 1, "data": -1, "fsdp": 1, "tensor": 1})
  config.nan_policy = "stop"  # Or "skip" that update, or "rollback" to the last checkpoint.

  config.eval_every = 100
  config.checkpoint_every = 1_000
  config.keep_last = 2  # Checkpoints, beside the best one.
  config.keep_every = 0  # Those of multiples of this step are kept for good.
  config.progress_every = 10
  config.baseline = config_dict.placeholder(str)  # "1-nn" with dataset="digits".
  # The ancestor's; unused, since shuffling is global here. Kept so that its users' scripts run.
  config.shuffle_buffer = config_dict.placeholder(int)
  return complete(config)


def complete(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """Adds the keys that a config leaves out, of the plan and of its model; returns the config.

  They are placeholders, which mean the same as a key that is not there. The exception are keys for
  which None would be another value than their default (`grad_norm_clip`): they get the default.

  Raises:
    UserError: there is no such model.
  """
  with config.unlocked():
    for path, key in plan_lib.declared_keys(config).items():
      *sections, name = path.split(".")
      section = config
      for part in sections:
        if section.get(part) is None:
          if part in section:
            del section[part]  # A reference would not let it become a section.
          section[part] = ml_collections.ConfigDict()
        section = section[part]
        if not isinstance(section, ml_collections.ConfigDict):
          break  # `make_plan` says that it should be a section.
      else:
        if name not in section:
          section[name] = _placeholder(key)
  return config


def _placeholder(key: Key) -> Any:
  """A field that can be set to what the key takes."""
  if key.kind() is object:  # A reference would keep a dict from becoming a section.
    return None
  usual = key.default if isinstance(key.default, int | float | str) and key.nones else None
  return config_dict.FieldReference(usual, field_type=key.kind())


# What belongs to the data set that a preset names, and goes with it when another one is named; of
# the ways to resize only "digit".
DATASET_KEYS = (
  *("pp.train", "pp.val", "pp.test"),
  *("pp.eval_resize", "pp.channels", "pp.mean", "pp.std", "pp.flip", "pp.random_affine"),
  *("baseline", "text.class_names"),
)

# We leave out a part of the training split to choose on; the test split is evaluated once.
DATASETS = {
  "cifar10": (10_000, {"train": "train[:98%]", "val": "train[98%:]", "test": "test", "crop": 384}),
  "cifar100": (10_000, {"train": "train[:98%]", "val": "train[98%:]", "test": "test", "crop": 384}),
  "imagenet2012": (
    20_000,
    {"train": "train[:99%]", "val": "train[99%:]", "test": "validation", "crop": 384},
  ),
}


def set_dataset(config: ml_collections.ConfigDict, dataset: str) -> None:
  """Sets one of the ancestor's dataset presets: splits, crop and number of steps."""
  if dataset not in DATASETS:
    raise UserError(
      f"there is no preset for dataset {dataset!r}; presets are {', '.join(DATASETS)}, and "
      f"--config.dataset=NAME_OR_FOLDER on one of them uses any other."
    )
  config.dataset = dataset
  config.total_steps, pp = DATASETS[dataset]
  config.pp.update(pp)


IMAGENET_TRAIN = 1_268_355  # Images in the 99% that we train on.


def set_imagenet_from_scratch(
  config: ml_collections.ConfigDict, *, batch: int, warmup_epochs: float
) -> None:
  """300 epochs of ImageNet alone, Table 9 of arXiv:2012.12877, which its successors took over.

  Without RandAugment, random erasing and repeated augmentation, which are not here. The learning
  rate is the paper's 1e-3 for batch 1024, in proportion.
  """
  set_dataset(config, "imagenet2012")
  epoch = IMAGENET_TRAIN / batch
  config.total_steps, config.warmup_steps = round(300 * epoch), round(warmup_epochs * epoch)
  config.batch, config.accum_steps = batch, 1
  config.base_lr = 1e-3 * batch / 1_024
  config.optim = ml_collections.ConfigDict({"name": "adamw", "weight_decay": 0.05})
  config.optim_dtype = "float32"
  config.grad_norm_clip = config_dict.placeholder(float)
  config.label_smoothing = 0.1
  config.mixup = 0.8
  config.cutmix = 1.0
  config.pp.min_area = 0.08
  config.pp.crop = 224
  config.pp.resize = 256
  config.pp.eval_resize = "resize_crop"
  config.pp.interpolation = "bicubic"
  config.pp.antialias = True
  config.eval_every = 5_000
  config.checkpoint_every = 5_000
  complete(config)


def digits_config() -> ml_collections.ConfigDict:
  """scikit-learn's handwritten digits with AdamW: what the small runs on two cores share."""
  config = get_config()
  config.dataset = "digits"
  config.pp.crop = 32
  config.pp.channels = 1
  config.pp.train_crop = "none"
  config.pp.flip = False  # A mirrored digit is another sign.
  config.pp.random_affine = {"degrees": 10.0, "translate": 0.06, "scale": (0.9, 1.1)}
  config.pp.eval_resize = "digit"  # Also takes a photo of ink on paper.
  config.batch = 64
  config.batch_eval = 180
  config.accum_steps = 1
  config.base_lr = 2e-3
  config.optim = ml_collections.ConfigDict({"name": "adamw", "weight_decay": 0.05})
  config.optim_dtype = "float32"
  config.progress_every = 100
  config.baseline = "1-nn"
  return complete(config)


def model_config(name: str, **overrides) -> ml_collections.ConfigDict:
  """All fields of a model, so that each can be set as --config.model.FIELD=VALUE.

  Those that are not overridden are placeholders: None follows the weights' own file (its
  activation, say), then the registry's row for the name, whichever name is set.
  """
  config = {"name": registry.get_entry(name).name, **overrides}
  return complete(ml_collections.ConfigDict({"model": config})).model


def find_model(short: str, prefix: str = "") -> str:
  """Registry name for a short one ("b16") or a full one ("ViT-B_16"), however it is punctuated.

  Args:
    short: the name.
    prefix: of the models to choose from, such as "Mixer-", which short names then leave out.
  """
  models = [name for name in registry.MODELS if name.startswith(prefix)]
  names = {short_name(name, prefix): name for name in models}
  if short in names:
    return names[short]
  if short in models:
    return short
  # "B_16", "vit_b16", "lit_b16b_2", and "swin_t" where the prefix is left out.
  plain = lambda text: re.sub(r"[^a-z0-9.]", "", text.lower())
  spellings = lambda name: map(plain, (name, short_name(name), short_name(name, prefix)))
  alike = [name for name in models if plain(short) in spellings(name)]
  if len(alike) == 1:  # "vit_g16" is two models.
    return alike[0]
  if ours := timm_names.ours(short):
    spelled = next((repr(key) for key, name in names.items() if name == ours), None)
    where = f"here it is called {spelled}" if spelled else f"it is {ours!r}, of another family"
    raise UserError(f"there is no model {short!r} in this configuration; {where}.")
  few = f"; choose from {', '.join(names)}." if len(names) < 15 else None
  hint = nearest(short, tuple(names)) or few or "; `vit-jax models` lists them all."
  raise UserError(f"there is no model {short!r} in this configuration{hint}")
