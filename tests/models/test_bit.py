# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""BiT: big_vision's tree, padding that no size changes, features by name, and precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from compiled import apply
from flax.traverse_util import flatten_dict

import vit_jax
from vit_jax.errors import UserError
from vit_jax.models import bit

TINY = dict(num_units=(1, 2), width_factor=0.25, num_groups=8, num_classes=5)


def images(height=32, width=32):
  return jax.random.normal(jax.random.key(7), (2, height, width, 3))


def tiny(**overrides):
  """A model, and variables with noise on every leaf: a zero head would hide what is behind it."""
  model = vit_jax.create_model("BiT-R50x1", **{**TINY, **overrides})
  shapes = jax.eval_shape(model.init, jax.random.key(0), images())
  rng = np.random.default_rng(0)
  noise = lambda path, x: rng.normal("scale" in str(path[-1]), 0.2, x.shape).astype(np.float32)
  return model, jax.tree_util.tree_map_with_path(noise, shapes)


def relative_error(a, b):
  a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
  return np.linalg.norm(a - b) / np.linalg.norm(b)


def test_tree_is_big_visions():
  _, variables = tiny()
  shapes = {k: v.shape for k, v in flatten_dict(variables["params"], sep="/").items()}
  norms = lambda *widths: {
    f"gn{n}/{leaf}": (width,) for n, width in enumerate(widths, 1) for leaf in ("scale", "bias")
  }
  units = {
    "block1/unit01": {
      **norms(16, 16, 16),
      "conv1/kernel": (1, 1, 16, 16),
      "conv2/kernel": (3, 3, 16, 16),
      "conv3/kernel": (1, 1, 16, 64),
      "conv_proj/kernel": (1, 1, 16, 64),
    },
    "block2/unit01": {
      **norms(64, 32, 32),
      "conv1/kernel": (1, 1, 64, 32),
      "conv2/kernel": (3, 3, 32, 32),
      "conv3/kernel": (1, 1, 32, 128),
      "conv_proj/kernel": (1, 1, 64, 128),
    },
    "block2/unit02": {
      **norms(128, 32, 32),
      "conv1/kernel": (1, 1, 128, 32),
      "conv2/kernel": (3, 3, 32, 32),
      "conv3/kernel": (1, 1, 32, 128),
    },
  }
  assert shapes == {
    "root_block/conv_root/kernel": (7, 7, 3, 16),
    **{f"{unit}/{leaf}": shape for unit, leaves in units.items() for leaf, shape in leaves.items()},
    "norm-pre-head/scale": (128,),
    "norm-pre-head/bias": (128,),
    "head/kernel": (128, 5),
    "head/bias": (5,),
  }


def test_head_starts_at_zero():
  model = vit_jax.create_model("BiT-R50x1", **{**TINY, "num_units": (1,)})
  logits, _ = jax.jit(model.init_with_output)(jax.random.key(0), images())
  np.testing.assert_array_equal(logits, np.zeros((2, 5)))


@pytest.mark.parametrize("size", [(32, 32), (33, 46)])
def test_the_root_pads_by_fixed_amounts_and_the_pool_with_zeros(size):
  root = bit.RootBlock(16)
  variables = root.init(jax.random.key(0), images(*size))
  ours = apply(root, variables, images(*size))
  kernel = torch.tensor(np.asarray(variables["params"]["conv_root"]["kernel"]))
  kernel = kernel.permute(3, 2, 0, 1)
  std, mean = torch.std_mean(kernel, dim=(1, 2, 3), correction=0, keepdim=True)
  pixels = torch.tensor(np.asarray(images(*size))).permute(0, 3, 1, 2)
  x = F.conv2d(pixels, (kernel - mean) / std, stride=2, padding=3)
  zero_padded = F.max_pool2d(F.pad(x, (1, 1, 1, 1)), 3, stride=2).permute(0, 2, 3, 1)
  assert ours.shape == zero_padded.shape
  assert relative_error(ours, zero_padded) < 1e-5
  # The usual padding with -inf lets negative maxima through at the border.
  usual = F.max_pool2d(x, 3, stride=2, padding=1).permute(0, 2, 3, 1)
  assert relative_error(ours, usual) > 1e-3


def test_features_by_name():
  model, variables = tiny()
  found = vit_jax.extract_features(model, variables, images(40, 56))
  assert list(found) == ["pre_logits", "stages/0", "stages/1"]
  assert found["stages/0"].shape == (2, 10, 14, 64)
  assert found["stages/1"].shape == (2, 5, 7, 128)
  head = variables["params"]["head"]
  logits = found["pre_logits"] @ head["kernel"] + head["bias"]
  np.testing.assert_allclose(logits, apply(model, variables, images(40, 56)), rtol=1e-5, atol=1e-5)
  params = {k: v for k, v in variables["params"].items() if k != "head"}
  headless = apply(model.clone(num_classes=0), {"params": params}, images(40, 56))
  np.testing.assert_allclose(headless, found["pre_logits"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (17, 90)])
def test_takes_images_of_any_size(size):
  model, variables = tiny()
  assert np.isfinite(apply(model, variables, images(*size))).all()


def test_gradient_reaches_every_parameter():
  model, variables = tiny()
  gradient = jax.jit(jax.grad(lambda v: jnp.sum(apply(model, v, images()) ** 2)))(variables)
  norms = {k: np.linalg.norm(g) for k, g in flatten_dict(gradient["params"], sep="/").items()}
  whole = np.linalg.norm(list(norms.values()))
  assert all(norm > 1e-5 * whole for norm in norms.values()), norms


def test_bfloat16_computes_in_bfloat16_and_answers_in_float32():
  model, variables = tiny()
  half = model.clone(dtype="bfloat16")
  logits = apply(half, variables, images())
  assert logits.dtype == jnp.float32
  initial = jax.eval_shape(half.init, jax.random.key(0), images())
  assert {x.dtype for x in jax.tree.leaves(initial)} == {jnp.dtype("float32")}
  error = relative_error(logits, apply(model, variables, images()))
  assert 1e-4 < error < 5e-2  # Not float32 in disguise, and no worse than 8 bits allow.


def test_widths_and_groups_that_do_not_go_together_are_refused():
  with pytest.raises(
    UserError, match="makes 16 channels, which is not a multiple of num_groups=32"
  ):
    tiny(num_groups=32)
  with pytest.raises(UserError, match="weight_standardization='keras' is not known"):
    tiny(weight_standardization="keras")
  with pytest.raises(UserError, match="no field 'num_layers'"):
    vit_jax.create_model("BiT-R50x1", num_layers=2)
