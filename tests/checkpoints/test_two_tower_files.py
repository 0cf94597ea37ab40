# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""LiT's files: ours back bit by bit, those of others in every layout, towers of files of their own.

That the released names mean what they say is proved against torch in tests/parity/test_lit.py.
"""

import json
import math

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.torch
import torch
from compiled import apply
from tiny_model import assert_equal, flatten
from transformers import BertConfig, BertModel

from vit_jax.checkpoints import convert
from vit_jax.checkpoints.lit import load_towers
from vit_jax.checkpoints.npz import METADATA
from vit_jax.checkpoints.pretrained import from_pretrained
from vit_jax.checkpoints.reading import read_metadata
from vit_jax.checkpoints.saving import describe, save_checkpoint
from vit_jax.errors import UserError
from vit_jax.models.registry import create_model, list_models
from vit_jax.params.tree import stack_layers

NAME = "LiT-B16B_2"
SMALL = dict(num_layers=2, hidden_size=16, num_heads=2, mlp_dim=32)
IMAGE = dict(SMALL, patch_size=4)
VIT = dict(IMAGE, name="ViT-Ti_16")
TEXT = dict(SMALL, name="Text-Ti", num_classes=16, vocab_size=40, max_len=6)
BERT = dict(TEXT, name="Bert-B", max_positions=9)
TEXTS = {"Text": TEXT, "Bert": BERT}
SIDES = {"img": {"img": {"scan_layers": True}}, "txt": {"txt": {"scan_layers": True}}}
SIDES["both"] = SIDES["img"] | SIDES["txt"]
ATTENTION = "BertEncoder_0/encoder_block/layer_sequence/layers_0/attention_block/attention_layer"


def images(size=8):
  return np.random.default_rng(7).normal(size=(3, size, size, 3)).astype(np.float32)


def tokens():
  return np.random.default_rng(8).integers(1, 40, (4, 6), np.int32)


def noisy(model, *inputs):
  shapes = jax.eval_shape(model.init, jax.random.key(0), *inputs)
  rng = np.random.default_rng(0)
  return jax.tree.map(lambda x: rng.normal(0, 0.3, x.shape).astype(np.float32), shapes)


def lit(txt=TEXT, img=VIT, **fields):
  """Returns (model, variables) with normal noise everywhere."""
  model = create_model(NAME, img=img, txt=txt, **fields)
  return model, noisy(model, images(), tokens())


def arrays_of(file):
  with np.load(file) as archive:
    return {name: archive[name] for name in archive.files if name != METADATA}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
  """Of each text tower: the file, its variables, and its arrays."""
  folder, found = tmp_path_factory.mktemp("lit"), {}
  for kind, txt in TEXTS.items():
    model, variables = lit(txt)
    save_checkpoint(folder / f"{kind}.npz", model, variables)
    found[kind] = folder / f"{kind}.npz", variables, arrays_of(folder / f"{kind}.npz")
  return found


def refused(path, **arguments):
  """The message of the UserError, which must be one sentence on one line."""
  with pytest.raises(UserError) as caught:
    from_pretrained(NAME, path, **arguments)
  message = str(caught.value)
  assert "\n" not in message and message.endswith(".") and ". " not in message
  return message


def write(path, flat):
  np.savez(path, **flat)
  return path


@pytest.mark.parametrize("fields", [{}, {"bias_init": -10.0, "temperature_init": 2.0}])
@pytest.mark.parametrize("kind", TEXTS)
def test_an_npz_comes_back_bit_by_bit(kind, fields, tmp_path):
  model, variables = lit(TEXTS[kind], **fields)
  save_checkpoint(tmp_path / "a.npz", model, variables, image_size=8)
  again, restored = from_pretrained(NAME, tmp_path / "a.npz")
  assert again == model
  assert_equal(restored, variables)
  save_checkpoint(tmp_path / "b.npz", again, restored, image_size=8)
  assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
  assert read_metadata(tmp_path / "a.npz")["image_size"] == [8, 8]


@pytest.mark.parametrize("side", SIDES)
def test_layers_are_stacked_in_memory_and_apart_in_the_file(side, files, tmp_path):
  file, variables, arrays = files["Text"]
  plain, _ = lit()
  model, stacked = from_pretrained(NAME, file, **SIDES[side])
  shapes = {path: x.shape for path, x in flatten(stacked).items() if "LayerNorm_1/scale" in path}
  expected = {}
  for tower, block in (("img", "Transformer"), ("txt", "Encoder_0")):
    if tower in SIDES[side]:
      expected[f"{tower}/{block}/encoderblock/LayerNorm_1/scale"] = (2, 16)
    else:
      for layer in range(2):
        expected[f"{tower}/{block}/encoderblock_{layer}/LayerNorm_1/scale"] = (16,)
  assert shapes == expected
  for ours, theirs in zip(
    apply(model, stacked, images(), tokens())[:2],
    apply(plain, variables, images(), tokens())[:2],
    strict=True,
  ):
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)

  save_checkpoint(tmp_path / "x.npz", model, stacked)
  written = arrays_of(tmp_path / "x.npz")
  assert written.keys() == arrays.keys()
  assert all(np.array_equal(written[name], arrays[name]) for name in arrays)
  same, restacked = from_pretrained(NAME, tmp_path / "x.npz")
  assert same == model
  assert_equal(restacked, stacked)
  apart = {tower: {"scan_layers": False} for tower in SIDES[side]}
  assert_equal(from_pretrained(NAME, tmp_path / "x.npz", **apart)[1], variables)


def heads_apart(flat):
  shapes = {"query": (16, 2, 8), "key": (16, 2, 8), "value": (16, 2, 8), "dense_layer": (2, 8, 16)}

  def split(path, x):
    if "/attention_block/" not in path or "layer_norm" in path:
      return x
    module, leaf = path.split("/")[-2:]
    if leaf == "kernel":
      return x.reshape(shapes[module])
    return x if module == "dense_layer" else x.reshape(2, 8)

  return {path: split(path, x) for path, x in flat.items()}


def renumbered(start, table):
  def convert(flat):
    result = {}
    for path, x in flat.items():
      for old, new in table.items() if path.startswith(start) else ():
        path = path.replace(old, new)
      result[path] = x
    return result

  return convert


NEW_TO_OLD = {
  "MultiHeadDotProductAttention_0": "MultiHeadDotProductAttention_1",
  "LayerNorm_1": "LayerNorm_2",
  "MlpBlock_0": "MlpBlock_3",
}
OLD_TO_NEW = {old: new for new, old in NEW_TO_OLD.items()}
SAME_TREE = {
  "opt/target/": lambda flat: {
    **{f"opt/target/{path}": x for path, x in flat.items()},
    "opt/state/step": np.int64(7),
    "extra/rng": np.zeros(2, np.uint32),
  },
  "params/": lambda flat: {f"params/{path}": x for path, x in flat.items()},
  "BERT's heads apart": heads_apart,
  "texts in the old numbering": renumbered("txt/Encoder_0/encoderblock", NEW_TO_OLD),
  "images in the new numbering": renumbered("img/Transformer/encoderblock", OLD_TO_NEW),
  "scanned": stack_layers,
  "a scalar temperature": lambda flat: {**flat, "t": flat["t"][0]},
  "double precision": lambda flat: {path: x.astype(np.float64) for path, x in flat.items()},
}


@pytest.mark.parametrize("layout", SAME_TREE)
@pytest.mark.parametrize("kind", TEXTS)
def test_every_layout_is_read_as_the_same_tree(kind, layout, files, tmp_path):
  _, variables, arrays = files[kind]
  changed = SAME_TREE[layout](arrays)
  file = write(tmp_path / "x.npz", changed)
  model, restored = from_pretrained(NAME, file, img=VIT, txt=TEXTS[kind])
  assert model == lit(TEXTS[kind])[0]
  assert_equal(restored, variables)


def test_our_own_files_have_the_released_layout(files):
  """Joined heads, and of blocks the old numbers for images and the new ones for texts."""
  arrays = files["Text"][2]
  assert "txt/Encoder_0/encoderblock_1/LayerNorm_1/bias" in arrays
  assert "img/Transformer/encoderblock_1/LayerNorm_2/bias" in arrays
  arrays = files["Bert"][2]
  assert arrays[f"txt/{ATTENTION}/query/kernel"].shape == (16, 16)
  assert arrays[f"txt/{ATTENTION}/query/bias"].shape == (16,)


@pytest.mark.parametrize("kind", TEXTS)
def test_bfloat16_becomes_float32(kind, files, tmp_path):
  _, variables, arrays = files[kind]
  file = write(tmp_path / "x.npz", {p: x.astype(ml_dtypes.bfloat16) for p, x in arrays.items()})
  assert np.load(file)["t"].dtype == np.dtype("V2")  # What NumPy makes of it.
  _, restored = from_pretrained(NAME, file, img=VIT, txt=TEXTS[kind])
  rounded = lambda x: x.astype(ml_dtypes.bfloat16).astype(np.float32)
  assert_equal(restored, jax.tree.map(rounded, variables))


def test_a_second_position_embedding_is_added(files, tmp_path):
  _, variables, arrays = files["Text"]
  second = np.random.default_rng(1).normal(size=(1, 6, 16)).astype(np.float32)
  file = write(tmp_path / "x.npz", {**arrays, "txt/Encoder_0/pos_embedding": second})
  restored = flatten(from_pretrained(NAME, file, img=VIT, txt=TEXT)[1])
  expected = flatten(variables)
  expected["txt/pos_embedding"] = expected["txt/pos_embedding"] + second
  assert restored.keys() == expected.keys()
  assert all(np.array_equal(restored[path], expected[path]) for path in expected)

  file = write(tmp_path / "y.npz", {**arrays, "txt/Encoder_0/pos_embedding": second[:, 1:]})
  assert "1 extra: Encoder_0/pos_embedding (1, 5, 16)" in refused(file, img=VIT, txt=TEXT)


def test_a_bias_that_the_file_lacks_begins_where_it_is_told(files):
  path, variables, _ = files["Text"]
  model, restored = from_pretrained(NAME, path, bias_init=-10.0)
  assert model.bias_init == -10.0 and restored["params"]["b"] == np.float32(-10)
  np.testing.assert_array_equal(restored["params"]["t"], variables["params"]["t"])


def test_a_bias_in_the_file_is_one_in_the_model(files, tmp_path):
  file = write(tmp_path / "x.npz", {**files["Text"][2], "b": np.array([-9.5], np.float32)})
  model, restored = from_pretrained(NAME, file, img=VIT, txt=TEXT)
  np.testing.assert_array_equal(restored["params"]["b"], [-9.5])
  np.testing.assert_array_equal(model.apply(restored)[2]["b"], [-9.5])


def test_another_resolution_resizes_the_positions_of_images_alone(files):
  file, variables, _ = files["Bert"]
  before = flatten(variables)
  path = "img/Transformer/posembed_input/pos_embedding"
  size = dict(image_size=16)
  model, resized = from_pretrained(NAME, file, **size)
  after = flatten(resized)
  grid = np.asarray(after[path][0, 1:]).reshape(4, 4, 16)
  old = before[path][0, 1:].reshape(2, 2, 16)
  np.testing.assert_array_equal(after[path][:, 0], before[path][:, 0])
  np.testing.assert_allclose(grid[::3, ::3], old, rtol=1e-5, atol=1e-6)  # Corners stay.
  np.testing.assert_allclose(grid[0, 1], (2 * old[0, 0] + old[0, 1]) / 3, rtol=1e-5, atol=1e-6)
  assert all(np.array_equal(after[p], before[p]) for p in before if p != path)
  assert apply(model, resized, images(16))[0].shape == (3, 16)

  other = flatten(from_pretrained(NAME, file, position_resize="bicubic_antialias", **size)[1])
  assert other[path].shape == after[path].shape
  assert np.abs(other[path] - after[path]).max() > 1e-2


def test_an_oblong_grid_comes_back_and_is_resized_by_its_metadata(tmp_path):
  model = lit()[0]
  variables = noisy(model, images()[:, :, [*range(8)] * 3], tokens())
  file = tmp_path / "x.npz"
  save_checkpoint(file, model, variables, metadata={"image_size": [8, 24]})
  assert_equal(from_pretrained(NAME, file)[1], variables)
  resized = from_pretrained(NAME, file, image_size=(16, 16))[1]["params"]["img"]["Transformer"]
  assert resized["posembed_input"]["pos_embedding"].shape == (1, 17, 16)
  save_checkpoint(file, model, variables)
  assert "which is not a square grid; pass the image_size" in refused(file, image_size=(16, 16))


def test_the_image_tower_loads_alone(files):
  file, variables, _ = files["Bert"]
  model, restored = from_pretrained("ViT-Ti_16", file, **IMAGE)
  assert_equal(restored, {"params": variables["params"]["img"]})
  both = lit(BERT)[0].apply(variables, images())[0]
  alone = apply(model, restored, images())
  alone /= np.linalg.norm(alone, axis=1, keepdims=True)
  np.testing.assert_allclose(alone, both, rtol=1e-5, atol=1e-6)


def test_the_image_tower_alone_keeps_its_numerics(tmp_path):
  numerics = dict(activation="gelu", layer_norm_eps=1e-12)
  save_checkpoint(tmp_path / "x.npz", *lit(img={**VIT, **numerics}, txt=BERT))
  model, _ = from_pretrained("ViT-Ti_16", tmp_path / "x.npz", **IMAGE)
  assert {key: getattr(model, key) for key in numerics} == numerics


@pytest.mark.parametrize("name", list_models("LiT-*"))
def test_files_say_which_model_they_are_of(name):
  assert describe(create_model(name, img={"dropout_rate": 0.1}))["model"] == name


# Towers from files of their own.


@pytest.fixture(scope="module")
def image_file(tmp_path_factory):
  """A ViT with a head of five classes, as npz; and its variables."""
  file = tmp_path_factory.mktemp("img") / "vit.npz"
  model = create_model("ViT-Ti_16", num_classes=5, **IMAGE)
  variables = noisy(model, images())
  save_checkpoint(file, model, variables)
  return file, variables


def towers(files, txt=TEXT, img=VIT, seed=0):
  fields = {"img": img, "txt": txt}
  return load_towers(NAME, {k: str(v) for k, v in files.items()}, fields, images()[:1], seed)


def test_a_tower_without_a_file_is_initialised_from_the_seed(image_file, caplog):
  caplog.set_level("INFO")
  file, image = image_file
  model, first = towers({"img": file})
  assert model == lit()[0]
  assert caplog.messages[-1] == (
    "Initialised, since no file holds them: t, txt/Embed_0, txt/Encoder_0, txt/head, "
    "txt/pos_embedding."
  )
  image = {k: x for k, x in image["params"].items() if k != "head"}
  assert_equal({"params": first["params"]["img"]}, {"params": image})
  np.testing.assert_allclose(first["params"]["t"], [math.log(10)], rtol=1e-6)
  assert_equal(towers({"img": file})[1], first)

  other = flatten(towers({"img": file}, seed=1)[1])
  for path, x in flatten(first).items():
    drawn = path.startswith("txt/") and np.std(x) > 0
    assert np.array_equal(other[path], x) != drawn, path
  assert {path for path, x in flatten(first).items() if path.startswith("txt/") and x.std() > 0} > {
    "txt/head/kernel",
    "txt/pos_embedding",
    "txt/Embed_0/embedding",
    "txt/Encoder_0/encoderblock_1/MlpBlock_0/Dense_0/kernel",
  }


def test_an_image_head_of_a_new_lit_is_not_the_files_and_not_zero(image_file):
  model, variables = towers({"img": image_file[0]}, img={**VIT, "num_classes": 16})
  head = variables["params"]["img"]["head"]
  assert head["kernel"].shape == (16, 16) and np.all(np.std(head["kernel"], axis=0) > 0.1)
  zimg = apply(model, variables, images())[0]
  np.testing.assert_allclose(np.linalg.norm(zimg, axis=1), 1, rtol=1e-6)


def test_an_image_tower_is_loaded_for_the_size_and_channels_of_the_images(image_file):
  file, before = image_file
  grey = images(16)[..., :1]
  model, variables = load_towers(NAME, {"img": str(file)}, {"img": VIT, "txt": TEXT}, grey[:1])
  image = variables["params"]["img"]
  assert image["Transformer"]["posembed_input"]["pos_embedding"].shape == (1, 17, 16)
  summed = before["params"]["embedding"]["kernel"].sum(axis=2, keepdims=True)
  np.testing.assert_array_equal(image["embedding"]["kernel"], summed)
  assert apply(model, variables, grey)[0].shape == (3, 16)


@pytest.fixture(scope="module")
def bert():
  """transformers' BERT, with noise on every leaf."""
  torch.manual_seed(0)
  config = BertConfig(
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=32,
    vocab_size=40,
    max_position_embeddings=9,
    hidden_act="gelu",
  )
  model = BertModel(config).eval()
  with torch.no_grad():
    for parameter in model.parameters():
      parameter.add_(0.3 * torch.randn_like(parameter))
  return model


def first_token(model):
  """What torch gives for [CLS], of texts of which two are padded."""
  padded = tokens()
  padded[1, 4:] = padded[2, 1:] = 0
  ids = torch.from_numpy(padded).long()
  with torch.no_grad():
    states = model(ids, attention_mask=(ids != 0).long()).last_hidden_state
  return padded, states[:, 0].numpy()


def renamed(state):
  """As old files of whole pretraining models name it, with what they have beside."""
  names = {".LayerNorm.weight": ".LayerNorm.gamma", ".LayerNorm.bias": ".LayerNorm.beta"}
  result = {
    "cls.predictions.bias": torch.ones(40),
    "cls.predictions.transform.LayerNorm.gamma": torch.ones(16),
    "cls.seq_relationship.weight": torch.ones(2, 16),
    "bert.embeddings.position_ids": torch.arange(9)[None],
  }
  for name, tensor in state.items():
    for new, old in names.items():
      name = name.replace(new, old)
    result[f"bert.{name}"] = tensor
  assert "bert.pooler.dense.weight" in result
  assert "bert.encoder.layer.1.output.LayerNorm.gamma" in result
  return result


@pytest.mark.parametrize("layout", ["folder", "plain", "old .safetensors", "old .bin"])
def test_bert_of_transformers_gives_the_same_under_all_its_names(
  layout, bert, image_file, tmp_path
):
  file = tmp_path / "x.safetensors"
  if layout == "folder":
    bert.save_pretrained(file := tmp_path / "folder")
  elif layout == "plain":
    safetensors.torch.save_file(bert.state_dict(), file)
  elif layout == "old .safetensors":
    safetensors.torch.save_file(renamed(bert.state_dict()), file)
  else:
    torch.save(renamed(bert.state_dict()), file := tmp_path / "x.bin")
  model, variables = towers({"img": image_file[0], "txt": file}, BERT)
  assert (model.txt.activation, model.txt.layer_norm_eps) == ("gelu", 1e-12)
  assert np.std(variables["params"]["txt"]["head"]["kernel"]) > 0.1
  encoder = {k: x for k, x in variables["params"]["txt"].items() if k != "head"}
  padded, expected = first_token(bert)
  ours = apply(model.txt.clone(num_classes=0), {"params": encoder}, padded)
  assert np.linalg.norm(ours - expected) < 1e-5 * np.linalg.norm(expected)


def test_a_config_beside_bert_decides_its_numerics_and_an_argument_even_more(
  bert, image_file, tmp_path
):
  files = {"img": image_file[0], "txt": tmp_path}
  bert.save_pretrained(tmp_path)
  config = json.loads((tmp_path / "config.json").read_text())
  config |= {"hidden_act": "gelu_new", "layer_norm_eps": 1e-5}
  (tmp_path / "config.json").write_text(json.dumps(config))
  model, _ = towers(files, BERT)
  assert (model.txt.activation, model.txt.layer_norm_eps) == ("gelu_tanh", 1e-5)
  model, _ = towers(files, {**BERT, "activation": "gelu"})
  assert (model.txt.activation, model.txt.layer_norm_eps) == ("gelu", 1e-5)


def test_a_text_tower_with_googles_names_keeps_googles_numerics(files, image_file, tmp_path):
  _, variables, arrays = files["Bert"]
  txt = {
    path.removeprefix("txt/"): x
    for path, x in arrays.items()
    if path.startswith("txt/") and "/head/" not in path
  }
  txt_file = write(tmp_path / "x.npz", txt)
  model, restored = towers({"img": image_file[0], "txt": txt_file}, BERT)
  assert model == lit(BERT)[0]
  expected = {k: x for k, x in variables["params"]["txt"].items() if k != "head"}
  found = {k: x for k, x in restored["params"]["txt"].items() if k != "head"}
  assert_equal({"params": found}, {"params": expected})


def test_a_file_of_another_bert_is_refused_with_all_that_differs(bert, tmp_path):
  state = {**bert.state_dict(), "encoder.layer.0.adapter.weight": torch.ones(3)}
  safetensors.torch.save_file(state, tmp_path / "x.safetensors")
  with pytest.raises(UserError) as caught:
    towers({"txt": tmp_path / "x.safetensors"}, {**BERT, "num_layers": 3, "vocab_size": 41})
  message = str(caught.value)
  assert "does not fit BertTower: 16 missing: encoderblock_2/LayerNorm_0/bias, " in message
  assert "; 1 extra: encoder.layer.0.adapter.weight (3,); " in message
  assert message.endswith(
    "1 of another shape: token_embedding/embedding is (40, 16), expected (41, 16)."
  )
  with pytest.raises(UserError, match="img is a int, but beside a file it is a mapping"):
    towers({"txt": tmp_path / "x.safetensors"}, BERT, img=3)


# What is refused.


@pytest.mark.parametrize(
  "argument", [dict(num_classes=10), dict(num_classes=0), dict(head="fresh"), dict(classes=[0, 1])]
)
def test_a_lit_has_no_classes(argument, files):
  message = refused(files["Text"][0], **argument)
  assert "has no classes, so num_classes, head and classes don't go with it" in message


@pytest.mark.parametrize("tower", ["img", "txt"])
def test_a_file_of_one_tower_is_refused(tower, files, tmp_path):
  arrays = {k: x for k, x in files["Text"][2].items() if not k.startswith(f"{tower}/")}
  message = refused(write(tmp_path / "x.npz", arrays), img=VIT, txt=TEXT)
  assert "has no two towers (parameters under img/ and txt/), as LiT-B16B_2 needs" in message
  assert "--config.init.img=FILE" in message


def test_a_text_tower_that_does_not_fit_is_told_in_full(files):
  message = refused(files["Text"][0], txt={"num_layers": 3, "vocab_size": 41, "max_len": 7})
  assert "the text tower does not fit TextTransformer: 16 missing: Encoder_0/encoderb" in message
  assert ", Encoder_0/encoderblock_2/MlpBlock_0/Dense_1/kernel, " in message
  assert "; 2 of another shape: " in message
  assert "Embed_0/embedding is (40, 16), expected (41, 16)" in message
  assert message.endswith("pos_embedding is (1, 6, 16), expected (1, 7, 16).")

  shapes = refused(files["Bert"][0], txt={"hidden_size": 24, "num_heads": 3})
  attention = "encoderblock_{0..1}/MultiHeadDotProductAttention_0/"
  assert f"{attention}query/kernel is (16, 16), expected (24, 3, 8)" in shapes
  assert f"{attention}out/kernel is (16, 16), expected (3, 8, 24)" in shapes

  other = refused(files["Bert"][0], txt=TEXT)
  assert "does not fit TextTransformer: 36 missing: Embed_0/embedding, " in other
  assert "; 37 extra: " in other and ", token_embedding/embedding (40, 16), " in other


def test_heads_that_are_apart_in_the_file_must_be_as_many(files, tmp_path):
  name = f"txt/{ATTENTION}/key/kernel"
  for heads in (1, 4):
    arrays = dict(files["Bert"][2])
    arrays[name] = arrays[name].reshape(16, heads, -1)
    message = refused(write(tmp_path / "x.npz", arrays), img=VIT, txt=BERT)
    assert message.endswith(f"key/kernel is (16, {heads}, {16 // heads}), expected (16, 2, 8).")


def test_nothing_in_a_file_is_left_out_in_silence(files, tmp_path):
  arrays = files["Bert"][2]
  add = lambda name: write(tmp_path / "x.npz", {**arrays, name: np.ones(3, np.float32)})
  given = dict(img=VIT, txt=BERT)
  assert "1 extra: BertEncoder_0/x (3,)" in refused(add("txt/BertEncoder_0/x"), **given)
  assert "1 extra: x/kernel (3,)" in refused(add("img/x/kernel"), **given)
  assert "does not fit LiT-B16B_2: 1 extra: step (3,)" in refused(add("step"), **given)

  model, variables = lit(BERT)
  variables["params"]["txt"]["x"] = {"kernel": np.ones(3, np.float32)}
  with pytest.raises(UserError, match=r"LiT's .npz has no place for x/kernel"):
    save_checkpoint(tmp_path / "y.npz", model, variables)
  assert not (tmp_path / "y.npz").exists()


def test_a_head_that_only_the_file_or_the_model_has_is_refused(files, tmp_path):
  _, variables = lit(img={**VIT, "num_classes": 16})
  arrays = dict(files["Text"][2])
  for leaf, x in variables["params"]["img"]["head"].items():
    arrays[f"img/head/{leaf}"] = x
  file = write(tmp_path / "x.npz", arrays)
  message = refused(file, img=VIT, txt=TEXT)
  assert "the image tower embeds in 16 dimensions, but img.num_classes=0" in message
  assert message.endswith("pass img={'num_classes': 16}.")
  model, _ = from_pretrained(NAME, file, img={**VIT, "num_classes": 16}, txt=TEXT)
  assert model.img.num_classes == 16

  message = refused(files["Text"][0], img={"num_classes": 16})
  assert "the image tower has no head, but img.num_classes=16" in message


def test_wrong_fields_of_a_tower_are_told(files):
  file = files["Text"][0]
  assert refused(file, img=3).startswith("img is a int, but beside a file it is a mapping of the")
  assert refused(file, txt="Bert-B").startswith("txt is a str, but beside a file it is a mapping")
  assert refused(file, img=lit()[0].img).startswith("img is a VisionTransformer, but beside a file")
  with pytest.raises(UserError, match="no field 'num_layer'; did you mean 'num_layers'"):
    from_pretrained(NAME, file, img={"num_layer": 2})
  with pytest.raises(UserError, match="LiT-B16B_2 has no field 'image'"):
    from_pretrained(NAME, file, image={"num_layers": 2})


@pytest.mark.parametrize("name", ["x.safetensors", "folder"])
def test_other_formats_are_refused(name, tmp_path):
  with pytest.raises(UserError, match=r"neither timm nor transformers .* save an .npz file, or th"):
    save_checkpoint(tmp_path / name, *lit())
  assert not list(tmp_path.iterdir())
  with pytest.raises(UserError, match=r"is not a file that ends in \.npz"):
    save_checkpoint(tmp_path / name, *lit(), format="npz")


@pytest.mark.parametrize("kind", TEXTS)
def test_convert_keeps_parameters_and_what_is_told_about_them(kind, tmp_path):
  model, variables = lit(TEXTS[kind])
  first, again = tmp_path / "lit.npz", tmp_path / "again.npz"
  save_checkpoint(first, model, variables)
  about = {
    "class_names": ["zero, nought", "one"],
    "text": {"tokenizer": "bytes", "vocabulary": None, "max_len": 6},
    "input": {**read_metadata(first)["input"], "interpolation": "bicubic", "mean": [0.1, 0.2, 0.3]},
  }
  save_checkpoint(first, model, variables, metadata=about)
  assert convert.convert(first, again, NAME)[0] == model
  assert {key: read_metadata(again)[key] for key in about} == about
  assert first.read_bytes() == again.read_bytes()
  with pytest.raises(UserError, match="neither timm nor transformers"):
    convert.convert(first, tmp_path / "x.safetensors", NAME)


def test_numerics_of_the_towers_row_are_kept_too(tmp_path):
  # DeiT's row has another activation than the official npz stands for.
  save_checkpoint(tmp_path / "lit.npz", *lit(img={**VIT, "name": "DeiT-Ti_16"}))
  alone, _ = from_pretrained("DeiT-Ti_16", tmp_path / "lit.npz", **IMAGE)
  assert alone.activation == "gelu"
  again, _ = from_pretrained(NAME, tmp_path / "lit.npz")
  assert again.img.activation == "gelu"
