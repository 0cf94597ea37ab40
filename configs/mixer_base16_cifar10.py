# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""The ancestor's name for configs/mixer.py:b16,cifar10, where everything is told.

python -m vit_jax.main --config=configs/mixer_base16_cifar10.py --workdir=runs/mixer-b16-cifar10
"""

import ml_collections

from vit_jax.configs import mixer


def get_config() -> ml_collections.ConfigDict:
  """Returns the configuration of Mixer-B/16 on CIFAR-10."""
  return mixer.get_config("b16,cifar10")
