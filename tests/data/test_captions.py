# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Folders of images with texts, in the layout of Hugging Face's ImageFolder."""

import json

import numpy as np
import pytest
from PIL import Image

from vit_jax.data import loader, sources, text, transforms
from vit_jax.errors import UserError


def write(folder, rows, name="metadata.jsonl", images=None):
  folder.mkdir(parents=True, exist_ok=True)
  for file in images if images is not None else {row["file_name"] for row in rows}:
    (folder / file).parent.mkdir(exist_ok=True)
    Image.fromarray(np.full((8, 8, 3), len(file), np.uint8)).save(folder / file)
  (folder / name).write_text("\n".join(json.dumps(row) for row in rows))


def rows(count):
  return [{"file_name": f"{i}.png", "text": f"text {i}"} for i in range(count)]


def test_splits_are_used_as_they_are(tmp_path):
  write(tmp_path / "train", rows(4))
  write(tmp_path / "validation", rows(3))
  data = sources.open_dataset(tmp_path)
  assert data.class_names == ()
  assert {name: len(data.source(name)) for name in data.splits} == {"train": 4, "val": 3}
  record = data.source("val")[2]
  assert record["id"] == "validation/2.png" and record["text"] == ["text 2"]


def test_one_folder_is_divided_once_and_for_all(tmp_path):
  write(tmp_path, rows(20))
  data = sources.open_dataset(tmp_path)
  ids = {
    name: [data.source(name).name(i) for i in range(len(data.source(name)))] for name in data.splits
  }
  assert {name: len(own) for name, own in ids.items()} == {"train": 16, "val": 2, "test": 2}
  assert len({i for own in ids.values() for i in own}) == 20
  again = sources.open_dataset(tmp_path)
  assert ids["val"] == [again.source("val").name(i) for i in range(2)]
  for own in (data.source("val"), data.source("train[:50%]")):
    for index in range(len(own)):  # The text stays with its image.
      assert own[index]["text"] == [f"text {own.name(index).removesuffix('.png')}"]
      assert own[index]["label"] == index


def test_csv_and_several_texts_of_an_image(tmp_path):
  write(tmp_path / "train", rows(3))
  (tmp_path / "train" / "metadata.jsonl").unlink()
  lines = ["file_name,text", '0.png,"one, two"', "0.png,three", "1.png,vier", "2.png,fünf"]
  (tmp_path / "train" / "metadata.csv").write_text("\n".join(lines), encoding="utf-8")
  write(tmp_path / "val", [{"file_name": "a/b.png", "text": ["x", "y"]}])
  data = sources.open_dataset(tmp_path)
  assert data.source("train").texts == [["one, two", "three"], ["vier"], ["fünf"]]
  assert data.source("val")[0]["text"] == ["x", "y"]


def test_batches_hold_the_tokens_of_one_of_the_texts(tmp_path):
  write(tmp_path / "train", [{"file_name": f"{i}.png", "text": ["a", "b"]} for i in range(4)])
  tokenizer = text.make_tokenizer("bytes", None, 4)
  batches = loader.TrainLoader(
    sources.open_dataset(tmp_path).source("train"),
    transforms.Preprocessing(crop=8),
    batch_size=3,
    seed=0,
    captions=text.Captions(tokenizer),
  ).iterator()
  tokens = np.concatenate([next(batches)["tokens"] for _ in range(10)])
  assert tokens.dtype == np.int32
  assert {tuple(row) for row in tokens} == {tuple(row) for row in tokenizer(["a", "b"])}


@pytest.mark.parametrize(
  "line, told",
  [
    ('{"file_name": "0.png"}', "row 1 needs a file_name and a text"),
    ('{"file_name": "0.png", "text": ""}', "row 1 needs a file_name and a text"),
    ('{"file_name": "0.png", "text": ["a", 3]}', "row 1 needs a file_name and a text"),
    ('{"file_name": "lost.png", "text": "a"}', "lost.png, which is not there"),
    ("[]", "line 1 is no JSON object"),
    ("{", "line 1 is no JSON"),
    ("", "is empty"),
  ],
)
def test_what_cannot_be_read_is_told(line, told, tmp_path):
  write(tmp_path / "train", rows(1))
  (tmp_path / "train" / "metadata.jsonl").write_text(line)
  with pytest.raises(UserError, match=told):
    sources.open_dataset(tmp_path)


def test_too_few_to_divide(tmp_path):
  write(tmp_path, rows(2))
  with pytest.raises(UserError, match="only 2 images"):
    sources.open_dataset(tmp_path)


def test_other_metadata_beside_classes_is_not_ours(tmp_path):
  for name in ("cat", "dog"):
    (tmp_path / name).mkdir()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / name / "0.png")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / name / "1.png")
  (tmp_path / "metadata.csv").write_text("id,label\n0,cat\n")
  assert sources.open_dataset(tmp_path).class_names == ("cat", "dog")


def test_what_a_spreadsheet_writes_is_read(tmp_path):
  write(tmp_path / "train", rows(2))
  (tmp_path / "train" / "metadata.jsonl").unlink()
  table = tmp_path / "train" / "metadata.csv"
  table.write_text("file_name,text\n0.png,für\n1.png,b\n", encoding="utf-8-sig")
  assert sources.open_dataset(tmp_path).tables["train"].texts[0] == ["für"]
  table.write_text("file_name,text\n0.png,für\n", encoding="latin-1")
  with pytest.raises(UserError, match="write it as UTF-8"):
    sources.open_dataset(tmp_path)
  table.write_text(f"file_name,text\n{tmp_path / 'train' / '0.png'},a\n")
  with pytest.raises(UserError, match="names are relative"):
    sources.open_dataset(tmp_path)


def test_a_text_may_hold_any_line_separator_but_a_newline(tmp_path):
  write(tmp_path / "train", rows(2))
  own = "one \u2028 two \x85 three"
  lines = [json.dumps({**row, "text": own}, ensure_ascii=False) for row in rows(2)]
  (tmp_path / "train" / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
  data = sources.open_dataset(tmp_path)
  assert [text for split in data.splits for text in data.source(split).texts] == [[own], [own]]
