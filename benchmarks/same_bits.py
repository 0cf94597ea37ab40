# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Does this source give the same bits as an earlier commit?

    python benchmarks/same_bits.py COMMIT

asks both, on this machine, for what tests/record keeps (tests/record/outputs.py): the logits of
small models of every family, every preset's plan, the help texts, and the ends of runs of every
kind that were stopped half-way, with all their weights. Prints what differs, and exits with 1 if
anything does.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]
FILES = ("plans.json", "help.json", "runs.json")
ARRAYS = ("logits.npz", "runs.npz")


def ask(source: pathlib.Path, directory: pathlib.Path) -> None:
  """Writes what the package at `source` gives, asked by the outputs.py of this source."""
  if not (source / "vit_jax" / "configs").exists():  # As an installed package has them.
    (source / "vit_jax" / "configs").symlink_to("../configs")
  subprocess.run(
    [sys.executable, str(ROOT / "tests" / "record" / "outputs.py"), str(directory)],
    env={**os.environ, "PYTHONPATH": str(source), "JAX_PLATFORMS": "cpu", "COLUMNS": "100"},
    check=True,
    stderr=subprocess.DEVNULL,
  )


def differences(one: pathlib.Path, other: pathlib.Path) -> list[str]:
  """A line for each file or array that differs."""
  found = [name for name in FILES if (one / name).read_bytes() != (other / name).read_bytes()]
  for name in ARRAYS:
    old, new = np.load(one / name), np.load(other / name)
    for key in sorted({*old} | {*new}):
      if key not in old or key not in new:
        found.append(f"{name}: {key} is in one of them alone")
      elif old[key].tobytes() != new[key].tobytes() or old[key].shape != new[key].shape:
        largest = np.max(np.abs(old[key] - new[key])) if old[key].shape == new[key].shape else "?"
        found.append(f"{name}: {key} differs by {largest} at most")
  return found


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("commit")
  commit = parser.parse_args().commit
  with tempfile.TemporaryDirectory() as name:
    work = pathlib.Path(name)
    for side, of in (("old", commit), ("new", "HEAD")):
      archive = subprocess.run(["git", "archive", of], cwd=ROOT, check=True, capture_output=True)
      (work / side / "source").mkdir(parents=True)
      subprocess.run(["tar", "-x", "-C", work / side / "source"], input=archive.stdout, check=True)
      ask(work / side / "source", work / side)
    found = differences(work / "old", work / "new")
    arrays = sum(len(np.load(work / "new" / name)) for name in ARRAYS)
  print(*found, sep="\n")
  print(f"{commit} and HEAD: {len(FILES)} files and {arrays} arrays, {len(found)} differ")
  sys.exit(bool(found))


if __name__ == "__main__":
  main()
