# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Ways to compute attention on this backend, in turns: the reason for `models.layers.attend`.

python benchmarks/attention.py
"""

import argparse
import json
import statistics
import time

import jax
import jax.numpy as jnp
from machine import machine

from vit_jax.models import layers

PATHS = {
  "heads-first matmul": lambda q, k, v: layers.attend_by_matmul(q, k, v, None),
  "jax.nn.dot_product_attention": jax.nn.dot_product_attention,
}


def measure(functions: dict, rounds: int) -> dict[str, float]:
  """Median milliseconds of each, in turns."""
  times = {name: [] for name in functions}
  for _ in range(rounds):
    for name, function in functions.items():
      start = time.perf_counter()
      jax.block_until_ready(function())
      times[name].append(1e3 * (time.perf_counter() - start))
  return {name: statistics.median(t) for name, t in times.items()}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--shape", default="8,197,12,64", help="batch,tokens,heads,width of a head")
  parser.add_argument("--rounds", type=int, default=30)
  parser.add_argument("--out", default="benchmarks/results/attention.json")
  arguments = parser.parse_args()
  shape = tuple(map(int, arguments.shape.split(",")))
  rows = []
  for dtype in ("float32", "bfloat16"):
    inputs = [
      jax.random.normal(key, shape, dtype) for key in jax.random.split(jax.random.key(0), 3)
    ]
    for kind in ("forward", "gradient"):
      functions = {}
      for name, path in PATHS.items():
        call = jax.jit(path)
        if kind == "gradient":
          loss = lambda *x, path=path: path(*x).astype(jnp.float32).sum()
          call = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))
        functions[name] = lambda call=call, inputs=inputs: call(*inputs)
        jax.block_until_ready(functions[name]())
      times = measure(functions, arguments.rounds)
      rows.append({"dtype": dtype, "pass": kind, **{k: round(v, 2) for k, v in times.items()}})
      print(json.dumps(rows[-1]), flush=True)
  result = {"machine": machine("jax"), "shape": shape, "milliseconds": rows}
  with open(arguments.out, "w") as file:
    file.write(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
  main()
