# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The ancestor's models: what they have of parameters, and what they return."""

import math

import ancestor_facts as facts
import jax
import jax.numpy as jnp
import pytest

import vit_jax
from vit_jax.checkpoints import saving
from vit_jax.models import cost, registry
from vit_jax.models.lit import example_inputs

BATCH, PIXELS = 2, 224


@pytest.mark.parametrize("name", facts.PARAMETERS)
def test_parameters_and_shapes(name):
  model = scanned(name)
  images = jax.ShapeDtypeStruct((BATCH, PIXELS, PIXELS, 3), jnp.float32)
  inputs = example_inputs(model, images)
  init = lambda *inputs: model.init_with_output(jax.random.key(0), *inputs, train=False)
  out, variables = jax.eval_shape(init, *inputs)
  count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables))
  assert count == facts.PARAMETERS[name]
  if name.startswith("LiT-"):
    assert out[0].shape == out[1].shape == (BATCH, facts.LITS[name_of(name)][2][1])
  elif "unpooled" in name:
    assert out.shape == (BATCH, 196, 1000)
  else:
    assert out.shape == (BATCH, 1000)


def test_the_table_of_costs_has_its_parameters():
  """tests/models/test_registry.py computes the table anew."""
  table, listed = cost.costs(), [name for name in facts.PARAMETERS if registry.MODELS[name].listed]
  assert {name: table[name]["parameters"] for name in listed} == {
    name: facts.PARAMETERS[name] for name in listed
  }
  assert len(listed) == 26 and {*vit_jax.list_models("LiT-*")} <= {*listed}


def scanned(name):
  """The model with its layers in a scan where it can: as many parameters, traced in a tenth."""
  entry, scan = registry.get_entry(name), {"scan_layers": True}
  if entry.text:  # BERT cannot.
    texts = {} if entry.config["txt"]["name"].startswith("Bert") else {"txt": scan}
    return vit_jax.create_model(name, img=scan, **texts)
  can = "scan_layers" in registry.model_fields(entry.module)
  return vit_jax.create_model(name, **(scan if can else {}))


def name_of(lit):
  [name] = [name for name, row in facts.LITS.items() if row[0] == lit]
  return name


def test_its_models_for_tests_are_found_and_not_listed():
  assert {"testing", "testing-unpooled"} <= {*registry.MODELS}
  assert not vit_jax.list_models("testing*") and not [n for n in cost.costs() if "testing" in n]


def test_nothing_else_is_taken_for_them():
  """A small ViT is saved as the row that it is nearest to; these two are no rows to be near to."""
  small = dict(hidden_size=12, num_layers=1, mlp_dim=10, num_heads=2)
  assert saving.nearest_row(vit_jax.create_model("ViT-Ti_16", **small)) == "ViT-Ti_16"
  lit = vit_jax.create_model("LiT-B16B_2", img=dict(small, name="ViT-Ti_16"))
  assert registry.fields_of(lit)["img"]["name"].startswith("ViT-")
  assert saving.nearest_row(vit_jax.create_model("testing", num_classes=3)) == "testing"
