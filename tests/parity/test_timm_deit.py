# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""DeiT with and without distillation, and DeiT-III's LayerScale, against timm and transformers."""

import jax
import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from oracle import VISIBLE, forward, logits, noisy_variables, relative_error, with_noise
from transformers import DeiTConfig, DeiTForImageClassificationWithTeacher

import vit_jax

DEPTH, CLASSES = 2, 10
# Our name: timm's, and pixels that are not the native ones.
NAMES = {
  "DeiT-Ti_16": ("deit_tiny_patch16_224", 96),
  "DeiT-S_16-distilled": ("deit_small_distilled_patch16_224", 96),
  "DeiT-B_16-distilled": ("deit_base_distilled_patch16_224", 64),
  "DeiT3-S_16": ("deit3_small_patch16_224", 96),
}


def images(size):
  return np.random.default_rng(7).uniform(-1, 1, (2, size, size, 3)).astype(np.float32)


def timm_model(name, size=224):
  torch.manual_seed(0)
  model = timm.create_model(name, depth=DEPTH, img_size=size, num_classes=CLASSES)
  return with_noise(model).eval()


@pytest.mark.parametrize("name", NAMES)
def test_timms_own_weights_load_here(name, tmp_path, parity):
  theirs = timm_model(NAMES[name][0])
  safetensors.torch.save_file(theirs.state_dict(), tmp_path / "theirs.safetensors")
  model, variables = vit_jax.from_pretrained(
    name, tmp_path / "theirs.safetensors", num_layers=DEPTH
  )
  expected = logits(theirs, images(224))
  ours = forward(model, variables, images(224))
  off = relative_error(
    forward(model.clone(activation="gelu_tanh"), variables, images(224)), expected
  )
  assert off > VISIBLE
  parity(name, "timm", "ours", relative_error(ours, expected), off)


@pytest.mark.parametrize("name", NAMES)
def test_at_another_size_as_timm_resamples(name, tmp_path, parity):
  theirs, size = timm_model(NAMES[name][0]), NAMES[name][1]
  torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
  resized = timm_model(NAMES[name][0], size)
  from timm.models.vision_transformer import checkpoint_filter_fn

  resized.load_state_dict(checkpoint_filter_fn(theirs.state_dict(), resized), strict=True)
  model, variables = vit_jax.from_pretrained(
    name,
    tmp_path / "theirs.pth",
    image_size=size,
    position_resize="bicubic_antialias",
    num_layers=DEPTH,
  )
  ours = forward(model, variables, images(size))
  error = relative_error(ours, logits(resized, images(size)))
  parity(f"{name} resized to {size}", "timm", "ours", error)


@pytest.mark.parametrize("name", ["DeiT-Ti_16-distilled", "DeiT-S_16"])
def test_timm_opens_our_safetensors_strictly(name, tmp_path, parity):
  model = vit_jax.create_model(name, num_classes=CLASSES, num_layers=DEPTH)
  variables = noisy_variables(model, images(224))
  vit_jax.save_checkpoint(tmp_path / "ours.safetensors", model, variables)
  distilled = "_distilled" if "distilled" in name else ""
  size = {"Ti": "tiny", "S": "small"}[name.split("-")[1].split("_")[0]]
  theirs = timm_model(f"deit_{size}{distilled}_patch16_224")
  theirs.load_state_dict(safetensors.torch.load_file(tmp_path / "ours.safetensors"), strict=True)
  ours = forward(model, variables, images(224))
  error = relative_error(ours, logits(theirs, images(224)))
  parity(name, "ours (safetensors)", "timm", error)


@pytest.mark.parametrize("name", ["DeiT-Ti_16-distilled"])
def test_both_heads_of_transformers(name, tmp_path, parity):
  torch.manual_seed(0)
  config = DeiTConfig(
    hidden_size=192,
    num_hidden_layers=DEPTH,
    num_attention_heads=3,
    intermediate_size=768,
    num_labels=CLASSES,
  )
  theirs = with_noise(DeiTForImageClassificationWithTeacher(config)).eval()
  theirs.save_pretrained(tmp_path / "hf")
  model, variables = vit_jax.from_pretrained(name, tmp_path / "hf", num_layers=DEPTH)
  with torch.no_grad():
    out = theirs(torch.from_numpy(images(224)).permute(0, 3, 1, 2))
  ours = forward(model, variables, images(224))
  parity(name, "transformers", "ours", relative_error(ours, out.logits.numpy()))
  apart = forward(model.clone(average_heads=False), variables, images(224))
  assert apart.shape == (2, 2, CLASSES)
  for index, head in enumerate((out.cls_logits, out.distillation_logits)):
    assert relative_error(apart[:, index], head.numpy()) < 1e-5
  for layer in range(DEPTH):  # What the softmax hides.
    block = variables["params"]["Transformer"][f"encoderblock_{layer}"]
    key = block["MultiHeadDotProductAttention_0"]["key"]["bias"]
    bias = theirs.state_dict()
    theirs_key = next(
      x for n, x in bias.items() if f".{layer}." in n and n.endswith(("key.bias", "k_proj.bias"))
    )
    np.testing.assert_array_equal(np.reshape(key, -1), theirs_key)


def test_the_files_of_deits_own_code_call_layer_scale_otherwise(tmp_path):
  state = timm_model("deit3_small_patch16_224").state_dict()
  renamed = {
    n.replace(".ls1.gamma", ".gamma_1").replace(".ls2.gamma", ".gamma_2"): x
    for n, x in state.items()
  }
  assert any(name.endswith("gamma_1") for name in renamed)
  torch.save({"model": renamed}, tmp_path / "own.pth")
  torch.save(state, tmp_path / "timm.pth")
  (_, own), (_, timms) = (
    vit_jax.from_pretrained("DeiT3-S_16", tmp_path / f"{n}.pth", num_layers=DEPTH)
    for n in ("own", "timm")
  )
  jax.tree.map(np.testing.assert_array_equal, own, timms)
