# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Every config of the ancestor, key by key, against the plan that ours becomes."""

import ancestor_facts as facts
import pytest

from vit_jax.configs import augreg, common, lit, mixer, mixer_base16_cifar10
from vit_jax.errors import UserError
from vit_jax.models import registry
from vit_jax.training.plan import make_plan


@pytest.mark.parametrize("dataset", facts.DATASETS)
@pytest.mark.parametrize("model", facts.VITS)
def test_vit(model, dataset):
  facts.compare(
    facts.plan_of("vit", model, dataset), facts.vit_config(model, dataset), facts.DIFFERENCES
  )


def test_a_full_name_is_the_same_preset():
  """The rate of 0.01 went with the spelling "b16" only; by its full name it was 0.03."""
  for spelling in ("ViT-B_16", "B_16", "vit_b16"):
    facts.compare(
      facts.plan_of("vit", spelling, "cifar10"),
      facts.vit_config("b16", "cifar10"),
      facts.DIFFERENCES,
    )


@pytest.mark.parametrize("name", facts.AUGREG)
def test_augreg(name):
  facts.compare(
    facts.plan_of("augreg", name, "oxford_iiit_pet"),
    facts.augreg_config(name, "oxford_iiit_pet"),
    facts.AUGREG_DIFFERENCES,
  )


def test_augreg_needs_a_dataset_and_a_released_model():
  with pytest.raises(UserError, match=r"config\.dataset is missing"):
    make_plan(augreg.get_config("R_Ti_16"))
  with pytest.raises(UserError, match=r"AugReg has no weights for 'R26_B_32'; it has Ti_16, "):
    augreg.get_config("R26_B_32")


def test_mixer():
  config = mixer_base16_cifar10.get_config()
  assert config.to_dict() == mixer.get_config("b16,cifar10").to_dict()
  facts.compare(make_plan(config), facts.mixer_config(), facts.MIXER_DIFFERENCES)


@pytest.mark.parametrize("model", facts.MIXERS)
def test_mixers(model):
  """`get_mixer_b32_config` and the like, which no config file of the ancestor's uses."""
  name = common.find_model(model)
  fields = registry.fields_of(registry.create_model(name))
  found = {f"model.{k}": v for k, v in fields.items()} | {"model.name": name}
  found["model.patch"] = found["model.patch_size"]
  expected = facts.mixer_keys(model)
  assert {key: found[key] for key in expected} == expected


@pytest.mark.parametrize("model", facts.LITS)
def test_lits(model):
  name, image, out_dim, text, tokenizer = facts.LITS[model]
  config = lit.get_config(model)
  assert config.model.name == name and common.find_model(model) == name
  towers = registry.create_model(name)
  assert (towers.img.num_classes or None, towers.txt.num_classes) == out_dim
  expected = facts.vit_keys(facts.VITS[image]) | {"model.dropout_rate": 0.0}  # It is locked.
  found = {f"model.{key}": value for key, value in registry.fields_of(towers.img).items()}
  found |= {"model.patch": towers.img.patch_size, "model.resnet": None}
  del expected["model.name"]
  assert {key: found[key] for key in expected} == expected
  size = ("hidden_size", "num_layers", "mlp_dim", "num_heads")
  assert tuple(getattr(towers.txt, field) for field in size) == text
  if tokenizer == "sentencepiece":
    assert towers.txt.vocab_size == 16_000
  entry = registry.get_entry(name)
  assert (entry.text.tokenizer, towers.txt.max_len, entry.input.image_size) == (tokenizer, 16, 224)


def test_every_name_of_the_ancestors_tables_is_here():
  names = {row.name for row in facts.VITS.values()}
  names |= {row[0] for row in (*facts.MIXERS.values(), *facts.LITS.values())}
  assert names == set(facts.PARAMETERS) and len(names) == 28
