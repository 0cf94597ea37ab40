# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Models as data: name -> module, config, input, weights (the files are in `weights.py`).

A new size is a row in a table. `create_model` is the only code that turns a row into a module.
"""

import dataclasses
import fnmatch
import functools
import types
from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from vit_jax.errors import UserError, nearest
from vit_jax.models.bit import BitResNet
from vit_jax.models.mixer import MlpMixer
from vit_jax.models.vit import HybridVisionTransformer, VisionTransformer
from vit_jax.models.weights import AUGREG, WEIGHTS, Weights, augreg_name


@dataclasses.dataclass(frozen=True)
class InputSpec:
  """What a model wants to see: how an evaluation image is resized, cropped and normalised.

  Attributes:
    image_size: side in pixels, or (height, width).
    mean, std: per channel, of pixels scaled to [0, 1]; 0.5 and 0.5 give the range [-1, 1].
    resize: "squash" (the whole image, as the ancestor) or "resize_crop" (shorter side to
      image_size / crop, then the centre, as timm).
    crop: share of the resized shorter side that the centre crop keeps; 1 for "squash".
    interpolation: "bilinear" or "bicubic".
    antialias: whether the filter widens when it shrinks; the ancestor's tf.image.resize does not.
    channels: 3, or 1 for grey images.
  """

  image_size: int | tuple[int, int] = 224
  mean: tuple[float, ...] = (0.5, 0.5, 0.5)
  std: tuple[float, ...] = (0.5, 0.5, 0.5)
  resize: str = "squash"
  crop: float = 1.0
  interpolation: str = "bilinear"
  antialias: bool = False
  channels: int = 3


@dataclasses.dataclass(frozen=True)
class Entry:
  """A row of the registry. The first of `weights` is the recommended one."""

  name: str
  family: str
  module: type[nn.Module]
  config: Mapping[str, Any]
  input: InputSpec = InputSpec()
  weights: tuple[Weights, ...] = ()


# Width, depth, MLP width, heads. B, L, H: Table 1 of arXiv:2010.11929. Ti, S: Table 1 of
# arXiv:2012.12877. g, G: Table 2 of arXiv:2106.04560.
SIZES = {
  "Ti": (192, 12, 768, 3),
  "S": (384, 12, 1536, 6),
  "B": (768, 12, 3072, 12),
  "L": (1024, 24, 4096, 16),
  "H": (1280, 32, 5120, 16),
  "g": (1408, 40, 6144, 16),
  "G": (1664, 48, 8192, 16),
}

PATCHES = {
  "Ti": (8, 14, 16, 32),
  "S": (8, 14, 16, 32),
  "B": (8, 14, 16, 32),
  "L": (8, 14, 16, 32),
  "H": (14, 16),
  "g": (14, 16),
  "G": (14, 16),
}

# Size, stem units per stage, patch in stem positions. The name of R+ViT-Ti_16 is history: its root
# strides by 4 and its patch by 8, which is /32 and 50 tokens at 224 pixels.
HYBRIDS = {
  "R+ViT-Ti_16": ("Ti", (), 8),
  "R26+ViT-S_32": ("S", (2, 2, 2, 2), 1),
  "R26+ViT-B_32": ("B", (2, 2, 2, 2), 1),
  "R50+ViT-B_16": ("B", (3, 4, 9), 1),
  "R50+ViT-L_32": ("L", (3, 4, 6, 3), 1),
}

# The ancestor's model table trains these with dropout; it has no effect on evaluation.
DROPOUT = {"ViT-L_16": 0.1, "ViT-H_14": 0.1, "R50+ViT-B_16": 0.1, "R50+ViT-L_32": 0.1}

# Width, blocks, token-mixing width, channel-mixing width, and patches: Table 1 of arXiv:2105.01601.
# S_8 is in no table of the paper, but was released.
MIXERS = {
  "S": (512, 8, 256, 2048, (8, 16, 32)),
  "B": (768, 12, 384, 3072, (16, 32)),
  "L": (1024, 24, 512, 4096, (16, 32)),
  "H": (1280, 32, 640, 5120, (14,)),
}

# Units per stage and width factor: section 4.1 of arXiv:1912.11370.
BITS = {
  "BiT-R50x1": ((3, 4, 6, 3), 1.0),
  "BiT-R50x3": ((3, 4, 6, 3), 3.0),
  "BiT-R101x1": ((3, 4, 23, 3), 1.0),
  "BiT-R101x3": ((3, 4, 23, 3), 3.0),
  "BiT-R152x2": ((3, 8, 36, 3), 2.0),
  "BiT-R152x4": ((3, 8, 36, 3), 4.0),
}


def _vit_config(size: str) -> dict[str, Any]:
  width, depth, mlp, heads = SIZES[size]
  return dict(hidden_size=width, num_layers=depth, mlp_dim=mlp, num_heads=heads)


def _entries() -> dict[str, Entry]:
  entries = []
  for size, patches in PATCHES.items():
    for patch in patches:
      name = f"ViT-{size}_{patch}"
      config = dict(_vit_config(size), patch_size=patch, dropout_rate=DROPOUT.get(name, 0.0))
      entries.append((name, "vit", VisionTransformer, config))
      if size in ("S", "B") and patch in (16, 32):
        gap = dict(config, classifier="gap")
        entries.append((f"{name}-gap-norep", "vit", VisionTransformer, gap))
  for name, (size, blocks, patch) in HYBRIDS.items():
    config = dict(
      _vit_config(size),
      patch_size=patch,
      stem_blocks=blocks,
      dropout_rate=DROPOUT.get(name, 0.0),
    )
    entries.append((name, "hybrid", HybridVisionTransformer, config))
  for size, (width, blocks, tokens, channels, patches) in MIXERS.items():
    config = dict(
      hidden_dim=width, num_blocks=blocks, tokens_mlp_dim=tokens, channels_mlp_dim=channels
    )
    for patch in patches:
      entries.append((f"Mixer-{size}_{patch}", "mixer", MlpMixer, dict(config, patch_size=patch)))
  for name, (units, factor) in BITS.items():
    entries.append((name, "bit", BitResNet, dict(num_units=units, width_factor=factor)))
  return {
    name: Entry(
      name, family, module, types.MappingProxyType(config), InputSpec(), WEIGHTS.get(name, ())
    )
    for name, family, module, config in entries
  }


MODELS: Mapping[str, Entry] = types.MappingProxyType(_entries())


def resolve_name(name: str) -> str:
  """Canonical name of a model, from its own or AugReg's short name or full file name.

  "B_16" and "B_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.0-sd_0.0" are both "ViT-B_16".
  """
  if name in MODELS:
    return name
  short = name.removesuffix(".npz").split("-")[0]
  for canonical in MODELS:
    if augreg_name(canonical) == short:
      return canonical
  known = (*MODELS, *AUGREG)
  hint = nearest(name, known) or "; `vit-jax models` lists them all."
  raise UserError(f"there is no model {name!r}{hint}")


def augreg_filename(name: str) -> str:
  """AugReg's file name, without ".npz", for a short name ("R_Ti_16"); a file name is kept.

  This is the recommendation of the ancestor's README; `checkpoints.augreg.resolve` asks AugReg's
  own index first.
  """
  short = augreg_name(name.removesuffix(".npz"))
  if "-" in short:
    return name.removesuffix(".npz")
  if short not in AUGREG:
    raise UserError(f"AugReg has no weights for {name!r}; it has {', '.join(AUGREG)}.")
  return AUGREG[short]


def get_entry(name: str) -> Entry:
  """The registry's row for a model. Raises UserError, with the nearest names, if there is none."""
  return MODELS[resolve_name(name)]


def list_models(pattern: str = "*", *, pretrained: bool = False) -> list[str]:
  """Names that match a shell pattern such as "*B_16*"; with `pretrained`, those with weights."""
  return [
    name
    for name, entry in MODELS.items()
    if fnmatch.fnmatchcase(name, pattern) and (entry.weights or not pretrained)
  ]


@functools.lru_cache
def model_fields(module: type[nn.Module]) -> tuple[str, ...]:
  """Names of the fields that `create_model` lets a caller override."""
  return tuple(
    field.name for field in dataclasses.fields(module) if field.name not in ("parent", "name")
  )


def create_model(name: str, **overrides: Any) -> nn.Module:
  """Builds a model by name; keyword arguments override the registry's config by field name.

  Args:
    name: as in `list_models`, or AugReg's short name ("B_16").
    **overrides: fields of the module, e.g. num_classes=10, classifier="gap", dtype="bfloat16".
      `num_classes=None` means the registry's.

  Returns:
    A flax.linen.Module; `model.apply(variables, images, train=False)` gives logits.

  Raises:
    UserError: for an unknown name or field, with the nearest ones.
  """
  entry = get_entry(name)
  known = model_fields(entry.module)
  for key in overrides:
    if key not in known:
      hint = nearest(key, known) or f"; it has {', '.join(known)}."
      raise UserError(f"{entry.name} has no field {key!r}{hint}")
  if overrides.get("num_classes", 0) is None:
    del overrides["num_classes"]
  merged = {**entry.config, **overrides}
  # Modules are hashed as static arguments of jit: sequences must be tuples.
  merged = {k: tuple(v) if isinstance(v, list) else v for k, v in merged.items()}
  return entry.module(**merged)
