# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""`vit-jax convert`: chains of formats that come back bit by bit, and the proof of each link."""

import re
import sys

import jax
import numpy as np
import pytest
import timm
import torch

from vit_jax.checkpoints import convert
from vit_jax.checkpoints.pretrained import from_pretrained
from vit_jax.checkpoints.saving import save_checkpoint
from vit_jax.cli.app import main
from vit_jax.models.registry import create_model

FIELDS = dict(hidden_size=32, num_layers=2, mlp_dim=64, num_heads=2)
OPTIONS = [f"--model.{key}={value}" for key, value in FIELDS.items()]


def noisy(name="ViT-B_16", size=64, **fields):
  model = create_model(name, num_classes=3, **{**FIELDS, **fields})
  shapes = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, size, size, 3)))
  rng = np.random.default_rng(0)
  return model, jax.tree.map(lambda x: rng.normal(0, 0.3, x.shape).astype(np.float32), shapes)


def run(*arguments, model="ViT-B_16", options=OPTIONS):
  return main(["convert", *map(str, arguments), f"--model={model}", *options])


def proved(capsys):
  """The figures by dtype of every line that tells of a proof."""
  lines = re.findall("^relative error against PyTorch: (.*)$", capsys.readouterr().out, re.M)
  words = [[figure.split(" in ") for figure in line.split(", ")] for line in lines]
  return [{dtype: float(error) for error, dtype in line} for line in words]


@pytest.mark.parametrize("middle", ["timm.safetensors", "hf"])
def test_a_round_trip_over_pytorch_is_bit_exact(middle, tmp_path, capsys):
  first, last = tmp_path / "first.npz", tmp_path / "last.npz"
  save_checkpoint(first, *noisy(), metadata={"class_names": ["a", "b", "c"]})
  assert run(first, tmp_path / middle, "--verify") == 0
  assert run(tmp_path / middle, last, "--verify") == 0
  figures = proved(capsys)
  assert [list(f) for f in figures] == [["float32"], ["float32"]]
  assert max(f["float32"] for f in figures) < 1e-5
  with np.load(first) as before, np.load(last) as after:
    assert before.files == after.files
    for name in before.files:
      np.testing.assert_array_equal(before[name], after[name], err_msg=name)


def test_a_hybrid_goes_to_timm_and_back(tmp_path, capsys):
  name, options = "R+ViT-Ti_16", [*OPTIONS, "--verify"]
  save_checkpoint(tmp_path / "a.npz", *noisy(name))
  assert run(tmp_path / "a.npz", tmp_path / "b.safetensors", model=name, options=options) == 0
  assert run(tmp_path / "b.safetensors", tmp_path / "c.npz", model=name, options=options) == 0
  with np.load(tmp_path / "a.npz") as before, np.load(tmp_path / "c.npz") as after:
    assert all(np.array_equal(before[name], after[name]) for name in before.files)


def test_pre_logits_are_kept_where_the_format_has_them(tmp_path, capsys):
  save_checkpoint(tmp_path / "a.npz", *noisy(representation_size=16))
  assert run(tmp_path / "a.npz", tmp_path / "b.npz") == 0
  with np.load(tmp_path / "b.npz") as file:
    assert file["pre_logits/kernel"].shape == (32, 16)
  for out, where in (("b.safetensors", "timm's ViT"), ("hf", "ViTForImageClassification")):
    assert run(tmp_path / "a.npz", tmp_path / out) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert where in error and "has no place for pre_logits/" in error
    assert not (tmp_path / out).exists()


def test_the_activation_can_be_said_where_the_file_does_not(tmp_path):
  theirs = timm.create_model(
    "vit_base_patch16_224", img_size=64, num_classes=3, embed_dim=32, depth=2, num_heads=2,
    mlp_ratio=2, act_layer="gelu_tanh",
  )  # fmt: skip
  torch.save({"model": theirs.state_dict(), "optimizer": {"step": 1}}, tmp_path / "a.pth")
  assert run(tmp_path / "a.pth", tmp_path / "b.npz", "--activation=gelu_tanh", "--eps=1e-6") == 0
  model, _ = from_pretrained("ViT-B_16", tmp_path / "b.npz", **FIELDS)
  assert model.activation == "gelu_tanh"


def test_a_file_that_differs_fails_the_proof(tmp_path, capsys, monkeypatch):
  model, variables = noisy()
  save_checkpoint(tmp_path / "a.npz", model, variables)
  other = jax.tree.map(lambda x: 1.001 * x, variables)
  monkeypatch.setattr(convert, "convert", lambda *_, **__: (model, other))  # As one with a fault.
  assert run("b.npz", tmp_path / "a.npz", "--verify") == 1
  [figures] = proved(capsys)
  assert list(figures) == ["float32", "float64"] and min(figures.values()) > 1e-4
  # Another GELU is seen too; the folder's config.json says tanh.
  save_checkpoint(tmp_path / "b", model, variables)
  errors = convert.verify(tmp_path / "b", model.clone(activation="gelu"), variables)
  assert min(errors.values()) > 1e-5


def test_what_proves_nothing_is_no_proof(tmp_path, capsys):
  model, variables = noisy()
  head = jax.tree.map(np.zeros_like, variables["params"]["head"])
  save_checkpoint(tmp_path / "a.npz", model, {"params": {**variables["params"], "head": head}})
  assert run(tmp_path / "a.npz", tmp_path / "b.npz", "--verify") == 2
  assert "gives zeros only" in capsys.readouterr().err
  options = ("--verify", "--model.num_classes=0")
  assert run(tmp_path / "a.npz", tmp_path / "c.npz", *options) == 0
  # NaN on both sides.
  head = jax.tree.map(lambda x: np.full_like(x, np.nan), variables["params"]["head"])
  save_checkpoint(tmp_path / "a.npz", model, {"params": {**variables["params"], "head": head}})
  capsys.readouterr()
  assert run(tmp_path / "a.npz", tmp_path / "b.npz", "--verify") == 1
  assert "nan in float64" in capsys.readouterr().out


def test_float64_counts_where_float32_rounds_too_much(tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(convert, "TOLERANCE", 1e-12)  # As deep networks exceed the real one.
  save_checkpoint(tmp_path / "a.npz", *noisy())
  assert run(tmp_path / "a.npz", tmp_path / "b.npz", "--verify") == 0
  [figures] = proved(capsys)
  assert list(figures) == ["float32", "float64"]
  assert figures["float64"] < 1e-12 < figures["float32"] < 1e-5


@pytest.mark.parametrize(
  "out, options, message",
  [
    ("b.safetensors", ["--from=timm"], "does not have the names of timm, but of the official npz"),
    ("b.txt", [], "ends in neither .npz nor .safetensors"),
    ("b.npz", ["--to=timm"], "is not a file that ends in .safetensors"),
    ("b.npz", ["--model.depth=2"], "has no field 'depth'"),
    ("b.npz", ["--verfy"], "--verfy is not an option"),
    ("b.npz", ["--activation=relu"], "activation='relu'"),
  ],
)
def test_mistakes_are_one_sentence(out, options, message, tmp_path, capsys):
  save_checkpoint(tmp_path / "a.npz", *noisy())
  assert run(tmp_path / "a.npz", tmp_path / out, *options) == 2
  error = capsys.readouterr().err.splitlines()[-1]
  assert message in error
  assert not (tmp_path / out).exists()


@pytest.mark.parametrize("out, package", [("b.npz", "torch"), ("b.safetensors", "timm"),
                                          ("hf", "torch"), ("hf", "transformers")])  # fmt: skip
def test_what_cannot_be_verified_is_not_written(out, package, tmp_path, capsys, monkeypatch):
  save_checkpoint(tmp_path / "a.npz", *noisy())
  monkeypatch.setitem(sys.modules, package, None)
  assert run(tmp_path / "a.npz", tmp_path / out, "--verify") == 2
  error = capsys.readouterr().err
  assert f"this needs {package}; install it with" in error
  assert not (tmp_path / out).exists()


def test_two_towers_are_not_written_to_be_verified(tmp_path, capsys):
  assert run("none.npz", tmp_path / "b.npz", "--verify", model="LiT-B16B", options=[]) == 2
  assert "no model of these two towers" in capsys.readouterr().err
