# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Inputs of a wrong shape or dtype are told in a sentence by every family; empty batches pass."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import QUICK, VIT, towers

import vit_jax
from vit_jax.errors import UserError

FAMILIES = {
  **QUICK,
  "vit": ("ViT-Ti_16", VIT, (16, 24)),
  "vit, relative": ("ViT-Ti_16", dict(VIT, position_embedding="relative"), (16, 24)),
  "vit, learned_2d": ("ViT-Ti_16", dict(VIT, position_embedding="learned_2d"), (16, 24)),
  "vit, scanned": ("ViT-Ti_16", dict(VIT, scan_layers=True), (16, 24)),
  "hybrid": ("R50+ViT-B_16", dict(VIT, patch_size=1, stem_blocks=(1,), stem_width=32), (16, 24)),
  "deit": ("DeiT-Ti_16-distilled", VIT, (16, 24)),
  "lit, last token": towers("LiT-L16Ti"),
}
OF_ONE_SIZE = ("vit", "vit, relative", "vit, learned_2d", "vit, scanned", "hybrid", "deit", "mixer")
TOKENS = jax.ShapeDtypeStruct((2, 16), jnp.int32)


@pytest.fixture(params=FAMILIES)
def case(request):
  """(name, shapes of what the model answers, its inputs): nothing is computed."""
  name, fields, size = FAMILIES[request.param]
  model = vit_jax.create_model(name, **fields)
  inputs = (jax.ShapeDtypeStruct((2, *size, 3), jnp.float32),)
  inputs += (TOKENS,) if "img" in fields else ()
  variables = jax.eval_shape(model.init, jax.random.key(0), *inputs)
  answer = lambda *inputs: jax.eval_shape(model.apply, variables, *inputs)
  return request.param, model, answer, inputs


def changed(x, shape=None, dtype=None):
  return jax.ShapeDtypeStruct(x.shape if shape is None else shape, dtype or x.dtype)


def refused(answer, *inputs):
  with pytest.raises(UserError) as caught:
    answer(*inputs)
  message = str(caught.value)
  assert "\n" not in message and message.endswith(".")
  return message


def test_images_that_do_not_fit_are_told_in_a_sentence(case):
  name, model, answer, (images, *tokens) = case
  batch, height, width, _ = images.shape
  wrong = lambda *shape, dtype=None: refused(answer, changed(images, shape, dtype), *tokens)

  message = wrong(height, width, 3)
  assert f"images have shape [{height}, {width}, 3] and dtype float32, but the model" in message
  assert message.endswith(
    "float [batch, height, width, channels]; pass images[None] for a single one."
  )
  assert wrong(1, *images.shape).endswith("; reshape them.")
  assert "pass images.transpose(0, 2, 3, 1)" in wrong(batch, 3, height, width)
  message = wrong(batch, height, width, 1)
  assert "these parameters are for 3 channels, not 1: convert the images" in message
  assert "(images / 255 - mean) / std" in wrong(*images.shape, dtype=jnp.uint8)
  assert "these have no pixels" in wrong(batch, 0, width, 3)
  if name in OF_ONE_SIZE:
    message = wrong(batch, 2 * height, width, 3)
    assert "resize the images" in message and "patches" in message
  with pytest.raises(UserError, match="they look like"):
    jax.eval_shape(model.init, jax.random.key(0), changed(images, (2, 3, height, width)), *tokens)


def test_texts_that_do_not_fit_are_told_in_a_sentence(case):
  name, _, answer, (images, *_) = case
  if not name.startswith("lit"):
    return
  wrong = lambda *shape, dtype=None: refused(answer, images, changed(TOKENS, shape, dtype))
  assert "tokens have shape [16] and dtype int32, but the model takes integers" in wrong(16)
  assert "pass tokens[None] for a single text" in wrong(16)
  assert "pass what the tokenizer gives, int32" in wrong(2, 16, dtype=jnp.float32)
  assert "a text has one token at least" in wrong(2, 0) or name != "lit"
  assert "use a tokenizer with max_len=" in wrong(2, 600)


def test_an_empty_batch_gives_an_empty_answer(case):
  _, _, answer, inputs = case
  empty = [changed(x, (0, *x.shape[1:])) for x in inputs]
  full, none = (jax.tree.leaves(answer(*x)) for x in (inputs, empty))
  for one, two in zip(full, none, strict=True):
    assert two.shape == (one.shape if one.shape == (1,) else (0, *one.shape[1:]))


def test_a_batch_may_be_symbolic_and_mapped(case):
  _, model, _, inputs = case
  batch = jax.export.symbolic_shape("b")[0]
  variables = jax.eval_shape(model.init, jax.random.key(0), *inputs)
  symbolic = [changed(x, (batch, *x.shape[1:])) for x in inputs]
  exported = jax.export.export(jax.jit(model.apply))(variables, *symbolic)
  assert {str(x.shape[0]) for x in exported.out_avals} <= {"b", "1"}
  several = [changed(x, (3, *x.shape)) for x in inputs]
  mapped = jax.vmap(model.apply, (None, *[0] * len(inputs)))
  answers = jax.tree.leaves(jax.eval_shape(mapped, variables, *several))
  assert all(x.shape[0] == 3 for x in answers)


def test_half_precision_and_numpy_are_images_too():
  name, fields, size = FAMILIES["vit"]
  model = vit_jax.create_model(name, **fields)
  images = np.zeros((2, *size, 3))
  variables = jax.eval_shape(model.init, jax.random.key(0), images)
  for dtype in ("float64", "float16", jnp.bfloat16):
    assert jax.eval_shape(model.apply, variables, images.astype(dtype)).shape == (2, 5)


def test_a_width_that_group_norm_cannot_divide_is_refused():
  fields = dict(VIT, stem_blocks=(1,))
  with pytest.raises(UserError, match="stem_width=40 is not a multiple of 32; use 32"):
    vit_jax.create_model("R50+ViT-B_16", **fields, stem_width=40)
  model = vit_jax.create_model("R50+ViT-B_16", **fields).clone(stem_width=40)
  with pytest.raises(UserError, match="40 channels are not a multiple of the group norm's 32"):
    jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
