# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Swin: who sees whom, maps of any size, features by name, precision, and the published costs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled import apply
from flax.traverse_util import flatten_dict

import vit_jax
from vit_jax.errors import UserError
from vit_jax.models.cost import costs
from vit_jax.models.swin import SwinTransformer

TINY = dict(embed_dim=16, depths=(2, 2), head_dim=8, window_size=4, num_classes=5)


def images(height=32, width=32, seed=7):
  return jax.random.normal(jax.random.key(seed), (2, height, width, 3))


def tiny(**overrides):
  """A model, and variables with noise on every leaf: a zero head would hide what is behind it."""
  model = SwinTransformer(**{**TINY, **overrides})
  shapes = jax.eval_shape(model.init, jax.random.key(0), images())
  rng = np.random.default_rng(0)
  noise = lambda path, x: rng.normal("scale" in str(path[-1]), 0.2, x.shape).astype(np.float32)
  return model, jax.tree_util.tree_map_with_path(noise, shapes)


def relative_error(a, b):
  a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
  return np.linalg.norm(a - b) / np.linalg.norm(b)


def seen_from(depth, token):
  """Tokens of an 8x8 map, in windows of 4x4, that depend on `token` after `depth` blocks."""
  model, variables = tiny(depths=(depth,), num_classes=0)
  features = lambda x: vit_jax.extract_features(model, variables, x, layers=["stages/0"])
  before = images()
  row, column = token
  after = before.at[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].add(1.0)
  change = features(after)["stages/0"] - features(before)["stages/0"]
  return np.abs(np.asarray(change)).max(axis=(0, 3)) > 1e-6


def test_a_token_is_seen_in_its_window_and_then_in_the_shifted_ones():
  window = np.zeros((8, 8), bool)
  window[:4, :4] = True
  np.testing.assert_array_equal(seen_from(1, (1, 1)), window)
  # Shifted by two, that window meets four: the middle one, two at the border, and one corner. The
  # cyclic shift puts the far border into the same windows, where the mask keeps it out.
  shifted = np.zeros((8, 8), bool)
  shifted[:6, :6] = True
  np.testing.assert_array_equal(seen_from(2, (1, 1)), shifted)


@pytest.mark.parametrize("size", [(4, 4), (24, 8), (36, 52)])
def test_takes_images_of_any_whole_number_of_patches(size):
  model, variables = tiny()
  found = vit_jax.extract_features(model, variables, images(*size))
  height, width = size[0] // 4, size[1] // 4
  assert found["stages/0"].shape == (2, height, width, 16)
  assert found["stages/1"].shape == (2, -(-height // 2), -(-width // 2), 32)
  assert np.isfinite(found["pre_logits"]).all()


def test_a_map_no_larger_than_the_window_is_one_window_with_the_same_offsets():
  model, variables = tiny(depths=(2,))
  small = images(12, 12)  # 3x3 tokens.
  expected = apply(model, variables, small)
  params = jax.tree.map(np.array, variables["params"])
  for block in params["layers_0"].values():
    attention = block["attention"]
    attention["relative_position_bias_table"] = attention["relative_position_bias_table"][
      1:-1, 1:-1
    ]
  of_its_size = apply(model.clone(window_size=3), {"params": params}, small)
  np.testing.assert_array_equal(of_its_size, expected)


def test_features_by_name():
  model, variables = tiny()
  found = vit_jax.extract_features(model, variables, images(32, 48))
  assert list(found) == ["pre_logits", "stages/0", "stages/1"]
  head = variables["params"]["head"]
  logits = found["pre_logits"] @ head["kernel"] + head["bias"]
  np.testing.assert_allclose(logits, apply(model, variables, images(32, 48)), rtol=1e-5, atol=1e-5)
  params = {k: v for k, v in variables["params"].items() if k != "head"}
  headless = apply(model.clone(num_classes=0), {"params": params}, images(32, 48))
  np.testing.assert_allclose(headless, found["pre_logits"], rtol=1e-5, atol=1e-6)


def test_head_starts_at_zero_unless_it_is_an_embedding():
  for zero in (True, False):
    model = SwinTransformer(**{**TINY, "depths": (1,)}, head_zeroinit=zero)
    logits, _ = jax.jit(model.init_with_output)(jax.random.key(0), images())
    assert np.any(logits) != zero


def test_gradient_reaches_every_parameter_but_what_softmax_cancels():
  model, variables = tiny()
  loss = lambda v: jnp.sum(apply(model, v, images(), train=True) ** 2)
  gradient = jax.jit(jax.grad(loss))(variables)
  norms = {k: np.linalg.norm(g) for k, g in flatten_dict(gradient["params"], sep="/").items()}
  whole = np.linalg.norm(list(norms.values()))
  assert all((n > 1e-5 * whole) != k.endswith("key/bias") for k, n in norms.items()), norms


def test_drop_path_grows_from_nothing_over_the_whole_depth():
  model, variables = tiny(drop_path_rate=0.999)
  stages = lambda **arguments: [
    apply(model, variables, images(), mutable=("features",), **arguments)[1]["features"][name]
    for name in ("stage0", "stage1")
  ]
  key = {"dropout": jax.random.key(0)}
  still, trained = stages(), stages(train=True, rngs=key)  # Without a key: nothing is dropped.
  assert relative_error(trained[1], still[1]) > 0.1
  # Of a network of one more block, the first is never dropped.
  longer, variables = tiny(drop_path_rate=0.999, depths=(1, 2))
  first = lambda **arguments: apply(
    longer, variables, images(), mutable=("features",), **arguments
  )[1]["features"]["stage0"]
  np.testing.assert_allclose(first(train=True, rngs=key), first(), rtol=1e-5, atol=1e-5)


def test_bfloat16_computes_in_bfloat16_and_answers_in_float32():
  model, variables = tiny()
  half = model.clone(dtype="bfloat16")
  logits = apply(half, variables, images())
  assert logits.dtype == jnp.float32
  initial = jax.eval_shape(half.init, jax.random.key(0), images())
  assert {x.dtype for x in jax.tree.leaves(initial)} == {jnp.dtype("float32")}
  error = relative_error(logits, apply(model, variables, images()))
  assert 1e-4 < error < 5e-2  # Not float32 in disguise, and no worse than 8 bits allow.


def test_sizes_that_do_not_go_together_are_refused():
  with pytest.raises(UserError, match="image_size=30 is not a multiple of patch size 4; use 28 or"):
    tiny()[0].init(jax.random.key(0), images(30, 32))
  with pytest.raises(UserError, match="embed_dim=20 is not a multiple of head_dim=8"):
    tiny(embed_dim=20)
  with pytest.raises(UserError, match="window_size=0 is no side of a window"):
    tiny(window_size=0)


# Table 1 of the paper: millions of parameters, and GFLOPs. It rounds Swin-T up to 29, and has 47.0
# for Swin-B at 384 pixels, where torch counts 47.1 as we do (tests/models/test_registry.py).
PUBLISHED = {
  "Swin-T": (28, 4.5),
  "Swin-S": (50, 8.7),
  "Swin-B": (88, 15.4),
  "Swin-B-384": (88, 47.1),
  "Swin-L": (197, 34.5),
  "Swin-L-384": (197, 103.9),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_costs_are_the_papers(name):
  row = costs()[name]
  assert (round(row["parameters"] / 1e6), round(row["gflops"], 1)) == PUBLISHED[name]
