# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""benchmarks/scaling.py without a compiler: its arithmetic, and going on where it stopped."""

import importlib
import json
import pathlib
import sys
import types

import numpy as np
import pytest

from vit_jax.dry_run import chips, roofline

BENCHMARKS = pathlib.Path(__file__).parents[2] / "benchmarks"
PEAK, HBM, LINK = 459e12, 2765e9, 600e9  # Of v5p: all links of a chip, one way.


@pytest.fixture
def scaling(monkeypatch):
  monkeypatch.syspath_prepend(str(BENCHMARKS))
  yield importlib.import_module("scaling")
  del sys.modules["scaling"]


def result(scaling, row, *, parameters=10**9):
  """What a dry run says of an image that takes 1 ms of each kind, and 3 ms to update a model."""
  topology = chips.parse(row.topology, row.slices)
  images = scaling.BATCH / topology.size
  compute, memory = 1e-3 * images, 1e-3 * images + 3e-3
  links = 2 * 2 * parameters / LINK
  pair = lambda over, after: {"overlapped": over, "sequential": after}
  steps = pair(max(compute, memory, links), compute + memory + links)
  return {
    "topology": row.topology,
    "slices": row.slices,
    "devices": topology.size,
    "mesh": {"replica": 1, "data": topology.size, "fsdp": 1, "tensor": 1},
    "total_steps": 1000,
    "bytes_accessed_per_device": memory * HBM,
    "batch": scaling.BATCH,
    "accum_steps": scaling.parts(topology.size),
    "parameters": parameters,
    "flops": {"peak_equivalent": 1e-3 * PEAK * scaling.BATCH, "model": 1e-3 * PEAK * scaling.BATCH},
    "memory_per_device": {"total": 2**30},
    "assumptions": roofline.ASSUMPTIONS,
    "collectives": [
      {"kind": "all-reduce", "axes": ["data"], "group_size": 4, "count": 1, "bytes": 2 * parameters}
    ],
    "estimate": {
      "compute_seconds": compute,
      "memory_seconds": memory,
      "ici_seconds": links,
      "dcn_seconds": 0.0,
      "step_seconds": steps,
      "images_per_second": {bound: scaling.BATCH / s for bound, s in steps.items()},
      "mfu": {bound: compute / s for bound, s in steps.items()},
    },
  }


def test_parts_leave_a_chip_what_it_has_room_for(scaling):
  counts = (1, 8, 64, 512, 2048, 4096)
  assert [scaling.parts(n) for n in counts] == [64, 8, 1, 1, 1, 1]
  assert scaling.parts(48) == 2


def test_where_fixed_costs_balance_computing(scaling):
  first, one, eight = (
    result(scaling, scaling.Row("B/16", f"v5p:{shape}")) for shape in ("1x1x1", "16x16x16", "8x8x8")
  )
  found = scaling.balance(first, one, eight)
  assert found["links"] == found["closed form"] == pytest.approx(4e9 / LINK / 1e-3)
  assert found["update"] == pytest.approx(3)
  assert found["bytes a parameter"] == pytest.approx(3e-3 * HBM / 1e9)
  # n images take 2 n ms and a fixed time, which is small for the 4,096 of a chip alone.
  fixed = 3 + 4e12 / LINK
  alone = 2 + fixed / 4096
  assert found["half, sequential"] == pytest.approx(fixed / (2 * alone - 2))
  assert scaling.sent(one) == 2 * 0.75 * 2e9
  # 64 images a chip and part: 67 ms in memory; 1 image: 6.7 ms on the links.
  whole = result(scaling, scaling.Row("B/16", "v5p:4x4x4"))
  assert scaling.efficiency(one, whole)[0] == pytest.approx((67 / 64) / (4e9 / LINK / 1e-3))


def test_it_goes_on_where_it_stopped(scaling, tmp_path, monkeypatch, capsys):
  asked = []

  class Process:
    def __init__(self, workers, mp_context):
      pass

    def __enter__(self):
      return self

    def __exit__(self, *error):
      pass

    def submit(self, function, row):
      assert function is scaling.plan_row
      asked.append(row)
      if len(asked) == 7:
        raise KeyboardInterrupt
      self.row = row
      return self

    def result(self):
      return result(scaling, self.row)

  out = tmp_path / "scaling.json"
  monkeypatch.setattr(scaling, "machine", lambda *packages: {"cpu": "any"})
  monkeypatch.setattr(scaling.concurrent.futures, "ProcessPoolExecutor", Process)
  monkeypatch.setattr(sys, "argv", ["scaling.py", f"--out={out}"])
  with pytest.raises(KeyboardInterrupt):
    scaling.main()
  assert len(json.loads(out.read_text())["rows"]) == 6
  scaling.main()
  rows = scaling.ROWS
  assert asked == [*rows[:7], *rows[6:]]
  assert set(json.loads(out.read_text())["rows"]) == {row.key for row in rows}
  assert [path.name for path in tmp_path.iterdir()] == ["scaling.json"]
  assert capsys.readouterr().out.count("4,096") >= len(scaling.MODELS)


def test_a_row_of_other_assumptions_is_estimated_anew_from_its_program(
  scaling, tmp_path, monkeypatch
):
  from vit_jax.parallel import mesh as mesh_lib

  row = scaling.Row("B/16", "v5p:16x16x16")
  kept = result(scaling, row)
  # As the compiled program of B/16 has them, without their single sizes.
  kept["collectives"][0] |= {"group_size": 4096, "count": 26, "bytes": 174_750_120}
  places = np.empty((1, 4096, 1, 1), object)
  for index, place in enumerate(np.ndindex(16, 16, 16)):
    places[0, index, 0, 0] = types.SimpleNamespace(coords=place)
  monkeypatch.setattr(chips, "devices", lambda topology: list(places.flat))
  mesh = types.SimpleNamespace(size=4096, devices=places)
  monkeypatch.setattr(mesh_lib, "make_mesh", lambda plan, devices: mesh)
  found = scaling.estimate_row(kept)
  # 24 hops to the farthest chip, and as many back; 6.7 MB alone would take 22 us.
  assert found["estimate"]["ici_seconds"] == pytest.approx(26 * 48e-6)
  assert found["estimate"]["compute_seconds"] == pytest.approx(1e-3)
  assert found["estimate"]["memory_seconds"] == pytest.approx(4e-3)
  kept["collectives"][0] |= {"sizes": [[174_750_120 - 25, 1], [1, 25]]}
  found = scaling.estimate_row(kept)
  large = 2 * 4095 / 4096 * (174_750_120 - 25) / LINK
  assert found["estimate"]["ici_seconds"] == pytest.approx(large + 25 * 48e-6)

  asked = []

  class Process:
    def __init__(self, *unused, **options):
      pass

    def __enter__(self):
      return self

    def __exit__(self, *error):
      pass

    def submit(self, function, argument):
      asked.append(function)
      self.row = result(scaling, row)
      return self

    def result(self):
      return self.row

  out = tmp_path / "scaling.json"
  rows = {one.key: result(scaling, one) for one in scaling.ROWS}
  rows[row.key]["assumptions"] = "None."
  scaling.save(out, {"machine": {}, "rows": rows})
  monkeypatch.setattr(scaling, "machine", lambda *packages: {"cpu": "any"})
  monkeypatch.setattr(scaling.concurrent.futures, "ProcessPoolExecutor", Process)
  monkeypatch.setattr(sys, "argv", ["scaling.py", f"--out={out}"])
  scaling.main()
  assert asked == [scaling.estimate_row]
