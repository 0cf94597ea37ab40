# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What is published of TPU chips, and the slices that they come in.

All figures are those of Google's pages https://docs.cloud.google.com/tpu/docs/ + `Chip.page`, as
read on 2026-11-30. Where a page does not have one, a comment beside it says where it is from.

Slices: those of v5e and v6e are listed on their pages. Those of three dimensions have at most four
chips along a side, or sides that are multiples of 4 (cubes of 4 x 4 x 4 chips, joined by optical
switches), in ascending order: "types-topologies" there. Product names count chips (v5litepod-16,
v6e-8) or TensorCores, of which these chips have two (v4-128, v5p-128, tpu7x-128); the shape behind
a name is the one that is most like a cube, as "types-topologies" says of the default.

Links round the ends of a slice: "All 4x4x4 and larger slices" of v5p have the full torus, says its
page, and v4 and TPU7x are built of the same cubes; no smaller one has any. Along a side of v5e and
v6e they exist where it is the 16 chips of the whole pod
(https://jax-ml.github.io/scaling-book/tpus, as read on 2026-11-30).
"""

from __future__ import annotations

import dataclasses
import math

_GB, _GBIT, _GIB = 1e9, 1e9 / 8, 2**30
_FLAT = ((1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16))
_BELOW_A_CUBE = ((2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4))
_ALONE = ((1, 1, 1),)  # Machines with a single chip: ct5p-hightpu-1t, tpu7x-standard-1t.


@dataclasses.dataclass(frozen=True)
class Chip:
  """What is published of a chip.

  Attributes:
    name: "v5e".
    page: where, see above.
    peak: bfloat16 operations a second.
    memory: bytes of HBM.
    usable: bytes of HBM that programs get on each device; the runtime keeps the rest. It is what
      the compiler of libtpu 0.0.42 says that there is when it refuses a program; a test asks it.
    memory_bandwidth: bytes a second.
    ici: bytes a second over all its links, both directions together.
    dcn: bytes a second in one direction, its share of the host's network.
    max_chips: of the largest slice.
    small: shapes of slices; of three dimensions those that are smaller than a cube.
    products: how product names begin, and how many of what they count a chip has.
    example: of a slice.
    devices: that JAX sees in a chip, which share all of the above but `usable`.
  """

  name: str
  page: str
  peak: float
  memory: int
  usable: int
  memory_bandwidth: float
  ici: float
  dcn: float
  max_chips: int
  small: tuple[tuple[int, ...], ...]
  products: tuple[tuple[str, int], ...]
  example: str
  devices: int = 1

  @property
  def dims(self) -> int:
    """Dimensions of the torus."""
    return len(self.small[0])

  def shapes(self, chips: int) -> list[tuple[int, ...]]:
    """The slices of so many chips, those first that are most like a square or cube."""
    found = [shape for shape in self.small if math.prod(shape) == chips]
    cubes, rest = divmod(chips, 4**3)
    if self.dims == 3 and rest == 0 and chips <= self.max_chips:
      pairs = [(a, b) for a in range(1, cubes + 1) for b in range(a, cubes // a + 1)]
      sides = [(a, b, cubes // (a * b)) for a, b in pairs if cubes % (a * b) == 0]
      found += [(4 * a, 4 * b, 4 * c) for a, b, c in sides if b <= c]
    return sorted(found, key=sum)

  @property
  def slices(self) -> str:
    """In words, which slices there are."""
    listed = ", ".join("x".join(map(str, shape)) for shape in self.small)
    if self.dims == 2:
      return f"{self.name} comes as {listed}"
    return (
      f"{self.name} comes as {listed}, and larger with sides that are multiples of 4, up to "
      f"{self.max_chips:,} chips"
    )


CHIPS = {
  chip.name: chip
  for chip in (
    Chip(
      "v4",
      page="v4",
      peak=275e12,
      memory=32 * _GIB,
      usable=int(30.75 * _GIB),
      memory_bandwidth=1200 * _GB,
      # The page has the all-reduce bandwidth of a pod, 1.1 PB/s. A chip's share of that is half of
      # its bidirectional bandwidth on the pages that have both (v5e, v6e).
      ici=537 * _GB,
      dcn=50 * _GBIT,  # Assumed to be v5p's.
      max_chips=4096,
      small=_BELOW_A_CUBE,
      products=(("v4", 2),),
      example="v4:4x4x4",
    ),
    Chip(
      "v5e",
      page="v5e",
      peak=197e12,
      memory=16 * _GIB,
      usable=int(15.75 * _GIB),
      memory_bandwidth=819 * _GB,
      ici=400 * _GB,
      dcn=25 * _GBIT,  # Of a pod of 256: 6.4 Tbit/s.
      max_chips=256,
      small=_FLAT,
      products=(("v5litepod", 1), ("v5e", 1)),
      example="v5e:4x4",
    ),
    Chip(
      "v5p",
      page="v5p",
      peak=459e12,
      memory=95 * _GIB,  # Of 96, after what the page says is reserved.
      usable=int(95.74 * _GIB),
      memory_bandwidth=2765 * _GB,
      ici=1200 * _GB,
      dcn=50 * _GBIT,
      max_chips=6144,  # The largest job. A pod has 8,960.
      small=(*_ALONE, *_BELOW_A_CUBE),
      products=(("v5p", 2),),
      example="v5p:4x4x4",
    ),
    Chip(
      "v6e",
      page="v6e",
      peak=918e12,
      memory=32 * _GIB,
      usable=int(31.25 * _GIB),
      memory_bandwidth=1638 * _GB,
      ici=800 * _GB,
      dcn=100 * _GBIT,
      max_chips=256,
      small=_FLAT,
      products=(("v6e", 1),),
      example="v6e:4x4",
    ),
    Chip(
      "tpu7x",
      page="tpu7x",
      peak=2307e12,
      memory=192 * _GIB,
      usable=int(94.75 * _GIB),
      memory_bandwidth=7380 * _GB,
      ici=1200 * _GB,
      dcn=100 * _GBIT,
      max_chips=9216,
      small=(*_ALONE, *_BELOW_A_CUBE),
      products=(("tpu7x", 2),),
      example="tpu7x:4x4x4",
      devices=2,
    ),
  )
}
