# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What an override of the data set or of the length does to a preset."""

import logging

import pytest

from vit_jax.cli import configuration
from vit_jax.errors import UserError
from vit_jax.training.plan import make_plan

OWN = ("pp.eval_resize", "pp.channels", "pp.flip", "pp.random_affine")


def parse(config, *overrides):
  return configuration.parse([f"--config=configs/{config}", *(f"--config.{o}" for o in overrides)])


def parse_pp(config, *overrides):
  return make_plan(parse(config, *overrides)).pp


@pytest.mark.parametrize(
  "preset",
  ["quickstart.py"]
  + [f"{name}.py:digits" for name in ("mixer", "bit", "deit", "swin", "metaformer", "mobilevit")],
)
def test_digits_are_prepared_as_digits_and_photos_as_photos(preset, tmp_path, caplog):
  """Photos were shrunk to 8x8 grey pixels, as if each showed a digit on paper."""
  caplog.set_level(logging.INFO)
  before = parse_pp(preset)
  assert (before.eval_resize, before.channels, before.flip) == ("digit", 1, False)
  after = parse_pp(preset, f"dataset={tmp_path}")
  assert (after.eval_resize, after.channels, after.flip) == ("squash", 3, True)
  assert after.random_affine is None and len(after.mean) == 3
  assert (after.crop, after.train_crop) == (before.crop, before.train_crop)
  assert (after.train, after.val, after.test) == (None, None, None)
  [line] = [m for m in caplog.messages if m.startswith("the data set is ")]
  assert all(key in line for key in OWN) and "the others stay" in line


def test_what_the_user_types_stays(tmp_path):
  pp = parse_pp("quickstart.py", f"dataset={tmp_path}", "pp.channels=1", "pp.flip=False")
  assert (pp.channels, pp.flip, pp.eval_resize) == (1, False, "squash")
  pp = parse_pp("quickstart.py", f"dataset={tmp_path}", "pp.random_affine.degrees=5.0")
  assert pp.random_affine["degrees"] == 5.0


def test_recipes_for_photos_keep_their_evaluation(tmp_path):
  pp = parse_pp("deit.py:s16,imagenet2012", f"dataset={tmp_path}")
  assert (pp.eval_resize, pp.resize, pp.flip) == ("resize_crop", 256, True)
  assert (pp.train, pp.test) == (None, None)


def test_one_named_split_does_not_take_the_others_away():
  """The ancestor's command."""
  pp = parse_pp("augreg.py:R_Ti_16", "dataset=oxford_iiit_pet", "pp.train=train[:90%]")
  assert (pp.train, pp.val, pp.test) == ("train[:90%]", None, None)  # None: the data set's own.
  pp = parse_pp("vit.py:b16,cifar10", "pp.val=")
  assert (pp.train, pp.val, pp.test) == ("train[:98%]", "", "test")


def test_epochs_and_steps_replace_each_other():
  config = parse("vit.py:b16,cifar10", "epochs=3", "warmup_epochs=0.5")
  assert (config.total_steps, config.warmup_steps) == (None, None)
  plan = make_plan(config).with_steps(49_000)
  assert (plan.total_steps, plan.warmup_steps) == (287, 48)
  config = parse("scratch.py:small,32", "dataset=x", "total_steps=50", "warmup_steps=5")
  plan = make_plan(config)
  assert (plan.total_steps, plan.warmup_steps, plan.epochs) == (50, 5, None)
  # A warm-up that was not typed keeps its share where it does not fit, or is not said in steps.
  plan = make_plan(parse("vit.py:b16,cifar10", "epochs=2")).with_steps(49_000)
  assert (plan.total_steps, plan.warmup_steps) == (191, 10)  # 500 of 10,000.
  plan = make_plan(parse("scratch.py:small,32", "dataset=x", "total_steps=50"))
  assert (plan.total_steps, plan.warmup_steps) == (50, 3)  # 5 of 75 epochs.
  plan = make_plan(parse("scratch.py:small,32", "dataset=x", "epochs=3")).with_steps(1_000)
  assert (plan.total_steps, plan.warmup_steps) == (47, 3)
  plan = make_plan(parse("scratch.py:small,32", "dataset=x", "epochs=30")).with_steps(1_000)
  assert (plan.total_steps, plan.warmup_steps) == (469, 78)  # It fits.
  assert make_plan(parse("vit.py:b16,cifar10", "total_steps=2_000")).warmup_steps == 500
  assert make_plan(parse("vit.py:b16,cifar10", "total_steps=300")).warmup_steps == 15
  with pytest.raises(UserError, match=r"--config.total_steps and --config.epochs both say"):
    parse("vit.py:b16,cifar10", "epochs=3", "total_steps=10")


@pytest.mark.parametrize(
  "argument, name, crop",
  [
    ("small,32", "R+ViT-Ti_16", 32),
    ("small", "R+ViT-Ti_16", 32),
    ("s16", "ViT-S_16", 224),
    ("DeiT-S_16,160", "DeiT-S_16", 160),
    ("mobilevit_xxs", "MobileViT-XXS", 256),
    ("r_ti16,384", "R+ViT-Ti_16", 384),
    ("Swin-T,224", "Swin-T", 224),
  ],
)
def test_scratch_takes_any_model_and_size(argument, name, crop):
  plan = make_plan(parse(f"scratch.py:{argument}", "dataset=x"))
  assert (plan.model.name, plan.pp.crop, plan.from_scratch) == (name, crop, True)


@pytest.mark.parametrize(
  "argument, words",
  [
    ("s16,x", "takes MODEL or MODEL,PIXELS"),
    ("s16,", "takes MODEL or MODEL,PIXELS"),
    ("s17", "there is no model 's17'"),
    ("LiT-B16B_2", "two towers"),
  ],
)
def test_scratch_refuses_in_one_sentence(argument, words):
  with pytest.raises(UserError, match=words):
    parse(f"scratch.py:{argument}")
  with pytest.raises(UserError, match="dataset is missing"):
    make_plan(parse("scratch.py:small,32"))
