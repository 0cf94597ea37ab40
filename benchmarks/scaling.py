# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""How far do ViTs of four sizes scale on TPUs? By simulation, from 1 to 4,096 chips.

    python benchmarks/scaling.py

Compiles the training step of each model for slices that are not here, as `vit-jax plan --scan`
does, and estimates its time. It needs `pip install "vit_jax[tpu]"`, and one to five minutes a row
on two CPU cores; a row is kept as soon as it is known, so that the same command goes on after an
interruption. Where estimates have come to rest on other assumptions since a row was kept, its time
is estimated anew from what was kept of its program. docs/scale.md shows the tables and says what
they rest on.
"""

import argparse
import concurrent.futures
import dataclasses
import json
import multiprocessing
import os
import pathlib

import numpy as np
from machine import machine

from vit_jax.dry_run.roofline import ASSUMPTIONS

MODELS = {"B/16": "b16", "L/16": "l16", "H/14": "h14", "G/14": "G14"}
BATCH = 4_096  # Table 3 of arXiv:2010.11929.
AT_A_TIME = 64  # Images on a chip; a larger share of the batch is accumulated in parts.


@dataclasses.dataclass(frozen=True)
class Row:
  """One dry run: a model on slices, with its state whole on each chip or in `fsdp` parts.

  From scratch with AdamW at the batch of the tables; or, with `finetune`, as its preset fine-tunes
  it on ImageNet at 224 pixels, with that batch, and everything recomputed on the way back.
  """

  model: str
  topology: str
  slices: int = 1
  fsdp: int = 1
  finetune: int = 0

  @property
  def name(self) -> str:
    """As its line in a table begins."""
    slices = f" x {self.slices}" if self.slices > 1 else ""
    parts = f" fsdp={self.fsdp}" * (self.fsdp > 1) + f" batch={self.finetune}" * bool(self.finetune)
    return f"{self.model} {self.topology}{slices}{parts}"

  @property
  def key(self) -> str:
    """Its name in the results."""
    fields = dataclasses.asdict(self)
    if not self.finetune:
      del fields["finetune"]
    return " ".join(f"{name}={value}" for name, value in fields.items())


SLICES = ("1x1x1", "4x4x4", "8x8x8", "16x16x16", "2x2x2")  # Of v5p.
STRONG = [Row(model, f"v5p:{shape}") for shape in SLICES for model in MODELS]
# With `fsdp` along one side of the slice.
SHARDED = [Row(model, "v5p:16x16x16", fsdp=16) for model in ("B/16", "G/14")]
PODS = [Row("B/16", "v5e:16x16", slices) for slices in (1, 4, 16)]
EXAMPLES = [
  Row("L/16", "v5e:4x4", fsdp=4, finetune=1024),
  Row("H/14", "v5e:8x8", fsdp=16, finetune=4096),
  Row("G/14", "v5p:4x4x4", fsdp=8, finetune=4096),
]
ROWS = [*STRONG, *SHARDED, *PODS, *EXAMPLES]


def parts(chips: int) -> int:
  """The fewest parts of a batch, as a power of two, that leave a chip at most AT_A_TIME images."""
  count = 1
  while count * chips * AT_A_TIME < BATCH:
    count *= 2
  return count


def plan_row(row: Row) -> dict:
  """The dry run of a row, in a process that has not used JAX."""
  from vit_jax.dry_run import chips

  topology = chips.parse(row.topology, row.slices)
  chips.prepare(topology)

  from vit_jax.configs import common, vit
  from vit_jax.dry_run import report

  config = vit.get_config(f"{MODELS[row.model]},imagenet2012")
  if row.finetune:
    config.batch = config.batch_eval = row.finetune
    config.accum_steps, config.pp.crop = 1, 224
  else:
    common.set_imagenet_from_scratch(config, batch=BATCH, warmup_epochs=5)
    config.pretrained_dir = None
    config.mixup = config.cutmix = 0.0  # Not the paper's; they would send images between chips.
    config.accum_steps = parts(topology.size)
  remat = "full" if row.finetune else "dots"
  config.model.update(dtype="bfloat16", remat=remat, dropout_rate=0.0)
  return report.dry_run(config, topology, mesh={"fsdp": row.fsdp}, scan=True).to_dict()


def estimate_row(kept: dict) -> dict:
  """The row with its time estimated anew, in a process that has not used JAX.

  Of collectives whose single sizes were not kept all are taken to have the same.
  """
  from vit_jax.dry_run import chips

  topology = chips.parse(kept["topology"], kept["slices"])
  devices = chips.devices(topology)

  from vit_jax.dry_run import roofline
  from vit_jax.parallel import mesh as mesh_lib

  mesh = mesh_lib.make_mesh(mesh_lib.MeshPlan(**kept["mesh"]), devices)
  flops, numbers = kept["flops"], np.arange(mesh.size).reshape(mesh.devices.shape)
  found = []
  for one in kept["collectives"]:
    along = tuple(slice(None) if axis in one["axes"] else 0 for axis in mesh_lib.AXES)
    group = tuple(numbers[along].ravel()[: one["group_size"]].tolist())
    sizes = tuple(map(tuple, one.get("sizes", ())))
    of = (one["kind"], tuple(one["axes"]), group, one["count"], one["bytes"], sizes)
    found.append(roofline.Collective(*of))
  share = flops["peak_equivalent"] / kept["devices"]
  estimate = roofline.estimate(
    topology,
    list(mesh.devices.flat),
    operations=kept.get("operations_per_device", share),
    model_flops=flops["model"],
    bytes_accessed=kept["bytes_accessed_per_device"],
    collectives=found,
    batch=kept["batch"],
    total_steps=kept["total_steps"],
  )
  return {**kept, "estimate": estimate.to_dict(), "assumptions": roofline.ASSUMPTIONS}


def save(path: pathlib.Path, results: dict) -> None:
  """Writes a line for each row, and the file as a whole or not at all."""
  rows = [f"  {json.dumps(key)}: {json.dumps(row)}" for key, row in results["rows"].items()]
  text = f'{{\n "machine": {json.dumps(results["machine"])},\n "rows": {{\n'
  partial = path.with_suffix(".partial")
  partial.write_text(text + ",\n".join(rows) + "\n }\n}\n")
  os.replace(partial, path)


def sent(row: dict) -> float:
  """Bytes that cross a chip's links in a step."""
  from vit_jax.dry_run.collectives import Collective

  return sum(
    Collective(c["kind"], (), tuple(range(c["group_size"])), c["count"], c["bytes"]).wire_bytes
    for c in row["collectives"]
  )


def seconds(row: dict) -> tuple[float, float, float]:
  """Of computing, of memory and of communication."""
  found = row["estimate"]
  links = found["ici_seconds"] + found["dcn_seconds"]
  return found["compute_seconds"], found["memory_seconds"], links


def efficiency(row: dict, first: dict) -> tuple[float, float]:
  """Images a second of each chip relative to those of `first`, if all overlaps and if nothing."""
  rate = lambda of, bound: of["estimate"]["images_per_second"][bound] / of["devices"]
  return tuple(rate(row, bound) / rate(first, bound) for bound in ("overlapped", "sequential"))


TITLES = ("images>", "GiB>", "compute>", "memory>", "links>", "MB>")
TITLES += ("images/s>", ">", "MFU>", ">", "efficiency>", ">")


def line(row: dict, first: dict) -> tuple[str, ...]:
  """Cells of a table: images a chip and parts, memory, milliseconds, what is sent, both bounds."""
  found, both, count = row["estimate"], ("overlapped", "sequential"), row["accum_steps"]
  return (
    f"{row['batch'] // row['devices'] // count}" + (f" x {count}" if count > 1 else ""),
    f"{row['memory_per_device']['total'] / 2**30:.1f}",
    *(f"{1e3 * s:,.{1 if s > 0.1 else 2}f}" for s in seconds(row)),
    f"{sent(row) / 1e6:,.0f}",
    *(f"{found['images_per_second'][bound]:,.0f}" for bound in both),
    *(f"{found['mfu'][bound]:.0%}" for bound in both),
    *(f"{share:.0%}" for share in efficiency(row, first)),
  )


def balance(first: dict, one: dict, eight: dict) -> dict[str, float]:
  """At how many images a chip what does not shrink with them takes as long as computing them.

  Args:
    first: a model's row of one chip.
    one, eight: its rows whose chips have one image, and eight, and the whole state.

  Returns:
    Of communication as in the row `one`, and as it follows from a bfloat16 gradient of every
    parameter; of the memory traffic that is left when that of the images is taken away, and that in
    bytes a parameter; and where the efficiency of the step is half, if all overlaps and if nothing.
  """
  from vit_jax.dry_run import chips

  chip = chips.parse(one["topology"]).chip
  compute, memory, links = seconds(one)
  flops = one["flops"]["peak_equivalent"] / one["batch"]
  fixed = (8 * memory - seconds(eight)[1]) / 7
  found = {
    "links": links / compute,
    "closed form": (2 * 2 * one["parameters"] / (chip.ici / 2)) / (flops / chip.peak),
    "update": fixed / compute,
    "bytes a parameter": fixed * chip.memory_bandwidth / one["parameters"],
  }
  for bound in ("overlapped", "sequential"):
    step = lambda row, bound=bound: row["estimate"]["step_seconds"][bound]
    more = (step(eight) - step(one)) / 7  # For one more image.
    found[f"half, {bound}"] = (step(one) - more) / (2 * step(first) / first["batch"] - more)
  return found


def tables(rows: dict[str, dict]) -> str:
  """All tables, of all rows."""
  from vit_jax.dry_run.text import table

  of = lambda model, shape: rows[Row(model, f"v5p:{shape}").key]
  shown = []
  for model in MODELS:
    strong = sorted((of(model, shape) for shape in SLICES), key=lambda row: row["devices"])
    lines = [(f"{row['devices']:,}", *line(row, of(model, "1x1x1"))) for row in strong]
    shown.append(table((f"{model}>", *TITLES), lines))
  for chosen in (SHARDED, PODS):
    first = lambda row: rows[PODS[0].key] if row in PODS else of(row.model, "1x1x1")
    lines = [(row.name, *line(rows[row.key], first(row))) for row in chosen]
    shown.append(table(("", *TITLES), lines))
  lines = [(row.name, *line(rows[row.key], rows[row.key])[:-2]) for row in EXAMPLES]
  shown.append(table(("", *TITLES[:-2]), lines))
  found = {m: balance(*(of(m, shape) for shape in ("1x1x1", "16x16x16", "8x8x8"))) for m in MODELS}
  titles = [f"{name}>" for name in found["B/16"]]
  lines = [(model, *(f"{x:.2f}" for x in values.values())) for model, values in found.items()]
  return "\n\n".join([*shown, table(("", *titles), lines)])


def main() -> None:
  parser = argparse.ArgumentParser()
  parser.add_argument("--out", default="benchmarks/results/scaling.json", type=pathlib.Path)
  arguments = parser.parse_args()
  results = {"machine": machine("jax", "libtpu"), "rows": {}}
  if arguments.out.exists():
    results = json.loads(arguments.out.read_text())
  for row in ROWS:
    kept = results["rows"].get(row.key)
    if kept and kept.get("assumptions") == ASSUMPTIONS:
      continue
    print(row.key, flush=True)
    # A dry run wants a process that has not used JAX.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as process:
      work = (estimate_row, kept) if kept else (plan_row, row)
      results["rows"][row.key] = process.submit(*work).result()
    save(arguments.out, results)
  print(tables(results["rows"]))


if __name__ == "__main__":
  main()
