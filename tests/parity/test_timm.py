# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Same weights, same images, same logits as timm, in both directions, to 1e-5 relative.

Logits cannot show a wrong key bias, because the softmax cancels it: that leaf is compared by value.
"""

import jax
import numpy as np
import pytest
import safetensors.torch
import torch
from compiled import apply
from oracle import (
  PAIRS,
  TOLERANCE,
  VISIBLE,
  logits,
  noisy_variables,
  relative_error,
  set_to_google,
  with_noise,
)

from vit_jax.checkpoints.pretrained import from_pretrained
from vit_jax.checkpoints.saving import save_checkpoint
from vit_jax.models.registry import create_model


def ours_on(model, variables, images):
  return apply(model, variables, images, train=False)


def assert_key_biases_equal(variables, theirs):
  """Compares the leaves that no logits can show, in every layer and in attention pooling."""
  dim = theirs.embed_dim
  params = variables["params"]
  for layer, block in enumerate(theirs.blocks):
    ours = params["Transformer"][f"encoderblock_{layer}"]["MultiHeadDotProductAttention_0"]
    expected = block.attn.qkv.bias[dim : 2 * dim].detach()
    np.testing.assert_array_equal(np.reshape(ours["key"]["bias"], -1), expected)
  if theirs.attn_pool is not None:
    ours = params["MAPHead_0"]["MultiHeadDotProductAttention_0"]
    expected = theirs.attn_pool.kv.bias[:dim].detach()
    np.testing.assert_array_equal(np.reshape(ours["key"]["bias"], -1), expected)


@pytest.mark.parametrize("key", PAIRS)
def test_timm_reads_the_npz_that_we_write(key, tmp_path, parity):
  pair = PAIRS[key]
  images = pair.images()
  model = create_model(pair.ours, num_classes=10, **pair.fields())
  variables = noisy_variables(model, images)
  save_checkpoint(tmp_path / "ours.npz", model, variables)

  theirs = set_to_google(pair.model(act_layer="gelu_tanh"))
  theirs.load_pretrained(str(tmp_path / "ours.npz"))

  error = relative_error(ours_on(model, variables, images), logits(theirs, images))
  parity(key, "ours (npz)", "timm", error)
  assert_key_biases_equal(variables, theirs)


@pytest.mark.parametrize("key", PAIRS)
def test_timms_own_weights_load_here(key, tmp_path, parity):
  pair = PAIRS[key]
  images = pair.images()
  theirs = with_noise(pair.model())
  safetensors.torch.save_file(theirs.state_dict(), tmp_path / "theirs.safetensors")
  expected = logits(theirs, images)

  model, variables = from_pretrained(
    pair.ours, tmp_path / "theirs.safetensors", image_size=pair.image_size, **pair.fields()
  )
  error = relative_error(ours_on(model, variables, images), expected)

  # The tolerance can see Google's GELU under the same weights.
  google = model.clone(activation="gelu_tanh")
  off = relative_error(ours_on(google, variables, images), expected)
  assert off > VISIBLE
  parity(key, "timm", "ours", error, off)
  assert_key_biases_equal(variables, theirs)


@pytest.mark.parametrize("key", ["R_Ti_16", "R26_S_32"])
def test_hybrid_numerics_of_the_other_origin_differ(key, tmp_path, parity):
  """States how far Google's epsilons of the stem are from timm's under the same small weights."""
  pair = PAIRS[key]
  images = pair.images()
  theirs = with_noise(pair.model())
  with torch.no_grad():  # Epsilon matters for weak filters: released root filters have std ~ 0.01.
    theirs.get_submodule("patch_embed.backbone").apply(
      lambda m: m.weight.mul_(1e-3) if isinstance(m, torch.nn.Conv2d) else None
    )
  torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
  expected = logits(theirs, images)
  model, variables = from_pretrained(pair.ours, tmp_path / "theirs.pth", **pair.fields())
  error = relative_error(ours_on(model, variables, images), expected)

  google = model.clone(weight_standardization="google", group_norm_eps=1e-6)
  off = relative_error(ours_on(google, variables, images), expected)
  assert off > VISIBLE
  assert (
    relative_error(ours_on(google, variables, images), logits(set_to_google(theirs), images))
    < TOLERANCE
  )
  parity(f"{key}, weak stem", "timm", "ours", error, off)


@pytest.mark.parametrize("key", ["Ti_16", "S_16-gap", "Ti_16-map", "R_Ti_16", "R26_S_32"])
def test_timm_opens_our_safetensors_strictly(key, tmp_path, parity):
  pair = PAIRS[key]
  images = pair.images()
  model = create_model(pair.ours, num_classes=10, **pair.fields())
  variables = noisy_variables(model, images)
  save_checkpoint(tmp_path / "ours.safetensors", model, variables)

  theirs = set_to_google(pair.model(act_layer="gelu_tanh"))
  theirs.load_state_dict(safetensors.torch.load_file(tmp_path / "ours.safetensors"), strict=True)
  error = relative_error(ours_on(model, variables, images), logits(theirs, images))
  parity(key, "ours (safetensors)", "timm", error)

  # And back here: metadata says that these weights, under timm's names, are Google's numerics.
  again, restored = from_pretrained(pair.ours, tmp_path / "ours.safetensors", **pair.fields())
  assert again.activation == "gelu_tanh"
  jax.tree.map(np.testing.assert_array_equal, restored["params"], variables["params"])
