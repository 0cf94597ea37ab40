# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Wrong files are refused in one sentence, never executed, and failed writes leave nothing."""

import os
import pickle
import sys

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from tiny_model import FIELDS, NAME, flatten, tiny

from vit_jax.checkpoints.pretrained import from_pretrained
from vit_jax.checkpoints.reading import read_arrays, read_metadata
from vit_jax.checkpoints.saving import save_checkpoint
from vit_jax.errors import UserError


def refused(path, name=NAME, **arguments):
  """The message of the UserError, which must be one sentence on one line."""
  with pytest.raises(UserError) as caught:
    from_pretrained(name, path, **{**FIELDS, **arguments})
  message = str(caught.value)
  assert "\n" not in message and message.endswith(".") and ". " not in message
  return message


@pytest.fixture
def saved(tmp_path):
  model, variables = tiny()
  save_checkpoint(tmp_path / "x.npz", model, variables)
  save_checkpoint(tmp_path / "x.safetensors", model, variables)
  return tmp_path, flatten(variables)


class Bomb:
  """Unpickling this would leave a file behind."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return open, (str(self.path), "w")


def test_pickled_objects_in_an_npz_are_refused_and_not_run(tmp_path):
  objects = np.empty(1, object)
  objects[0] = Bomb(tmp_path / "ran")
  np.savez(tmp_path / "x.npz", **{"embedding/kernel": objects})
  assert "holds pickled Python objects" in refused(tmp_path / "x.npz")
  assert not (tmp_path / "ran").exists()


def test_code_in_a_torch_file_is_refused_and_not_run(tmp_path):
  (tmp_path / "x.pth").write_bytes(pickle.dumps({"model": Bomb(tmp_path / "ran")}))
  assert "holds other objects than tensors" in refused(tmp_path / "x.pth")
  torch.save({"model": Bomb(tmp_path / "ran")}, tmp_path / "y.pth")
  assert "holds other objects than tensors" in refused(tmp_path / "y.pth")
  assert not (tmp_path / "ran").exists()


def test_a_truncated_torch_file_is_refused(tmp_path):
  torch.save({"cls_token": torch.zeros(1000)}, tmp_path / "x.pth")
  content = (tmp_path / "x.pth").read_bytes()
  (tmp_path / "x.pth").write_bytes(content[: len(content) // 2])
  assert "is truncated or not a PyTorch file" in refused(tmp_path / "x.pth")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_truncated_files_are_refused(saved, suffix, share):
  content = (saved[0] / f"x{suffix}").read_bytes()
  file = saved[0] / f"short{suffix}"
  file.write_bytes(content[: int(len(content) * share)])
  message = refused(file)
  assert "truncated" in message or "is not an .npz file" in message


def test_a_flipped_bit_in_an_npz_is_noticed(saved):
  content = bytearray((saved[0] / "x.npz").read_bytes())
  content[len(content) // 2] ^= 1
  (saved[0] / "flipped.npz").write_bytes(content)
  assert "damaged" in refused(saved[0] / "flipped.npz")


def test_other_files_are_told_apart(tmp_path):
  (tmp_path / "text.npz").write_text("model: ViT-B_16\n")
  assert "is not an .npz file" in refused(tmp_path / "text.npz")
  np.save(tmp_path / "x.npy", np.zeros(3))
  assert "holds a single array" in refused(tmp_path / "x.npy")
  np.savez(tmp_path / "empty.npz")
  assert "holds no parameters" in refused(tmp_path / "empty.npz")
  np.savez(tmp_path / "other.npz", a=np.zeros(3, np.float32))
  assert "the official npz, " in refused(tmp_path / "other.npz")
  assert "there is no checkpoint at" in refused(tmp_path / "missing.npz")
  assert "not the workdir of a training run" in refused(tmp_path)


def test_leaves_that_do_not_fit_are_listed_together(saved):
  folder, flat = saved
  kernel = flat.pop("Transformer/encoderblock_1/MlpBlock_0/Dense_0/kernel")
  flat["Transformer/encoderblock_1/MlpBlock_0/Dense_0/kernel"] = kernel[:, :-1]
  del flat["Transformer/encoder_norm/scale"], flat["embedding/bias"]
  flat["Transformer/encoderblock_0/gamma"] = flat["Transformer/encoderblock_2/gamma"] = kernel[0]
  np.savez(folder / "y.npz", **flat)
  message = refused(folder / "y.npz")
  for part in (
    "does not fit ViT-Ti_16",
    "2 missing: Transformer/encoder_norm/scale, embedding/bias",
    "2 extra: Transformer/encoderblock_{0,2}/gamma (48,)",
    "1 of another shape: Transformer/encoderblock_1/MlpBlock_0/Dense_0/kernel is (32, 47), "
    "expected (32, 48)",
  ):
    assert part in message


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_weights_of_another_size_are_named(suffix, tmp_path):
  size = dict(hidden_size=192, num_layers=12, mlp_dim=768, num_heads=3)
  model, variables = tiny(**size)
  file = tmp_path / f"x{suffix}"
  save_checkpoint(file, model, variables)
  assert read_metadata(file)["model"] == "ViT-Ti_16"
  with pytest.raises(UserError) as caught:
    from_pretrained("ViT-S_16", file)
  message = str(caught.value)
  assert "does not fit ViT-S_16 (its sizes are those of ViT-Ti_16)" in message
  assert "Transformer/encoderblock_{0..11}/LayerNorm_0/scale is (192,), expected (384,)" in message
  assert "cls is (1, 1, 192), expected (1, 1, 384)" in message
  query = "MultiHeadDotProductAttention_0/query/kernel is (192, "
  assert f"Transformer/encoderblock_{{0..11}}/{query}" in message


@pytest.mark.parametrize(
  "name, family",
  [
    ("MixerBlock_0/token_mixing/Dense_0/kernel", "Mixer"),
    ("opt/target/MixerBlock_0/LayerNorm_0/scale", "Mixer"),
    ("blocks.0.mlp_tokens.fc1.weight", "Mixer"),
    ("resnet/block1/unit01/a/standardized_conv2d/kernel", "BiT ResNet"),
    ("layers.0.blocks.0.attn.relative_position_bias_table", "Swin"),
    ("conv_root/kernel", "hybrid ViT"),
  ],
)
def test_another_family_is_named(name, family, tmp_path):
  np.savez(tmp_path / "x.npz", **{name: np.zeros((2, 2), np.float32)})
  message = refused(tmp_path / "x.npz")
  # Names of a scheme that is known by now are told as ours.
  ours = {"Swin": "layers_0/blocks_0/attention/relative_position_bias_table"}
  assert f"this is a {family} checkpoint (it has '{ours.get(family, name)}" in message
  assert "but model 'ViT-Ti_16' is a ViT; pass" in message


def test_timm_features_without_counterpart_are_refused_with_the_reason(saved):
  folder, _ = saved
  state = safetensors.numpy.load_file(folder / "x.safetensors")
  for part in ("weight", "bias"):
    state[f"fc_norm.{part}"] = state.pop(f"norm.{part}")
  safetensors.numpy.save_file(state, folder / "y.safetensors")
  message = refused(folder / "y.safetensors")
  assert "norm after pooling (fc_norm=True) has no counterpart" in message
  assert "2 missing: Transformer/encoder_norm/" in message
  assert "fc_norm.weight (32,)" in message


@pytest.mark.parametrize("fields", [{"representation_size": 8}, {"position_embedding": "relative"}])
def test_export_to_timm_drops_nothing(fields, tmp_path):
  model, variables = tiny(**fields)
  with pytest.raises(UserError, match=r"timm's ViT has no .*save an \.npz file"):
    save_checkpoint(tmp_path / "x.safetensors", model, variables)
  assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_file_and_nothing_else(saved, monkeypatch):
  folder, _ = saved
  before = (folder / "x.npz").read_bytes()
  model, variables = tiny(seed=1)

  def full_disk(file, **arrays):
    file.write(b"half")
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(np, "savez", full_disk)
  with pytest.raises(UserError, match=r"cannot be written .No space left on device"):
    save_checkpoint(folder / "x.npz", model, variables)
  assert (folder / "x.npz").read_bytes() == before
  assert sorted(os.listdir(folder)) == ["x.npz", "x.safetensors"]
  with pytest.raises(UserError, match="cannot be written"):
    save_checkpoint(folder / "none" / "x.npz", model, variables)
  with pytest.raises(UserError, match=r"neither \.npz nor \.safetensors"):
    save_checkpoint(folder / "x.h5", model, variables)


def test_without_torch_a_pth_names_the_extra(saved, monkeypatch):
  file = saved[0] / "x.pth"
  torch.save({"a": torch.zeros(1)}, file)
  monkeypatch.setitem(sys.modules, "torch", None)
  assert "pip install 'vit_jax[torch]'" in refused(file)


def test_wrong_image_size_is_refused(saved):
  assert "image_size=65 is not a multiple of patch size 16" in refused(
    saved[0] / "x.npz", image_size=65
  )


def test_half_precision_safetensors_are_read(saved):
  folder, flat = saved
  state = safetensors.numpy.load_file(folder / "x.safetensors")
  halves = {name: torch.from_numpy(value).bfloat16() for name, value in state.items()}
  safetensors.torch.save_file(halves, folder / "half.safetensors")
  torch.save({"epoch": 3, "model": halves, "optimizer": {}}, folder / "half.pth")
  for file in ("half.safetensors", "half.pth"):
    _, restored = from_pretrained(NAME, folder / file, **FIELDS)
    expected = torch.from_numpy(flat["cls"]).bfloat16().float().numpy()
    np.testing.assert_array_equal(restored["params"]["cls"], expected)
    assert restored["params"]["cls"].dtype == np.float32


def test_containers_are_told_by_content(saved):
  folder, _ = saved
  for suffix in (".npz", ".safetensors"):
    renamed = folder / f"renamed{suffix}.weights"
    (folder / f"x{suffix}").rename(renamed)
    assert read_metadata(renamed)["layer_norm_eps"] == 1e-6
    assert len(read_arrays(renamed)[0]) > 30
