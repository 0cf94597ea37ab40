# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""`vit-jax train`."""

import argparse
import sys
from typing import Any

from vit_jax.errors import UserError

HELP = """\
Trains or fine-tunes what a config describes. The same command continues an interrupted run.

  vit-jax train --config=configs/quickstart.py --workdir=runs/quickstart
  vit-jax train --config=configs/vit.py:b16,cifar10 --workdir=runs/mine \\
      --config.dataset=/my/photos --config.base_lr=0.01

Many hosts: start the same command on each, under SLURM, Open MPI 4, GKE or on a Cloud TPU slice
with --distributed, elsewhere with an address of the first and the number of each:

  vit-jax train ... --coordinator=10.0.0.1:1234 --processes=2 --process=0

Any key of the config can be set as --config.KEY=VALUE (--config.model.num_layers=2).
Exit codes: 0 done, 2 a mistake in the call, 3 diverged, 69 another process was lost or the run
hung (the same command goes on), 75 stopped with everything saved.
"""


def main(argv: list[str]) -> int:
  parser = argparse.ArgumentParser(
    prog="vit-jax train",
    description=HELP,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    usage="vit-jax train --config=FILE[:ARG] --workdir=DIR [--config.KEY=VALUE ...]",
    allow_abbrev=False,
  )
  parser.add_argument("--workdir", required=True, metavar="DIR", help="where the run is kept")
  parser.add_argument(
    "--resume",
    choices=("auto", "never", "changed-data"),
    default="auto",
    help="never: refuse a workdir that holds a run; changed-data: continue it although images to "
    "train on were added, removed or replaced",
  )
  parser.add_argument(
    "--profile", metavar="FROM:TO", help="write a trace of these steps to the workdir's profile/"
  )
  parser.add_argument(
    "--profile-port", type=int, metavar="PORT", help="serve traces on demand; process I: PORT + I"
  )
  several = parser.add_argument_group("one process of several")
  several.add_argument(
    "--distributed", action="store_true", help="as the launcher of this one says"
  )
  several.add_argument("--coordinator", metavar="HOST:PORT", help="of the first process")
  several.add_argument("--processes", type=int, metavar="N", help="how many there are")
  several.add_argument("--process", type=int, metavar="I", help="which this is, from 0")
  several.add_argument(
    "--start-timeout", type=int, default=300, metavar="S", help="seconds to wait for all of them"
  )
  several.add_argument(
    "--heartbeat-timeout", type=int, default=100, metavar="S", help="seconds until one is lost"
  )
  several.add_argument(
    "--max-restarts",
    type=int,
    default=0,
    metavar="N",
    help="how often to start again by itself after one was lost; the same in all of them",
  )
  arguments, rest = parser.parse_known_args(argv)

  from vit_jax.parallel import supervision

  if arguments.max_restarts < 0:
    raise UserError(f"--max-restarts={arguments.max_restarts} should be 0 or more.")
  where = (arguments.coordinator, arguments.processes, arguments.process)
  if not arguments.distributed and where == (None, None, None):
    if arguments.max_restarts:
      raise UserError("--max-restarts is for one process of several; leave it out.")
    if launcher := supervision.launched_in_parallel():
      print(
        f"{launcher} started several processes, and without --distributed each trains alone.",
        file=sys.stderr,
      )
    return _train(_parse(rest), arguments)
  code = supervision.supervise(
    ["train", *argv],
    arguments.coordinator or "the address of their launcher",
    start_timeout=arguments.start_timeout,
    max_restarts=arguments.max_restarts,
    again=["--resume=auto"] if arguments.resume == "never" else [],
  )
  if code is not None:
    return code
  config = _parse(rest)
  from vit_jax.parallel import processes
  from vit_jax.training import loop  # noqa: F401 - It takes seconds, in which nobody has to wait.

  processes.join(
    *where,
    start_timeout=arguments.start_timeout,
    heartbeat_timeout=arguments.heartbeat_timeout,
  )
  with processes.ends_alone("train"):
    return _train(config, arguments)


def _parse(rest: list[str]) -> Any:
  from vit_jax.cli import configuration  # It brings JAX, which the supervising process can spare.

  return configuration.parse(rest)


def _train(config: Any, arguments: argparse.Namespace) -> int:
  import jax
  from etils import epath

  from vit_jax.training import loop, profiling

  profile = profiling.parse(arguments.profile) if arguments.profile is not None else None
  resume = {"auto": True, "never": False}.get(arguments.resume, arguments.resume)
  options = {"resume": resume, "profile": profile, "profile_port": arguments.profile_port}
  results = loop.train_and_evaluate(config, arguments.workdir, **options)
  if jax.process_index():
    return 0
  for split in ("val", "test"):
    if split in results:
      scores = results[split]
      metric = results.get("metric") if results.get("metric") in scores else "accuracy"
      print(f"{split}: {metric} {scores[metric]:.2%}, step {results['best_step']}")
  written = [
    n for n in ("results.json", "curves.png") if epath.Path(arguments.workdir, n).is_file()
  ]
  print(f"wrote {arguments.workdir}/{' and '.join(written)}")
  return 0
