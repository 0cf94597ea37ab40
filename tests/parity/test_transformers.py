# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Same weights, same images, same logits as transformers and torchvision, to 1e-5 relative."""

import numpy as np
import pytest
import torch
from compiled import apply
from oracle import CLASSES, VISIBLE, logits, noisy_variables, relative_error, with_noise
from torchvision.models.vision_transformer import VisionTransformer as TorchvisionViT
from transformers import ViTConfig, ViTForImageClassification, ViTModel

from vit_jax.checkpoints.pretrained import from_pretrained
from vit_jax.checkpoints.saving import save_checkpoint
from vit_jax.models.registry import MODELS, create_model

DEPTH = 2
# Model and image size.
SHAPES = {"Ti_16": 96, "S_32": 128, "B_16": 96, "L_16": 64, "H_14": 56}


def images(size):
  return np.random.default_rng(7).uniform(-1, 1, (2, size, size, 3)).astype(np.float32)


def on(model, variables, size):
  return apply(model, variables, images(size), train=False)


def transformers_model(name, size, kind=ViTForImageClassification, **config):
  fields = MODELS[f"ViT-{name}"].config
  torch.manual_seed(0)
  config = ViTConfig(
    hidden_size=fields["hidden_size"],
    num_hidden_layers=DEPTH,
    num_attention_heads=fields["num_heads"],
    intermediate_size=fields["mlp_dim"],
    patch_size=fields["patch_size"],
    image_size=size,
    num_labels=CLASSES,
    **config,
  )
  return with_noise(kind(config)).eval()


def answers(model, size):
  with torch.no_grad():
    output = model(torch.from_numpy(images(size)).permute(0, 3, 1, 2))
  return (output.logits if hasattr(output, "logits") else output.pooler_output).numpy()


def assert_key_biases_equal(variables, theirs):
  """Compares the leaves that no logits can show."""
  for layer in range(DEPTH):
    block = variables["params"]["Transformer"][f"encoderblock_{layer}"]
    ours = block["MultiHeadDotProductAttention_0"]["key"]["bias"]
    np.testing.assert_array_equal(np.reshape(ours, -1), theirs(layer).detach())


@pytest.mark.parametrize("key", SHAPES)
def test_transformers_own_weights_load_here(key, tmp_path, parity):
  size = SHAPES[key]
  theirs = transformers_model(key, size)
  theirs.save_pretrained(tmp_path)
  expected = answers(theirs, size)
  model, variables = from_pretrained(f"ViT-{key}", tmp_path, num_layers=DEPTH)
  error = relative_error(on(model, variables, size), expected)
  off = relative_error(on(model.clone(activation="gelu_tanh"), variables, size), expected)
  assert off > VISIBLE
  parity(key, "transformers", "ours", error, off)
  assert_key_biases_equal(variables, lambda i: theirs.vit.layers[i].attention.k_proj.bias)


@pytest.mark.parametrize("key", SHAPES)
def test_transformers_reads_the_folder_that_we_write(key, tmp_path, parity):
  size = SHAPES[key]
  model = create_model(f"ViT-{key}", num_classes=CLASSES, num_layers=DEPTH)
  variables = noisy_variables(model, images(size))
  save_checkpoint(tmp_path / "folder", model, variables)
  theirs, told = ViTForImageClassification.from_pretrained(
    tmp_path / "folder", output_loading_info=True
  )
  assert not any(told.values())
  error = relative_error(on(model, variables, size), answers(theirs.eval(), size))
  parity(key, "ours (folder)", "transformers", error)
  assert_key_biases_equal(variables, lambda i: theirs.vit.layers[i].attention.k_proj.bias)


def test_the_pooler_of_vit_model(tmp_path, parity):
  theirs = transformers_model("B_16", 96, ViTModel)
  theirs.save_pretrained(tmp_path)
  model, variables = from_pretrained(
    "ViT-B_16", tmp_path, num_layers=DEPTH, representation_size=768
  )
  error = relative_error(on(model, variables, 96), answers(theirs, 96))
  parity("B_16 with pooler", "transformers", "ours", error)


@pytest.mark.parametrize("old_names", [False, True])
def test_torchvisions_own_weights_load_here(old_names, tmp_path, parity):
  torch.manual_seed(0)
  theirs = with_noise(
    TorchvisionViT(96, 16, DEPTH, 12, 768, 3072, num_classes=CLASSES, representation_size=64)
  ).eval()
  state = theirs.state_dict()
  if old_names:
    number = {"mlp.0.": "mlp.linear_1.", "mlp.3.": "mlp.linear_2."}
    for new, old in number.items():
      state = {name.replace(new, old): tensor for name, tensor in state.items()}
  torch.save(state, tmp_path / "x.pth")
  expected = logits(theirs, images(96))
  model, variables = from_pretrained(
    "ViT-B_16", tmp_path / "x.pth", num_layers=DEPTH, representation_size=64
  )
  error = relative_error(on(model, variables, 96), expected)
  off = relative_error(on(model.clone(activation="gelu_tanh"), variables, 96), expected)
  assert off > VISIBLE
  parity(f"B_16{' (old names)' * old_names}", "torchvision", "ours", error, off)
  layers = theirs.encoder.layers
  assert_key_biases_equal(variables, lambda i: layers[i].self_attention.in_proj_bias[768 : 2 * 768])
