# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Images that are not square: the same logits as timm and transformers, or a refusal by name.

Of three of the five sizes the patches, with or without the class token, are as many as those of a
square, so that a bare file may be read as one.
"""

import functools

import numpy as np
import pytest
import timm
import torch
import transformers
from oracle import CLASSES, TOLERANCE, forward, logits, relative_error, with_noise
from timm.models.mlp_mixer import MlpMixer
from timm.models.vision_transformer import VisionTransformer

from vit_jax.checkpoints.pretrained import from_pretrained
from vit_jax.checkpoints.saving import save_checkpoint
from vit_jax.errors import UserError

# 6x8 + 1 = 7x7; 2x7 + 2 = 4x4; 9x16 = 12x12; and two that are no square: 2x6 and 5x3.
SIZES = [(96, 128), (32, 112), (144, 256), (32, 96), (80, 48)]
WIDTH = dict(embed_dim=32, depth=2, num_heads=2, mlp_ratio=1.5)
VIT = dict(hidden_size=32, num_layers=2, mlp_dim=48, num_heads=2)
SWIN = dict(embed_dim=16, depths=(2, 2), num_heads=(2, 4), window_size=4)
OUR_SWIN = dict(embed_dim=16, depths=(2, 2), head_dim=8, window_size=4)

vit = functools.partial(VisionTransformer, **WIDTH)
GAP = dict(class_token=False, global_pool="avg", fc_norm=False)
# timm's model for an image size, our name, and the fields that are not the registry's.
TIMM = {
  "ViT": (vit, "ViT-S_16", VIT),
  "gap": (functools.partial(vit, **GAP), "ViT-S_16-gap-norep", VIT),
  "DeiT-distilled": (timm.models.deit.VisionTransformerDistilled, "DeiT-S_16-distilled", VIT),
  "DeiT-III": (
    functools.partial(vit, no_embed_class=True, init_values=0.1),
    "DeiT3-S_16",
    {**VIT, "layer_scale_init": 0.1},
  ),
  "Mixer": (
    functools.partial(MlpMixer, embed_dim=32, num_blocks=2, mlp_ratio=(0.5, 2)),
    "Mixer-S_16",
    dict(hidden_dim=32, num_blocks=2, tokens_mlp_dim=16, channels_mlp_dim=64),
  ),
  "Swin": (
    functools.partial(timm.models.swin_transformer.SwinTransformer, **SWIN),
    "Swin-T",
    OUR_SWIN,
  ),
  "Swin V2": (
    functools.partial(timm.models.swin_transformer_v2.SwinTransformerV2, **SWIN),
    "SwinV2-T-w8",
    OUR_SWIN,
  ),
}


def images(size):
  return np.random.default_rng(7).uniform(-1, 1, (2, *size, 3)).astype(np.float32)


def error_of(loaded, size, expected):
  return relative_error(forward(*loaded, images(size)), expected)


@pytest.mark.parametrize("size", SIZES, ids=lambda size: "{}x{}".format(*size))
@pytest.mark.parametrize("key", TIMM)
def test_timms_files(key, size, tmp_path):
  make, name, fields = TIMM[key]
  torch.manual_seed(0)
  arguments = WIDTH if key == "DeiT-distilled" else {}
  theirs = with_noise(make(img_size=size, num_classes=CLASSES, **arguments).eval())
  torch.save(theirs.state_dict(), tmp_path / "bare.pth")
  expected = logits(theirs, images(size))

  load = functools.partial(from_pretrained, name, tmp_path / "bare.pth", **fields)
  told = load(checkpoint_image_size=size)
  assert error_of(told, size, expected) <= TOLERANCE
  try:
    assert error_of(load(image_size=size), size, expected) <= TOLERANCE
  except UserError as refused:
    assert "checkpoint_image_size=(height, width)" in str(refused)
    assert size == (144, 256) or key in ("DeiT-III",)

  # What we write is opened by its path alone, and gives the same bits.
  for file in ("ours.npz", "ours.safetensors"):
    save_checkpoint(tmp_path / file, *told, image_size=size)
    again = forward(*from_pretrained(tmp_path / file), images(size))
    np.testing.assert_array_equal(again, forward(*told, images(size)))


VIT_CONFIG = dict(
  hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, patch_size=16
)
SWIN_CONFIG = {**SWIN, "num_heads": [2, 4], "depths": [2, 2], "patch_size": 4}


def test_a_swin_whose_windows_transformers_shifts_otherwise_is_refused(tmp_path, caplog):
  """It decides on the shorter side for both: with one as long as a window, it shifts neither."""
  size = (32, 64)
  for kind, name in (("Swin", "Swin-T"), ("Swinv2", "SwinV2-T-w8")):
    config = getattr(transformers, f"{kind}Config")(**SWIN_CONFIG, image_size=size, num_labels=3)
    theirs = getattr(transformers, f"{kind}ForImageClassification")(config)
    theirs.save_pretrained(tmp_path / kind)
    with pytest.raises(UserError, match="divides images of 32x64 into other windows than ours"):
      from_pretrained(name, tmp_path / kind, **OUR_SWIN)
    from_pretrained(name, tmp_path / kind, image_size=64, **OUR_SWIN)  # Not its own size.


HF = {
  "vit": ("ViTConfig", "ViTForImageClassification", VIT_CONFIG, "ViT-S_16", VIT),
  "deit": (
    "DeiTConfig",
    "DeiTForImageClassificationWithTeacher",
    VIT_CONFIG,
    "DeiT-S_16-distilled",
    VIT,
  ),
  "swin": ("SwinConfig", "SwinForImageClassification", SWIN_CONFIG, "Swin-T", OUR_SWIN),
}


@pytest.mark.parametrize("size", SIZES, ids=lambda size: "{}x{}".format(*size))
@pytest.mark.parametrize("key", HF)
def test_transformers_folders(key, size, tmp_path):
  config, kind, settings, name, fields = HF[key]
  if key == "swin":  # It pads before the shift, ours after it: whole windows alone are the same.
    size = (size[0] // 16 * 32, size[1] // 16 * 32)
  torch.manual_seed(0)
  config = getattr(transformers, config)(**settings, image_size=size, num_labels=CLASSES)
  theirs = with_noise(getattr(transformers, kind)(config).eval())
  theirs.save_pretrained(tmp_path / "theirs")
  pixels = torch.from_numpy(images(size)).permute(0, 3, 1, 2)
  with torch.no_grad():
    expected = theirs(pixels).logits.numpy()
  for told in ({}, {"image_size": size}):
    loaded = from_pretrained(name, tmp_path / "theirs", **told, **fields)
    assert error_of(loaded, size, expected) <= TOLERANCE
  save_checkpoint(tmp_path / "ours", *loaded, image_size=size)
  opened, info = type(theirs).from_pretrained(tmp_path / "ours", output_loading_info=True)
  assert not any(info.values())
  with torch.no_grad():
    assert relative_error(opened(pixels).logits.numpy(), expected) <= TOLERANCE
  assert error_of(from_pretrained(tmp_path / "ours"), size, expected) <= TOLERANCE
