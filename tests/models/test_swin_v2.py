# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Swin V2: cosines, log-spaced biases, any size and window, precision, and the published costs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled import apply
from flax.traverse_util import flatten_dict

import vit_jax
from vit_jax.errors import UserError
from vit_jax.models.cost import costs, count_macs
from vit_jax.models.swin_v2 import SwinTransformerV2, log_spaced

TINY = dict(embed_dim=16, depths=(2, 1), head_dim=8, window_size=4, num_classes=5)


def images(height=32, width=32, seed=7):
  return jax.random.normal(jax.random.key(seed), (2, height, width, 3))


def tiny(**overrides):
  """A model, and variables with noise on every leaf: a zero head would hide what is behind it."""
  model = SwinTransformerV2(**{**TINY, **overrides})
  shapes = jax.eval_shape(model.init, jax.random.key(0), images())
  rng = np.random.default_rng(0)
  noise = lambda path, x: rng.normal("scale" in str(path[-1]), 0.2, x.shape).astype(np.float32)
  return model, jax.tree_util.tree_map_with_path(noise, shapes)


def relative_error(a, b):
  a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
  return np.linalg.norm(a - b) / np.linalg.norm(b)


def test_offsets_are_log_spaced_relative_to_the_window():
  found = log_spaced(np.array([[0, 7], [-7, 1], [14, -14]]), (8, 8))
  third = np.log2([9, 1 + 8 / 7, 17]) / 3
  np.testing.assert_allclose(
    found, [[0, third[0]], [-third[0], third[1]], [third[2], -third[2]]], rtol=1e-6
  )
  np.testing.assert_array_equal(log_spaced(np.array([[0, 0]]), (1, 1)), [[0, 0]])


def changed(variables, name, change):
  """Variables with one leaf changed wherever it occurs."""
  edit = lambda path, x: change(x) if any(getattr(k, "key", "") == name for k in path) else x
  return jax.tree_util.tree_map_with_path(edit, variables)


def test_lengths_of_queries_and_keys_do_not_matter_and_the_scale_is_clipped():
  model, variables = tiny()
  logits = apply(model, variables, images())
  longer = changed(changed(variables, "key", lambda x: 3 * x), "query", lambda x: 2 * x)
  assert relative_error(apply(model, longer, images()), logits) < 1e-5
  scaled = lambda value: apply(
    model, changed(variables, "logit_scale", lambda x: jnp.full_like(x, value)), images()
  )
  most = np.log(100)
  np.testing.assert_array_equal(scaled(most), scaled(2 * most))
  assert relative_error(scaled(most - 0.5), scaled(most)) > 1e-3


def test_parameters_are_of_no_size_and_biases_of_the_trained_window():
  model, variables = tiny()
  for size in ((4, 4), (24, 8), (36, 52)):
    assert np.isfinite(jax.jit(model.apply)(variables, images(*size))).all()
  larger = model.clone(window_size=8)
  as_trained = larger.clone(trained_windows=(4, 4))
  assert relative_error(apply(larger, variables, images()), apply(as_trained, variables, images()))
  same = model.clone(trained_windows=(4, 4))
  np.testing.assert_array_equal(apply(same, variables, images()), apply(model, variables, images()))


def test_a_fresh_block_is_the_identity():
  """Res-post-norm begins at zero: each branch adds nothing."""
  model = SwinTransformerV2(**{**TINY, "depths": (2,)})
  variables = jax.jit(model.init)(jax.random.key(0), images())
  found = vit_jax.extract_features(model, variables, images(), layers=["stages/0"])["stages/0"]
  shallow = model.clone(depths=(0,))
  expected = vit_jax.extract_features(shallow, variables, images(), layers=["stages/0"])
  np.testing.assert_array_equal(found, expected["stages/0"])


def test_gradient_reaches_every_parameter():
  model, variables = tiny()
  loss = lambda v: jnp.sum(apply(model, v, images(), train=True) ** 2)
  gradient = jax.jit(jax.grad(loss))(variables)
  norms = {k: np.linalg.norm(g) for k, g in flatten_dict(gradient["params"], sep="/").items()}
  whole = np.linalg.norm(list(norms.values()))
  assert all(norm > 1e-6 * whole for norm in norms.values()), norms


def test_bfloat16_computes_in_bfloat16_and_answers_in_float32():
  model, variables = tiny()
  half = model.clone(dtype="bfloat16")
  logits = apply(half, variables, images())
  assert logits.dtype == jnp.float32
  error = relative_error(logits, apply(model, variables, images()))
  assert 1e-4 < error < 5e-2  # Not float32 in disguise, and no worse than 8 bits allow.


def test_windows_that_are_not_one_a_stage_are_refused():
  with pytest.raises(UserError, match=r"trained_windows=\(4,\) are not as many as the 2 stages"):
    tiny(trained_windows=(4,))


# The original's README: millions of parameters, and GFLOPs.
PUBLISHED = {
  "SwinV2-T-w8": (28, 5.9),
  "SwinV2-T-w16": (28, 6.6),
  "SwinV2-S-w8": (50, 11.5),
  "SwinV2-S-w16": (50, 12.6),
  "SwinV2-B-w8": (88, 20.3),
  "SwinV2-B-w16": (88, 21.8),
}


@pytest.mark.parametrize(
  "name",
  [n if n == "SwinV2-T-w8" else pytest.param(n, marks=pytest.mark.slow) for n in PUBLISHED],
)
def test_costs_are_the_published_ones(name):
  model = vit_jax.create_model(name)
  # The position biases are computed once for all images, and not counted by the authors.
  one, two = (count_macs(model, (batch, 256, 256, 3)) for batch in (1, 2))
  parameters = costs()[name]["parameters"]
  assert (round(parameters / 1e6), round((two - one) / 1e9, 1)) == PUBLISHED[name]
