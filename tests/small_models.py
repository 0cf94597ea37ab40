# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Small models of every family: (name, fields, (height, width)) of each, by what is special.

tests/record keeps what they answer: add others, and change none.
"""

from vit_jax.models.resnet import STANDARDIZATION

VIT = dict(patch_size=8, hidden_size=16, num_layers=2, mlp_dim=16, num_heads=2, num_classes=5)
BLIND = dict(VIT, position_embedding="none")
SWIN = dict(embed_dim=16, head_dim=8, depths=(2,), window_size=4, num_classes=5)
BIT = dict(num_units=(1,), width_factor=0.25, num_groups=8, num_classes=5)
POOL = dict(depths=(1, 1), widths=(8, 16), num_classes=5)
MOBILE = dict(
  stem_width=8, widths=(8, 8), num_residuals=(1, 0), hidden_sizes=(16,), num_layers=(1,),
  num_classes=5,
)  # fmt: skip
TEXT = dict(hidden_size=16, num_layers=1, mlp_dim=16, num_heads=2, num_classes=8, vocab_size=9)
HYBRID = dict(VIT, patch_size=1, stem_blocks=(1,), stem_width=32, num_layers=1, dropout_rate=0.0)


def towers(name, **text):
  return name, dict(img=dict(BLIND, num_classes=8), txt=dict(TEXT, **text)), (16, 24)


# Name, fields and image size: one that windows and strides do not divide, where there may be one.
QUICK = {
  "vit": ("ViT-Ti_16", dict(BLIND, layer_scale_init=0.1), (16, 24)),
  "mixer": (
    "Mixer-S_16",
    dict(patch_size=8, hidden_dim=16, num_blocks=2, tokens_mlp_dim=8, channels_mlp_dim=16),
    (16, 24),
  ),
  "bit": ("BiT-R50x1", BIT, (17, 23)),
  "swin": ("Swin-T", SWIN, (40, 24)),
  "swin_v2": ("SwinV2-T-w8", SWIN, (40, 24)),
  "metaformer": ("PoolFormer-S12", POOL, (33, 47)),
  "mobilevit": ("MobileViT-XXS", dict(MOBILE, final_width=8), (22, 26)),
  "mobilevit_v2": ("MobileViTV2-0.5", MOBILE, (22, 26)),
  "lit": towers("LiT-B16B", dropout_rate=0.0),
}
SLOW = {
  "vit, learned": ("ViT-Ti_16", VIT, (16, 24)),
  "vit, eps of Hugging Face": ("ViT-Ti_16", dict(BLIND, layer_norm_eps=1e-12), (16, 24)),
  "vit, map": ("ViT-Ti_16", dict(VIT, classifier="map", position_embedding="relative"), (16, 24)),
  "vit, gap": ("ViT-Ti_16", dict(BLIND, classifier="gap", scan_layers=True), (16, 24)),
  "deit": ("DeiT-Ti_16-distilled", BLIND, (16, 24)),
  "lit, last token": towers("LiT-L16Ti"),
  "bit, stages": ("BiT-R50x1", dict(BIT, num_units=(2, 1)), (33, 47)),
  "swin, deep": ("Swin-T", dict(SWIN, depths=(2, 8)), (40, 40)),
  "swin_v2, wide": ("SwinV2-T-w8", dict(SWIN, embed_dim=32, depths=(2, 2), head_dim=32), (40, 40)),
  "mobilevit, deep": ("MobileViT-XXS", dict(num_classes=5), (36, 44)),
  **{
    f"{name}, {kind}": (model, dict(fields, weight_standardization=kind), (32, 48))
    for kind in STANDARDIZATION
    for name, model, fields in (("hybrid", "R50+ViT-B_16", HYBRID), ("bit", "BiT-R50x1", BIT))
  },
  **{
    f"metaformer, {mixer}": (
      "PoolFormer-S12",
      dict(POOL, token_mixer=mixer, final_norm="after_pooling"),
      (33, 47),
    )
    for mixer in ("pooling", "attention", "mlp", "identity")
  },
}
ALL = {**QUICK, **SLOW}
