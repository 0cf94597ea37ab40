# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Too little room, on the disk or on the devices, as a sentence that says what to do."""

from __future__ import annotations

import contextlib
import errno
import logging
import traceback
from collections.abc import Iterator
from typing import TYPE_CHECKING

import jax

from vit_jax.errors import UserError
from vit_jax.models import registry
from vit_jax.parallel import mesh as mesh_lib
from vit_jax.training.plan import Plan

if TYPE_CHECKING:
  from vit_jax.dry_run.fitting import Trial

log = logging.getLogger(__name__)


@contextlib.contextmanager
def explained(plan: Plan, mesh: jax.sharding.Mesh, num_classes: int) -> Iterator[None]:
  """Turns a full disk, or a device's lack of memory, into a sentence that says what to do.

  Where the devices tell how much memory they have, a dry run finds what would suffice.

  Args:
    plan: of the run inside.
    mesh: its devices.
    num_classes: of its data set.

  Raises:
    UserError: instead of the error of the system or of JAX.
  """
  try:
    yield
  except OSError as error:
    if error.errno != errno.ENOSPC:
      raise
    raise UserError(
      "the disk of the workdir is full; make room or use another workdir, and run the same command "
      "to continue from the last checkpoint."
    ) from error
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    raise UserError(_too_little_memory(plan, mesh, num_classes, error)) from error


def memory_of(mesh: jax.sharding.Mesh) -> int | None:
  """Bytes that each device of a mesh may use; None where they do not tell, as CPUs."""
  found = [(device.memory_stats() or {}).get("bytes_limit") for device in mesh.local_devices]
  return min(found) if all(found) else None


def _too_little_memory(
  plan: Plan, mesh: jax.sharding.Mesh, num_classes: int, error: Exception
) -> str:
  reason = str(error).strip().splitlines()[0]
  try:
    # Several processes would have to compile the same programs, each with the others.
    room = memory_of(mesh) if jax.process_count() == 1 else None
    if room is not None:
      from vit_jax.dry_run import fitting  # It builds on this package, and is needed only here.

      log.warning(
        "the devices ran out of memory; looking for a setting that fits, by compiling the step "
        "with it, which may take minutes; Ctrl-C leaves it after the one that is being compiled"
      )
      # The state of the run hangs on the frames that the error came through, and compiling for a
      # GPU needs memory there too.
      traceback.clear_frames(error.__traceback__)
      return _found(plan, fitting.find(plan, mesh, num_classes, room), room, reason)
  except KeyboardInterrupt:
    pass
  except Exception as failed:  # noqa: BLE001 - It must not hide the error that it explains.
    log.warning("no such setting could be looked for: %s", failed)
  return _knobs(plan, mesh, reason)


def _knobs(plan: Plan, mesh: jax.sharding.Mesh, reason: str) -> str:
  """What may help, where it is not known what does."""
  each = plan.batch // plan.accum_steps // mesh_lib.data_parallelism(mesh)
  remat = "remat" in registry.model_fields(registry.get_entry(plan.model.name).module)
  knobs = [
    f"--config.accum_steps={2 * plan.accum_steps} (now {each} images a device at once)"
    if each > 1 and not plan.text
    else "",
    "--config.model.remat=full (recomputes activations)" if remat else "",
    "--config.mesh.fsdp=-1 --config.mesh.data=1 (splits parameters and optimizer)"
    if mesh.size > mesh.shape["fsdp"] * mesh.shape["tensor"]
    else "",
    "a smaller config.batch",
  ]
  return (
    f"the devices have too little memory for this run ({reason}); try "
    f"{', '.join(filter(None, knobs))}. `vit-jax plan --search` with this config and your "
    "chips finds what fits."
  )


def _found(plan: Plan, trials: list[Trial], room: int, reason: str) -> str:
  """What the trials of `dry_run.fitting.find` come to."""
  as_it_is, *changed = trials
  if as_it_is.fits:
    return (
      f"the devices ran out of memory ({reason}), though by a dry run the run needs "
      f"{_size(as_it_is.total)} of {_size(room)}; if it was in evaluation, try a smaller "
      f"--config.batch_eval (now {plan.batch_eval}), else end what else uses these devices."
    )
  needs = "more than" if as_it_is.total is None else f"{_size(as_it_is.total)} of"
  told = f"the devices have too little memory for this run, which needs {needs} {_size(room)}."
  if not changed or not changed[-1].fits:
    tried = f" By a dry run {_either(changed)} would not suffice." if changed else ""
    return (
      f"{told}{tried} What remains is a smaller batch, image or model, or more or larger chips: "
      "`vit-jax plan --search` with this config finds what fits other chips."
    )
  *others, fitting = changed
  recipe = "" if fitting.keeps_batch else ", with another batch and so another recipe"
  told += (
    f" By a dry run {' '.join(fitting.overrides)} would suffice ({_size(fitting.total)}{recipe})"
  )
  return f"{told}, but not {_either(others)}." if others else f"{told}."


def _either(trials: list[Trial]) -> str:
  shown = [
    " ".join(trial.overrides) + (f" ({_size(trial.total)})" if trial.total else "")
    for trial in trials
  ]
  return " or ".join([", ".join(shown[:-1]), shown[-1]] if shown[1:] else shown)


def _size(size: int) -> str:
  return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"
