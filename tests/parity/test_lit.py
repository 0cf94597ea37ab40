# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""LiT against two towers that are put together here: timm's ViT, and BERT of transformers or
PyTorch's own encoder. The released names are written out a second time, independently of ours.
"""

import math

import jax
import numpy as np
import pytest
import safetensors.torch
import torch
from oracle import VISIBLE, noisy_variables, relative_error, with_noise
from transformers import BertConfig, BertModel

import vit_jax
from vit_jax.checkpoints.lit import load_towers
from vit_jax.models import entries, registry

SIZE = 64
DEPTH = {"num_layers": 2}
# Our name: timm's image tower.
TOWERS = {
  "LiT-B16B": "vit_base_patch16_224",
  "LiT-B16B_2": "vit_base_patch16_224",
  "LiT-L16L": "vit_large_patch16_224",
  "LiT-L16S": "vit_large_patch16_224",
  "LiT-L16Ti": "vit_large_patch16_224",
}


def inputs(vocab_size):
  rng = np.random.default_rng(7)
  images = rng.uniform(-1, 1, (3, SIZE, SIZE, 3)).astype(np.float32)
  tokens = rng.integers(1, vocab_size, (4, 16)).astype(np.int32)
  for row, length in enumerate((16, 9, 5, 2)):  # 0 is padding to BERT, and a token to the others.
    tokens[row, length:] = 0
  return images, tokens


def timm_tower(name, num_classes, activation="gelu_tanh"):
  import timm

  torch.manual_seed(0)
  return timm.create_model(
    name, depth=2, img_size=SIZE, num_classes=num_classes, act_layer=activation
  ).eval()


def bert(fields, activation="gelu_pytorch_tanh"):
  torch.manual_seed(0)
  config = BertConfig(
    hidden_size=fields["hidden_size"],
    num_hidden_layers=2,
    num_attention_heads=fields["num_heads"],
    intermediate_size=fields["mlp_dim"],
    hidden_act=activation,
    layer_norm_eps=1e-12,
  )
  return BertModel(config, add_pooling_layer=False).eval()


def from_flaxformer(npz):
  """transformers' BERT from the names of the released LiT files."""
  encoder = "txt/BertEncoder_0/"
  state = {
    f"embeddings.{theirs}_embeddings.weight": npz[f"{encoder}embedder/embedders_{ours}/embedding"]
    for theirs, ours in (
      ("word", "token_ids"),
      ("position", "position_ids"),
      ("token_type", "segment_ids"),
    )
  }

  def add(theirs, ours):
    if f"{ours}/kernel" in npz:
      state[f"{theirs}.weight"] = npz[f"{ours}/kernel"].T
    else:
      state[f"{theirs}.weight"] = npz[f"{ours}/scale"]
    state[f"{theirs}.bias"] = npz[f"{ours}/bias"]

  add("embeddings.LayerNorm", f"{encoder}layer_norm")
  for layer in range(2):
    ours = f"{encoder}encoder_block/layer_sequence/layers_{layer}"
    theirs = f"encoder.layer.{layer}"
    for name in ("query", "key", "value"):
      add(f"{theirs}.attention.self.{name}", f"{ours}/attention_block/attention_layer/{name}")
    add(f"{theirs}.attention.output.dense", f"{ours}/attention_block/dense_layer")
    add(f"{theirs}.attention.output.LayerNorm", f"{ours}/attention_block/layer_norm")
    add(f"{theirs}.intermediate.dense", f"{ours}/mlp_block/mlp/dense_layer")
    add(f"{theirs}.output.dense", f"{ours}/mlp_block/dense_layer")
    add(f"{theirs}.output.LayerNorm", f"{ours}/mlp_block/layer_norm")
  return {name: torch.from_numpy(np.ascontiguousarray(x)) for name, x in state.items()}


class TorchTextTransformer(torch.nn.Module):
  """LiT's plain text tower out of PyTorch's pre-norm encoder."""

  def __init__(self, npz, fields):
    super().__init__()
    dim = fields["hidden_size"]
    gelu = lambda x: torch.nn.functional.gelu(x, approximate="tanh")
    layer = torch.nn.TransformerEncoderLayer(
      dim, fields["num_heads"], fields["mlp_dim"], 0, gelu, 1e-6, batch_first=True, norm_first=True
    )
    norm = torch.nn.LayerNorm(dim, eps=1e-6)
    self.encoder = torch.nn.TransformerEncoder(layer, 2, norm, enable_nested_tensor=False)
    array = lambda name: torch.from_numpy(np.array(npz[f"txt/{name}"]))
    self.embedding, self.positions = array("Embed_0/embedding"), array("pos_embedding")
    state = {}
    for index in range(2):
      ours, theirs = f"Encoder_0/encoderblock_{index}/", f"layers.{index}."
      attention = ours + "MultiHeadDotProductAttention_0/"
      parts = [
        array(f"{attention}{n}/kernel").reshape(dim, dim).T for n in ("query", "key", "value")
      ]
      state[theirs + "self_attn.in_proj_weight"] = torch.cat(parts)
      parts = [array(f"{attention}{n}/bias").reshape(dim) for n in ("query", "key", "value")]
      state[theirs + "self_attn.in_proj_bias"] = torch.cat(parts)
      state[theirs + "self_attn.out_proj.weight"] = (
        array(attention + "out/kernel").reshape(dim, dim).T
      )
      state[theirs + "self_attn.out_proj.bias"] = array(attention + "out/bias")
      for number in (0, 1):
        dense = f"{ours}MlpBlock_0/Dense_{number}/"
        state[f"{theirs}linear{number + 1}.weight"] = array(dense + "kernel").T
        state[f"{theirs}linear{number + 1}.bias"] = array(dense + "bias")
        state[f"{theirs}norm{number + 1}.weight"] = array(f"{ours}LayerNorm_{number}/scale")
        state[f"{theirs}norm{number + 1}.bias"] = array(f"{ours}LayerNorm_{number}/bias")
    state["norm.weight"] = array("Encoder_0/encoder_norm/scale")
    state["norm.bias"] = array("Encoder_0/encoder_norm/bias")
    self.encoder.load_state_dict(state, strict=True)

  def forward(self, tokens):
    return self.encoder(self.embedding[tokens] + self.positions)[:, -1]


def similarities(img, txt, temperature, images, tokens):
  """temperature * cosine of every image and text, [images, texts], of torch towers."""
  with torch.no_grad():
    zimg = img(torch.from_numpy(images).permute(0, 3, 1, 2))
    ztxt = txt(torch.from_numpy(tokens).long())
    normal = torch.nn.functional.normalize
    return (temperature * normal(zimg) @ normal(ztxt).T).numpy()


def ours_on(model, variables, images, tokens):
  zimg, ztxt, out = jax.jit(model.apply)(variables, images, tokens)
  return out["t"] * zimg @ ztxt.T


@pytest.mark.parametrize("name", TOWERS)
def test_torch_gives_the_same_from_the_npz_that_we_write(name, tmp_path, parity):
  model = vit_jax.create_model(name, img=DEPTH, txt=DEPTH)
  images, tokens = inputs(model.txt.vocab_size)
  variables = noisy_variables(model, images)
  vit_jax.save_checkpoint(tmp_path / "lit.npz", model, variables)
  npz = np.load(tmp_path / "lit.npz")

  img = timm_tower(TOWERS[name], model.img.num_classes)
  from timm.models.vision_transformer import _load_weights

  _load_weights(img, str(tmp_path / "lit.npz"), prefix="img/")
  if model.img.num_classes:  # timm only takes heads of classification from npz files.
    with torch.no_grad():
      img.head.weight.copy_(torch.from_numpy(npz["img/head/kernel"].T))
      img.head.bias.copy_(torch.from_numpy(npz["img/head/bias"]))
  text_name = entries.LITS[name][2]
  fields = registry.TEXT_TOWERS[text_name][1]
  if text_name.startswith("Bert"):
    encoder = bert(fields)
    encoder.load_state_dict(from_flaxformer(npz), strict=True)
    tower = lambda t: encoder(t, attention_mask=(t != 0).long()).last_hidden_state[:, 0]
  else:
    tower = TorchTextTransformer(npz, fields)
  kernel, bias = (torch.from_numpy(npz[f"txt/head/{leaf}"]) for leaf in ("kernel", "bias"))
  txt = lambda t: tower(t) @ kernel + bias
  expected = similarities(img, txt, math.exp(npz["t"][0]), images, tokens)

  error = relative_error(ours_on(model, variables, images, tokens), expected)
  reader = "timm and transformers" if text_name.startswith("Bert") else "timm and torch"
  exact = model.clone(txt=model.txt.clone(activation="gelu"))
  off = relative_error(ours_on(exact, variables, images, tokens), expected)
  assert off > VISIBLE
  parity(name, "ours (npz)", reader, error, off)

  # And back here, bit by bit.
  again, restored = vit_jax.from_pretrained(name, tmp_path / "lit.npz")
  assert again == model
  jax.tree.map(np.testing.assert_array_equal, restored["params"], variables["params"])


def test_towers_of_timm_and_transformers_load_here(tmp_path, parity):
  fields = registry.TEXT_TOWERS["Bert-B"][1]
  img = with_noise(timm_tower("vit_base_patch16_224", 10, "gelu"))
  txt = with_noise(bert(fields, "gelu"))
  safetensors.torch.save_file(img.state_dict(), tmp_path / "img.safetensors")
  txt.save_pretrained(tmp_path / "bert")

  files = {"img": str(tmp_path / "img.safetensors"), "txt": str(tmp_path / "bert")}
  images, tokens = inputs(30_522)
  overrides = {"img": DEPTH, "txt": {**DEPTH, "num_classes": 0}}
  model, variables = load_towers("LiT-B16B_2", files, overrides, images)

  img.reset_classifier(0)
  tower = lambda t: txt(t, attention_mask=(t != 0).long()).last_hidden_state[:, 0]
  expected = similarities(img, tower, 10.0, images, tokens)
  error = relative_error(ours_on(model, variables, images, tokens), expected)
  google = model.clone(txt=model.txt.clone(activation="gelu_tanh"))
  off = relative_error(ours_on(google, variables, images, tokens), expected)
  assert off > VISIBLE
  parity("LiT-B16B_2 towers", "timm and transformers", "ours", error, off)
  for layer in range(2):  # Softmax hides these.
    block = variables["params"]["txt"][f"encoderblock_{layer}"]["MultiHeadDotProductAttention_0"]
    theirs = txt.encoder.layer[layer].attention.self.key.bias.detach()
    np.testing.assert_array_equal(np.reshape(block["key"]["bias"], -1), theirs)
