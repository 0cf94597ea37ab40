# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Every layout that Google's projects wrote is read as the same tree."""

import re

import ml_dtypes
import numpy as np
import pytest
from compiled import apply
from tiny_model import FIELDS, NAME, assert_equal, flatten, images, tiny

from vit_jax.checkpoints.npz import METADATA
from vit_jax.checkpoints.pretrained import from_pretrained
from vit_jax.checkpoints.saving import save_checkpoint
from vit_jax.params.tree import stack_layers

OLD_NUMBERS = {
  "MultiHeadDotProductAttention_0": "MultiHeadDotProductAttention_1",
  "LayerNorm_1": "LayerNorm_2",
  "MlpBlock_0": "MlpBlock_3",
}


def old_numbering(flat):
  def rename(path):
    if not path.startswith("Transformer/encoderblock"):
      return path
    for new, old in OLD_NUMBERS.items():
      path = path.replace(new, old)
    return path

  return {rename(path): value for path, value in flat.items()}


def big_vision(flat):
  """Positions at the top level and without the class token's slot."""
  flat = dict(flat)
  flat["pos_embedding"] = flat.pop("Transformer/posembed_input/pos_embedding")[:, 1:]
  return flat


def prefixed(prefix, **beside):
  return lambda flat: {**{prefix + path: value for path, value in flat.items()}, **beside}


def half(dtype):
  def convert(flat):
    return {
      p: v.astype(dtype).view("V2" if dtype == ml_dtypes.bfloat16 else dtype)
      for p, v in flat.items()
    }

  return convert


SAME_TREE = {
  "linen": dict,
  "old numbering": old_numbering,
  "scanned": stack_layers,
  "old numbering, opt/target/": lambda flat: prefixed("opt/target/")(old_numbering(flat)),
  "opt/target/ beside optimizer state": prefixed(
    "opt/target/", **{"opt/state/step": np.int64(7), "extra/rng": np.zeros(2, np.uint32)}
  ),
  "params/": prefixed("params/"),
  "params/img/": prefixed("params/img/", **{"params/t": np.ones(1), "params/txt/x": np.ones(3)}),
  "img/": prefixed("img/", **{"t": np.ones(1, np.float32), "txt/Encoder/x": np.ones(3)}),
}


def write(path, flat):
  np.savez(path, **flat)
  return path


@pytest.mark.parametrize("layout", SAME_TREE)
def test_layout_is_read_as_the_same_tree(layout, tmp_path):
  _, variables = tiny()
  file = write(tmp_path / "x.npz", SAME_TREE[layout](flatten(variables)))
  _, restored = from_pretrained(NAME, file, **FIELDS)
  assert_equal(restored, variables)


@pytest.mark.parametrize("layout", ["top level", "in Transformer", "scanned, params/"])
def test_big_vision_positions_have_no_class_slot(layout, tmp_path):
  model, variables = tiny()
  flat = big_vision(flatten(variables))
  if layout == "in Transformer":
    flat["Transformer/pos_embedding"] = flat.pop("pos_embedding")
  if layout == "scanned, params/":
    flat = prefixed("params/")(stack_layers(flat))
  restored = from_pretrained(NAME, write(tmp_path / "x.npz", flat), **FIELDS)[1]

  # big_vision adds positions before it prepends the class token: the slot is zero.
  positions = variables["params"]["Transformer"]["posembed_input"]["pos_embedding"].copy()
  positions[:, 0] = 0
  variables["params"]["Transformer"]["posembed_input"]["pos_embedding"] = positions
  assert_equal(restored, variables)
  assert apply(model, restored, images()).shape == (2, 5)


@pytest.mark.parametrize("inlined", [False, True])
def test_map_head_of_big_vision(inlined, tmp_path):
  _, variables = tiny(classifier="map")
  flat = flatten(variables)
  assert "cls" not in flat
  flat["pos_embedding"] = flat.pop("Transformer/posembed_input/pos_embedding")
  if inlined:
    flat = {path.removeprefix("MAPHead_0/"): value for path, value in flat.items()}
  _, restored = from_pretrained(NAME, write(tmp_path / "x.npz", flat), classifier="map", **FIELDS)
  assert_equal(restored, variables)


def test_old_hybrid_group_norm_has_four_axes(tmp_path):
  hybrid = dict(name="R50+ViT-B_16", stem_blocks=(1, 1), stem_width=32)
  _, variables = tiny(**hybrid)
  flat = old_numbering(flatten(variables))
  is_group_norm = re.compile(r"(^|/)gn\w+/(scale|bias)$").search
  assert sum(map(bool, map(is_group_norm, flat))) == 2 + 2 * 8
  flat = {p: v[None, None, None] if is_group_norm(p) else v for p, v in flat.items()}
  fields = {**FIELDS, "stem_blocks": (1, 1), "stem_width": 32}
  _, restored = from_pretrained("R50+ViT-B_16", write(tmp_path / "x.npz", flat), **fields)
  assert_equal(restored, variables)


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, np.float64])
def test_other_precisions_become_float32(dtype, tmp_path, caplog):
  caplog.set_level("INFO")
  _, variables = tiny()
  flat = flatten(variables)
  stored = {path: value.astype(dtype) for path, value in flat.items()}
  file = write(tmp_path / "x.npz", stored)
  if dtype == ml_dtypes.bfloat16:
    assert np.load(file)["cls"].dtype == np.dtype("V2")  # What NumPy makes of it.
  _, restored = from_pretrained(NAME, file, **FIELDS)
  for path, value in flatten(restored).items():
    assert value.dtype == np.float32
    np.testing.assert_array_equal(value, stored[path].astype(np.float32))
  assert f"Converted to float32 from {np.dtype(dtype).name}." in caplog.messages


def test_export_has_the_released_numbering_and_round_trips_bit_exactly(tmp_path):
  model, variables = tiny()
  save_checkpoint(tmp_path / "a.npz", model, variables, metadata={"class_names": list("abcde")})
  with np.load(tmp_path / "a.npz", allow_pickle=False) as archive:
    names = set(archive.files)
  assert names == {METADATA, *old_numbering(flatten(variables))}

  again, restored = from_pretrained(NAME, tmp_path / "a.npz", **FIELDS)
  assert again == model
  assert_equal(restored, variables)
  save_checkpoint(tmp_path / "b.npz", again, restored, metadata={"class_names": list("abcde")})
  assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_scan_and_loop_share_files_and_logits(suffix, tmp_path):
  loop, variables = tiny()
  save_checkpoint(tmp_path / f"loop{suffix}", loop, variables)
  scan, scanned = from_pretrained(NAME, tmp_path / f"loop{suffix}", scan_layers=True, **FIELDS)
  assert scanned["params"]["Transformer"]["encoderblock"]["LayerNorm_0"]["scale"].shape == (3, 32)
  np.testing.assert_allclose(
    apply(scan, scanned, images()), apply(loop, variables, images()), rtol=1e-5, atol=1e-6
  )
  save_checkpoint(tmp_path / f"scan{suffix}", scan, scanned)
  _, restored = from_pretrained(NAME, tmp_path / f"scan{suffix}", **FIELDS)
  assert_equal(restored, variables)
