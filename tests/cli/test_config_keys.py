# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Every key of the plan can be set in every shipped config, and be set to none where it may be."""

import dataclasses
import importlib
import typing

import pytest

from vit_jax import keys as keys_lib
from vit_jax.cli import configuration
from vit_jax.data.transforms import Preprocessing
from vit_jax.errors import UserError
from vit_jax.models import registry
from vit_jax.parallel.mesh import MeshPlan
from vit_jax.training import plan as plan_lib
from vit_jax.training.plan import make_plan

CONFIGS = [
  *("vit:b16,cifar10", "vit:r50_b16,imagenet2012", "augreg:R_Ti_16", "mixer:b16,cifar10"),
  *("mixer:digits", "bit:r50x1,cifar10", "bit:digits", "deit:s16,imagenet2012"),
  *("deit:s16_distilled,cifar10", "deit:digits", "deit:digits_distilled", "swin:t,imagenet2012"),
  *("swin:v2_t_w8,cifar10", "swin:digits", "metaformer:s12,imagenet2012", "metaformer:digits"),
  *("mobilevit:s,imagenet2012", "mobilevit:digits", "lit:b16b2", "lit:l16ti", "lit:digits"),
  *("quickstart", "scratch:small,32", "scratch:s16"),
]
TWO_TOWERS = {"contrastive_loss"}
SECTIONS = {
  "pp": Preprocessing,
  "optim": plan_lib.OptimPlan,
  "mesh": MeshPlan,
  "distill": plan_lib.DistillPlan,
}
SECTIONS_OF_TWO_TOWERS = {"text": plan_lib.TextPlan, "init": plan_lib.InitPlan}


def parse(config, *overrides):
  file, colon, argument = config.partition(":")
  file = f"--config=configs/{file}.py{colon}{argument}"
  return configuration.parse([file, *(f"--config.{o}" for o in overrides)])


def fields(cls):
  return {field.name for field in dataclasses.fields(cls)} - {"parent"}


def expected_keys(config):
  """The fields of the plan and of the model, without a word on the code that collects them."""
  entry = registry.get_entry(config.model.name)
  sections = {**SECTIONS, **(SECTIONS_OF_TWO_TOWERS if entry.text else {})}
  top = fields(plan_lib.Plan) - {*SECTIONS, *SECTIONS_OF_TWO_TOWERS, "model"}
  keys = top - (set() if entry.text else TWO_TOWERS)
  for section, cls in sections.items():
    keys |= {section} | {f"{section}.{name}" for name in fields(cls)}
  keys |= {"model"} | {f"model.{name}" for name in fields(entry.module) - {"num_classes"}}
  for tower in ("img", "txt") if entry.text else ():
    name = config.model[tower].name or entry.config[tower]["name"]
    module = registry.create_model("LiT-B16B", **{tower: {"name": name}}).__getattribute__(tower)
    keys |= {f"model.{tower}.{name}" for name in fields(type(module))}
  return keys


@pytest.mark.parametrize("name", CONFIGS)
def test_the_keys_of_a_config_are_the_plans(name):
  file, _, argument = name.partition(":")
  module = importlib.import_module(f"vit_jax.configs.{file}")
  direct, parsed = module.get_config(*[argument] * bool(argument)), parse(name)
  assert direct.to_dict() == parsed.to_dict()  # In a program there are no fewer than typed.
  known = {key for key in configuration.known_keys(parsed) if "random_affine." not in key}
  assert known == expected_keys(parsed)


# What was not in `common.get_config()`, with a value that is not the default.
ONCE_MISSING = {
  "threads": 2,
  "cooldown_steps": 7,
  "linear_end": 1e-4,
  "rsqrt_timescale": 9,
  "decay_at": (0.5, 0.9),
  "decay_factor": 0.2,
  "keep_best_metric": "loss",
  "stall_timeout": 60.0,
  "checkpoint_minutes": 30.0,
  "optim.b1": 0.8,
  "optim.b2": 0.95,
  "optim.eps": 1e-6,
  "optim.momentum": 0.8,
  "mesh.max_whole": 0.5,
  "pp.crop_offset": "floor",
  "pp.random_affine": {"degrees": 5.0},
}
NEEDS = {
  "linear_end": ["decay_type=linear"],
  "rsqrt_timescale": ["decay_type=rsqrt"],
  "decay_at": ["decay_type=step"],
  "decay_factor": ["decay_type=step"],
  "optim.momentum": ["optim.name=sgd"],
}


@pytest.mark.parametrize("key", ONCE_MISSING)
@pytest.mark.parametrize("name", ["quickstart", "lit:digits"])
def test_what_messages_advise_can_be_typed(name, key):
  value = ONCE_MISSING[key]
  own = ["init.img=ViT-B_16"] if name == "lit:digits" else []
  plan = make_plan(parse(name, f"{key}={value}", *NEEDS.get(key, []), *own))
  for part in key.split("."):
    plan = getattr(plan, part)
  assert plan == value or (key == "pp.random_affine" and plan["degrees"] == 5.0)


@pytest.mark.parametrize("none", ["None", "none", ""])
def test_none_is_none_for_every_key_that_may_be(none):
  """Numbers, tuples and names alike; the fields of the model follow its row in the registry."""
  for name in ("vit:b16,cifar10", "lit:b16b2"):
    declared = plan_lib.declared_keys(parse(name))
    nullable = [k for k, key in declared.items() if keys_lib.fits(None, key.hint)]
    fields_of_model = [k for k in declared if k.startswith("model.") and k != "model.name"]
    assert len(nullable) > 20 and "pp.train_sizes" in nullable and "ema_decay" in nullable
    # Some fields have a word of their own: model.remat=none.
    words = [k for k in fields_of_model if declared[k].hint is str] if none == "none" else []
    chosen = {*nullable, *fields_of_model} - {*words}
    config = parse(name, *(f"{key}={none}" for key in chosen))
    for key in chosen:
      found = config
      for part in key.split("."):
        found = found[part]
      # Of the splits none is not the data set's own; and without a warm-up it takes no steps.
      assert found == {"pp.val": "", "pp.test": "", "warmup_steps": 0}.get(key), (key, found)


def test_none_and_zero_turn_off():
  off = ("None", "none", "", "0", "0.0")
  for text in off:
    assert make_plan(parse("vit:b16,cifar10", f"grad_norm_clip={text}")).grad_norm_clip is None
    assert make_plan(parse("deit:s16,imagenet2012", f"ema_decay={text}")).ema_decay is None
  for text in ("None", "none", ""):
    plan = make_plan(parse("deit:s16_distilled,imagenet2012", f"distill.teacher={text}"))
    assert plan.distill is None
    plan = make_plan(parse("vit:b16,cifar10", f"pretrained_dir={text}"))
    assert plan.pretrained_dir is None and plan.from_scratch
    plan = make_plan(parse("scratch:s16", "dataset=x", f"epochs={text}", "total_steps=400"))
    assert (plan.epochs, plan.total_steps) == (None, 400)
    plan = make_plan(parse("quickstart", f"warmup_steps={text}"))
    assert plan.warmup_steps == 0
    assert parse("quickstart", f"distill={text}", f"pp.random_affine={text}").pp.flip is False
    assert make_plan(parse("quickstart", f"pp.random_affine={text}")).pp.random_affine is None


def test_none_in_a_program_too():
  keys = dict(dataset="digits", total_steps=600, model=dict(name="ViT-Ti_16"))
  for none in ("None", "none", "", None):
    more = dict(checkpoint=none, grad_norm_clip=none, ema_decay=none, epochs=none, baseline=none)
    plan = make_plan({**keys, **more, "pp": dict(train_sizes=none, resize=none)})
    assert [getattr(plan, key) for key in more] == [None] * 5
    assert (plan.pp.train_sizes, plan.pp.resize) == (None, None)
  assert make_plan({**keys, "grad_norm_clip": 0}).grad_norm_clip is None


@pytest.mark.parametrize("none", ["None", "none", ""])
@pytest.mark.parametrize(
  "key, what",
  [("batch", "an integer"), ("optim.b1", "a number"), ("dataset", "a string"), ("optim", "a dict")],
)
def test_what_cannot_be_none_says_so(key, what, none):
  with pytest.raises(UserError, match=f"--config.{key}={none} cannot be none; set it to {what}"):
    parse("quickstart", f"{key}={none}")


def test_none_is_a_word_of_some_keys():
  config = parse("quickstart", "pp.train_crop=none", "model.remat=none")
  assert (config.pp.train_crop, config.model.remat) == ("none", "none")


@pytest.mark.parametrize(
  "setting, value",
  [
    ("pp.crop=(8,16)", (8, 16)),
    ("pp.crop=48", 48),
    ("pp.resize=[9, 16]", (9, 16)),
    ("pp.mean=0.5", (0.5,)),
    ("pp.mean=0.1,0.2,0.3", (0.1, 0.2, 0.3)),
    ("pp.flip=true", True),
    ("total_steps=2_000", 2000),
    ("base_lr=1", 1.0),
    ("model.patch_size=(4,8)", (4, 8)),
    ("model.stem_blocks=()", ()),
    ("checkpoint_image_size=(224,384)", (224, 384)),
  ],
)
def test_types_are_those_of_the_plan(setting, value):
  key = setting.partition("=")[0]
  found = parse("quickstart", setting)
  for part in key.split("."):
    found = found[part]
  assert found == value and type(found) is type(value)


def test_a_whole_section_and_a_key_of_it_in_any_order():
  for settings in (("optim={'name': 'sgd'}", "optim.momentum=0.5"),) * 2:
    optim = make_plan(parse("quickstart", *settings)).optim
    assert (optim.name, optim.momentum, optim.weight_decay) == ("sgd", 0.5, 0.0)
    settings = settings[::-1]


def test_the_fields_of_a_model_follow_its_name():
  settings = ("model.num_blocks=2", "model.name=Mixer-B_16", "pp.crop=32", "model.patch_size=8")
  plan = make_plan(parse("scratch:s16", "dataset=x", *settings))
  assert plan.model.name == "Mixer-B_16" and plan.model.overrides["num_blocks"] == 2
  with pytest.raises(UserError, match=r"no config key 'model.num_layers'"):
    parse("scratch:s16", "dataset=x", "model.num_layers=2", "model.name=Mixer-B_16")


def test_an_unknown_key_gets_the_three_nearest():
  for key, near in (("bse_lr", "'base_lr'"), ("zzz", ""), ("pp.crop_ofset", "'pp.crop_offset'")):
    with pytest.raises(
      UserError, match=f"there is no config key '{key}'; did you mean {near}"
    ) as e:
      parse("quickstart", f"{key}=1")
    assert str(e.value).count("'") <= 8


def test_all_annotations_of_the_plan_are_types_that_can_be_read():
  """So that a field that is added is one that a command line can set."""
  for cls in (plan_lib.Plan, *SECTIONS.values(), *SECTIONS_OF_TWO_TOWERS.values()):
    assert {*typing.get_type_hints(cls)} >= fields(cls)
    assert {*keys_lib.declared(cls)} == fields(cls)
