# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""BiT's files: the released names in every spelling, big_vision's, and what is adapted.

That these names mean what they say is proved against timm in tests/parity/test_timm_bit.py.
"""

import re

import jax
import numpy as np
import pytest
import safetensors.numpy
from tiny_model import CLASSES, assert_equal, flatten

from vit_jax.checkpoints import convert
from vit_jax.checkpoints.convert import verify
from vit_jax.checkpoints.npz import METADATA
from vit_jax.checkpoints.pretrained import from_pretrained
from vit_jax.checkpoints.reading import read_metadata
from vit_jax.checkpoints.saving import save_checkpoint
from vit_jax.errors import UserError
from vit_jax.models.registry import create_model

NAME = "BiT-R50x1"
FIELDS = dict(num_units=(1, 2), width_factor=0.5)


def bit(**fields):
  """Returns (model, variables) with normal noise everywhere."""
  model = create_model(NAME, num_classes=CLASSES, **fields)
  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 64, 64, 3), np.float32))
  return model, jax.tree.map(lambda x: rng.normal(0, 0.3, x.shape).astype(np.float32), shapes)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
  folder = tmp_path_factory.mktemp("bit")
  model, variables = bit(**FIELDS)
  for suffix in (".npz", ".safetensors"):
    save_checkpoint(folder / f"x{suffix}", model, variables)
  with np.load(folder / "x.npz") as archive:
    arrays = {name: archive[name] for name in archive.files if name != METADATA}
  return folder, variables, arrays


def test_written_names_are_the_released_ones(saved):
  _, _, arrays = saved
  assert {name: arrays[name].shape for name in arrays if "unit02" not in name} == {
    "resnet/root_block/standardized_conv2d/kernel": (7, 7, 3, 32),
    **{
      f"resnet/block{block}/unit01/{part}/{leaf}": shape
      for block, old, mid in ((1, 32, 32), (2, 128, 64))
      for part, leaf, shape in (
        ("a", "standardized_conv2d/kernel", (1, 1, old, mid)),
        ("a", "group_norm/gamma", (old,)),
        ("a", "group_norm/beta", (old,)),
        ("a/proj", "standardized_conv2d/kernel", (1, 1, old, 4 * mid)),
        ("b", "standardized_conv2d/kernel", (3, 3, mid, mid)),
        ("b", "group_norm/gamma", (mid,)),
        ("b", "group_norm/beta", (mid,)),
        ("c", "standardized_conv2d/kernel", (1, 1, mid, 4 * mid)),
        ("c", "group_norm/gamma", (mid,)),
        ("c", "group_norm/beta", (mid,)),
      )
    },
    "resnet/group_norm/gamma": (256,),
    "resnet/group_norm/beta": (256,),
    "resnet/head/conv2d/kernel": (1, 1, 256, 5),
    "resnet/head/conv2d/bias": (5,),
  }


def numbered(arrays):
  """As TensorFlow numbered the layers of some files."""
  return {
    re.sub(r"(standardized_conv2d|group_norm|conv2d)/", rf"\1_{n}/", name, count=1): value
    for n, (name, value) in enumerate(arrays.items())
  }


def prefixed(arrays):
  return {"step": np.zeros((), np.int64), **{f"params/{k}": v for k, v in arrays.items()}}


@pytest.mark.parametrize("spelling", [dict, numbered, prefixed])
def test_every_spelling_of_the_released_names_loads(spelling, saved, tmp_path, caplog):
  _, variables, arrays = saved
  np.savez(tmp_path / "x.npz", **spelling(arrays))
  caplog.set_level("INFO")
  model, restored = from_pretrained(NAME, tmp_path / "x.npz", **FIELDS)
  assert_equal(restored, variables)
  assert (model.weight_standardization, model.group_norm_eps) == ("bit", 1e-5)
  assert "weight_standardization=bit (names of BiT's npz)" in caplog.text


def test_big_visions_names_load(saved, tmp_path):
  _, variables, _ = saved
  flat = {
    f"params/{path}": value[None, None, None] if re.search(r"(gn\d|norm-)", path) else value
    for path, value in flatten(variables).items()
  }
  np.savez(tmp_path / "x.npz", **flat)
  model, restored = from_pretrained(NAME, tmp_path / "x.npz", **FIELDS)
  assert_equal(restored, variables)
  assert model.weight_standardization == "bit"


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_written_files_load_with_their_numerics(suffix, tmp_path):
  model, variables = bit(**FIELDS, weight_standardization="timm", group_norm_eps=1e-3)
  save_checkpoint(tmp_path / f"x{suffix}", model, variables)
  again, restored = from_pretrained(NAME, tmp_path / f"x{suffix}", **FIELDS)
  assert_equal(restored, variables)
  assert (again.weight_standardization, again.group_norm_eps) == ("timm", 1e-3)


def test_the_head_channels_and_classes_are_adapted(saved):
  folder, variables, _ = saved
  old = flatten(variables)
  model, restored = from_pretrained(NAME, folder / "x.npz", num_classes=7, **FIELDS)
  assert not flatten(restored)["head/kernel"].any() and model.num_classes == 7
  _, restored = from_pretrained(NAME, folder / "x.npz", classes=[3, 1], channels=1, **FIELDS)
  new = flatten(restored)
  np.testing.assert_array_equal(new["head/kernel"], old["head/kernel"][:, [3, 1]])
  root = "root_block/conv_root/kernel"
  np.testing.assert_array_equal(new[root], old[root].sum(2, keepdims=True))
  _, restored = from_pretrained(NAME, folder / "x.npz", num_classes=0, image_size=65, **FIELDS)
  assert "head/kernel" not in flatten(restored)


def test_another_size_is_named(tmp_path):
  model, variables = bit()
  save_checkpoint(tmp_path / "x.npz", model, variables)
  assert read_metadata(tmp_path / "x.npz")["model"] == NAME
  with np.load(tmp_path / "x.npz") as archive:
    np.savez(tmp_path / "y.npz", **{n: archive[n] for n in archive.files if n != METADATA})
  with pytest.raises(UserError) as caught:
    from_pretrained("BiT-R101x1", tmp_path / "y.npz")
  message = str(caught.value)
  assert "does not fit BiT-R101x1 (its sizes are those of BiT-R50x1)" in message
  assert "missing: block3/unit{7..23}/conv1/kernel, block3/unit{7..23}/conv2/kernel" in message


def test_leaves_that_are_not_bits_are_refused(saved, tmp_path):
  folder, _, arrays = saved
  np.savez(tmp_path / "x.npz", **arrays, **{"resnet/block1/unit01/d/kernel": np.zeros(3, "f")})
  with pytest.raises(UserError, match=r"1 extra: resnet/block1/unit01/d/kernel \(3,\)"):
    from_pretrained(NAME, tmp_path / "x.npz", **FIELDS)
  # timm's ResNet-v2 with BatchNorm has the same names, and running means beside them.
  state = safetensors.numpy.load_file(folder / "x.safetensors")
  state["norm.running_mean"] = np.zeros(256, np.float32)
  safetensors.numpy.save_file(state, tmp_path / "x.safetensors")
  with pytest.raises(UserError, match=r"1 extra: norm.running_mean \(256,\)"):
    from_pretrained(NAME, tmp_path / "x.safetensors", **FIELDS)


@pytest.mark.parametrize(
  "suffix, where", [(".npz", "Google's .npz of BiT"), (".safetensors", "timm's ResNetV2")]
)
def test_parameters_without_a_name_in_the_file_are_refused(suffix, where, tmp_path):
  model, variables = bit(**FIELDS)
  variables["params"]["adapter"] = {"kernel": np.zeros((2, 2)), "bias": np.zeros(2)}
  with pytest.raises(UserError) as caught:
    save_checkpoint(tmp_path / f"x{suffix}", model, variables)
  paths = "adapter/kernel, adapter/bias"
  assert str(caught.value).startswith(f"{where} has no place for {paths}; take them out")
  assert not list(tmp_path.iterdir())


def test_a_folder_for_transformers_is_refused(saved, tmp_path):
  _, variables, _ = saved
  with pytest.raises(UserError, match=r"save an \.npz or .safetensors file"):
    save_checkpoint(tmp_path / "folder", bit(**FIELDS)[0], variables)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_verify_runs_timms_model(suffix, saved, tmp_path):
  _, variables, _ = saved
  model, _ = bit(**FIELDS)
  file = tmp_path / f"x{suffix}"
  save_checkpoint(file, model, variables, metadata={"image_size": [33, 40]})
  errors = verify(file, model, variables)
  assert list(errors) == ["float32"] and errors["float32"] < 1e-5


def test_where_float32_is_not_enough_verify_compares_in_float64(saved, monkeypatch):
  folder, variables, _ = saved
  model, _ = bit(**FIELDS)
  monkeypatch.setattr(convert, "TOLERANCE", 0.0)  # As all units of a BiT exceed the real one.
  errors = verify(folder / "x.npz", model, variables)
  assert list(errors) == ["float32", "float64"]
  assert errors["float64"] < 1e-12 < errors["float32"] < 1e-5
  off = jax.tree.map(lambda x: x * 1.001, variables)
  assert min(verify(folder / "x.npz", model, off).values()) > 1e-4
