# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""`vit-jax convert`."""

import argparse
import ast

from vit_jax.cli import subject

HELP = """\
Converts weights between Google's .npz, timm's .safetensors and Hugging Face folders.

  vit-jax convert ViT-B_16.npz vit_b16.safetensors --model=ViT-B_16 --verify
  vit-jax convert hf_folder ViT-B_16.npz --model=ViT-B_16
  vit-jax convert runs/mine hf_folder --to=hf

IN is a file, a Hugging Face folder, a work directory or an address. Everything is kept, or the
conversion is refused with the reason. Fields of the model are --model.FIELD=VALUE.
"""


def main(argv: list[str]) -> int:
  parser = argparse.ArgumentParser(
    prog="vit-jax convert",
    description=HELP,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    usage="vit-jax convert IN OUT [--model=NAME] [options] [--model.FIELD=VALUE ...]",
    allow_abbrev=False,
  )
  parser.add_argument("source", metavar="IN", help="file, folder, work directory or address")
  parser.add_argument("destination", metavar="OUT", help=".npz, .safetensors, or a folder for hf")
  parser.add_argument(
    "--model", metavar="NAME", help="see `vit-jax models`; default: what IN tells, as our files do"
  )
  parser.add_argument(
    "--from",
    dest="scheme",
    default="auto",
    choices=("auto", "official", "timm", "hf", "torchvision"),
    help="whose names IN must have (default: whichever it has)",
  )
  parser.add_argument("--to", choices=("npz", "timm", "hf"), help="default: by OUT's suffix")
  parser.add_argument(
    "--checkpoint_image_size",
    type=subject.pixels,
    metavar="PIXELS",
    help="or HEIGHT,WIDTH: of the images that IN was trained on, where it does not tell",
  )
  parser.add_argument("--activation", help="gelu (exact) or gelu_tanh; default: IN's")
  parser.add_argument("--eps", type=float, help="of the layer norms; default: IN's")
  parser.add_argument(
    "--verify",
    action="store_true",
    help="run OUT in PyTorch on random images; fails above a relative error of 1e-5 in float32, "
    "and in float64 where float32's own rounding is larger",
  )
  arguments, rest = parser.parse_known_args(argv)
  overrides = _fields(rest)
  if arguments.activation is not None:
    overrides["activation"] = arguments.activation
  if arguments.eps is not None:
    overrides["layer_norm_eps"] = arguments.eps

  from vit_jax.checkpoints import convert, identity

  scheme = None if arguments.scheme == "auto" else arguments.scheme
  if arguments.verify:
    name, _ = identity.resolve(arguments.model, arguments.source)
    convert.check_verifiable(arguments.destination, name, arguments.to)
  model, variables = convert.convert(
    arguments.source,
    arguments.destination,
    arguments.model,
    scheme=scheme,
    format=arguments.to,
    checkpoint_image_size=arguments.checkpoint_image_size,
    **overrides,
  )
  print(f"wrote {arguments.destination}")
  if not arguments.verify:
    return 0
  errors = convert.verify(arguments.destination, model, variables)
  figures = ", ".join(f"{error:.1e} in {dtype}" for dtype, error in errors.items())
  print(f"relative error against PyTorch: {figures}")
  if not [*errors.values()][-1] <= convert.TOLERANCE:  # NaN neither.
    print(f"above {convert.TOLERANCE:.0e}: {arguments.destination} does not give the same numbers")
    return 1
  return 0


def _fields(rest: list[str]) -> dict[str, object]:
  """--model.FIELD=VALUE as keyword arguments."""
  from vit_jax.errors import UserError

  fields = {}
  for option in rest:
    key, equals, value = option.partition("=")
    if not key.startswith("--model.") or not equals:
      raise UserError(f"{option} is not an option; see `vit-jax convert --help`.")
    try:
      fields[key.removeprefix("--model.")] = ast.literal_eval(value)
    except (ValueError, SyntaxError):
      fields[key.removeprefix("--model.")] = value  # A word, such as gap.
  return fields
