# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Swin V2: same weights, same images, same logits as timm and transformers, to 1e-5 relative."""

import jax
import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from oracle import CLASSES, VISIBLE, logits, noisy_variables, relative_error, with_noise
from transformers import Swinv2Config, Swinv2ForImageClassification

from vit_jax.checkpoints.convert import verify
from vit_jax.checkpoints.pretrained import from_pretrained
from vit_jax.checkpoints.saving import save_checkpoint
from vit_jax.errors import UserError
from vit_jax.models.registry import create_model

DEPTHS = (2, 1, 1, 1)
TIMM = {
  "SwinV2-T-w8": "swinv2_tiny_window8_256",
  "SwinV2-T-w16": "swinv2_tiny_window16_256",
  "SwinV2-B-w8": "swinv2_base_window8_256",
}
# The native size, and one that the windows do not divide, with maps smaller than a window.
CASES = [
  ("SwinV2-T-w8", (256, 256)),
  ("SwinV2-T-w8", (144, 272)),
  ("SwinV2-T-w16", (256, 256)),
  ("SwinV2-B-w8", (256, 256)),
]


def images(size):
  return np.random.default_rng(7).uniform(-1, 1, (1, *size, 3)).astype(np.float32)


def timm_model(name, size, **arguments):
  torch.manual_seed(0)
  return timm.create_model(
    TIMM[name], depths=DEPTHS, img_size=size, num_classes=CLASSES, **arguments
  ).eval()


def noisy(model):
  """Noise on every leaf; the norms that end the branches are not near their initial 0, either."""
  with_noise(model)
  with torch.no_grad():
    for name, value in model.named_parameters():
      if value.ndim == 1 and name.endswith(("norm1.weight", "norm2.weight")):
        value.add_(1.0)
  return model


def on(model, variables, pictures):
  return jax.jit(model.apply)(variables, pictures)


def row(name, size):
  return name if size == (256, 256) else f"{name} at {size[0]}x{size[1]}"


@pytest.mark.parametrize("name, size", CASES)
def test_timms_own_weights_load_here(name, size, tmp_path, parity):
  theirs = noisy(timm_model(name, size))
  safetensors.torch.save_file(theirs.state_dict(), tmp_path / "theirs.safetensors")
  expected = logits(theirs, images(size))
  model, variables = from_pretrained(name, tmp_path / "theirs.safetensors", depths=DEPTHS)
  assert (model.activation, model.layer_norm_eps) == ("gelu", 1e-5)
  error = relative_error(on(model, variables, images(size)), expected)
  off = relative_error(on(model.clone(activation="gelu_tanh"), variables, images(size)), expected)
  assert off > VISIBLE
  parity(row(name, size), "timm", "ours", error, off)


def test_timm_opens_our_safetensors_strictly(tmp_path, parity):
  name, size = "SwinV2-T-w8", (256, 256)
  model = create_model(name, num_classes=CLASSES, depths=DEPTHS)
  variables = noisy_variables(model, images(size))
  for suffix in (".npz", ".safetensors"):
    file = tmp_path / f"ours{suffix}"
    save_checkpoint(file, model, variables, metadata={"image_size": [256, 256]})
    _, restored = from_pretrained(name, file, depths=DEPTHS)
    jax.tree.map(np.testing.assert_array_equal, restored["params"], variables["params"])
  theirs = timm_model(name, size)
  theirs.load_state_dict(safetensors.torch.load_file(file), strict=True)
  error = relative_error(on(model, variables, images(size)), logits(theirs, images(size)))
  parity(name, "ours (safetensors)", "timm", error)
  assert verify(tmp_path / "ours.npz", model, variables, batch=1)["float32"] < 1e-5
  with pytest.raises(UserError, match=r"this is a Swin V2 checkpoint .* 'Swin-T' is a Swin; pass"):
    from_pretrained("Swin-T", file)


def test_larger_windows_than_were_trained_on(tmp_path, parity):
  windows = (4, 4, 4, 2)
  theirs = noisy(timm_model("SwinV2-T-w8", (256, 256), pretrained_window_sizes=windows))
  torch.save({"model": theirs.state_dict()}, tmp_path / "theirs.pth")
  model, variables = from_pretrained(
    "SwinV2-T-w8", tmp_path / "theirs.pth", depths=DEPTHS, trained_windows=windows
  )
  expected = logits(theirs, images((256, 256)))
  error = relative_error(on(model, variables, images((256, 256))), expected)
  without = on(model.clone(trained_windows=()), variables, images((256, 256)))
  assert relative_error(without, expected) > VISIBLE
  parity("SwinV2-T-w8, trained with windows of 4", "timm", "ours", error)
  save_checkpoint(tmp_path / "ours.npz", model, variables)
  again, _ = from_pretrained("SwinV2-T-w8", tmp_path / "ours.npz", depths=DEPTHS)
  assert again.trained_windows == windows


@pytest.mark.parametrize("windows", [(0, 0, 0, 0), (4, 4, 4, 2)])
def test_transformers_folders_load_here(windows, tmp_path, parity):
  config = Swinv2Config(
    image_size=256,
    window_size=8,
    depths=list(DEPTHS),
    pretrained_window_sizes=list(windows),
    num_labels=CLASSES,
  )
  torch.manual_seed(0)
  theirs = with_noise(Swinv2ForImageClassification(config)).eval()
  theirs.save_pretrained(tmp_path / "theirs")
  model, variables = from_pretrained("SwinV2-T-w8", tmp_path / "theirs", depths=DEPTHS)
  pictures = images((256, 256))
  with torch.no_grad():
    expected = theirs(torch.from_numpy(pictures).permute(0, 3, 1, 2)).logits.numpy()
  error = relative_error(on(model, variables, pictures), expected)
  trained = ", trained with windows of 4" * any(windows)
  parity(f"SwinV2-T-w8{trained}", "transformers", "ours", error)
