# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""`vit-jax predict`."""

import argparse
import json

HELP = """\
Names the classes of images. Give files, folders or quoted glob patterns.

  vit-jax predict --workdir=runs/quickstart photo.png
  vit-jax predict --model=ViT-B_16 --checkpoint=ViT-B_16.npz 'photos/*.jpg' --json
  vit-jax predict --model=LiT-B16B_2 --classes=names.txt photos
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
    print(json.dumps(rows, indent=1))
    return 0
  width = max(len(result.path) for result in results)
  for result in results:
    shares = zip(result.classes, result.probabilities, strict=True)
    print(f"{result.path:<{width}}  " + "  ".join(f"{name} {p:.1%}" for name, p in shares))
  return 0
