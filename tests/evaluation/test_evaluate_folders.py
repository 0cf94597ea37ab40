# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What `evaluate` judges a run on: its own folder, folders of others, parts of its classes."""

import dataclasses
import json
import os
import shutil

import jax
import numpy as np
import pytest
import tiny_folder

from vit_jax.cli import app
from vit_jax.data import datasets
from vit_jax.errors import UserError
from vit_jax.evaluation import classifier


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """A run of four steps on `small`, three classes of 20 images, started from beside the folder."""
  folder = tmp_path_factory.mktemp("run")
  tiny_folder.write(folder / "small", {"ant": 20, "bee": 20, "cat": 20})
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(folder)
    tiny_folder.train(folder / "run", "small")
  return folder


@pytest.fixture(scope="module")
def judge(run):
  return classifier.from_run(run / "run")


def test_the_runs_data_set_is_found_from_everywhere(run, judge, tmp_path, monkeypatch):
  """It was named "small", relative to a directory that is not this one."""
  expected = classifier.evaluate_split(judge)
  assert expected["examples"] == 6
  monkeypatch.chdir(tmp_path)
  assert classifier.evaluate_split(judge) == expected
  monkeypatch.chdir(run)
  monkeypatch.setenv("HOME", str(run))
  for spelling in ("small", "small/", "./small", "~/small", str(run / "small")):
    assert classifier.evaluate_split(judge, dataset=spelling) == expected, spelling
  examples = classifier.find_examples(judge)
  assert examples.split == "test"


def test_workdirs_may_begin_with_a_tilde(run, monkeypatch, capsys):
  monkeypatch.setenv("HOME", str(run))
  assert app.main(["evaluate", "--workdir=~/run", "--json"]) == 0
  assert json.loads(capsys.readouterr().out)["test"]["examples"] == 6


def test_another_folder_without_splits_is_judged_as_a_whole(run, judge, tmp_path, capsys):
  other = tiny_folder.write(tmp_path / "other", {"ant": 4, "bee": 5, "cat": 6}, seed=9)
  examples = classifier.find_examples(judge, dataset=str(other))
  assert (examples.split, len(examples.source)) == ("all", 15)
  assert len(classifier.find_examples(judge, "test", dataset=str(other)).source) == 3
  assert app.main(["evaluate", f"--workdir={run}/run", f"--dataset={other}"]) == 0
  assert capsys.readouterr().out.startswith("all: accuracy ")
  with_splits = {f"{split}/{name}": 3 for split in ("train", "val") for name in ("ant", "bee")}
  other = tiny_folder.write(tmp_path / "splits", with_splits, seed=9)
  assert classifier.find_examples(judge, dataset=str(other)).split == "val"
  shutil.rmtree(other / "val")
  with pytest.raises(UserError, match=r"neither test nor val; name .* has train\.$"):
    classifier.find_examples(judge, dataset=str(other))


def test_what_the_run_has_learned_is_not_judged_elsewhere(run, judge, tmp_path):
  learned = classifier.find_examples(judge, "train").source
  other = tiny_folder.write(tmp_path / "other", {"ant": 30, "bee": 30, "cat": 30}, seed=9)
  for k in range(3):
    shutil.copy(run / "small" / learned.name(k), other / learned.name(k))
  found = classifier.find_examples(judge, dataset=str(other)).source
  names = {found.name(k) for k in range(len(found))}
  assert len(names) == 87 and not names & {learned.name(k) for k in range(3)}
  copy = shutil.copytree(run / "small", tmp_path / "copy")  # All of them: it is the run's own.
  found = classifier.find_examples(judge, dataset=str(copy))
  assert (found.split, len(found.source)) == ("test", 6)


def test_the_runs_own_train_is_not_judged_under_another_name(run, judge, tmp_path, caplog):
  splits = {f"train/{name}": 12 for name in ("ant", "bee")} | {"test/ant": 4, "test/bee": 4}
  root = tiny_folder.write(tmp_path / "photos", splits)
  tiny_folder.train(tmp_path / "run", str(root))
  own = classifier.from_run(tmp_path / "run")
  found = classifier.find_examples(own, dataset=str(root / "train")).source
  assert {found.name(k) for k in range(len(found))} <= {  # Only what the run had as val.
    f.removeprefix("train/") for f in source_names(classifier.find_examples(own, "val").source)
  }
  links = tmp_path / "links"
  for file in sorted((root / "train").rglob("*.png")):
    (links / file.parent.name).mkdir(parents=True, exist_ok=True)
    (links / file.parent.name / f"x{file.name}").symlink_to(file)
  assert len(classifier.find_examples(own, dataset=str(links)).source) == len(found)
  larger = tiny_folder.write(tmp_path / "larger", splits, seed=3)  # Same names, other sizes.
  assert len(classifier.find_examples(own, "train", dataset=str(larger)).source) > 0
  assert "have the names of images that the run has learned from" in caplog.text


def source_names(source):
  return [source.name(k) for k in range(len(source))]


def test_every_spelling_of_a_split_is_the_runs(run, judge):
  for spelling in ("validation", "VAL", "dev"):
    found = classifier.find_examples(judge, spelling)
    assert source_names(found.source) == source_names(classifier.find_examples(judge, "val").source)
  both = source_names(classifier.find_examples(judge, "val+test").source)
  assert len(both) == 12


def test_a_part_of_the_classes_is_judged_among_themselves(run, judge, tmp_path):
  """As ImageNet-A and -R are: only the logits of their classes compete."""
  other = tiny_folder.write(tmp_path / "other", {"cat": 8, "ant": 8}, seed=9)
  found = classifier.evaluate_split(judge, dataset=str(other))
  source = classifier.find_examples(judge, dataset=str(other)).source
  spec = judge.preprocessing
  from vit_jax.data import transforms

  prepare = transforms.eval_transform(spec)
  images = np.stack([prepare(source[k])["image"] for k in range(len(source))])
  logits = judge.model.apply(
    judge.variables, transforms.normalize(images, spec.mean, spec.std), train=False
  )
  kept = np.asarray(logits)[:, [0, 2]]  # ant and cat of ant, bee, cat.
  labels = np.array([source[k]["label"] for k in range(len(source))])
  assert found["accuracy"] == (kept.argmax(1) == labels).mean()
  log_p = jax.nn.log_softmax(kept)[np.arange(len(labels)), labels]
  assert found["loss"] == pytest.approx(-float(log_p.mean()), rel=1e-5)


def test_classes_in_another_order_are_the_same_classes(judge):
  turned = dataclasses.replace(judge, class_names=("bee", "cat", "ant"))
  assert classifier.class_indices(turned, ("ant", "bee", "cat"), "x") == (2, 0, 1)
  assert classifier.class_indices(judge, ("ant", "bee", "cat"), "x") is None
  with pytest.raises(UserError, match="1 classes that the model does not know, such as 'dog'"):
    classifier.class_indices(judge, ("ant", "dog"), "x")
  numbered = dataclasses.replace(judge, named=False)
  with pytest.raises(UserError, match="has 2 classes, but the model has 3"):
    classifier.class_indices(numbered, ("ant", "bee"), "x")
  twice = dataclasses.replace(judge, class_names=("ant", "ant", "bee"))
  with pytest.raises(UserError, match="several classes called 'ant'"):
    classifier.class_indices(twice, ("ant",), "x")


def test_a_run_finds_the_tfds_data_that_it_was_trained_on(tmp_path, capsys):
  import tiny_tfds

  data_dir = tmp_path / "tfds"
  data_dir.mkdir()
  tiny_tfds.prepare(data_dir)
  splits = dict(train="train", val="", test="validation")
  tiny_folder.train(tmp_path / "run", "tiny_shapes", tfds_data_dir=str(data_dir), **splits)
  assert app.main(["evaluate", f"--workdir={tmp_path}/run", "--json"]) == 0
  expected = len(datasets.open_dataset("tiny_shapes", data_dir=data_dir).source("validation"))
  assert json.loads(capsys.readouterr().out)["test"]["examples"] == expected


def test_a_run_that_evaluates_nothing_says_so_before_it_starts(tmp_path, caplog):
  caplog.set_level("INFO")
  tiny_folder.write(tmp_path / "small", {"train/ant": 8, "train/bee": 8})
  tiny_folder.train(tmp_path / "run", str(tmp_path / "small"))
  lines = caplog.messages
  nothing = next(k for k, line in enumerate(lines) if line.startswith("nothing will be evaluated"))
  assert "neither val nor test" in lines[nothing]
  summary = next(line for line in lines if line.startswith("images: "))
  assert summary.startswith("images: 16 train, 0 val, 0 test; 2 classes; ViT-Ti_16 with ")
  assert "4 steps of 8 images, 2.0 epochs" in summary
  assert not os.path.exists(tmp_path / "run" / "nothing")
