# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Images per second of ours against timm, eager and compiled, in one run on one machine.

    python benchmarks/speed.py --models=ViT-S_16,ViT-B_16 --batch=8

Forward pass and training step (forward, backward, SGD with momentum) in float32 with the same
threads. Each contender is warmed up, then they take turns, so that a machine whose speed drifts
is equally unfair to all; medians and ratios are printed and written to benchmarks/results/.
Training is measured with unrolled layers, and scanned ones where a model has them, and one step of
ours is profiled: the share of its time that each kind of XLA operation takes. Products that the
profile calls `dot` run on other threads and count too little there.
"""

import argparse
import collections
import dataclasses
import functools
import gc
import gzip
import json
import os
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tests"))
import cpu_torchvision  # noqa: F401
import jax
import jax.numpy as jnp
import numpy as np
import optax
import timm
import torch
from machine import machine

import vit_jax
from vit_jax.models import registry

TIMM = {
  "ViT-Ti_16": "vit_tiny_patch16_224",
  "ViT-S_16": "vit_small_patch16_224",
  "ViT-B_16": "vit_base_patch16_224",
  "R50+ViT-B_16": "vit_base_r50_s16_224",
  "Swin-T": "swin_tiny_patch4_window7_224",
  "PoolFormer-S12": "poolformer_s12",
  "MobileViT-S": "mobilevit_s",
}

# OpenMP's threads spin for a while after their work (200 ms by default), at the next one's cost.
PAUSE = 0.5


def fields(name: str) -> set[str]:
  """Names of the fields of a model."""
  return {field.name for field in dataclasses.fields(registry.get_entry(name).module)}


def ours(name: str, batch: int, train: bool, scanned: bool = False):
  """A function that runs one step to its end."""
  wanted = {"num_classes": 1000, "dropout_rate": 0.0, "scan_layers": scanned}
  model = vit_jax.create_model(name, **{k: v for k, v in wanted.items() if k in fields(name)})
  size = registry.get_entry(name).input.image_size
  images = jnp.asarray(np.random.default_rng(0).normal(size=(batch, size, size, 3)), jnp.float32)
  labels = jnp.arange(batch) % 1000
  statistics = dict(jax.jit(model.init)(jax.random.key(0), images[:1]))
  params = statistics.pop("params")
  if not train:
    forward = jax.jit(lambda variables, images: model.apply(variables, images, train=False))
    return lambda: forward({"params": params, **statistics}, images).block_until_ready()

  optimizer = optax.sgd(1e-3, momentum=0.9)
  state = [params, statistics, optimizer.init(params)]

  @functools.partial(jax.jit, donate_argnums=(0, 1, 2))
  def step(params, statistics, opt_state, images, labels):
    def loss_fn(params):
      variables = {"params": params, **statistics}
      logits, after = model.apply(variables, images, train=True, mutable=[*statistics])
      return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), after

    (loss, statistics), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
    updates, opt_state = optimizer.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), statistics, opt_state, loss

  def run():
    state[0], state[1], state[2], loss = step(*state, images, labels)
    loss.block_until_ready()

  return run


def theirs(name: str, batch: int, train: bool, compiled: bool):
  """The same of timm."""
  torch.manual_seed(0)
  model = timm.create_model(TIMM[name], num_classes=1000)
  size = registry.get_entry(name).input.image_size
  images, labels = torch.randn(batch, 3, size, size), torch.arange(batch) % 1000
  call = torch.compile(model) if compiled else model
  if not train:
    model.eval()

    def forward():
      with torch.inference_mode():
        call(images)

    return forward
  model.train()
  optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

  def step():
    optimizer.zero_grad(set_to_none=True)
    torch.nn.functional.cross_entropy(call(images), labels).backward()
    optimizer.step()

  return step


def profile(run: Callable[[], None], top: int = 8) -> dict[str, float]:
  """Share of the time that all XLA operations take together, by kind, the largest first."""
  with tempfile.TemporaryDirectory() as directory:
    with jax.profiler.trace(directory, create_perfetto_trace=True):
      run()
    [trace] = pathlib.Path(directory).rglob("perfetto_trace.json.gz")
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
  kinds: collections.Counter[str] = collections.Counter()
  for event in events:
    # XLA's operations carry the name of the program they belong to.
    if event.get("ph") == "X" and "hlo_module" in event.get("args", {}):
      kinds[event["name"].rstrip("0123456789.")] += event["dur"]
  return {kind: round(t / kinds.total(), 3) for kind, t in kinds.most_common(top)}


def measure(contenders: dict, warmups: int, rounds: int, batch: int) -> dict[str, float]:
  """Median images per second of each contender, in turns."""
  for run in contenders.values():
    for _ in range(warmups):
      run()
  times = {label: [] for label in contenders}
  for _ in range(rounds):
    for label, run in contenders.items():
      time.sleep(PAUSE)
      start = time.perf_counter()
      run()
      times[label].append(time.perf_counter() - start)
  return {label: batch / statistics.median(t) for label, t in times.items()}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--models", default="ViT-S_16,ViT-B_16")
  parser.add_argument("--batch", type=int, default=8)
  parser.add_argument("--warmups", type=int, default=5)
  parser.add_argument("--rounds", type=int, default=9)
  parser.add_argument("--out", default="benchmarks/results/speed.json")
  arguments = parser.parse_args()
  torch.set_num_threads(os.cpu_count() or 1)
  rows = []
  for name in arguments.models.split(","):
    for train in (False, True):
      contenders = {"ours": ours(name, arguments.batch, train)}
      if train and "scan_layers" in fields(name):
        contenders["ours scanned"] = ours(name, arguments.batch, train, scanned=True)
      for compiled in (False, True):
        label = "timm compiled" if compiled else "timm eager"
        contenders[label] = theirs(name, arguments.batch, train, compiled)
      speeds = measure(contenders, arguments.warmups, arguments.rounds, arguments.batch)
      best = max(speeds["timm eager"], speeds["timm compiled"])
      row = {"model": name, "pass": "train" if train else "forward", "batch": arguments.batch}
      row |= {f"{label} images/s": round(speed, 2) for label, speed in speeds.items()}
      for label in (label for label in speeds if label.startswith("ours")):
        row[f"{label} to best timm"] = round(speeds[label] / best, 3)
      if train:
        row["profile of ours"] = profile(contenders["ours"])
      rows.append(row)
      print(json.dumps(row), flush=True)
      del contenders
      gc.collect()
      torch.compiler.reset()
  out = pathlib.Path(arguments.out)
  out.parent.mkdir(parents=True, exist_ok=True)
  out.write_text(
    json.dumps({"machine": machine("jax", "flax", "torch", "timm"), "rows": rows}, indent=1) + "\n"
  )
  print(out)


if __name__ == "__main__":
  main()
