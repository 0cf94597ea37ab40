# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""The command lines of the runs that tests/record keeps, and what stopped them half-way.

    python tests/record/small_runs.py DIRECTORY

makes them again, by the command line alone, which stays as it is while the package is rebuilt.
"""

import argparse
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

STOPPED = 75  # The exit code of a run that was asked to stop.
STEP = 10  # The first step at which it is asked.
SHORT = (
  "dataset=digits total_steps=32 warmup_steps=4 batch=32 batch_eval=180 eval_every=8"
  " checkpoint_every=8 progress_every=1"
)
VIT = (
  "model.patch_size=4 model.hidden_size=16 model.num_layers=2 model.mlp_dim=32 model.num_heads=2"
  " model.dropout_rate=0.1 pp.channels=1 pp.crop=8"
)
HYBRID = (
  "model.stem_width=32 model.hidden_size=16 model.num_layers=1 model.mlp_dim=32 model.num_heads=2"
)
# A config file with its argument, and the keys set. {RUNS} is the directory of the runs.
RUNS = {
  "vit": (
    "scratch.py:ti16,8",
    f"{SHORT} {VIT} ema_decay=0.9 mixup=0.4 pp.train_crop=inception pp.min_area=0.5 pp.flip=False",
  ),
  "batch-norm": (
    "mobilevit.py:digits",
    f"{SHORT} model.widths=8,16 model.num_residuals=1,1 model.hidden_sizes=16,"
    " model.num_layers=1, model.final_width=16 model.stem_width=8 pp.crop=16",
  ),
  "lit": (
    "lit.py:digits",
    f"{SHORT} frozen=None baseline=None model.txt.hidden_size=16 model.txt.num_layers=1"
    " model.txt.mlp_dim=32 model.txt.num_heads=2 model.txt.num_classes=16 "
    + HYBRID.replace("model.", "model.img."),
  ),
  "quickstart": ("quickstart.py", f"{SHORT} {HYBRID}"),
  "distilled": (
    "scratch.py:deit_ti16_distilled,8",
    f"{SHORT} {VIT} distill.teacher={{RUNS}}/batch-norm distill.loss=soft",
  ),
}


def command(name: str, workdir: pathlib.Path, runs: pathlib.Path) -> list[str]:
  """What follows `vit-jax train` for a run, whose teacher is looked for in the directory `runs`."""
  config, keys = RUNS[name]
  options = [f"--config.{key.format(RUNS=runs)}" for key in keys.split()]
  return [f"--config=configs/{config}", f"--workdir={workdir}", *options]


def make(name: str, runs: pathlib.Path) -> None:
  """Starts a run, and asks it to stop when it has made a few steps."""
  workdir = runs / name
  arguments = [sys.executable, "-m", "vit_jax.main", *command(name, workdir, runs)]
  process = subprocess.Popen(arguments, env={**os.environ, "JAX_PLATFORMS": "cpu"})
  metrics = workdir / "metrics.jsonl"
  while process.poll() is None:
    lines = metrics.read_text().split("\n")[:-1] if metrics.exists() else []
    if any(json.loads(line)["step"] >= STEP for line in lines):
      process.send_signal(signal.SIGTERM)
      process.wait()
    time.sleep(0.002)
  if process.returncode != STOPPED:
    sys.exit(f"{name} ended with {process.returncode} instead of {STOPPED}")
  shutil.rmtree(workdir / "tensorboard")  # Which nothing reads.


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("directory", type=pathlib.Path)
  directory = parser.parse_args().directory.resolve()
  for name in RUNS:
    make(name, directory)


if __name__ == "__main__":
  main()
