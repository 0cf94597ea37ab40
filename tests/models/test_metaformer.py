# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""MetaFormer: its tree, the paper's sizes with each token mixer, what mixes, and precision."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import timm
import torch
from flax.traverse_util import flatten_dict

import vit_jax
from vit_jax.errors import UserError
from vit_jax.models import cost, registry
from vit_jax.models.metaformer import TOKEN_MIXERS, MetaFormer, Pooling

TINY = dict(depths=(1, 2), widths=(32, 64), mlp_ratio=2.0, num_classes=5)


def images(height=32, width=32):
  return np.random.default_rng(7).normal(size=(2, height, width, 3)).astype(np.float32)


def tiny(size=(32, 32), **overrides):
  """A model, and variables with noise on every leaf: layer scale would hide what is behind it."""
  model = MetaFormer(**{**TINY, **overrides})
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


def block(width, ratio=2):
  return {
    "LayerNorm_0/scale": (width,),
    "LayerNorm_0/bias": (width,),
    "layer_scale_0": (width,),
    "LayerNorm_1/scale": (width,),
    "LayerNorm_1/bias": (width,),
    "channel_mlp/Dense_0/kernel": (width, ratio * width),
    "channel_mlp/Dense_0/bias": (ratio * width,),
    "channel_mlp/Dense_1/kernel": (ratio * width, width),
    "channel_mlp/Dense_1/bias": (width,),
    "layer_scale_1": (width,),
  }


@pytest.mark.parametrize(
  "mixer, mixing",
  [
    ("pooling", {}),
    ("identity", {}),
    ("mlp", {"kernel": (16, 16)}),
    (
      "attention",
      {
        **{f"{part}/kernel": (64, 2, 32) for part in ("query", "key", "value")},
        **{f"{part}/bias": (2, 32) for part in ("query", "key", "value")},
        "out/kernel": (2, 32, 64),
        "out/bias": (64,),
      },
    ),
  ],
)
def test_one_block_has_any_token_mixer(mixer, mixing):
  _, variables = tiny(token_mixer=("pooling", mixer))
  blocks = {
    "stage_0_block_0": block(32),
    **{
      f"stage_1_block_{i}": {
        **block(64),
        **{f"token_mixer/{path}": shape for path, shape in mixing.items()},
      }
      for i in range(2)
    },
  }
  assert {k: v.shape for k, v in flatten_dict(variables["params"], sep="/").items()} == {
    "input_embedding/kernel": (7, 7, 3, 32),
    "input_embedding/bias": (32,),
    "embedding_1/kernel": (3, 3, 32, 64),
    "embedding_1/bias": (64,),
    **{
      f"{name}/{path}": shape for name, leaves in blocks.items() for path, shape in leaves.items()
    },
    "norm/scale": (64,),
    "norm/bias": (64,),
    "head/kernel": (64, 5),
    "head/bias": (5,),
  }


# The paper's sizes: parameters in millions, multiply-accumulates in billions.
PUBLISHED = {
  "PoolFormer-S12": (12, 1.8),
  "PoolFormer-S24": (21, 3.4),
  "PoolFormer-S36": (31, 5.0),
  "PoolFormer-M36": (56, 8.8),
  "PoolFormer-M48": (73, 11.6),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_are_those_of_the_paper(name):
  """The paper counts by fvcore, which adds five operations for each value that is normalised."""
  row, model = cost.costs()[name], vit_jax.create_model(name)
  sides = [224 // (4 * 2**stage) for stage in range(4)]
  values = zip(model.depths, model.widths, sides, strict=True)
  normed = sum(2 * depth * width * side**2 for depth, width, side in values)
  gflops = row["gflops"] + 5 * normed / 1e9
  assert (round(row["parameters"] / 1e6), round(gflops, 1)) == PUBLISHED[name]


def test_the_table_of_files():
  rows = {name: registry.MODELS[name].weights for name in vit_jax.list_models("PoolFormer-*")}
  assert set(rows) == set(PUBLISHED)
  for name, (authors, timms) in rows.items():
    file = name.lower().replace("-", "_")
    assert authors.url.endswith(f"/v1.0/{file}.pth.tar")
    assert f"/{timm.get_pretrained_cfg(file).hf_hub_id}/" in timms.url
    megabytes = round(cost.costs()[name]["parameters"] * 4 / 1e6)
    assert authors.megabytes == timms.megabytes == megabytes
    assert timms.accuracy == pytest.approx(authors.accuracy, abs=0.04)


# Parameters in millions and multiply-accumulates in billions of the S12 size: the paper's ablation
# of token mixers.
P, A, M = "pooling", "attention", "mlp"
ABLATION = {
  "pooling": (11.9, 1.8),
  "identity": (11.9, 1.8),
  (P, P, P, A): (14.0, 1.9),
  (P, P, A, A): (16.5, 2.5),
  (P, P, P, M): (11.9, 1.8),
  (P, P, M, M): (12.2, 1.9),
}


@pytest.mark.parametrize("mixer", ABLATION, ids=str)
def test_sizes_with_other_mixers_are_the_papers(mixer):
  model, shape = MetaFormer(token_mixer=mixer), (1, 224, 224, 3)
  parameters = cost.count_parameters(cost.abstract_variables(model, shape))
  gflops = cost.count_macs(model, shape) / 1e9
  assert (round(parameters / 1e6, 1), round(gflops, 1)) == ABLATION[mixer]


@pytest.mark.parametrize("size", [(7, 7), (6, 9), (1, 2)])
def test_pooling_averages_what_is_there_and_subtracts_the_token(size):
  x = images(*size)
  theirs = torch.tensor(x).permute(0, 3, 1, 2)
  mean = torch.nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)(theirs)
  expected = (mean - theirs).permute(0, 2, 3, 1)
  np.testing.assert_allclose(Pooling().apply({}, x, train=False), expected, atol=1e-6)


# Positions of an 8x8 map that hear of its corner.
@pytest.mark.parametrize(
  "mixer, reached", [("pooling", 4), ("attention", 64), ("mlp", 64), ("identity", 1)]
)
def test_how_far_a_token_mixer_carries_a_pixel(mixer, reached):
  module = TOKEN_MIXERS[mixer]()
  x = np.random.default_rng(0).normal(size=(2, 8, 8, 32)).astype(np.float32)
  variables = module.init(jax.random.key(0), x, train=False)
  changed = x.copy()
  changed[0, 0, 0] += 1
  moved = np.abs(
    module.apply(variables, changed, train=False) - module.apply(variables, x, train=False)
  )
  assert (moved[0].max(-1) > 1e-6).sum() == reached and not moved[1].any()


def test_initial_values():
  """Residual branches begin at `layer_scale_init` of their size, and the head at zero."""
  model = MetaFormer(**TINY, layer_scale_init=1e-6)
  logits, variables = jax.jit(model.init_with_output)(jax.random.key(0), images())
  np.testing.assert_array_equal(logits, np.zeros((2, 5)))
  for path, value in flatten_dict(variables["params"], sep="/").items():
    if "layer_scale" in path:
      assert np.all(value == np.float32(1e-6)), path
    elif path.endswith("kernel") and "channel_mlp" in path:
      assert np.std(value) == pytest.approx(0.02, rel=0.1), path
    elif not path.endswith("kernel"):
      assert np.all(value == path.endswith("scale")), path


@pytest.mark.parametrize("mixer", ["pooling", ("pooling", "attention")])
def test_features_by_name(mixer):
  model, variables = tiny(token_mixer=mixer)
  found = vit_jax.extract_features(model, variables, images(40, 56))
  assert list(found) == ["pre_logits", "stages/0", "stages/1"]
  assert found["stages/0"].shape == (2, 10, 14, 32)
  assert found["stages/1"].shape == (2, 5, 7, 64)
  head = variables["params"]["head"]
  logits = found["pre_logits"] @ head["kernel"] + head["bias"]
  np.testing.assert_allclose(logits, run(model, variables, images(40, 56)), rtol=1e-4, atol=1e-4)
  params = {k: v for k, v in variables["params"].items() if k != "head"}
  headless = run(model.clone(num_classes=0), {"params": params}, images(40, 56))
  np.testing.assert_allclose(headless, found["pre_logits"], rtol=1e-5, atol=1e-5)


def test_attention_weights_by_stage_and_block():
  model, variables = tiny(token_mixer=("pooling", "attention"))
  found = vit_jax.extract_features(model, variables, images(), layers=["attention/*"])
  assert list(found) == ["attention/1/0", "attention/1/1"]
  assert found["attention/1/1"].shape == (2, 2, 16, 16)
  np.testing.assert_allclose(found["attention/1/1"].sum(-1), 1, rtol=1e-5)


@pytest.mark.parametrize("size", [(3, 3), (33, 90)])
@pytest.mark.parametrize("mixer", ["pooling", "attention", "identity"])
def test_takes_images_of_any_size(mixer, size):
  model, variables = tiny(token_mixer=mixer)
  assert np.isfinite(run(model, variables, images(*size))).all()


def test_an_mlp_over_positions_has_one_image_size():
  model, variables = tiny(token_mixer=("pooling", "mlp"))
  message = (
    "an image of this size has 4x6 positions in a stage whose token_mixer='mlp' is for 16; resize "
    "the images to the size that it was made for."
  )
  with pytest.raises(UserError, match=message):
    model.apply(variables, images(32, 48))
  _, oblong = tiny((16, 64), token_mixer=("pooling", "mlp"))
  assert jax.eval_shape(model.apply, oblong, images(16, 64)).shape == (2, 5)


@pytest.mark.parametrize("mixer", TOKEN_MIXERS)
def test_gradient_reaches_every_parameter(mixer):
  """All but what cancels: key biases in the softmax, a norm's bias in pooling minus the token."""
  model, variables = tiny(token_mixer=mixer, depths=(1, 1))
  cancelled = {"pooling": "LayerNorm_0/bias", "attention": "key/bias"}.get(mixer, "none")
  loss = lambda v: jnp.sum(model.apply(v, images(), train=True) ** 2)
  gradient = jax.jit(jax.grad(loss))(variables)
  norms = {k: np.linalg.norm(g) for k, g in flatten_dict(gradient["params"], sep="/").items()}
  whole = np.linalg.norm(list(norms.values()))
  for path, norm in norms.items():
    assert (norm > 1e-5 * whole) != path.endswith(cancelled), path


def test_bfloat16_computes_in_bfloat16_and_answers_in_float32():
  model, variables = tiny(token_mixer=("pooling", "attention"))
  half = model.clone(dtype="bfloat16")
  logits = run(half, variables, images())
  assert logits.dtype == jnp.float32
  initial = jax.eval_shape(half.init, jax.random.key(0), images())
  assert {x.dtype for x in jax.tree.leaves(initial)} == {jnp.dtype("float32")}
  error = relative_error(logits, run(model, variables, images()))
  assert 1e-4 < error < 5e-2  # Not float32 in disguise, and no worse than 8 bits allow.


def test_drop_path_grows_over_all_stages():
  """At rate 1 - eps the last block vanishes, while the first is always kept."""
  model, variables = tiny(depths=(1, 1), drop_path_rate=0.999999)
  trained, plain = (
    run(model, variables, images(), train=train, mutable=("features",))[1]["features"]
    for train in (True, False)
  )
  np.testing.assert_allclose(trained["stage0"], plain["stage0"], rtol=1e-5, atol=1e-5)
  conv = nn.Conv(64, (3, 3), (2, 2), padding=((1, 1), (1, 1)))
  embedded = conv.apply({"params": variables["params"]["embedding_1"]}, trained["stage0"])
  np.testing.assert_allclose(trained["stage1"], embedded, rtol=1e-5, atol=1e-5)


def test_drop_path_acts_in_training_only():
  model, variables = tiny(depths=(1, 1), drop_path_rate=0.5)
  plain = model.clone(drop_path_rate=0.0)
  np.testing.assert_array_equal(run(model, variables, images()), run(plain, variables, images()))
  draws = [run(model, variables, images(), seed, train=True) for seed in (0, 0, 1, 2, 3)]
  np.testing.assert_array_equal(draws[0], draws[1])
  assert max(relative_error(draw, draws[0]) for draw in draws) > 1e-3


@pytest.mark.parametrize(
  "overrides, message",
  [
    (dict(token_mixer="conv"), "token_mixer='conv' is not known; choose from: pooling, attention"),
    (dict(token_mixer=("pooling",)), "is for 1 stages, but depths=.1, 2. is for 2; give one for"),
    (dict(widths=(8, 8, 8)), "widths=.* is for 3 stages"),
    (dict(final_norm="none"), "final_norm='none' is not known; choose from: before_pooling"),
    (dict(activation="relu"), "activation='relu' is not known"),
  ],
)
def test_wrong_settings_are_told_in_a_sentence(overrides, message):
  with pytest.raises(UserError, match=message):
    tiny(**overrides)
