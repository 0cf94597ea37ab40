# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A report, and a search, as text."""

from __future__ import annotations

import collections
import io
import textwrap
from collections.abc import Iterable, Sequence

import rich.console
import rich.table

from vit_jax.dry_run import roofline
from vit_jax.dry_run.report import Report, grouped
from vit_jax.dry_run.search import Search, Trial

_GIB = 2**30


def describe(report: Report, *, parameters: bool = False) -> str:
  """The whole report; with `parameters` also where each array of the state lies."""
  parts = [_head(report), _memory(report), _needs(report), _work(report), _collectives(report)]
  if parameters:
    parts.append(_arrays(report))
  parts.append(_estimate(report))
  return "\n\n".join(part for part in parts if part) + "\n"


def _head(report: Report) -> str:
  plan, topology = report.plan, report.topology
  height, width = plan.pp.size
  axes = ", ".join(f"{axis}={size}" for axis, size in report.mesh.shape.items() if size > 1)
  slices = f"{topology.slices} slices of " if topology.slices > 1 else ""
  parts = f" in {plan.accum_steps} parts" if plan.accum_steps > 1 else ""
  state = sum(row.bytes for row in report.rows), sum(row.device_bytes for row in report.rows)
  classes = f"{report.num_classes:,} classes ({report.classes_from})"
  rows = [
    ("model", f"{plan.model.name}, {report.parameters / 1e6:,.1f} M parameters, {classes}"),
    ("step", f"batch {plan.batch:,}{parts} of {height} x {width} pixels, {plan.optim.name}"),
    ("devices", f"{slices}{topology.name}, mesh {axes or 'of one device'}"),
    ("state", f"{_gib(state[0])} GiB, {_gib(state[1])} GiB on each device"),
    ("matrix products", _products(report)),
    ("compiled", f"traced in {report.tracing_seconds:.0f} s, compiled in "
     f"{report.compiling_seconds:.0f} s"),
    *(("note", note) for note in report.notes),
  ]  # fmt: skip
  return "\n".join(f"{name + ':':<17}{what}" for name, what in rows)


def _products(report: Report) -> str:
  share = report.flops.bfloat16
  if share > 0.5:
    return f"{share:.1%} in bfloat16, the rest in float32"
  rate = "; a TPU rounds operands to bfloat16, so its peak holds" if report.topology.chip else ""
  return f"{1 - share:.1%} in float32{rate}; --config.model.dtype=bfloat16 halves activations"


def _memory(report: Report) -> str:
  memory = report.memory
  and_teacher = " and teacher" if _asks_a_teacher(report) else ""
  rows = [
    (name, _gib(size), what)
    for name, size, what in (
      ("arguments", memory.arguments, f"state and batch{and_teacher}"),
      ("outputs", memory.outputs, "state and metrics"),
      ("  in place", memory.aliased and -memory.aliased, "of arguments, which are donated"),
      ("temporaries", memory.temporaries, "activations, gradients and the like"),
      ("program", memory.code, ""),
      ("batches ahead", memory.ahead, "of the next steps"),
    )
    if size is not None
  ]
  refused = "or more, says the compiler" if memory.outputs is None else ""
  rows.append(("total", _gib(memory.total), refused))
  return table(("memory of a device in a step", "GiB>", ""), rows)


def _asks_a_teacher(report: Report) -> bool:
  """Whether its variables are on the devices; a cache has its answers instead."""
  return bool(report.plan.distill and not report.plan.distill.cache)


def _needs(report: Report) -> str:
  """What each part of a run keeps and needs, and whether a device has as much."""
  held, and_teacher = report.held, ", teacher" if _asks_a_teacher(report) else ""
  kept = {
    "a step": (held.step, f"state, batch{and_teacher}"),
    "saving": (held.saving, f"state, what each device writes of it{and_teacher}"),
    "an evaluation": (held.evaluation, f"state, images of batch_eval{and_teacher}"),
    "the end": (held.end, "the best state, images of batch_eval"),
  }
  rows = [(name, _gib(size), _gib(report.needs[name]), what) for name, (size, what) in kept.items()]
  if report.topology.chip:
    fits = "fits" if report.fits else "DOES NOT FIT"
    usable = _gib(report.topology.chip.usable)
    most = _gib(max(report.needs.values()))
    rows.append(("most", "", most, f"of {usable} that programs get: {fits}"))
  return table(("memory of a device by phase", "arrays>", "in all>", "GiB; arrays are"), rows)


def _work(report: Report) -> str:
  flops, times = report.flops, report.replication
  again = flops.hardware / flops.model - 1
  rows = [
    ("model", _tera(flops.model), "forwards and backwards"),
    ("hardware", _tera(flops.hardware), f"rematerialised: {again:+.0%}" if again > 1e-3 else ""),
  ]
  if times:
    share = "its share of these"
    if times > 1.01:
      share = f"{times:.1f} times its share of these: several devices compute the same"
    rows.append(("a device", _tera(report.operations), share))
  return table(("operations of a step", "TFLOP>", ""), rows)


def _collectives(report: Report) -> str:
  if not report.bytes_accessed:
    return ""
  rows = [
    (one.kind, "+".join(one.axes), str(len(one.group)), f"{one.count:,}", _mega(one.bytes))
    for one in report.collectives
  ]
  if not rows:
    return "collectives of a step: none"
  total = sum(one.bytes for one in report.collectives)
  rows.append(("total", "", "", f"{sum(one.count for one in report.collectives):,}", _mega(total)))
  return table(("collectives of a step", "along", "group>", "count>", "MB a device>"), rows)


def _arrays(report: Report) -> str:
  rows = [
    (
      group.path,
      str(len(group.rows)),
      ", ".join(group.trees),
      " x ".join(map(str, group.rows[0].shape)),
      ", ".join("-" if axis is None else str(axis) for axis in group.rows[0].axes) or "whole",
      _mega(sum(row.bytes for row in group.rows)),
      _mega(sum(row.device_bytes for row in group.rows)),
    )
    for group in grouped(report.rows)
  ]
  return table(("array", "of them>", "in", "shape", "split over", "MB>", "a device>"), rows)


def _estimate(report: Report) -> str:
  found = report.estimate
  if found is None:
    if report.topology.chip is None:
      return "There is no estimate of the time: no rates are published for CPU devices."
    return "There is no estimate of the time, since there is no program. Try --search."
  pair = lambda values, form: tuple(form.format(value) for value in values)
  rows = [
    ("compute", f"{1e3 * found.compute:,.1f} ms", ""),
    ("memory", f"{1e3 * found.memory:,.1f} ms", ""),
    ("communication", f"{1e3 * found.communication:,.1f} ms", ""),
    ("  hops alone", f"{1e3 * found.latency:,.1f} ms", ""),
    ("step", *pair([1e3 * s for s in found.step], "{:,.1f} ms")),
    ("images a second", *pair(found.images_per_second, "{:,.0f}")),
    ("MFU", *pair(found.mfu, "{:.1%}")),
    (f"{report.plan.total_steps:,} steps", *pair(found.days, "{:,.2f} days")),
    ("chip-hours", *pair(found.chip_hours, "{:,.0f}")),
  ]
  shown = table((f"ESTIMATE (limit: {found.limit})", "overlapped>", "sequential>"), rows)
  return "\n".join([shown, "", *textwrap.wrap(roofline.ASSUMPTIONS, 100)])


def describe_search(found: Search) -> str:
  """What was compiled, how much was not and why, and the best."""
  rows = [_trial(trial) for trial in found.trials if trial.outcome == "compiled"]
  titles = ("mesh", "a chip>", "parts>", "remat", "GiB>", "", "images/s>", "limit", "compiled>")
  parts = [table(titles, rows)]
  others = [trial for trial in found.trials if trial.outcome != "compiled"]
  if others:
    shown = [
      (_mesh(trial), str(trial.layout.per_chip), str(trial.layout.accum_steps),
       trial.layout.remat or "", trial.outcome, trial.why)
      for trial in others[:_SHOWN]
    ]  # fmt: skip
    parts.append(table(("not compiled", "a chip>", "parts>", "remat", "", "why"), shown))
    if len(others) > _SHOWN:
      counts = collections.Counter(trial.outcome for trial in others[_SHOWN:])
      parts[-1] += "\nand " + ", ".join(f"{n} {outcome}" for outcome, n in counts.items())
  best = found.best
  if best is None:
    parts.append(
      f"Nothing fits {found.topology.name}; take a larger slice, or a chip with more memory."
    )
  else:
    parts.append(
      "The most images a second, by the estimate in which nothing overlaps:\n"
      + "  " + " ".join(best.layout.overrides(found.plan))
    )  # fmt: skip
    parts.append(describe(best.report).rstrip())
  return "\n\n".join(parts)


_SHOWN = 12  # Layouts that were not compiled, most promising first.


def _mesh(trial: Trial) -> str:
  layout = trial.layout
  return f"data={layout.data}, fsdp={layout.fsdp}, tensor={layout.tensor}"


def _trial(trial: Trial) -> tuple[str, ...]:
  layout, report = trial.layout, trial.report
  return (
    _mesh(trial),
    str(layout.per_chip),
    str(layout.accum_steps),
    layout.remat or "",
    _gib(max(report.needs.values())),
    "fits" if report.fits else "does not fit",
    f"{trial.images_per_second:,.0f}" if trial.fits else "",
    report.estimate.limit if report.estimate else "",
    f"{report.compiling_seconds:.0f} s",
  )


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
  """A table without lines; a title that ends in ">" heads right-aligned numbers."""
  made = rich.table.Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
  for title in titles:
    justify = "right" if title.endswith(">") else "left"
    made.add_column(title.rstrip(">"), justify=justify, no_wrap=True)
  for row in rows:
    made.add_row(*row)
  out = io.StringIO()
  console = rich.console.Console(file=out, width=200, markup=False, highlight=False)
  console.print(made)
  return "\n".join(line.rstrip() for line in out.getvalue().rstrip().splitlines())


def _gib(size: float) -> str:
  return f"{size / _GIB:,.2f}"


def _mega(size: float) -> str:
  return f"{size / 1e6:,.1f}"


def _tera(flops: float) -> str:
  return f"{flops / 1e12:,.2f}"
