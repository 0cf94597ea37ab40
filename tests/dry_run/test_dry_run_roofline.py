# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The estimate against numbers by hand, and the names of slices."""

import dataclasses

import pytest

from vit_jax.dry_run import chips, roofline
from vit_jax.dry_run.collectives import Collective
from vit_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Device:
  coords: tuple[int, int, int]
  slice_index: int = 0


def slice_of(side, slices=1):
  return [Device((x, y, 0), s) for s in range(slices) for x in range(side) for y in range(side)]


def test_an_estimate_by_hand():
  topology = chips.parse("v5e:4x4")
  found = roofline.estimate(
    topology,
    slice_of(4),
    peak_equivalent=16 * 197e12 * 0.3,  # 0.3 s on 16 chips.
    model_flops=16 * 197e12 * 0.2,
    bytes_accessed=819e9 * 0.1,
    # Along one dimension, too short to close: a quarter of 400 GB/s, halved; 0.75 of it travels.
    collectives=[Collective("all-gather", ("fsdp",), (0, 1, 2, 3), 5, int(50e9 * 0.2 / 0.75))],
    batch=1000,
    total_steps=86_400,
  )
  assert found.compute == pytest.approx(0.3)
  assert found.memory == pytest.approx(0.1)
  assert found.communication == pytest.approx(0.2)
  assert found.limit == "compute"
  assert found.step == pytest.approx((0.3, 0.6))
  assert found.mfu == pytest.approx((0.2 / 0.3, 0.2 / 0.6))
  assert found.images_per_second == pytest.approx((1000 / 0.3, 1000 / 0.6))
  assert found.days == pytest.approx((0.3, 0.6))
  assert found.chip_hours == pytest.approx((0.3 * 24 * 16, 0.6 * 24 * 16))


def test_links_of_two_dimensions_and_of_a_closed_ring():
  small, pod = chips.parse("v5e:4x4"), chips.parse("v5e:16x16")
  line = slice_of(16)[:16]
  assert roofline.ring_bandwidth(small, slice_of(4)[:4]) == 50e9
  assert roofline.ring_bandwidth(small, slice_of(4)) == 100e9
  assert roofline.ring_bandwidth(pod, line) == 100e9
  assert roofline.ring_bandwidth(pod, slice_of(16)) == 200e9


def test_links_of_a_part_of_a_dimension():
  pod = chips.parse("v5e:16x16")
  line = slice_of(16)[:16]
  # The first half is a row of chips with no way round.
  assert roofline.ring_bandwidth(pod, line[:8]) == 50e9
  # Every other chip is a ring, whose links serve the chips between as well.
  assert roofline.ring_bandwidth(pod, line[::2]) == 50e9
  assert roofline.ring_bandwidth(pod, line[::4]) == 25e9
  assert roofline.ring_bandwidth(chips.parse("v5e:8x8"), slice_of(8)[:8:2]) == 25e9
  # Neighbours, also round the end.
  assert roofline.ring_bandwidth(pod, line[:2]) == 50e9
  assert roofline.ring_bandwidth(pod, [line[0], line[15]]) == 50e9


def test_slices_send_only_their_share_over_the_data_center():
  topology = chips.parse("v5e:2x2", slices=2)
  reduced = Collective("all-reduce", ("replica", "data"), tuple(range(8)), 1, 8 * 10**9)
  ici, dcn = roofline.link_seconds(reduced, topology, slice_of(2, slices=2))
  assert ici == pytest.approx(2 * 0.75 * 8e9 / 100e9)
  assert dcn == pytest.approx(2 * 0.5 * 2e9 / (25e9 / 8))


@pytest.mark.parametrize(
  "name, said",
  [
    ("v5e", "write one such as"),
    ("v7:2x2", "there is no topology 'v7:2x2'"),
    ("v5e:3x5", "sides are 1, 2, 4, 8 or 16"),
    ("v5e:16x32", "256 chips"),
    ("v5e:4x4x4", "should be v5e:AxB, such as v5e:4x4"),
    ("v5p:4x4", "should be v5p:AxBxC"),
    ("v4:16x16x20", "4,096 chips"),
    ("cpu:many", "write cpu:N"),
    ("cpu:0", "write cpu:N"),
  ],
)
def test_names_that_are_no_slice(name, said):
  with pytest.raises(UserError, match=said.replace("(", r"\(")):
    chips.parse(name)


def test_names_of_slices_and_meshes():
  assert chips.parse("v5p:16x20x28").size == 8960
  assert chips.parse("v6e:16x16").size == chips.parse("v5e:16x16").size == 256
  assert chips.parse("v4:12x16x16").chip.peak == 275e12
  assert chips.parse("v5e:2x2", slices=3).size == 12
  assert chips.parse("cpu:8").chip is None
  assert chips.parse_mesh("data=4,fsdp=-1") == {"data": 4, "fsdp": -1}
  for wrong in ("dat=4", "data", "data=0", "data=4;fsdp=2"):
    with pytest.raises(UserError, match="--mesh="):
      chips.parse_mesh(wrong)
  with pytest.raises(UserError, match="--slices=0"):
    chips.parse("v5e:2x2", slices=0)
