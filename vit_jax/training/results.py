# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""`results.json` and `curves.png`, which a run leaves at its end."""

from __future__ import annotations

import errno
import logging
import math
from collections.abc import Mapping
from typing import Any

from etils import epath

from vit_jax.errors import UserError
from vit_jax.output import to_json
from vit_jax.training import progress
from vit_jax.training.plan import Plan
from vit_jax.workdir import files

log = logging.getLogger(__name__)

RESULTS = "results.json"


def finished(workdir: epath.Path, plan: Plan) -> dict[str, Any] | None:
  """The results of a run that is complete; None if it is not, or if they cannot be read."""
  path = workdir / RESULTS
  if not path.exists():
    return None
  try:
    results = files.read_object(path)
    _check(results)
  except (OSError, ValueError) as error:
    reason = getattr(error, "strerror", None) or error
    log.warning("%s is damaged (%s); the best checkpoint is evaluated again", path, reason)
    return None
  return results if results.get("steps") == plan.total_steps else None


def _check(results: Mapping[str, Any]) -> None:
  """Raises ValueError unless scores are numbers or null, and the metric is one of them."""
  is_number = lambda value: value is None or (type(value) in (int, float) and math.isfinite(value))
  inner = {k: v for k, v in results.items() if k in ("val", "test", "time") or isinstance(v, dict)}
  right = all(isinstance(own, dict) and all(map(is_number, own.values())) for own in inner.values())
  known = [name for split, own in inner.items() if right and split != "time" for name in own]
  named = results.get("metric") in known or not known
  if not (right and named and type(results.get("best_step")) is int):
    raise ValueError("it is not what a run writes")


def write(workdir: epath.Path, results: Mapping[str, Any], plan: Plan) -> None:
  """Writes `curves.png`, without which a run is complete too, and `results.json`.

  Raises:
    UserError: something is in the place of `results.json`.
  """
  try:
    progress.plot_curves(workdir, results["metric"], plan)
  except OSError as error:
    log.warning("%s cannot be written (%s)", workdir / progress.CURVES, error.strerror or error)
  try:
    files.write_atomically(workdir / RESULTS, to_json(results, indent=2) + "\n")
  except OSError as error:
    if error.errno == errno.ENOSPC:
      raise
    raise UserError(
      f"{workdir / RESULTS} cannot be written ({error.strerror or error}); remove what is in its "
      "place and run the same command again: the run is complete and saved."
    ) from error
