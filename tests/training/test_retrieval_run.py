# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A run on images with texts of their own: its metric is recall@1, by that name everywhere."""

import json
import shutil

import numpy as np
import pytest
import small_lit
from matplotlib.figure import Figure
from PIL import Image

from vit_jax.cli import train
from vit_jax.data import datasets
from vit_jax.evaluation import retrieval
from vit_jax.training import plan, progress, task
from vit_jax.training.loop import train_and_evaluate
from vit_jax.workdir import run_info

SCORES = {"recall@1", "recall@5", "text_to_image_recall@1", "loss", "examples"}
WORDS = ("black", "dark grey", "light grey", "white")


def config(dataset, **changes):
  pp = dict(train="train", val="val", test="test", crop=8, channels=3)
  config = small_lit.config(dataset=str(dataset), total_steps=4, eval_every=2, checkpoint_every=2)
  config.pp.update(pp)
  config.text.update(class_names=None, templates=("{}",))
  config.update(batch=8, base_lr=1e-3, warmup_steps=1, **changes)
  return config


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
  """Grey images; each of four texts stands beside several of them."""
  root = tmp_path_factory.mktemp("pairs")
  rng = np.random.default_rng(0)
  for split in ("train", "val", "test"):
    (root / split).mkdir()
    rows = []
    for i in range(16):
      image = np.clip(rng.normal(i % 4 * 80, 5, (8, 8, 3)), 0, 255).astype(np.uint8)
      Image.fromarray(image).save(root / split / f"{i}.png")
      rows.append(json.dumps({"file_name": f"{i}.png", "text": WORDS[i % 4]}))
    (root / split / "metadata.jsonl").write_text("\n".join(rows))
  return root


@pytest.fixture(scope="module")
def finished(dataset, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("run") / "run"
  return workdir, train_and_evaluate(config(dataset), workdir)


def test_a_run_names_its_metric(finished, capsys):
  workdir, results = finished
  assert set(results["val"]) == set(results["test"]) == SCORES
  assert (
    results["metric"] == "recall@1" == json.loads((workdir / "config.json").read_text())["metric"]
  )
  found = [r for r in progress.read_metrics(workdir) if "val/loss" in r]
  assert [r["step"] for r in found] == [2, 4] and all("val/recall@1" in r for r in found)
  info = run_info.load_run(workdir)[2]
  assert info.metrics == results["val"] and info.step == results["best_step"]
  best = max(found, key=lambda r: (r["val/recall@1"], -r["val/loss"], r["step"]))
  assert best["step"] == info.step


def test_texts_that_are_cut_are_counted(dataset, monkeypatch, caplog):
  """Those of training, and of the splits that are evaluated; "light grey" has ten bytes."""
  short = config(dataset)
  short.model.txt.max_len = 9
  data = datasets.open_dataset(str(dataset))
  own = task.make_task(plan.make_plan(short), ())
  monkeypatch.setattr(retrieval, "RetrievalEvaluator", lambda *arguments, **options: None)
  own.evaluator(None, {"val": data.source("val"), "test": data.source("test")}, None)
  own.rows(data.source("train"), None)
  monkeypatch.setattr(task, "COUNTED", 8)
  own.rows(data.source("train"), None)
  own.rows(data.source("train").select(np.array([0, 3])), None)  # "black" and "white".
  told = [record.getMessage().split(" are longer than the 8 tokens") for record in caplog.records]
  counts = ["8 of 16 texts of val", "8 of 16 texts of test", "8 of 16 training texts"]
  assert [count for count, _ in told] == [*counts, "4 of 8 training texts looked at"]
  assert all("the longest has 10;" in rest for _, rest in told)


def test_the_closing_line_names_it(finished, dataset, capsys, monkeypatch):
  workdir, results = finished
  path = workdir.parent / "config.py"
  path.write_text(
    f"import {__name__} as it\ndef get_config():\n  return it.config({str(dataset)!r})"
  )
  monkeypatch.syspath_prepend(__file__.rpartition("/")[0])
  assert train.main([f"--config={path}", f"--workdir={workdir}"]) == 0
  said = capsys.readouterr().out
  assert f"val: recall@1 {results['val']['recall@1']:.2%}, step {results['best_step']}\n" in said
  assert said.endswith(f"wrote {workdir}/results.json and curves.png\n")


@pytest.fixture
def drawn(monkeypatch):
  """Gives the validation's points in the curves that a run draws, and what the axis is called."""
  figures = []
  monkeypatch.setattr(Figure, "savefig", lambda self, *_, **__: figures.append(self))

  def last():
    axes = figures[-1].axes[1]
    lines = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    return lines["val"], axes.get_ylabel()

  return last


def test_curves_show_it(finished, dataset, tmp_path, drawn):
  workdir = shutil.copytree(finished[0], tmp_path / "run")
  (workdir / "results.json").unlink()
  train_and_evaluate(config(dataset), workdir)
  found = [r for r in progress.read_metrics(workdir) if "val/loss" in r]
  assert drawn() == ([[r["step"], r["val/recall@1"]] for r in found], "recall@1")


def test_a_run_of_before_goes_on(finished, dataset, tmp_path, drawn):
  """Its recall@1 was called accuracy, and its config.json did not name a metric."""
  workdir = shutil.copytree(finished[0], tmp_path / "run")
  old = {"accuracy": 0.75, "top5": 1.0, "text_to_image": 0.5, "loss": 0.1, "examples": 16}
  _as_before(workdir, {2: old, 4: {**old, "accuracy": 0.5}})
  assert run_info.load_run(workdir)[2].metrics == old
  shutil.rmtree(workdir / "checkpoints" / "4")
  (workdir / "results.json").unlink()
  results = train_and_evaluate(config(dataset), workdir)
  new = run_info.load_run(workdir, "last")[2]
  assert new.step == 4 and new.metric == "recall@1" and "recall@1" in new.metrics
  better = new.metrics["recall@1"] > 0.75
  assert results["best_step"] == run_info.load_run(workdir)[2].step == (4 if better else 2)
  assert drawn()[0] == [[2, 0.75], [4, new.metrics["recall@1"]]]


def _as_before(workdir, scores):
  """Writes a run's files as the version did that called recall@1 accuracy."""
  from vit_jax.workdir import integrity

  content = json.loads((workdir / "config.json").read_text())
  del content["metric"]
  (workdir / "config.json").write_text(json.dumps(content))
  lines = [
    json.dumps({"step": s, **{f"val/{k}": v for k, v in m.items()}}) for s, m in scores.items()
  ]
  (workdir / "metrics.jsonl").write_text("".join(line + "\n" for line in lines))
  for step, metrics in scores.items():
    directory = integrity.epath.Path(workdir) / "checkpoints" / str(step)
    (directory / "metrics" / "metrics").write_text(json.dumps(metrics))
    (directory / "manifest.json").unlink()
    integrity.write_manifest(directory)
