# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""How long does saving hold up training?

    python benchmarks/saving.py

Trains a ViT-S (21 M parameters, AdamW: 0.26 GB of state) on scikit-learn's digits, with a
checkpoint every 50 steps and with none but the last, by turns. Prints the share of the training
time that the loop spent in `Checkpointer.save` (it copies the state, waits for the save before if
that is not complete, and starts the next), and the time of both kinds of run.
"""

import argparse
import json
import os
import pathlib
import statistics
import tempfile
import time

from machine import machine

from vit_jax.configs import quickstart
from vit_jax.training.loop import train_and_evaluate
from vit_jax.workdir.steps import Checkpointer


def run(steps: int, every: int) -> dict[str, float]:
  """Seconds of a run's steps, and of them in `save`."""
  config = quickstart.get_config()
  config.model = {"name": "ViT-S_16", "patch_size": 16}
  config.batch, config.baseline = 32, None
  config.total_steps, config.warmup_steps = steps, steps // 10
  config.eval_every, config.checkpoint_every, config.progress_every = 0, every, steps
  blocked: list[float] = []
  save = Checkpointer.save

  def timed(self, step: int, *arguments, **options) -> None:
    started = time.monotonic()
    save(self, step, *arguments, **options)
    if step < steps:  # What comes after the last step holds nothing up.
      blocked.append(time.monotonic() - started)

  Checkpointer.save = timed
  try:
    with tempfile.TemporaryDirectory() as workdir:
      results = train_and_evaluate(config, os.path.join(workdir, "run"))
  finally:
    Checkpointer.save = save
  train_seconds = (steps - 1) * config.batch / results["images_per_second"]
  return {"train_seconds": train_seconds, "blocked_seconds": sum(blocked), "saves": len(blocked)}


def main() -> None:
  parser = argparse.ArgumentParser()
  parser.add_argument("--steps", type=int, default=200)
  parser.add_argument("--every", type=int, default=50)
  parser.add_argument("--rounds", type=int, default=2)
  parser.add_argument("--out", default="benchmarks/results/saving.json")
  arguments = parser.parse_args()
  rounds = []
  for _ in range(arguments.rounds):
    saving, without = run(arguments.steps, arguments.every), run(arguments.steps, 0)
    rounds.append({"saving": saving, "without": without})
    print(json.dumps(rounds[-1]), flush=True)
  share = lambda r: (
    r["saving"]["blocked_seconds"] / (r["saving"]["train_seconds"] + r["saving"]["blocked_seconds"])
  )
  result = {
    "machine": machine(),
    "steps": arguments.steps,
    "checkpoint_every": arguments.every,
    "share of the time blocked by saving": statistics.median(map(share, rounds)),
    "rounds": rounds,
  }
  print(json.dumps(result, indent=1))
  pathlib.Path(arguments.out).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
  main()
