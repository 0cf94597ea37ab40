# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""configs of DeiT, MetaFormer, MobileViT and Swin: what they name, and what they refuse."""

import pytest

from vit_jax.configs import deit, metaformer, mobilevit, swin
from vit_jax.errors import UserError
from vit_jax.training.plan import make_plan


def test_deit_trains_from_scratch_as_table_9():
  plan = make_plan(deit.get_config("s16,imagenet2012"))
  assert plan.model.name == "DeiT-S_16" and plan.from_scratch and plan.distill is None
  assert (plan.batch, plan.base_lr, plan.optim.weight_decay) == (1024, 1e-3, 0.05)
  assert plan.total_steps * plan.batch == pytest.approx(300 * 0.99 * 1_281_167, rel=1e-3)
  assert plan.warmup_steps / plan.total_steps == pytest.approx(5 / 300, rel=1e-3)
  assert (plan.mixup, plan.cutmix, plan.label_smoothing) == (0.8, 1.0, 0.1)
  assert plan.model.overrides == {"drop_path_rate": 0.1} and plan.ema_decay == 0.99996


def test_a_distilled_deit_has_a_convolutional_teacher():
  distill = make_plan(deit.get_config("ti16_distilled,imagenet2012")).distill
  assert distill.teacher == "BiT-R101x1" and distill.checkpoint.endswith("ILSVRC2012.npz")
  assert (distill.loss, distill.share) == ("hard", 0.5)
  config = deit.get_config("ti16_distilled,imagenet2012")
  config.distill.loss = "soft"
  soft = make_plan(config).distill
  assert (soft.tau, soft.share) == (3.0, 0.1)  # Section 5 of arXiv:2012.12877.


@pytest.mark.parametrize(
  "config, argument, name, crop",
  [
    (deit, "b16,cifar10", "DeiT-B_16", 224),
    (deit, "b16_384,cifar100", "DeiT-B_16-384", 384),
    (metaformer, "m48,cifar10", "PoolFormer-M48", 224),
    (mobilevit, "xxs,cifar10", "MobileViT-XXS", 256),
    (mobilevit, "v2_0.5,cifar100", "MobileViTV2-0.5", 256),
    (swin, "b_384,cifar10", "Swin-B-384", 384),
    (swin, "v2_t_w8,cifar100", "SwinV2-T-w8", 256),
  ],
)
def test_fine_tuning_takes_the_released_weights(config, argument, name, crop):
  plan = make_plan(config.get_config(argument))
  assert (plan.model.name, plan.pp.crop, plan.from_scratch) == (name, crop, False)


def test_the_others_from_scratch():
  plan = make_plan(metaformer.get_config("s36,imagenet2012"))
  assert (plan.batch, plan.base_lr, plan.model.overrides) == (4096, 4e-3, {"drop_path_rate": 0.2})
  plan = make_plan(mobilevit.get_config("s,imagenet2012"))
  assert plan.pp.train_sizes == (160, 192, 256, 288, 320) and plan.pp.crop == 256
  assert (plan.pp.mean, plan.pp.std) == ((0.0,) * 3, (1.0,) * 3)
  assert (plan.mixup, plan.cutmix, plan.optim.weight_decay) == (0.0, 0.0, 0.01)
  plan = make_plan(swin.get_config("s,imagenet2012"))
  assert (plan.batch, plan.base_lr, plan.model.overrides) == (1024, 1e-3, {"drop_path_rate": 0.3})
  assert plan.warmup_steps / plan.total_steps == pytest.approx(20 / 300, rel=1e-3)
  assert (plan.grad_norm_clip, plan.pp.crop, plan.pp.resize) == (5.0, 224, 256)
  plan = make_plan(swin.get_config("v2_b_w16,imagenet2012"))
  assert (plan.model.name, plan.pp.crop, plan.pp.resize) == ("SwinV2-B-w16", 256, 292)


@pytest.mark.parametrize("config", [deit, metaformer, mobilevit, swin])
def test_refuses_with_one_sentence(config):
  here = config.__name__.rpartition(".")[2]
  with pytest.raises(UserError, match=rf"configs/{here}.py takes MODEL,DATASET, .*it got 'x'\."):
    config.get_config("x")
  with pytest.raises(UserError, match="there is no model 'huge'"):
    config.get_config("huge,cifar10")
  with pytest.raises(UserError, match="no preset for dataset 'cifar11'"):
    config.get_config(config.get_config.__defaults__[0].split(",")[0] + ",cifar11")
