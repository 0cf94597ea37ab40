# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The quickstart over several seeds: test accuracy and the wall time of the whole command.

python benchmarks/quickstart.py --seeds=0,1,2
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time

from machine import machine

ROOT = pathlib.Path(__file__).resolve().parent.parent


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--seeds", default="0,1,2")
  parser.add_argument("--out", default=str(ROOT / "benchmarks/results/quickstart.json"))
  arguments = parser.parse_args()
  rows = []
  for seed in map(int, arguments.seeds.split(",")):
    with tempfile.TemporaryDirectory() as workdir:
      command = [sys.executable, "-m", "vit_jax.main", "--config=configs/quickstart.py"]
      start = time.perf_counter()
      subprocess.run(
        [*command, f"--workdir={workdir}", f"--config.seed={seed}"], cwd=ROOT, check=True
      )
      seconds = time.perf_counter() - start
      results = json.loads(pathlib.Path(workdir, "results.json").read_text())
    test, neighbour = results["test"], results["1-nn"]
    row = {
      "seed": seed,
      "val accuracy": results["val"]["accuracy"],
      "test accuracy": test["accuracy"],
      "1-nn test accuracy": neighbour["accuracy"],
      "difference": neighbour["difference"],
      "standard error of the difference": neighbour["standard_error"],
      "seconds": round(seconds, 1),
    }
    rows.append(row)
    print(json.dumps(row), flush=True)
  out = pathlib.Path(arguments.out)
  out.write_text(json.dumps({"machine": machine("jax", "flax"), "rows": rows}, indent=1) + "\n")
  print(out)


if __name__ == "__main__":
  main()
