# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""`vit-jax evaluate`."""

import argparse

HELP = """\
Accuracy, top-5 accuracy (of more than five classes) and loss over every example of a split.

  vit-jax evaluate --workdir=runs/quickstart
  vit-jax evaluate --model=ViT-B_16 --checkpoint=ViT-B_16.npz --dataset=/my/photos --split=val
  vit-jax evaluate --model=LiT-B16B_2 --dataset=/my/photos

A LiT classifies by the names of the data set's classes, or by those of --classes=FILE.
"""


def main(argv: list[str]) -> int:
  from vit_jax.cli import subject

  parser = argparse.ArgumentParser(
    prog="vit-jax evaluate",
    description=HELP,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  subject.add_options(parser)
  parser.add_argument("--dataset", metavar="NAME", help="folder or TFDS name (default: the run's)")
  parser.add_argument(
    "--split",
    help="val, test or 'train[:10%%]' (default: test, else val; all of a folder without splits)",
  )
  parser.add_argument("--tfds_data_dir", metavar="DIR", help="where TFDS keeps its datasets")
  parser.add_argument("--batch", type=int, default=64, help="examples per step (default: 64)")
  parser.add_argument("--json", action="store_true", help="JSON instead of a line")
  arguments = parser.parse_args(argv)

  from vit_jax.errors import UserError
  from vit_jax.evaluation import classifier
  from vit_jax.output import to_json

  if arguments.batch < 1:
    raise UserError(f"--batch={arguments.batch} must be at least 1.")
  judged = subject.load(arguments, arguments.dataset, arguments.tfds_data_dir)
  examples = classifier.find_examples(
    judged, arguments.split, dataset=arguments.dataset, data_dir=arguments.tfds_data_dir
  )
  result = classifier.evaluate_examples(judged, examples, batch=arguments.batch)
  if arguments.json:
    print(to_json({examples.split: result}, indent=1))
  else:
    top5 = f"top-5 {result['top5']:.2%}, " if "top5" in result else ""
    print(
      f"{examples.split}: accuracy {result['accuracy']:.2%}, {top5}loss {result['loss']:.4f}, "
      f"{result['examples']} examples"
    )
  return 0
