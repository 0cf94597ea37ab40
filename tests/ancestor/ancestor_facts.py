# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What google-research/vision_transformer expects of itself, as data (its last state, of 2024).

Where ours is another value by design, `DIFFERENCES` has both and the reason; everything else is
compared as it is.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from vit_jax.configs import augreg, mixer, vit
from vit_jax.models import registry
from vit_jax.training.plan import Plan, make_plan

# vit_jax/models_test.py: parameters at 224 pixels, with 1,000 classes; a LiT has none.
PARAMETERS = {
  "LiT-B16B": 195_871_489,
  "LiT-B16B_2": 195_280_897,
  "LiT-L16L": 638_443_521,
  "LiT-L16S": 331_140_353,
  "LiT-L16Ti": 311_913_089,
  "Mixer-B_16": 59_880_472,
  "Mixer-B_32": 60_293_428,
  "Mixer-L_16": 208_196_168,
  "R+ViT-Ti_16": 6_337_704,
  "R26+ViT-B_32": 101_383_976,
  "R26+ViT-S_32": 36_431_912,
  "R50+ViT-B_16": 98_659_112,
  "R50+ViT-L_32": 328_994_856,
  "ViT-B_8": 86_576_872,
  "ViT-B_16": 86_567_656,
  "ViT-B_16-gap-norep": 86_566_120,
  "ViT-B_32": 88_224_232,
  "ViT-B_32-gap-norep": 88_222_696,
  "ViT-H_14": 632_045_800,
  "ViT-L_16": 304_326_632,
  "ViT-L_32": 306_535_400,
  "ViT-S_16": 22_050_664,
  "ViT-S_16-gap-norep": 22_049_896,
  "ViT-S_32": 22_878_952,
  "ViT-S_32-gap-norep": 22_878_184,
  "ViT-Ti_16": 5_717_416,
  "testing": 21_390,
  "testing-unpooled": 21_370,
}


@dataclasses.dataclass(frozen=True)
class Vit:
  """A ViT of vit_jax/configs/models.py; `resnet`: blocks of the stages, None without a stem."""

  name: str
  patch: int
  hidden_size: int
  mlp_dim: int
  num_heads: int
  num_layers: int
  dropout_rate: float = 0.0
  classifier: str = "token"
  resnet: tuple[int, ...] | None = None


TI, S, B, L = (192, 768, 3, 12), (384, 1536, 6, 12), (768, 3072, 12, 12), (1024, 4096, 16, 24)
# By what stands before the comma in `vit.py:b16,cifar10`.
VITS = {
  "testing": Vit("testing", 16, 10, 10, 2, 1, 0.1),
  "testing_unpooled": Vit("testing-unpooled", 16, 10, 10, 2, 1, 0.1, "unpooled"),
  "ti16": Vit("ViT-Ti_16", 16, *TI),
  "s16": Vit("ViT-S_16", 16, *S),
  "b16": Vit("ViT-B_16", 16, *B),
  "l16": Vit("ViT-L_16", 16, *L, 0.1),
  "h14": Vit("ViT-H_14", 14, 1280, 5120, 16, 32, 0.1),
  "s16_gap_norep": Vit("ViT-S_16-gap-norep", 16, *S, classifier="gap"),
  "b16_gap_norep": Vit("ViT-B_16-gap-norep", 16, *B, classifier="gap"),
  "b8": Vit("ViT-B_8", 8, *B),
  "s32": Vit("ViT-S_32", 32, *S),
  "b32": Vit("ViT-B_32", 32, *B),
  "l32": Vit("ViT-L_32", 32, *L),
  "s32_gap_norep": Vit("ViT-S_32-gap-norep", 32, *S, classifier="gap"),
  "b32_gap_norep": Vit("ViT-B_32-gap-norep", 32, *B, classifier="gap"),
  "r_ti16": Vit("R+ViT-Ti_16", 8, *TI, resnet=()),
  "r50_b16": Vit("R50+ViT-B_16", 1, *B, 0.1, resnet=(3, 4, 9)),
  "r26_b32": Vit("R26+ViT-B_32", 1, *B, resnet=(2, 2, 2, 2)),
  "r26_s32": Vit("R26+ViT-S_32", 1, *S, resnet=(2, 2, 2, 2)),
  "r50_l32": Vit("R50+ViT-L_32", 1, *L, 0.1, resnet=(3, 4, 6, 3)),
}
# Patch, width, blocks, width of the token-mixing and of the channel-mixing MLP.
MIXERS = {
  "mixer_b16": ("Mixer-B_16", 16, 768, 12, 384, 3072),
  "mixer_b32": ("Mixer-B_32", 32, 768, 12, 384, 3072),
  "mixer_l16": ("Mixer-L_16", 16, 1024, 24, 512, 4096),
}
# Image tower, widths of the two heads (None: no head), text tower as its width, depth, MLP and
# heads, tokenizer. BERT's sizes are those of flaxformer's "base" and "large".
BERT_BASE, BERT_LARGE = (768, 12, 3072, 12), (1024, 24, 4096, 16)
LITS = {
  "lit_b16b": ("LiT-B16B", "b16", (768, 768), BERT_BASE, "bert"),
  "lit_b16b_2": ("LiT-B16B_2", "b16", (None, 768), BERT_BASE, "bert"),
  "lit_l16l": ("LiT-L16L", "l16", (None, 1024), BERT_LARGE, "bert"),
  "lit_l16s": ("LiT-L16S", "l16", (None, 1024), (384, 12, 1536, 6), "sentencepiece"),
  "lit_l16ti": ("LiT-L16Ti", "l16", (None, 1024), (192, 12, 768, 3), "sentencepiece"),
}
# What `augreg.py:NAME` takes and AugReg has released; R26_B_32 it takes without a file.
AUGREG = {
  "Ti_16": "ti16",
  "S_32": "s32",
  "S_16": "s16",
  "B_32": "b32",
  "B_16": "b16",
  "B_8": "b8",
  "L_16": "l16",
  "R_Ti_16": "r_ti16",
  "R26_S_32": "r26_s32",
  "R50_L_32": "r50_l32",
}

# vit_jax/configs/common.py.
COMMON = {
  "pretrained_dir": ".",
  "tfds_manual_dir": None,
  "tfds_data_dir": None,
  "grad_norm_clip": 1.0,
  "optim_dtype": "bfloat16",
  "accum_steps": 8,
  "batch": 512,
  "batch_eval": 512,
  "shuffle_buffer": 50_000,
  "eval_every": 100,
  "progress_every": 10,
  "checkpoint_every": 1_000,
  "prefetch": 2,
  "base_lr": 0.03,
  "decay_type": "cosine",
  "warmup_steps": 500,
  "trainer": "train",
  "model_or_filename": None,
}
# Steps, and the splits; all are cropped to 384 pixels.
DATASETS = {
  "cifar10": (10_000, "train[:98%]", "test"),
  "cifar100": (10_000, "train[:98%]", "test"),
  "imagenet2012": (20_000, "train[:99%]", "validation"),
}
# vit_jax/train.py.
FIXED = {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 0.0, "seed": 0}

ABSENT = "not a key"
# Key -> (value of the ancestor's, ours, why).
DIFFERENCES: dict[str, tuple[Any, Any, str]] = {
  "pretrained_dir": (".", "gs://vit_models/imagenet21k", "the folder of the README's own command"),
  "tfds_manual_dir": (None, ABSENT, "a data set is prepared beforehand, by `tfds build`"),
  "shuffle_buffer": (50_000, None, "every epoch is shuffled globally; typing it is allowed"),
  "prefetch": (2, ABSENT, "reading ahead is automatic"),
  "trainer": ("train", ABSENT, "the command names what is done"),
}
AUGREG_DIFFERENCES = {
  **{key: DIFFERENCES[key] for key in ("tfds_manual_dir", "shuffle_buffer", "prefetch", "trainer")},
  "pp.train": ("train", None, "None is the data set's own split, without what is held out"),
  "pp.test": ("test", None, "None is the data set's own split"),
  "pp.resize": (448, None, "the ancestor reads it nowhere"),
}
MIXER_DIFFERENCES = {
  **DIFFERENCES,
  "pretrained_dir": (".", "gs://mixer_models/imagenet21k", "the folder of the README's command"),
  "model_type": ("Mixer", ABSENT, "the name of the model tells"),
}
# Splits to choose the best checkpoint on, which the ancestor does not have: what it leaves out of
# training, "for validation purposes (if needed)".
VAL = {"train[:98%]": "train[98%:]", "train[:99%]": "train[99%:]", "train": None, None: None}


def vit_config(model: str, dataset: str) -> dict[str, Any]:
  """The flat keys of `vit.py:MODEL,DATASET`."""
  steps, train, test = DATASETS[dataset]
  splits = {"pp.train": train, "pp.test": test, "pp.crop": 384}
  keys = {**COMMON, **FIXED, **splits, "dataset": dataset, "total_steps": steps}
  if (model, dataset) == ("b16", "cifar10"):
    keys["base_lr"] = 0.01
  return {**keys, **vit_keys(VITS[model])}


def vit_keys(facts: Vit) -> dict[str, Any]:
  keys = {f"model.{key}": value for key, value in dataclasses.asdict(facts).items()}
  return {**keys, "model.attention_dropout_rate": 0.0, "model.representation_size": None}


def augreg_config(name: str, dataset: str | None = None) -> dict[str, Any]:
  """The flat keys of `augreg.py:NAME`, whose data set the user has to name."""
  return {
    **COMMON,
    **FIXED,
    **vit_keys(VITS[AUGREG[name.split("-")[0]]]),
    "pp.train": "train",
    "pp.test": "test",
    "pp.resize": 448,
    "pp.crop": 384,
    "pretrained_dir": "gs://vit_models/augreg",
    "model_or_filename": name,
    "model.dropout_rate": 0.0,
    "total_steps": 500,
    "warmup_steps": 100,
    "dataset": dataset,
  }


def mixer_config() -> dict[str, Any]:
  """The flat keys of `mixer_base16_cifar10.py`."""
  keys = {**COMMON, **FIXED, "model_type": "Mixer", "dataset": "cifar10", "total_steps": 10_000}
  keys |= {"pp.train": "train[:98%]", "pp.test": "test", "pp.crop": 224}
  return {**keys, **mixer_keys("mixer_b16")}


def mixer_keys(model: str) -> dict[str, Any]:
  fields = ("name", "patch", "hidden_dim", "num_blocks", "tokens_mlp_dim", "channels_mlp_dim")
  return {f"model.{field}": value for field, value in zip(fields, MIXERS[model], strict=True)}


def ours(plan: Plan) -> dict[str, Any]:
  """A plan of ours by the ancestor's keys."""
  model = registry.create_model(plan.model.name, **plan.model.overrides)
  at_top = {*COMMON, "dataset", "total_steps", "seed"} - {"prefetch", "trainer", "tfds_manual_dir"}
  keys = {key: getattr(plan, key) for key in at_top}
  keys |= {f"pp.{key}": getattr(plan.pp, key) for key in ("train", "val", "test", "crop", "resize")}
  keys |= {"optimizer": plan.optim.name}
  keys |= {key: getattr(plan.optim, key) for key in ("momentum", "weight_decay")}
  keys |= {f"model.{key}": value for key, value in registry.fields_of(model).items()}
  keys |= {"model.name": plan.model.name, "model.patch": keys["model.patch_size"]}
  if "model.hidden_size" in keys:
    stem = getattr(model, "stem_blocks", None)
    assert stem is None or model.stem_width == 64  # The ancestor's width_factor=1.
    keys["model.resnet"] = stem
  return keys


def compare(
  plan: Plan,
  theirs: dict[str, Any],
  differences: dict[str, tuple[Any, Any, str]],
  typed: dict[str, Any] | None = None,
) -> None:
  """Asserts that a plan is the ancestor's config, key by key.

  Args:
    plan: ours.
    theirs: their keys, as the preset has them.
    differences: as DIFFERENCES.
    typed: keys that the command line sets, on both sides.
  """
  typed, found = typed or {}, ours(plan)
  assert differences.keys() <= theirs.keys()
  for key, value in theirs.items():
    wanted = value
    if key in differences:
      their_value, wanted, why = differences[key]
      assert their_value == value and wanted != value and why, key
    wanted = typed.get(key, wanted)
    assert found.get(key, ABSENT) == wanted, key
  assert typed.keys() <= found.keys()
  if "pp.val" not in typed:
    assert found["pp.val"] == VAL.get(found["pp.train"])


def plan_of(config: str, model: str | None = None, dataset: str | None = None) -> Plan:
  """Our plan for one of the ancestor's presets."""
  get_config: dict[str, Callable] = {
    "vit": lambda: vit.get_config(f"{model},{dataset}"),
    "augreg": lambda: augreg.get_config(model),
    "mixer": lambda: mixer.get_config("b16,cifar10"),
  }
  keys = get_config[config]()
  if config == "augreg":
    keys.dataset = dataset
  return make_plan(keys)
