# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""One of two processes that compare what they have, again and again; the second has it otherwise.

    python agreeing.py ADDRESS INDEX FOLDER

Prints as JSON, for each case, the sentence that it ended with and the seconds until then.
"""

import contextlib
import dataclasses
import importlib.metadata
import json
import os
import pathlib
import shutil
import sys
import time
from unittest import mock

import jax
import jaxlib
import numpy as np
import tiny_folder
import tiny_run
from etils import epath

import vit_jax
from vit_jax.data.sources import ArraySource
from vit_jax.errors import UserError
from vit_jax.parallel import coordination, processes
from vit_jax.training import agreement
from vit_jax.training import plan as plan_lib
from vit_jax.workdir import data_record, integrity, run_data, run_info
from vit_jax.workdir.steps import Checkpointer

ADDRESS, INDEX, FOLDER = sys.argv[1], int(sys.argv[2]), epath.Path(sys.argv[3])
CASES = {}


def case(function):
  """Registers what both processes do; it is given whether this is the second."""
  CASES[function.__name__] = function
  return function


def started(workdir=FOLDER / "run", **changes):
  agreement.check_start(plan_lib.make_plan(tiny_run.config(**changes)), workdir)


for key, value in dict(
  base_lr=0.02, seed=1, batch=16, total_steps=9, eval_every=2, checkpoint_every=6
).items():
  CASES[key] = lambda second, key=key, value=value: started(**({key: value} if second else {}))


@case
def the_same(second):
  del second
  agreement.check_software()
  started()


@case
def model_of_a_section(second):
  started(model=dict(num_layers=2 if second else 1))


@case
def jaxlib_version(second):
  with mock.patch.object(jaxlib, "__version__", "0.9" if second else jaxlib.__version__):
    agreement.check_software()


@case
def libtpu_version(second):
  known = importlib.metadata.version

  def version(name):
    return ("0.0.43" if second else "0.0.42") if name == "libtpu" else known(name)

  with mock.patch.object(importlib.metadata, "version", version):
    agreement.check_software()


@case
def code(second):
  package = pathlib.Path(vit_jax.__file__).parent
  copy = pathlib.Path(FOLDER, f"copy-{INDEX}", package.name)
  shutil.copytree(package, copy, ignore=shutil.ignore_patterns("__pycache__"))
  if second:
    (copy / "training" / "step.py").write_text("pass")
  with mock.patch.object(vit_jax, "__file__", str(copy / "__init__.py")):
    agreement.check_software()


@case
def number_of_processes(second):
  count = 3 if second else 2
  with mock.patch.object(coordination.state(), "num_processes", count):
    agreement.check_software()


@case
def local_devices(second):
  with mock.patch.object(jax, "local_device_count", lambda: 3 if second else 1):
    started()


@case
def precision(second):
  with jax.default_matmul_precision("float32" if second else "default"):
    started()


@case
def environment(second):
  flags = "--xla_dump_to=/somewhere" if second else "--xla_dump_to=/elsewhere"
  with mock.patch.dict("os.environ", XLA_FLAGS=flags):
    started()  # Where something is written may differ.
  with mock.patch.dict("os.environ", LIBTPU_INIT_ARGS="--xla_tpu=1" if second else "--xla_tpu=0"):
    started()


@case
def work_directory(second):
  started(workdir=FOLDER / ("other" if second else "run"))


@case
def work_directory_that_is_a_file(second):
  (FOLDER / "file").write_text("")
  started(workdir=FOLDER / ("run" if second else "file"))


@case
def late_sight_of_the_work_directory(second):
  exists = type(FOLDER).exists
  seen = time.monotonic() + 1.5

  def late(path):
    return exists(path) and (not second or time.monotonic() > seen)

  with mock.patch.object(type(FOLDER), "exists", late):
    started()


def opened(dataset):
  plan = plan_lib.make_plan(tiny_folder.config(str(dataset)))
  return run_data.open_run_data(plan, FOLDER / "run", None)


@case
def images_of_a_class(second):
  agreement.check_data(opened(FOLDER / ("30" if second else "24")))


@case
def sizes_of_images(second):
  agreement.check_data(opened(FOLDER / ("24-larger" if second else "24")))


@case
def class_names(second):
  agreement.check_data(opened(FOLDER / ("24-renamed" if second else "24")))


def arrays(seed):
  """A data set without files, of which only the content differs."""
  images = np.random.default_rng(seed).integers(0, 256, (40, 8, 8, 1), dtype=np.uint8)
  source = ArraySource(images, np.zeros(40), [f"train:{k}" for k in range(40)])
  data = opened(FOLDER / "24")
  record = data_record.make(2, {"train": source})
  return dataclasses.replace(data, sources={"train": source}, record=record)


@case
def content_without_files(second):
  agreement.check_data(arrays(seed=int(second)))


def described():
  data = opened(FOLDER / "24")
  plan = data.planned(plan_lib.make_plan(tiny_folder.config(str(FOLDER / "24"))))
  model = plan_lib.registry.create_model(plan.model.name, **plan.model.overrides, num_classes=2)
  return run_info.describe_run(plan, model, data.dataset.class_names, 100, data.record)


@case
def weights(second):
  agreement.check_model(described(), {"a": np.arange(6.0), "b": np.float32(second)})


@case
def vocabulary(second):
  info = dataclasses.replace(described(), vocabulary="abc" if second else "abd")
  agreement.check_model(info, None)


@case
def step(second):
  agreement.check_step(20 if second else 40)


@case
def a_run_that_is_going_on(second):
  """Only the first process asks for the lock."""
  directory = FOLDER / "run" / "checkpoints"
  held = integrity.lock(directory)
  try:
    Checkpointer(directory)
  finally:
    if not second:
      os.close(held)


@case
def an_older_version_that_tells_nothing(second):
  with mock.patch.object(agreement, "FIRST_SECONDS", 1.0):
    time.sleep(2 if second else 0)
    agreement.check_software()


@case
def a_mistake_of_the_second_alone(second):
  if second:
    raise UserError("config.oops is not a known key.")
  agreement.check_software()


@case
def a_mistake_of_the_first_alone(second):
  if not second:
    raise UserError("config.oops is not a known key.")
  agreement.check_software()


def main():
  for name, names in {"24": "ab", "30": "ab", "24-renamed": "ac", "24-larger": "ab"}.items():
    root = pathlib.Path(FOLDER, name)
    if INDEX == 0:
      count = int(name[:2])
      tiny_folder.write(root, dict.fromkeys(names, count), seed=int(name == "24-larger"))
  processes.join(ADDRESS, 2, INDEX, start_timeout=100, heartbeat_timeout=10)
  told = {}
  for number, (name, function) in enumerate(CASES.items()):
    coordination._round = 1000 * number  # Whoever has failed has left out some.
    began, sentence = time.monotonic(), None
    try:
      function(bool(INDEX))
    except UserError as error:
      sentence = str(error)
      coordination.leave(sentence)
    told[name] = [sentence, time.monotonic() - began]
  print(json.dumps(told))
  with contextlib.suppress(RuntimeError):
    jax.distributed.shutdown()


main()
