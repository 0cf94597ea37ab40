# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Folders of images with texts, in the layout of Hugging Face's ImageFolder."""

import json
import unicodedata

import numpy as np
import pytest
from PIL import Image

from vit_jax.data import datasets, loader, text, transforms
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
  data = datasets.open_dataset(tmp_path)
  assert data.class_names == ()
  assert {name: len(data.source(name)) for name in data.splits} == {"train": 4, "val": 3}
  record = data.source("val")[2]
  assert record["id"] == "validation/2.png" and record["text"] == ["text 2"]


def test_splits_of_one_file_are_the_folders_of_its_images(tmp_path):
  files = [*(f"train/{k}.png" for k in range(4)), *(f"dev/{k}.png" for k in range(2))]
  write(tmp_path, [{"file_name": file, "text": file} for file in files])
  data = datasets.open_dataset(tmp_path)
  assert data.splits == ("train", "val")
  for split, own in (("train", files[:4]), ("val", files[4:])):
    found = data.source(split)
    assert (found.files, found.texts) == (own, [[file] for file in own])
  (tmp_path / "1.png").write_bytes((tmp_path / "dev" / "1.png").read_bytes())
  files.append("1.png")  # One that lies beside the folders belongs to none of them.
  write(tmp_path, [{"file_name": file, "text": file} for file in files])
  whole = datasets.open_dataset(tmp_path)
  assert sum(len(whole.source(split)) for split in whole.splits) == len(files)
  assert {len(whole.source(split)) for split in ("val", "test")} == {1}


def test_one_folder_is_divided_once_and_for_all(tmp_path):
  write(tmp_path, rows(20))
  data = datasets.open_dataset(tmp_path)
  ids = {
    name: [data.source(name).name(i) for i in range(len(data.source(name)))] for name in data.splits
  }
  assert {name: len(own) for name, own in ids.items()} == {"train": 16, "val": 2, "test": 2}
  assert len({i for own in ids.values() for i in own}) == 20
  again = datasets.open_dataset(tmp_path)
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
  data = datasets.open_dataset(tmp_path)
  assert data.source("train").texts == [["one, two", "three"], ["vier"], ["fünf"]]
  assert data.source("val")[0]["text"] == ["x", "y"]


def test_batches_hold_the_tokens_of_one_of_the_texts(tmp_path):
  write(tmp_path / "train", [{"file_name": f"{i}.png", "text": ["a", "b"]} for i in range(4)])
  tokenizer = text.make_tokenizer("bytes", None, 4)
  batches = loader.TrainLoader(
    datasets.open_dataset(tmp_path).source("train"),
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
    datasets.open_dataset(tmp_path)


def test_too_few_to_divide(tmp_path):
  write(tmp_path, rows(2))
  with pytest.raises(UserError, match="only 2 images"):
    datasets.open_dataset(tmp_path)


def test_other_metadata_beside_classes_is_not_ours(tmp_path):
  for name in ("cat", "dog"):
    (tmp_path / name).mkdir()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / name / "0.png")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / name / "1.png")
  (tmp_path / "metadata.csv").write_text("id,label\n0,cat\n")
  assert datasets.open_dataset(tmp_path).class_names == ("cat", "dog")


def test_what_a_spreadsheet_writes_is_read(tmp_path):
  write(tmp_path / "train", rows(2))
  (tmp_path / "train" / "metadata.jsonl").unlink()
  table = tmp_path / "train" / "metadata.csv"
  table.write_text("file_name,text\n0.png,für\n1.png,b\n", encoding="utf-8-sig")
  assert datasets.open_dataset(tmp_path).tables["train"].texts[0] == ["für"]
  table.write_text("file_name,text\n0.png,für\n", encoding="latin-1")
  with pytest.raises(UserError, match="write it as UTF-8"):
    datasets.open_dataset(tmp_path)
  table.write_text(f"file_name,text\n{tmp_path / 'train' / '0.png'},a\n")
  with pytest.raises(UserError, match="names are relative"):
    datasets.open_dataset(tmp_path)


def opened_train(root):
  """The split train of a folder that gets another one for val, so that nothing is split off."""
  write(root / "val", rows(1))
  return datasets.open_dataset(root).tables["train"]


def classes_with(folder, content, name="metadata.jsonl"):
  """Class folders with two images each, and a metadata file beside them."""
  images = [f"{kind}/{i}.png" for kind in ("cat", "dog") for i in range(2)]
  write(folder, [], name, images)
  (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)


@pytest.mark.parametrize(
  "table",
  [
    '"file_name","text"\ncat/0.png,"one, two"\ndog/1.png,three\n',
    '"file_name";"text"\r\n"cat/0.png";one, two\r\ndog/1.png;"three"\r\n',
    "file_name\ttext\ncat/0.png\tone, two\ndog/1.png\tthree",
    'file_name, text\ncat/0.png, "one, two"\ndog/1.png, three\n',
    'id;" Text " ; FILE_NAME ;more\n1;one, two; cat/0.png ;\n2; three ;dog/1.png;x\n',
    '\n \n"file_name" , "text"\n\n"cat/0.png" , "one, two" \n , \ndog/1.png , three\n',
    "\ufefftext,file_name\n'one, two',cat/0.png\nthree,dog/1.png\n".replace("'", '"'),
  ],
  ids=["quotes", "semicolon", "tab", "blank", "order", "blanks", "mark"],
)
def test_headers_in_every_spelling_are_seen_beside_class_folders(table, tmp_path):
  classes_with(tmp_path / "train", table, "metadata.csv")
  train = opened_train(tmp_path)
  assert (train.files, train.texts) == (
    ["train/cat/0.png", "train/dog/1.png"],
    [["one, two"], ["three"]],
  )


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1e"])
@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv"])
def test_only_line_feeds_end_lines(name, mark, tmp_path):
  write(tmp_path / "train", rows(2))
  (tmp_path / "train" / "metadata.jsonl").unlink()
  texts = [f"one{mark}two", "three"]
  if name.endswith("csv"):
    lines = ["file_name,text", *(f"{i}.png,{own}" for i, own in enumerate(texts))]
  else:
    lines = [f'{{"file_name": "{i}.png", "text": "{own}"}}' for i, own in enumerate(texts)]
  (tmp_path / "train" / name).write_bytes("\r\n".join(lines).encode())
  assert opened_train(tmp_path).texts == [[texts[0]], [texts[1]]]


def test_an_image_has_one_name(tmp_path):
  names = ["0.png", "./0.png", "sub//1.png", "sub/../0.png", "sub/./1.png"]
  write(tmp_path / "train", [], images=["0.png", "sub/1.png"])
  lines = [json.dumps({"file_name": n, "text": f"text {i}"}) for i, n in enumerate(names)]
  (tmp_path / "train" / "metadata.jsonl").write_text("\n".join(lines))
  train = opened_train(tmp_path)
  assert train.files == ["train/0.png", "train/sub/1.png"]
  assert train.texts == [["text 0", "text 1", "text 3"], ["text 2", "text 4"]]


@pytest.mark.parametrize("on_disk, written", [("NFC", "NFD"), ("NFD", "NFC")])
def test_accents_may_be_spelled_differently_on_disk(on_disk, written, tmp_path):
  file = unicodedata.normalize(on_disk, "Ä/é.png")
  names = [unicodedata.normalize(written, file), file]
  write(tmp_path / "train", [{"file_name": n, "text": n} for n in names], images=[file])
  train = opened_train(tmp_path)
  assert train.files == [f"train/{file}"] and train.texts == [names]
  assert train[0]["image"]


@pytest.mark.parametrize("file", ["../x.png", "..", "sub/../../x.png", "/x.png", "../train2/x.png"])
def test_images_outside_are_refused(file, tmp_path):
  write(tmp_path / "train", rows(1), images=["0.png", "../x.png"])
  line = json.dumps({"file_name": file, "text": "a"})
  (tmp_path / "train" / "metadata.jsonl").write_text(line)
  with pytest.raises(UserError, match=r"outside of its folder; names are relative to") as error:
    datasets.open_dataset(tmp_path)
  assert f"names {file}, which" in str(error.value)


@pytest.mark.parametrize("file", ["", "x" * 300 + ".png", "a\0b.png", "sub"])
def test_what_is_no_file_is_told(file, tmp_path):
  write(tmp_path / "train", rows(1), images=["sub/0.png"])
  line = json.dumps({"file_name": file, "text": "a"})
  (tmp_path / "train" / "metadata.jsonl").write_text(line)
  with pytest.raises(UserError, match="which is not there"):
    datasets.open_dataset(tmp_path)


@pytest.mark.parametrize(
  "name, content",
  [
    ("metadata.jsonl", '{"file_name": "cat/0.png", "label": 0}\n{"file_name": "dog/0.png"}\n'),
    ("metadata.jsonl", '{"text": "made in 2026"}'),
    ("metadata.jsonl", ""),
    ("metadata.csv", "file_name;label\ncat/0.png;0\n"),
    ("metadata.csv", "größe,label\n1,0\n".encode("latin-1")),
    ("metadata.csv", ""),
  ],
)
def test_metadata_without_texts_leaves_class_folders_as_they_are(name, content, tmp_path, caplog):
  caplog.set_level("INFO")
  classes_with(tmp_path, content, name)
  assert datasets.open_dataset(tmp_path).class_names == ("cat", "dog")
  assert f"{tmp_path / name} has no file_name with a text, so it is not used" in caplog.messages


@pytest.mark.parametrize(
  "name, content, told",
  [
    ("metadata.jsonl", '{"file_name": "cat/0.png"}\n{"file_name": \n', "line 2 is no JSON"),
    ("metadata.jsonl", '{"file_name": "cat/0.png"}\n\n["a"]\n', "line 3 is no JSON object"),
    ("metadata.jsonl", "[" * 100_000, "line 1 is no JSON"),
    ("metadata.jsonl", '{"file_name": "a"}\n'.encode("utf-16"), "write it as UTF-8"),
    ("metadata.csv", "file_name,text\ncat/0.png,a\n".encode("utf-16"), "write it as UTF-8"),
    ("metadata.csv", "file_name,text\ncat/0.png,a, b\n", "row 1 has more cells than .* quotes"),
    ("metadata.csv", "file_name,text,Text\ncat/0.png,a,b\n", "two columns called text"),
    ("metadata.jsonl", '{"file_name": "cat/0.png", "text": "a", "Text": "b"}', "two columns"),
    ("metadata.csv", "file_name,text\ncat/0.png\n", "row 1 needs a file_name and a text"),
    ("metadata.csv", "file_name,text\ncat/0.png," + "a" * 2**18, "is no CSV file"),
  ],
)
def test_faults_beside_class_folders_do_not_make_classes(name, content, told, tmp_path):
  classes_with(tmp_path, content, name)
  with pytest.raises(UserError, match=told) as error:
    datasets.open_dataset(tmp_path)
  assert str(tmp_path / name) in str(error.value) and "\n" not in str(error.value)


def test_two_places_for_the_same_texts_are_refused(tmp_path):
  for names in (("valid", "validation"), ("Train", "train")):
    root = tmp_path / names[0]
    for name in names:
      write(root / name, rows(3))
    with pytest.raises(UserError, match=f"both {names[0]!r} and {names[1]!r} as .*; keep one"):
      datasets.open_dataset(root)
    (root / names[1] / "metadata.jsonl").unlink()  # Its images would be left out.
    with pytest.raises(UserError, match=f"both {names[0]!r} and {names[1]!r} as .*; keep one"):
      datasets.open_dataset(root)
  write(tmp_path / "a" / "train", rows(3))
  (tmp_path / "a" / "train" / "metadata.csv").write_text("file_name,text\n0.png,other\n")
  with pytest.raises(
    UserError, match=r"both metadata\.jsonl and metadata\.csv with texts; keep one"
  ):
    datasets.open_dataset(tmp_path / "a")
  (tmp_path / "a" / "train" / "metadata.csv").write_text("file_name,label\n0.png,1\n")
  write(tmp_path / "a", [{"file_name": "train/0.png", "text": "a"}], "metadata.jsonl", [])
  with pytest.raises(UserError, match="one file for each split"):
    datasets.open_dataset(tmp_path / "a")
  (tmp_path / "a" / "metadata.jsonl").unlink()
  assert len(datasets.open_dataset(tmp_path / "a").source("train")) == 3


def test_images_without_a_text_are_counted_once(tmp_path, caplog):
  write(tmp_path / "train", rows(4), images=[f"{i}.png" for i in range(6)])
  write(tmp_path / "val", rows(1))
  (tmp_path / "test").mkdir()
  (tmp_path / "test" / "0.png").write_bytes((tmp_path / "val" / "0.png").read_bytes())
  datasets.open_dataset(tmp_path)
  (message,) = caplog.messages
  assert message.endswith("left out 3 images without a text, the first is test/0.png")
  caplog.clear()
  write(tmp_path / "whole", rows(4))
  datasets.open_dataset(tmp_path / "whole")
  assert not caplog.messages
