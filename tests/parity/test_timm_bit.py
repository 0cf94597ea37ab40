# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""BiT: same weights, same images, same logits as timm, in both directions, to 1e-5 relative."""

import functools

import jax
import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from compiled import apply
from oracle import CLASSES, VISIBLE, logits, noisy_variables, relative_error, with_noise
from timm.layers import StdConv2d
from timm.models.resnetv2 import ResNetV2

import vit_jax
from vit_jax.checkpoints.pretrained import from_pretrained
from vit_jax.checkpoints.saving import save_checkpoint
from vit_jax.models.registry import MODELS, create_model

# Units per stage, and an image size, odd or even: padding is what may differ.
SIZES = {
  "BiT-R50x1": ((1, 2, 1, 1), (97, 64)),
  "BiT-R50x3": ((1, 1), (64, 64)),
  "BiT-R152x4": ((2,), (49, 48)),
}
OURS, THEIRS = 1e-10, 1e-8  # Epsilons of weight standardisation: Google's, timm's.


def images(name):
  shape = (2, *SIZES[name][1], 3)
  return np.random.default_rng(7).uniform(-1, 1, shape).astype(np.float32)


def timm_model(name, eps):
  """As timm registers its BiTs, at reduced depth."""
  torch.manual_seed(0)
  return ResNetV2(
    layers=list(SIZES[name][0]),
    width_factor=int(MODELS[name].config["width_factor"]),
    stem_type="fixed",
    conv_layer=functools.partial(StdConv2d, eps=eps),
    num_classes=CLASSES,
  ).eval()


def noisy(name):
  model = create_model(name, num_classes=CLASSES, num_units=SIZES[name][0])
  return model, noisy_variables(model, images(name))


def ours_on(model, variables, pictures):
  return apply(model, variables, pictures)


@pytest.mark.parametrize("name", SIZES)
def test_timm_reads_the_npz_that_we_write(name, tmp_path, parity):
  model, variables = noisy(name)
  save_checkpoint(tmp_path / "ours.npz", model, variables)
  theirs = timm_model(name, OURS)
  theirs.load_pretrained(str(tmp_path / "ours.npz"))
  error = relative_error(ours_on(model, variables, images(name)), logits(theirs, images(name)))
  parity(name, "ours (npz)", "timm", error)


@pytest.mark.parametrize("name", SIZES)
def test_timms_own_weights_load_here(name, tmp_path, parity):
  theirs = with_noise(timm_model(name, THEIRS))
  with torch.no_grad():  # Weak filters, as a root's are after training: epsilon matters for these.
    theirs.apply(lambda m: m.weight.mul_(1e-2) if isinstance(m, StdConv2d) else None)
  safetensors.torch.save_file(theirs.state_dict(), tmp_path / "theirs.safetensors")
  expected = logits(theirs, images(name))
  model, variables = from_pretrained(
    name, tmp_path / "theirs.safetensors", num_units=SIZES[name][0]
  )
  assert (model.weight_standardization, model.group_norm_eps) == ("timm", 1e-5)
  error = relative_error(ours_on(model, variables, images(name)), expected)
  # The tolerance can see Google's epsilon under the same weights.
  google = model.clone(weight_standardization="bit")
  off = relative_error(ours_on(google, variables, images(name)), expected)
  assert off > VISIBLE
  parity(name, "timm", "ours", error, off)


def test_timm_opens_our_safetensors_strictly(tmp_path, parity):
  name = "BiT-R50x1"
  model, variables = noisy(name)
  save_checkpoint(tmp_path / "ours.safetensors", model, variables)
  theirs = timm_model(name, OURS)
  theirs.load_state_dict(safetensors.torch.load_file(tmp_path / "ours.safetensors"), strict=True)
  error = relative_error(ours_on(model, variables, images(name)), logits(theirs, images(name)))
  parity(name, "ours (safetensors)", "timm", error)

  # And back here: metadata says that these weights, under timm's names, are Google's numerics.
  again, restored = from_pretrained(name, tmp_path / "ours.safetensors", num_units=SIZES[name][0])
  assert again.weight_standardization == "bit"
  jax.tree.map(np.testing.assert_array_equal, restored["params"], variables["params"])

  # Stage by stage too, in the same order of axes.
  found = vit_jax.extract_features(model, variables, images(name), layers=["stages/*"])
  pixels = torch.from_numpy(images(name)).permute(0, 3, 1, 2)
  with torch.no_grad():
    stages = theirs.forward_intermediates(pixels, intermediates_only=True)[1:]
  for ours, stage in zip(found.values(), stages, strict=True):
    assert relative_error(ours, stage.permute(0, 2, 3, 1)) < 1e-5


def test_all_of_r50x1_agrees_in_float64(tmp_path, parity):
  """Sixteen units amplify float32's rounding; in float64 nothing but the rounding goes away."""
  theirs = with_noise(timm.create_model("resnetv2_50x1_bit", num_classes=CLASSES)).eval()
  torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
  model, variables = from_pretrained("BiT-R50x1", tmp_path / "theirs.pth")
  pictures = np.random.default_rng(7).uniform(-1, 1, (1, 64, 64, 3)).astype(np.float32)
  forward = jax.jit(lambda model, *inputs: model.apply(*inputs), static_argnums=0)
  single = relative_error(forward(model, variables, pictures), logits(theirs, pictures))
  with jax.enable_x64(True):
    double = jax.tree.map(lambda x: np.asarray(x, np.float64), variables)
    ours = forward(model.clone(dtype="float64"), double, pictures.astype(np.float64))
    assert ours.dtype == np.float64
    error = relative_error(ours, logits(theirs.double(), pictures.astype(np.float64)))
  parity("BiT-R50x1, all units, float64", "timm", "ours", error, single)
