# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""`vit-jax models`."""

import argparse

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
  from vit_jax.models import cost, registry, weights
  from vit_jax.output import to_json

  names = registry.list_models(arguments.pattern, pretrained=arguments.pretrained)
  if not names:
    known = registry.list_models(pretrained=arguments.pretrained)
    hint = nearest(arguments.pattern.strip("*"), known) or "; quote the pattern, as in '*B_16*'."
    what = "model with released files" if arguments.pretrained else "model"
    raise UserError(f"no {what} matches {arguments.pattern!r}{hint}")
  entries = [registry.MODELS[name] for name in names]
  if arguments.pretrained:
    show = _show_files
    rows = [
      {"name": entry.name, **vars(file), "source": weights.SOURCES.get(file.source)}
      for entry in entries
      for file in entry.weights
    ]
  else:
    show, costs = _show_models, cost.costs()
    rows = [
      {
        "name": entry.name,
        **costs[entry.name],
        "image_size": entry.input.image_size,
        "weights": [file.tag for file in entry.weights],
      }
      for entry in entries
    ]
  if arguments.json:
    print(to_json(rows, indent=1))
  else:
    show(rows)
  return 0


def _show_models(rows: list[dict]) -> None:
  cells = [
    (
      row["name"],
      f"{row['parameters'] / 1e6:,.1f} M",
      f"{row['gflops']:,.1f}",
      str(row["image_size"]),
      str(len(row["weights"]) or ""),
    )
    for row in rows
  ]
  _show(("model", "parameters>", "GFLOPs>", "input>", "released files>"), cells)
  print("GFLOPs: billions of multiply-accumulates at that input size, as the papers count.")
  print("--pretrained lists the released files.")


def _show_files(rows: list[dict]) -> None:
  sources = list(dict.fromkeys(row["source"] for row in rows if row["source"]))
  marks = dict(zip(sources, "abcdefghijklmnopqrstuvwxyz", strict=False))
  cells = [
    (
      row["name"],
      row["tag"],
      f"{row['megabytes']:,}" if row["megabytes"] else "",
      str(row["image_size"]),
      f"{row['num_classes']:,}" if row["num_classes"] else "",
      str(round(row["accuracy"], 2)) if row["accuracy"] else "",
      marks.get(row["source"], ""),
    )
    for row in rows
  ]
  # Left-aligned figures of two digits and a fraction have their points in one line.
  _show(("model", "file", "MB>", "px>", "classes>", "top-1", ""), cells)
  print("\nA model's first file is what checkpoint=None loads; --json has the addresses.")
  print("top-1: ImageNet accuracy in percent, as published; empty where nothing is.")
  for source, mark in marks.items():
    print(f"{mark}  {source}")


def _show(titles: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
  """Prints a table without lines; a title that ends in ">" heads right-aligned numbers."""
  import rich.console
  import rich.table

  table = rich.table.Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
  for title in titles:
    justify = "right" if title.endswith(">") else "left"
    table.add_column(title.rstrip(">"), justify=justify, no_wrap=True)
  for row in rows:
    table.add_row(*row)
  rich.console.Console(markup=False, highlight=False).print(table)
