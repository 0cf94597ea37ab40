# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Two towers: sizes, what each embedding depends on, gradients, towers of any family, refusals."""

import functools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled import apply
from flax.traverse_util import flatten_dict, unflatten_dict

import vit_jax
from vit_jax.errors import UserError
from vit_jax.models.registry import create_model, fields_of
from vit_jax.training import losses

NAME = "LiT-B16B_2"
SMALL = dict(num_layers=1, hidden_size=16, num_heads=2, mlp_dim=32)
VIT = dict(SMALL, name="ViT-Ti_16", patch_size=4)
TEXT = dict(SMALL, name="Text-Ti", num_classes=16, vocab_size=40, max_len=6)
BERT = dict(TEXT, name="Bert-B", max_positions=6)


def images(size=8, batch=4):
  shape = (batch, size, size, 3)
  return np.random.default_rng(7).normal(size=shape).astype(np.float32)


def tokens(length=6, batch=4):
  return np.random.default_rng(8).integers(1, 40, (batch, length), np.int32)


def lit(img=VIT, txt=TEXT, **fields):
  return create_model(NAME, img=img, txt=txt, **fields)


def noisy(model, *inputs):
  """Noise on every leaf: a zero head, scale or bias would hide what is behind it."""
  shapes = jax.eval_shape(model.init, jax.random.key(0), *inputs)
  rng = np.random.default_rng(0)
  noise = lambda path, x: rng.normal("scale" in str(path[-1]), 0.3, x.shape).astype(np.float32)
  return jax.tree_util.tree_map_with_path(noise, shapes)


@functools.partial(jax.jit, static_argnums=0, static_argnames="train")
def run(model, variables, *inputs, seed=0, train=False):
  return model.apply(variables, *inputs, train=train, rngs={"dropout": jax.random.key(seed)})


def relative_error(a, b):
  a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
  return np.linalg.norm(a - b) / np.linalg.norm(b)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("txt", [TEXT, BERT], ids=["Text", "Bert"])
def test_embeddings_are_float32_of_length_1(txt, dtype):
  model = lit({**VIT, "dtype": dtype}, {**txt, "dtype": dtype})
  variables = noisy(model, images(), tokens())
  zimg, ztxt, _ = run(model, variables, images(), tokens())
  for z in (zimg, ztxt):
    assert z.shape == (4, 16) and z.dtype == jnp.float32
    np.testing.assert_allclose(np.linalg.norm(z, axis=1), 1, rtol=1e-6)
  if dtype == "bfloat16":  # Not float32 in disguise, and no worse than 8 bits allow.
    exact = run(lit(VIT, txt), variables, images(), tokens())
    assert 1e-4 < relative_error(zimg, exact[0]) < 5e-2
    assert 1e-4 < relative_error(ztxt, exact[1]) < 5e-2


def test_what_is_not_given_is_none_and_changes_nothing():
  model = lit()
  variables = noisy(model, images(), tokens())
  both = run(model, variables, images(), tokens())
  no_text = run(model, variables, images(), None)
  no_image = run(model, variables, None, tokens())
  assert no_text[1] is None and no_image[0] is None
  np.testing.assert_allclose(no_text[0], both[0], rtol=1e-6, atol=1e-7)
  np.testing.assert_allclose(no_image[1], both[1], rtol=1e-6, atol=1e-7)
  neither = run(model, variables, None, None)
  assert neither[:2] == (None, None) and neither[2] == both[2]


def test_temperature_is_learned_as_its_logarithm_and_a_bias_is_there_on_request():
  model = lit(temperature_init=3.0)
  variables = model.init(jax.random.key(0), None, None)
  assert set(variables["params"]) == {"t"}
  np.testing.assert_allclose(variables["params"]["t"], [math.log(3)], rtol=1e-6)
  variables["params"]["t"] = jnp.array([-0.7])
  out = run(model, variables, None, None)[2]
  assert set(out) == {"t"}
  np.testing.assert_allclose(out["t"], [math.exp(-0.7)], rtol=1e-6)

  biased = lit(bias_init=-10.0)
  variables = biased.init(jax.random.key(0), None, None)
  out = run(biased, variables, None, None)[2]
  np.testing.assert_allclose(out["t"], [10.0], rtol=1e-6)
  np.testing.assert_array_equal(out["b"], [-10.0])


def with_leaf(variables, path, change):
  """A copy of the variables with one leaf changed: arrays in use must not change in place."""
  flat = flatten_dict(variables["params"], sep="/")
  return {"params": unflatten_dict({**flat, path: change(flat[path])}, sep="/")}


def test_bert_does_not_see_padding():
  model = create_model(NAME, txt={**BERT, "max_len": 16, "max_positions": 24}).txt
  lengths = np.array([[1], [5], [9], [16]])
  padded = lambda length: np.where(np.arange(length) < lengths, tokens(24)[:, :length], 0)
  variables = noisy(model, padded(24))
  expected = run(model, variables, padded(16))
  assert relative_error(run(model, variables, padded(24)), expected) < 1e-6

  # Nor what padding is embedded as; a token in its place is seen, and where it stands.
  moved = lambda table: table + (np.arange(40) == 0)[:, None]
  other = with_leaf(variables, "token_embedding/embedding", moved)
  np.testing.assert_array_equal(run(model, other, padded(16)), expected)
  token_at = lambda at: padded(24) + 3 * ((np.arange(24) == at) & (lengths == 1))
  first, second = (run(model, variables, token_at(at)) for at in (20, 21))
  assert relative_error(first[0], expected[0]) > 1e-3
  assert relative_error(first[0], second[0]) > 1e-3
  assert relative_error(first[1:], expected[1:]) < 1e-6


def test_the_plain_transformer_gives_its_last_token():
  model = create_model(NAME, txt=TEXT).txt
  variables = noisy(model, tokens())
  is_last = np.arange(6) == 5
  first, last = (np.where(is_last == at, 40 - tokens(), tokens()) for at in (False, True))
  seen = run(model, variables, tokens())
  assert relative_error(run(model, variables, first), seen) > 1e-2  # By attention.
  attention = "Encoder_0/encoderblock_0/MultiHeadDotProductAttention_0/out/kernel"
  apart = with_leaf(variables, attention, np.zeros_like)
  alone = run(model, apart, tokens())
  np.testing.assert_array_equal(run(model, apart, first), alone)
  assert relative_error(run(model, apart, last), alone) > 1e-2


def test_bert_drops_out_in_training_only():
  model = create_model(NAME, txt={**BERT, "dropout_rate": 0.5}).txt
  variables = noisy(model, tokens())
  plain = run(model.clone(dropout_rate=0.0), variables, tokens())
  np.testing.assert_array_equal(run(model, variables, tokens()), plain)
  draws = [run(model, variables, tokens(), seed=seed, train=True) for seed in (0, 0, 1)]
  np.testing.assert_array_equal(draws[0], draws[1])
  assert relative_error(draws[2], draws[0]) > 1e-3


def contrastive_loss(model, variables, *inputs):
  zimg, ztxt, out = apply(model, variables, *inputs)
  return losses.contrastive_softmax(out["t"] * zimg @ ztxt.T).mean()


def classification_loss(model, variables, pixels):
  return losses.softmax_cross_entropy(model.apply(variables, pixels), jnp.arange(4) % 3).mean()


CLASSES = dict(SMALL, num_classes=3, representation_size=8)
STEM = dict(stem_blocks=(1, 1), stem_width=32, patch_size=2)
# Mixer's and BiT's are in their own tests.
GRADIENTS = {
  "LiT, Text": (lit(), contrastive_loss, (images(), tokens())),
  "LiT, Bert": (lit({**VIT, "classifier": "map"}, BERT), contrastive_loss, (images(), tokens())),
  "ViT": (create_model("ViT-Ti_16", patch_size=4, **CLASSES), classification_loss, (images(),)),
  "hybrid": (create_model("R+ViT-Ti_16", **STEM, **CLASSES), classification_loss, (images(32),)),
}


@pytest.mark.parametrize("case", GRADIENTS)
def test_gradients_reach_every_parameter(case):
  """All but the bias of the keys, which softmax cancels: what it gets is rounding alone."""
  model, loss, inputs = GRADIENTS[case]
  variables = noisy(model, *inputs)
  gradient = jax.jit(jax.grad(functools.partial(loss, model)))(variables, *inputs)
  norms = {k: np.linalg.norm(g) for k, g in flatten_dict(gradient["params"], sep="/").items()}
  whole = np.linalg.norm(list(norms.values()))
  assert np.isfinite(whole)
  for path, norm in norms.items():
    if path.endswith("key/bias"):
      assert norm < 1e-6 * whole, path
    else:
      assert norm > 1e-5 * whole, path


OTHERS = {
  "Mixer": dict(
    name="Mixer-S_16",
    patch_size=4,
    hidden_dim=24,
    num_blocks=2,
    tokens_mlp_dim=12,
    channels_mlp_dim=48,
    num_classes=16,
  ),
  "BiT": dict(name="BiT-R50x1", num_units=(1, 1), width_factor=0.25, num_groups=8, num_classes=16),
  "hybrid": dict(SMALL, name="R+ViT-Ti_16", patch_size=2, stem_width=32),
}


# How the files that were released of each family begin.
RELEASED = {
  "Mixer": "img/MixerBlock_1/token_mixing/",
  "BiT": "img/resnet/block1/unit01/a/standardized_conv2d/",
  "hybrid": "img/Transformer/encoderblock_0/MlpBlock_3/",
}


@pytest.mark.parametrize("family", OTHERS)
def test_the_image_tower_may_be_of_any_family(family, tmp_path):
  model = lit(OTHERS[family])
  variables = noisy(model, images(32), tokens())
  zimg, ztxt, _ = run(model, variables, images(32), tokens())
  assert zimg.shape == ztxt.shape == (4, 16)
  alone = run(model.img, {"params": variables["params"]["img"]}, images(32))
  np.testing.assert_allclose(
    zimg, alone / np.linalg.norm(alone, axis=1, keepdims=True), rtol=1e-4, atol=1e-5
  )
  assert model.pixels_per_token() == model.img.pixels_per_token()

  vit_jax.save_checkpoint(tmp_path / "lit.npz", model, variables)
  names = np.load(tmp_path / "lit.npz").files
  assert any(name.startswith(RELEASED[family]) for name in names)
  again, restored = vit_jax.from_pretrained(NAME, tmp_path / "lit.npz")
  assert again == model
  assert jax.tree.structure(restored) == jax.tree.structure(variables)
  jax.tree.map(np.testing.assert_array_equal, restored, variables)


CHANGES = {
  "nothing": {},
  "depth": dict(img=dict(num_layers=2), txt=dict(num_layers=3)),
  "one tower": dict(txt=dict(hidden_size=96)),
  "tiny": dict(img=VIT, txt=TEXT),
  "tuples": dict(img=dict(num_layers=2, patch_size=(8, 16)), txt=BERT),
  "Mixer": dict(img=OTHERS["Mixer"], txt=TEXT),
  "BiT": dict(img=OTHERS["BiT"], txt=TEXT),
  "numerics": dict(img=dict(activation="gelu", layer_norm_eps=1e-12), txt=dict(activation="gelu")),
  "what the row of a LiT sets": dict(
    img=dict(num_classes=1000, dropout_rate=0.1, head_zeroinit=True),
    txt=dict(num_classes=768, max_len=9),
  ),
  "beside the towers": dict(bias_init=-10.0, temperature_init=2.0),
  "scan": dict(img=dict(scan_layers=True, remat="dots"), txt=dict(TEXT, scan_layers=True)),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", [NAME, "LiT-L16Ti"])
def test_fields_build_the_same_model_again(name, change):
  model = create_model(name, **CHANGES[change])
  fields = fields_of(model, create_model(name))
  assert set(fields) == set(CHANGES[change])
  assert create_model(name, **fields) == model
  assert create_model(name, **json.loads(json.dumps(fields))) == model
  assert create_model(name, **fields_of(model)) == model


@pytest.mark.parametrize(
  "fields, message",
  [
    (
      dict(txt=dict(name="Bert-X")),
      "there is no text tower 'Bert-X'; did you mean 'Bert-L' or 'Bert-B'",
    ),
    (dict(txt=dict(name="ViT-B_16")), "no text tower 'ViT-B_16'; choose from Bert-B, Bert-L, Text"),
    (dict(img=dict(name="ViT-B16")), "there is no model 'ViT-B16'; did you mean 'ViT-B_16'"),
    (dict(img=dict(num_layer=2)), "ViT-B_16 has no field 'num_layer'; did you mean 'num_layers'"),
    (dict(txt=dict(max_length=2)), "Bert-B has no field 'max_length'; did you mean 'max_len'"),
    (dict(img=dict(name="Mixer-B_16", num_layers=2)), "Mixer-B_16 has no field 'num_layers'"),
    (dict(img=dict(name="LiT-B16B")), "LiT-B16B"),  # No towers in towers.
    (dict(image=dict(num_layers=2)), "LiT-B16B_2 has no field 'image'"),
    (dict(num_classes=10), "LiT-B16B_2 has no field 'num_classes'"),
    (dict(img=3), r"img=3 is no tower; pass its fields, as in img=\{...\}."),
    (dict(txt="Bert-B"), r"txt='Bert-B' is no tower; pass its fields, as in txt=\{...\}."),
  ],
)
def test_wrong_towers_are_told_in_a_sentence(fields, message):
  with pytest.raises(UserError, match=message):
    create_model(NAME, **fields)


def test_embeddings_of_two_widths_are_refused():
  model = lit(txt={**TEXT, "num_classes": 12})
  message = (
    "the image tower embeds in 16 dimensions and the text tower in 12; set txt.num_classes=16"
  )
  with pytest.raises(UserError, match=message):
    noisy(model, images(), tokens())


def test_texts_of_another_length_are_refused():
  model = create_model(NAME, txt=TEXT).txt
  for length in (5, 7):
    with pytest.raises(UserError, match=f"takes 6 tokens, but got {length}; .* with max_len=6"):
      noisy(model, tokens(length))
  bert = create_model(NAME, txt=BERT).txt
  with pytest.raises(UserError, match=r"has 6 positions, but got 7 tokens; .* max_len=6 or less"):
    noisy(bert, tokens(7))
  variables = noisy(bert, tokens())
  assert run(bert, variables, tokens(3)).shape == (4, 16)


@pytest.mark.parametrize(
  "name, towers",
  [  # Each says of a tower what its own row has and LiT's has not.
    ("LiT-L16Ti", dict(img={"name": "ViT-B_16"}, txt={"num_classes": 768})),
    ("LiT-L16L", dict(img={"dropout_rate": 0.1})),
    ("LiT-B16B", dict(img={"head_zeroinit": True})),
    ("LiT-B16B_2", dict(img={"name": "ViT-L_16"}, txt={"name": "Bert-L"})),
    ("LiT-B16B", dict(img={"name": "BiT-R50x1"})),
  ],
)
def test_fields_that_are_a_towers_own_default_are_said_too(name, towers):
  model = create_model(name, **towers)
  fields = json.loads(json.dumps(fields_of(model, create_model(name))))
  assert create_model(name, **fields) == model
  if "name" in towers["img"] and hasattr(model.img, "dropout_rate"):
    assert model.img.dropout_rate == 0.0  # Another tower is as locked as the row's.
