# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Mixer's files: the released names, what adapts, and what is refused in a sentence."""

import jax
import numpy as np
import pytest
import safetensors.numpy
from compiled import apply
from tiny_model import assert_equal, flatten, images
from tiny_model import tiny as tiny_vit

from vit_jax.checkpoints.npz import METADATA
from vit_jax.checkpoints.pretrained import from_pretrained
from vit_jax.checkpoints.reading import read_metadata
from vit_jax.checkpoints.saving import save_checkpoint
from vit_jax.cli.app import main
from vit_jax.errors import UserError
from vit_jax.models.registry import create_model
from vit_jax.params.tree import stack_layers

NAME = "Mixer-S_16"
FIELDS = dict(hidden_dim=32, num_blocks=3, tokens_mlp_dim=24, channels_mlp_dim=48)
MIXING = "MixerBlock_0/token_mixing/Dense_0/kernel"


def tiny(size=(64, 64), name=NAME, **fields):
  model = create_model(name, **{**FIELDS, "num_classes": 5, **fields})
  shapes = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, *size, 3), np.float32))
  rng = np.random.default_rng(0)
  return model, jax.tree.map(lambda x: rng.normal(0, 0.3, x.shape).astype(np.float32), shapes)


@pytest.fixture
def saved(tmp_path):
  model, variables = tiny()
  save_checkpoint(tmp_path / "x.npz", model, variables, image_size=64)
  return tmp_path / "x.npz", variables


def refused(path, name=NAME, **arguments):
  """The message of the UserError, which must be one sentence on one line."""
  with pytest.raises(UserError) as caught:
    from_pretrained(name, path, **{**FIELDS, **arguments})
  message = str(caught.value)
  assert "\n" not in message and message.endswith(".") and ". " not in message
  return message


def test_an_exported_npz_has_the_released_names_and_comes_back(saved):
  """The released files are Linen's: no block is numbered as in the old ViT files."""
  file, variables = saved
  with np.load(file) as archive:
    assert set(archive.files) == {METADATA, *flatten(variables)}
  model, restored = from_pretrained(NAME, file, **FIELDS)
  assert_equal(restored, variables)
  assert (model.activation, model.num_classes) == ("gelu_tanh", 5)
  assert read_metadata(file)["image_size"] == [64, 64]


@pytest.mark.parametrize(
  "layout",
  [
    lambda flat: {f"opt/target/{path}": value for path, value in flat.items()},
    lambda flat: {f"params/{path}": value for path, value in flat.items()},
    stack_layers,
  ],
)
def test_every_layout_is_read_as_the_same_tree(layout, tmp_path, caplog):
  caplog.set_level("INFO")
  _, variables = tiny()
  np.savez(tmp_path / "x.npz", **layout(flatten(variables)))
  _, restored = from_pretrained(NAME, tmp_path / "x.npz", **FIELDS)
  assert_equal(restored, variables)
  assert "activation=gelu_tanh (names of the official npz)" in caplog.text
  assert "Loaded at the checkpoint's resolution, 64x64 pixels." in caplog.text


def test_scan_and_loop_share_files_and_logits(saved, tmp_path):
  file, variables = saved
  model, _ = tiny()
  scan, scanned = from_pretrained(NAME, file, scan_layers=True, **FIELDS)
  assert scanned["params"]["MixerBlock"]["LayerNorm_0"]["scale"].shape == (3, 32)
  np.testing.assert_allclose(
    apply(scan, scanned, images()), apply(model, variables, images()), rtol=1e-5, atol=1e-5
  )
  save_checkpoint(tmp_path / "scan.safetensors", scan, scanned)
  _, restored = from_pretrained(NAME, tmp_path / "scan.safetensors", **FIELDS)
  assert_equal(restored, variables)


def test_head_classes_and_channels(saved):
  file, variables = saved
  before = flatten(variables)
  fresh = flatten(from_pretrained(NAME, file, num_classes=7, **FIELDS)[1])
  assert fresh["head/kernel"].shape == (32, 7) and not fresh["head/kernel"].any()
  chosen = flatten(from_pretrained(NAME, file, classes=[3, 1], **FIELDS)[1])
  np.testing.assert_array_equal(chosen["head/kernel"], before["head/kernel"][:, [3, 1]])
  assert "head/kernel" not in flatten(from_pretrained(NAME, file, num_classes=0, **FIELDS)[1])
  grey, adapted = from_pretrained(NAME, file, channels=1, **FIELDS)
  summed = before["stem/kernel"].sum(2, keepdims=True)
  np.testing.assert_array_equal(flatten(adapted)["stem/kernel"], summed)
  assert apply(grey, adapted, images()[..., :1]).shape == (2, 5)


@pytest.mark.parametrize("size", [(96, 96), (32, 128), 128])
def test_another_resolution_is_refused_and_not_guessed(saved, size):
  message = refused(saved[0], image_size=size)
  assert message.startswith("a Mixer's token-mixing MLPs are tied to one grid of patches: the che")
  assert "checkpoint's is 4x4, not " in message and "resize the images instead" in message


def test_an_oblong_grid_comes_back_by_its_metadata_or_by_being_said(tmp_path):
  model, variables = tiny((32, 96))
  save_checkpoint(tmp_path / "x.npz", model, variables, metadata={"image_size": [32, 96]})
  assert_equal(from_pretrained(NAME, tmp_path / "x.npz", **FIELDS)[1], variables)
  assert "is 2x6, not 6x2" in refused(tmp_path / "x.npz", image_size=(96, 32))

  save_checkpoint(tmp_path / "y.npz", model, variables)
  assert_equal(
    from_pretrained(NAME, tmp_path / "y.npz", image_size=(32, 96), **FIELDS)[1], variables
  )
  message = refused(tmp_path / "y.npz")
  assert "is 12, in no square, not 14x14; pass the image_size that it was trained at" in message


def test_patches_are_resampled_for_the_same_grid_only(saved):
  file, _ = saved
  assert "patch_resize='bicubic_antialias' resamples its 16x16" in refused(
    file, patch_size=8, image_size=32
  )
  half = dict(FIELDS, patch_size=8, patch_resize="bilinear")
  assert "is 4x4, not 8x8" in refused(file, **half)
  model, adapted = from_pretrained(NAME, file, image_size=32, **half)
  assert flatten(adapted)["stem/kernel"].shape == (8, 8, 3, 32)
  assert apply(model, adapted, images(32)).shape == (2, 5)


def test_families_and_sizes_are_told_apart(saved, tmp_path):
  file, _ = saved
  with pytest.raises(
    UserError, match=r"is a Mixer checkpoint .* but model 'ViT-B_16' is a ViT; pa"
  ):
    from_pretrained("ViT-B_16", file)
  save_checkpoint(tmp_path / "vit.npz", *tiny_vit())
  assert "this is a ViT checkpoint" in refused(tmp_path / "vit.npz")
  _, variables = tiny(hidden_dim=512, num_blocks=8)
  np.savez(tmp_path / "s.npz", **flatten(variables))
  assert "(its sizes are those of Mixer-S_16)" in refused(tmp_path / "s.npz", name="Mixer-B_16")


def test_leaves_that_do_not_fit_are_listed_by_block(saved):
  file, variables = saved
  flat = flatten(variables)
  for layer in range(3):
    del flat[f"MixerBlock_{layer}/LayerNorm_1/scale"]
  np.savez(file, **flat)
  assert "3 missing: MixerBlock_{0..2}/LayerNorm_1/scale" in refused(file)


def test_hugging_face_has_no_mixer(saved, tmp_path):
  model, variables = tiny()
  with pytest.raises(UserError, match=r"^transformers has no MlpMixer; save an .npz or .safeten"):
    save_checkpoint(tmp_path / "folder", model, variables)
  assert not (tmp_path / "folder").exists()


def test_another_mixer_of_timms_is_not_taken_for_ours(saved, tmp_path):
  """gMixer has the same names, but gates: its second layer takes half of the first."""
  model, variables = tiny()
  file = tmp_path / "x.safetensors"
  save_checkpoint(file, model, variables)
  state = safetensors.numpy.load_file(file)
  for layer in range(3):
    name = f"blocks.{layer}.mlp_tokens.fc2.weight"
    state[name] = np.ascontiguousarray(state[name][:, ::2])
  safetensors.numpy.save_file(state, file)
  assert "3 of another shape: MixerBlock_{0..2}/token_mixing/Dense_1/kernel is (12" in refused(file)


def test_convert_goes_to_timm_and_back_and_is_verified(saved, capsys):
  first, _ = saved
  middle, last = first.with_name("b.safetensors"), first.with_name("c.npz")
  options = [f"--model={NAME}", "--verify", *(f"--model.{k}={v}" for k, v in FIELDS.items())]
  assert main(["convert", str(first), str(middle), *options]) == 0
  assert main(["convert", str(middle), str(last), "--from=timm", *options]) == 0
  errors = [
    float(line.split(": ")[1].split()[0]) for line in capsys.readouterr().out.splitlines()[1::2]
  ]
  assert len(errors) == 2 and max(errors) < 1e-5
  with np.load(first) as before, np.load(last) as after:
    assert before.files == after.files
    assert all(np.array_equal(before[name], after[name]) for name in before.files)
