# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""`vit-jax COMMAND ...`: finds the command, and turns errors into a sentence and an exit code."""

import importlib
import io
import logging
import os
import sys
import warnings
from typing import Any

from vit_jax import errors

COMMANDS = {
  "train": "train or fine-tune from a config; resumes by itself",
  "evaluate": "accuracy of a run or a checkpoint on a split",
  "predict": "class names and probabilities for images",
  "zeroshot": "classes of images by names alone, with a LiT",
  "convert": "weights between .npz, timm and Hugging Face, with a proof",
  "models": "table of the models: parameters, GFLOPs, input, weights",
  "plan": "memory, time and communication of a run on TPUs that are not here",
  "sample": "write a few test images of a data set as PNG",
}

EPILOG = """\
Begin with:

  vit-jax train --config=configs/quickstart.py --workdir=runs/quickstart
  vit-jax predict --workdir=runs/quickstart IMAGE.png

`vit-jax COMMAND --help` shows the options of a command and an example.
"""


def usage() -> str:
  rows = "\n".join(f"  {name:<10} {what}" for name, what in COMMANDS.items())
  return f"usage: vit-jax COMMAND [OPTIONS]\n\n{rows}\n\n{EPILOG}"


def run(command: str, argv: list[str]) -> int:
  """Runs one command and returns its exit code; a user's mistake never shows a traceback."""
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
  _speak_in_lines()
  try:
    return importlib.import_module(f"vit_jax.cli.{command}").main(argv) or 0
  except (errors.UserError, errors.Diverged, errors.Stopped, errors.Lost) as error:
    print(f"vit-jax {command}: {error}", file=sys.stderr)
    return error.exit_code
  except BrokenPipeError:  # The reader of a pipe, such as `head`, has left.
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    return 0


def _speak_in_lines() -> None:
  """Logs to standard error, of other packages without the traceback: what they raise is caught."""
  if isinstance(sys.stdout, io.TextIOWrapper):  # What the terminal's encoding lacks is escaped.
    sys.stdout.reconfigure(errors="backslashreplace")
  logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
  logging.getLogger("vit_jax").setLevel(logging.INFO)
  # Orbax logs a failure to save before it raises it, and leaves the rest of the save unawaited.
  for handler in logging.getLogger().handlers:
    handler.addFilter(_without_traceback)
  warnings.filterwarnings("ignore", "coroutine '.*' was never awaited", RuntimeWarning)
  # And the rest of a restore, where a run deletes the step meanwhile and another is read instead.
  logging.getLogger("asyncio").setLevel(logging.CRITICAL)
  sys.unraisablehook = _without_closed_loops


def _without_closed_loops(unraisable: Any) -> None:
  if str(unraisable.exc_value) != "Event loop is closed":
    sys.__unraisablehook__(unraisable)


def _without_traceback(record: logging.LogRecord) -> bool:
  if not record.name.startswith("vit_jax"):
    record.exc_info = record.exc_text = None
  return True


def main(argv: list[str] | None = None) -> int:
  argv = sys.argv[1:] if argv is None else argv
  if not argv or argv[0] in ("-h", "--help", "help"):
    print(usage(), end="")
    return 0
  if argv[0] in ("-V", "--version"):
    from vit_jax import __version__

    print(f"vit_jax {__version__}")
    return 0
  command, rest = argv[0], argv[1:]
  if command not in COMMANDS:
    hint = errors.nearest(command, tuple(COMMANDS)) or f"; it has {', '.join(COMMANDS)}."
    print(f"vit-jax: there is no command {command!r}{hint}", file=sys.stderr)
    return 2
  return run(command, rest)


if __name__ == "__main__":
  sys.exit(main())
