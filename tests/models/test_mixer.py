# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Mixer: the official tree, the paper's sizes, one image size, and paths that agree."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

import vit_jax
from vit_jax.errors import UserError
from vit_jax.models import cost, registry

TINY = dict(
  patch_size=8, hidden_dim=24, num_blocks=2, tokens_mlp_dim=12, channels_mlp_dim=48, num_classes=5
)


def images(height=32, width=32):
  return np.random.default_rng(7).normal(size=(2, height, width, 3)).astype(np.float32)


def tiny(size=(32, 32), **overrides):
  """A model, and variables with noise on every leaf: a zero head would hide what is behind it."""
  model = vit_jax.create_model("Mixer-S_16", **{**TINY, **overrides})
  shapes = jax.eval_shape(model.init, jax.random.key(0), images(*size))
  rng = np.random.default_rng(0)
  return model, jax.tree.map(lambda x: rng.normal(0.2, 0.3, x.shape).astype(np.float32), shapes)


@functools.partial(jax.jit, static_argnums=0, static_argnames=("train", "mutable"))
def run(model, variables, images, seed=0, *, train=False, mutable=False):
  rngs = {"dropout": jax.random.key(seed)}
  return model.apply(variables, images, train=train, rngs=rngs, mutable=mutable)


def relative_error(a, b):
  a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
  return np.linalg.norm(a - b) / np.linalg.norm(b)


def test_tree_is_the_official_one():
  _, variables = tiny()
  block = {
    "LayerNorm_0/scale": (24,),
    "LayerNorm_0/bias": (24,),
    "token_mixing/Dense_0/kernel": (16, 12),
    "token_mixing/Dense_0/bias": (12,),
    "token_mixing/Dense_1/kernel": (12, 16),
    "token_mixing/Dense_1/bias": (16,),
    "LayerNorm_1/scale": (24,),
    "LayerNorm_1/bias": (24,),
    "channel_mixing/Dense_0/kernel": (24, 48),
    "channel_mixing/Dense_0/bias": (48,),
    "channel_mixing/Dense_1/kernel": (48, 24),
    "channel_mixing/Dense_1/bias": (24,),
  }
  expected = {
    "stem/kernel": (8, 8, 3, 24),
    "stem/bias": (24,),
    **{f"MixerBlock_{i}/{path}": shape for i in range(2) for path, shape in block.items()},
    "pre_head_layer_norm/scale": (24,),
    "pre_head_layer_norm/bias": (24,),
    "head/kernel": (24, 5),
    "head/bias": (5,),
  }
  shapes = {k: v.shape for k, v in flatten_dict(variables["params"], sep="/").items()}
  assert shapes == expected


# Table 1 of arXiv:2105.01601: parameters in millions, without the classifier.
TABLE_1 = {
  "Mixer-S_32": 19,
  "Mixer-S_16": 18,
  "Mixer-B_32": 60,
  "Mixer-B_16": 59,
  "Mixer-L_32": 206,
  "Mixer-L_16": 207,
  "Mixer-H_14": 431,
}


def test_sizes_are_those_of_table_1():
  table = cost.costs()
  for name, millions in TABLE_1.items():
    head = 1000 * (registry.MODELS[name].config["hidden_dim"] + 1)
    assert round((table[name]["parameters"] - head) / 1e6) == millions
  assert set(vit_jax.list_models("Mixer-*")) == {*TABLE_1, "Mixer-S_8"}


def test_initial_values_are_the_originals():
  """Kernels of variance 1 / inputs (ViT's MLPs have another), a zero head, zero biases."""
  fields = dict(TINY, tokens_mlp_dim=64, channels_mlp_dim=96, num_blocks=1, head_bias_init=-3.0)
  model = vit_jax.create_model("Mixer-S_16", **fields)
  params = jax.jit(model.init)(jax.random.key(0), images())["params"]
  for path, value in flatten_dict(params, sep="/").items():
    if path.startswith("head"):
      assert np.all(value == (0 if path.endswith("kernel") else -3))
    elif path.endswith("kernel"):
      inputs = np.prod(value.shape[:-1])
      assert np.std(value) == pytest.approx(inputs**-0.5, rel=0.1), path
    else:
      assert np.all(value == path.endswith("scale"))


def test_features_by_name():
  for scan in (False, True):
    model, variables = tiny(scan_layers=scan)
    found = vit_jax.extract_features(model, variables, images())
    assert list(found) == ["blocks/0", "blocks/1", "pre_logits", "tokens"]
    assert found["blocks/1"].shape == found["tokens"].shape == (2, 16, 24)
    np.testing.assert_allclose(found["pre_logits"], found["tokens"].mean(1), rtol=1e-5, atol=1e-6)
  headless = model.clone(num_classes=0)
  params = {k: v for k, v in variables["params"].items() if k != "head"}
  answer = run(headless, {"params": params}, images())
  np.testing.assert_allclose(answer, found["pre_logits"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("remat", ["none", "full", "dots"])
def test_scan_and_loop_agree_from_the_same_weights(remat):
  model, variables = tiny()
  params = dict(variables["params"])
  blocks = [params.pop(f"MixerBlock_{layer}") for layer in range(2)]
  scanned = {"params": {**params, "MixerBlock": jax.tree.map(lambda *x: jnp.stack(x), *blocks)}}
  scan = model.clone(scan_layers=True, remat=remat)

  def loss(variables, module):
    return jnp.sum(module.apply(variables, images()) ** 2)

  gradient = jax.jit(jax.value_and_grad(loss), static_argnums=1)
  (a, ours), (b, theirs) = gradient(scanned, scan), gradient(variables, model)
  assert relative_error(a, b) < 1e-5
  ours, theirs = ours["params"], theirs["params"]
  assert relative_error(ours["stem"]["kernel"], theirs["stem"]["kernel"]) < 1e-4
  for layer in range(2):
    for path in (("token_mixing", "Dense_0", "kernel"), ("channel_mixing", "Dense_1", "bias")):
      mine, other = ours["MixerBlock"], theirs[f"MixerBlock_{layer}"]
      for key in path:
        mine, other = mine[key], other[key]
      assert relative_error(mine[layer], other) < 1e-4


def test_gradient_reaches_every_parameter():
  """All but the last bias of token mixing, which every LayerNorm behind it cancels."""
  model, variables = tiny()
  gradient = jax.jit(jax.grad(lambda v: jnp.sum(model.apply(v, images()) ** 2)))(variables)
  norms = {k: np.linalg.norm(g) for k, g in flatten_dict(gradient["params"], sep="/").items()}
  whole = np.linalg.norm(list(norms.values()))
  for path, norm in norms.items():
    if path.endswith("token_mixing/Dense_1/bias"):
      assert norm < 1e-6 * whole
    else:
      assert norm > 1e-4 * whole, path


@pytest.mark.parametrize("dead, reached", [("token_mixing", 1), ("channel_mixing", 16)])
def test_only_token_mixing_carries_a_pixel_to_other_tokens(dead, reached):
  model, variables = tiny(num_blocks=1)
  params = flatten_dict(variables["params"], sep="/")
  params[f"MixerBlock_0/{dead}/Dense_1/kernel"] = 0 * params[f"MixerBlock_0/{dead}/Dense_1/kernel"]
  variables = {"params": unflatten_dict(params, sep="/")}
  changed = images()
  changed[0, 0, 0, 0] += 1
  before, after = (
    run(model, variables, x, mutable=("features",))[1]["features"]["MixerBlock_0"]["block"]
    for x in (images(), changed)
  )
  moved = np.abs(after - before).max(-1)
  assert (moved[0] > 1e-6).sum() == reached
  assert not moved[1].any()


def test_bfloat16_computes_in_bfloat16_and_answers_in_float32():
  model, variables = tiny()
  half = model.clone(dtype="bfloat16")
  logits = run(half, variables, images())
  assert logits.dtype == jnp.float32
  shapes = jax.eval_shape(half.init, jax.random.key(0), images())
  assert {x.dtype for x in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
  error = relative_error(logits, run(model, variables, images()))
  assert 1e-4 < error < 5e-2  # Not float32 in disguise, and no worse than 8 bits allow.


def test_drop_path_grows_with_depth():
  """At rate 1 - eps the last block vanishes, while the first is always kept."""
  model, variables = tiny(drop_path_rate=0.999999)
  trained, plain = (
    run(model, variables, images(), train=train, mutable=("features",))[1]["features"]
    for train in (True, False)
  )
  first, last = (trained[f"MixerBlock_{layer}"]["block"] for layer in range(2))
  np.testing.assert_array_equal(last, first)
  np.testing.assert_allclose(first, plain["MixerBlock_0"]["block"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("field", ["dropout_rate", "drop_path_rate"])
def test_dropout_acts_in_training_only(field):
  model, variables = tiny(**{field: 0.5})
  plain, _ = tiny()
  np.testing.assert_array_equal(run(model, variables, images()), run(plain, variables, images()))
  draws = [run(model, variables, images(), seed, train=True) for seed in (0, 0, 1)]
  np.testing.assert_array_equal(draws[0], draws[1])
  assert relative_error(draws[2], draws[0]) > 1e-3


@pytest.mark.parametrize("scan", [False, True])
def test_another_image_size_is_refused_in_a_sentence(scan):
  model, variables = tiny(scan_layers=scan)
  message = (
    "an image of 32x48 pixels has 24 patches, but the token-mixing MLPs of this Mixer are for 16; "
    "resize the images to the size that it was made for."
  )
  with pytest.raises(UserError, match=message):
    model.apply(variables, images(32, 48))
  with pytest.raises(UserError, match="image_size=36 is not a multiple of patch size 8"):
    model.apply(variables, images(32, 36))
  _, oblong = tiny((16, 64), scan_layers=scan)  # From scratch any size will do.
  assert jax.eval_shape(model.apply, oblong, images(16, 64)).shape == (2, 5)


@pytest.mark.parametrize(
  "overrides, message",
  [
    (dict(activation="relu"), "activation='relu' is not known"),
    (dict(remat="all"), "remat='all' is not known"),
  ],
)
def test_wrong_settings_are_told_in_a_sentence(overrides, message):
  with pytest.raises(UserError, match=message):
    vit_jax.create_model("Mixer-S_16", **{**TINY, **overrides})


def test_fields_of_another_family_are_refused_with_the_nearest():
  with pytest.raises(UserError, match="no field 'num_layers'"):
    vit_jax.create_model("Mixer-B_16", num_layers=2)
