# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Hugging Face folders, in every form that transformers writes, in and out."""

import json
import logging

import numpy as np
import pytest
import safetensors.torch
import torch
from compiled import apply
from tiny_model import FIELDS, NAME, SIZE, assert_equal, flatten, images, tiny
from transformers import ViTConfig, ViTForImageClassification, ViTForMaskedImageModeling, ViTModel

from vit_jax.checkpoints.pretrained import from_pretrained
from vit_jax.checkpoints.reading import read_metadata
from vit_jax.checkpoints.saving import save_checkpoint
from vit_jax.errors import UserError

NAMES = ["cat", "dog", "eel"]


def theirs(kind=ViTForImageClassification, **config):
  """A small random model of transformers with noise on every leaf."""
  torch.manual_seed(0)
  model = kind(
    ViTConfig(
      hidden_size=FIELDS["hidden_size"],
      num_hidden_layers=FIELDS["num_layers"],
      intermediate_size=FIELDS["mlp_dim"],
      num_attention_heads=FIELDS["num_heads"],
      image_size=SIZE,
      **{"num_labels": 3, **config},
    )
  ).eval()
  with torch.no_grad():
    for parameter in model.parameters():
      parameter.add_(0.2 * torch.randn(parameter.shape))
  return model


def answer(model, pixels=None):
  pixels = images() if pixels is None else pixels
  with torch.no_grad():
    output = model(torch.from_numpy(pixels).permute(0, 3, 1, 2))
  return (output.logits if hasattr(output, "logits") else output.pooler_output).numpy()


def error(model, variables, expected):
  ours = np.asarray(apply(model, variables, images(), train=False), np.float64)
  return np.linalg.norm(ours - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize("form", ["folder", "sharded", "file", "bin", "new names"])
def test_every_form_of_a_checkpoint_gives_the_same_logits(form, tmp_path, caplog):
  caplog.set_level(logging.INFO)
  model = theirs(hidden_act="gelu_pytorch_tanh")
  model.save_pretrained(tmp_path, max_shard_size="40KB" if form == "sharded" else "5GB")
  path = tmp_path
  if form == "sharded":
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
  elif form == "file":
    path = tmp_path / "model.safetensors"
  elif form in ("bin", "new names"):
    state = safetensors.torch.load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict() if form == "new names" else state, tmp_path / "pytorch_model.bin")
  ours, variables = from_pretrained(NAME, path, **FIELDS)
  assert error(ours, variables, answer(model)) < 1e-5
  assert "activation=gelu_tanh (config.json), layer_norm_eps=1e-12 (config.json)" in caplog.text
  # The default of these names is the exact GELU: the tolerance can tell.
  assert error(ours.clone(activation="gelu"), variables, answer(model)) > 5e-5


def test_class_names_and_size_come_from_the_config(tmp_path):
  theirs(id2label=dict(enumerate(NAMES))).save_pretrained(tmp_path)
  metadata = read_metadata(tmp_path)
  assert metadata["class_names"] == NAMES and metadata["image_size"] == [SIZE, SIZE]
  _, variables = from_pretrained(NAME, tmp_path, classes=["eel", "cat"], **FIELDS)
  bias = safetensors.torch.load_file(tmp_path / "model.safetensors")["classifier.bias"].numpy()
  np.testing.assert_array_equal(variables["params"]["head"]["bias"], bias[[2, 0]])


def test_the_pooler_is_pre_logits(tmp_path):
  model = theirs(ViTModel)
  model.save_pretrained(tmp_path / "in")
  width = FIELDS["hidden_size"]
  ours, variables = from_pretrained(NAME, tmp_path / "in", representation_size=width, **FIELDS)
  assert error(ours, variables, answer(model)) < 1e-5
  save_checkpoint(tmp_path / "out", ours, variables)
  again, told = ViTModel.from_pretrained(tmp_path / "out", output_loading_info=True)
  assert not any(told.values())
  np.testing.assert_array_equal(answer(again.eval()), answer(model))


@pytest.mark.parametrize("size", [(SIZE, SIZE), (SIZE, SIZE // 2)])
def test_transformers_opens_what_we_write_strictly(size, tmp_path):
  model, variables = tiny(size=size)
  metadata = {"class_names": [*"abcde"], "image_size": list(size)}
  save_checkpoint(tmp_path / "folder", model, variables, metadata=metadata)
  opened, told = ViTForImageClassification.from_pretrained(
    tmp_path / "folder", output_loading_info=True
  )
  assert not any(told.values())
  assert opened.config.id2label == dict(enumerate("abcde"))
  pixels = images(*size)
  ours = np.asarray(apply(model, variables, pixels, train=False), np.float64)
  expected = answer(opened.eval(), pixels)
  assert np.linalg.norm(ours - expected) / np.linalg.norm(expected) < 1e-5
  for part in ("query", "key", "value"):  # No logits show a key bias.
    layer = flatten(variables)
    path = f"Transformer/encoderblock_1/MultiHeadDotProductAttention_0/{part}/bias"
    there = opened.state_dict()[f"vit.layers.1.attention.{part[0]}_proj.bias"]
    np.testing.assert_array_equal(layer[path].reshape(-1), there)
  loaded, restored = from_pretrained(NAME, tmp_path / "folder", **FIELDS)
  assert loaded == model
  assert_equal(restored, variables)


def test_hf_to_ours_to_hf_is_bit_exact(tmp_path):
  model = theirs(id2label=dict(enumerate(NAMES)))
  model.save_pretrained(tmp_path / "in")
  ours, variables = from_pretrained(NAME, tmp_path / "in", **FIELDS)
  metadata = read_metadata(tmp_path / "in")
  save_checkpoint(tmp_path / "out", ours, variables, metadata=metadata)
  before, after = (
    safetensors.torch.load_file(tmp_path / side / "model.safetensors") for side in ("in", "out")
  )
  assert before.keys() == after.keys()
  assert all(torch.equal(before[name], after[name]) for name in before)
  configs = [json.loads((tmp_path / side / "config.json").read_text()) for side in ("in", "out")]
  for key in ("hidden_act", "layer_norm_eps", "image_size", "patch_size", "id2label"):
    assert configs[0][key] == configs[1][key]


def test_a_masked_image_model_loads_without_its_decoder(tmp_path, caplog):
  caplog.set_level(logging.INFO)
  model = theirs(ViTForMaskedImageModeling)
  model.save_pretrained(tmp_path)
  ours, variables = from_pretrained(NAME, tmp_path, **FIELDS)
  with torch.no_grad():
    tokens = model.vit(torch.from_numpy(images()).permute(0, 3, 1, 2)).last_hidden_state
  assert error(ours, variables, tokens[:, 0].numpy()) < 1e-5
  assert "of the pretraining decoder" in caplog.text


def test_half_precision_is_accepted_and_said(tmp_path, caplog):
  caplog.set_level(logging.INFO)
  theirs().to(torch.bfloat16).save_pretrained(tmp_path)
  _, variables = from_pretrained(NAME, tmp_path, **FIELDS)
  assert "Converted to float32 from bfloat16." in caplog.text
  stored = safetensors.torch.load_file(tmp_path / "model.safetensors")["vit.embeddings.cls_token"]
  np.testing.assert_array_equal(variables["params"]["cls"], stored.float().numpy())


def test_what_transformers_cannot_hold_is_refused(tmp_path):
  hybrid = tiny(name="R50+ViT-B_16", stem_blocks=(1,), stem_width=32)
  gap, square = tiny(classifier="gap"), tiny(position_embedding="sincos_2d")
  both = tiny(representation_size=8)
  for (model, variables), reason in (
    (hybrid, "transformers has no HybridVisionTransformer"),
    (gap, "classifier='gap', only 'token'"),
    (square, "position_embedding='sincos_2d', only 'learned_1d'"),
    (both, "ViTForImageClassification has no place for pre_logits/"),
  ):
    with pytest.raises(UserError, match=reason):
      save_checkpoint(tmp_path / "out", model, variables, metadata={"image_size": [64, 64]})
  assert not (tmp_path / "out").exists()


def test_a_damaged_folder_is_refused(tmp_path):
  theirs().save_pretrained(tmp_path, max_shard_size="40KB")
  index = tmp_path / "model.safetensors.index.json"
  shards = sorted({*json.loads(index.read_text())["weight_map"].values()})
  (tmp_path / shards[1]).unlink()
  with pytest.raises(UserError, match=f"names {shards[1]}, missing in"):
    from_pretrained(NAME, tmp_path, **FIELDS)
  (tmp_path / "config.json").write_text('{"model_type": "vit", "hidden_act": "relu"}')
  index.unlink()
  with pytest.raises(UserError, match="hidden_act='relu'; only gelu, "):
    from_pretrained(NAME, tmp_path / shards[0], **FIELDS)
  (tmp_path / "config.json").write_text('{"model')
  with pytest.raises(UserError, match=r"config.json cannot be read"):
    from_pretrained(NAME, tmp_path / shards[0], **FIELDS)


@pytest.mark.parametrize(
  "changes",
  [
    *(dict(model_type=["vit"]), dict(hidden_act=["gelu"]), dict(image_size="large")),
    *(dict(image_size=2.5), dict(id2label=["cat"]), dict(id2label={"first": "cat"})),
    *(dict(image_size=None), dict(image_size=-1), dict(image_size=True), dict(image_size=10**9)),
    *(dict(image_size=[32]), dict(image_size=[]), dict(image_size=[32, "32"]), dict(image_size={})),
    *(dict(layer_norm_eps=None), dict(layer_norm_eps="1e-6"), dict(layer_norm_eps=0)),
    *(dict(layer_norm_eps=float("nan")), dict(layer_norm_eps=True), dict(layer_norm_eps=[1e-6])),
    *(dict(num_attention_heads=None), dict(num_attention_heads="2"), dict(num_attention_heads=0)),
    *(dict(num_hidden_layers=2.0), dict(hidden_size=False), dict(hidden_act=None)),
    *(dict(qkv_bias=None), dict(qkv_bias=1), dict(hidden_act={}), dict(model_type=None)),
    *(dict(id2label={"1": "a", "2": "b"}), dict(id2label={"0": "a", "2": "b"})),
    *(dict(id2label={"0": "a", "-1": "b"}), dict(id2label={"0": "a", "01": "b"})),
    *(dict(id2label={"0": "a", "a": "b"}), dict(id2label={"0": 5}), dict(id2label={"0": None})),
    *(dict(id2label={"0": ["a"]}), dict(id2label="cat"), dict(id2label=3), dict(id2label=["a"])),
  ],
  ids=repr,
)
def test_a_config_json_of_other_types_is_a_sentence(tmp_path, changes):
  theirs().save_pretrained(tmp_path)
  path = tmp_path / "config.json"
  path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
  with pytest.raises(UserError, match=r"config.json has ") as caught:
    read_metadata(tmp_path)
  assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


TWICE = b'{"model_type": "vit", "hidden_act": "gelu", "hidden_act": "silu"}'
NESTED = b'{"model_type": "vit", "x": ' + b'{"x": ' * 100_000 + b"1" + b"}" * 100_001
NO_OBJECTS = [b"[]", b"null", b"5", b'"vit"', b"true", b"NaN", b'[{"model_type": "vit"}]']
NO_JSON = [b"", b"\0" * 99, b"\xff", b"[" * 100_000, NESTED, TWICE, b'{"a": 1' + b"0" * 9999 + b"}"]


@pytest.mark.parametrize("content", [*NO_JSON, *NO_OBJECTS], ids=lambda x: f"{x[:20]}")
def test_a_config_json_that_is_no_json_is_a_sentence(tmp_path, content):
  theirs().save_pretrained(tmp_path)
  (tmp_path / "config.json").write_bytes(content)
  with pytest.raises(UserError, match=r"config.json cannot be read .*; fetch or copy it again"):
    read_metadata(tmp_path)


def test_class_names_are_in_the_order_of_their_numbers(tmp_path):
  """As text, "10" would come before "2"."""
  names = [f"class {chr(97 + index)}" for index in range(13)]
  by_text = dict(sorted((str(index), name) for index, name in enumerate(names)))
  assert [*by_text.values()] != names
  model = theirs(id2label=dict(enumerate(names)), num_labels=13)
  model.save_pretrained(tmp_path)
  path = tmp_path / "config.json"
  for id2label in (by_text, dict(reversed(by_text.items()))):
    path.write_text(json.dumps({**json.loads(path.read_text()), "id2label": id2label}))
    assert read_metadata(tmp_path)["class_names"] == names
  _, variables = from_pretrained(NAME, tmp_path, classes=["class c", "class k"], **FIELDS)
  bias = safetensors.torch.load_file(tmp_path / "model.safetensors")["classifier.bias"].numpy()
  np.testing.assert_array_equal(variables["params"]["head"]["bias"], bias[[2, 10]])


@pytest.mark.parametrize("id2label", [None, {}, {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}])
def test_no_class_names_are_none(id2label, tmp_path):
  theirs().save_pretrained(tmp_path)
  path = tmp_path / "config.json"
  path.write_text(json.dumps({**json.loads(path.read_text()), "id2label": id2label}))
  assert "class_names" not in read_metadata(tmp_path)


@pytest.mark.parametrize("table", [["a"], "a", {"a": 1}, {"a": None}])
def test_an_index_of_other_types_is_a_sentence(tmp_path, table):
  (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))
  with pytest.raises(UserError, match=r"index.json is damaged: its weight_map names no files"):
    read_metadata(tmp_path)
