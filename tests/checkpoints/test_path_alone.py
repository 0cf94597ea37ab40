# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Every family is written and opened by path alone, in every format that can hold it."""

import functools
import pathlib

import jax
import numpy as np
import pytest
from tiny_model import assert_equal

import vit_jax
from vit_jax.checkpoints import convert, preprocessing, reading
from vit_jax.checkpoints.npz import read_npz, write_npz
from vit_jax.data import transforms
from vit_jax.errors import UserError
from vit_jax.models import registry
from vit_jax.models.lit import example_inputs

VIT = dict(hidden_size=32, num_layers=2, mlp_dim=48, num_heads=2)
TEXTS = dict(hidden_size=16, num_layers=1, mlp_dim=32, num_heads=2, num_classes=8, vocab_size=30)
MIXER = dict(hidden_dim=32, num_blocks=2, tokens_mlp_dim=16, channels_mlp_dim=32)
SWIN = dict(embed_dim=16, depths=(2, 2), head_dim=8, window_size=4)
MOBILE = dict(stem_width=16, widths=(16, 16, 24, 24, 32))
# Name, fields that are no row's of the registry, the size of the images, and the formats.
CASES = [
  ("ViT-B_16", VIT, (96, 128), "npz timm hf"),
  ("ViT-B_16", {**VIT, "layer_scale_init": 0.1, "scan_layers": True}, (48, 32), "npz timm"),
  ("ViT-S_16-gap-norep", {**VIT, "representation_size": 8, "channels": 1}, (144, 256), "npz"),
  ("ViT-L_32", {**VIT, "classifier": "map", "dtype": "bfloat16"}, (64, 64), "npz timm"),
  ("ViT-B_16", {**VIT, "position_embedding": "sincos_2d", "activation": "silu"}, (32, 64), "npz"),
  ("R26+ViT-S_32", {**VIT, "stem_blocks": (1, 1), "stem_width": 32}, (64, 32), "npz timm"),
  ("DeiT-Ti_16", {**VIT, "layer_norm_eps": 1e-5, "channels": 1}, (32, 48), "npz timm hf"),
  ("DeiT3-S_16", {**VIT, "patch_size": (8, 16)}, (32, 64), "npz timm"),
  ("DeiT-S_16-distilled", VIT, (32, 112), "npz timm hf"),
  ("Mixer-B_16", MIXER, (144, 256), "npz timm"),
  ("BiT-R50x1", dict(num_units=(1, 1), num_groups=16), (36, 52), "npz timm"),
  ("Swin-T", SWIN, (64, 128), "npz timm hf"),
  ("SwinV2-T-w8", {**SWIN, "trained_windows": (4, 2)}, (128, 64), "npz timm hf"),
  ("PoolFormer-S12", dict(depths=(1, 1, 1, 1), widths=(8, 8, 16, 16)), (64, 96), "npz timm hf"),
  ("MobileViT-XXS", MOBILE, (64, 96), "npz timm"),
  ("MobileViTV2-0.5", dict(MOBILE, num_layers=(1, 1, 1)), (64, 64), "npz timm"),
  ("LiT-B16B_2", dict(img={**VIT, "num_classes": 8}, txt=TEXTS), (48, 64), "npz"),
]
NAMES = ["eel", "owl", "crème brûlée"]


def noisy(name, fields, size):
  """A model and its variables, with noise on every leaf that keeps variances positive."""
  fields = dict(fields)
  channels = fields.pop("channels", 3)
  if not registry.get_entry(name).text:
    fields = {"num_classes": len(NAMES), **fields}
  model = vit_jax.create_model(name, **fields)
  inputs = example_inputs(model, np.zeros((1, *size, channels), np.float32))
  shapes = jax.eval_shape(lambda key: model.init(key, *inputs), jax.random.key(0))
  rng = np.random.default_rng(0)
  noise = lambda leaf: np.abs(rng.normal(0, 0.3, leaf.shape)).astype(np.float32) + 0.01
  return model, jax.tree.map(noise, shapes), inputs


@functools.partial(jax.jit, static_argnums=0)
def forward(model, variables, inputs):
  return model.apply(variables, *inputs, train=False)


def own_input(name, size, channels):
  """How images are prepared, unlike any row of the registry where the format can hold it."""
  spec = registry.get_entry(name).input
  settings = preprocessing.of_spec(spec, size)
  if channels == 1:
    return dict(mean=(0.4,), std=(0.3,), channels=1, crop=size, eval_resize="squash")
  own = {} if "MobileViT" in name else dict(mean=(0.1, 0.2, 0.3), std=(0.9, 0.8, 0.7))
  return {**preprocessing.to_metadata(settings), **own, "antialias": True}


@pytest.mark.parametrize(
  "name, fields, size, formats", CASES, ids=[f"{i}-{case[0]}" for i, case in enumerate(CASES)]
)
def test_a_file_of_ours_is_opened_by_its_path_alone(name, fields, size, formats, tmp_path):
  model, variables, inputs = noisy(name, fields, size)
  images = np.random.default_rng(1).uniform(-1, 1, inputs[0].shape).astype(np.float32)
  inputs = (images, *inputs[1:])
  expected = jax.device_get(forward(model, variables, inputs))
  settings = own_input(name, size, images.shape[-1])
  metadata = {"input": settings}
  if not registry.get_entry(name).text:
    metadata["class_names"] = NAMES
  for format in formats.split():
    if format == "hf":  # Its processors always filter.
      assert settings.get("antialias", True)
    path = tmp_path / {"npz": "x.npz", "timm": "x.safetensors", "hf": "x"}[format]
    vit_jax.save_checkpoint(path, model, variables, metadata=metadata, image_size=size)
    again, restored = vit_jax.from_pretrained(path)
    assert registry.fields_of(again) == registry.fields_of(model)
    assert_equal(restored, variables)
    for ours, theirs in zip(
      jax.tree.leaves(forward(again, restored, inputs)), jax.tree.leaves(expected), strict=True
    ):
      np.testing.assert_array_equal(ours, theirs)
    wanted = transforms.Preprocessing(train=None, **settings)
    assert vit_jax.preprocessing_for(path).settings == wanted
    assert vit_jax.class_names(path) == (tuple(NAMES) if "class_names" in metadata else None)

    other = path.with_name(f"again{path.suffix}")
    convert.convert(path, other)
    assert reading.read_metadata(other) == reading.read_metadata(path)
    assert_equal(vit_jax.from_pretrained(other)[1], variables)


@pytest.mark.parametrize("file", ["vit.npz", "vit.safetensors", "folder"])
def test_files_of_version_1_are_still_read(file):
  """Written by `vit_jax` before metadata named the model of other sizes than the registry's."""
  path = pathlib.Path(__file__).parent / "written_by_version_1" / file
  fields = dict(patch_size=4, hidden_size=8, num_layers=1, mlp_dim=8, num_heads=2)
  model, variables = vit_jax.from_pretrained("ViT-Ti_16", path, **fields)
  assert model.num_classes == 3 and model.activation == "gelu_tanh"
  rng = np.random.default_rng(0)
  written = jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), variables)
  assert_equal(variables, written)
  assert vit_jax.class_names(path) == ("a", "b", "c")
  with pytest.raises(UserError, match=r"(vit|folder).* does not tell which model it is of"):
    vit_jax.from_pretrained(path)


def rewritten(path, **changes):
  arrays, metadata = read_npz(path)
  write_npz(path, arrays, {**metadata, **changes})
  return path


def saved(folder, **metadata):
  model, variables, _ = noisy("ViT-B_16", {**VIT, "num_heads": 4}, (32, 32))
  vit_jax.save_checkpoint(folder / "x.npz", model, variables, metadata=metadata)
  return folder / "x.npz"


def test_a_name_beside_a_path_follows_what_the_shapes_do_not_tell(tmp_path):
  fields = {**VIT, "num_heads": 4, "position_embedding": "sincos_2d"}
  model, variables, (images,) = noisy("ViT-B_16", fields, (32, 32))
  vit_jax.save_checkpoint(
    tmp_path / "x.safetensors", *noisy("ViT-B_16", {**VIT, "num_heads": 4}, (32, 32))[:2]
  )
  vit_jax.save_checkpoint(tmp_path / "x.npz", model, variables)
  for name in (None, "ViT-B_16"):
    for file in ("x.npz", "x.safetensors"):
      arguments = [tmp_path / file] if name is None else [name, tmp_path / file]
      assert vit_jax.from_pretrained(*arguments)[0].num_heads == 4
    again, restored = vit_jax.from_pretrained(
      *([tmp_path / "x.npz"] if name is None else [name, tmp_path / "x.npz"])
    )
    assert again == model
    np.testing.assert_array_equal(
      forward(again, restored, (images,)), forward(model, variables, (images,))
    )
  # Of another model with the same module: what it has unlike its own row holds there too.
  again, _ = vit_jax.from_pretrained("ViT-S_32", tmp_path / "x.npz", patch_size=16)
  assert again.position_embedding == "sincos_2d"


def test_metadata_that_lies_is_told(tmp_path):
  for changes, sentence in (
    (
      {"model": "ViT-Q_16"},
      r"says that it is of the model 'ViT-Q_16', which is not known.*did you",
    ),
    ({"model": 7}, "its metadata has model='7'"),
    ({"version": 3}, "was written by a later version of vit_jax; update this one"),
    ({"config": [1]}, r"its metadata has config='\[1\]'"),
    ({"config": {"hidden_size": "a"}}, r"is damaged \(hidden_size='a'\)"),
    ({"config": {"num_layers": True}}, r"is damaged \(num_layers=True\)"),
    ({"config": {"dtype": "int8"}}, r"is damaged \(dtype='int8'\)"),
    ({"config": {"colour": 1}}, r"is damaged \(it has colour\)"),
    ({"config": {"patch_size": 0}}, "pass positive numbers"),
    ({"config": {"num_heads": 7}}, "is not a multiple of num_heads=7"),
    ({"config": {"classifier": "tok"}}, "classifier='tok' is not known"),
    ({"activation": "gelv"}, "activation='gelv' is not known"),
    ({"image_size": [32, "a"]}, "its metadata has image_size="),
    ({"class_names": ["a"]}, "names 1 classes, but its head has 3"),
    ({"class_names": [1, 2, 3]}, "class_names"),
    ({"class_names": {"a": 1}}, "class_names"),
    ({"layer_norm_eps": "small"}, "metadata has layer_norm_eps='small'"),
    ({"activation": 3}, "metadata has activation='3'"),
  ):
    path = rewritten(saved(tmp_path), **changes)
    with pytest.raises(UserError, match=sentence) as caught:
      vit_jax.from_pretrained(path)
    assert str(path) in str(caught.value)


def test_class_names_are_as_many_as_the_classes(tmp_path):
  with pytest.raises(UserError, match="2 class names do not go with a head of 3 classes"):
    saved(tmp_path, class_names=["a", "b"])
  path = saved(tmp_path, class_names=NAMES)
  with pytest.raises(UserError, match="3 class names do not go with a head of 5 classes"):
    convert.convert(path, tmp_path / "folder", num_classes=5)
  assert not (tmp_path / "folder").exists()
  convert.convert(path, tmp_path / "features.npz", num_classes=0)
  assert vit_jax.class_names(tmp_path / "features.npz") is None


def test_what_is_neither_a_model_nor_a_file_is_told(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for source, sentence in (
    ("runs/x", "runs/x is neither a file or folder nor a model"),
    ("z.npz", "z.npz is neither a file or folder nor a model"),
    (tmp_path / "w.npz", "there is no checkpoint at"),
    ("ViT-B_61", "there is no model 'ViT-B_61'; did you mean"),
    (saved(tmp_path).with_name("y.npz"), "there is no checkpoint at"),
  ):
    with pytest.raises(UserError, match=sentence):
      vit_jax.from_pretrained(source)
  assert vit_jax.class_names("ViT-B_16") is None
  with pytest.raises(UserError, match="there is no model 'ViT-B_61'"):
    vit_jax.class_names("ViT-B_61")
  (tmp_path / "ViT-B_16").mkdir()  # A model's name wins over a folder.
  assert vit_jax.class_names("ViT-B_16") is None


def test_a_released_file_is_known_by_its_name(tmp_path, caplog):
  _, metadata = read_npz(saved(tmp_path))
  arrays, _ = read_npz(saved(tmp_path))
  assert metadata["model"] == "ViT-Ti_16"
  write_npz(tmp_path / "B_16.npz", arrays)
  with pytest.raises(UserError, match=r"B_16\.npz does not tell which model it is of"):
    vit_jax.from_pretrained(tmp_path / "B_16.npz")
  write_npz(tmp_path / "ViT-B_16.npz", arrays)
  opened = vit_jax.from_pretrained(tmp_path / "ViT-B_16.npz", **{**VIT, "num_heads": 4})
  assert opened[0].hidden_size == 32


def test_metadata_of_another_file_does_not_describe_the_model(tmp_path):
  """A caller may hand on what `read_metadata` gave of a run, a folder or another model."""
  fields = {**SWIN, "window_size": 4}
  model, variables, (images,) = noisy("SwinV2-T-w8", fields, (32, 64))
  others = {
    "window_size": 8,
    "fields": {"num_heads": 8},
    "told": {"depths": [2, 6]},
    "channel_order": "rgb",
    "activation": "silu",
    "config": {},
    "version": 1,
    "digest": "0",
  }
  vit_jax.save_checkpoint(tmp_path / "x.npz", model, variables, metadata={**others, "note": "mine"})
  again, restored = vit_jax.from_pretrained(tmp_path / "x.npz")
  assert again == model and reading.read_metadata(tmp_path / "x.npz")["note"] == "mine"
  np.testing.assert_array_equal(
    forward(again, restored, (images,)), forward(model, variables, (images,))
  )
  for wrong, sentence in (
    ([1], r"metadata=\[1\] is no mapping"),
    ({"class_names": "abc"}, "metadata has class_names='abc'"),
    ({"input": [1]}, "metadata has input="),
    ({"x": np.arange(3)}, "metadata must be values of JSON"),
  ):
    with pytest.raises(UserError, match=sentence):
      vit_jax.save_checkpoint(tmp_path / "y.npz", model, variables, metadata=wrong)
  assert not (tmp_path / "y.npz").exists()


@pytest.mark.parametrize("wrong", [None, 5, b"ViT-B_16"])
def test_what_is_no_name_and_no_path_is_told(wrong):
  with pytest.raises(UserError, match=r"neither a model"):
    vit_jax.from_pretrained(wrong)
