# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What a run keeps on its devices is what `vit-jax plan` says, and nothing more."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

SCRIPT = pathlib.Path(__file__).parents[2] / "benchmarks" / "held_bytes.py"
MODEL = dict(patch_size=4, hidden_size=64, num_layers=1, mlp_dim=128, num_heads=2)
SCALARS = 1024  # Metrics of the steps on their way, and of the evaluation.


@pytest.mark.parametrize(
  "arguments",
  [
    [],
    pytest.param(["--scratch"], marks=pytest.mark.slow),
    pytest.param(["--devices=8", "--fsdp=8"], marks=pytest.mark.slow),
    pytest.param(["--devices=8", "--scratch"], marks=pytest.mark.slow),
    pytest.param(["--devices=8", "--fsdp=2", "--tensor=2", "--accum=2"], marks=pytest.mark.slow),
    ["--devices=8", "--fsdp=2", "--scratch", "--teacher"],
  ],
  ids=" ".join,
)
def test_a_run_keeps_what_its_plan_says(arguments):
  given = [*arguments, f"--model={json.dumps(MODEL)}", "--json"]
  done = subprocess.run(
    [sys.executable, SCRIPT, *given], capture_output=True, text=True, env=os.environ, timeout=600
  )
  assert done.returncode == 0, done.stderr
  found = json.loads(done.stdout.splitlines()[-1])
  # What the plan compiles is what the run does.
  assert found["run"]["program"] == found["plan"]["program"]
  run, plan = found["run"]["arrays"], found["plan"]["arrays"]
  assert run.keys() == plan.keys() | {"the best is restored"}
  for phase, planned in plan.items():
    assert 0 <= run[phase] - planned < SCALARS, phase
  # One state, and neither a second one nor the teacher.
  assert run["the best is restored"] < plan["the end"]
