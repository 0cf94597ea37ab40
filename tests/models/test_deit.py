# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled import apply, init

import vit_jax
from vit_jax.errors import UserError
from vit_jax.models import cost

SMALL = {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "mlp_dim": 32, "patch_size": 4}
IMAGES = jax.random.normal(jax.random.key(7), (2, 8, 8, 3))


def tiny(name="DeiT-Ti_16-distilled", **fields):
  model = vit_jax.create_model(name, num_classes=3, **{**SMALL, **fields})
  rng = np.random.default_rng(1)
  noise = lambda x: x + rng.normal(0, 0.1, x.shape).astype(np.float32)
  return model, jax.tree.map(noise, init(model, IMAGES))


@pytest.mark.parametrize(
  "name, millions",
  [  # README of facebookresearch/deit, and Table 1 of arXiv:2204.07118.
    ("DeiT-Ti_16", 5.7),
    ("DeiT-S_16", 22.1),
    ("DeiT-B_16", 86.6),
    ("DeiT-Ti_16-distilled", 5.9),
    ("DeiT-S_16-distilled", 22.4),
    ("DeiT-B_16-distilled", 87.3),
    ("DeiT-B_16-384", 86.9),
    ("DeiT-B_16-384-distilled", 87.6),
    ("DeiT3-S_16", 22.1),
    ("DeiT3-B_16", 86.6),
    ("DeiT3-L_16", 304.4),
    ("DeiT3-H_14", 632.1),
  ],
)
def test_published_parameters(name, millions):
  assert cost.costs()[name]["parameters"] / 1e6 == pytest.approx(millions, abs=0.05)


def test_the_logits_are_the_mean_of_both_heads():
  model, variables = tiny()
  apart = apply(model.clone(average_heads=False), variables, IMAGES)
  assert apart.shape == (2, 2, 3)
  np.testing.assert_allclose(apply(model, variables, IMAGES), apart.mean(axis=1), rtol=1e-6)
  assert np.abs(apart[:, 0] - apart[:, 1]).max() > 0.01
  features = vit_jax.extract_features(model, variables, IMAGES, layers=["tokens", "pre_logits"])
  tokens = features["tokens"]
  assert tokens.shape == (2, 2 + 4, 16)
  np.testing.assert_allclose(features["pre_logits"], tokens[:, :2].mean(axis=1), rtol=1e-6)
  head = variables["params"]["head_dist"]
  written_out = tokens[:, 1] @ head["kernel"] + head["bias"]  # One of them is all but zero.
  assert np.linalg.norm(apart[:, 1] - written_out) < 1e-6 * np.linalg.norm(written_out)


def test_without_a_head_it_is_the_mean_of_both_tokens():
  model, variables = tiny()
  params = {k: v for k, v in variables["params"].items() if not k.startswith("head")}
  bare = jax.jit(model.clone(num_classes=0).apply)({"params": params}, IMAGES)
  expected = vit_jax.extract_features(model, variables, IMAGES)["tokens"][:, :2].mean(axis=1)
  np.testing.assert_allclose(bare, expected, atol=2e-6)  # Two programs; the values are near 1.


@pytest.mark.parametrize("name", ["DeiT-Ti_16-distilled", "DeiT3-S_16"])
@pytest.mark.parametrize("scan", [False, True])
def test_gradients_reach_every_parameter(name, scan):
  model, variables = tiny(name, scan_layers=scan)

  def loss(params):
    return jnp.mean(model.apply({"params": params}, IMAGES, train=True) ** 2)

  grads = flax.traverse_util.flatten_dict(jax.jit(jax.grad(loss))(variables["params"]), sep="/")
  if name == "DeiT3-S_16":
    assert sum("LayerScale" in path for path in grads) == (2 if scan else 4)
  for path, grad in grads.items():
    if not path.endswith("key/bias"):  # Softmax cancels it.
      assert np.abs(grad).max() > 0, path


def test_layer_scale_begins_where_it_is_told():
  model = vit_jax.create_model("DeiT3-S_16", num_classes=3, **SMALL)
  params = init(model, IMAGES)["params"]
  gamma = params["Transformer"]["encoderblock_1"]["LayerScale_1"]["gamma"]
  np.testing.assert_array_equal(gamma, np.full(16, 1e-6, np.float32))
  other = init(model.clone(layer_scale_init=0.5), IMAGES)["params"]
  assert other["Transformer"]["encoderblock_0"]["LayerScale_0"]["gamma"][0] == 0.5


def test_files_keep_both_heads(tmp_path):
  model, variables = tiny()
  vit_jax.save_checkpoint(tmp_path / "a.npz", model, variables)
  fields = SMALL
  again, restored = vit_jax.from_pretrained("DeiT-Ti_16-distilled", tmp_path / "a.npz", **fields)
  assert again.num_classes == 3
  jax.tree.map(np.testing.assert_array_equal, restored, variables)
  # A fresh head is two; a choice of classes is made in both.
  _, fresh = vit_jax.from_pretrained(
    "DeiT-Ti_16-distilled", tmp_path / "a.npz", num_classes=5, **fields
  )
  for head in ("head", "head_dist"):
    assert fresh["params"][head]["kernel"].shape == (16, 5)
    assert not np.any(fresh["params"][head]["kernel"])
  _, chosen = vit_jax.from_pretrained(
    "DeiT-Ti_16-distilled", tmp_path / "a.npz", classes=[2, 0], **fields
  )
  for head in ("head", "head_dist"):
    expected = variables["params"][head]["kernel"][:, jnp.array([2, 0])]
    np.testing.assert_array_equal(chosen["params"][head]["kernel"], expected)
  # Positions of both tokens stay where they are when the grid grows.
  _, larger = vit_jax.from_pretrained(
    "DeiT-Ti_16-distilled", tmp_path / "a.npz", image_size=16, **fields
  )
  positions = lambda v: v["params"]["Transformer"]["posembed_input"]["pos_embedding"]
  assert positions(larger).shape == (1, 2 + 16, 16)
  np.testing.assert_array_equal(positions(larger)[:, :2], positions(variables)[:, :2])


def test_a_vit_and_a_distilled_deit_are_told_apart(tmp_path):
  model, variables = tiny()
  vit_jax.save_checkpoint(tmp_path / "a.npz", model, variables)
  with pytest.raises(UserError, match="this is a distilled DeiT checkpoint"):
    vit_jax.from_pretrained("ViT-Ti_16", tmp_path / "a.npz", **SMALL)
  model, variables = tiny("DeiT-Ti_16")
  vit_jax.save_checkpoint(tmp_path / "b.npz", model, variables)
  with pytest.raises(UserError, match="but model 'DeiT-Ti_16-distilled' is a dist"):
    vit_jax.from_pretrained("DeiT-Ti_16-distilled", tmp_path / "b.npz", **SMALL)
