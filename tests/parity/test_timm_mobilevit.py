# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""MobileViT, V1 and V2: same weights, same images, same logits as timm and transformers.

In evaluation and in training: with batch statistics, the running averages after a step, and the
gradient of every parameter.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import transformers
from oracle import CLASSES, VISIBLE, logits, noisy_variables, relative_error, with_noise

from vit_jax.checkpoints import counterpart, mobilevit
from vit_jax.checkpoints import torch as torch_names
from vit_jax.checkpoints.pretrained import from_pretrained
from vit_jax.checkpoints.saving import save_checkpoint
from vit_jax.models.registry import MODELS, create_model
from vit_jax.params import tree
from vit_jax.params.tables import to_ours, without_counters

SHALLOW = dict(num_layers=(1, 1, 1))
# Model, fields and image size: the native one, and one that neither strides nor patches divide,
# where transformers' second version cuts off what is left.
CASES = {
  "MobileViT-XXS": ("MobileViT-XXS", {}, (256, 256)),
  "MobileViT-XS, 64x192": ("MobileViT-XS", {}, (64, 192)),
  "MobileViT-S, 97x130": ("MobileViT-S", {}, (97, 130)),
  "MobileViTV2-0.5": ("MobileViTV2-0.5", {}, (256, 256)),
  "MobileViTV2-1.0, 97x130": ("MobileViTV2-1.0", SHALLOW, (97, 130)),
  "MobileViTV2-2.0, 64x192": ("MobileViTV2-2.0", SHALLOW, (64, 192)),
}
every_case = pytest.mark.parametrize("case", CASES)
# Compiled once and run a few times: the time is the compiler's.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def images(size, batch=2):
  return np.random.default_rng(7).uniform(0, 1, (batch, *size, 3)).astype(np.float32)


@functools.partial(jit, static_argnums=0)
def on_with_stages(model, variables, pictures):
  return model.apply(variables, pictures, mutable=["features"])


def on(model, variables, pictures):
  return on_with_stages(model, variables, pictures)[0]


def timm_model(name, fields, size=(256, 256)):
  torch.manual_seed(0)
  return counterpart.timm_model(create_model(name, num_classes=CLASSES, **fields), size).eval()


@pytest.mark.parametrize("name", [name for name in MODELS if name.startswith("MobileViT")])
def test_timm_registers_what_is_compared_here(name):
  size = name.rpartition("-")[2]
  theirs = f"mobilevit_{size.lower()}"
  if name.startswith("MobileViTV2"):
    theirs = f"mobilevitv2_{round(100 * float(size)):03}"
  with torch.device("meta"):
    registered = timm.create_model(theirs, num_classes=CLASSES)
    # Their printed forms have every layer's size, stride, padding, groups, and epsilon.
    assert str(registered) == str(timm_model(name, {}).train())


@every_case
def test_timms_own_weights_load_here(case, tmp_path, parity):
  name, fields, size = CASES[case]
  theirs = with_noise(timm_model(name, fields))
  safetensors.torch.save_file(theirs.state_dict(), tmp_path / "theirs.safetensors")
  expected = logits(theirs, images(size))
  model, variables = from_pretrained(name, tmp_path / "theirs.safetensors", **fields)
  assert (model.activation, model.batch_norm_eps) == ("silu", 1e-5)
  error = relative_error(on(model, variables, images(size)), expected)
  # The tolerance can see another epsilon, that of TensorFlow's MobileNets: added to each variance.
  larger = lambda path, x: x + (1e-3 - 1e-5) if path[-1].key == "var" else x
  statistics = jax.tree_util.tree_map_with_path(larger, variables["batch_stats"])
  off = relative_error(on(model, {**variables, "batch_stats": statistics}, images(size)), expected)
  assert off > VISIBLE
  parity(case, "timm", "ours", error, off)


@pytest.mark.parametrize("case", ["MobileViT-S, 97x130", "MobileViTV2-1.0, 97x130"])
def test_timm_opens_our_safetensors_strictly(case, tmp_path, parity):
  name, fields, size = CASES[case]
  model = create_model(name, num_classes=CLASSES, **fields)
  variables = noisy_variables(model, images(size))
  save_checkpoint(tmp_path / "ours.safetensors", model, variables)
  theirs = timm_model(name, fields)
  theirs.load_state_dict(safetensors.torch.load_file(tmp_path / "ours.safetensors"), strict=True)
  answer, found = on_with_stages(model, variables, images(size))
  error = relative_error(answer, logits(theirs, images(size)))
  parity(case, "ours (safetensors)", "timm", error)

  # Stage by stage too, in the same order of axes.
  with torch.no_grad():
    x = theirs.stem(torch.from_numpy(images(size)).permute(0, 3, 1, 2))
    for index, stage in enumerate(theirs.stages):
      x = stage(x)
      assert relative_error(found["features"][f"stage{index}"], x.permute(0, 2, 3, 1)) < 1e-5


def transformers_model(name, fields):
  torch.manual_seed(0)
  model = create_model(name, **fields)
  if name.startswith("MobileViTV2"):
    config = transformers.MobileViTV2Config(
      width_multiplier=float(name.rpartition("-")[2]),
      n_attn_blocks=list(model.num_layers),
      num_labels=CLASSES,
    )
    theirs = transformers.MobileViTV2ForImageClassification(config)
  else:
    config = transformers.MobileViTConfig(
      hidden_sizes=list(model.hidden_sizes),
      neck_hidden_sizes=[model.stem_width, *model.widths, model.final_width],
      expand_ratio=model.expansion,
      num_labels=CLASSES,
    )
    theirs = transformers.MobileViTForImageClassification(config)
  # transformers begins with scales around 0, under which nothing of an image would be left.
  for module in theirs.modules():
    if isinstance(module, torch.nn.BatchNorm2d):
      torch.nn.init.ones_(module.weight)
  return with_noise(theirs).eval()


@pytest.mark.parametrize("case", [case for case in CASES if case != "MobileViTV2-1.0, 97x130"])
def test_transformers_weights_are_for_bgr(case, tmp_path, parity):
  name, fields, size = CASES[case]
  theirs = transformers_model(name, fields)
  theirs.save_pretrained(tmp_path)
  bgr = torch.from_numpy(images(size)[..., ::-1].copy()).permute(0, 3, 1, 2)
  with torch.no_grad():
    expected = theirs(bgr).logits
  model, variables = from_pretrained(name, tmp_path, **fields)
  error = relative_error(on(model, variables, images(size)), expected)
  # Without the flip of the first convolution the same weights are visibly off.
  off = relative_error(on(model, variables, images(size)[..., ::-1]), expected)
  assert off > VISIBLE
  parity(case, "transformers", "ours", error, off)


@pytest.mark.parametrize("name", ["MobileViT-XXS", "MobileViTV2-0.5"])
def test_a_step_of_training_equals_timms(name, parity):
  """In float64: in float32 either library is 1e-5 away from that, by the norms of small batches."""
  widths = create_model(name).widths[:3]
  fields = dict(
    widths=widths, hidden_sizes=(widths[-1] // 2,), num_residuals=(1, 2, 1), num_layers=(1,)
  )
  model = create_model(name, num_classes=CLASSES, **fields)
  pictures = images((48, 64), batch=4).astype(np.float64)
  weights = np.random.default_rng(1).normal(size=(4, CLASSES))
  variables = noisy_variables(model, pictures.astype(np.float32))
  theirs = timm_model(name, fields)
  state = torch_names.to_timm(tree.from_variables(variables))
  theirs.load_state_dict({key: torch.from_numpy(np.array(x)) for key, x in state.items()})
  evaluated = logits(theirs.double(), pictures)
  answer = theirs.train()(torch.from_numpy(pictures).permute(0, 3, 1, 2))
  (answer * torch.from_numpy(weights)).sum().backward()

  def loss(params, statistics, pictures):
    answer, changed = model.clone(dtype="float64").apply(
      {"params": params, "batch_stats": statistics}, pictures, train=True, mutable=["batch_stats"]
    )
    return jnp.sum(answer * weights), (answer, changed["batch_stats"])

  variables = jax.tree.map(lambda x: np.asarray(x, np.float64), variables)
  with jax.enable_x64(True):
    gradient, (ours, statistics) = jit(jax.grad(loss, has_aux=True))(
      variables["params"], variables["batch_stats"], pictures
    )
  error = relative_error(ours, answer.detach())
  off = relative_error(evaluated, answer.detach())  # By the running statistics.
  assert error < 1e-11 and off > VISIBLE
  parity(f"{name}, training in float64", "ours", "timm", error, off)

  named = lambda arrays: to_ours(
    without_counters(arrays),
    mobilevit.TIMM_TO_OURS if name == "MobileViT-XXS" else mobilevit.TIMM_V2_TO_OURS,
    heads=4,
  )[0]
  expected = named({key: value.numpy() for key, value in theirs.state_dict().items()})
  flat = lambda statistics: tree.from_variables({"params": {}, "batch_stats": statistics})
  old, new = flat(variables["batch_stats"]), flat(statistics)
  for path, value in new.items():
    assert relative_error(value, expected[path]) < 1e-11, path
  # The biased variance of 4 images of 6x8 positions would be 191 / 192 of it.
  last = "batch_stats/stage_2_residual_0/project/norm/var"
  biased = 0.9 * old[last] + (new[last] - 0.9 * old[last]) * 191 / 192
  assert relative_error(biased, expected[last]) > VISIBLE

  # Of the whole gradient: a bias before another norm has none but rounding.
  expected = named({key: value.grad.numpy() for key, value in theirs.named_parameters()})
  found = tree.from_tree(gradient)
  assert found.keys() == expected.keys()
  whole = np.linalg.norm([np.linalg.norm(value) for value in expected.values()])
  for path, value in found.items():
    assert np.linalg.norm(value - expected[path]) < 1e-11 * whole, path
