# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What a measurement depends on."""

import importlib.metadata
import os
import pathlib
import platform


def machine(*packages: str) -> dict[str, str | int]:
  """Processor, cores, and versions of Python and `packages`."""
  cpu = platform.processor()
  info = pathlib.Path("/proc/cpuinfo")
  if info.exists():
    names = [x.split(":")[1] for x in info.read_text().splitlines() if x.startswith("model name")]
    cpu = names[0].strip() if names else cpu
  versions = {package: importlib.metadata.version(package) for package in packages}
  cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
  return {"cpu": cpu, "cores": cores or 0, "python": platform.python_version(), **versions}
