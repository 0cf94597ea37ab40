# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The files that the ancestor and its sister projects released, as data: model name -> files.

A model that the registry does not have yet may have files here already; they take effect with it.
AugReg's other fifty thousand files are found through their index, see `checkpoints.augreg`.
"""

import dataclasses
import types
from collections.abc import Iterator, Mapping


@dataclasses.dataclass(frozen=True)
class Weights:
  """A released file. What is not published stays None.

  Attributes:
    tag: names the file among those of its model.
    url: gs:// address; `checkpoints.download` fetches it.
    image_size: pixels of one side that the position embeddings, or the accuracy, belong to.
    num_classes: width of the head; None if there is none.
    representation_size: width of `pre_logits` in the file, if it has that layer.
    megabytes: 10^6 bytes.
    accuracy: ImageNet top-1 in percent.
    source: key of SOURCES, who published that accuracy.
  """

  tag: str
  url: str
  image_size: int = 224
  num_classes: int | None = 1000
  representation_size: int | None = None
  megabytes: int | None = None
  accuracy: float | None = None
  source: str | None = None


SOURCES = {
  "vit": "arXiv:2010.11929, Table 5 (fine-tuned at 384 pixels)",
  "readme": "README of google-research/vision_transformer",
  "colab": "vit_jax_augreg.ipynb of google-research/vision_transformer",
  "timm": "results-imagenet.csv of timm, its own evaluation (resize and centre crop)",
  "sam": "arXiv:2106.01548, Table 2",
  "gsam": "arXiv:2203.08065, Table 1",
  "mixer": "arXiv:2105.01601, Table 3",
  "distill": "README of big_vision's proj/distill",
  "deit": "README of facebookresearch/deit",
  "swin": "arXiv:2103.14030, Table 1",
  "swin-readme": "README of microsoft/Swin-Transformer",
  "poolformer": "README of sail-sg/poolformer",
  "mobilevit": "arXiv:2110.02178, section 4.1",
  "mobilevit-v2": "arXiv:2206.02680, section 4.1",
  "lit": "model card lit.md of google-research/vision_transformer (zero-shot)",
}

# AugReg (arXiv:2106.10270): per model the ImageNet-21k file of the best upstream validation
# accuracy, which the ancestor's README recommends. The name tells augmentation, weight decay,
# dropout and stochastic depth.
_AUGREG_UPSTREAM = "i21k-300ep-lr_0.001-aug_{}-wd_{}-do_{}-sd_{}"
_AUGREG_BEST = {  # name: augmentation, weight decay, dropout = stochastic depth, MB
  "ViT-Ti_16": ("none", 0.03, 0.0, 39),
  "ViT-S_32": ("none", 0.1, 0.0, 124),
  "ViT-S_16": ("light1", 0.03, 0.0, 120),
  "ViT-B_32": ("light1", 0.1, 0.0, 417),
  "ViT-B_16": ("medium1", 0.1, 0.0, 410),
  "ViT-B_8": ("medium2", 0.1, 0.0, 410),
  "ViT-L_16": ("strong1", 0.1, 0.0, 1303),
  "R+ViT-Ti_16": ("none", 0.03, 0.0, 41),
  "R26+ViT-S_32": ("light1", 0.1, 0.0, 178),
  "R50+ViT-L_32": ("medium1", 0.1, 0.1, 1401),
}
# Fine-tuned on ImageNet. At 384 pixels, and for B/8, what the ancestor recommends: of the upstream
# files above, the best by validation accuracy. At 224 pixels, the files that timm adopted.
_AUGREG_TUNED = (  # name: augmentation, weight decay, dropout, rate, pixels, MB, top-1, source
  ("ViT-Ti_16", "none", 0.03, 0.0, 0.03, 224, 23, 75.454, "timm"),
  ("ViT-Ti_16", "none", 0.03, 0.0, 0.03, 384, 23, 78.22, "readme"),
  ("ViT-S_32", "light1", 0.03, 0.0, 0.03, 224, 92, 75.994, "timm"),
  ("ViT-S_32", "none", 0.1, 0.0, 0.01, 384, 92, 79.58, "readme"),
  ("ViT-S_16", "light1", 0.03, 0.0, 0.03, 224, 88, 81.384, "timm"),
  ("ViT-S_16", "light1", 0.03, 0.0, 0.03, 384, 89, 83.73, "readme"),
  ("ViT-B_32", "medium1", 0.03, 0.0, 0.03, 224, 353, 80.716, "timm"),
  ("ViT-B_32", "light1", 0.1, 0.0, 0.01, 384, 353, 83.59, "readme"),
  ("ViT-B_16", "medium1", 0.1, 0.0, 0.01, 224, 346, 84.532, "timm"),
  ("ViT-B_16", "medium1", 0.1, 0.0, 0.03, 384, 347, 85.49, "readme"),
  ("ViT-B_8", "medium2", 0.1, 0.0, 0.03, 224, 346, 85.578, "colab"),
  ("ViT-L_16", "medium1", 0.1, 0.1, 0.01, 224, 1217, 85.834, "timm"),
  ("ViT-L_16", "strong1", 0.1, 0.0, 0.01, 384, 1219, 85.59, "readme"),
  ("R+ViT-Ti_16", "none", 0.03, 0.0, 0.03, 224, 25, 71.798, "timm"),
  ("R+ViT-Ti_16", "none", 0.03, 0.0, 0.03, 384, 25, 75.4, "readme"),
  ("R26+ViT-S_32", "light0", 0.03, 0.1, 0.03, 224, 146, 81.864, "timm"),
  ("R26+ViT-S_32", "light1", 0.1, 0.0, 0.01, 384, 146, 83.85, "readme"),
  ("R50+ViT-L_32", "medium1", 0.1, 0.1, 0.01, 224, 1316, 84.422, "timm"),
  ("R50+ViT-L_32", "medium1", 0.1, 0.1, 0.01, 384, 1316, 85.99, "readme"),
)

# The ViT paper's own ImageNet-21k files. B/8 came later; whether it has `pre_logits` is not told.
_IMAGENET21K = {  # name: width of `pre_logits`, MB
  "ViT-B_32": (768, 419),
  "ViT-B_16": (768, 413),
  "ViT-B_8": (None, 410),
  "ViT-L_32": (1024, 1316),
  "ViT-L_16": (1024, 1307),
  "ViT-H_14": (1280, 2642),
  "R50+ViT-B_16": (768, 461),
}
# From those, fine-tuned on ImageNet; "-224" ends a file's name where it is not 384 pixels.
_IMAGENET2012 = (  # name: pixels, MB, top-1, source
  ("ViT-B_32", 384, 353, 81.28, "vit"),
  ("ViT-B_16", 384, 347, 83.97, "vit"),
  ("ViT-B_16", 224, 346, 81.2, "readme"),
  ("ViT-L_32", 384, 1227, 80.99, "vit"),
  ("ViT-L_16", 384, 1219, 85.15, "vit"),
  ("ViT-L_16", 224, 1217, 82.7, "readme"),
  ("R50+ViT-B_16", 384, 396, 84.976, "timm"),
)

# Trained on ImageNet alone. GSAM's ViTs average their tokens and have no class token.
_IMAGENET1K = (  # name: directory of the bucket, MB, top-1, source
  ("ViT-B_32", "sam", 353, 73.6, "sam"),
  ("ViT-B_16", "sam", 346, 79.9, "sam"),
  ("ViT-L_32", "sam", 1226, None, None),
  ("ViT-L_16", "sam", 1217, None, None),
  ("ViT-S_32-gap-norep", "gsam", 92, 73.8, "gsam"),
  ("ViT-S_16-gap-norep", "gsam", 88, 79.5, "gsam"),
  ("ViT-B_32-gap-norep", "gsam", 353, 76.8, "gsam"),
  ("ViT-B_16-gap-norep", "gsam", 346, 81.0, "gsam"),
  ("Mixer-B_16", "imagenet1k", 240, 76.44, "mixer"),
  ("Mixer-L_16", "imagenet1k", 833, 71.76, "mixer"),
  ("Mixer-B_32", "sam", 241, 72.4, "sam"),
  ("Mixer-B_16", "sam", 240, 77.4, "sam"),
  ("Mixer-S_32", "gsam", 76, 68.6, "gsam"),
  ("Mixer-S_16", "gsam", 74, 75.0, "gsam"),
  ("Mixer-S_8", "gsam", 83, 76.8, "gsam"),
  ("Mixer-B_32", "gsam", 241, 73.6, "gsam"),
  ("Mixer-B_16", "gsam", 240, 77.8, "gsam"),
)

_MIXER_IMAGENET21K = {"Mixer-B_16": 304, "Mixer-L_16": 918}  # MB

# BiT (arXiv:1912.11370): S is ImageNet, M is ImageNet-21k, and M fine-tuned on ImageNet. timm
# evaluated the last at the pixels given; convolutions take any.
_BIT = {  # name: MB of S and the fine-tuned M, MB of M, pixels, top-1
  "BiT-R50x1": (102, 273, 448, 80.34),
  "BiT-R50x3": (869, 1382, 448, 84.02),
  "BiT-R101x1": (178, 349, 448, 82.342),
  "BiT-R101x3": (1552, 2064, 448, 84.438),
  "BiT-R152x2": (945, 1287, 448, 84.51),
  "BiT-R152x4": (3746, 4429, 480, 84.916),
}
# Students and teachers of arXiv:2106.05237.
_BIT_DISTILL = (  # name: file, pixels, MB, top-1
  ("BiT-R50x1", "R50x1_160", 160, 102, 80.5),
  ("BiT-R50x1", "R50x1_224", 224, 102, 82.8),
  ("BiT-R152x2", "R152x2_T_224", 224, 945, 83.0),
  ("BiT-R152x2", "R152x2_T_384", 384, 945, 84.3),
)

# DeiT (arXiv:2012.12877, Table 5: trained on ImageNet alone) and, where a name ends so, distilled
# (Table 2 and 4: the teacher is a RegNet).
_DEIT = (  # name: file, pixels, top-1
  ("DeiT-Ti_16", "deit_tiny_patch16_224-a1311bcf", 224, 72.2),
  ("DeiT-S_16", "deit_small_patch16_224-cd65a155", 224, 79.9),
  ("DeiT-B_16", "deit_base_patch16_224-b5f2ef4d", 224, 81.8),
  ("DeiT-B_16-384", "deit_base_patch16_384-8de9b5d1", 384, 83.1),
  ("DeiT-Ti_16-distilled", "deit_tiny_distilled_patch16_224-b40b3cf7", 224, 74.5),
  ("DeiT-S_16-distilled", "deit_small_distilled_patch16_224-649709d9", 224, 81.2),
  ("DeiT-B_16-distilled", "deit_base_distilled_patch16_224-df68dfff", 224, 83.4),
  ("DeiT-B_16-384-distilled", "deit_base_distilled_patch16_384-d0272ac0", 384, 85.2),
)
# DeiT-III (arXiv:2204.07118): trained on ImageNet alone, and pretrained on ImageNet-21k.
_DEIT3 = (  # name: size and pixels in the file's name, top-1 of both
  ("DeiT3-S_16", "small_224", 81.4, 83.1),
  ("DeiT3-S_16-384", "small_384", 83.4, 84.8),
  ("DeiT3-B_16", "base_224", 83.8, 85.7),
  ("DeiT3-B_16-384", "base_384", 85.0, 86.7),
  ("DeiT3-L_16", "large_224", 84.9, 87.0),
  ("DeiT3-L_16-384", "large_384", 85.8, 87.7),
  ("DeiT3-H_14", "huge_224", 85.2, 87.2),
)

# Swin (arXiv:2103.14030): trained on ImageNet alone, pretrained on ImageNet-21k and fine-tuned, and
# as pretrained.
_SWIN = (  # name: tag, release, file, pixels, top-1, source
  ("Swin-T", "imagenet1k", "v1.0.0", "tiny_patch4_window7_224", 224, 81.3, "swin"),
  (
    "Swin-T",
    "imagenet21k-ft",
    "v1.0.8",
    "tiny_patch4_window7_224_22kto1k_finetune",
    224,
    80.9,
    "swin-readme",
  ),
  ("Swin-T", "imagenet21k", "v1.0.8", "tiny_patch4_window7_224_22k", 224, None, None),
  ("Swin-S", "imagenet1k", "v1.0.0", "small_patch4_window7_224", 224, 83.0, "swin"),
  (
    "Swin-S",
    "imagenet21k-ft",
    "v1.0.8",
    "small_patch4_window7_224_22kto1k_finetune",
    224,
    83.2,
    "swin-readme",
  ),
  ("Swin-S", "imagenet21k", "v1.0.8", "small_patch4_window7_224_22k", 224, None, None),
  ("Swin-B", "imagenet21k-ft", "v1.0.0", "base_patch4_window7_224_22kto1k", 224, 85.2, "swin"),
  ("Swin-B", "imagenet1k", "v1.0.0", "base_patch4_window7_224", 224, 83.5, "swin"),
  ("Swin-B", "imagenet21k", "v1.0.0", "base_patch4_window7_224_22k", 224, None, None),
  ("Swin-B-384", "imagenet21k-ft", "v1.0.0", "base_patch4_window12_384_22kto1k", 384, 86.4, "swin"),
  ("Swin-B-384", "imagenet1k", "v1.0.0", "base_patch4_window12_384", 384, 84.5, "swin"),
  ("Swin-B-384", "imagenet21k", "v1.0.0", "base_patch4_window12_384_22k", 384, None, None),
  (
    "Swin-L",
    "imagenet21k-ft",
    "v1.0.0",
    "large_patch4_window7_224_22kto1k",
    224,
    86.3,
    "swin-readme",
  ),
  ("Swin-L", "imagenet21k", "v1.0.0", "large_patch4_window7_224_22k", 224, None, None),
  (
    "Swin-L-384",
    "imagenet21k-ft",
    "v1.0.0",
    "large_patch4_window12_384_22kto1k",
    384,
    87.3,
    "swin",
  ),
  ("Swin-L-384", "imagenet21k", "v1.0.0", "large_patch4_window12_384_22k", 384, None, None),
)

# PoolFormer (arXiv:2111.11418): the authors' files, and timm's, which it evaluates with its own
# order of the last norm and pooling.
_POOLFORMER = {  # name: MB, top-1 of the authors, of timm
  "PoolFormer-S12": (48, 77.2, 77.234),
  "PoolFormer-S24": (86, 80.3, 80.296),
  "PoolFormer-S36": (123, 81.4, 81.43),
  "PoolFormer-M36": (225, 82.1, 82.102),
  "PoolFormer-M48": (294, 82.5, 82.482),
}

# Swin V2 (arXiv:2111.09883), trained on ImageNet alone, with windows of 8 and of 16.
_SWIN_V2 = {  # name: size in the file's name, top-1 with either window
  "SwinV2-T": ("tiny", 81.8, 82.8),
  "SwinV2-S": ("small", 83.7, 84.1),
  "SwinV2-B": ("base", 84.2, 84.6),
}

# MobileViT (arXiv:2110.02178) and its second version (arXiv:2206.02680), trained on ImageNet alone:
# timm's copies of the authors' files, and the authors' accuracies.
_MOBILEVIT = {  # name: MB, top-1
  "MobileViT-XXS": (5, 69.0),
  "MobileViT-XS": (9, 74.8),
  "MobileViT-S": (22, 78.4),
}
_MOBILEVIT_V2 = {  # width: MB, top-1
  0.5: (6, 70.2),
  0.75: (12, 75.6),
  1.0: (20, 78.1),
  1.25: (30, 79.6),
  1.5: (42, 80.4),
  1.75: (57, 80.8),
  2.0: (74, 81.2),
}

# LiT (arXiv:2111.07991): two towers without a classifier.
_LIT = {  # name: MB, zero-shot top-1, source
  "LiT-B16B": (474, 72.1, "lit"),
  "LiT-B16B_2": (474, 73.9, "lit"),
  "LiT-L16L": (2400, 75.7, "lit"),
  "LiT-L16S": (None, None, None),
  "LiT-L16Ti": (None, None, None),
}


def augreg_name(name: str) -> str:
  """ "R+ViT-Ti_16" -> "R_Ti_16": how AugReg's file names spell a model."""
  return name.replace("ViT-", "").replace("+", "_")


def _augreg(name: str, aug: str, decay: float, dropout: float) -> str:
  return f"{augreg_name(name)}-{_AUGREG_UPSTREAM.format(aug, decay, dropout, dropout)}"


# Short name -> the recommended ImageNet-21k file, without ".npz".
AUGREG: Mapping[str, str] = types.MappingProxyType(
  {augreg_name(name): _augreg(name, *row[:3]) for name, row in _AUGREG_BEST.items()}
)


def _rows() -> Iterator[tuple[str, Weights]]:
  """(model, file) of every table, of each model the recommended file first."""
  bucket = "gs://vit_models"
  for name, aug, decay, dropout, rate, size, *facts in _AUGREG_TUNED:
    file = f"{_augreg(name, aug, decay, dropout)}--imagenet2012-steps_20k-lr_{rate}-res_{size}"
    tag = "augreg-i21k-imagenet2012" + ("" if size == 224 else f"-{size}")
    yield name, Weights(tag, f"{bucket}/augreg/{file}.npz", size, 1000, None, *facts)
  for name, (*_, megabytes) in _AUGREG_BEST.items():
    url = f"{bucket}/augreg/{AUGREG[augreg_name(name)]}.npz"
    yield name, Weights("augreg-i21k", url, num_classes=21_843, megabytes=megabytes)
  for name, (width, megabytes) in _IMAGENET21K.items():
    url = f"{bucket}/imagenet21k/{name}.npz"
    yield name, Weights("imagenet21k", url, 224, 21_843, width, megabytes)
  for name, size, *facts in _IMAGENET2012:
    end = "" if size == 384 else f"-{size}"
    url = f"{bucket}/imagenet21k+imagenet2012/{name}{end}.npz"
    yield name, Weights(f"imagenet21k+imagenet2012{end}", url, size, 1000, None, *facts)
  for name, directory, *facts in _IMAGENET1K:
    family = name.split("-")[0].lower()
    url = f"gs://{family}_models/{directory}/{name.removesuffix('-gap-norep')}.npz"
    yield name, Weights(directory, url, 224, 1000, None, *facts)
  for name, megabytes in _MIXER_IMAGENET21K.items():
    url = f"gs://mixer_models/imagenet21k/{name}.npz"
    yield name, Weights("imagenet21k", url, num_classes=21_843, megabytes=megabytes)
  for name, (small, large, size, accuracy) in _BIT.items():
    _, network = name.split("-")
    url = f"gs://bit_models/BiT-{{}}-{network}{{}}.npz"
    tuned = url.format("M", "-ILSVRC2012")
    yield name, Weights("M-ILSVRC2012", tuned, size, 1000, None, small, accuracy, "timm")
    yield name, Weights("M", url.format("M", ""), num_classes=21_843, megabytes=large)
    yield name, Weights("S", url.format("S", ""), megabytes=small)
  for name, file, size, *facts in _BIT_DISTILL:
    url = f"gs://bit_models/distill/{file}.npz"
    yield name, Weights(f"distill-{size}", url, size, 1000, None, *facts, "distill")
  deit = "https://dl.fbaipublicfiles.com/deit"
  for name, file, size, accuracy in _DEIT:
    yield name, Weights("imagenet1k", f"{deit}/{file}.pth", size, accuracy=accuracy, source="deit")
  for name, file, alone, pretrained in _DEIT3:
    size = int(file.rpartition("_")[2])
    end = "_v1" if file == "huge_224" else ""
    url = f"{deit}/deit_3_{file}_21k{end}.pth"
    yield name, Weights("imagenet21k", url, size, accuracy=pretrained, source="deit")
    url = f"{deit}/deit_3_{file}_1k.pth"
    yield name, Weights("imagenet1k", url, size, accuracy=alone, source="deit")
  swin = "https://github.com/SwinTransformer/storage/releases/download"
  for name, tag, release, file, size, *facts in _SWIN:
    classes = 21_841 if tag == "imagenet21k" else 1000
    url = f"{swin}/{release}/swin_{file}.pth"
    yield name, Weights(tag, url, size, classes, None, None, *facts)
  for name, (size, *accuracies) in _SWIN_V2.items():
    for window, accuracy in zip((8, 16), accuracies, strict=True):
      url = f"{swin}/v2.0.0/swinv2_{size}_patch4_window{window}_256.pth"
      facts = dict(accuracy=accuracy, source="swin-readme")
      yield f"{name}-w{window}", Weights("imagenet1k", url, 256, **facts)
  for name, (size, theirs, timms) in _POOLFORMER.items():
    file = name.lower().replace("-", "_")
    url = f"https://github.com/sail-sg/poolformer/releases/download/v1.0/{file}.pth.tar"
    yield name, Weights("v1.0", url, 224, 1000, None, size, theirs, "poolformer")
    url = f"https://huggingface.co/timm/{file}.sail_in1k/resolve/main/model.safetensors"
    yield name, Weights("timm", url, 224, 1000, None, size, timms, "timm")
  for name, facts in _MOBILEVIT.items():
    file = name.lower().replace("-", "_")
    url = f"https://huggingface.co/timm/{file}.cvnets_in1k/resolve/main/model.safetensors"
    yield name, Weights("imagenet1k", url, 256, 1000, None, *facts, "mobilevit")
  for factor, facts in _MOBILEVIT_V2.items():
    file = f"mobilevitv2_{round(100 * factor):03}"
    url = f"https://huggingface.co/timm/{file}.cvnets_in1k/resolve/main/model.safetensors"
    row = Weights("imagenet1k", url, 256, 1000, None, *facts, "mobilevit-v2")
    yield f"MobileViTV2-{factor}", row
  for name, facts in _LIT.items():
    yield name, Weights("lit", f"{bucket}/lit/{name}.npz", 224, None, None, *facts)


def _by_model() -> dict[str, tuple[Weights, ...]]:
  found: dict[str, list[Weights]] = {}
  for name, row in _rows():
    found.setdefault(name, []).append(row)
  return {name: tuple(rows) for name, rows in found.items()}


# Model -> its released files, the recommended one first.
WEIGHTS: Mapping[str, tuple[Weights, ...]] = types.MappingProxyType(_by_model())
