# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
import math

import pytest

from vit_jax.training.schedules import warmup_then_decay

# Peak 0.03 after 100 of 1,100 steps; worked out by hand.
BY_HAND = [
  ("cosine", 0, 0.0),
  ("cosine", 50, 0.015),
  ("cosine", 100, 0.03),
  ("cosine", 350, 0.03 * 0.5 * (1 + math.sqrt(0.5))),  # A quarter: cos(pi/4).
  ("cosine", 600, 0.015),
  ("cosine", 1100, 0.0),
  ("linear", 50, 0.015),
  ("linear", 600, (0.03 + 1e-5) / 2),
  ("linear", 1100, 1e-5),
  ("rsqrt", 100, 0.03),
  ("rsqrt", 400, 0.015),  # Three time scales of 100 after the warm-up: 1 / sqrt(4).
  ("step", 50, 0.015),
  ("step", 330, 0.03),  # The point itself, 30% of 1,100.
  ("step", 331, 0.003),
  ("step", 661, 0.0003),
  ("step", 1100, 0.00003),
  ("constant", 50, 0.015),
  ("constant", 1100, 0.03),
]


@pytest.mark.parametrize("decay_type, step, expected", BY_HAND)
def test_values_worked_out_by_hand(decay_type, step, expected):
  schedule = warmup_then_decay(
    decay_type, 0.03, 1100, 100, rsqrt_timescale=100, decay_at=(0.3, 0.6, 0.9)
  )
  assert float(schedule(step)) == pytest.approx(expected, rel=1e-5, abs=1e-9)


def test_cooldown_ends_at_zero():
  schedule = warmup_then_decay("constant", 1.0, 100, 10, cooldown_steps=20)
  assert [float(schedule(s)) for s in (10, 80, 90, 100)] == pytest.approx([1.0, 1.0, 0.5, 0.0])


def test_no_warmup_starts_at_the_peak():
  assert float(warmup_then_decay("cosine", 0.5, 10)(0)) == pytest.approx(0.5)
