# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Where a model's numerics come from, what metadata holds, and which file a name stands for."""

import jax
import numpy as np
import pytest
import safetensors.torch
import torch
from tiny_model import FIELDS, NAME, assert_equal, flatten, tiny

from vit_jax.checkpoints import download
from vit_jax.checkpoints.pretrained import from_pretrained
from vit_jax.checkpoints.reading import read_metadata
from vit_jax.checkpoints.saving import save_checkpoint
from vit_jax.errors import UserError

HYBRID = dict(name="R50+ViT-B_16", stem_blocks=(1,), stem_width=32)


def numerics_line(caplog):
  (line,) = [m for m in caplog.messages if m.startswith("Numerics of")]
  return line


def test_numerics_follow_argument_then_metadata_then_names(tmp_path, caplog):
  caplog.set_level("INFO")
  model, variables = tiny(activation="gelu", layer_norm_eps=1e-12)
  save_checkpoint(tmp_path / "ours.npz", model, variables)
  loaded, _ = from_pretrained(NAME, tmp_path / "ours.npz", **FIELDS)
  assert (loaded.activation, loaded.layer_norm_eps) == ("gelu", 1e-12)
  assert "activation=gelu (metadata of the file)" in numerics_line(caplog)

  caplog.clear()
  loaded, _ = from_pretrained(NAME, tmp_path / "ours.npz", activation="gelu_tanh", **FIELDS)
  assert (loaded.activation, loaded.layer_norm_eps) == ("gelu_tanh", 1e-12)
  assert "activation=gelu_tanh (argument)" in numerics_line(caplog)

  caplog.clear()
  np.savez(tmp_path / "bare.npz", **flatten(variables))
  loaded, _ = from_pretrained(NAME, tmp_path / "bare.npz", **FIELDS)
  assert (loaded.activation, loaded.layer_norm_eps) == ("gelu_tanh", 1e-6)
  assert "activation=gelu_tanh (names of the official npz)" in numerics_line(caplog)


def test_hybrid_numerics_are_kept_in_timms_names(tmp_path):
  fields = {**FIELDS, "stem_blocks": (1,), "stem_width": 32}
  for origin, eps in (("google", 1e-6), ("timm", 1e-5)):
    model, variables = tiny(**HYBRID, weight_standardization=origin, group_norm_eps=eps)
    for file in (tmp_path / f"{origin}.npz", tmp_path / f"{origin}.safetensors"):
      save_checkpoint(file, model, variables)
      loaded, restored = from_pretrained("R50+ViT-B_16", file, **fields)
      assert loaded == model
      assert_equal(restored, variables)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_metadata_travels_with_the_file(suffix, tmp_path):
  model, variables = tiny()
  names = ["crème brûlée", "寿司", *"cde"]
  file = tmp_path / f"x{suffix}"
  save_checkpoint(file, model, variables, metadata={"class_names": names, "image_size": [64, 64]})
  metadata = read_metadata(file)
  assert metadata["class_names"] == names
  assert metadata["activation"] == "gelu_tanh"
  assert metadata["config"]["hidden_size"] == 32
  assert metadata["model"] == NAME  # The nearest: no model of the registry has these sizes.


def test_parameters_are_float32_jax_arrays(tmp_path):
  model, variables = tiny()
  save_checkpoint(tmp_path / "x.npz", model, variables)
  loaded, restored = from_pretrained(NAME, tmp_path / "x.npz", dtype="bfloat16", **FIELDS)
  assert loaded.dtype == "bfloat16"
  for leaf in jax.tree.leaves(restored):
    assert isinstance(leaf, jax.Array) and leaf.dtype == np.float32


def test_names_stand_for_their_own_weights(monkeypatch):
  asked = []

  def fetch(source):
    asked.append(str(source))
    raise UserError("offline.")

  monkeypatch.setattr(download, "fetch", fetch)
  full = "B_16-i21k-300ep-lr_0.001-aug_light1-wd_0.1-do_0.0-sd_0.0"
  for name in ("ViT-B_16", "B_16", full, f"{full}.npz"):
    with pytest.raises(UserError, match="offline"):
      from_pretrained(name)
  assert asked[0] == asked[1] and asked[0].startswith("gs://vit_models/augreg/B_16-i21k")
  assert asked[2] == asked[3] == f"gs://vit_models/augreg/{full}.npz"
  with pytest.raises(UserError, match=r"no released weights for ViT-B_14; pass checkpoint="):
    from_pretrained("ViT-B_14")


def test_the_model_is_found_in_a_training_state_of_mae(tmp_path, caplog):
  """As MAE's authors save it: under "model", with the decoder beside, and an optimizer."""
  caplog.set_level("INFO")
  model, variables = tiny(activation="gelu")
  save_checkpoint(tmp_path / "x.safetensors", model, variables)
  state = safetensors.torch.load_file(tmp_path / "x.safetensors")
  decoder = {"mask_token": torch.ones(1, 1, 8), "decoder_embed.weight": torch.ones(8, 32)}
  optimizer = {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 1.0}]}
  saved = {"model": {**state, **decoder}, "optimizer": optimizer, "epoch": 3}
  torch.save(saved, tmp_path / "x.pth")
  loaded, restored = from_pretrained(NAME, tmp_path / "x.pth", **FIELDS)
  assert loaded.activation == "gelu"
  assert_equal(restored, variables)
  assert "Read 'model' of the training state" in caplog.text
  assert "Left out 2 arrays of the pretraining decoder" in caplog.text
