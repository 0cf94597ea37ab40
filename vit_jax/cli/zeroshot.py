# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""`vit-jax zeroshot`."""

import argparse

HELP = """\
Classifies images by names that no training has seen, with a model of two towers (LiT).

  printf 'cat, kitten\\ndog, puppy\\n' > names.txt
  vit-jax zeroshot --model=LiT-B16B_2 --classes=names.txt --images 'photos/*.jpg'
  vit-jax zeroshot --model=LiT-B16B_2 --dataset=/my/photos --split=val
  vit-jax zeroshot --workdir=runs/lit --classes=names.txt --images photos

A class's names are averaged over all templates. With --images this is `vit-jax predict`, with
--dataset `vit-jax evaluate`, which take the same options.
"""


def main(argv: list[str]) -> int:
  from vit_jax.cli import evaluate, predict
  from vit_jax.errors import UserError

  parser = argparse.ArgumentParser(
    prog="vit-jax zeroshot",
    description=HELP,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
    epilog="Other options: those of `vit-jax predict` or `vit-jax evaluate`.",
  )
  parser.add_argument("--images", nargs="+", metavar="IMAGE", help="files, folders or patterns")
  parser.add_argument("--dataset", metavar="NAME", help="a data set to evaluate on")
  arguments, rest = parser.parse_known_args(argv)
  if bool(arguments.images) == bool(arguments.dataset):
    raise UserError("give either --images FILE... or --dataset=NAME.")
  if arguments.images:
    return predict.main([*rest, "--", *arguments.images])
  return evaluate.main([*rest, f"--dataset={arguments.dataset}"])
