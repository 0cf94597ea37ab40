# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""`vit-jax predict`."""

import argparse
import statistics

HELP = """\
Names the classes of images. Give files, folders or quoted glob patterns.

  vit-jax predict --workdir=runs/quickstart photo.png
  vit-jax predict --model=ViT-B_16 --checkpoint=ViT-B_16.npz 'photos/*.jpg' --json
  vit-jax predict --model=LiT-B16B_2 --classes=names.txt photos

What a pattern matches is treated as if it had been named. A file that is named twice is listed
once. Files that cannot be read are named on standard error, counted and left out; the exit code is
2 only if none is left, or a name leads nowhere. In --json a probability that is NaN is null, and a
byte of a file name that is not UTF-8 is written as \\xe9.
"""


def main(argv: list[str]) -> int:
  from vit_jax.cli import subject

  parser = argparse.ArgumentParser(
    prog="vit-jax predict",
    description=HELP,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  parser.add_argument("images", nargs="+", metavar="IMAGE", help="file, folder or pattern")
  subject.add_options(parser)
  parser.add_argument("--top", type=int, default=3, help="classes per image (default: 3)")
  parser.add_argument("--json", action="store_true", help="one JSON list instead of a table")
  arguments = parser.parse_args(argv)

  from vit_jax.errors import UserError
  from vit_jax.evaluation import classifier
  from vit_jax.output import printable, to_json

  if arguments.top < 1:
    raise UserError(f"--top={arguments.top} must be at least 1.")
  paths = classifier.find_images(arguments.images)
  results = classifier.predict(subject.load(arguments), paths, top=arguments.top)
  if arguments.json:
    rows = [
      {
        "path": result.path,
        "classes": [
          {"name": name, "probability": p}
          for name, p in zip(result.classes, result.probabilities, strict=True)
        ],
      }
      for result in results
    ]
    print(to_json(rows, indent=1))
    return 0
  paths = [printable(result.path) for result in results]
  width = _width(paths)
  for path, result in zip(paths, results, strict=True):
    shares = zip(result.classes, result.probabilities, strict=True)
    print(f"{path:<{width}}  " + "  ".join(f"{printable(name)} {p:.1%}" for name, p in shares))
  return 0


def _width(names: list[str]) -> int:
  """Of a column of names, that of the longest but for those that are far longer than most."""
  lengths = [len(name) for name in names]
  usual = statistics.median(lengths) + 20
  return max(length for length in lengths if length <= usual)
