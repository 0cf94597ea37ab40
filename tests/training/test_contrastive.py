# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Contrastive training: its losses, its step, what is frozen, and what it refuses."""

import dataclasses
import json
import math
import re

import compiled
import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest
import small_lit
import tiny_run as tiny
import torch
import torch.nn.functional as F

from vit_jax.errors import UserError
from vit_jax.models.registry import create_model
from vit_jax.parallel import mesh as mesh_lib
from vit_jax.training import build, losses, objectives, optim
from vit_jax.training.loop import train_and_evaluate
from vit_jax.training.plan import InitPlan, make_plan
from vit_jax.training.state import create_state
from vit_jax.training.step import make_train_step

SMALL = dict(hidden_size=16, num_layers=1, mlp_dim=32, num_heads=2)
IMG = dict(SMALL, name="ViT-Ti_16", patch_size=2)
TXT = dict(SMALL, name="Text-Ti", num_classes=16, vocab_size=259, max_len=24)
HALF = (0.5,) * 3


def lit(img=(), **fields):
  return create_model("LiT-B16B_2", img={**IMG, **dict(img)}, txt=TXT, **fields)


def pairs(size=16, seed=0):
  rng = np.random.default_rng(seed)
  return {
    "image": rng.integers(256, size=(size, 8, 8, 3), dtype=np.uint8),
    "tokens": rng.integers(259, size=(size, 24)).astype(np.int32),
  }


def noise(model):
  """Variables that are nowhere zero."""
  return compiled.noise(model, np.zeros((1, 8, 8, 3), np.float32), np.zeros((1, 24), np.int32))


def make_step(model, optimizer, *, loss="softmax", frozen=None):
  objective = objectives.contrastive(model, mean=HALF, std=HALF, loss=loss)
  rate = optax.constant_schedule(0.1)
  return make_train_step(objective, optimizer, rate, mesh_lib.make_mesh(), frozen=frozen)


def setup(model, optimizer, **options):
  state = create_state(
    model, noise(model), optimizer, None, 0, shardings=mesh_lib.replicated(mesh_lib.make_mesh())
  )
  return state, make_step(model, optimizer, **options)


def random_logits(size, seed):
  return np.random.default_rng(seed).normal(0, 3, (size, size)).astype(np.float32)


@pytest.mark.parametrize("size", [1, 2, 17])
def test_softmax_loss_equals_torch(size):
  logits = random_logits(size, 0)
  theirs, own = torch.tensor(logits, dtype=torch.float64), torch.arange(size)
  texts = F.cross_entropy(theirs, own, reduction="none")
  images = F.cross_entropy(theirs.T, own, reduction="none")
  ours = losses.contrastive_softmax(jnp.asarray(logits))
  np.testing.assert_allclose(ours, (texts + images) / 2, rtol=1e-6)


@pytest.mark.parametrize("size", [1, 2, 17])
def test_sigmoid_loss_equals_torch(size):
  logits = random_logits(size, 1)
  theirs = torch.tensor(logits, dtype=torch.float64)
  are_pairs = torch.eye(size, dtype=torch.float64)
  expected = F.binary_cross_entropy_with_logits(theirs, are_pairs, reduction="none").sum(1)
  np.testing.assert_allclose(losses.contrastive_sigmoid(jnp.asarray(logits)), expected, rtol=1e-6)


@pytest.mark.parametrize("loss", losses.CONTRASTIVE)
def test_losses_are_float32_for_bfloat16_logits(loss):
  # In bfloat16 neither the sum over 1,000 texts nor its logarithm would be this near.
  logits = jnp.zeros((1000, 1000), jnp.bfloat16)
  values = losses.CONTRASTIVE[loss](logits)
  expected = {"softmax": math.log(1000), "sigmoid": 1000 * math.log(2)}[loss]
  assert values.dtype == jnp.float32
  np.testing.assert_allclose(values, expected, rtol=1e-6)


def relative_error(ours, theirs):
  ours, theirs = (
    np.concatenate([v.ravel() for v in tiny.leaves(x).values()]) for x in (ours, theirs)
  )
  return np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)


# Loss, bias, what is frozen.
CASES = [("softmax", None, None), ("sigmoid", -10.0, "img/")]


@pytest.mark.parametrize("loss, bias, frozen", CASES)
def test_equals_a_step_written_out(loss, bias, frozen):
  model, batch = lit(bias_init=bias), pairs()
  optimizer = optax.sgd(100.0)  # Updates far above the rounding of the parameters.
  params = noise(model)["params"]

  @jax.jit
  def written_out(params):
    def loss_fn(params):
      images = batch["image"].astype(np.float32) / 127.5 - 1
      zimg = model.img.apply({"params": params["img"]}, images)
      ztxt = model.txt.apply({"params": params["txt"]}, batch["tokens"])
      zimg, ztxt = (z / jnp.sqrt((z**2).sum(-1, keepdims=True)) for z in (zimg, ztxt))
      logits = jnp.exp(params["t"]) * jnp.einsum("id,td->it", zimg, ztxt)
      if loss == "sigmoid":
        logits += params["b"]
        return optax.sigmoid_binary_cross_entropy(logits, jnp.eye(16)).sum() / 16, logits
      both = [optax.softmax_cross_entropy(x, jnp.eye(16)).mean() for x in (logits, logits.T)]
      return sum(both) / 2, logits

    (value, logits), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
    if frozen:
      grads["img"] = jax.tree.map(jnp.zeros_like, grads["img"])
    updates, _ = optimizer.update(grads, optimizer.init(params))
    return value, logits, updates, optax.tree.norm(grads)

  value, logits, updates, grad_norm = jax.device_get(written_out(params))
  state, step = setup(model, optimizer, loss=loss, frozen=frozen)
  state, metrics = step(state, batch, None)
  for part in params if frozen is None else params.keys() - {"img"}:
    change = jax.tree.map(np.subtract, jax.device_get(state.params[part]), params[part])
    assert relative_error(change, updates[part]) < 1e-5, part
  assert float(metrics["loss"]) == pytest.approx(value, rel=1e-6)
  assert float(metrics["grad_norm"]) == pytest.approx(grad_norm, rel=1e-5)
  assert float(metrics["accuracy"]) == np.mean(logits.argmax(-1) == np.arange(16))
  assert float(metrics["temperature"]) == pytest.approx(np.exp(params["t"][0]), rel=1e-6)


def test_bias_temperature_and_equal_texts_by_hand():
  products = np.float32([
    [0.5, 0.9, 0.1, 0.2],  # The closest text has the words of the image's own.
    [0.3, 0.2, 0.1, 0.1],  # Likewise.
    [0.8, 0.1, 0.4, 0.3],  # Another text is closer.
    [0.1, 0.2, 0.3, 0.4],
  ])  # fmt: skip

  class Towers(nn.Module):
    def __call__(self, images, tokens, train):
      return products, jnp.eye(4), {"t": jnp.float32([3.0]), "b": jnp.float32([-1.5])}

  objective = objectives.contrastive(Towers(), mean=HALF, std=HALF, loss="sigmoid")
  batch, key = pairs(4), jax.random.key(0)
  batch["tokens"][1] = batch["tokens"][0]
  batch["tokens"][2, 1:] = batch["tokens"][3, 1:]  # A part of the words is not all of them.
  value, (metrics, _) = objective({}, {}, batch, key, key)
  probabilities = 1 / (1 + np.exp(-(3 * products - 1.5)))
  right = np.where(np.eye(4), probabilities, 1 - probabilities)
  assert float(value) == pytest.approx(-np.log(right).sum() / 4, rel=1e-6)
  assert float(metrics["accuracy"]) == 0.75 and float(metrics["temperature"]) == 3.0


def plan_of(**changes):
  return make_plan(small_lit.config(**changes))


def test_what_is_frozen_stays_and_the_rest_learns():
  # Weight decay and momentum would move parameters without a gradient too.
  optimizer = dict(name="adamw", weight_decay=0.5)
  plan = plan_of(frozen="img/", init=dict(img="a.npz"), warmup_steps=0, optim=optimizer)
  state, step = setup(lit(), optim.make_optimizer(plan), frozen="img/")
  before = tiny.leaves(state.params)
  frozen = {path for path in before if path.startswith("['img']")}
  # AdamW keeps two moments of what is trained, and of nothing else.
  moments = [x.size for x in jax.tree.leaves(state.opt_state) if x.ndim]
  assert sum(moments) == 2 * sum(x.size for path, x in before.items() if path not in frozen)
  for seed in range(3):
    state, _ = step(state, pairs(seed=seed), None)
  after = tiny.leaves(state.params)
  assert {p for p, value in before.items() if value.tobytes() == after[p].tobytes()} == frozen


def test_a_pattern_may_spare_a_head():
  params = noise(lit(img=dict(num_classes=16)))["params"]
  mask = tiny.leaves(optim.frozen_mask(params, "img/(?!head)"))
  trained = {path for path, frozen in mask.items() if not frozen}
  head = {"['img']['head']['kernel']", "['img']['head']['bias']"}
  assert trained == head | {path for path in mask if not path.startswith("['img']")}


def test_nothing_is_computed_backwards_for_a_frozen_tower():
  flops, backwards = {}, {}
  for loss, bias, frozen in CASES:  # Beside the towers the losses cost nothing.
    model = lit(bias_init=bias)
    state, step = setup(model, optax.sgd(100.0), loss=loss, frozen=frozen)
    program = step.lower(state, pairs(), None).compile()
    flops[frozen] = program.cost_analysis()["flops"]
    names = re.findall(r'op_name="([^"]*)"', program.as_text())
    backwards[frozen] = [n for n in names if "transpose(" in n and "/img/" in n]
  forward = jax.jit(lambda params: model.img.apply({"params": params}, jnp.zeros((16, 8, 8, 3))))
  forward = forward.lower(state.params["img"]).compile().cost_analysis()["flops"]
  assert backwards[None] and not backwards["img/"]
  # Backwards costs about twice what forwards does.
  assert flops[None] - flops["img/"] > 1.5 * forward


@pytest.mark.parametrize(
  "frozen, message",
  [
    ("nothing/", "config.frozen='nothing/' matches no parameter; .* paths are like img/.* and"),
    ("head/", "config.frozen='head/' matches no parameter"),  # Paths are matched from the start.
    (".*", r"config.frozen='\.\*' matches all parameters"),
    ("txt/(", r"config.frozen='txt/\(' is no regular expression"),
  ],
)
def test_a_pattern_of_all_or_nothing_is_refused(tmp_path, frozen, message):
  with pytest.raises(UserError, match=message) as caught:
    train_and_evaluate(small_lit.config(frozen=frozen), tmp_path / "run")
  assert_one_sentence(caught)
  assert not (tmp_path / "run").exists()
  model, optimizer = lit(), optax.sgd(0.1)
  state = jax.eval_shape(lambda: create_state(model, noise(model), optimizer, None, 0))
  with pytest.raises(UserError, match=message):
    make_step(model, optimizer, frozen=frozen).lower(state, pairs(), None)


def assert_one_sentence(caught):
  text = str(caught.value)
  assert "\n" not in text and text.endswith((".", "?"))


@pytest.mark.parametrize(
  "changes, message",
  [
    (dict(accum_steps=2), "accum_steps=2 does not go with a contrastive loss.*; set it to 1"),
    (dict(label_smoothing=0.1), "label_smoothing=0.1 does not go with a contrastive loss"),
    (dict(mixup=0.4), "mixup=0.4 does not go with a contrastive loss"),
    (dict(contrastive_loss="hinge"), "contrastive_loss='hinge' is not 'softmax' or 'sigmoid'"),
    (dict(text=dict(templats=("{}",))), "config.text.templats .*'templates'"),
    (dict(text=dict(tokenizer="bert")), "tokenizer='bert' does not go with TextTransformer"),
    (dict(frozen="img/"), "locks an image tower that nothing has trained; .*config.init.img"),
    (dict(contrastive_loss="sigmoid"), "'sigmoid' needs config.model.bias_init"),
    (dict(model=dict(bias_init=-10.0)), "bias_init=-10.0 has no effect on the softmax loss"),
    (dict(model=dict(temperature_init=0.0)), "temperature_init=0.0 should be positive"),
    (
      dict(model=dict(temperature_init=2.0), checkpoint="a.npz"),
      "temperature_init=2.0 has no effect: the checkpoint has its own",
    ),
    (dict(text=dict(max_len=16)), "text.max_len=16 is not that of the text tower, 24"),
    (dict(init=dict(image="a.npz")), "config.init.image is not a known key"),
    (dict(init=dict(txt="bert"), checkpoint="a.npz"), "config.init and config.checkpoint"),
    (dict(model=dict(img=dict(hidden_sise=8))), "hidden_sise.*'hidden_size'"),
    (dict(model=dict(txt=dict(name="Text-M"))), "no text tower 'Text-M'"),
  ],
)
def test_a_plan_of_two_towers_is_refused(changes, message):
  with pytest.raises(UserError, match=message) as caught:
    plan_of(**changes)
  assert_one_sentence(caught)


@pytest.mark.parametrize(
  "changes, message",
  [
    (dict(text=dict(tokenizer="bytes")), "config.text has no effect: ViT-Ti_16 has no text tower"),
    (dict(init=dict(img="a.npz")), "config.init.img='a.npz' has no effect.*two towers"),
    (dict(init=dict(txt="bert")), "config.init.txt='bert' has no effect.*two towers"),
    (dict(contrastive_loss="sigmoid"), "config.contrastive_loss='sigmoid' has no effect"),
  ],
)
def test_what_needs_two_towers_is_refused_without(changes, message):
  with pytest.raises(UserError, match=message) as caught:
    make_plan(tiny.config(**changes))
  assert_one_sentence(caught)


@pytest.mark.parametrize(
  "changes, message",
  [
    (dict(text=dict(class_names=("a", "b"))), "class_names has 2 names, but digits has 10 classes"),
    (dict(text=dict(class_names=("a,",) * 10)), "class 0 is called 'a,', where a name is empty"),
    (dict(text=dict(templates=("a photo",))), "template 'a photo' must have exactly one {}"),
    (dict(text=dict(tokenizer="byte")), "tokenizer 'byte' is unknown; did you mean 'bytes'"),
    (dict(text=dict(vocabulary=__file__)), "tokenizer 'bytes' has no vocabulary"),
    (
      dict(text=dict(tokenizer="sentencepiece")),
      "tokenizer 'sentencepiece' needs a vocabulary file",
    ),
    (dict(model=dict(txt=dict(num_classes=8))), "16 dimensions and the text tower in 8"),
    (dict(model=dict(txt=dict(vocab_size=100))), "259 tokens, .*text tower.* 100"),
  ],
)
def test_towers_and_texts_that_do_not_fit_are_refused(tmp_path, changes, message):
  with pytest.raises(UserError, match=message) as caught:
    train_and_evaluate(small_lit.config(**changes), tmp_path / "run")
  assert_one_sentence(caught)
  assert not (tmp_path / "run").exists()


def test_a_locked_tower_with_batch_norms_stays_as_it_is(tmp_path):
  fields = dict(widths=(8, 16), num_residuals=(1, 1), hidden_sizes=(16,), num_layers=(1,))
  img = dict(fields, name="MobileViT-XXS", num_classes=16, stem_width=8, final_width=0)
  config = small_lit.config(frozen="img/", init=dict(img="MobileViT-XXS"))
  config.model.img = ml_collections.ConfigDict(img)
  plan = dataclasses.replace(make_plan(config), init=InitPlan())  # No weights are fetched here.
  model, _ = build.build_model(plan, 10)
  variables, optimizer = noise(model), optax.sgd(0.01)
  variables["batch_stats"] = jax.tree.map(np.abs, variables["batch_stats"])  # Of variances too.
  before, whole = tiny.leaves(variables), mesh_lib.replicated(mesh_lib.make_mesh())
  state = create_state(model, variables, optimizer, None, 0, shardings=whole)
  step = make_step(model, optimizer, frozen="img/")
  after = tiny.leaves(step(state, pairs(), None)[0].variables)
  stays = {path for path, value in before.items() if value.tobytes() == after[path].tobytes()}
  locked = {path for path in before if "['img']" in path}
  assert any("batch_stats" in path for path in locked) and locked <= stays
  # The softmax cancels the biases of keys, which have no gradient.
  assert all("['key']['bias']" in path for path in stays - locked)


def test_a_tower_whose_preprocessing_is_damaged_is_refused(tmp_path):
  """As one of other pixel values is; a bare file says nothing, and is not."""
  plan = plan_of(init=dict(img=str(tmp_path)))
  build._check_normalization(plan)
  said = {"image_processor_type": "ViTImageProcessor", "image_mean": [0.5, None, 0.5]}
  (tmp_path / "preprocessor_config.json").write_text(json.dumps(said))
  with pytest.raises(UserError, match=r"preprocessor_config.json asks .* image_mean=None, where a"):
    build._check_normalization(plan)
