# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Config files of a user's own: all keys can be set, and a sentence says what is wrong."""

import pathlib
import sys

import pytest

from vit_jax.cli import configuration
from vit_jax.errors import UserError
from vit_jax.training.plan import make_plan


@pytest.fixture
def parse(tmp_path):
  def parse(text, *overrides, argument=""):
    path = tmp_path / "own.py"
    path.write_text(text)
    arguments = [f"--config={path}{argument}", *(f"--config.{o}" for o in overrides)]
    return configuration.parse(arguments)

  return parse


RETURNING = "import ml_collections\ndef get_config():\n  return {}\n"


def test_what_a_file_leaves_out_has_the_plans_default(parse):
  """Also where None means something else than the default: clipping stays at 1."""
  keys = dict(dataset="digits", total_steps=20, model=dict(name="ViT-Ti_16"))
  usual = make_plan({**keys, "warmup_steps": 5})
  for text in (f"{keys}", f"ml_collections.ConfigDict({keys})"):
    plan = make_plan(parse(RETURNING.format(text), "warmup_steps=5"))
    assert plan == usual and plan.grad_norm_clip == 1.0 and plan.pp.train is None
  settings = ("optim.name=adamw", "optim.b1=0.8", "pp.crop=(32,64)", "model.num_layers=2")
  plan = make_plan(parse(RETURNING.format(f"{keys}"), "warmup_steps=5", *settings))
  assert (plan.optim.b1, plan.pp.crop, plan.model.overrides) == (0.8, (32, 64), {"num_layers": 2})


def test_a_section_that_a_file_writes_anew_is_completed(parse):
  text = RETURNING.format(
    "ml_collections.ConfigDict(dict(dataset='digits', total_steps=9, warmup_steps=1, "
    "model=dict(name='ViT-Ti_16'), optim=dict(name='adamw'), pp=dict(crop=32))).lock()"
  )
  plan = make_plan(parse(text, "optim.eps=1e-6", "pp.resize=48", "pp.train_crop=random"))
  assert (plan.optim.eps, plan.pp.resize, plan.pp.crop) == (1e-6, 48, 32)


def test_what_a_file_computes_of_its_keys_follows_an_override(parse):
  text = RETURNING.format(
    "(lambda c: (c.__setattr__('warmup_steps', c.get_ref('total_steps') // 10), c)[1])("
    "ml_collections.ConfigDict(dict(dataset='digits', total_steps=100, model=dict(name='B_16'))))"
  )
  assert parse(text, "total_steps=500").warmup_steps == 50


@pytest.mark.parametrize(
  "text, message",
  [
    ("x = 1", "own.py has no function get_config; define one that returns a ConfigDict"),
    (RETURNING.format("None"), "get_config returns None instead of a ConfigDict; did it forget"),
    (RETURNING.format("3"), "get_config returns 3 instead of a ConfigDict"),
    ("def get_config(arg):\n  return {}", r"takes an argument; write --config=.*own.py:ARG"),
    ("def get_config(:\n", r"own.py, line 1: SyntaxError"),
    ("\ndef get_config():\n  return 1 / 0", r"own.py, line 3: ZeroDivisionError: division by zero"),
    ("import no_such_module", r"own.py, line 1: ModuleNotFoundError: No module named"),
    ("from no_such.configs import models", r"line 1: ModuleNotFoundError"),
    ("from vit_jax.configs import models", r"config.model = common.model_config\('ViT-B_16'\)"),
    ("import vit_jax.configs.models", r"config.model = common.model_config\('ViT-B_16'\)"),
    ("from vit_jax.configs import common_fewshot", r"'common_fewshot'.*remove it, since few-shot"),
    (
      "from vit_jax.configs import common\ndef get_config():\n  common.with_dataset(1, 2)",
      r"line 3: AttributeError.*call `common.set_dataset\(config, 'cifar10'\)`",
    ),
  ],
)
def test_what_is_wrong_with_a_file(parse, text, message):
  with pytest.raises(UserError, match=message) as caught:
    parse(text)
  assert "\n" not in str(caught.value) and str(caught.value)[-1] in ".?"


def test_configs_of_a_package_that_is_not_there(parse, monkeypatch):
  """As outside of a checkout."""
  folders = [p for p in sys.path if not pathlib.Path(p, "configs").is_dir()]
  monkeypatch.setattr(sys, "path", folders)
  monkeypatch.delitem(sys.modules, "configs", raising=False)
  with pytest.raises(UserError, match=r"write `from vit_jax.configs import common`"):
    parse("from configs import models")


@pytest.mark.parametrize(
  "keys, message",
  [
    (dict(total_steps=9, model=dict(name="B_16")), "config.dataset is missing; set it to a TFDS"),
    (dict(dataset="digits", total_steps=9), "config.model.name is missing; set it to one of"),
    (dict(dataset="digits", model=dict(name="B_16")), "config.total_steps is missing; set it to"),
    (dict(dataset="digits", total_steps=9, pp=3, model=dict(name="B_16")), "config.pp should be"),
    (dict(dataset=3, total_steps=9, model=dict(name="B_16")), "config.dataset=3 is not a string"),
    (dict(dataset="digits", total_steps="9", model=dict(name="B_16")), "total_steps='9' is not an"),
    (dict(model=dict(name="B_17")), "there is no model 'B_17'; did you mean"),
    (dict(model=dict(transformer=dict(num_layers=3))), "use model.num_layers"),
    (
      dict(lr=0.1, total_steps=9, model=dict(name="B_16")),
      "config.lr is not a known key; use base",
    ),
  ],
)
def test_what_is_wrong_with_the_keys_of_a_file(parse, keys, message):
  with pytest.raises(UserError, match=message):
    make_plan(parse(RETURNING.format(keys)))


def test_an_argument_that_a_file_does_not_take(parse):
  with pytest.raises(UserError, match=r"takes no argument; write --config=.*own.py\."):
    parse(RETURNING.format("{}"), argument=":x")
  with pytest.raises(UserError, match=r"config.pp should be a ConfigDict of its own keys"):
    parse(RETURNING.format(dict(pp=3)), "pp.crop=3")
