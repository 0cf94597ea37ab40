# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A work directory is a checkpoint: the best one of its run, with the run's own model fields."""

import shutil

import numpy as np
import pytest
from compiled import apply
from tiny_model import assert_equal, flatten

from vit_jax.checkpoints.preprocessing import preprocessing_for
from vit_jax.checkpoints.pretrained import from_pretrained
from vit_jax.checkpoints.reading import read_metadata
from vit_jax.checkpoints.saving import save_checkpoint
from vit_jax.configs import quickstart
from vit_jax.evaluation import classifier
from vit_jax.training.loop import train_and_evaluate
from vit_jax.workdir.run_info import load_run


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("runs") / "digits"
  config = quickstart.get_config()
  config.model.num_layers = 2
  for key in ("total_steps", "eval_every", "checkpoint_every"):
    config[key] = 4
  config.warmup_steps = 1
  config.progress_every = 2
  train_and_evaluate(config, workdir)
  return workdir


def test_a_run_loads_as_it_was_trained(workdir, caplog):
  caplog.set_level("INFO")
  expected, variables, _ = load_run(workdir)
  model, loaded = from_pretrained("R+ViT-Ti_16", workdir)
  assert_equal(loaded, variables)
  images = np.random.default_rng(0).normal(size=(2, 32, 32, 1)).astype(np.float32)
  np.testing.assert_array_equal(
    apply(model, loaded, images), apply(expected, variables, images, train=False)
  )
  assert any(m.startswith("Fields of the run in") and "patch_size=2" in m for m in caplog.messages)
  assert read_metadata(workdir)["class_names"] == [str(digit) for digit in range(10)]


def test_a_run_can_be_fine_tuned_at_another_size(workdir):
  model, loaded = from_pretrained("R+ViT-Ti_16", workdir, num_classes=3, image_size=(32, 48))
  assert flatten(loaded)["head/kernel"].shape == (64, 3)
  assert apply(model, loaded, np.zeros((1, 32, 48, 1), np.float32)).shape == (1, 3)


def test_a_run_is_exported_and_read_back(workdir, tmp_path):
  model, variables, info = load_run(workdir)
  metadata = {"class_names": list(info.class_names), "image_size": list(info.image_size)}
  save_checkpoint(tmp_path / "digits.npz", model, variables, metadata=metadata)
  fields = {key: value for key, value in info.model_fields.items() if key != "num_classes"}
  again, loaded = from_pretrained("R+ViT-Ti_16", tmp_path / "digits.npz", **fields)
  assert_equal(loaded, variables)
  assert again == model


@pytest.mark.parametrize("content", [None, b"", b"[]"])
def test_a_run_without_its_config_json_is_read_everywhere(workdir, tmp_path, content):
  copy = shutil.copytree(workdir, tmp_path / "run")
  expected, preprocessing = load_run(workdir), preprocessing_for(workdir)
  (copy / "config.json").unlink()
  if content is not None:
    (copy / "config.json").write_bytes(content)
  before = sorted(copy.rglob("*"))
  assert preprocessing_for(copy).settings == preprocessing.settings
  assert read_metadata(copy)["class_names"] == [str(digit) for digit in range(10)]
  assert classifier.from_run(copy).class_names == expected[2].class_names
  _, loaded = from_pretrained("R+ViT-Ti_16", copy)
  assert_equal(loaded, expected[1])
  assert sorted(copy.rglob("*")) == before
