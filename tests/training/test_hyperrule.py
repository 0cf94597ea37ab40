# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""configs/bit.py against the schedules of google-research/big_transfer (bit_hyperrule.py)."""

import pytest

from vit_jax.configs import bit
from vit_jax.errors import UserError
from vit_jax.training import optim
from vit_jax.training.plan import make_plan

# End of the warm-up, where the rate falls, and the end; Mixup's alpha; resized and cropped sizes.
RULES = {
  "r50x1,oxford_flowers102": ((100, 200, 300, 400, 500), 0.0, (512, 480)),
  "r101x3,cifar100": ((500, 3000, 6000, 9000, 10_000), 0.1, (160, 128)),
  "r152x4,imagenet2012": ((500, 6000, 12_000, 18_000, 20_000), 0.1, (512, 480)),
}


@pytest.mark.parametrize("arg", RULES)
def test_schedule_mixup_and_resolution(arg):
  supports, mixup, sizes = RULES[arg]
  plan = make_plan(bit.get_config(arg))
  rate = optim.learning_rate(plan)
  warmup, *falls, end = supports
  assert plan.total_steps == end
  expected = {0: 0.0, warmup // 2: 0.0015, warmup: 0.003}
  for times, step in enumerate(falls):
    expected |= {step: 0.003 / 10**times, step + 1: 0.003 / 10 ** (times + 1)}
  expected[end - 1] = 0.000003
  assert {s: float(rate(s)) for s in expected} == pytest.approx(expected, rel=1e-5)
  assert (plan.mixup, plan.pp.resize, plan.pp.crop) == (mixup, *sizes)
  assert (plan.pp.train_crop, plan.pp.eval_resize) == ("random", "squash")
  assert (plan.batch, plan.optim.momentum, plan.optim.weight_decay) == (512, 0.9, 0.0)
  assert plan.grad_norm_clip is None
  network = plan.model.name.removeprefix("BiT-")
  assert plan.weights == f"gs://bit_models/BiT-M-{network}.npz"


def test_ones_own_data_has_the_rule_of_its_size(tmp_path):
  config = bit.get_config("r50x1,small")
  config.dataset = str(tmp_path)
  plan = make_plan(config)
  assert (plan.total_steps, plan.mixup, plan.pp.train) == (500, 0.0, None)


@pytest.mark.parametrize(
  "arg, message",
  [
    ("r50x1", "takes MODEL,DATASET, MODEL,SIZE or digits"),
    ("r50x1,cifar11", "it got 'r50x1,cifar11'; did you mean 'cifar10'"),
    ("r50x2,small", "no model 'r50x2' .*did you mean 'r50x3'"),
  ],
)
def test_wrong_arguments_are_told_in_a_sentence(arg, message):
  with pytest.raises(UserError, match=message):
    bit.get_config(arg)
