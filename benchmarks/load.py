# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Time and memory of `from_pretrained` against `np.load` and `jax.device_put` of the same arrays.

    python benchmarks/load.py --model=ViT-L_16

The file is generated (released layout, random weights) and read once, so that all contenders find
it in the page cache. Each measurement is a process of its own, and the contenders take turns. On a
virtual machine the first touch of memory may cost more than all the rest, and less where a process
has just given memory back: so before each measurement another process touches three times the
file's size, and the fastest is stated beside the median. The time to trace the model, which tells
the shapes to check the file against, is stated apart: no reading of arrays needs it. Peak memory is
the largest resident size above that after imports.
"""

import argparse
import json
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time

from machine import machine

RESULTS = pathlib.Path(__file__).resolve().parent / "results" / "load.json"


def generate(model: str, file: str) -> None:
  """Writes a file as the released ones, with noise on every leaf."""
  import numpy as np

  from vit_jax.checkpoints import npz
  from vit_jax.models import registry
  from vit_jax.params import tree

  shapes = tree.expected_shapes(registry.create_model(model, num_classes=1000), (224, 224))
  rng = np.random.default_rng(0)
  noise = {path: rng.standard_normal(shape, np.float32) for path, shape in shapes.items()}
  npz.write_npz(file, npz.to_released(noise))


def plain(model: str, file: str) -> float:
  """`np.load`, then `jax.device_put` of the same arrays; returns seconds of tracing: none."""
  import jax
  import numpy as np

  with np.load(file) as archive:
    arrays = dict(archive)
  jax.block_until_ready(jax.device_put(arrays))
  return 0.0


def streamed(model: str, file: str) -> float:
  """The same, each array on its way while the next is read: the least that can be done."""
  import jax
  import numpy as np

  with np.load(file) as archive:
    arrays = {name: jax.device_put(archive[name]) for name in archive.files}
  jax.block_until_ready(arrays)
  return 0.0


def loaded(model: str, file: str, **fields: bool) -> float:
  """`from_pretrained`; returns seconds of tracing."""
  import jax

  from vit_jax.checkpoints.pretrained import from_pretrained
  from vit_jax.params import tree

  traced, expected_shapes = [], tree.expected_shapes

  def timed(*args):
    start = time.perf_counter()
    shapes = expected_shapes(*args)
    traced.append(time.perf_counter() - start)
    return shapes

  tree.expected_shapes = timed
  jax.block_until_ready(from_pretrained(model, file, **fields))
  return sum(traced)


def scanned(model: str, file: str) -> float:
  """`from_pretrained` of a model that stacks its layers."""
  return loaded(model, file, scan_layers=True)


CONTENDERS = {function.__name__: function for function in (plain, streamed, loaded, scanned)}


def measure(contender: str, model: str, file: str) -> dict[str, float]:
  """Seconds and bytes of one contender, in this process."""
  import jax

  from vit_jax.checkpoints import pretrained  # noqa: F401  (what is imported is not measured)

  jax.block_until_ready(jax.device_put(0.0))
  peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
  before, start = peak(), time.perf_counter()
  trace = CONTENDERS[contender](model, file)
  total = time.perf_counter() - start
  return {"seconds": total - trace, "trace": trace, "bytes": peak() - before}


def touch(file: str) -> None:
  """Uses three times the file's size of memory, as whatever ran before a measurement."""
  import numpy as np

  np.ones(3 * pathlib.Path(file).stat().st_size, np.uint8)


def in_process(*arguments: str) -> str:
  # This process stays small: a child's peak on Linux begins with its parent's size.
  command = [sys.executable, __file__, *arguments]
  return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--model", default="ViT-L_16")
  parser.add_argument("--rounds", type=int, default=5)
  parser.add_argument("--child", choices=["generate", "touch", *CONTENDERS], help=argparse.SUPPRESS)
  parser.add_argument("--file", help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.child == "generate":
    generate(args.model, args.file)
    return
  if args.child == "touch":
    touch(args.file)
    return
  if args.child:
    print(json.dumps(measure(args.child, args.model, args.file)))
    return

  samples: dict[str, list[dict[str, float]]] = {name: [] for name in CONTENDERS}
  with tempfile.TemporaryDirectory() as folder:
    file = pathlib.Path(folder) / "weights.npz"
    shared = ("--model", args.model, "--file", str(file))
    in_process("--child", "generate", *shared)
    size = file.stat().st_size
    for turn in range(args.rounds + 1):
      for name in CONTENDERS:
        in_process("--child", "touch", *shared)
        sample = json.loads(in_process("--child", name, *shared).splitlines()[-1])
        if turn:  # The first turn brings the file into the page cache.
          samples[name].append(sample)

  results = {"model": args.model, "file_bytes": size, "rounds": args.rounds}
  middle = lambda runs, key: statistics.median(run[key] for run in runs)
  fastest = lambda runs: min(run["seconds"] for run in runs)
  plainly = samples["plain"]
  print(f"{args.model}: {size / 1e9:.2f} GB")
  for name, runs in samples.items():
    row = {key: middle(runs, key) for key in runs[0]} | {"fastest": fastest(runs)}
    row["time_ratio"] = row["seconds"] / middle(plainly, "seconds")
    row["fastest_ratio"] = row["fastest"] / fastest(plainly)
    row["size_ratio"] = row["bytes"] / size
    results[name] = row | {"runs": runs}
    print(
      f"{name:8} {row['seconds']:5.2f} s ({row['time_ratio']:.2f} x plain), fastest "
      f"{row['fastest']:5.2f} s ({row['fastest_ratio']:.2f} x), trace {row['trace']:4.2f} s, "
      f"peak {row['bytes'] / 1e9:4.2f} GB ({row['size_ratio']:.2f} x file)"
    )
  written = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
  written[args.model] = results | {"machine": machine("jax", "numpy")}
  RESULTS.write_text(json.dumps(written, indent=2) + "\n")
  print(RESULTS)


if __name__ == "__main__":
  main()
