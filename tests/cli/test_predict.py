# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""`vit-jax predict` on files of any name and state, with a classifier that counts light pixels."""

import io
import json
import logging
import os
import pathlib
import re
import sys

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from vit_jax.cli import app, subject
from vit_jax.data import transforms
from vit_jax.evaluation import classifier

NAMES = ("dark", "light", "寿司")
SPEC = transforms.Preprocessing(crop=4, channels=1, eval_resize="squash", mean=(0.5,), std=(0.5,))


class Brightness(nn.Module):
  """Of a black image the first class is likeliest, of a white one the second; of grey nothing."""

  @nn.compact
  def __call__(self, images, train=False):
    light = images.mean(axis=(1, 2))
    return jnp.where(jnp.abs(light) < 0.1, jnp.nan, light) * jnp.array([-3.0, 3.0, 0.0])


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
  """A folder to work in, and the classifier whatever the options say."""
  found = classifier.Classifier("none", Brightness(), {}, SPEC, NAMES)
  monkeypatch.setattr(subject, "load", lambda *arguments: found)
  monkeypatch.chdir(tmp_path)
  return tmp_path


@pytest.fixture
def said(capsys, caplog):
  """Runs the command; gives its exit code, what it prints, and what it logs or refuses with."""

  def run(*arguments):
    capsys.readouterr()
    caplog.clear()
    with caplog.at_level(logging.INFO, "vit_jax"):
      code = app.main(["predict", "--workdir=run", *map(str, arguments)])
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    refused = [line for line in err.splitlines() if line.startswith("vit-jax")]
    return code, out, [*(record.getMessage() for record in caplog.records), *refused]

  return run


def photo(path, value=0):
  os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
  with open(path, "wb") as file:
    Image.fromarray(np.full((4, 4), value, np.uint8)).save(file, "PNG")


def paths_of(out):
  def refuse(constant):
    raise ValueError(f"{constant} is no JSON")

  rows = json.loads(out, parse_constant=refuse)
  assert all(len(row["classes"]) == 3 for row in rows)
  return [row["path"] for row in rows]


def test_names_that_are_not_utf8(said):
  names = [b"photos/caf\xe9.png", b"photos/two\nlines.png", "photos/東京.png".encode()]
  for name in names:
    photo(name, 255)
  code, out, _ = said("photos")
  lines = ["photos/caf\\xe9.png", "photos/two\\nlines.png", "photos/東京.png"]
  assert code == 0 and [line.split("  ")[0].strip() for line in out.splitlines()] == lines
  code, out, _ = said("photos", "--json")
  assert code == 0 and paths_of(out) == [lines[0], "photos/two\nlines.png", lines[2]]
  out.encode("ascii")


def test_samples_of_a_class_whose_name_is_not_utf8(capsys):
  for name in (b"data/caf\xe9/1.png", b"data/tea/1.png"):
    for k in range(10):
      photo(name.replace(b"1", b"%d" % k))
  assert app.main(["sample", "--dataset=data", "--out=out", "--split=train"]) == 0
  lines = capsys.readouterr().out.splitlines()
  assert lines and {line.split("-")[1] for line in lines} == {"caf\\xe9.png", "tea.png"}


def test_a_bad_file_whose_name_is_not_utf8_is_named(said):
  photo("good.png")
  pathlib.Path(os.fsdecode(b"caf\xe9.png")).write_text("no image")
  code, _, logged = said(".")
  assert code == 0 and logged[0].startswith("skipped caf\\xe9.png (")


def test_a_terminal_without_the_letters_of_a_class(here, monkeypatch):
  photo("a.png")
  stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
  monkeypatch.setattr(sys, "stdout", stream)
  assert app.main(["predict", "--workdir=run", "a.png"]) == 0
  stream.flush()
  assert b"\\u5bff\\u53f8 " in stream.buffer.getvalue()


def test_nan_is_null_in_json(said):
  photo("grey.png", 128)
  photo("white.png", 255)
  code, out, logged = said("grey.png", "white.png", "--json")
  assert code == 0 and paths_of(out) == ["grey.png", "white.png"]
  grey, white = json.loads(out)
  assert [c["probability"] for c in grey["classes"]] == [None] * 3
  assert white["classes"][0]["name"] == "light" and white["classes"][0]["probability"] > 0.9
  assert any("1 of 2 images have no probabilities" in line for line in logged)


def test_the_order_is_that_of_the_logits_where_probabilities_are_rounded(said, monkeypatch):
  class Sure(nn.Module):
    @nn.compact
    def __call__(self, images, train=False):
      return jnp.tile(jnp.array([100.0, 200.0, 300.0]), (len(images), 1))

  found = classifier.Classifier("none", Sure(), {}, SPEC, NAMES)
  monkeypatch.setattr(subject, "load", lambda *arguments: found)
  photo("a.png")
  assert said("a.png")[1] == "a.png  寿司 100.0%  light 0.0%  dark 0.0%\n"


def test_ties_go_to_the_class_that_is_named_first(said, monkeypatch):
  names = tuple(f"class {k}" for k in range(64))

  class Undecided(nn.Module):
    @nn.compact
    def __call__(self, images, train=False):
      return jnp.tile(jnp.where(jnp.arange(64) % 3, 1.0, 2.0), (len(images), 1))

  found = classifier.Classifier("none", Undecided(), {}, SPEC, names)
  monkeypatch.setattr(subject, "load", lambda *arguments: found)
  photo("a.png")
  [row] = json.loads(said("--json", "--top=8", "a.png")[1])
  assert [c["name"] for c in row["classes"]] == [f"class {k}" for k in range(0, 24, 3)]


def test_evaluate_prints_null_for_nan(monkeypatch, capsys):
  result = {"accuracy": 0.5, "loss": float("nan"), "examples": 2}
  examples = classifier.Examples("val", None, "photos", NAMES)
  monkeypatch.setattr(classifier, "find_examples", lambda *arguments, **options: examples)
  monkeypatch.setattr(classifier, "evaluate_examples", lambda *arguments, **options: result)
  assert app.main(["evaluate", "--workdir=run", "--json"]) == 0
  assert json.loads(capsys.readouterr().out) == {"val": {**result, "loss": None}}
  assert app.main(["evaluate", "--workdir=run"]) == 0
  assert capsys.readouterr().out == "val: accuracy 50.00%, loss nan, 2 examples\n"
  result["top5"] = 0.75
  assert app.main(["evaluate", "--workdir=run"]) == 0
  assert capsys.readouterr().out == "val: accuracy 50.00%, top-5 75.00%, loss nan, 2 examples\n"


@pytest.fixture
def mixed(here):
  """A folder with two images, a broken link and a text."""
  photo("photos/a.png")
  photo("photos/d.png", 255)
  os.symlink("nowhere", "photos/b.png")
  pathlib.Path("photos/c.png").write_text("no image")
  return [f"photos/{name}.png" for name in "abcd"]


@pytest.mark.parametrize("way", ["folder", "pattern", "deep pattern", "names", "both"])
def test_one_rule_for_what_cannot_be_read(said, mixed, way):
  ways = {
    "folder": ["photos"],
    "pattern": ["photos/*.png"],
    "deep pattern": ["**/*.png"],
    "names": mixed,
    "both": ["photos/*", "photos", *mixed],
  }
  code, out, logged = said(*ways[way], "--json")
  assert code == 0 and paths_of(out) == ["photos/a.png", "photos/d.png"]
  skipped = sorted(line for line in logged if line.startswith("skipped"))
  assert len(skipped) == 2
  assert skipped[0] == "skipped photos/b.png (No such file or directory)"
  assert skipped[1].startswith("skipped photos/c.png (")
  assert logged[-1] == "2 of 4 files are left out: they cannot be read"


def test_a_file_without_permission_is_skipped(said, monkeypatch):
  photo("a.png")
  photo("b.png")
  read = pathlib.Path.read_bytes

  def refuse(path):  # Permissions do not keep root out, who may run this.
    if path.name == "b.png":
      raise PermissionError(13, "Permission denied", str(path))
    return read(path)

  monkeypatch.setattr(pathlib.Path, "read_bytes", refuse)
  for argument in ("*.png", "."):
    code, out, logged = said(argument, "--json")
    assert code == 0 and paths_of(out) == ["a.png"]
    assert logged == [
      "skipped b.png (Permission denied)",
      "1 of 2 files are left out: they cannot be read",
    ]


@pytest.mark.parametrize("name, reason", [("b", "No such file or directory"), ("c", r".+")])
def test_a_single_file_that_cannot_be_read_is_an_error(said, mixed, name, reason):
  for options in ([], ["--json"]):
    code, out, logged = said(f"photos/{name}.png", *options)
    assert code == 2 and not out
    pattern = rf"there is not an image that can be read: photos/{name}.png \({reason}\); check"
    assert re.search(pattern, logged[-1])


def test_nothing_that_can_be_read(said, mixed):
  code, out, logged = said("photos/b.png", "photos/c.png")
  assert code == 2 and not out
  assert "none of the 2 files is an image that can be read: photos/" in logged[-1]


@pytest.mark.parametrize("name", ["none.png", "none/*.png", "", "a.png/b.png"])
def test_a_name_that_leads_nowhere_is_refused_before_any_work(said, monkeypatch, name):
  photo("a.png")
  monkeypatch.setattr(subject, "load", lambda *arguments: pytest.fail("the model was loaded"))
  code, out, logged = said("a.png", name)
  assert code == 2 and not out
  assert f"no image, folder or pattern match at {name or repr(name)}; check" in logged[-1]


def test_no_files_at_all(capsys):
  with pytest.raises(SystemExit) as ended:
    app.main(["predict", "--workdir=run"])
  assert ended.value.code == 2 and "required: IMAGE" in capsys.readouterr().err


def test_a_directory_among_files(said):
  photo("photos/a.png")
  photo("photos/more/b.png")
  os.makedirs("photos/none")
  expected = ["photos/a.png", "photos/more/b.png"]
  typed = sorted(f"photos/{name}" for name in os.listdir("photos"))
  for arguments in (typed, ["photos/*"], ["photos/**"], ["photos"]):  # As a shell writes it out.
    code, out, logged = said(*arguments, "--json")
    assert code == 0 and paths_of(out) == expected
    told = [line for line in logged if "photos/none holds no images" in line]
    assert len(told) == (arguments in (typed, ["photos/*"]))
  code, _, logged = said("photos/none")
  assert code == 2 and "the folder photos/none holds no images" in logged[-1]


def test_a_directory_that_cannot_be_read(said, monkeypatch):
  photo("a.png")
  photo("closed/b.png")
  access = os.access
  closed = lambda path, mode: os.path.basename(path) != "closed" and access(path, mode)
  monkeypatch.setattr(os, "access", closed)  # Permissions do not keep root out.
  told = "the folder closed cannot be read; make it readable for this user."
  for arguments in (["a.png", "closed"], ["*"]):
    code, out, logged = said(*arguments, "--json")
    assert code == 0 and paths_of(out) == ["a.png"] and logged == [f"left out: {told}"]
  code, _, logged = said("closed")
  assert code == 2 and logged == [f"vit-jax predict: {told}"]


def test_a_pipe_that_a_pattern_matches_is_not_waited_for(said):
  photo("a.png")
  os.mkfifo("b.png")
  code, out, _ = said("*.png", "--json")
  assert code == 0 and paths_of(out) == ["a.png"]


def test_a_file_named_twice_is_listed_once(said, here):
  photo("photos/a.png")
  photo("b.png", 255)
  arguments = ["b.png", "photos/a.png", "b.png", "./b.png", here / "b.png", "photos", "*.png"]
  code, out, _ = said(*arguments, "--json")
  assert code == 0 and paths_of(out) == ["b.png", "photos/a.png"]
  os.symlink("b.png", "link.png")  # Another name of the same file has a row of its own.
  assert paths_of(said("b.png", "link.png", "--json")[1]) == ["b.png", "link.png"]


def test_thousands_of_names(said):
  photo("0.png")
  names = [f"{k}.png" for k in range(3000)]
  for name in names[1:]:
    os.link("0.png", name)
  code, out, logged = said(*names, "--json")
  assert code == 0 and paths_of(out) == names
  assert all(re.fullmatch(r"\d+ of 3000 images, [\d.]+ a second", line) for line in logged)


def test_a_long_name_does_not_pad_the_table(said):
  for name in ("a.png", "bbb.png", "c.png", f"{'x' * 200}.png"):
    photo(name)
  lines = said("*.png")[1].splitlines()
  assert lines[0].startswith("a.png    dark ") and lines[1].startswith("bbb.png  dark ")
  assert lines[3].startswith(f"{'x' * 200}.png  dark ")
  assert len(said(f"{'x' * 200}.png")[1].splitlines()) == 1


def test_long_names_of_one_length_are_a_table(said):
  names = [f"{'x' * 100}{k}/{'y' * k}.png" for k in range(1, 9)]
  for name in names:
    photo(name)
  lines = said(*names)[1].splitlines()
  assert all(line[len(names[-1]) :].startswith("  dark ") for line in lines)


def test_a_long_work_tells_how_far_it_is(said, monkeypatch):
  """At most once a second at first, then less often; nothing of what takes no longer."""
  now = [0.0]
  monkeypatch.setattr(classifier.time, "monotonic", lambda: now[0])
  names = [f"{k}.png" for k in range(320)]
  for name in names:
    photo(name)
  assert said(*names)[2] == []
  read = pathlib.Path.read_bytes

  def slow(path):
    now[0] += 1 / 64
    return read(path)

  monkeypatch.setattr(pathlib.Path, "read_bytes", slow)
  told = said(*names)[2]
  assert told == [f"{done} of 320 images, 64.0 a second" for done in range(96, 320, 64)]
  now[0] = 0.0
  monkeypatch.setattr(classifier, "TELL_SECONDS", 0.01)
  assert 5 < len(said(*names)[2]) < 10
