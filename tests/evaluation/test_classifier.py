# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A checkpoint of another project brings its class names, its resolution and its preprocessing."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

from vit_jax import preprocessing_for
from vit_jax.checkpoints import convert
from vit_jax.errors import UserError
from vit_jax.evaluation import classifier
from vit_jax.models import registry

NAMES = ["crème brûlée", "寿司", "pie"]
FIELDS = dict(hidden_size=16, num_layers=1, mlp_dim=16, num_heads=2)


@pytest.fixture
def tiny_vit(monkeypatch):
  """A registry entry that is small enough to test with."""
  entry = registry.MODELS["ViT-B_16"]
  small = dataclasses.replace(entry, config={**entry.config, **FIELDS})
  monkeypatch.setattr(registry, "MODELS", {**registry.MODELS, "ViT-B_16": small})


def test_a_hugging_face_folder_predicts_as_transformers_does(tmp_path, tiny_vit):
  torch.manual_seed(0)
  config = ViTConfig(
    hidden_size=16, num_hidden_layers=1, intermediate_size=16, num_attention_heads=2,
    image_size=64, id2label=dict(enumerate(NAMES)),
  )  # fmt: skip
  theirs = ViTForImageClassification(config).eval()
  theirs.save_pretrained(tmp_path)
  mean = [0.485, 0.456, 0.406]
  processor = ViTImageProcessorPil(size={"height": 64, "width": 64}, resample=3, image_mean=mean)
  processor.save_pretrained(tmp_path)
  photo = Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 70, 3), np.uint8))
  photo.save(tmp_path / "photo.png")

  subject = classifier.from_checkpoint("ViT-B_16", str(tmp_path))
  assert subject.class_names == tuple(NAMES) and subject.named
  assert subject.preprocessing.size == (64, 64) and subject.preprocessing.mean == tuple(mean)
  [found] = classifier.predict(subject, [tmp_path / "photo.png"], top=3)
  with torch.no_grad():
    pixels = processor(photo, return_tensors="pt")["pixel_values"]
    expected = theirs(pixels).logits.softmax(-1)[0].numpy()
  order = np.argsort(-expected)
  assert found.classes == tuple(NAMES[k] for k in order)
  np.testing.assert_allclose(found.probabilities, expected[order], rtol=1e-5)


def test_a_bare_file_is_fed_as_its_model_says(tmp_path, tiny_vit, caplog):
  caplog.set_level("INFO")
  config = ViTConfig(
    hidden_size=16, num_hidden_layers=1, intermediate_size=16, num_attention_heads=2, image_size=64
  )
  ViTForImageClassification(config).save_pretrained(tmp_path)
  content = json.loads((tmp_path / "config.json").read_text())
  assert "image_mean" not in content
  subject = classifier.from_checkpoint("ViT-B_16", str(tmp_path))
  assert not subject.named and subject.class_names == ("class 0", "class 1")
  assert subject.preprocessing.size == (64, 64) and subject.preprocessing.mean == (0.5, 0.5, 0.5)
  assert "Images are prepared as for ViT-B_16" in caplog.text


TOLD = {"image_processor_type": "ViTImageProcessor", "size": {"height": 64, "width": 64}}
LIES = {
  "another processor": {"image_processor_type": "LevitImageProcessor"},
  "no processor": {"size": 64},
  "another filter": {**TOLD, "resample": 1},
  "padding": {**TOLD, "do_pad": True},
  "text for numbers": {**TOLD, "image_mean": "a"},
  "a number as text": {**TOLD, "image_mean": "0.5"},
  "two channels": {**TOLD, "image_mean": [0.5, 0.5]},
  "null": {**TOLD, "image_mean": None},
  "a null among numbers": {**TOLD, "image_std": [0.5, None, 0.5]},
  "NaN": {**TOLD, "image_mean": [0.5, 0.5, float("nan")]},
  "infinite": {**TOLD, "image_std": float("inf")},
  "std 0": {**TOLD, "image_std": [0.5, 0, 0.5]},
  "true for a number": {**TOLD, "image_std": [True, True, True]},
  "a number for true": {**TOLD, "do_normalize": 1},
  "a negative size": {**TOLD, "size": {"height": -64, "width": 64}},
  "true for a size": {**TOLD, "size": True},
  "a size beyond reason": {**TOLD, "size": 10**9},
  "half a pixel": {**TOLD, "size": {"height": 64.5, "width": 64}},
  "a factor of 0": {**TOLD, "rescale_factor": 0},
  "a number too large": {**TOLD, "rescale_factor": 10**400},
}
DAMAGED = ["", "[]", "null", "5", '{"size": ', '{"a": 1, "a": 2}', "[" * 100_000]
TIMM_LIES = {
  "another crop": {"crop_mode": "border"},
  "a mean of text": {"mean": "abc"},
  "an empty mean": {"mean": []},
  "std 0": {"std": [0.5, 0.5, 0]},
  "no share": {"crop_pct": 0},
  "a share beyond reason": {"crop_pct": 1e-300},
  "true for a share": {"crop_pct": True},
  "four channels": {"input_size": [4, 64, 64]},
  "no height": {"input_size": [3, 64]},
}


@pytest.fixture
def bare(tmp_path, tiny_vit):
  """A folder that holds a model of transformers and no preprocessing."""
  config = ViTConfig(
    hidden_size=16, num_hidden_layers=1, intermediate_size=16, num_attention_heads=2, image_size=64
  )
  ViTForImageClassification(config).save_pretrained(tmp_path)
  return tmp_path


def refused(path, name="preprocessor_config.json"):
  """Classifying and converting refuse the same, in one sentence about the file."""
  for work in (
    lambda: classifier.from_checkpoint("ViT-B_16", str(path)),
    lambda: convert.convert(path, path.parent / "out.npz", "ViT-B_16"),
  ):
    with pytest.raises(UserError, match=name) as caught:
      work()
    assert "\n" not in str(caught.value)
  assert not (path.parent / "out.npz").exists()


@pytest.mark.parametrize("case", LIES)
def test_a_preprocessing_that_cannot_be_followed_is_not_replaced(case, bare):
  """By the registry's mean and std, which would give other numbers without a word."""
  (bare / "preprocessor_config.json").write_text(json.dumps(TOLD))
  assert classifier.settings_for("ViT-B_16", bare, None).size == (64, 64)
  (bare / "preprocessor_config.json").write_text(json.dumps(LIES[case]))
  refused(bare)


@pytest.mark.parametrize("content", DAMAGED, ids=lambda text: text[:9])
def test_a_damaged_preprocessing_is_not_replaced(content, bare):
  (bare / "preprocessor_config.json").write_text(content)
  refused(bare)


@pytest.mark.parametrize("case", TIMM_LIES)
def test_timms_preprocessing_that_cannot_be_followed_is_not_replaced(case, tmp_path, bare):
  config = {"architecture": "x", "pretrained_cfg": TIMM_LIES[case]}
  (bare / "config.json").write_text(json.dumps(config))
  with pytest.raises(UserError, match=r"config.json asks for a preprocessing that we don't have"):
    classifier.settings_for("ViT-B_16", bare, None)


def test_where_nothing_is_told_the_registrys_is_written(bare, caplog):
  caplog.set_level("INFO")
  convert.convert(bare, bare / "out.npz", "ViT-B_16")
  assert f"The registry's preprocessing is written: {bare} does not tell its own." in caplog.text
  assert preprocessing_for(bare / "out.npz").settings.mean == (0.5, 0.5, 0.5)
  with pytest.raises(UserError, match="does not tell how its images are prepared; put the"):
    preprocessing_for(bare)


def test_without_a_head_there_is_nothing_to_classify(tmp_path, tiny_vit):
  config = ViTConfig(
    hidden_size=16, num_hidden_layers=1, intermediate_size=16, num_attention_heads=2, image_size=64
  )
  ViTForImageClassification(config).vit.save_pretrained(tmp_path)
  with pytest.raises(UserError, match="has no classification head"):
    classifier.from_checkpoint("ViT-B_16", str(tmp_path))


def test_folders_are_searched_and_what_is_no_image_is_told(tmp_path, caplog):
  with pytest.raises(UserError) as error:
    classifier.find_images([str(tmp_path)])
  assert str(error.value) == f"the folder {tmp_path} holds no images; pass a folder with images."
  for name in ("a.heic", "b.HEIC", "notes.txt", "README"):
    (tmp_path / name).write_text("no image")
  with pytest.raises(UserError) as error:
    classifier.find_images([str(tmp_path)])
  told = "2 .heic, 1 without suffix, 1 .txt"
  assert str(error.value) == (
    f"the folder {tmp_path} holds no images that can be read, only files of other kinds ({told}); "
    "pass a folder with images."
  )
  photo = Image.fromarray(np.zeros((8, 8, 3), np.uint8))
  for name in ("c.tif", "d.gif", "e.jfif"):
    photo.save(tmp_path / name)
  assert not caplog.records
  found = classifier.find_images([str(tmp_path)])
  assert [path.name for path in found] == ["c.tif", "d.gif", "e.jfif"]
  [record] = caplog.records
  assert record.getMessage() == f"{tmp_path}: left out {told} (not images that can be read)"
