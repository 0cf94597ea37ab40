# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What timm and Hugging Face call the models of the registry, from the rows' own numbers.

timm writes FAMILY_SIZE_patchP_PIXELS and, after a dot, which weights; the Hub puts an owner before
it and hyphens into it.
"""

import functools
import re
from collections.abc import Mapping

from vit_jax.models.entries import MODELS, Entry
from vit_jax.models.weights import WEIGHTS

# What stands for a size in our names, and in timm's.
_SIZES = {"Ti": "tiny", "T": "tiny", "S": "small", "B": "base", "L": "large", "H": "huge"}
_SIZES |= {"g": "giant", "G": "gigantic"}


def _size(name: str) -> str:
  """ "R50+ViT-L_32" -> "large"."""
  return _SIZES[re.search(r"-([A-Za-z]+)", name)[1]]


def _vit(name: str, entry: Entry) -> str:
  if "-gap" in name:
    return ""
  return f"vit_{_size(name)}_patch{entry.config['patch_size']}"


def _hybrid(name: str, entry: Entry) -> str:
  root, patch = name.partition("+")[0].lower(), entry.config["patch_size"]
  stride = 4 * 2 ** max(len(entry.config["stem_blocks"]) - 1, 0)
  # The root convolution alone is "s16" for timm too, whose patches of 8 follow it.
  return f"vit_{_size(name)}_{root}_" + (f"s16_p{patch}" if patch > 1 else f"s{stride}")


def _deit(name: str, entry: Entry) -> str:
  distilled = "_distilled" if name.endswith("-distilled") else ""
  family = name.partition("-")[0].lower()
  return f"{family}_{_size(name)}{distilled}_patch{entry.config['patch_size']}"


def _swin(name: str, entry: Entry) -> str:
  return f"swin_{_size(name)}_patch4_window{entry.config['window_size']}"


def _swin_v2(name: str, entry: Entry) -> str:
  return f"swinv2_{_size(name)}_window{entry.config['window_size']}"


_lowered = lambda name, entry: name.lower().replace("-", "_")

# Family -> the name without pixels.
_NAMES = {
  "vit": _vit,
  "hybrid": _hybrid,
  "deit": _deit,
  "mixer": lambda name, entry: _lowered(name, entry).replace("_", "", 2).replace("mixer", "mixer_"),
  "bit": lambda name, entry: f"resnetv2_{name.removeprefix('BiT-R')}_bit",
  "swin": _swin,
  "swin_v2": _swin_v2,
  "metaformer": _lowered,
  "mobilevit": _lowered,
  "mobilevit_v2": lambda name, entry: f"mobilevitv2_{round(100 * float(name.split('-')[1])):03}",
}


@functools.cache
def _table() -> Mapping[str, str]:
  """Names of timm's, with and without pixels, and of the released files, to ours."""
  table: dict[str, str] = {}
  for name, entry in MODELS.items():
    make = _NAMES.get(entry.family) if entry.listed else None
    if make is None or not (theirs := make(name, entry)):
      continue
    table[f"{theirs}_{entry.input.image_size}"] = name
    table.setdefault(theirs, name)  # The first row is that of the usual size.
  for name, rows in WEIGHTS.items():
    for row in rows if name in MODELS else ():
      stem = re.sub(r"(\.pth|\.npz|\.tar)+$", "", row.url.rpartition("/")[2].lower())
      table.setdefault(re.sub(r"-[0-9a-f]{8}$", "", stem).replace("-", "_"), name)
  return table


def ours(name: str) -> str | None:
  """Our name of what timm or the Hub call so; None if there is none."""
  theirs = name.rpartition("/")[2].rpartition(":")[2].lower().replace("-", "_")
  theirs = re.sub(r"(_patch4)(?=_window)", "", theirs) if "swinv2" in theirs else theirs
  theirs = re.sub(r"\.(?!\d).*$", "", theirs)  # The weights.
  bare = re.sub(r"(_in2[12]k|_in22ft1k|_in1k|_2[12]k|_22kto1k)+$", "", theirs)
  found = (theirs, bare, re.sub(r"_\d{3}$", "", bare), bare.removesuffix("m"))
  return next((_table()[spelled] for spelled in found if spelled in _table()), None)
