# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_run as tiny
import torch

from vit_jax.models import registry
from vit_jax.parallel import mesh as mesh_lib
from vit_jax.training import optim
from vit_jax.training.plan import make_plan
from vit_jax.training.state import TrainState
from vit_jax.training.step import make_planned_step


@pytest.mark.parametrize(
  "name, fields",
  [
    ("ViT-Ti_16", dict(classifier="token", representation_size=8)),
    ("ViT-Ti_16", dict(classifier="map", position_embedding="learned_2d")),
    ("ViT-Ti_16", dict(classifier="gap", position_embedding="relative")),
    ("R26+ViT-S_32", dict(stem_blocks=(1,), stem_width=32, patch_size=8)),
  ],
)
def test_decay_skips_biases_norms_tokens_and_positions(name, fields):
  sizes = dict(num_layers=1, hidden_size=16, mlp_dim=16, num_heads=2, num_classes=3)
  model = registry.create_model(name, **sizes | fields)
  shapes = jax.eval_shape(
    lambda: model.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)), train=False)
  )
  mask = tiny.leaves(optim.decay_mask(shapes["params"]))
  skipped = {path for path, decayed in mask.items() if not decayed}
  assert all("kernel" in path for path, decayed in mask.items() if decayed)
  assert not [path for path in skipped if "kernel" in path]
  kinds = {path.split("'")[-2] for path in skipped}
  expected = {
    "token": {"cls", "pos_embedding", "bias", "scale"},
    "map": {"probe", "row_embedding", "column_embedding", "bias", "scale"},
    "gap": {"table", "bias", "scale"},
  }[fields.get("classifier", "token")]
  assert expected <= kinds


def _plan(**optimizer):
  changes = dict(decay_type="constant", warmup_steps=0, base_lr=0.125, grad_norm_clip=None)
  return make_plan(tiny.config(**changes | optimizer))


def _ours(plan, weights, gradients, dtype=jnp.float32):
  params, tx = {"kernel": jnp.asarray(weights, dtype)}, optim.make_optimizer(plan)
  state = tx.init(params)
  for gradient in gradients:
    updates, state = tx.update({"kernel": jnp.asarray(gradient, dtype)}, state, params)
    params = jax.tree.map(jnp.add, params, updates)
  return np.asarray(params["kernel"]), state


@pytest.mark.parametrize(
  "section, theirs",
  [
    (dict(name="sgd", momentum=0.9), lambda w: torch.optim.SGD([w], lr=0.125, momentum=0.9)),
    (
      dict(name="adamw", weight_decay=0.3),
      lambda w: torch.optim.AdamW([w], lr=0.125, weight_decay=0.3, eps=1e-8),
    ),
    # None of the defaults, and an eps of the gradients' size.
    (
      dict(name="adamw", weight_decay=0.0, b1=0.6, b2=0.8, eps=0.5),
      lambda w: torch.optim.AdamW([w], lr=0.125, weight_decay=0, betas=(0.6, 0.8), eps=0.5),
    ),
  ],
)
def test_equals_torch(section, theirs):
  rng = np.random.default_rng(0)
  weights, gradients = rng.normal(size=5), rng.normal(size=(6, 5))
  parameter = torch.nn.Parameter(torch.tensor(weights))
  optimizer = theirs(parameter)
  for gradient in gradients:
    parameter.grad = torch.tensor(gradient)
    optimizer.step()
  # In float64 but for the momentum, since 1 - 0.999^t alone costs float32 three digits.
  with jax.enable_x64(True):
    ours, _ = _ours(_plan(optim=section), weights, gradients, jnp.float64)
  np.testing.assert_allclose(ours, parameter.detach().numpy(), rtol=0, atol=5e-7)


def test_clips_by_global_norm():
  plan = _plan(optim=dict(name="sgd"), grad_norm_clip=1.0)
  ours, _ = _ours(plan, [0.0, 0.0], [[3.0, 4.0]])
  np.testing.assert_allclose(ours, [-0.075, -0.1], rtol=1e-6)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_weight_decay_leaves_biases_alone(name):
  tx = optim.make_optimizer(_plan(optim=dict(name=name, weight_decay=0.25)))
  params = {"kernel": jnp.ones(3), "bias": jnp.ones(3)}
  updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
  np.testing.assert_allclose(updates["kernel"], -0.125 * 0.25, rtol=1e-6)
  np.testing.assert_array_equal(updates["bias"], 0.0)


@pytest.mark.parametrize(
  "changes, expected",
  [
    (dict(decay_type="cosine"), {2: 0.25, 4: 0.5, 34: 0.25, 64: 0.0}),
    (dict(decay_type="constant", cooldown_steps=8), {2: 0.25, 56: 0.5, 60: 0.25, 64: 0.0}),
    (dict(decay_type="linear", linear_end=0.25), {2: 0.25, 4: 0.5, 34: 0.375, 64: 0.25}),
    (dict(decay_type="rsqrt", rsqrt_timescale=20), {2: 0.25, 4: 0.5, 64: 0.25}),
    (
      dict(decay_type="step", decay_at=(0.25, 0.5), decay_factor=0.5),
      {2: 0.25, 16: 0.5, 17: 0.25, 32: 0.25, 33: 0.125},
    ),
  ],
)
def test_the_rate_is_that_of_all_keys_of_the_plan(changes, expected):
  keys = dict(base_lr=0.5, total_steps=64, warmup_steps=4)
  rate = optim.learning_rate(make_plan(tiny.config(**keys, **changes)))
  for step, value in expected.items():
    assert float(rate(step)) == pytest.approx(value, rel=1e-6, abs=1e-9), step


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_bfloat16_accumulator_keeps_float32_parameters(name):
  weights, gradients = [1.0, 2.0], [[0.1, 0.2], [0.3, 0.1]]
  small, state = _ours(_plan(optim=dict(name=name), optim_dtype="bfloat16"), weights, gradients)
  full, _ = _ours(_plan(optim=dict(name=name)), weights, gradients)
  assert jnp.dtype("bfloat16") in {x.dtype for x in jax.tree.leaves(state)}
  assert small.dtype == np.float32
  np.testing.assert_allclose(small, full, rtol=1e-2)
  assert (small != full).any()  # Else the accumulator was not bfloat16 after all.


RATES = dict(total_steps=20, warmup_steps=4, base_lr=1e-3)


def _rate_of(step):
  """Of the step after so many: linear warm-up, then cosine, written out."""
  progress = max(step - 4, 0) / 16
  return 1e-3 * min(step / 4, 1.0) * 0.5 * (1.0 + np.cos(np.pi * progress))


@pytest.mark.parametrize("name", ["sgd", "adamw"])
@pytest.mark.parametrize("options", [{}, {"frozen": "locked"}, {"accum_steps": 4}])
def test_the_rate_is_that_of_the_step_whatever_is_left_out(name, options):
  optimizer = dict(name=name, weight_decay=0.0) | (dict(momentum=0.0) if name == "sgd" else {})
  changes = dict(optim=optimizer, nan_policy="skip", grad_norm_clip=None, **RATES, **options)
  plan = make_plan(tiny.config(**changes))
  signs = np.where(np.arange(12) % 3, 1.0, -1.0).astype(np.float32)
  params = {part: {"kernel": jnp.zeros(12)} for part in ("locked", "open")}

  # Its gradient is always the same, so that Adam's update has the size of the rate, as SGD's has:
  # unless its bias correction counts steps that its moments have not seen.
  def objective(params, collections, batch, *_):
    loss = sum((part["kernel"] * signs).sum() for part in params.values())
    return loss * batch["image"].mean(), ({}, collections)

  mesh = mesh_lib.make_mesh()
  tx = optim.make_optimizer(plan)
  rng = jax.random.key_data(jax.random.key(0))
  state = TrainState(jnp.int32(0), params, tx.init(params), rng, jnp.int32(-1), {})
  step = make_planned_step(plan, objective, mesh, None, None)
  left_out = {2, 3, 7, 8, 13}
  for number in range(1, 21):
    before = np.asarray(state.params["open"]["kernel"])
    image = np.full(8, np.nan if number in left_out else 1.0, np.float32)
    state, metrics = step(state, {"image": image}, None)
    applied = (before - np.asarray(state.params["open"]["kernel"])) * signs
    expected = 0.0 if number in left_out else _rate_of(number - 1)
    np.testing.assert_allclose(applied, expected, rtol=1e-3, atol=1e-8, err_msg=str(number))
    assert float(metrics["learning_rate"]) == pytest.approx(_rate_of(number - 1), rel=1e-5)
  assert int(state.step) == 20
  if options.get("frozen"):
    assert not np.asarray(state.params["locked"]["kernel"]).any()


@pytest.mark.parametrize("section", [dict(name="sgd", momentum=0.9), dict(name="adamw")])
def test_the_state_is_that_of_optax_and_goes_on_bit_for_bit(section):
  """Checkpoints from before the rate went by the step hold that state."""
  plan = make_plan(tiny.config(optim=section, grad_norm_clip=1.0, **RATES))
  rate = optim.learning_rate(plan)
  inner = optax.trace(0.9) if section["name"] == "sgd" else optax.scale_by_adam()
  theirs = optax.chain(optax.clip_by_global_norm(1.0), inner, optax.scale_by_learning_rate(rate))
  ours, params = optim.make_optimizer(plan), {"kernel": jnp.arange(6.0)}
  found = []
  for tx, told in ((theirs, lambda step: {}), (ours, lambda step: {"step": jnp.int32(step)})):
    now, state = params, theirs.init(params)
    for step in range(8):
      gradient = {"kernel": jnp.sin(jnp.arange(6.0) + step)}
      updates, state = tx.update(gradient, state, now, **told(step))
      now = optax.apply_updates(now, updates)
    found.append((now, state))
  assert jax.tree.structure(ours.init(params)) == jax.tree.structure(found[0][1])
  for one, other in zip(*map(jax.tree.leaves, found), strict=True):
    np.testing.assert_array_equal(one, other)
