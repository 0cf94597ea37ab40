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
