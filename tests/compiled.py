# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A model's functions as one compiled program each.

One operation at a time, every one of them compiled alone, takes four times as long.
"""

import functools
from typing import Any

import flax.linen as nn
import jax


@functools.partial(jax.jit, static_argnums=0)
def init(model: nn.Module, *inputs: Any) -> Any:
  """The model's initial variables, always the same ones."""
  return model.init(jax.random.key(0), *inputs)


@functools.partial(jax.jit, static_argnums=0, static_argnames=("train", "mutable"))
def apply(model: nn.Module, variables: Any, *inputs: Any, **settings: Any) -> Any:
  """What the model gives; `mutable` is a tuple of collections here."""
  return model.apply(variables, *inputs, **settings)
