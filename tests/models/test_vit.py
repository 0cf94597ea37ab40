# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Behaviour of the modules: shapes, the official tree, dtypes, depth, and equal paths."""

import compiled
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled import apply
from flax.traverse_util import flatten_dict
from timm.layers.pos_embed_rel import gen_relative_position_index

import vit_jax
from vit_jax.errors import UserError
from vit_jax.models import positions
from vit_jax.models.vit import CLASSIFIERS

TINY = dict(patch_size=8, hidden_size=24, num_layers=3, mlp_dim=48, num_heads=3, num_classes=5)


def images(size=32, batch=2):
  return jax.random.normal(jax.random.key(7), (batch, size, size, 3))


def tiny(**overrides):
  model = vit_jax.create_model("ViT-Ti_16", **{**TINY, **overrides})
  return model, compiled.noise(model, images())


def init(model):
  return compiled.init(model, images())


def relative_error(a, b):
  a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
  return np.linalg.norm(a - b) / np.linalg.norm(b)


def test_tree_is_the_official_one():
  _, variables = tiny(representation_size=7)
  shapes = {k: v.shape for k, v in flatten_dict(variables["params"], sep="/").items()}
  block = "Transformer/encoderblock_0"
  attention = f"{block}/MultiHeadDotProductAttention_0"
  expected = {
    "cls": (1, 1, 24),
    "embedding/kernel": (8, 8, 3, 24),
    "Transformer/posembed_input/pos_embedding": (1, 17, 24),
    f"{attention}/query/kernel": (24, 3, 8),
    f"{attention}/query/bias": (3, 8),
    f"{attention}/out/kernel": (3, 8, 24),
    f"{attention}/out/bias": (24,),
    f"{block}/LayerNorm_1/scale": (24,),
    f"{block}/MlpBlock_0/Dense_0/kernel": (24, 48),
    f"{block}/MlpBlock_0/Dense_1/kernel": (48, 24),
    "Transformer/encoder_norm/bias": (24,),
    "pre_logits/kernel": (24, 7),
    "head/kernel": (7, 5),
  }
  assert {k: shapes.get(k) for k in expected} == expected
  assert len(shapes) == 4 + 3 * 16 + 2 + 4  # Nothing beside these and their like.


@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_classifiers(classifier):
  model, variables = tiny(classifier=classifier)
  logits = apply(model, variables, images())
  tokens = {"unpooled": (16,), "token_unpooled": (17,)}.get(classifier, ())
  assert logits.shape == (2, *tokens, 5)
  assert ("cls" in variables["params"]) == (classifier in ("token", "token_unpooled"))


def test_head_starts_at_zero_with_its_bias():
  model = vit_jax.create_model("ViT-Ti_16", **TINY, head_bias_init=-3.0)
  variables = init(model)
  np.testing.assert_array_equal(apply(model, variables, images()), np.full((2, 5), -3.0))


def test_num_classes_zero_returns_the_representation():
  model, variables = tiny(num_classes=0, representation_size=7)
  assert "head" not in variables["params"]
  assert apply(model, variables, images()).shape == (2, 7)


def test_unpooled_gives_the_pooled_logits_token_by_token():
  model, variables = tiny(classifier="token")
  everything = vit_jax.create_model("ViT-Ti_16", **TINY, classifier="token_unpooled")
  ours, theirs = apply(everything, variables, images())[:, 0], apply(model, variables, images())
  assert relative_error(ours, theirs) < 1e-6


@pytest.mark.parametrize(
  "position_embedding, remat",
  [("learned_1d", "none"), ("relative", "full"), ("learned_1d", "dots")],
)
def test_scan_and_loop_agree_from_the_same_weights(position_embedding, remat):
  model, variables = tiny(position_embedding=position_embedding)
  params = dict(variables["params"])
  transformer = dict(params["Transformer"])
  blocks = [transformer.pop(f"encoderblock_{layer}") for layer in range(3)]
  transformer["encoderblock"] = jax.tree.map(lambda *x: jnp.stack(x), *blocks)
  scanned = {"params": {**params, "Transformer": transformer}}
  scan = vit_jax.create_model(
    "ViT-Ti_16", **TINY, position_embedding=position_embedding, scan_layers=True, remat=remat
  )

  def loss(module, variables):
    return jnp.sum(module.apply(variables, images()) ** 2)

  assert relative_error(apply(scan, scanned, images()), apply(model, variables, images())) < 1e-6
  ours = jax.jit(jax.grad(lambda v: loss(scan, v)))(scanned)["params"]["Transformer"][
    "encoderblock"
  ]
  theirs = jax.jit(jax.grad(lambda v: loss(model, v)))(variables)["params"]["Transformer"]
  whole = np.linalg.norm([np.linalg.norm(x) for x in jax.tree.leaves(theirs)])
  for layer in range(3):
    mine = jax.tree.map(lambda x, layer=layer: x[layer], ours)
    for a, b in zip(
      jax.tree.leaves(mine), jax.tree.leaves(theirs[f"encoderblock_{layer}"]), strict=True
    ):
      # A key bias has no influence (softmax cancels it), so its gradient is rounding alone.
      assert np.linalg.norm(a - b) < 1e-5 * np.linalg.norm(b) + 1e-7 * whole


@pytest.mark.parametrize("kind", positions.POSITION_EMBEDDINGS)
def test_position_embeddings_tell_order_apart(kind):
  """Shuffling the patches leaves a bag of patches as it is and changes everything else."""
  model, variables = tiny(position_embedding=kind)
  variables = jax.tree.map(lambda leaf: 3 * leaf, variables)  # So that attention is not flat.
  x = images()
  patches = x.reshape(2, 4, 8, 4, 8, 3).transpose(0, 1, 3, 2, 4, 5).reshape(2, 16, 8, 8, 3)
  shuffled = patches[:, jnp.asarray([5, 3, 0, 1, 2, 4, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6])]
  shuffled = shuffled.reshape(2, 4, 4, 8, 8, 3).transpose(0, 1, 3, 2, 4, 5).reshape(2, 32, 32, 3)
  error = relative_error(apply(model, variables, shuffled), apply(model, variables, x))
  assert error < 1e-5 if kind == "none" else error > 1e-3


def test_sincos_2d_equals_the_closed_form():
  grid, dim = (3, 5), 16
  table = positions.sincos_2d(grid, dim)
  for row in range(3):
    for column in range(5):
      expected = []
      for position in (column, row):
        angles = [position / 10_000 ** (k / (dim / 4 - 1)) for k in range(dim // 4)]
        expected += [np.sin(a) for a in angles] + [np.cos(a) for a in angles]
      np.testing.assert_allclose(table[row * 5 + column], expected, atol=1e-6)


@pytest.mark.parametrize("grid", [(3, 5), (4, 4), (1, 3)])
def test_relative_index_is_timms(grid):
  expected = gen_relative_position_index(grid, class_token=True).numpy()
  np.testing.assert_array_equal(positions.relative_index(grid, prefix=1), expected)
  expected = gen_relative_position_index(grid, class_token=False).numpy()
  np.testing.assert_array_equal(positions.relative_index(grid, prefix=0), expected)


@pytest.mark.parametrize("dim", [4, 6, 10, 13])
def test_sincos_2d_of_other_widths_is_refused(dim):
  with pytest.raises(UserError, match=f"needs a width that is a multiple of 4, 8 .*it is {dim}"):
    positions.sincos_2d((2, 2), dim)


def test_relative_index_depends_on_the_offset_alone():
  index = positions.relative_index((3, 4), prefix=1)
  inner = index[1:, 1:].reshape(3, 4, 3, 4)
  assert inner[0, 0, 1, 2] == inner[1, 1, 2, 3] != inner[1, 2, 0, 0]
  assert len(np.unique(inner)) == 5 * 7
  assert {index[0, 1], index[1, 0], index[0, 0]} == {35, 36, 37}


def test_attention_is_captured_only_when_asked_and_changes_nothing():
  model, variables = tiny()
  logits, captured = apply(model, variables, images(), mutable=("attention",))
  weights = jax.tree.leaves(captured)
  assert [w.shape for w in weights] == [(2, 3, 17, 17)] * 3
  np.testing.assert_allclose(weights[0].sum(-1), 1.0, atol=1e-6)
  assert relative_error(apply(model, variables, images()), logits) < 1e-6
  assert set(init(model)) == {"params"}


def test_bfloat16_computes_in_bfloat16_and_answers_in_float32():
  model, variables = tiny()
  half = vit_jax.create_model("ViT-Ti_16", **TINY, dtype="bfloat16")
  logits = apply(half, variables, images())
  assert logits.dtype == jnp.float32
  assert {x.dtype for x in jax.tree.leaves(init(half))} == {jnp.dtype("float32")}
  error = relative_error(logits, apply(model, variables, images()))
  assert 1e-4 < error < 5e-2  # Not float32 in disguise, and no worse than 8 bits allow.


def test_drop_path_keeps_the_mean_and_grows_with_depth():
  from vit_jax.models.layers import DropPath

  x = jnp.ones((4000, 3))
  y = DropPath().apply({}, x, 0.25, train=True, rngs={"dropout": jax.random.key(0)})
  assert set(np.unique(y)) == {0.0, np.float32(1 / 0.75)}
  np.testing.assert_array_equal(y[:, 0], y[:, 1])  # Whole examples.
  assert abs(float(y.mean()) - 1.0) < 4 * np.sqrt(0.25 / 0.75 / 4000)

  # At rate 1 - eps the last block vanishes, while the first is always kept.
  model, variables = tiny(drop_path_rate=0.999999)
  rngs = {"dropout": jax.random.key(1)}
  _, captured = apply(model, variables, images(), train=True, rngs=rngs, mutable=("features",))
  blocks = captured["features"]["Transformer"]
  np.testing.assert_array_equal(
    blocks["encoderblock_2"]["block"], blocks["encoderblock_1"]["block"]
  )
  assert relative_error(blocks["encoderblock_0"]["block"], blocks["encoderblock_1"]["block"]) > 0


@pytest.mark.parametrize("field", ["dropout_rate", "attention_dropout_rate", "drop_path_rate"])
def test_dropout_acts_in_training_only(field):
  model, variables = tiny(**{field: 0.5})
  plain, _ = tiny()
  np.testing.assert_array_equal(
    apply(model, variables, images()), apply(plain, variables, images())
  )
  draws = [
    apply(model, variables, images(), train=True, rngs={"dropout": jax.random.key(seed)})
    for seed in (0, 0, 1)
  ]
  np.testing.assert_array_equal(draws[0], draws[1])
  assert relative_error(draws[2], draws[0]) > 1e-3


def test_hybrid_strides_and_tree():
  model = vit_jax.create_model(
    "R50+ViT-B_16", stem_blocks=(1, 2), stem_width=32, hidden_size=24, num_layers=1, mlp_dim=48,
    num_heads=3, num_classes=5, group_norm_eps=1e-5,
  )  # fmt: skip
  variables = compiled.noise(model, images(64))
  assert model.pixels_per_token() == (8, 8)
  flat = flatten_dict(variables["params"], sep="/")
  assert flat["Transformer/posembed_input/pos_embedding"].shape == (1, 65, 24)
  assert flat["conv_root/kernel"].shape == (7, 7, 3, 32)
  assert flat["block2/unit1/conv_proj/kernel"].shape == (1, 1, 128, 256)
  assert "block2/unit2/conv_proj/kernel" not in flat
  with pytest.raises(UserError, match="multiple of patch size 8"):
    model.init(jax.random.key(0), images(36))


def test_weights_are_standardised():
  """A filter's scale and offset have no influence on the output."""
  model = vit_jax.create_model(
    "R+ViT-Ti_16", hidden_size=24, num_layers=1, mlp_dim=48, num_heads=3, num_classes=5
  )
  variables = compiled.noise(model, images())
  kernel = variables["params"]["conv_root"]["kernel"]
  changed = {"params": {**variables["params"], "conv_root": {"kernel": 3 * kernel + 0.7}}}
  error = relative_error(apply(model, changed, images()), apply(model, variables, images()))
  assert error < 1e-4


@pytest.mark.parametrize("name", ["ViT-B_16", "R50+ViT-B_16", "Mixer-B_16"])
@pytest.mark.parametrize("size", [0, -16, (16, 0)])
def test_patches_have_a_size(name, size):
  with pytest.raises(UserError, match=r"patch_size=.* should be at least 1: pass positive numbers"):
    vit_jax.create_model(name, patch_size=size)
  usual = vit_jax.create_model(name)  # A module may also be made without the registry.
  with pytest.raises(UserError, match=r"patch_size makes patches of .* pass positive numbers"):
    init(usual.clone(patch_size=size))


def test_image_sizes_are_checked_and_may_be_oblong():
  model, _ = tiny()
  with pytest.raises(UserError, match="image_size=36 is not a multiple of patch size 8; use 32 or"):
    model.init(jax.random.key(0), jnp.zeros((1, 32, 36, 3)))
  variables = compiled.noise(model, jnp.zeros((1, 16, 32, 3)))
  assert apply(model, variables, jnp.zeros((1, 16, 32, 3))).shape == (1, 5)


@pytest.mark.parametrize(
  "overrides, message",
  [
    (dict(classifier="cls"), "classifier='cls' is not known; choose from: token, gap"),
    (dict(activation="relu"), "activation='relu' is not known"),
    (dict(position_embedding="rope"), "position_embedding='rope' is not known"),
    (dict(remat="all"), "remat='all' is not known"),
    (dict(num_heads=5), "hidden_size=24 is not a multiple of num_heads=5"),
  ],
)
def test_wrong_settings_are_told_in_a_sentence(overrides, message):
  with pytest.raises(UserError, match=message):
    vit_jax.create_model("ViT-Ti_16", **{**TINY, **overrides})
  model = vit_jax.create_model("ViT-Ti_16", **TINY).clone(**overrides)  # Unchecked until it runs.
  with pytest.raises(UserError, match=message):
    model.init(jax.random.key(0), images())
