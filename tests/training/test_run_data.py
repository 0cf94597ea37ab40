# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The record of a run's splits: files come and go, and nothing that was learned from is judged."""

import dataclasses
import json
import random
import shutil

import numpy as np
import pytest
import tiny_run as tiny

from vit_jax.errors import UserError
from vit_jax.models import registry
from vit_jax.training.plan import make_plan
from vit_jax.workdir import data_record, run_data, run_info


def write(root, counts, start=0):
  for name, count in counts.items():
    (root / name).mkdir(parents=True, exist_ok=True)
    for k in range(start, start + count):
      (root / name / f"{k:04d}.jpg").write_bytes(b"x" * (k + 1))


def plan_for(root, **pp):
  splits = dict(train=None, val=None, test=None)
  return make_plan(tiny.config(dataset=str(root), pp={**splits, **pp}))


def start(workdir, root, config=None, **pp):
  """What a run does with its data when it starts or continues, without the training."""
  plan = make_plan(config) if config else plan_for(root, **pp)
  data = run_data.open_run_data(plan, workdir, run_info.read_run(workdir))
  plan = data.planned(plan)
  classes = data.dataset.class_names
  fields = {**plan.model.overrides, "num_classes": len(classes) or None}
  model = registry.create_model(plan.model.name, **fields)
  info = run_info.describe_run(plan, model, classes, 1, data.record)
  run_info.write_run(workdir, info, data.record)
  (workdir / "checkpoints" / "1").mkdir(parents=True, exist_ok=True)
  return data


def names(source):
  return {source.name(k) for k in range(len(source))}


def split_names(data):
  return {split: names(source) for split, source in data.sources.items()}


def judged(workdir, split, dataset=None):
  """What `evaluate` looks at; nothing where it refuses."""
  info = run_info.read_run(workdir)
  own, _ = run_data.find_own(workdir, info, dataset, None)
  return names(own.sources[split]) if own and split in own.sources else set()


@pytest.mark.parametrize("folders", [30, pytest.param(200, marks=pytest.mark.slow)])
def test_nothing_that_was_learned_is_judged_whatever_becomes_of_folders(tmp_path, folders):
  """Files come, go, and come back; runs continue and are evaluated in between."""
  draw = random.Random(0)
  kept = lost = 0
  for number in range(folders):
    root, workdir = tmp_path / f"{number}", tmp_path / f"run{number}"
    write(root, {name: draw.randint(3, 25) for name in "abc"[: draw.randint(2, 3)]})
    pp = draw.choice([{}, {}, {"val": "train[80%:]"}, {"train": "train[:70%]"}, {"test": ""}])
    learned = split_names(start(workdir, root, **pp))["train"]
    first = {split: judged(workdir, split) for split in ("val", "test")}
    attic = tmp_path / f"attic{number}"
    for _ in range(6):
      for _ in range(draw.randint(1, 6)):
        files = sorted(p for p in root.rglob("*.jpg"))
        if draw.random() < 0.5:
          folder = draw.choice(sorted(p for p in root.iterdir()))
          (folder / f"{draw.randint(0, 99_999):05d}.jpg").write_bytes(b"y")
        elif attic.exists() and draw.random() < 0.3:
          shutil.copytree(attic, root, dirs_exist_ok=True)
        else:
          file = draw.choice(files)
          if len(list(file.parent.iterdir())) > 3:
            (attic / file.parent.name).mkdir(parents=True, exist_ok=True)
            shutil.move(file, attic / file.parent.name / file.name)
      for split, before in first.items():
        now = judged(workdir, split)
        assert not now & learned
        there = {f for f in before if (root / f).exists()}
        assert there <= now  # A file that the record knows keeps its split.
        kept, lost = kept + len(there), lost + len(before - there)
      if draw.random() < 0.5:
        again = split_names(start(workdir, root, **pp))
        learned |= again["train"]
        assert not learned & (again.get("val", set()) | again.get("test", set()))
  assert kept > 10 * folders and lost > folders  # The test has met what it is about.


def test_what_changed_is_counted(tmp_path, caplog):
  root, workdir = tmp_path / "photos", tmp_path / "run"
  write(root, {"a": 30, "b": 30})
  before = split_names(start(workdir, root))
  assert not start(workdir, root).changes and not caplog.messages
  gone, other, replaced = sorted(before["train"])[:3]
  (root / gone).unlink()
  (root / sorted(before["test"])[0]).unlink()
  (root / other).write_bytes(b"another image of this name")
  write(root, {"a": 1}, start=500)
  info = run_info.read_run(workdir)
  data = run_data.open_run_data(plan_for(root), workdir, info)
  new = next(split for split, source in split_names(data).items() if "a/0500.jpg" in source)
  changes = {split: (c.added, c.gone, c.replaced) for split, c in data.changes.items()}
  expected = {"train": [0, 1, 1], "test": [0, 1, 0]}
  expected.setdefault(new, [0, 0, 0])[0] += 1
  assert changes == {split: tuple(counts) for split, counts in expected.items()}
  assert "1 gone" in caplog.text and "1 replaced by others of the same name" in caplog.text
  assert names(data.sources["test"]) - {"a/0500.jpg"} < before["test"]
  assert replaced in names(data.sources["train"])


def test_a_file_that_comes_back_has_not_been_forgotten(tmp_path):
  root, workdir = tmp_path / "photos", tmp_path / "run"
  write(root, {"a": 30, "b": 30})
  learned = sorted(split_names(start(workdir, root))["train"])[:20]
  for file in learned:
    (root / file).rename(tmp_path / file.replace("/", "-"))
  start(workdir, root)
  for file in learned:
    (tmp_path / file.replace("/", "-")).rename(root / file)
  assert not judged(workdir, "test") & set(learned)
  assert not judged(workdir, "val") & set(learned)
  assert set(learned) <= split_names(start(workdir, root))["train"]


def test_a_data_set_that_has_moved_keeps_its_record(tmp_path):
  root, workdir = tmp_path / "photos", tmp_path / "run"
  write(root, {"a": 30, "b": 30})
  before = split_names(start(workdir, root))
  root.rename(tmp_path / "moved")
  (tmp_path / "moved" / sorted(before["val"])[0]).unlink()
  assert judged(workdir, "test", str(tmp_path / "moved")) == before["test"]
  data = run_data.open_run_data(plan_for(tmp_path / "moved"), workdir, run_info.read_run(workdir))
  assert split_names(data)["train"] == before["train"]


def test_another_data_set_is_not_taken_for_the_runs_own(tmp_path):
  root, workdir = tmp_path / "photos", tmp_path / "run"
  write(root, {"a": 30, "b": 30})
  start(workdir, root)
  for name in ("a", "b"):
    (tmp_path / "other" / name).mkdir(parents=True)
    for k in range(30):
      (tmp_path / "other" / name / f"{k:04d}.jpg").write_bytes(b"z" * 1_000)
  info = run_info.read_run(workdir)
  own, data = run_data.find_own(workdir, info, str(tmp_path / "other"), None)
  assert own is None and len(data.source("train+val+test")) == 60
  same = root / "a" / "0003.jpg"
  shutil.copy(same, tmp_path / "other" / "a" / "0003.jpg")
  left = run_data.without_learned(data.source("train+val+test"), "all", workdir, info, None)
  assert len(left) == 60 - ("a/0003.jpg" in split_names(start(workdir, root))["train"])


def test_another_test_split_has_nothing_that_was_learned(tmp_path):
  root, workdir = tmp_path / "photos", tmp_path / "run"
  write(root, {"train/a": 20, "train/b": 20, "test/a": 5, "test/b": 5, "val/a": 5, "val/b": 5})
  before = split_names(start(workdir, root, test=""))
  data = run_data.open_run_data(plan_for(root, test="test"), workdir, run_info.read_run(workdir))
  assert split_names(data)["test"] == names(data.dataset.tables["test"])
  assert split_names(data)["train"] == before["train"] and not data.changes.get("train")
  with pytest.raises(UserError, match="judged on what it has learned"):
    run_data.open_run_data(plan_for(root, test="train"), workdir, run_info.read_run(workdir))


def test_a_run_from_another_runs_weights_is_not_judged_on_what_that_has_learned(tmp_path):
  root, first = tmp_path / "photos", tmp_path / "first"
  write(root, {"a": 40, "b": 40})
  before = split_names(start(first, root))
  learned = before["train"]
  for file in before["val"] | before["test"]:
    (root / file).unlink()
  write(root, {"a": 20, "b": 20}, start=60)
  for key in ("checkpoint", "teacher"):
    config = tiny.config(dataset=str(root), pp=dict(train=None, val=None, test=None))
    config.unlock()
    if key == "checkpoint":
      config.checkpoint = str(first)
    else:
      config.distill = dict(teacher=str(first))
    second = tmp_path / key
    found = split_names(start(second, root, config=config))
    assert found["val"] and found["test"]
    assert not learned & (found["val"] | found["test"])
    # A third run inherits that, wherever the images are by then and the first run is not.
    root.rename(tmp_path / "moved")
    first.rename(tmp_path / "gone")
    third = tiny.config(dataset=f"{tmp_path}/moved", pp=dict(train=None, val=None, test=None))
    third.unlock()
    third.checkpoint = str(second)
    last = split_names(start(tmp_path / f"third of {key}", tmp_path / "moved", config=third))
    assert last["val"] and last["test"]
    assert not (learned | found["train"]) & (last["val"] | last["test"])
    (tmp_path / "moved").rename(root)
    assert judged(second, "test") == found["test"] and judged(second, "val") == found["val"]
    (tmp_path / "gone").rename(first)
  plain = split_names(run_data.open_run_data(plan_for(root), tmp_path / "third", None))
  assert learned & (plain["val"] | plain["test"])  # The test can fail.


def test_a_lost_record_is_made_again_only_from_the_same_files(tmp_path, caplog):
  root, workdir = tmp_path / "photos", tmp_path / "run"
  write(root, {"a": 30, "b": 30})
  before = split_names(start(workdir, root))
  content = (workdir / data_record.FILE).read_bytes()
  for damage in (None, b"", b"\0" * 100, content[:-20], content[:200] + b"!" + content[201:]):
    (workdir / data_record.FILE).unlink()
    if damage is not None:
      (workdir / data_record.FILE).write_bytes(damage)
    caplog.clear()
    assert split_names(start(workdir, root)) == before
    assert "so it is made again" in caplog.text
    assert data_record.read(workdir, run_info.read_run(workdir).data).paths
  (workdir / data_record.FILE).unlink()
  write(root, {"a": 1}, start=100)
  with pytest.raises(UserError, match=r"data\.npz is missing, and .* does not hold exactly"):
    start(workdir, root)


def test_a_crash_between_the_two_files_loses_nothing(tmp_path, monkeypatch):
  root, workdir = tmp_path / "photos", tmp_path / "run"
  write(root, {"a": 30, "b": 30})
  start(workdir, root)
  write(root, {"a": 5, "b": 5}, start=50)
  with monkeypatch.context() as patch:
    patch.setattr(data_record, "finish_writing", lambda workdir: None)
    after = split_names(start(workdir, root))
  assert split_names(start(workdir, root)) == after
  assert [p.name for p in workdir.iterdir() if "npz" in p.name] == ["data.npz"]


def test_other_data_sets_have_counts(tmp_path):
  data = start(tmp_path / "run", "digits")
  described = json.loads((tmp_path / "run" / "config.json").read_text())["data"]
  assert described["counts"] == {"train": 1257, "val": 180, "test": 360}
  assert described["digest"] is None and not (tmp_path / "run" / data_record.FILE).exists()
  smaller = dataclasses.replace(data.record, counts={"train": 1256, "val": 180, "test": 360})
  assert data_record.changes(smaller, data.record)["train"].added == 1


def test_runs_without_a_record_are_read_by_the_old_rule(tmp_path, caplog):
  root, workdir = tmp_path / "photos", tmp_path / "run"
  write(root, {"a": 30, "b": 30})
  (root / "a" / "0.gif").write_bytes(b"GIF89a")  # Older versions did not see it.
  start(workdir, root)
  path = workdir / "config.json"
  old = json.loads(path.read_text())
  del old["data"]
  path.write_text(json.dumps(old))
  (workdir / data_record.FILE).unlink()
  data = run_data.open_run_data(plan_for(root), workdir, run_info.read_run(workdir))
  assert data.dataset.rule == data.record.rule == 1
  assert "the run has no record of its splits" in caplog.text
  random_state = np.random.RandomState(0)
  drawn = set()
  for name in "ab":
    drawn |= {f"{name}/{k:04d}.jpg" for k in random_state.permutation(30)[:3]}
  assert names(data.sources["val"]) == drawn
  assert "a/0.gif" not in set.union(*split_names(data).values())


def test_splits_that_no_one_names_stay_as_the_run_has_recorded_them(tmp_path):
  """A folder that gets `val/` later: the run goes on without; a new `test/` may be judged."""
  root, workdir = tmp_path / "photos", tmp_path / "run"
  write(root, {"train/a": 20, "train/b": 20})
  before = start(workdir, root)
  assert set(before.sources) == {"train"}
  write(root, {"val/a": 5, "val/b": 5, "test/a": 5, "test/b": 5})
  after = run_data.open_run_data(plan_for(root), workdir, run_info.read_run(workdir))
  assert after.specs == {"train": "train", "val": None, "test": "test"}
  assert split_names(after)["train"] == split_names(before)["train"]


def test_what_a_teacher_on_other_splits_has_learned_is_not_judged(tmp_path, caplog):
  start(tmp_path / "teacher", "digits", train="train+val", val="", test="test")
  config = tiny.config(pp=dict(train="few", val="val", test="test"))
  config.distill = dict(teacher=str(tmp_path / "teacher"))
  data = run_data.open_run_data(make_plan(config), tmp_path / "run", None)
  assert {split: len(source) for split, source in data.sources.items()} == {
    "train": 100,
    "test": 360,
  }
  assert "180 of the 180 images of val are left out" in caplog.text


def test_classes_that_were_sorted_into_splits_later_are_known(tmp_path):
  """And the other way round: no file has its old path."""
  for number, (before, after) in enumerate((("{}", "train/{}"), ("train/{}", "{}"))):
    root, workdir = tmp_path / f"{number}", tmp_path / f"run{number}"
    write(root, {before.format(name): 30 for name in "ab"})
    pp = {} if number == 0 else dict(val="train[90%:]")
    learned = {f.removeprefix("train/") for f in split_names(start(workdir, root, **pp))["train"]}
    for name in "ab":
      (root / after.format(name)).parent.mkdir(exist_ok=True)
      (root / before.format(name)).rename(root / after.format(name))
    if number == 0:
      for file in sorted(learned)[:10]:  # They were sorted into test.
        (root / "test" / file).parent.mkdir(parents=True, exist_ok=True)
        (root / "train" / file).rename(root / "test" / file)
    else:
      (root / "train").rmdir()
    for split in ("val", "test"):
      now = {f.removeprefix("train/").removeprefix("test/") for f in judged(workdir, split)}
      assert not now & learned


def test_a_folder_of_weights_is_not_a_run(tmp_path):
  """A Hugging Face folder has a config.json, too."""
  root = tmp_path / "photos"
  write(root, {"a": 30, "b": 30})
  (tmp_path / "hf").mkdir()
  (tmp_path / "hf" / "config.json").write_text('{"model_type": "vit"}')
  config = tiny.config(dataset=str(root), pp=dict(train=None, val=None, test=None))
  config.checkpoint = str(tmp_path / "hf")
  assert run_data.open_run_data(make_plan(config), tmp_path / "run", None).record.paths


def test_data_without_files_keep_out_what_was_learned_too(tmp_path, caplog):
  workdir = tmp_path / "run"
  start(workdir, "digits")
  plan = plan_for("digits", test="train[50%:]+test")
  data = run_data.open_run_data(plan, workdir, run_info.read_run(workdir))
  assert {s: len(source) for s, source in data.sources.items()} == dict(
    train=1257, val=180, test=360
  )
  assert "629 of the 989 images of test are left out, since the run has learned them" in caplog.text
  assert not data.changes.get("train")


def test_a_run_on_digits_does_not_go_on_with_a_folder(tmp_path):
  from vit_jax.training.continuation import differences

  saved = make_plan(tiny.config()).to_dict()
  (tmp_path / "x").mkdir()
  assert differences(saved, make_plan(tiny.config(dataset=f"{tmp_path}/x")), recorded=False)


def test_no_training_image_is_left(tmp_path):
  root, workdir = tmp_path / "photos", tmp_path / "run"
  write(root, {"train/a": 5, "train/b": 5, "test/a": 5, "test/b": 5})
  start(workdir, root)
  test = judged(workdir, "test")
  shutil.rmtree(root / "train")  # Where only the test images were copied to.
  assert judged(workdir, "test") == test
  with pytest.raises(UserError, match=r"no split 'train'; it has test"):
    run_data.open_run_data(plan_for(root), workdir, run_info.read_run(workdir))
  write(root, {"train/a": 1, "train/b": 1}, start=90)
  for file in ("train/a/0090.jpg", "train/b/0090.jpg"):
    (root / file).rename(root / file.replace("train", "test").replace("0090", "0099"))
  (root / "train" / "a" / "0000.gif").write_bytes(b"")
  (root / "train" / "b" / "0000.gif").write_bytes(b"")
  assert names(run_data.of_run(workdir, run_info.read_run(workdir)).sources["test"]) >= test


def test_texts_that_change_are_another_training_set(tmp_path):
  root, workdir = tmp_path / "pairs", tmp_path / "run"
  root.mkdir()
  table = lambda word: "file_name,text\n" + "".join(f"{k}.jpg,{word} {k}\n" for k in range(30))
  for k in range(30):
    (root / f"{k}.jpg").write_bytes(b"x")
  (root / "metadata.csv").write_text(table("cat"))
  start(workdir, root)
  (root / "metadata.csv").write_text(table("dog"))
  data = run_data.open_run_data(plan_for(root), workdir, run_info.read_run(workdir))
  assert data.changes["train"].replaced == 24


def test_a_newer_or_damaged_description_is_a_sentence(tmp_path):
  root, workdir = tmp_path / "photos", tmp_path / "run"
  write(root, {"a": 30, "b": 30})
  start(workdir, root)
  shutil.rmtree(workdir / "checkpoints")
  content = json.loads((workdir / "config.json").read_text())
  for data in ("x", 5, [], {}, {"rule": 2}, {**content["data"], "rule": 9}):
    (workdir / "config.json").write_text(json.dumps({**content, "data": data}))
    with pytest.raises(UserError, match=r"config\.json cannot be read"):
      run_info.read_run(workdir)
