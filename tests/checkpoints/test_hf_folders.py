# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Hugging Face folders of DeiT, Swin and PoolFormer: transformers opens what we write, strictly."""

import json

import jax
import numpy as np
import pytest
import safetensors.numpy
import torch
import transformers
from sklearn.datasets import load_sample_image
from tiny_model import FIELDS, assert_equal, images
from transformers import PoolFormerConfig, PoolFormerForImageClassification, SwinConfig

from vit_jax import preprocessing_for
from vit_jax.checkpoints import counterpart
from vit_jax.checkpoints.preprocessing import to_metadata
from vit_jax.checkpoints.pretrained import from_pretrained
from vit_jax.checkpoints.reading import NUMERICS, read_metadata
from vit_jax.checkpoints.saving import save_checkpoint
from vit_jax.cli.app import main
from vit_jax.errors import UserError
from vit_jax.models.registry import create_model

NAMES = ["cat", "dog", "eel"]
VIT = {**FIELDS, "num_layers": 2}
SWIN = dict(embed_dim=8, depths=(2, 1), head_dim=4, window_size=2)
POOL = dict(depths=(1, 1), widths=(8, 16))
OTHER = {"activation": "gelu_tanh"}  # Than the registry has for them.
# Model, its fields, the size of images, the class of transformers.
CASES = {
  "DeiT": (
    "DeiT-Ti_16-distilled",
    {**VIT, **OTHER, "layer_norm_eps": 1e-2},
    (32, 64),
    "DeiTForImageClassificationWithTeacher",
  ),
  "Swin": ("Swin-T", {**SWIN, **OTHER}, (32, 48), "SwinForImageClassification"),
  # Maps of 4 windows, and of one.
  "Swin V2": (
    "SwinV2-T-w8",
    {**SWIN, "window_size": 4, "trained_windows": (6, 3)},
    (32, 32),
    "Swinv2ForImageClassification",
  ),
  "PoolFormer": (
    "PoolFormer-S12",
    {**POOL, **OTHER, "mlp_ratio": 2.5},
    (33, 40),
    "PoolFormerForImageClassification",
  ),
}
every_case = pytest.mark.parametrize("case", CASES)


def noisy(name, fields, size, num_classes=3):
  """Returns (model, variables) with noise everywhere, of sizes that let everything be seen."""
  model = create_model(name, num_classes=num_classes, **fields)
  rng = np.random.default_rng(0)

  def leaf(path, x):
    kind = path[-1].key
    deviation = 2 * np.prod(x.shape[:-1]) ** -0.5 if kind == "kernel" else 0.2
    noise = rng.normal("scale" in kind, deviation, x.shape)
    return noise.astype(np.float32)

  shapes = jax.eval_shape(model.init, jax.random.key(0), images(*size))
  return model, jax.tree_util.tree_map_with_path(leaf, shapes)


def opened(folder, **arguments):
  """transformers' model of a folder, in its own class; every name must be known and there."""
  (architecture,) = json.loads((folder / "config.json").read_text())["architectures"]
  kind = getattr(transformers, architecture)
  model, told = kind.from_pretrained(folder, output_loading_info=True, **arguments)
  assert not any(told.values()), told
  return model.eval()


def error(ours, theirs):
  ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
  return np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)


def run(model, variables, pixels):
  # Compiled once and run once: the time is the compiler's.
  options = {"xla_backend_optimization_level": 0}
  return jax.jit(model.apply, compiler_options=options)(variables, pixels)


def answer(theirs, pixels):
  with torch.no_grad():
    return theirs(torch.from_numpy(pixels).permute(0, 3, 1, 2))


@every_case
def test_transformers_opens_what_we_write(case, tmp_path):
  name, fields, size, kind = CASES[case]
  model, variables = noisy(name, fields, size)
  metadata = {"image_size": [*size], "class_names": NAMES}
  save_checkpoint(tmp_path / "ours", model, variables, metadata=metadata)
  theirs = opened(tmp_path / "ours")
  assert type(theirs).__name__ == kind
  assert theirs.config.id2label == dict(enumerate(NAMES))

  pixels = images(*size)
  expected = answer(theirs, pixels).logits
  assert error(run(model, variables, pixels), expected) < 1e-5
  # What config.json says decides: the tolerance sees what it could say otherwise.
  changes = [{"activation": "gelu" if model.activation == "gelu_tanh" else "gelu_tanh"}]
  changes += [{"trained_windows": ()}] * bool(fields.get("trained_windows"))
  changes += [{"layer_norm_eps": 1e-6}] * (fields.get("layer_norm_eps") == 1e-2)
  for change in changes:
    assert error(run(model.clone(**change), variables, pixels), expected) > 5e-5, change

  loaded, restored = from_pretrained(name, tmp_path / "ours", **fields)
  assert loaded == model
  assert_equal(restored, variables)
  # And from the files that transformers makes of them, without our metadata.
  theirs.save_pretrained(tmp_path / "theirs")
  again, restored = from_pretrained(name, tmp_path / "theirs", **without_numerics(fields))
  assert again == model
  assert_equal(restored, variables)
  assert read_metadata(tmp_path / "theirs")["class_names"] == NAMES


def without_numerics(fields):
  return {key: value for key, value in fields.items() if key not in NUMERICS}


@every_case
def test_without_a_head(case, tmp_path):
  name, fields, size, _ = CASES[case]
  model, variables = noisy(name, fields, size, num_classes=0)
  save_checkpoint(tmp_path, model, variables, metadata={"image_size": [*size]})
  expected = counterpart.run(tmp_path, model, images(*size))  # Also refuses names that differ.
  assert error(run(model, variables, images(*size)), expected) < 1e-5
  loaded, restored = from_pretrained(name, tmp_path, **without_numerics(fields))
  assert loaded == model
  assert_equal(restored, variables)


def test_both_heads_apart(tmp_path):
  name, fields, size, _ = CASES["DeiT"]
  model, variables = noisy(name, {**fields, "average_heads": False}, size)
  save_checkpoint(tmp_path, model, variables, metadata={"image_size": [*size]})
  theirs = counterpart.run(tmp_path, model, images(*size))
  ours = run(model, variables, images(*size))
  assert ours.shape == theirs.shape == (2, 2, 3)
  assert error(ours, theirs) < 1e-5
  assert error(ours[:, ::-1], theirs) > 0.1


@pytest.mark.parametrize("case", ["DeiT", "PoolFormer"])
def test_convert_to_a_folder_is_verified(case, tmp_path, capsys):
  name, fields, size, _ = CASES[case]
  model, variables = noisy(name, fields, size)
  save_checkpoint(tmp_path / "x.npz", model, variables, metadata={"image_size": [*size]})
  options = [f"--model={name}", *(f"--model.{key}={value}" for key, value in fields.items())]
  folder = tmp_path / "folder"
  assert main(["convert", str(tmp_path / "x.npz"), str(folder), *options, "--verify"]) == 0
  (figure,) = capsys.readouterr().out.split("relative error against PyTorch: ")[1:]
  assert float(figure.split()[0]) < 1e-5
  state = safetensors.numpy.load_file(folder / "model.safetensors")
  state["extra"] = np.zeros(1, np.float32)
  safetensors.numpy.save_file(state, folder / "model.safetensors", {"format": "pt"})
  with pytest.raises(UserError, match=r"does not take all of .*unexpected_keys.*extra"):
    counterpart.run(folder, model, images(*size))


@pytest.mark.parametrize(
  "case, size, crop",
  [("DeiT", 256, 224), ("Swin", 284, 256), ("PoolFormer", 248, 224)],
)
def test_the_image_processor_prepares_as_we_do(case, size, crop, tmp_path):
  name, fields, pixels, _ = CASES[case]
  settings = preprocessing_for(name, image_size=crop)
  model, variables = noisy(name, fields, pixels)
  metadata = {"image_size": [*pixels], "input": to_metadata(settings.settings)}
  save_checkpoint(tmp_path, model, variables, metadata=metadata)
  assert preprocessing_for(tmp_path) == settings
  said = json.loads((tmp_path / "preprocessor_config.json").read_text())
  assert (said["size"], said["crop_size"]["height"]) == ({"shortest_edge": size}, crop)
  assert (said["image_mean"], said["resample"]) == ([0.485, 0.456, 0.406], 3)
  photo = load_sample_image("china.jpg")[:400, :400]
  theirs = transformers.CLIPImageProcessorPil.from_pretrained(tmp_path)
  expected = theirs(photo, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
  assert np.abs(settings(photo) - expected).max() < 0.05  # Of about 4.5: three grey levels.


def refused(tmp_path, case, size=None, **changes):
  """The message, which is there before any parameter is looked at."""
  name, fields, usual, _ = CASES.get(case, ("DeiT3-S_16", VIT, (32, 32), None))
  model = create_model(name, **{**fields, **changes})
  metadata = {"image_size": [*(size or usual)]}
  with pytest.raises(UserError) as caught:
    save_checkpoint(tmp_path / "out", model, {"params": {}}, metadata=metadata)
  assert not (tmp_path / "out").exists()
  message = str(caught.value)
  assert message.endswith(".") and ". " not in message and "\n" not in message
  return message


@pytest.mark.parametrize(
  "case, changes, message",
  [
    ("DeiT-III", {}, "transformers' ViT has no layer_scale_init=1e-06, only None; save an .npz"),
    ("DeiT", {"layer_scale_init": 0.1}, "transformers' DeiT has no layer_scale_init=0.1"),
    ("DeiT", {"position_embedding": "none"}, "position_embedding='none', only 'learned_1d'"),
    (
      "Swin",
      {"layer_norm_eps": 1e-6},
      "transformers' Swin has no layer_norm_eps=1e-06, only 1e-05",
    ),
    ("Swin V2", {"layer_norm_eps": 1e-6}, "transformers' Swin V2 has no layer_norm_eps=1e-06"),
    ("PoolFormer", {"final_norm": "after_pooling"}, "final_norm='after_pooling', only 'before_poo"),
    ("PoolFormer", {"token_mixer": "identity"}, "PoolFormer has no token_mixer='identity', only"),
    ("PoolFormer", {"token_mixer": ("pooling", "attention")}, "token_mixer=('pooling', 'attention"),
    ("PoolFormer", {"group_norm_eps": 1e-6}, "group_norm_eps=1e-06, only 1e-05; save an .npz file"),
    ("PoolFormer", {"mlp_ratio": 1.99}, "rounds down the widths of mlp_ratio=1.99"),
  ],
)
def test_what_transformers_does_not_do_is_refused(case, changes, message, tmp_path):
  assert message in refused(tmp_path, case, **changes)


@pytest.mark.parametrize(
  "case, size",
  [
    ("Swin", (40, 40)),  # Maps of 10 and 5 tokens: 5 is no whole windows of 2.
    ("Swin", (8, 8)),  # Its last map is smaller than a window.
    ("Swin", (16, 32)),  # Its last map is one window high, and two wide.
    ("Swin V2", (40, 40)),
    ("Swin V2", (16, 32)),
  ],
)
def test_sizes_that_transformers_windows_otherwise_are_refused(case, size, tmp_path):
  message = refused(tmp_path, case, size)
  assert f"divides images of {size[0]}x{size[1]} into other windows than" in message


def test_token_mixers_that_are_all_pooling_are_pooling(tmp_path):
  name, fields, size, _ = CASES["PoolFormer"]
  model, variables = noisy(name, {**fields, "token_mixer": ("pooling", "pooling")}, size)
  save_checkpoint(tmp_path, model, variables)
  expected = answer(opened(tmp_path), images(*size)).logits
  assert error(run(model, variables, images(*size)), expected) < 1e-5


def test_a_size_is_taken_from_the_preprocessing_where_no_positions_tell_it(tmp_path):
  name, fields, size, _ = CASES["PoolFormer"]
  save_checkpoint(tmp_path, *noisy(name, fields, size))
  assert read_metadata(tmp_path)["image_size"] == [224, 224]
  assert json.loads((tmp_path / "preprocessor_config.json").read_text())["size"] == {
    "height": 224,
    "width": 224,
  }


def test_folders_that_ours_are_not_are_refused(tmp_path):
  kinds = {
    "pool_size=5; only 3": PoolFormerForImageClassification(
      PoolFormerConfig(depths=[1, 1], hidden_sizes=[8, 8], num_encoder_blocks=2, pool_size=5)
    ),
    "strides=[4, 1, 2, 2]; only [4, 2, 2, 2]": PoolFormerForImageClassification(
      PoolFormerConfig(depths=[1] * 4, hidden_sizes=[8] * 4, strides=[4, 1, 2, 2])
    ),
    "layer_norm_eps=1e-06; only 1e-05": transformers.SwinForImageClassification(
      SwinConfig(embed_dim=8, depths=[1], num_heads=[1], layer_norm_eps=1e-6)
    ),
  }
  for index, (message, theirs) in enumerate(kinds.items()):
    theirs.save_pretrained(tmp_path / str(index))
    with pytest.raises(UserError) as caught:
      from_pretrained("Swin-T" if "norm" in message else "PoolFormer-S12", tmp_path / str(index))
    assert message in str(caught.value)


def test_other_attention_heads_are_refused(tmp_path):
  """Weights of the same shapes, which would give other numbers."""
  name, fields, size, _ = CASES["DeiT"]
  model, variables = noisy(name, fields, size)
  save_checkpoint(tmp_path / "ours", model, variables, metadata={"image_size": [*size]})
  opened(tmp_path / "ours").save_pretrained(tmp_path / "theirs")
  with pytest.raises(
    UserError, match=r"is a model of num_heads=2, .* and not of 4; pass num_heads=2"
  ):
    from_pretrained(name, tmp_path / "theirs", **{**fields, "num_heads": 4})
