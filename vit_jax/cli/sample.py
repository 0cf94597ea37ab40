# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""`vit-jax sample`."""

import argparse

HELP = """\
Writes a few examples of a data set as PNG files, to try `predict` on.

  vit-jax sample --out=samples
  vit-jax sample --dataset=/my/photos --split=val --count=20 --out=samples
"""


def main(argv: list[str]) -> int:
  parser = argparse.ArgumentParser(
    prog="vit-jax sample",
    description=HELP,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  parser.add_argument("--out", required=True, metavar="DIR", help="folder for the files")
  parser.add_argument("--dataset", default="digits", help="folder or TFDS name (default: digits)")
  parser.add_argument("--split", default="test", help="default: test")
  parser.add_argument("--count", type=int, default=10, help="number of images (default: 10)")
  parser.add_argument("--seed", type=int, default=0, help="which ones (default: 0)")
  arguments = parser.parse_args(argv)

  from vit_jax.data import datasets, samples
  from vit_jax.output import printable

  data = datasets.open_dataset(arguments.dataset)
  for path in samples.write_samples(
    data, arguments.split, arguments.out, count=arguments.count, seed=arguments.seed
  ):
    print(printable(str(path)))
  return 0
