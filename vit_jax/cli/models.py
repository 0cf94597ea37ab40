# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""`vit-jax models`."""

import argparse
import json

HELP = """\
Lists the models whose name matches a shell pattern; with --pretrained, their released files.

  vit-jax models '*B_16*'
  vit-jax models --pretrained
  vit-jax models 'ViT-L*' --pretrained --json
"""


def main(argv: list[str]) -> int:
  parser = argparse.ArgumentParser(
    prog="vit-jax models",
    description=HELP,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("pattern", nargs="?", default="*", help="such as '*B_16*' (default: all)")
  parser.add_argument("--pretrained", action="store_true", help="one row for each released file")
  parser.add_argument("--json", action="store_true", help="one JSON list instead of a table")
  arguments = parser.parse_args(argv)

  from vit_jax.errors import UserError, nearest
  from vit_jax.models import registry

  names = registry.list_models(arguments.pattern, pretrained=arguments.pretrained)
  if not names:
    known = registry.list_models(pretrained=arguments.pretrained)
    hint = nearest(arguments.pattern.strip("*"), known) or "; quote the pattern, as in '*B_16*'."
    what = "model with released files" if arguments.pretrained else "model"
    raise UserError(f"no {what} matches {arguments.pattern!r}{hint}")
  rows = _files(names) if arguments.pretrained else _models(names)
  if arguments.json:
    print(json.dumps(rows, indent=1))
  elif arguments.pretrained:
    _print_files(rows)
  else:
    _print_models(rows)
  return 0


def _models(names: list[str]) -> list[dict]:
  from vit_jax.models import cost, registry

  costs = cost.costs()
  return [
    {
      "name": name,
      **costs[name],
      "image_size": registry.MODELS[name].input.image_size,
      "weights": [weights.tag for weights in registry.MODELS[name].weights],
    }
    for name in names
  ]


def _files(names: list[str]) -> list[dict]:
  import dataclasses

  from vit_jax.models import registry, weights

  return [
    {"name": name, **dataclasses.asdict(row), "source": weights.SOURCES.get(row.source)}
    for name in names
    for row in registry.MODELS[name].weights
  ]


def _print_models(rows: list[dict]) -> None:
  table = _table("model", "parameters>", "GFLOPs>", "input>", "released files>")
  for row in rows:
    table.add_row(
      row["name"],
      f"{row['parameters'] / 1e6:,.1f} M",
      f"{row['gflops']:,.1f}",
      str(row["image_size"]),
      str(len(row["weights"]) or ""),
    )
  _print(table)
  print(
    "GFLOPs: billions of multiply-accumulates at that input size, as the papers count.\n"
    "--pretrained lists the released files."
  )


def _print_files(rows: list[dict]) -> None:
  sources = list(dict.fromkeys(row["source"] for row in rows if row["source"]))
  marks = dict(zip(sources, "abcdefghijklmnopqrstuvwxyz", strict=False))
  # Left-aligned figures of two digits and a fraction have their points in one line.
  table = _table("model", "file", "MB>", "pixels>", "classes>", "top-1", "")
  for row in rows:
    table.add_row(
      row["name"],
      row["tag"],
      f"{row['megabytes']:,}" if row["megabytes"] else "",
      str(row["image_size"]),
      f"{row['num_classes']:,}" if row["num_classes"] else "",
      str(round(row["accuracy"], 2)) if row["accuracy"] else "",
      marks.get(row["source"], ""),
    )
  _print(table)
  print("\nA model's first file is what checkpoint=None loads; --json has the addresses.")
  print("top-1: ImageNet accuracy in percent, as published; empty where nothing is.")
  for source, mark in marks.items():
    print(f"{mark}  {source}")


def _table(*titles: str):
  """A table without lines; a title that ends in ">" heads a column of numbers."""
  import rich.table

  table = rich.table.Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
  for title in titles:
    justify = "right" if title.endswith(">") else "left"
    table.add_column(title.rstrip(">"), justify=justify, no_wrap=True)
  return table


def _print(table) -> None:
  import rich.console

  rich.console.Console(markup=False, highlight=False).print(table)
