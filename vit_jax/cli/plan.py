# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""`vit-jax plan`."""

import argparse

HELP = """\
Compiles the training step of a config for a TPU slice that is not here, and says what it needs:
memory, operations, what the chips send each other, and an estimate of the time. No data is read.

  vit-jax plan --config=configs/vit.py:l16,imagenet2012 --topology=v5e:4x4 --mesh=data=4,fsdp=4 \\
      --config.model.dtype=bfloat16 --config.model.remat=full
  vit-jax plan --config=configs/vit.py:b16,cifar10 --topology=v5e:4x4 --search
  vit-jax plan --config=configs/quickstart.py --topology=cpu:4 --mesh=fsdp=4 --parameters

Slices are v4:AxBxC, v5e:AxB, v5p:AxBxC, v6e:AxB and tpu7x:AxBxC, or products such as v5litepod-16
and v5p-128; these need libtpu: pip install "vit_jax[tpu]". A deep model takes minutes to compile;
--scan compiles its layers as one, which is quicker, but not the program of a run without it.
"""


def main(argv: list[str]) -> int:
  parser = argparse.ArgumentParser(
    prog="vit-jax plan",
    description=HELP,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    usage="vit-jax plan --config=FILE[:ARG] --topology=NAME [OPTIONS] [--config.KEY=VALUE ...]",
    allow_abbrev=False,
  )
  add = parser.add_argument
  add("--topology", required=True, metavar="NAME", help="such as v5e:4x4, v5p-128 or cpu:8")
  add("--slices", type=int, default=1, metavar="N", help="so many such slices (default: 1)")
  add("--mesh", default="", metavar="AXIS=N,...", help="axes replica, data, fsdp, tensor")
  add("--classes", type=int, metavar="N", help="where the data set is not here")
  add(
    "--scan", action="store_true", help="compiles model.scan_layers=True, whatever the config has"
  )
  add("--search", action="store_true", help="tries mesh, accum_steps and remat")
  add("--tries", type=int, metavar="N", help="layouts that a search compiles (default: 8)")
  add("--parameters", action="store_true", help="also where each array of the state lies")
  add("--json", action="store_true", help="one JSON object instead of text")
  arguments, rest = parser.parse_known_args(argv)

  from vit_jax.dry_run import chips
  from vit_jax.errors import UserError

  idle = ("mesh", "parameters") if arguments.search else ("tries",)
  for option in idle:
    if getattr(arguments, option) not in (None, "", False):
      has = "with" if arguments.search else "without"
      raise UserError(f"--{option} has no effect {has} --search; remove it.")
  mesh = chips.parse_mesh(arguments.mesh)
  topology = chips.parse(arguments.topology, arguments.slices)
  chips.prepare(topology)  # Before anything imports JAX.

  from vit_jax.cli import configuration
  from vit_jax.dry_run import report, search, text
  from vit_jax.output import to_json

  config = configuration.parse(rest)
  if arguments.search:
    tries = 8 if arguments.tries is None else arguments.tries
    found = search.search(
      config, topology, classes=arguments.classes, tries=tries, scan=arguments.scan
    )
    print(to_json(found.to_dict(), indent=1) if arguments.json else text.describe_search(found))
    return 0
  found = report.dry_run(
    config, topology, mesh=mesh, classes=arguments.classes, scan=arguments.scan
  )
  if arguments.json:
    print(to_json(found.to_dict(parameters=arguments.parameters), indent=1))
  else:
    print(text.describe(found, parameters=arguments.parameters), end="")
  return 0
