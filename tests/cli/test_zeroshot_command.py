# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""`vit-jax zeroshot`, and `predict` and `evaluate` of a LiT: what they say and what they refuse."""

import json
import re

import numpy as np
import pytest
import small_lit

from vit_jax.cli import app

NAME = small_lit.NAME
NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


@pytest.fixture(scope="module")
def here(tmp_path_factory):
  """A folder with a short run on digits, an npz of it, its images, and files of words."""
  run = small_lit.trained(tmp_path_factory)
  root = tmp_path_factory.mktemp("zeroshot")
  for path in (run.workdir, run.npz, run.images[0].parent):
    (root / path.name).symlink_to(path)
  (root / "three.txt").write_text("one\ntwo, pair\n\nthree\n")
  (root / "ten.txt").write_text("zero, nought\n" + "\n".join(NAMES[1:]))
  (root / "templates.txt").write_text("{}\nthe number {}\na handwritten {}\nthe digit {}\n")
  (root / "no_place.txt").write_text("{}\na photo\n")
  (root / "no_room.txt").write_text("{}\na photo, taken at night, of {}\n")
  (root / "empty.txt").write_text("\n")
  (root / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", *NAMES]))
  (root / "unknown.txt").write_text("one\ntwice\nthrice, trio\nquartet\n")
  return root


@pytest.fixture
def said(here, monkeypatch, capsys):
  """Runs a command in that folder and gives what it prints."""
  monkeypatch.chdir(here)
  capsys.readouterr()

  def run(line):
    assert app.main(line.split()) == 0
    return capsys.readouterr().out

  return run


def test_images_of_a_run(here, said):
  rows = json.loads(said("zeroshot --workdir=run --images images --json --top=10"))
  assert len(rows) == 12 and all(len(row["classes"]) == 10 for row in rows)
  for row in rows:
    assert {c["name"] for c in row["classes"]} == {*"0123456789"}
    assert sum(c["probability"] for c in row["classes"]) == pytest.approx(1, abs=1e-5)
  assert json.loads(said("predict --workdir=run images --json --top=10")) == rows

  # The table: a line for each image, with the likeliest first.
  lines = said("zeroshot --workdir=run --images images/*.png").splitlines()
  assert len(lines) == 12
  for line, row in zip(lines, rows, strict=True):
    path, best, share, *_ = line.split()
    assert path == row["path"] and best == row["classes"][0]["name"]
    assert float(share[:-1]) == pytest.approx(100 * row["classes"][0]["probability"], abs=0.06)

  # The run's names and templates are those of configs/lit.py, here said again.
  words = "--classes=ten.txt --templates=templates.txt --json --top=10"
  for subject in ("--workdir=run", f"--model={NAME} --checkpoint=lit.npz"):
    again = json.loads(said(f"zeroshot {subject} {words} --images images"))
    for row, other in zip(rows, again, strict=True):
      assert [NAMES[int(c["name"])] for c in row["classes"]] == [
        c["name"] for c in other["classes"]
      ]
      ours, theirs = ([c["probability"] for c in r["classes"]] for r in (row, other))
      np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_other_classes_of_a_run(said):
  rows = json.loads(said("predict --workdir=run --classes=three.txt images --json"))
  for row in rows:
    assert {c["name"] for c in row["classes"]} == {"one", "two", "three"}


def test_digits_of_a_run(here, said):
  expected = json.loads((here / "run" / "results.json").read_text())["test"]
  found = json.loads(said("zeroshot --workdir=run --dataset=digits --json"))["test"]
  assert found["accuracy"] == expected["accuracy"] and found["examples"] == 360
  assert found["loss"] == pytest.approx(expected["loss"], rel=1e-5)
  assert json.loads(said("evaluate --workdir=run --json"))["test"] == found
  line = said("evaluate --workdir=run")
  assert line.startswith(f"test: accuracy {found['accuracy']:.2%}, ") and "360 examples" in line


def test_digits_of_a_file(said):
  # The data set's own names, "0" to "9", and then words, by which another loss comes out.
  file = f"zeroshot --model={NAME} --checkpoint=lit.npz --dataset=digits --split=val --json"
  own = json.loads(said(file))["val"]
  words = json.loads(said(f"{file} --classes=ten.txt"))["val"]
  assert own["examples"] == words["examples"] == 180 and own["loss"] != words["loss"]


@pytest.mark.parametrize(
  "line, message",
  [
    (f"zeroshot --model={NAME} --images images", f"{NAME} needs names to choose from; .*--classes"),
    (f"predict --model={NAME} images", f"{NAME} needs names to choose from"),
    ("predict --model=ViT-B_16 --classes=ten.txt images", "go with a LiT; ViT-B_16 is none"),
    ("zeroshot --model=ViT-B_16 --classes=ten.txt --images images", "ViT-B_16 is none"),
    ("evaluate --model=ViT-B_16 --templates=ten.txt --dataset=digits", "ViT-B_16 is none"),
    ("zeroshot --workdir=run --images images --dataset=digits", "either --images .* or --dataset"),
    ("zeroshot --workdir=run", "either --images .* or --dataset"),
    (f"zeroshot --workdir=run --model={NAME} --images images", "either --workdir.* or --model"),
    ("zeroshot --images images", "either --workdir.* or --model"),
    ("zeroshot --workdir=run --classes=empty.txt --images images", "empty.txt is empty; write one"),
    ("zeroshot --workdir=run --classes=none.txt --images images", "none.txt cannot be read .*No"),
    ("zeroshot --workdir=run --classes=images --images images", "images cannot be read .*director"),
    ("zeroshot --workdir=run --templates=none.txt --dataset=digits", "none.txt cannot be read"),
    (
      "zeroshot --workdir=run --templates=no_place.txt --images images",
      "'a photo' must have exactly one {}",
    ),
    *(
      (
        f"{line} --templates=no_room.txt",
        "'a photo, taken at night, of {}' has no room for 'one', 'two', 'pair' and 1 other: only",
      )
      for line in (
        "zeroshot --workdir=run --classes=three.txt --images images",
        f"predict --model={NAME} --checkpoint=lit.npz --classes=three.txt images --json",
        f"evaluate --model={NAME} --checkpoint=lit.npz --classes=three.txt --dataset=digits",
      )
    ),
    (
      f"zeroshot --model={NAME} --vocabulary=none.txt --classes=ten.txt --images images",
      "no vocabulary file none.txt; pass the path of a vocab.txt",
    ),
    (
      f"zeroshot --model={NAME} --vocabulary=ten.txt --classes=ten.txt --images images",
      "ten.txt has no line .CLS.; pass the vocab.txt of a BERT model",
    ),
    (
      f"zeroshot --model={NAME} --vocabulary=vocab.txt --classes=ten.txt --images images",
      "LiT-B16B_2.npz is not in the cache",
    ),
    (
      f"zeroshot --model={NAME} --vocabulary=vocab.txt --classes=unknown.txt --images images",
      "'twice', 'thrice' and 'quartet' become the same tokens: the vocabulary does not know",
    ),
    (
      f"zeroshot --model={NAME} --checkpoint=lit.npz --vocabulary=ten.txt --dataset=digits",
      "tokenizer 'bytes' has no vocabulary; leave out ten.txt",
    ),
    (
      "zeroshot --workdir=run --vocabulary=ten.txt --images images",
      "tokenizer 'bytes' has no vocabulary; leave out ten.txt",
    ),
    ("zeroshot --workdir=run --images none.png", "no image, folder or pattern match at none.png"),
    ("zeroshot --workdir=images --images images", "images is not the workdir of a training run"),
    ("zeroshot --workdir=run --dataset=none", "there is no dataset 'none'"),
    ("zeroshot --workdir=run --classes=three.txt --dataset=digits", "10 classes, .*has 3"),
    (
      f"zeroshot --model={NAME} --checkpoint=none.npz --classes=ten.txt --images images",
      "no checkpoint at none.npz",
    ),
  ],
)
def test_bad_input_is_a_sentence(here, monkeypatch, capsys, line, message):
  monkeypatch.chdir(here)
  monkeypatch.setenv("VIT_JAX_OFFLINE", "1")
  monkeypatch.setenv("VIT_JAX_CACHE", str(here / "cache"))
  capsys.readouterr()
  assert app.main(line.split()) == 2
  error = capsys.readouterr().err.strip()
  [sentence] = [text for text in error.splitlines() if text.startswith("vit-jax")]
  assert re.search(message, sentence) and sentence.endswith((".", "?"))
  assert "Traceback" not in error
