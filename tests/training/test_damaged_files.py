# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A run's small files, emptied or broken by a crash: it goes on, and says what was wrong."""

import hashlib
import json
import os
import pathlib
import shutil
import stat

import pytest
import tiny_run as tiny

from vit_jax.errors import UserError
from vit_jax.training import records
from vit_jax.training import results as results_lib
from vit_jax.training.loop import train_and_evaluate
from vit_jax.workdir import files, run_info
from vit_jax.workdir.steps import Checkpointer

# What a crash, a full disk or a stranger leaves in place of a JSON object; what is said of it.
BROKEN = {
  b"": "it is empty",
  b"\0" * 4096: "it holds only zero bytes",
  b"\xff\xfe\0": "it is not JSON",
  b'{"steps": 4, "val": {"acc': "it is not JSON",
  b"garbage": "it is not JSON",
  b"[" * 100_000: "it is not JSON",
  b"[]": r"it holds \[\], where a JSON object was expected",
  b"5": "it holds 5, where",
  b"null": "it holds null, where",
  b'"text"': 'it holds "text", where',
}
broken = pytest.mark.parametrize("content", BROKEN, ids=lambda content: repr(content[:12]))


def config(**changes):
  return tiny.config(total_steps=4, eval_every=2, checkpoint_every=2, **changes)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """A run of four steps; nothing may change it."""
  workdir = tmp_path_factory.mktemp("run") / "run"
  train_and_evaluate(config(), workdir)
  return workdir


@pytest.fixture
def workdir(finished, tmp_path):
  return shutil.copytree(finished, tmp_path / "run")


def _snapshot(directory):
  files = sorted(p for p in directory.rglob("*") if p.is_file())
  return {str(p.relative_to(directory)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_a_file_is_on_the_disk_before_it_takes_the_place_of_the_old(tmp_path, monkeypatch):
  done = []

  def sync(descriptor):
    is_directory = stat.S_ISDIR(os.fstat(descriptor).st_mode)
    done.append("directory" if is_directory else "file")

  monkeypatch.setattr(os, "fsync", sync)
  replace = os.replace
  monkeypatch.setattr(os, "replace", lambda *paths: (done.append("replace"), replace(*paths)))
  path = files.epath.Path(tmp_path) / "a.json"
  files.write_atomically(path, "{}")
  assert done == ["file", "replace", "directory"]
  assert [p.name for p in tmp_path.iterdir()] == ["a.json"] and path.read_text() == "{}"


@broken
def test_config_json_is_restored_from_a_checkpoint(workdir, caplog, content):
  path = workdir / "config.json"
  expected = run_info.read_run(workdir)
  path.write_bytes(content)
  before = _snapshot(workdir)
  assert run_info.read_run(workdir) == expected
  _, _, info = run_info.load_run(workdir)
  assert info.class_names == tuple("0123456789") and info.metric == "accuracy"
  assert _snapshot(workdir) == before  # Whoever only reads writes nothing.
  [line] = [m for m in caplog.messages if "config.json" in m]
  assert line.startswith(f"{path} is damaged ({BROKEN[content]}".replace("\\", ""))
  assert line.endswith("; its content was restored from checkpoint 4")


@pytest.mark.parametrize("change", [dict(class_names=5), dict(config=[]), dict(model_fields=[])])
def test_config_json_of_other_content_is_restored(workdir, caplog, change):
  path = workdir / "config.json"
  expected = run_info.read_run(workdir)
  path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
  assert run_info.read_run(workdir) == expected
  assert "is damaged (it is not what a run writes" in caplog.text


@pytest.mark.parametrize("content", [None, b""])
def test_a_run_goes_on_without_its_config_json(workdir, caplog, content):
  path = workdir / "config.json"
  text, results = path.read_text(), json.loads((workdir / "results.json").read_text())
  path.unlink()
  if content is not None:
    path.write_bytes(content)
  shutil.rmtree(workdir / "checkpoints" / "4")
  (workdir / "results.json").write_bytes(b"")
  again = train_and_evaluate(config(), workdir)
  assert again["test"] == results["test"] and path.read_text() == text
  wrong = "is missing" if content is None else "is damaged"
  assert f"{path} {wrong}" in caplog.text and "was restored from checkpoint 2" in caplog.text
  with pytest.raises(UserError, match="holds a run of another config: base_lr"):
    path.write_bytes(b"")
    train_and_evaluate(config(base_lr=0.1), workdir)


@pytest.mark.parametrize(
  "content, message",
  [(None, "is missing beside .*/checkpoints; use"), (b"", r"cannot be read \(it is empty\); use")],
)
def test_checkpoints_of_an_older_version_do_not_hold_it(workdir, monkeypatch, content, message):
  saved = Checkpointer.saved
  older = lambda self, step: {k: v for k, v in saved(self, step).items() if k != "run"}
  monkeypatch.setattr(Checkpointer, "saved", older)
  (workdir / "config.json").unlink()
  if content is not None:
    (workdir / "config.json").write_bytes(content)
  with pytest.raises(UserError, match=rf"config.json {message} another workdir\.$"):
    run_info.load_run(workdir)


def test_a_run_of_a_newer_version_is_a_sentence(workdir, monkeypatch):
  """Neither its config.json nor its checkpoints can be read as a run."""
  newer = {**json.loads((workdir / "config.json").read_text()), "colour": "red"}
  (workdir / "config.json").write_text(json.dumps(newer))
  monkeypatch.setattr(Checkpointer, "saved", lambda self, step: {"run": newer})
  with pytest.raises(UserError, match=r"config.json cannot be read \(.*'colour'.*; use another"):
    run_info.load_run(workdir)


@broken
def test_a_config_json_without_checkpoints(tmp_path, content):
  (tmp_path / "config.json").write_bytes(content)
  with pytest.raises(UserError, match=r"config.json cannot be read \(it .*\); use another workdir"):
    run_info.load_run(tmp_path)
  # Nothing of a run is lost, and one may begin.
  assert run_info.earlier_run(run_info.epath.Path(tmp_path)) is None


def test_older_config_json_does_not_name_the_metric(workdir):
  path = workdir / "config.json"
  content = json.loads(path.read_text())
  assert content.pop("metric") == "accuracy"
  path.write_text(json.dumps(content))
  assert run_info.read_run(workdir).metric == "accuracy"


@broken
def test_results_json_is_told_and_written_again(workdir, caplog, content):
  path = workdir / "results.json"
  plan = run_info.read_run(workdir).plan
  path.write_bytes(content)
  assert results_lib.finished(run_info.epath.Path(workdir), plan) is None
  said = f"{path} is damaged ({BROKEN[content]}".replace("\\", "")
  assert said in caplog.text and "the best checkpoint is evaluated again" in caplog.text


@pytest.mark.parametrize("content", [b"[]", b'{"steps": 4, "val": []}'])
def test_a_finished_run_is_evaluated_again_for_its_results(workdir, content):
  path = workdir / "results.json"
  expected = json.loads(path.read_text())
  path.write_bytes(content)
  again = train_and_evaluate(config(), workdir)
  assert json.loads(path.read_text()) == again
  for key in ("val", "test", "best_step", "steps", "metric", "parameters"):
    assert again[key] == expected[key]


@pytest.mark.parametrize(
  "line",
  [
    *(content for content in BROKEN if content),
    *(b'{"train/loss": 1.0}', b'{"step": "2"}', b'{"step": null}', b"{}"),
    *(b'{"step": 2, "train/loss": "low"}', b'{"step": 2, "train/loss": [1.0]}'),
  ],
  ids=lambda line: repr(line[:24]),
)
def test_a_line_that_is_no_record_is_left_out_and_told(tmp_path, caplog, line):
  path = tmp_path / "metrics.jsonl"
  path.write_bytes(b'{"step": 1, "train/loss": 2.0}\n' + line + b'\n{"step": 3}\n{"step": 4, "tr')
  kept = [{"step": 1, "train/loss": 2.0}, {"step": 3}]
  assert records.read_metrics(tmp_path) == kept
  [said] = caplog.messages
  assert said.startswith(f"{path} has 1 lines that are left out: they are no records (line 2: it ")
  file = records.Records(tmp_path, 3)
  file.write({"step": 4})
  file.close()
  assert records.read_metrics(tmp_path) == [*kept, {"step": 4}]
  assert len(caplog.messages) == 2  # The file is whole again.


def test_lines_of_metrics_end_at_a_newline_alone(tmp_path, caplog):
  record = {"step": 1, "val/recall of \u2028 \x85 \x0c": 0.5}
  text = json.dumps(record, ensure_ascii=False)
  (tmp_path / "metrics.jsonl").write_text(text + "\n", encoding="utf-8")
  assert records.read_metrics(tmp_path) == [record] and not caplog.messages


def test_a_run_goes_on_with_damaged_metrics(workdir, caplog):
  path = workdir / "metrics.jsonl"
  path.write_bytes(b"\xff\xfe\n[]\n" + path.read_bytes() + b"\0\0\0")
  (workdir / "results.json").unlink()
  train_and_evaluate(config(), workdir)
  assert f"{path} has 2 lines that are left out" in caplog.text
  for line in path.read_text().split("\n")[:-1]:
    assert json.loads(line)["step"] > 0


@pytest.mark.parametrize(
  "content",
  [*BROKEN, b"{}", b'{"sha256": []}', b'{"sha256": {}}', b'{"sha256": 5}', b'{"sha256": {"a": 1}}'],
  ids=lambda content: repr(content[:20]),
)
def test_a_damaged_manifest_is_a_damaged_step(workdir, caplog, content):
  (workdir / "checkpoints" / "4" / "manifest.json").write_bytes(content)
  assert run_info.load_run(workdir, "last")[2].step == 2
  assert "4 is damaged (" in caplog.text


def test_damaged_metrics_of_one_step_do_not_end_reading(workdir, caplog):
  best = run_info.load_run(workdir)[2].step
  for content in (b"", b"[]", b'{"lass": 1, "accuracy": 9}'):
    (workdir / "checkpoints" / str(best) / "metrics" / "metrics").write_bytes(content)
    assert run_info.load_run(workdir)[2].step == 6 - best  # Of 2 and 4.


@pytest.mark.parametrize("name", ["curves.png", "tensorboard"])
def test_what_a_run_does_without_does_not_end_it(workdir, caplog, name):
  """Something of another kind is in its place."""
  results = json.loads((workdir / "results.json").read_text())
  (workdir / "results.json").unlink()
  path = workdir / name
  if path.is_dir():
    shutil.rmtree(path)
    path.write_text("a file")
  else:
    path.unlink()
    path.mkdir()
  assert train_and_evaluate(config(), workdir)["test"] == results["test"]
  assert f"{path} cannot be written (" in caplog.text


@pytest.mark.parametrize(
  "name, advice",
  [
    ("metrics.jsonl", "remove what is in its place, or use another workdir"),
    ("results.json", "remove what is in its place and run the same command again: the run is"),
  ],
)
def test_what_a_run_needs_is_asked_for_in_a_sentence(workdir, name, advice):
  (workdir / "results.json").unlink()
  pathlib.Path(workdir / name).unlink(missing_ok=True)
  (workdir / name).mkdir()
  with pytest.raises(UserError, match=rf"{name} cannot be written \(Is a directory\); {advice}"):
    train_and_evaluate(config(), workdir)
