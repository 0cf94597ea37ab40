# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Mixer: same weights, same images, same logits as timm, in both directions, to 1e-5 relative.

Logits cannot show the last bias of token mixing: it adds one number to all channels of a token, and
every LayerNorm behind it takes that away. That leaf is compared by value.
"""

import functools

import jax
import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from compiled import apply
from oracle import CLASSES, VISIBLE, logits, noisy_variables, relative_error, with_noise
from timm.models.mlp_mixer import MlpMixer

from vit_jax.checkpoints.pretrained import from_pretrained
from vit_jax.checkpoints.saving import save_checkpoint
from vit_jax.models.registry import create_model

# Depth, image size, and timm's patch size and width (its ratios are the paper's).
SIZES = {
  "Mixer-S_32": (2, 128, 32, 512),
  "Mixer-B_16": (2, 96, 16, 768),
  "Mixer-L_32": (1, 128, 32, 1024),
  "Mixer-H_14": (1, 56, 14, 1280),
}


def timm_model(name, activation="none"):
  depth, size, patch, width = SIZES[name]
  torch.manual_seed(0)
  return MlpMixer(
    num_classes=CLASSES,
    img_size=size,
    patch_size=patch,
    num_blocks=depth,
    embed_dim=width,
    act_layer=functools.partial(torch.nn.GELU, approximate=activation),
  ).eval()


def images(name):
  size = SIZES[name][1]
  return np.random.default_rng(7).uniform(-1, 1, (2, size, size, 3)).astype(np.float32)


def noisy(name):
  model = create_model(name, num_classes=CLASSES, num_blocks=SIZES[name][0])
  return model, noisy_variables(model, images(name))


def ours_on(name, model, variables):
  return apply(model, variables, images(name), train=False)


def assert_hidden_biases_equal(variables, theirs):
  """Compares the leaves that no logits can show."""
  for layer, block in enumerate(theirs.blocks):
    ours = variables["params"][f"MixerBlock_{layer}"]["token_mixing"]["Dense_1"]["bias"]
    np.testing.assert_array_equal(ours, block.mlp_tokens.fc2.bias.detach())


def load_official(theirs, file):
  """Fills timm's model from a file with the released names, which timm itself has no code for."""
  with np.load(file) as archive:
    arrays = {name: archive[name] for name in archive.files}

  def fill(module, name):
    norm = isinstance(module, torch.nn.LayerNorm)
    weight = arrays.pop(f"{name}/{'scale' if norm else 'kernel'}")
    axes = (3, 2, 0, 1) if weight.ndim == 4 else tuple(range(weight.ndim))[::-1]
    module.weight.copy_(torch.from_numpy(weight.transpose(axes).copy()))
    module.bias.copy_(torch.from_numpy(arrays.pop(f"{name}/bias")))

  with torch.no_grad():
    fill(theirs.stem.proj, "stem")
    for layer, block in enumerate(theirs.blocks):
      name = f"MixerBlock_{layer}"
      fill(block.norm1, f"{name}/LayerNorm_0")
      fill(block.mlp_tokens.fc1, f"{name}/token_mixing/Dense_0")
      fill(block.mlp_tokens.fc2, f"{name}/token_mixing/Dense_1")
      fill(block.norm2, f"{name}/LayerNorm_1")
      fill(block.mlp_channels.fc1, f"{name}/channel_mixing/Dense_0")
      fill(block.mlp_channels.fc2, f"{name}/channel_mixing/Dense_1")
    fill(theirs.norm, "pre_head_layer_norm")
    fill(theirs.head, "head")
  assert set(arrays) == {"__metadata__"}


@pytest.mark.parametrize("name", SIZES)
def test_timms_own_weights_load_here(name, tmp_path, parity):
  theirs = with_noise(timm_model(name))
  safetensors.torch.save_file(theirs.state_dict(), tmp_path / "theirs.safetensors")
  expected = logits(theirs, images(name))
  model, variables = from_pretrained(
    name, tmp_path / "theirs.safetensors", num_blocks=SIZES[name][0]
  )
  error = relative_error(ours_on(name, model, variables), expected)
  # The tolerance can see Google's GELU under the same weights.
  google = model.clone(activation="gelu_tanh")
  off = relative_error(ours_on(name, google, variables), expected)
  assert off > VISIBLE
  parity(name, "timm", "ours", error, off)
  assert_hidden_biases_equal(variables, theirs)


@pytest.mark.parametrize("name", SIZES)
def test_timm_computes_the_same_from_our_npz(name, tmp_path, parity):
  model, variables = noisy(name)
  save_checkpoint(tmp_path / "ours.npz", model, variables)
  theirs = timm_model(name, "tanh")
  load_official(theirs, tmp_path / "ours.npz")
  error = relative_error(ours_on(name, model, variables), logits(theirs, images(name)))
  parity(name, "ours (npz)", "timm", error)
  assert_hidden_biases_equal(variables, theirs)


@pytest.mark.parametrize("name", SIZES)
def test_timm_opens_our_safetensors_strictly(name, tmp_path, parity):
  model, variables = noisy(name)
  save_checkpoint(tmp_path / "ours.safetensors", model, variables)
  theirs = timm_model(name, "tanh")
  theirs.load_state_dict(safetensors.torch.load_file(tmp_path / "ours.safetensors"), strict=True)
  error = relative_error(ours_on(name, model, variables), logits(theirs, images(name)))
  parity(name, "ours (safetensors)", "timm", error)
  assert_hidden_biases_equal(variables, theirs)

  # And back here: metadata says that these weights, under timm's names, are Google's numerics.
  again, restored = from_pretrained(name, tmp_path / "ours.safetensors", num_blocks=SIZES[name][0])
  assert again.activation == "gelu_tanh"
  jax.tree.map(np.testing.assert_array_equal, restored["params"], variables["params"])


def test_a_named_model_of_timms_loads_whole(tmp_path):
  """All names and shapes of a real registration, and the resolution that its tokens tell."""
  theirs = with_noise(timm.create_model("mixer_s32_224", num_classes=CLASSES)).eval()
  torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
  model, variables = from_pretrained("Mixer-S_32", tmp_path / "theirs.pth")
  pictures = np.random.default_rng(7).uniform(-1, 1, (1, 224, 224, 3)).astype(np.float32)
  error = relative_error(apply(model, variables, pictures), logits(theirs, pictures))
  assert error <= 1e-5
