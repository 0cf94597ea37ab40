# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Runs whose folder changes meanwhile, from outside."""

import json
import math
import shutil

import pytest
import tiny_folder

from vit_jax.errors import UserError
from vit_jax.evaluation import classifier
from vit_jax.workdir import data_record, run_info


def split_names(workdir):
  """The files of each split, by what evaluation looks at."""
  judge = classifier.from_run(workdir)
  found = {s: classifier.find_examples(judge, s).source for s in ("train", "val", "test")}
  return {s: {source.name(k) for k in range(len(source))} for s, source in found.items()}


def test_other_images_to_train_on_have_to_be_agreed_to(tmp_path):
  root = tiny_folder.write(tmp_path / "photos", {"ant": 30, "bee": 30})
  run = lambda steps, **options: tiny_folder.train(
    tmp_path / "run", str(root), total_steps=steps, decay_type="constant", **options
  )
  run(4)
  before = split_names(tmp_path / "run")
  gone = sorted(before["train"])[0]
  (root / gone).unlink()
  assert run(4)["steps"] == 4  # It is finished, and asks for nothing.
  with pytest.raises(UserError, match=r"was started with \(1 gone\); add --resume=changed-data"):
    run(8)
  assert run(8, resume="changed-data")["steps"] == 8
  assert run(12)["steps"] == 12  # Now that is what it has been started with.
  after = split_names(tmp_path / "run")
  assert after == {**before, "train": before["train"] - {gone}}
  # Where only what is judged has changed, the same command goes on.
  (root / sorted(before["test"])[0]).unlink()
  assert run(16)["test"]["examples"] == len(before["test"]) - 1


def test_epochs_are_those_of_the_start(tmp_path):
  root = tiny_folder.write(tmp_path / "photos", {"ant": 30, "bee": 30})
  run = lambda epochs: tiny_folder.train(
    tmp_path / "run", str(root), total_steps=None, epochs=epochs, resume="changed-data"
  )
  assert run(1)["steps"] == 6  # 48 images in batches of 8.
  for file in sorted(split_names(tmp_path / "run")["train"])[:20]:
    (root / file).unlink()
  assert run(1)["steps"] == 6  # And so it is finished.
  with pytest.raises(UserError, match=r"another config: total_steps \(6 -> 12\)"):
    run(2)


def test_a_run_without_a_record_goes_on_and_gets_one(tmp_path, caplog):
  root = tiny_folder.write(tmp_path / "photos", {"ant": 30, "bee": 30})
  run = lambda steps: tiny_folder.train(
    tmp_path / "run", str(root), total_steps=steps, decay_type="constant"
  )
  run(4)
  path = tmp_path / "run" / "config.json"
  old = json.loads(path.read_text())
  del old["data"]
  path.write_text(json.dumps(old))
  (tmp_path / "run" / "data.npz").unlink()
  by_old_rule = split_names(tmp_path / "run")
  assert "the run has no record of its splits" in caplog.text
  run(8)
  info = run_info.read_run(tmp_path / "run")
  assert info.data["rule"] == 1 and data_record.read(tmp_path / "run", info.data).paths
  assert split_names(tmp_path / "run") == by_old_rule


def test_a_finished_run_is_judged_on_another_test_split(tmp_path):
  root = tiny_folder.write(tmp_path / "photos", {"ant": 30, "bee": 30})
  run = lambda **splits: tiny_folder.train(tmp_path / "run", str(root), **splits)
  first = run()
  again = run(test="test[:50%]")
  assert first["test"]["examples"] == 6 and again["test"]["examples"] == 3
  assert again["best_step"] == first["best_step"] and again["val"] == first["val"]
  assert "test" not in run(test="")


@pytest.mark.slow
def test_pure_noise_is_judged_at_chance_whatever_becomes_of_the_folder(tmp_path):
  """Five classes of noise: images can only be known by heart. It was 80% before the record."""
  root, workdir = tmp_path / "noise", tmp_path / "run"
  tiny_folder.write(root, {f"class{k}": 200 for k in range(5)})
  settings = dict(
    total_steps=400,
    warmup_steps=20,
    batch=64,
    batch_eval=128,
    eval_every=200,
    checkpoint_every=50,
    progress_every=100,
    base_lr=2e-3,
    max_bad_fraction=0.002,
  )
  model = dict(hidden_size=64, mlp_dim=128, num_layers=2, dropout_rate=0.0)
  config = tiny_folder.config(str(root), **settings)
  config["model"] |= model
  config["pp"] |= dict(flip=False)

  def run(resume=True):
    return tiny_folder.train_and_evaluate(config, workdir, resume=resume)

  # Three images are damaged while the run learns; it stops, they are removed, it goes on.
  files = sorted(root.rglob("*.png"))
  with (
    tiny_folder.at_step(210, lambda: [f.write_bytes(b"") for f in files[::100]]),
    pytest.raises(UserError, match=r"cannot be read.*--resume=changed-data"),
  ):
    run()
  for file in files[::100]:
    file.unlink()
  with pytest.raises(UserError, match="--resume=changed-data"):
    run()
  results = run("changed-data")
  learned = classifier.evaluate_split(classifier.from_run(workdir, "last"), "train")
  assert learned["accuracy"] > 0.9  # Known by heart.

  def at_chance(found):
    error = math.sqrt(0.2 * 0.8 / found["examples"])
    return abs(found["accuracy"] - 0.2) < 3 * error

  assert at_chance(results["test"]) and at_chance(results["val"])
  # Two more photos: 13% became 60%.
  for k, name in ((0, "class0"), (1, "class3")):
    shutil.copy(files[k + 1], root / name / f"new{k}.png")
  for split in ("val", "test"):
    assert at_chance(classifier.evaluate_split(classifier.from_run(workdir, "last"), split))
