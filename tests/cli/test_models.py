# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""`vit-jax models --pretrained`, as it appears in terminals."""

import json

import pytest

from vit_jax.cli import app
from vit_jax.models import registry
from vit_jax.models.weights import SOURCES

FILES = [(name, row) for name, entry in registry.MODELS.items() for row in entry.weights]


@pytest.mark.parametrize("columns", [80, 100])
def test_one_row_for_each_released_file(columns, capsys, monkeypatch):
  monkeypatch.setenv("COLUMNS", str(columns))
  assert app.main(["models", "--pretrained"]) == 0
  table, notes = capsys.readouterr().out.split("\n\n")
  assert all(len(line) <= columns for line in f"{table}\n{notes}".splitlines())
  assert "…" not in table
  rows = [line.split() for line in table.splitlines()[1:]]
  assert [row[:2] for row in rows] == [[name, row.tag] for name, row in FILES]
  note = dict(line.split("  ", 1) for line in notes.splitlines()[2:])
  for shown, (_, row) in zip(rows, FILES, strict=True):
    megabytes, classes = (f"{n:,}" if n else "" for n in (row.megabytes, row.num_classes))
    facts = [fact for fact in (megabytes, str(row.image_size), classes) if fact]
    assert shown[2 : 2 + len(facts)] == facts
    rest = shown[2 + len(facts) :]
    if row.accuracy is None:
      assert not rest
    else:
      assert float(rest[0]) == pytest.approx(row.accuracy, abs=0.005)
      assert note[rest[1]] == SOURCES[row.source]


def test_json_has_everything(capsys):
  assert app.main(["models", "ViT-B_16", "--pretrained", "--json"]) == 0
  rows = json.loads(capsys.readouterr().out)
  assert [row["tag"] for row in rows] == [w.tag for w in registry.MODELS["ViT-B_16"].weights]
  row = next(row for row in rows if row["tag"] == "imagenet21k")
  assert row == {
    "name": "ViT-B_16",
    "tag": "imagenet21k",
    "url": "gs://vit_models/imagenet21k/ViT-B_16.npz",
    "image_size": 224,
    "num_classes": 21_843,
    "representation_size": 768,
    "megabytes": 413,
    "accuracy": None,
    "source": None,
  }


def test_a_pattern_without_released_files_is_refused(capsys):
  assert app.main(["models", "ViT-G*"]) == 0
  assert app.main(["models", "ViT-G*", "--pretrained"]) == 2
  assert "no model with released files matches 'ViT-G*'" in capsys.readouterr().err


def test_the_list_of_models_counts_their_files(capsys):
  assert app.main(["models", "ViT-B_1?"]) == 0
  lines = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines()}
  assert lines["ViT-B_16"][-1] == str(len(registry.MODELS["ViT-B_16"].weights))
  assert lines["ViT-B_14"][-1] == "224"
