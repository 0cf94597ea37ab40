# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Which grid a table of positions is for: told, implied, or refused; by values."""

import json

import numpy as np
import pytest
from tiny_model import FIELDS, NAME, assert_equal, flatten, tiny

from vit_jax.checkpoints import grids
from vit_jax.checkpoints.grids import POSITIONS
from vit_jax.checkpoints.npz import METADATA, read_npz, to_released, write_npz
from vit_jax.checkpoints.pretrained import from_pretrained
from vit_jax.checkpoints.saving import save_checkpoint
from vit_jax.checkpoints.torch_files import read_safetensors, write_safetensors
from vit_jax.errors import UserError

TABLE = "Transformer/encoderblock_0/relative_position_bias/table"


def test_a_relative_table_tells_a_square_by_its_offsets():
  for side in (1, 2, 5):
    for learned, extra in (({}, 0), ({"cls": np.zeros((1, 1, 2))}, 3)):
      flat = {TABLE: np.zeros(((2 * side - 1) ** 2 + extra, 2), np.float32), **learned}
      assert grids.grid_of(flat, (0,)) == ((side, side), 0)
  assert grids.grid_of({TABLE: np.zeros((3 * 5, 2))}, (0,)) == (None, 0)
  assert grids.grid_of({TABLE: np.zeros((3 * 5, 2))}, (0,), told=(2, 3)) == ((2, 3), 0)
  with pytest.raises(UserError, match=r"3x2 patches, but its relative position bias has 16 rows"):
    grids.grid_of({TABLE: np.zeros((16, 2))}, (0,), told=(3, 2))
  with pytest.raises(UserError, match=r"5x5 patches.* or 2x14 patches"):  # 81 = 3 * 27.
    grids.grid_of({TABLE: np.zeros((81, 2))}, (0,), wanted=(2, 14))


# Sizes whose patches, or patches and class token, are as many as those of a square: 6x8 + 1 = 7x7,
# 2x7 + 2 = 4x4, 9x16 = 12x12, 3x12 = 6x6; and one that is nothing of this.
SIZES = [(96, 128), (32, 112), (144, 256), (48, 192), (32, 96)]
KINDS = {
  "token": dict(classifier="token"),
  "gap": dict(classifier="gap"),
  "distilled": dict(name="DeiT-Ti_16-distilled"),
  "layer_scale": dict(name="DeiT3-S_16"),
  "relative": dict(position_embedding="relative"),
  "learned_2d": dict(position_embedding="learned_2d"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
def test_a_told_size_is_kept_and_what_is_not_told_never_guessed(kind, size, tmp_path):
  fields = dict(KINDS[kind])
  name = fields.pop("name", NAME)
  model, variables = tiny(size=size, name=name, **fields)
  suffixes = [".npz"] if "position_embedding" in fields else [".npz", ".safetensors"]
  for suffix in suffixes:
    told, bare = tmp_path / f"told{suffix}", tmp_path / f"bare{suffix}"
    save_checkpoint(told, model, variables, image_size=size)
    assert_equal(from_pretrained(told)[1], variables)
    assert_equal(from_pretrained(told, image_size=size)[1], variables)

    save_checkpoint(bare, model, variables)
    for file in (bare, stripped(bare)):
      arguments = dict(checkpoint=file, **FIELDS, **fields)
      _, loaded = from_pretrained(name, checkpoint_image_size=size, **arguments)
      assert_equal(loaded, variables)
      try:
        _, loaded = from_pretrained(name, image_size=size, **arguments)
      except UserError as error:
        assert "checkpoint_image_size=(height, width)" in str(error)
      else:
        if file == bare or suffix != ".npz":  # Google's own files are square where they can be.
          assert_equal(loaded, variables)


def stripped(file):
  """The same file as another project writes it, without our metadata."""
  other = file.with_stem("foreign")
  if file.suffix == ".npz":
    write_npz(other, read_npz(file)[0])
  else:
    write_safetensors(other, read_safetensors(file)[0])
  return other


def test_a_square_of_google_is_resampled_for_a_rectangle_of_as_many_patches(tmp_path):
  _, variables = tiny(size=(384, 384))
  write_npz(tmp_path / "released.npz", to_released(flatten(variables)))
  _, loaded = from_pretrained(NAME, tmp_path / "released.npz", image_size=(288, 512), **FIELDS)
  before, after = flatten(variables)[POSITIONS], flatten(loaded)[POSITIONS]
  assert after.shape == before.shape
  np.testing.assert_array_equal(after[:, 0], before[:, 0])
  corners = after[0, 1:].reshape(18, 32, -1)[[0, 0, -1, -1], [0, -1, 0, -1]]
  theirs = before[0, 1:].reshape(24, 24, -1)[[0, 0, -1, -1], [0, -1, 0, -1]]
  np.testing.assert_allclose(corners, theirs, rtol=1e-6)  # The corners are aligned.
  assert not np.allclose(after, before)


def test_a_size_that_cannot_be_is_refused(tmp_path):
  model, variables = tiny(size=(96, 128))
  with pytest.raises(UserError, match="image_size=112x112 is not the size that the model's pos"):
    save_checkpoint(tmp_path / "x.npz", model, variables, image_size=112)
  save_checkpoint(tmp_path / "x.npz", model, variables, image_size=(96, 128))
  arrays, metadata = read_npz(tmp_path / "x.npz")
  write_npz(tmp_path / "x.npz", arrays, {**metadata, "image_size": [64, 64]})
  with pytest.raises(UserError, match=r"said to be for images of 64x64, which is 4x4 patches, but"):
    from_pretrained(tmp_path / "x.npz")
  with pytest.raises(UserError, match=r"checkpoint_image_size='big' is no size in pixels"):
    from_pretrained(NAME, tmp_path / "x.npz", checkpoint_image_size="big")


def test_a_guess_in_a_file_of_version_1_is_not_believed(tmp_path):
  """It wrote the size of a square grid, with no slot for the class token, if there was one."""
  for size, guess in (((96, 128), 112), ((144, 256), 192)):
    model, variables = tiny(size=size, classifier="token" if guess == 112 else "gap")
    save_checkpoint(tmp_path / "x.npz", model, variables)
    arrays, metadata = read_npz(tmp_path / "x.npz")
    old = {**metadata, "version": 1, "model": None, "image_size": [guess, guess]}
    write_npz(tmp_path / "x.npz", arrays, old)
    arguments = dict(checkpoint=tmp_path / "x.npz", classifier=model.classifier, **FIELDS)
    _, loaded = from_pretrained(NAME, checkpoint_image_size=size, **arguments)
    assert_equal(loaded, variables)
    try:
      assert_equal(from_pretrained(NAME, image_size=size, **arguments)[1], variables)
    except UserError as error:
      assert guess == 192 and "12x12 patches (192x192 pixels) or 9x16" in str(error)


def test_no_size_is_written_that_nobody_told(tmp_path):
  model, variables = tiny()
  save_checkpoint(tmp_path / "x.npz", model, variables)
  assert "image_size" not in json.loads(np.load(tmp_path / "x.npz")[METADATA].tobytes())
  model, variables = tiny(position_embedding="learned_2d", size=(32, 96))
  save_checkpoint(tmp_path / "y.npz", model, variables)  # Whose tables tell both sides.
  assert json.loads(np.load(tmp_path / "y.npz")[METADATA].tobytes())["image_size"] == [32, 96]
