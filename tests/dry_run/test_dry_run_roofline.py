# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The estimate against numbers by hand, and the names of slices."""

import dataclasses
import itertools

import pytest

from vit_jax.dry_run import chips, roofline
from vit_jax.dry_run.collectives import Collective
from vit_jax.errors import UserError

US = 1e-6


@dataclasses.dataclass(frozen=True)
class Device:
  coords: tuple[int, int, int]
  slice_index: int = 0
  core_on_chip: int = 0


def devices_of(name, slices=1):
  """Those of a slice, the last side fastest, as a mesh's flat array."""
  topology = chips.parse(name, slices)
  sides = (*topology.shape, 1)[:3]
  places = list(itertools.product(*map(range, sides)))
  cores = range(topology.chip.devices)
  return [Device(at, s, core) for s in range(slices) for at in places for core in cores]


def slice_of(side, slices=1):
  return [Device((x, y, 0), s) for s in range(slices) for x in range(side) for y in range(side)]


def test_an_estimate_by_hand():
  topology = chips.parse("v5e:4x4")
  found = roofline.estimate(
    topology,
    slice_of(4),
    operations=197e12 * 0.3,
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
  assert found.latency == pytest.approx(5 * 3 * US)
  assert found.limit == "compute"
  assert found.step == pytest.approx((0.3, 0.6))
  assert found.mfu == pytest.approx((0.2 / 0.3, 0.2 / 0.6))
  assert found.images_per_second == pytest.approx((1000 / 0.3, 1000 / 0.6))
  assert found.days == pytest.approx((0.3, 0.6))
  assert found.chip_hours == pytest.approx((0.3 * 24 * 16, 0.6 * 24 * 16))


# Links by hand. Along each of three dimensions a chip of v5p has two links of 200 GB/s, of which
# half is one way: 200 GB/s round a ring, 100 GB/s in a row with two ends.
LINKS = {
  # No ring, though one side has 4 chips: three rows. To the far corner: 1 + 1 + 3 hops.
  "v5p:2x2x4": (300e9, 5),
  # Three rings, in each of which the farthest is two hops away.
  "v5p:4x4x4": (600e9, 6),
  "v5p:16x16x16": (600e9, 24),
  # One cube of 4 x 4 x 4 has rings along all sides, half a cube along none.
  "v5p:2x4x4": (300e9, 7),
  "v4:2x2x4": (537e9 / 4, 5),
  # Two dimensions of 200 GB/s both ways: a ring where the side is the whole pod's.
  "v5e:8x16": (50e9 + 100e9, 7 + 8),
  "v5e:16x16": (200e9, 16),
  "v6e:8x8": (200e9, 14),
  # Both devices of each chip share its links, and one hop leads from one to the other.
  "tpu7x:4x4x4": (600e9, 7),
}


@pytest.mark.parametrize("name", LINKS)
def test_links_of_whole_slices_by_hand(name):
  found = roofline.links_of(chips.parse(name), devices_of(name))
  assert (found.bandwidth, found.hops) == (pytest.approx(LINKS[name][0]), LINKS[name][1])


def test_devices_of_a_chip_share_its_links():
  topology, devices = chips.parse("tpu7x:4x4x4"), devices_of("tpu7x:4x4x4")
  one_each = [device for device in devices if device.core_on_chip == 0]
  assert roofline.links_of(topology, one_each) == roofline.Links(300e9, 6)
  assert roofline.links_of(topology, devices[:2]) == roofline.Links(600e9, 1)  # Within a chip.
  found = roofline.estimate(
    topology,
    devices,
    operations=2307e12 / 2,  # A second of a device, which is half a chip.
    model_flops=64 * 2307e12,
    bytes_accessed=7380e9 / 2,
    collectives=[],
    batch=128,
    total_steps=3600,
  )
  assert (found.compute, found.memory, found.chips) == (1, 1, 64)
  assert found.mfu[0] == 1 and found.chip_hours[0] == 64


def seconds(kind, name, members, *sizes):
  """On the links of a slice, of collectives of these bytes."""
  one = Collective(kind, (), tuple(members), 0, 0)
  for size in sizes:
    one = one.with_one_more(size, 1)
  return roofline.link_seconds(one, chips.parse(name), devices_of(name))[0]


def test_no_collective_is_faster_than_its_hops():
  # 1. All chips of v5p:2x2x4 reduce: there and back over 5 hops, or 2 x 15/16 of the bytes.
  assert seconds("all-reduce", "v5p:2x2x4", range(16), 0) == pytest.approx(10 * US)
  whole = seconds("all-reduce", "v5p:2x2x4", range(16), 10**9)
  assert whole == pytest.approx(2 * 15 / 16 * 1e9 / 300e9)
  # 2. A ring of 4 gathers in two hops: 256 bytes take 2 us (scaling book, "Sharded Matrices").
  assert seconds("all-gather", "v4:4x4x4", range(4), 256) == pytest.approx(2 * US)
  # 3. 4,096 chips: 24 hops to the farthest, and as many back. A large and a small one.
  # 96 MB take 2 x 4095/4096 x 96 MB / 600 GB/s = 320 us, 1 MB would take 3.
  both = seconds("all-reduce", "v5p:16x16x16", range(4096), 96 * 10**6, 10**6)
  assert both == pytest.approx(320 * US + 48 * US, rel=1e-3)
  # 4. A permute from one end of a row of 8 to the other, where nothing goes round the end.
  line = roofline.link_seconds(
    Collective("collective-permute", (), (0, 7), 3, 0),
    chips.parse("v5e:8x8"),
    devices_of("v5e:8x8"),
  )
  assert line == pytest.approx((3 * 7 * US, 0, 3 * 7 * US))


def test_links_of_a_part_of_a_dimension():
  pod = chips.parse("v5e:16x16")
  line = slice_of(16)[:16]
  of = lambda members, topology=pod: dataclasses.astuple(roofline.links_of(topology, members))
  assert of(line) == (100e9, 8)
  # The first half is a row of chips with no way round.
  assert of(line[:8]) == (50e9, 7)
  # Every other chip is a ring, whose links serve the chips between as well.
  assert of(line[::2]) == (50e9, 8)
  assert of(line[::4]) == (25e9, 8)
  assert of(slice_of(8)[:8:2], chips.parse("v5e:8x8")) == (25e9, 6)
  # Neighbours, also round the end.
  assert of(line[:2]) == of([line[0], line[15]]) == (50e9, 1)
  assert of(slice_of(4), chips.parse("v5e:4x4")) == (100e9, 6)


def test_slices_send_only_their_share_over_the_data_center():
  topology = chips.parse("v5e:2x2", slices=2)
  reduced = Collective("all-reduce", ("replica", "data"), tuple(range(8)), 1, 8 * 10**9)
  ici, dcn, _ = roofline.link_seconds(reduced, topology, slice_of(2, slices=2))
  assert ici == pytest.approx(2 * 0.75 * 8e9 / 100e9)
  assert dcn == pytest.approx(2 * 0.5 * 2e9 / (25e9 / 8))


@pytest.mark.parametrize(
  "name, said",
  [
    ("v5e", "write one such as"),
    ("v7:2x2", "there is no topology 'v7:2x2'"),
    ("v5lite-16", "did you mean 'v5litepod'"),
    ("v5e:3x5", "v5e comes as 1x1, 2x2, 2x4, 4x4, 4x8, 8x8, 8x16, 16x16; take"),
    ("v5e:16x32", "v5e comes as"),
    ("v5e:1x2", "v5e comes as"),
    ("v5e:4x4x4", "should be v5e:AxB, such as v5e:4x4"),
    ("v5p:4x4", "should be v5p:AxBxC"),
    ("v5p:2x2x8", "larger with sides that are multiples of 4, up to 6,144 chips"),
    ("v5p:16x20x28", "up to 6,144 chips"),
    ("v4:16x16x20", "4,096 chips"),
    ("v5p-127", "which counts TensorCores, 2 in a chip"),
    ("v5p-24", "there is no slice 'v5p-24'"),
    ("v6e-3", "there is no slice 'v6e-3': v6e comes as"),
    ("v5litepod-x", "there is no slice"),
    ("cpu:many", "write cpu:N"),
    ("cpu:0", "write cpu:N"),
  ],
)
def test_names_that_are_no_slice(name, said):
  with pytest.raises(UserError, match=said.replace("(", r"\(")):
    chips.parse(name)


def test_names_of_slices_and_meshes():
  assert chips.parse("v5p:16x16x24").size == 6144
  assert chips.parse("v6e:16x16").size == chips.parse("v5e:16x16").size == 256
  assert chips.parse("v4:12x16x16").chip.peak == 275e12
  assert chips.parse("v5e:2x2", slices=3).size == 12
  assert chips.parse("cpu:8").chip is None
  assert chips.parse("v5e:4x2") == chips.parse("v5e:2x4")
  assert (chips.parse("tpu7x:2x2x1").chip_count, chips.parse("tpu7x:2x2x1").size) == (4, 8)
  assert chips.parse_mesh("data=4,fsdp=-1") == {"data": 4, "fsdp": -1}
  for wrong in ("dat=4", "data", "data=0", "data=4;fsdp=2"):
    with pytest.raises(UserError, match="--mesh="):
      chips.parse_mesh(wrong)
  with pytest.raises(UserError, match="--mesh=data=4,data=2 names data twice"):
    chips.parse_mesh("data=4,data=2")
  with pytest.raises(UserError, match="--slices=0"):
    chips.parse("v5e:2x2", slices=0)


# As the pages of Google's products list them: chips, or TensorCores of v4, v5p and TPU7x.
PRODUCTS = {
  "v4-8": "2x2x1",
  "v4-16": "2x2x2",
  "v4-32": "2x2x4",
  "v4-64": "2x4x4",
  "v4-128": "4x4x4",
  "v4-256": "4x4x8",
  "v4-512": "4x8x8",
  "v4-1024": "8x8x8",
  "v4-1536": "8x8x12",
  "v4-2048": "8x8x16",
  "v4-4096": "8x16x16",
  "v5litepod-1": "1x1",
  "v5litepod-4": "2x2",
  "v5litepod-8": "2x4",
  "v5litepod-16": "4x4",
  "v5litepod-32": "4x8",
  "v5litepod-64": "8x8",
  "v5litepod-128": "8x16",
  "v5litepod-256": "16x16",
  "v5p-32": "2x2x4",
  "v5p-128": "4x4x4",
  "v5p-384": "4x4x12",
  "v5p-768": "4x8x12",
  "v5p-3072": "8x12x16",
  "v5p-6144": "12x16x16",
  "v5p-8192": "16x16x16",
  "v5p-12288": "16x16x24",
  "v6e-8": "2x4",
  "v6e-256": "16x16",
  "tpu7x-8": "2x2x1",
  "tpu7x-128": "4x4x4",
}


@pytest.mark.parametrize("product", PRODUCTS)
def test_products_are_spellings_of_slices(product):
  found = chips.parse(product)
  kind = {"v5litepod": "v5e"}.get(product.split("-")[0], product.split("-")[0])
  assert found == chips.parse(f"{kind}:{PRODUCTS[product]}")
  assert found.name == f"{kind}:{PRODUCTS[product]}"


def test_programs_do_not_get_all_of_the_memory():
  gib = {name: chip.usable / 2**30 for name, chip in chips.CHIPS.items()}
  assert gib["v4"] == 30.75 and gib["v5e"] == 15.75 and gib["v6e"] == 31.25
  assert gib["v5p"] == pytest.approx(95.74, abs=1e-6)
  assert gib["tpu7x"] < 192 / 2
