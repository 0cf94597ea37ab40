# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The ancestor's measurement of inference, which is a benchmark here and no training run."""

import ml_collections

from vit_jax.errors import UserError


def get_config() -> ml_collections.ConfigDict:
  """Raises UserError, which names the command that measures."""
  raise UserError(
    "configs/inference_time.py is no training run; `python benchmarks/speed.py --models=ViT-B_16 "
    "--batch=8` in the repository measures the images per second of inference and training."
  )
