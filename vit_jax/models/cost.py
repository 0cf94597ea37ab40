# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What a model costs: parameters and multiply-accumulates, from shapes alone."""

import json
import math
import pathlib
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vit_jax.models.lit import example_inputs


def abstract_variables(model: nn.Module, image_shape: tuple[int, ...]) -> Any:
  """Shapes and dtypes of `model.init` for images [batch, height, width, channels]."""
  inputs = example_inputs(model, jax.ShapeDtypeStruct(image_shape, jnp.float32))
  init = lambda key, *inputs: model.init(key, *inputs, train=False)
  return jax.eval_shape(init, jax.random.key(0), *inputs)


def count_parameters(tree: Any) -> int:
  """Number of values in a tree of arrays or of their shapes."""
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def jaxpr_macs(jaxpr: Any, weigh: Callable[[Any], float] = lambda equation: 1) -> float:
  """Multiply-accumulates of the matrix products and convolutions of a jaxpr.

  A scan's body counts as often as it runs.

  Args:
    jaxpr: open, as `jax.make_jaxpr(f)(x).jaxpr`.
    weigh: what to multiply those of an equation with.
  """
  total = 0
  for equation in jaxpr.eqns:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
      out = equation.outvars[0].aval
      (contracted, _), _ = params["dimension_numbers"]
      total += (
        weigh(equation)
        * math.prod(out.shape)
        * math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
      )
    elif name == "conv_general_dilated":
      out = equation.outvars[0].aval
      kernel = equation.invars[1].aval.shape
      out_features = kernel[params["dimension_numbers"].rhs_spec[0]]
      total += weigh(equation) * math.prod(out.shape) * math.prod(kernel) // out_features
    elif name == "scan":
      total += params["length"] * jaxpr_macs(params["jaxpr"].jaxpr, weigh)
    elif name == "cond":  # One branch runs: that of the platform.
      total += max(jaxpr_macs(branch.jaxpr, weigh) for branch in params["branches"])
    else:
      for value in params.values():
        inner = getattr(value, "jaxpr", value)
        if hasattr(inner, "eqns"):
          total += jaxpr_macs(inner, weigh)
  return total


def count_macs(model: nn.Module, image_shape: tuple[int, ...]) -> int:
  """Multiply-accumulates of one forward pass over images [batch, height, width, channels].

  Two towers also read a text for each image.

  Papers call a billion of these a GFLOP. As they do, this counts matrix products and convolutions
  only, attention's two products included.
  """
  variables = abstract_variables(model, image_shape)
  inputs = example_inputs(model, jax.ShapeDtypeStruct(image_shape, jnp.float32))
  apply = lambda variables, *inputs: model.apply(variables, *inputs, train=False)
  jaxpr = jax.make_jaxpr(apply)(variables, *inputs)
  return jaxpr_macs(jaxpr.jaxpr)


COSTS_FILE = pathlib.Path(__file__).with_name("costs.json")


def costs() -> dict[str, dict[str, float]]:
  """Parameters and GFLOPs of every registered model at its registered input size.

  Read from costs.json, because tracing each model takes a third of a second; the tests compute
  every row anew. `python -m vit_jax.models.cost` writes the file.
  """
  return json.loads(COSTS_FILE.read_text())


def compute_costs(name: str) -> dict[str, float]:
  """One row of `costs`: {"parameters": int, "gflops": float}."""
  from vit_jax.models import registry

  entry = registry.get_entry(name)
  size = entry.input.image_size
  height, width = (size, size) if isinstance(size, int) else size
  shape = (1, height, width, entry.input.channels)
  scan = {"scan_layers": True} if "scan_layers" in registry.model_fields(entry.module) else {}
  model = registry.create_model(name, **scan)
  parameters = count_parameters(abstract_variables(model, shape)["params"])
  return {"parameters": parameters, "gflops": round(count_macs(model, shape) / 1e9, 3)}


if __name__ == "__main__":
  from vit_jax.models import registry

  COSTS_FILE.write_text(
    json.dumps({name: compute_costs(name) for name in registry.list_models()}, indent=1) + "\n"
  )
  print(COSTS_FILE)
