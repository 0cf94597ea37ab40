# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What two processes say of each other when one has something otherwise.

They join once and compare all cases of `agreeing.py`; `test_processes_differ.py` has the command.
"""

import json
import os
import pathlib
import re
import socket
import subprocess
import sys

import pytest
from test_processes import patience

from vit_jax.parallel import coordination
from vit_jax.training import agreement

HERE = pathlib.Path(__file__).parent
SAME_COMMAND = "; start all of them with the same command."

SENTENCES = {
  "the_same": None,
  "base_lr": "process 1 has config.base_lr=0.02, process 0 has 0.001" + SAME_COMMAND,
  "seed": "process 1 has config.seed=1, process 0 has 0" + SAME_COMMAND,
  "batch": "process 1 has config.batch=16, process 0 has 32" + SAME_COMMAND,
  "total_steps": "process 1 has config.total_steps=9, process 0 has 12" + SAME_COMMAND,
  "eval_every": "process 1 has config.eval_every=2, process 0 has 4" + SAME_COMMAND,
  "checkpoint_every": "process 1 has config.checkpoint_every=6, process 0 has 3" + SAME_COMMAND,
  "model_of_a_section": r"process 1 has config.model.overrides.num_layers=2, process 0 has 1",
  "jaxlib_version": r"process 1 has jaxlib=0.9, process 0 has \d+\.\d+.*; install the same",
  "libtpu_version": r"process 1 has libtpu=0.0.43, process 0 has 0.0.42; install the same",
  "code": r"process 1 has vit_jax/training/step.py=content \w+, process 0 has content \w+; install",
  "number_of_processes": "process 1 has processes=3, process 0 has 2; give all of them the same",
  "local_devices": "process 1 has devices=3, process 0 has 1; start all of them on hosts of the",
  "precision": "process 1 has jax_default_matmul_precision=float32, process 0 has default; start",
  "environment": "process 1 has LIBTPU_INIT_ARGS=--xla_tpu=1, process 0 has --xla_tpu=0; start",
  "work_directory": r"(process 1: )?\S+/other is not the work directory of process 0, .* all proc",
  "work_directory_that_is_a_file": r"(process 0: )?workdir \S+/file cannot be written \(File exi",
  "late_sight_of_the_work_directory": None,
  "images_of_a_class": r"process 1 has train.examples=\d+, process 0 has \d+; give all of them the",
  "sizes_of_images": r"process 1 has train.digest=\w+, process 0 has \w+; give all of them the sam",
  "class_names": r"process 1 has class_names=\['a', 'c'\], process 0 has \['a', 'b'\]; give all of",
  "content_without_files": r"process 1 has train.digest=\w+, process 0 has \w+; give all of them",
  "weights": r"process 1 has weights=\w+, process 0 has \w+; give all of them the same files to st",
  "vocabulary": r"process 1 has vocabulary=abc, process 0 has abd; give all of them the same files",
  "step": "process 1 has step=20, process 0 has 40; look whether all of them see the same files in",
  "a_run_that_is_going_on": r"(process 0: )?another process is training in \S+/run; wait for it",
  "an_older_version_that_tells_nothing": "process 1 has not told within 1 s what it runs, as this",
  "a_mistake_of_the_second_alone": "(process 1: )?config.oops is not a known key",
  "a_mistake_of_the_first_alone": "(process 0: )?config.oops is not a known key",
}


@pytest.fixture(scope="module")
def told(tmp_path_factory):
  """What each of two processes says, and after how many seconds, by case."""
  folder = tmp_path_factory.mktemp("agreeing")
  with socket.socket() as free:
    free.bind(("localhost", 0))
    address = f"localhost:{free.getsockname()[1]}"
  path = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
  both = [
    subprocess.Popen(
      [sys.executable, HERE / "agreeing.py", address, str(index), folder],
      env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": path},
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for index in range(2)
  ]
  ended = [process.communicate(timeout=200) for process in both]
  assert [process.returncode for process in both] == [0, 0], ended
  return [json.loads(out.splitlines()[-1]) for out, _ in ended]


@pytest.mark.parametrize("case", SENTENCES)
def test_two_processes(told, case):
  for own in told:
    sentence, seconds = own[case]
    assert seconds < patience(5)
    if SENTENCES[case] is None:
      assert sentence is None
    else:
      assert re.match(SENTENCES[case], sentence or ""), sentence
  assert told[0].keys() == SENTENCES.keys()


def test_the_odd_one_is_named_first():
  told = [{"seed": value} for value in (0, 3, 0, 0, 0, 3, 0)]
  assert agreement.difference(told, "stop") == (
    "processes 1, 5 have seed=3, processes 0, 2-4, 6 have 0; stop."
  )
  assert agreement.difference([{"seed": 0}, {}], "stop") == (
    "process 1 has seed=nothing, process 0 has 0; stop."
  )
  assert agreement.difference([{"a": 1, "b": "1"}, {"a": 1, "b": 1}], "stop").startswith(
    "process 1 has b=1, process 0 has 1"
  )
  assert agreement.difference([{"a": 1}] * 3, "stop") is None
  many = agreement.difference([{"a": k} for k in range(9)], "stop")
  assert many.endswith("process 5 has 5, and others have 5 more values; stop.")


def test_one_process_compares_nothing():
  """Nothing of what it would have to say is looked at."""
  agreement.check_software()
  agreement.check_start(None, None)
  agreement.check_data(None)
  agreement.check_model(None, None)
  coordination.leave("")
  assert agreement.check({"any": object()}) == ""
