# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""How presets spell the names of models, and which preset a model belongs to."""

import re

# Family -> its file in configs/, and what the names of its models begin with there. Those that are
# not here are configs/vit.py's.
PRESETS = {
  "mixer": ("mixer", "Mixer-"),
  "bit": ("bit", "BiT-"),
  "metaformer": ("metaformer", "PoolFormer-"),
  "deit": ("deit", "DeiT"),
  "swin": ("swin", "Swin"),
  "swin_v2": ("swin", "Swin"),
  "mobilevit": ("mobilevit", "MobileViT"),
  "mobilevit_v2": ("mobilevit", "MobileViT"),
  "lit": ("lit", "LiT-"),
}
DATASETS = ("cifar10", "cifar100", "imagenet2012")  # That presets know by name.


def short_name(name: str, prefix: str = "") -> str:
  """ "ViT-B_16" -> "b16", "R50+ViT-L_32" -> "r50_l32": the ancestor's spelling in configs.

  Args:
    name: of a model.
    prefix: what is left out of it: "Swin" makes "t" of "Swin-T".
  """
  short = name.removeprefix(prefix).lstrip("-")
  short = re.sub(r"(?<![A-Za-z])ViT-", "", short).replace("+", "_")  # "MobileViT-" stays.
  short = re.sub(r"_(\d+)", r"\1", short).replace("-", "_")
  return short if short[0] in "gG" else short.lower()  # g and G are two sizes.


def preset_of(name: str, family: str, dataset: str | None = None) -> str:
  """The preset of a model: "configs/swin.py:t,cifar10".

  Args:
    name: of the model.
    family: the registry's.
    dataset: the run's; CIFAR-10 stands for one that presets do not know.
  """
  file, prefix = PRESETS.get(family, ("vit", ""))
  end = "" if file == "lit" else f",{dataset if dataset in DATASETS else DATASETS[0]}"
  return f"configs/{file}.py:{short_name(name, prefix)}{end}"
