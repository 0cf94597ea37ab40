# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""PoolFormer's files: what is kept and adapted, that a file tells its mixer, and what is refused.

That PyTorch's names mean what they say is proved in tests/parity/test_timm_metaformer.py.
"""

import jax
import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from compiled import apply
from tiny_model import CLASSES, assert_equal, flatten, images
from tiny_model import tiny as tiny_vit

from vit_jax import preprocessing_for
from vit_jax.checkpoints.convert import verify
from vit_jax.checkpoints.npz import METADATA
from vit_jax.checkpoints.pretrained import from_pretrained
from vit_jax.checkpoints.reading import read_metadata
from vit_jax.checkpoints.saving import save_checkpoint
from vit_jax.cli.app import main
from vit_jax.errors import UserError
from vit_jax.models.registry import create_model

NAME = "PoolFormer-S12"
FIELDS = dict(depths=(1, 2), widths=(32, 64))


def tiny(**fields):
  """Returns (model, variables) with normal noise everywhere."""
  model = create_model(NAME, num_classes=CLASSES, **{**FIELDS, **fields})
  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(model.init, jax.random.key(0), images())
  return model, jax.tree.map(lambda x: rng.normal(0, 0.3, x.shape).astype(np.float32), shapes)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
  folder = tmp_path_factory.mktemp("poolformer")
  model, variables = tiny()
  for suffix in (".npz", ".safetensors"):
    save_checkpoint(folder / f"x{suffix}", model, variables)
  return folder, variables


def refused(path, name=NAME, **arguments):
  """The message of the UserError, which must be one sentence on one line."""
  with pytest.raises(UserError) as caught:
    from_pretrained(name, path, **arguments)
  message = str(caught.value)
  assert "\n" not in message and message.endswith(".") and ". " not in message
  return message


def test_an_npz_has_our_names_with_and_without_a_prefix(saved, tmp_path, caplog):
  folder, variables = saved
  with np.load(folder / "x.npz") as archive:
    assert set(archive.files) == {METADATA, *flatten(variables)}
  caplog.set_level("INFO")
  flat = {f"params/{path}": value for path, value in flatten(variables).items()}
  np.savez(tmp_path / "x.npz", **flat, step=np.zeros((), np.int64))
  model, restored = from_pretrained(NAME, tmp_path / "x.npz", **FIELDS)
  assert_equal(restored, variables)
  assert (model.final_norm, model.token_mixer) == ("before_pooling", "pooling")
  assert "final_norm=before_pooling (names of our own MetaFormer)" in caplog.text


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_a_file_tells_its_numerics(suffix, tmp_path):
  """Which mixer it was, too: without parameters of their own, weights look alike."""
  numerics = dict(
    token_mixer=("pooling", "identity"),
    final_norm="after_pooling",
    activation="gelu_tanh",
    group_norm_eps=1e-3,
  )
  model, variables = tiny(**numerics)
  save_checkpoint(tmp_path / f"x{suffix}", model, variables)
  again, restored = from_pretrained(NAME, tmp_path / f"x{suffix}", **FIELDS)
  assert_equal(restored, variables)
  assert again == model
  chosen, _ = from_pretrained(NAME, tmp_path / f"x{suffix}", token_mixer="pooling", **FIELDS)
  assert chosen.token_mixer == "pooling" and chosen.final_norm == "after_pooling"


@pytest.mark.parametrize("mixer", ["attention", "mlp"])
def test_a_mixer_with_parameters_is_kept_by_an_npz_alone(mixer, tmp_path):
  model, variables = tiny(token_mixer=("pooling", mixer))
  save_checkpoint(tmp_path / "x.npz", model, variables, metadata={"image_size": [64, 64]})
  again, restored = from_pretrained(NAME, tmp_path / "x.npz", image_size=64, **FIELDS)
  assert_equal(restored, variables)
  assert again.token_mixer == ("pooling", mixer)
  with pytest.raises(UserError, match=r"^timm's PoolFormer has no place for stage_1_block_0/token"):
    save_checkpoint(tmp_path / "x.safetensors", model, variables)
  with pytest.raises(UserError, match="timm has no PoolFormer with token_mixer="):
    verify(tmp_path / "x.npz", model, variables)
  assert [path.name for path in tmp_path.iterdir()] == ["x.npz"]


def test_an_mlp_over_positions_is_for_one_image_size(tmp_path):
  save_checkpoint(tmp_path / "x.npz", *tiny(token_mixer=("pooling", "mlp")))
  message = refused(tmp_path / "x.npz", image_size=96, **FIELDS)
  assert "2 of another shape: stage_1_block_{0..1}/token_mixer/kernel is (64, 64), exp" in message


def test_the_head_channels_and_classes_are_adapted(saved):
  folder, variables = saved
  old = flatten(variables)
  model, restored = from_pretrained(NAME, folder / "x.npz", num_classes=7, **FIELDS)
  assert not flatten(restored)["head/kernel"].any() and model.num_classes == 7
  grey, restored = from_pretrained(NAME, folder / "x.npz", classes=[3, 1], channels=1, **FIELDS)
  new = flatten(restored)
  np.testing.assert_array_equal(new["head/kernel"], old["head/kernel"][:, [3, 1]])
  stem = "input_embedding/kernel"
  np.testing.assert_array_equal(new[stem], old[stem].sum(2, keepdims=True))
  assert apply(grey, restored, images()[..., :1]).shape == (2, 2)
  _, restored = from_pretrained(NAME, folder / "x.npz", num_classes=0, image_size=65, **FIELDS)
  assert "head/kernel" not in flatten(restored)


def test_another_size_is_named(saved, tmp_path):
  model = create_model(NAME)
  shapes = jax.eval_shape(model.init, jax.random.key(0), images())
  np.savez(tmp_path / "x.npz", **flatten(jax.tree.map(lambda x: np.zeros(x.shape, "f"), shapes)))
  message = refused(tmp_path / "x.npz", name="PoolFormer-S24")
  assert "does not fit PoolFormer-S24 (its sizes are those of PoolFormer-S12)" in message
  assert "stage_0_block_{2..3}/LayerNorm_0/bias" in message
  assert read_metadata(saved[0] / "x.npz")["model"] == "PoolFormer-S12"  # The nearest.


def test_families_are_told_apart(saved, tmp_path):
  folder, _ = saved
  for suffix in (".npz", ".safetensors"):
    message = refused(folder / f"x{suffix}", name="ViT-B_16")
    assert "this is a MetaFormer checkpoint" in message and "pass one of: PoolFormer-S12" in message
  save_checkpoint(tmp_path / "vit.npz", *tiny_vit())
  assert "this is a ViT checkpoint" in refused(tmp_path / "vit.npz")
  # timm's other MetaFormers have other blocks under the same names.
  theirs = timm.create_model("poolformerv2_s12")
  safetensors.torch.save_file(theirs.state_dict(), tmp_path / "v2.safetensors")
  assert "has names of none of these" in refused(tmp_path / "v2.safetensors")


def test_leaves_that_are_not_ours_are_refused(saved, tmp_path):
  folder, _ = saved
  state = safetensors.torch.load_file(folder / "x.safetensors")
  state["stages.1.blocks.0.token_mixer.qkv.weight"] = torch.zeros(192, 64)
  safetensors.torch.save_file(state, tmp_path / "x.safetensors")
  message = refused(tmp_path / "x.safetensors", **FIELDS)
  assert "1 extra: stages.1.blocks.0.token_mixer.qkv.weight (192, 64)" in message


@pytest.mark.parametrize("final_norm", ["before_pooling", "after_pooling"])
@pytest.mark.parametrize("suffix, mixer", [(".npz", "pooling"), (".safetensors", "identity")])
def test_verify_runs_timms_model(suffix, mixer, final_norm, tmp_path):
  model, variables = tiny(final_norm=final_norm, token_mixer=mixer)
  file = tmp_path / f"x{suffix}"
  save_checkpoint(file, model, variables, metadata={"image_size": [33, 40]})
  errors = verify(file, model, variables)
  assert list(errors) == ["float32"] and errors["float32"] < 1e-5
  off = jax.tree.map(lambda x: x * 1.001, variables)
  assert min(verify(file, model, off).values()) > 1e-4


def test_convert_goes_from_transformers_to_timm_and_is_verified(tmp_path, capsys):
  from transformers import PoolFormerConfig, PoolFormerForImageClassification

  torch.manual_seed(0)
  config = PoolFormerConfig(
    depths=[1, 2],
    hidden_sizes=[32, 64],
    num_encoder_blocks=2,
    layer_scale_init_value=0.3,
    id2label={0: "cat", 1: "dog"},
    label2id={"cat": 0, "dog": 1},
  )
  PoolFormerForImageClassification(config).save_pretrained(tmp_path / "theirs")
  options = ["--verify", "--from=hf", "--model.depths=(1,2)", "--model.widths=(32,64)"]
  target = tmp_path / "x.safetensors"
  arguments = ["convert", str(tmp_path / "theirs"), str(target), f"--model={NAME}", *options]
  assert main(arguments) == 0
  (line,) = (line for line in capsys.readouterr().out.splitlines() if "float32" in line)
  assert float(line.split(": ")[1].split()[0]) < 1e-5
  metadata = read_metadata(target)
  assert metadata["class_names"] == ["cat", "dog"]
  assert metadata["final_norm"] == "before_pooling"


@pytest.mark.parametrize("size, resized", [("S12", 248), ("S36", 248), ("M36", 235), ("M48", 235)])
def test_images_are_prepared_as_timm_does(size, resized):
  settings = preprocessing_for(f"PoolFormer-{size}").settings
  theirs = timm.get_pretrained_cfg(f"poolformer_{size.lower()}.sail_in1k")
  assert (settings.resized, settings.size) == ((resized, resized), (224, 224))
  assert int(224 / theirs.crop_pct) == resized
  assert (settings.mean, settings.std) == (theirs.mean, theirs.std)
  assert (settings.interpolation, settings.eval_resize) == (theirs.interpolation, "resize_crop")
