# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A model's functions as one compiled program each, and variables that need none.

One operation at a time, every one of them compiled alone, takes four times as long. And what
initialises a model takes five times as long to compile as the model.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import numpy as np


def noise(model: nn.Module, *inputs: Any, seed: int = 0) -> Any:
  """Variables with noise on every leaf: a zero head or bias would hide what is behind it."""
  shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), *inputs))
  rng = np.random.default_rng(seed)
  return jax.tree.map(lambda x: rng.normal(0, 0.3, x.shape).astype(np.float32), shapes)


@functools.partial(jax.jit, static_argnums=0)
def init(model: nn.Module, *inputs: Any) -> Any:
  """The model's initial variables, always the same ones."""
  return model.init(jax.random.key(0), *inputs)


@functools.partial(jax.jit, static_argnums=0, static_argnames=("train", "mutable"))
def apply(model: nn.Module, variables: Any, *inputs: Any, **settings: Any) -> Any:
  """What the model gives; `mutable` is a tuple of collections here."""
  return model.apply(variables, *inputs, **settings)
