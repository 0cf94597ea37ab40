# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""`vit-jax models`."""

import argparse
import json

HELP = """\
Lists the models whose name matches a shell pattern.

  vit-jax models '*B_16*'
  vit-jax models --pretrained --json
"""


def main(argv: list[str]) -> int:
  parser = argparse.ArgumentParser(
    prog="vit-jax models",
    description=HELP,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("pattern", nargs="?", default="*", help="such as '*B_16*' (default: all)")
  parser.add_argument("--pretrained", action="store_true", help="only models with weights")
  parser.add_argument("--json", action="store_true", help="one JSON list instead of a table")
  arguments = parser.parse_args(argv)

  from vit_jax.errors import UserError, nearest
  from vit_jax.models import cost, registry

  names = registry.list_models(arguments.pattern, pretrained=arguments.pretrained)
  if not names:
    hint = nearest(arguments.pattern.strip("*"), tuple(registry.MODELS))
    hint = hint or "; quote the pattern, as in '*B_16*'."
    raise UserError(f"no model matches {arguments.pattern!r}{hint}")
  costs = cost.costs()
  rows = [
    {
      "name": name,
      **costs[name],
      "image_size": registry.MODELS[name].input.image_size,
      "weights": [weights.tag for weights in registry.MODELS[name].weights],
    }
    for name in names
  ]
  if arguments.json:
    print(json.dumps(rows, indent=1))
    return 0

  import rich.console
  import rich.table

  table = rich.table.Table(box=None, pad_edge=False)
  for title in ("model", "parameters", "GFLOPs", "input", "weights"):
    justify = "right" if title in ("parameters", "GFLOPs", "input") else "left"
    table.add_column(title, justify=justify, no_wrap=title != "weights")
  for row in rows:
    table.add_row(
      row["name"],
      f"{row['parameters'] / 1e6:,.1f} M",
      f"{row['gflops']:,.1f}",
      str(row["image_size"]),
      ", ".join(row["weights"]),
    )
  rich.console.Console().print(table)
  print("GFLOPs: billions of multiply-accumulates at that input size, as the papers count.")
  return 0
