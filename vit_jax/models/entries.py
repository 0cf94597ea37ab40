# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Models as data: name -> module, config, input, weights (the files are in `weights.py`).

A new size is a row in a table.
"""

import dataclasses
import types
from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from vit_jax.models.bit import BitResNet
from vit_jax.models.deit import DistilledVisionTransformer
from vit_jax.models.lit import BertTower, TextTransformer, TwoTowers
from vit_jax.models.metaformer import MetaFormer
from vit_jax.models.mixer import MlpMixer
from vit_jax.models.mobilevit import MobileViT
from vit_jax.models.mobilevit_v2 import MobileViTV2
from vit_jax.models.swin import SwinTransformer
from vit_jax.models.swin_v2 import SwinTransformerV2
from vit_jax.models.vit import HybridVisionTransformer, VisionTransformer
from vit_jax.models.weights import WEIGHTS, Weights


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
class TextSpec:
  """How texts become the tokens of a text tower; see `data.text`.

  Attributes:
    tokenizer: a key of data.text.TOKENIZERS.
    vocabulary: address of its file; None if it needs none.
    max_len: tokens of a text; the rest is cut off.
  """

  tokenizer: str
  vocabulary: str | None = None
  max_len: int = 16


@dataclasses.dataclass(frozen=True)
class Entry:
  """A row of the registry. The first of `weights` is the recommended one.

  A field of `config` that is itself a mapping with a "name" is a model in the model: a tower. What
  is not `listed` is found by its name alone.
  """

  name: str
  family: str
  module: type[nn.Module]
  config: Mapping[str, Any]
  input: InputSpec = InputSpec()
  weights: tuple[Weights, ...] = ()
  text: TextSpec | None = None
  listed: bool = True


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

# Size and image size of arXiv:2012.12877 (with and without distillation), and of DeiT-III,
# arXiv:2204.07118, whose LayerScale begins at 1e-6.
DEITS = {
  "DeiT-Ti_16": ("Ti", 16, 224),
  "DeiT-S_16": ("S", 16, 224),
  "DeiT-B_16": ("B", 16, 224),
  "DeiT-B_16-384": ("B", 16, 384),
}
DEIT3S = {
  "DeiT3-S_16": ("S", 16, 224),
  "DeiT3-S_16-384": ("S", 16, 384),
  "DeiT3-B_16": ("B", 16, 224),
  "DeiT3-B_16-384": ("B", 16, 384),
  "DeiT3-L_16": ("L", 16, 224),
  "DeiT3-L_16-384": ("L", 16, 384),
  "DeiT3-H_14": ("H", 14, 224),
}

# ImageNet's mean and standard deviation. DeiT's own evaluation resizes to 256 / 224 of the crop;
# DeiT-III's does not.
DEIT_INPUT = InputSpec(
  mean=(0.485, 0.456, 0.406),
  std=(0.229, 0.224, 0.225),
  resize="resize_crop",
  crop=0.875,
  interpolation="bicubic",
  antialias=True,
)

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

# Width of the first stage, blocks of the third (the others have two), window and pixels: section
# 3.3 of arXiv:2103.14030; share of the centre crop, as timm has it.
SWINS = {
  "Swin-T": (96, 6, 7, 224, 0.9),
  "Swin-S": (96, 18, 7, 224, 0.9),
  "Swin-B": (128, 18, 7, 224, 0.9),
  "Swin-B-384": (128, 18, 12, 384, 1.0),
  "Swin-L": (192, 18, 7, 224, 0.9),
  "Swin-L-384": (192, 18, 12, 384, 1.0),
}
# Width of the first stage, blocks of the third, and window: arXiv:2111.09883, all at 256 pixels.
SWIN_V2S = {
  "SwinV2-T-w8": (96, 6, 8),
  "SwinV2-T-w16": (96, 6, 16),
  "SwinV2-S-w8": (96, 18, 8),
  "SwinV2-S-w16": (96, 18, 16),
  "SwinV2-B-w8": (128, 18, 8),
  "SwinV2-B-w16": (128, 18, 16),
}
SWIN_INPUT = InputSpec(
  mean=(0.485, 0.456, 0.406),
  std=(0.229, 0.224, 0.225),
  resize="resize_crop",
  interpolation="bicubic",
  antialias=True,
)

# Depths, widths, first LayerScale, and the crop of evaluation: Table 1 of arXiv:2111.11418, and
# sail-sg/poolformer.
POOLFORMERS = {
  "PoolFormer-S12": ((2, 2, 6, 2), (64, 128, 320, 512), 1e-5, 0.9),
  "PoolFormer-S24": ((4, 4, 12, 4), (64, 128, 320, 512), 1e-5, 0.9),
  "PoolFormer-S36": ((6, 6, 18, 6), (64, 128, 320, 512), 1e-6, 0.9),
  "PoolFormer-M36": ((6, 6, 18, 6), (96, 192, 384, 768), 1e-6, 0.95),
  "PoolFormer-M48": ((8, 8, 24, 8), (96, 192, 384, 768), 1e-6, 0.95),
}

# Widths of the stages and of the last convolution, hidden sizes, and expansion: Table 4 of
# arXiv:2110.02178. timm's evaluation; pixels are not normalised.
MOBILEVITS = {
  "MobileViT-XXS": ((16, 24, 48, 64, 80), 320, (64, 80, 96), 2.0),
  "MobileViT-XS": ((32, 48, 64, 80, 96), 384, (96, 120, 144), 4.0),
  "MobileViT-S": ((32, 64, 96, 128, 160), 640, (144, 192, 240), 4.0),
}
# Width of all layers relative to MobileViTV2-1.0: arXiv:2206.02680.
MOBILEVIT_V2S = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)
MOBILEVIT_INPUT = InputSpec(
  image_size=256,
  mean=(0.0, 0.0, 0.0),
  std=(1.0, 1.0, 1.0),
  resize="resize_crop",
  crop=0.9,
  interpolation="bicubic",
  antialias=True,
)

# Text towers: arXiv:1810.04805 (BERT), and the ancestor's configs/models.py.
TEXT_TOWERS: Mapping[str, tuple[type[nn.Module], Mapping[str, Any]]] = {
  "Bert-B": (BertTower, dict(hidden_size=768, num_layers=12, mlp_dim=3072, num_heads=12)),
  "Bert-L": (BertTower, dict(hidden_size=1024, num_layers=24, mlp_dim=4096, num_heads=16)),
  "Text-S": (
    TextTransformer,
    dict(hidden_size=384, num_layers=12, mlp_dim=1536, num_heads=6, vocab_size=16_000),
  ),
  "Text-Ti": (
    TextTransformer,
    dict(hidden_size=192, num_layers=12, mlp_dim=768, num_heads=3, vocab_size=16_000),
  ),
}

# Image tower and width of its head (0: none), text tower and width of its head, tokenizer and the
# end of its vocabulary's name: the ancestor's configs/models.py.
LITS = {
  "LiT-B16B": ("ViT-B_16", 768, "Bert-B", 768, "bert", "txt"),
  "LiT-B16B_2": ("ViT-B_16", 0, "Bert-B", 768, "bert", "txt"),
  "LiT-L16L": ("ViT-L_16", 0, "Bert-L", 1024, "bert", "txt"),
  "LiT-L16S": ("ViT-L_16", 0, "Text-S", 1024, "sentencepiece", "model"),
  "LiT-L16Ti": ("ViT-L_16", 0, "Text-Ti", 1024, "sentencepiece", "model"),
}

# The ancestor's models for tests, and what their head sees. Nobody else looks for them in a list.
TESTING = {"testing": "token", "testing-unpooled": "unpooled"}


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
  inputs, texts = {}, {}
  for name, (depths, widths, scale, crop) in POOLFORMERS.items():
    config = dict(depths=depths, widths=widths, layer_scale_init=scale)
    entries.append((name, "metaformer", MetaFormer, config))
    inputs[name] = dataclasses.replace(SWIN_INPUT, crop=crop)
  for name, (size, patch, pixels) in {**DEITS, **DEIT3S}.items():
    config = dict(_vit_config(size), patch_size=patch, activation="gelu")
    inputs[name] = dataclasses.replace(DEIT_INPUT, image_size=pixels)
    if name in DEIT3S:
      config["layer_scale_init"] = 1e-6
      inputs[name] = dataclasses.replace(inputs[name], crop=1.0)
    entries.append((name, "deit", VisionTransformer, config))
    if name in DEITS:
      entries.append((f"{name}-distilled", "deit", DistilledVisionTransformer, config))
      inputs[f"{name}-distilled"] = inputs[name]
  for name, (width, blocks, window, pixels, crop) in SWINS.items():
    config = dict(embed_dim=width, depths=(2, 2, blocks, 2), window_size=window)
    entries.append((name, "swin", SwinTransformer, config))
    inputs[name] = dataclasses.replace(SWIN_INPUT, image_size=pixels, crop=crop)
  for name, (width, blocks, window) in SWIN_V2S.items():
    config = dict(embed_dim=width, depths=(2, 2, blocks, 2), window_size=window)
    entries.append((name, "swin_v2", SwinTransformerV2, config))
    inputs[name] = dataclasses.replace(SWIN_INPUT, image_size=256, crop=0.9)
  for name, (widths, final, hidden, expansion) in MOBILEVITS.items():
    config = dict(widths=widths, final_width=final, hidden_sizes=hidden, expansion=expansion)
    entries.append((name, "mobilevit", MobileViT, config))
    inputs[name] = MOBILEVIT_INPUT
  for factor in MOBILEVIT_V2S:
    name = f"MobileViTV2-{factor}"
    widths = tuple(int(factor * width) for width in (64, 128, 256, 384, 512))
    hidden = tuple(width // 2 for width in widths[2:])
    config = dict(stem_width=int(factor * 32), widths=widths, hidden_sizes=hidden)
    entries.append((name, "mobilevit_v2", MobileViTV2, config))
    inputs[name] = dataclasses.replace(MOBILEVIT_INPUT, crop=0.888)
  for name, (image, image_dim, text, text_dim, tokenizer, suffix) in LITS.items():
    # The image tower is locked: dropout would only blur what it says.
    img = dict(name=image, num_classes=image_dim, head_zeroinit=False, dropout_rate=0.0)
    txt = dict(name=text, num_classes=text_dim)
    entries.append((name, "lit", TwoTowers, dict(img=img, txt=txt)))
    texts[name] = TextSpec(tokenizer, f"gs://vit_models/lit/{name}.{suffix}")
  for name, classifier in TESTING.items():
    size = dict(hidden_size=10, num_layers=1, mlp_dim=10, num_heads=2)
    config = dict(size, patch_size=16, dropout_rate=0.1, classifier=classifier)
    entries.append((name, "testing", VisionTransformer, config))
  return {
    name: Entry(
      name,
      family,
      module,
      types.MappingProxyType(config),
      inputs.get(name, InputSpec()),
      WEIGHTS.get(name, ()),
      texts.get(name),
      name not in TESTING,
    )
    for name, family, module, config in entries
  }


MODELS: Mapping[str, Entry] = types.MappingProxyType(_entries())
