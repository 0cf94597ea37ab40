# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The weight files of a Hugging Face folder: which are read, and which a new model replaces."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
from tiny_model import FIELDS, NAME, assert_equal, tiny

from vit_jax.checkpoints import torch_files
from vit_jax.checkpoints.pretrained import from_pretrained
from vit_jax.checkpoints.reading import read_arrays, read_metadata
from vit_jax.checkpoints.saving import save_checkpoint
from vit_jax.errors import UserError

ARRAY = np.ones(3, np.float32)
INDEX = "model.safetensors.index.json"


def index(folder, content, name=INDEX):
  text = content if isinstance(content, bytes) else json.dumps(content).encode()
  (folder / name).write_bytes(text)


def refused(read, folder, words):
  with pytest.raises(UserError) as caught:
    read(folder)
  message = str(caught.value)
  assert message.startswith(str(folder)) and words in message and "\n" not in message


ELSEWHERE = ["../precious.safetensors", "../model.safetensors", "sub/model.safetensors", "..", ".",
             "sub\\model.safetensors", "C:model.safetensors", "model\0.safetensors", "config.json",
             "model.safetensors/../../precious.safetensors", "precious.safetensors", "",
             "model.bin", "pytorch_model.bin", "model.safetensors\n", "MODEL.py",
             "/tmp/model.safetensors", "model.safetensors.index.json"]  # fmt: skip


@pytest.fixture
def folder(tmp_path):
  """A folder beside a file that no index may reach."""
  for name in ("precious.safetensors", "model.safetensors"):
    safetensors.numpy.save_file({"a": ARRAY}, tmp_path / name)
  (tmp_path / "x" / "sub").mkdir(parents=True)
  for name in ("sub/model.safetensors", "precious.safetensors", "model.bin", "config.json"):
    (tmp_path / "x" / name).write_text("{}")
  return tmp_path / "x"


def contents(root):
  return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.mark.parametrize("shard", ELSEWHERE, ids=repr)
def test_an_index_names_only_weights_of_its_folder(folder, shard):
  (folder / "config.json").unlink()
  index(folder, {"weight_map": {"a": shard}})
  for read in (read_arrays, read_metadata):
    refused(read, folder, "which is no weight file of this folder")
  before = contents(folder.parent)
  model, variables = tiny()
  save_checkpoint(folder, model, variables)
  after = contents(folder.parent)
  assert before.keys() - after.keys() == {f"x/{INDEX}"}
  written = {
    f"x/{name}" for name in os.listdir(folder) if name.endswith(("model.safetensors", "json"))
  }
  assert after.keys() - before.keys() == {*written} - {"x/precious.safetensors"}
  assert all(after[name] == before[name] for name in before.keys() & after.keys())


@pytest.mark.parametrize(
  "content",
  [
    *(b"", b"\xff", b"{", b"[" * 100_000, None, [], ["a"], {}, "x", 3),
    *({"weight_map": value} for value in (None, [], ["a"], {}, "x", 3, {"a": 1}, {"a": None})),
    *(
      {"weight_map": {"a": value}} for value in (["model.safetensors"], {"b": "model.safetensors"})
    ),
  ],
  ids=lambda content: repr(content)[:30],
)
def test_a_malformed_index_is_a_sentence(folder, content):
  index(folder, content)
  refused(read_arrays, folder, INDEX)
  model, variables = tiny()
  save_checkpoint(folder, model, variables)  # But it is no hindrance to a new model.
  assert_equal(from_pretrained(NAME, folder, **FIELDS)[1], variables)
  assert not (folder / INDEX).exists()


@pytest.mark.parametrize("stem, suffix", [("model", "safetensors"), ("pytorch_model", "bin")])
def test_shards_of_either_container_are_read(tmp_path, stem, suffix):
  weight_map = {f"a{i}": f"{stem}-0000{i}-of-00002.{suffix}" for i in (1, 2)}
  for key, name in weight_map.items():
    if suffix == "bin":
      torch.save({key: torch.from_numpy(ARRAY)}, tmp_path / name)
    else:
      safetensors.numpy.save_file({key: ARRAY}, tmp_path / name)
  index(tmp_path, {"metadata": {}, "weight_map": weight_map}, f"{stem}.{suffix}.index.json")
  read, _ = read_arrays(tmp_path)
  assert read.keys() == {"a1", "a2"} and all(np.array_equal(x, ARRAY) for x in read.values())


def test_a_tensor_in_two_shards_is_refused(tmp_path):
  names = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
  for name in names:
    safetensors.numpy.save_file({"a": ARRAY}, tmp_path / name)
  index(tmp_path, {"weight_map": dict(zip("ab", names, strict=True))})
  refused(read_arrays, tmp_path, "has 'a', and so has another shard")


WEIGHTS = ["model.safetensors", INDEX, "model-00001-of-00002.safetensors", "pytorch_model.bin",
           "pytorch_model.bin.index.json", "pytorch_model-00001-of-00002.bin",
           "model.fp16.safetensors", "model.fp16-00001-of-00002.safetensors",
           "model.safetensors.index.fp16.json"]  # fmt: skip
OTHERS = ["README.md", "model.bin", "model.npz", "my-model.safetensors", "model_best.safetensors",
          "pytorch_model.safetensors", "vocab.index.json", "tokenizer.json"]  # fmt: skip


def test_only_weights_are_replaced_and_all_of_them(tmp_path):
  folder, outside = tmp_path / "x", tmp_path / "outside"
  folder.mkdir()
  for name in [*WEIGHTS, *OTHERS]:
    (folder / name).write_text(name)
  outside.write_text("precious")
  (folder / "pytorch_model-00002-of-00002.bin").symlink_to(outside)
  (folder / "model.safetensors").unlink()
  (folder / "model.safetensors").symlink_to(outside)
  model, variables = tiny()
  save_checkpoint(folder, model, variables)
  new = ["config.json", "model.safetensors", "preprocessor_config.json"]
  assert sorted(os.listdir(folder)) == sorted([*new, *OTHERS])
  assert outside.read_text() == "precious" and not (folder / "model.safetensors").is_symlink()
  assert all((folder / name).read_text() == name for name in OTHERS)
  assert_equal(from_pretrained(NAME, folder, **FIELDS)[1], variables)


def test_a_full_disk_leaves_the_older_model(tmp_path, monkeypatch):
  save_checkpoint(tmp_path, *tiny())
  (tmp_path / "pytorch_model.bin").write_text("older still")
  before = contents(tmp_path)

  def full(*_, **__):
    raise safetensors.SafetensorError("Error while serializing: I/O error: No space left on device")

  monkeypatch.setattr(safetensors.numpy, "save_file", full)
  for path in (tmp_path, tmp_path / "x.safetensors"):
    with pytest.raises(UserError, match=r"cannot be written .*No space left on device"):
      save_checkpoint(path, *tiny(seed=1))
    assert contents(tmp_path) == before


def test_old_weights_never_stand_beside_the_new_config(tmp_path, monkeypatch):
  """Whatever step is the last one, the folder is the older model, or opens as none."""
  config = lambda folder: (folder / "config.json").read_text()
  model, variables = tiny()
  save_checkpoint(tmp_path / "new", model, variables)
  unlink, replace = Path.unlink, os.replace
  for last in range(8):
    folder = tmp_path / str(last)
    _, old = tiny(seed=1, num_classes=7)
    save_checkpoint(folder, tiny(num_classes=7)[0], old)
    (folder / "pytorch_model.bin").write_bytes(b"another model")
    (folder / "pytorch_model.bin.index.json").write_bytes(b"another model")
    steps = iter(range(last))

    def counted(function, steps=steps):
      def step(*arguments, **keywords):
        if next(steps, None) is None:
          raise OSError(5, "Input/output error")
        return function(*arguments, **keywords)

      return step

    monkeypatch.setattr(Path, "unlink", counted(unlink))
    monkeypatch.setattr(os, "replace", counted(replace))
    done = True
    try:
      save_checkpoint(folder, model, variables)
    except UserError as error:
      done = False
      assert "Input/output error" in str(error)
    monkeypatch.undo()
    if torch_files.folder_weights(folder):
      expected = variables if done else old
      assert config(folder) == config(tmp_path / "new") or not done
      fields = {**FIELDS, "num_classes": None}
      assert_equal(from_pretrained(NAME, folder, **fields)[1], expected)
  assert done
