# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Swin's files: written and read back, adapted, and refused.

That the names mean what they say is proved against timm and transformers in
tests/parity/test_timm_swin.py.
"""

import re

import jax
import numpy as np
import pytest
import safetensors.numpy
from tiny_model import CLASSES, assert_equal, flatten

from vit_jax.checkpoints.convert import verify
from vit_jax.checkpoints.pretrained import from_pretrained
from vit_jax.checkpoints.reading import read_metadata
from vit_jax.checkpoints.saving import save_checkpoint
from vit_jax.errors import UserError
from vit_jax.models.registry import create_model

NAME = "Swin-T"
FIELDS = dict(embed_dim=16, depths=(2, 1), head_dim=8, window_size=4)


def swin(**fields):
  """Returns (model, variables) with normal noise everywhere."""
  model = create_model(NAME, **{"num_classes": CLASSES, **FIELDS, **fields})
  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 64, 64, 3), np.float32))
  return model, jax.tree.map(lambda x: rng.normal(0, 0.3, x.shape).astype(np.float32), shapes)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
  folder = tmp_path_factory.mktemp("swin")
  model, variables = swin()
  for suffix in (".npz", ".safetensors"):
    save_checkpoint(folder / f"x{suffix}", model, variables)
  return folder, variables


def test_written_names_are_timms(saved):
  folder, _ = saved
  state = safetensors.numpy.load_file(folder / "x.safetensors")
  block = {
    "norm1.weight": (16,),
    "norm1.bias": (16,),
    "attn.qkv.weight": (48, 16),
    "attn.qkv.bias": (48,),
    "attn.relative_position_bias_table": (49, 2),
    "attn.proj.weight": (16, 16),
    "attn.proj.bias": (16,),
    "norm2.weight": (16,),
    "norm2.bias": (16,),
    "mlp.fc1.weight": (64, 16),
    "mlp.fc1.bias": (64,),
    "mlp.fc2.weight": (16, 64),
    "mlp.fc2.bias": (16,),
  }
  assert {n: x.shape for n, x in state.items() if "layers.1.blocks" not in n} == {
    "patch_embed.proj.weight": (16, 3, 4, 4),
    "patch_embed.proj.bias": (16,),
    "patch_embed.norm.weight": (16,),
    "patch_embed.norm.bias": (16,),
    **{f"layers.0.blocks.{n}.{leaf}": shape for n in (0, 1) for leaf, shape in block.items()},
    "layers.1.downsample.norm.weight": (64,),
    "layers.1.downsample.norm.bias": (64,),
    "layers.1.downsample.reduction.weight": (32, 64),
    "norm.weight": (32,),
    "norm.bias": (32,),
    "head.fc.weight": (5, 32),
    "head.fc.bias": (5,),
  }


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_written_files_load_with_their_numerics(suffix, tmp_path):
  model, variables = swin(activation="gelu_tanh", layer_norm_eps=1e-3)
  save_checkpoint(tmp_path / f"x{suffix}", model, variables, metadata={"image_size": [60, 44]})
  again, restored = from_pretrained(NAME, tmp_path / f"x{suffix}", **FIELDS)
  assert_equal(restored, variables)
  assert (again.activation, again.layer_norm_eps) == ("gelu_tanh", 1e-3)


def test_our_names_say_the_numerics_where_nothing_else_does(saved, tmp_path, caplog):
  _, variables = saved
  np.savez(tmp_path / "x.npz", **flatten(variables))
  caplog.set_level("INFO")
  model, restored = from_pretrained(NAME, tmp_path / "x.npz", **FIELDS)
  assert_equal(restored, variables)
  assert (model.activation, model.layer_norm_eps) == ("gelu", 1e-5)
  assert "layer_norm_eps=1e-05 (names of Swin's npz)" in caplog.text


def test_the_head_channels_and_classes_are_adapted(saved):
  folder, variables = saved
  old = flatten(variables)
  model, restored = from_pretrained(NAME, folder / "x.npz", num_classes=7, **FIELDS)
  assert not flatten(restored)["head/kernel"].any() and model.num_classes == 7
  _, restored = from_pretrained(NAME, folder / "x.npz", classes=[3, 1], channels=1, **FIELDS)
  new = flatten(restored)
  np.testing.assert_array_equal(new["head/kernel"], old["head/kernel"][:, [3, 1]])
  first = "embedding/kernel"
  np.testing.assert_array_equal(new[first], old[first].sum(2, keepdims=True))
  _, restored = from_pretrained(NAME, folder / "x.npz", num_classes=0, image_size=68, **FIELDS)
  assert "head/kernel" not in flatten(restored)


def test_tables_of_maps_smaller_than_a_window_keep_their_offsets(saved, tmp_path, caplog):
  """As timm's models have them that were made for small images."""
  folder, variables = saved
  state = safetensors.numpy.load_file(folder / "x.safetensors")
  name, path = (
    f"layers{a}1{b}blocks{a}0{b}{c}{b}relative_position_bias_table"
    for a, b, c in ((".", ".", "attn"), ("_", "/", "attention"))
  )
  whole = flatten(variables)[path]
  state[name] = np.ascontiguousarray(whole[1:-1, 1:-1].reshape(25, -1))
  safetensors.numpy.save_file(state, tmp_path / "x.safetensors")
  caplog.set_level("INFO")
  _, restored = from_pretrained(NAME, tmp_path / "x.safetensors", **FIELDS)
  new = flatten(restored)[path]
  np.testing.assert_array_equal(new[1:-1, 1:-1], whole[1:-1, 1:-1])
  np.testing.assert_array_equal(new[0, 1:-1], whole[1, 1:-1])  # Others are the nearest.
  assert "Resized position biases" not in caplog.text
  _, restored = from_pretrained(NAME, folder / "x.npz", **{**FIELDS, "window_size": 6})
  assert flatten(restored)[path].shape == (11, 11, 4)
  assert "Resized position biases from windows of 4 to 6 (bicubic)" in caplog.text


def test_another_size_is_named(tmp_path):
  model = create_model(NAME)
  shapes = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 64, 64, 3), np.float32))
  variables = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), shapes)
  np.savez(tmp_path / "x.npz", **flatten(variables))
  save_checkpoint(tmp_path / "y.npz", model, variables)
  assert read_metadata(tmp_path / "y.npz")["model"] == NAME
  with pytest.raises(UserError) as caught:
    from_pretrained("Swin-S", tmp_path / "x.npz")
  message = str(caught.value)
  assert "does not fit Swin-S (its sizes are those of Swin-T)" in message
  assert "204 missing: layers_2/blocks_{6..17}/" in message
  with pytest.raises(
    UserError, match=r"this is a Swin checkpoint .* 'ViT-B_16' is a ViT; pass one"
  ):
    from_pretrained("ViT-B_16", tmp_path / "x.npz")


def test_leaves_that_are_not_swins_are_refused(saved, tmp_path):
  folder, _ = saved
  state = safetensors.numpy.load_file(folder / "x.safetensors")
  state["absolute_pos_embed"] = np.zeros((1, 4, 16), np.float32)
  safetensors.numpy.save_file(state, tmp_path / "x.safetensors")
  with pytest.raises(UserError, match=re.escape("1 extra: absolute_pos_embed (1, 4, 16)")):
    from_pretrained(NAME, tmp_path / "x.safetensors", **FIELDS)
  model, variables = swin()
  variables["params"]["adapter"] = {"kernel": np.zeros((2, 2))}
  with pytest.raises(
    UserError, match=r"timm's Swin has no place for adapter/kernel; save an \.npz"
  ):
    save_checkpoint(tmp_path / "y.safetensors", model, variables)
  with pytest.raises(
    UserError, match=r"^transformers' SwinForImageClassification has no place for"
  ):
    save_checkpoint(tmp_path / "folder", model, variables, metadata={"image_size": [64, 64]})


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_verify_runs_timms_model(suffix, saved, tmp_path):
  _, variables = saved
  model, _ = swin()
  file = tmp_path / f"x{suffix}"
  save_checkpoint(file, model, variables, metadata={"image_size": [36, 40]})
  errors = verify(file, model, variables)
  assert list(errors) == ["float32"] and errors["float32"] < 1e-5
  off = jax.tree.map(lambda x: x * 1.001, variables)
  assert min(verify(file, model, off).values()) > 1e-5


def test_verify_says_what_timm_has_not(saved, tmp_path):
  _, variables = saved
  model, _ = swin()
  save_checkpoint(tmp_path / "x.npz", model, variables, metadata={"image_size": [24, 40]})
  with pytest.raises(UserError, match="images of 24x40; compare with images of more than 24 pixel"):
    verify(tmp_path / "x.npz", model, variables)
  other = model.clone(activation="gelu_tanh")
  save_checkpoint(tmp_path / "y.npz", other, variables, metadata={"image_size": [64, 64]})
  with pytest.raises(UserError, match="timm's Swin has no activation='gelu_tanh'"):
    verify(tmp_path / "y.npz", other, variables)
