# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""`vit-jax train`."""

import argparse

HELP = """\
Trains or fine-tunes what a config describes. The same command continues an interrupted run.

  vit-jax train --config=configs/quickstart.py --workdir=runs/quickstart
  vit-jax train --config=configs/vit.py:b16,cifar10 --workdir=runs/mine \\
      --config.dataset=/my/photos --config.base_lr=0.01

Any key of the config can be set as --config.KEY=VALUE (--config.model.num_layers=2).
Exit codes: 0 done, 2 a mistake in the call, 3 diverged, 75 stopped with everything saved.
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
  arguments, rest = parser.parse_known_args(argv)

  from vit_jax.cli import configuration

  config = configuration.parse(rest)

  from vit_jax.training import loop

  results = loop.train_and_evaluate(config, arguments.workdir)
  for split in ("val", "test"):
    if split in results:
      print(f"{split}: accuracy {results[split]['accuracy']:.2%}, step {results['best_step']}")
  print(f"wrote {arguments.workdir}/results.json and curves.png")
  return 0
