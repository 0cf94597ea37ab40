# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Errors that the command line turns into one sentence and an exit code."""

from collections.abc import Mapping
from typing import Any


class UserError(ValueError):
  """A mistake of the user's, told in one sentence: what was wrong, expected, and to do. Exit 2."""

  exit_code = 2


class Diverged(RuntimeError):
  """Training met a NaN or infinite loss; the last good checkpoint stands. Exit 3."""

  exit_code = 3


class Stopped(RuntimeError):
  """Training was asked to stop and saved everything; the same command continues. Exit 75."""

  exit_code = 75


class Lost(RuntimeError):
  """Another process of the run is gone; the last checkpoint stands, run all again. Exit 69."""

  exit_code = 69  # EX_UNAVAILABLE of sysexits.h.


def nearest(word: str, known: list[str] | tuple[str, ...]) -> str:
  """Returns `"; did you mean 'x'?"` with the nearest known words, or an empty string."""
  import difflib

  near = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
  return f"; did you mean {' or '.join(repr(n) for n in near)}?" if near else ""


def choose(kind: str, name: str, known: Mapping[str, Any]) -> Any:
  """Returns `known[name]`, or raises a UserError that names the choices."""
  if name not in known:
    raise UserError(f"{kind}={name!r} is not known; choose from: {', '.join(known)}.")
  return known[name]
