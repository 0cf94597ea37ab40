# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Swin: same weights, same images, same logits as timm and transformers, to 1e-5 relative."""

import jax
import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from flax.traverse_util import flatten_dict
from oracle import CLASSES, VISIBLE, logits, noisy_variables, relative_error, with_noise
from transformers import SwinConfig, SwinForImageClassification

import vit_jax
from vit_jax.checkpoints.pretrained import from_pretrained
from vit_jax.checkpoints.saving import save_checkpoint
from vit_jax.models.registry import MODELS, create_model

DEPTHS = (2, 1, 2, 1)
TIMM = {
  "Swin-T": "swin_tiny_patch4_window7_224",
  "Swin-B": "swin_base_patch4_window7_224",
  "Swin-L-384": "swin_large_patch4_window12_384",
}
# The native sizes, one that the windows do not divide (with odd maps), and one with maps that are
# smaller than a window on one side.
CASES = [
  ("Swin-T", (224, 224)),
  ("Swin-T", (240, 332)),
  ("Swin-B", (224, 224)),
  ("Swin-L-384", (384, 384)),
]


def images(size, batch=1):
  return np.random.default_rng(7).uniform(-1, 1, (batch, *size, 3)).astype(np.float32)


def depths(name):
  return (2, 1) if "L" in name else DEPTHS


def timm_model(name, size):
  torch.manual_seed(0)
  return timm.create_model(
    TIMM[name], depths=depths(name), img_size=size, num_classes=CLASSES
  ).eval()


def on(model, variables, pictures):
  return jax.jit(model.apply)(variables, pictures)


def row(name, size):
  pixels = MODELS[name].input.image_size
  return name if size == (pixels, pixels) else f"{name} at {size[0]}x{size[1]}"


@pytest.mark.parametrize("name, size", CASES)
def test_timms_own_weights_load_here(name, size, tmp_path, parity):
  theirs = with_noise(timm_model(name, size))
  safetensors.torch.save_file(theirs.state_dict(), tmp_path / "theirs.safetensors")
  expected = logits(theirs, images(size))
  fields = dict(depths=depths(name), image_size=size)
  model, variables = from_pretrained(name, tmp_path / "theirs.safetensors", **fields)
  assert (model.activation, model.layer_norm_eps) == ("gelu", 1e-5)
  error = relative_error(on(model, variables, images(size)), expected)
  off = relative_error(on(model.clone(activation="gelu_tanh"), variables, images(size)), expected)
  assert off > VISIBLE
  parity(row(name, size), "timm", "ours", error, off)
  # Softmax cancels the biases of the keys, so logits cannot show them.
  for path, ours in flatten_dict(variables["params"], sep="/").items():
    if path.endswith("key/bias"):
      stage, block = (int(part.split("_")[1]) for part in path.split("/")[:2])
      qkv = theirs.layers[stage].blocks[block].attn.qkv.bias.detach().numpy()
      np.testing.assert_array_equal(ours, np.split(qkv, 3)[1])


def test_timm_opens_our_safetensors_strictly(tmp_path, parity):
  name, size = "Swin-T", (224, 224)
  model = create_model(name, num_classes=CLASSES, depths=DEPTHS)
  variables = noisy_variables(model, images(size))
  save_checkpoint(tmp_path / "ours.safetensors", model, variables)
  theirs = timm_model(name, size)
  theirs.load_state_dict(safetensors.torch.load_file(tmp_path / "ours.safetensors"), strict=True)
  error = relative_error(on(model, variables, images(size)), logits(theirs, images(size)))
  parity(name, "ours (safetensors)", "timm", error)
  _, restored = from_pretrained(name, tmp_path / "ours.safetensors", depths=DEPTHS)
  jax.tree.map(np.testing.assert_array_equal, restored["params"], variables["params"])

  # Stage by stage too, in the same order of axes.
  found = vit_jax.extract_features(model, variables, images(size), layers=["stages/*"])
  pixels = torch.from_numpy(images(size)).permute(0, 3, 1, 2)
  with torch.no_grad():
    stages = theirs.forward_intermediates(pixels, intermediates_only=True)
  for ours, stage in zip(found.values(), stages, strict=True):
    assert relative_error(ours, stage.permute(0, 2, 3, 1)) < 1e-5


@pytest.mark.parametrize("size", [(128, 128), (96, 224)])
def test_maps_smaller_than_a_window_are_timms(size, tmp_path, parity):
  """timm's tables of such stages have only the offsets that occur, and on both sides apart."""
  theirs = with_noise(timm_model("Swin-T", size))
  state = theirs.state_dict()
  for path, table in state.items():
    if path.endswith("table"):  # In the middle of a whole one, which is what ours has.
      attention = theirs.get_submodule(path.rpartition(".")[0])
      height, width = (2 * side - 1 for side in attention.window_size)
      border = [(13 - side) // 2 for side in (height, width)]
      grid = table.detach().reshape(height, width, -1).permute(2, 0, 1)
      padded = torch.nn.functional.pad(grid, (border[1], border[1], border[0], border[0]))
      state[path] = padded.permute(1, 2, 0).reshape(169, -1).contiguous()
  torch.save({"model": state}, tmp_path / "theirs.pth")
  model, variables = from_pretrained("Swin-T", tmp_path / "theirs.pth", depths=DEPTHS)
  error = relative_error(on(model, variables, images(size)), logits(theirs, images(size)))
  parity(row("Swin-T", size), "timm", "ours", error)


# transformers pads before the shift and timm after it, so other sizes are such as windows divide.
@pytest.mark.parametrize("size, old_names", [(224, False), (448, True)])
def test_transformers_weights_load_here(size, old_names, tmp_path, parity):
  kept = (2, 1) if size > 224 else DEPTHS
  config = SwinConfig(
    image_size=224, depths=list(kept), num_heads=[3, 6, 12, 24][: len(kept)], num_labels=CLASSES
  )
  torch.manual_seed(0)
  theirs = with_noise(SwinForImageClassification(config)).eval()
  if old_names:  # transformers writes its files with them.
    theirs.save_pretrained(tmp_path / "theirs")
    source = tmp_path / "theirs"
  else:
    source = tmp_path / "theirs.pth"
    torch.save(theirs.state_dict(), source)
  model, variables = from_pretrained("Swin-T", source, depths=kept)
  assert (model.activation, model.layer_norm_eps) == ("gelu", 1e-5)
  pictures = images((size, size))
  with torch.no_grad():
    pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2)
    expected = theirs(pixels, interpolate_pos_encoding=True).logits.numpy()
  error = relative_error(on(model, variables, pictures), expected)
  parity(row("Swin-T", (size, size)), "transformers", "ours", error)


def test_the_originals_files_load(tmp_path):
  """They merge patches at the end of a stage, and hold what can be computed."""
  theirs = with_noise(timm_model("Swin-T", (224, 224)))
  expected = logits(theirs, images((224, 224)))
  state = {}
  for name, tensor in theirs.state_dict().items():
    parts = name.split(".")
    if "downsample" in parts:
      parts[1] = str(int(parts[1]) - 1)
    state[".".join(parts).replace("head.fc", "head")] = tensor
  state["layers.0.blocks.1.attn_mask"] = torch.zeros(64, 49, 49)
  state["layers.0.blocks.1.attn.relative_position_index"] = torch.zeros(49, 49, dtype=torch.int64)
  torch.save({"model": state}, tmp_path / "theirs.pth")
  model, variables = from_pretrained("Swin-T", tmp_path / "theirs.pth", depths=DEPTHS)
  assert relative_error(on(model, variables, images((224, 224))), expected) < 1e-5


def test_a_window_of_another_size_resamples_the_biases_as_the_original_does(tmp_path):
  theirs = with_noise(timm_model("Swin-T", (224, 224)))
  torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
  _, variables = from_pretrained("Swin-T", tmp_path / "theirs.pth", depths=DEPTHS, window_size=12)
  for stage, block in ((0, 1), (3, 0)):
    table = theirs.layers[stage].blocks[block].attn.relative_position_bias_table.detach()
    expected = torch.nn.functional.interpolate(
      table.T.reshape(1, -1, 13, 13), size=(23, 23), mode="bicubic", align_corners=False
    )[0].permute(1, 2, 0)
    attention = variables["params"][f"layers_{stage}"][f"blocks_{block}"]["attention"]
    assert relative_error(attention["relative_position_bias_table"], expected) < 1e-6
