# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What is read from a compiled program's text, on texts written by hand with known answers."""

import pytest

from vit_jax.dry_run import collectives, flops, hlo, traffic

MESH = {"replica": 1, "data": 2, "fsdp": 4, "tensor": 1}


def counted(text, mesh=MESH):
  found = collectives.read(hlo.Program(text), mesh)
  return {(one.kind, one.axes): (one.count, one.bytes) for one in found}


def test_an_asynchronous_pair_is_one_collective_and_tuples_count_in_whole():
  text = """\
HloModule m

ENTRY %main (a: f32[8,128], b: bf16[16]) -> f32[8,128] {
  %a = f32[8,128]{1,0} parameter(0)
  %b = bf16[16]{0} parameter(1)
  %start = (f32[8,128]{1,0}, f32[32,128]{1,0}) all-gather-start(%a), channel_id=1, \
replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={0}
  %done = f32[32,128]{1,0} all-gather-done(%start)
  %sum = (f32[8,128]{1,0}, /*index=1*/bf16[16]{0:T(128)}) all-reduce(%a, %b), channel_id=2, \
replica_groups=[4,2]<=[2,4]T(1,0), to_apply=%add
  %permuted = f32[8,128]{1,0} collective-permute(%a), source_target_pairs={{0,0},{1,5},{5,1}}
  ROOT %out = f32[8,128]{1,0} get-tuple-element(%sum), index=0
}
"""
  assert counted(text) == {
    ("all-gather", ("fsdp",)): (1, 32 * 128 * 4),  # What a device gets.
    ("all-reduce", ("data",)): (1, 8 * 128 * 4 + 16 * 2),
    ("collective-permute", ("data",)): (1, 8 * 128 * 4),
  }


LOOPS = """\
HloModule m

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %z = f32[] add(%x, %y)
}

%inner_condition (p: (s32[], bf16[64])) -> pred[] {
  %bound = s32[]{:T(128)} constant(5)
  %p = (s32[], bf16[64]{0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  ROOT %less = pred[] compare(%i, %bound), direction=LT
}

%inner_body (p: (s32[], bf16[64])) -> (s32[], bf16[64]) {
  %p = (s32[], bf16[64]{0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %x = bf16[64]{0} get-tuple-element(%p), index=1
  %scattered = bf16[16]{0} reduce-scatter(%x), replica_groups={{0,1,2,3},{4,5,6,7}}, \
dimensions={0}, to_apply=%add
  %again = bf16[64]{0} all-gather(%scattered), replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={0}
  ROOT %t = (s32[], bf16[64]{0}) tuple(%i, %again)
}

%outer_condition (p: (s32[], bf16[64])) -> pred[] {
  %p = (s32[], bf16[64]{0}) parameter(0)
  ROOT %fused = pred[] fusion(%p), kind=kLoop, calls=%compare
}

%outer_body (p: (s32[], bf16[64])) -> (s32[], bf16[64]) {
  %p = (s32[], bf16[64]{0}) parameter(0)
  ROOT %inner = (s32[], bf16[64]{0}) while(%p), condition=%inner_condition, body=%inner_body
}

ENTRY %main (p: (s32[], bf16[64])) -> (s32[], bf16[64]) {
  %p = (s32[], bf16[64]{0}) parameter(0)
  ROOT %outer = (s32[], bf16[64]{0}) while(%p), condition=%outer_condition, body=%outer_body, \
backend_config={"known_trip_count":{"n":"3"}}
}
"""


def test_loops_multiply_by_the_known_trip_count_or_the_conditions_constant():
  assert counted(LOOPS) == {
    ("reduce-scatter", ("fsdp",)): (15, 15 * 64 * 2),
    ("all-gather", ("fsdp",)): (15, 15 * 64 * 2),
  }
  assert counted(LOOPS.replace('{"n":"3"}', '{"n":"30"}'))[("all-gather", ("fsdp",))][0] == 150


def test_what_the_tpu_compiler_spreads_over_fusions_is_one_collective():
  text = """\
HloModule m

%starting (p: bf16[4,8]) -> (bf16[4,8], bf16[16,8]) {
  %p = bf16[4,8]{1,0:T(4,128)(2,1)S(1)} parameter(0)
  %g.1 = bf16[16,8]{1,0} all-gather(%p), channel_id=7, \
replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}, dimensions={0}, \
frontend_attributes={chain_id="0"}
  ROOT %c = (bf16[4,8]{1,0}, bf16[16,8]{1,0}) custom-call(%g.1), \
custom_call_target="AsyncCollectiveStart"
}

%finishing (p: bf16[4,8]) -> bf16[16,8] {
  %p = bf16[4,8]{1,0} parameter(0)
  %g.2 = bf16[16,8]{1,0} all-gather(%p), channel_id=7, \
replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}, dimensions={0}, \
frontend_attributes={chain_id="0"}
  ROOT %c = bf16[16,8]{1,0} custom-call(%p, %g.2), custom_call_target="AsyncCollectiveDone"
}

%all-reduce-scatter.3 (p: f32[64]) -> f32[16] {
  %p = f32[64]{0} parameter(0)
  %r = f32[64]{0} all-reduce(%p), channel_id=8, replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add
  %zero = s32[] constant(0)
  ROOT %s = f32[16]{0} dynamic-slice(%r, %zero), dynamic_slice_sizes={16}
}

ENTRY %main (a: bf16[4,8], b: f32[64]) -> f32[16] {
  %a = bf16[4,8]{1,0} parameter(0)
  %b = f32[64]{0} parameter(1)
  %f.1 = (bf16[4,8]{1,0}, bf16[16,8]{1,0}) fusion(%a), kind=kCustom, calls=%starting
  %f.2 = bf16[16,8]{1,0} fusion(%a), kind=kCustom, calls=%finishing
  ROOT %f.3 = f32[16]{0} fusion(%b), kind=kCustom, calls=%all-reduce-scatter.3
}
"""
  assert counted(text) == {
    ("all-gather", ("fsdp",)): (1, 16 * 8 * 2),
    ("reduce-scatter", ("fsdp",)): (1, 64 * 4),
  }


def test_between_slices_what_is_handed_to_the_host_counts():
  text = """\
HloModule m

ENTRY %main (a: bf16[44,8,128]) -> bf16[44,8,128] {
  %a = bf16[44,8,128]{2,1,0:T(8,128)(2,1)} parameter(0)
  %t = token[] after-all()
  %send.1 = (bf16[44,8,128]{2,1,0}, u32[], token[]) send(%a, %t), channel_id=2, \
is_host_transfer=true, frontend_attributes={_xla_megascale_transfer_type="ALL_REDUCE"}
  %recv.1 = (bf16[44,8,128]{2,1,0}, u32[], token[]) recv(%t), channel_id=1, \
is_host_transfer=true, frontend_attributes={_xla_megascale_transfer_type="ALL_REDUCE"}
  %d = token[] send-done(%send.1), channel_id=2, is_host_transfer=true
  %e = (bf16[44,8,128]{2,1,0}, token[]) recv-done(%recv.1), channel_id=1, is_host_transfer=true
  ROOT %out = bf16[44,8,128]{2,1,0} get-tuple-element(%e), index=0
}
"""
  mesh = {"replica": 2, "data": 2, "fsdp": 2, "tensor": 1}
  (found,) = collectives.read(hlo.Program(text), mesh, slices=2)
  assert (found.kind, found.axes, found.group) == ("all-reduce", ("replica",), (0, 4))
  assert (found.count, found.bytes) == (1, 44 * 8 * 128 * 2)


@pytest.mark.parametrize(
  "written, groups",
  [
    ("replica_groups={{0,2},{1,3}}", [(0, 2), (1, 3)]),
    ("replica_groups={}", [(0, 1, 2, 3)]),
    ("replica_groups=[2,2]<=[4]", [(0, 1), (2, 3)]),
    ("replica_groups=[2,2]<=[2,2]T(1,0)", [(0, 2), (1, 3)]),
    ("replica_groups=mesh['a'=2,'b'=2] {'a'}", [(0, 2), (1, 3)]),
    ("replica_groups=mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'a'}", [(0, 1), (2, 3)]),
    ("replica_groups=mesh['a'=4] {'a':(2)2}", [(0, 1), (2, 3)]),
    ("replica_groups=mesh['a'=4] {'a':(1)2}", [(0, 2), (1, 3)]),
  ],
)
def test_replica_groups_in_all_notations(written, groups):
  assert collectives.replica_groups(f", channel_id=1, {written}, dimensions={{0}}", 4) == groups


def test_axes_are_those_along_which_a_group_differs():
  mesh = {"replica": 1, "data": 2, "fsdp": 2, "tensor": 2}
  assert collectives.axes_of((0, 1), mesh) == ("tensor",)
  assert collectives.axes_of((0, 2), mesh) == ("fsdp",)
  assert collectives.axes_of((0, 2, 4, 6), mesh) == ("data", "fsdp")


def test_bytes_of_a_ring():
  of = lambda kind, n: collectives.Collective(kind, (), tuple(range(n)), 1, 1200).wire_bytes
  assert of("all-reduce", 4) == 2 * 900
  assert of("all-gather", 4) == of("reduce-scatter", 4) == 900
  assert of("all-to-all", 4) == 1200
  assert of("all-reduce", 1) == 0


@pytest.mark.parametrize(
  "shape, found",
  [
    ("f32[2,3]{1,0}", [(24, True)]),
    ("bf16[8,128]{1,0:T(8,128)(2,1)S(1)}", [(2048, False)]),
    ("(s32[], pred[7]{0:T(256)}, u8[4,4])", [(4, True), (7, True), (16, True)]),
    ("f8e4m3fn[10]", [(10, True)]),
    ("s4[10]", [(5, True)]),
    ("token[]", [(0, True)]),
  ],
)
def test_bytes_of_shapes(shape, found):
  assert [(array.bytes, array.in_hbm) for array in hlo.arrays(shape)] == found


def test_traffic_counts_slices_and_updates_and_not_what_stays_on_the_chip():
  text = """\
HloModule m

%slicing (p: f32[12,100], i: s32[]) -> f32[1,100] {
  %p = f32[12,100]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %zero = s32[] constant(0)
  ROOT %s = f32[1,100]{1,0} dynamic-slice(%p, %i, %zero), dynamic_slice_sizes={1,100}
}

%updating (p: f32[12,100], u: f32[1,100], i: s32[]) -> f32[12,100] {
  %p = f32[12,100]{1,0} parameter(0)
  %u = f32[1,100]{1,0} parameter(1)
  %i = s32[] parameter(2)
  %zero = s32[] constant(0)
  ROOT %s = f32[12,100]{1,0} dynamic-update-slice(%p, %u, %i, %zero)
}

%nested (p: f32[12,100], i: s32[]) -> f32[1,100] {
  %p = f32[12,100]{1,0} parameter(0)
  %i = s32[] parameter(1)
  ROOT %f = f32[1,100]{1,0} fusion(%p, %i), kind=kLoop, calls=%slicing
}

ENTRY %main (p: f32[12,100], i: s32[]) -> f32[12,100] {
  %p = f32[12,100]{1,0} parameter(0)
  %i = s32[]{:S(6)} parameter(1)
  %near = f32[12,100]{1,0:S(1)} copy(%p)
  %s = f32[1,100]{1,0:S(1)} fusion(%p, %i), kind=kLoop, calls=%slicing
  %n = f32[1,100]{1,0} fusion(%p, %i), kind=kLoop, calls=%nested
  %free = f32[12,100]{1,0:S(1)} add(%near, %near)
  ROOT %u = f32[12,100]{1,0} fusion(%p, %s, %i), kind=kLoop, calls=%updating
}
"""
  copied, sliced, again, updated = 12 * 100 * 4, 400, 400 + 400, 400
  assert traffic.bytes_accessed(hlo.Program(text)) == copied + sliced + again + updated


def operations(text):
  return flops.of_program(hlo.Program(text))


def test_operations_of_a_device_are_those_of_its_products():
  text = """\
HloModule m

%inside (p: f32[12,34], w: f32[34,56]) -> f32[12,56] {
  %p = f32[12,34]{1,0} parameter(0)
  %w = f32[34,56]{1,0} parameter(1)
  ROOT %d = f32[12,56]{1,0} dot(%p, %w), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

ENTRY %main (p: f32[12,34], w: f32[34,56], q: bf16[2,3,5,7], k: bf16[2,3,9,7]) -> f32[12,56] {
  %p = f32[12,34]{1,0} parameter(0)
  %w = f32[34,56]{1,0} parameter(1)
  %q = bf16[2,3,5,7]{3,2,1,0} parameter(2)
  %k = bf16[2,3,9,7]{3,2,1,0} parameter(3)
  %a = bf16[2,3,5,9]{3,2,1,0} dot(%q, %k), lhs_batch_dims={0,1}, lhs_contracting_dims={3}, \
rhs_batch_dims={0,1}, rhs_contracting_dims={3}, operand_precision={highest,highest}
  ROOT %f = f32[12,56]{1,0} fusion(%p, %w), kind=kOutput, calls=%inside
}
"""
  one, other = 12 * 56 * 34, 2 * 3 * 5 * 9 * 7
  assert operations(text) == 2 * (one + other)
  # A product in float32 passes a matrix unit of bfloat16 as often as its precision asks for.
  precise = text.replace(
    "rhs_contracting_dims={0}\n", "rhs_contracting_dims={0}, operand_precision={high,default}\n"
  )
  assert operations(precise) == 2 * (3 * one + other)


@pytest.mark.parametrize(
  "image, kernel, result, attributes, macs",
  [
    # Patches of 4 x 4 pixels.
    ("2,16,16,3", "4,4,3,8", "2,4,4,8", "window={size=4x4 stride=4x4}, b01f_01io->b01f",
     2 * 16 * 16 * 3 * 8),
    # The gradient of their kernel: a window of the size of the output, spread.
    ("3,16,16,2", "4,4,2,8", "3,4,4,8", "window={size=4x4 rhs_dilate=4x4}, b01f_01io->b01f",
     2 * 16 * 16 * 3 * 8),
    # Padding is not multiplied: of 3 places in each of 5 x 9 windows one, or two, lie outside.
    ("2,9,9,3", "3,3,1,6", "2,5,9,6",
     "window={size=3x3 stride=2x1 pad=1_1x1_1}, b01f_01io->b01f, feature_group_count=3",
     2 * 6 * (3 * 5 - 2) * (3 * 9 - 2)),
    # A matrix product of each of 5 heads, as the TPU compiler writes it: the head is a dimension
    # whose window meets one of its inputs alone.
    ("5,7,11", "5,11,13", "5,7,13",
     "window={size=5 stride=4 pad=4_4 lhs_dilate=5}, 0bf_0io->0bf", 5 * 7 * 11 * 13),
    # None but the features: a plain product.
    ("7,11", "11,13", "7,13", "bf_io->bf", 7 * 11 * 13),
  ],
)  # fmt: skip
def test_operations_of_convolutions(image, kernel, result, attributes, macs):
  window, labels = attributes.split(", ")[:2] if "window" in attributes else ("", attributes)
  more = attributes.split(", ")[2:]
  written = ", ".join(filter(None, [window, f"dim_labels={labels}", *more]))
  text = f"""\
HloModule m

ENTRY %main (x: f32[{image}], k: f32[{kernel}]) -> f32[{result}] {{
  %x = f32[{image}] parameter(0)
  %k = f32[{kernel}] parameter(1)
  ROOT %c = f32[{result}] convolution(%x, %k), {written}
}}
"""
  assert operations(text) == 2 * macs


def test_collectives_of_one_kind_keep_their_sizes():
  text = """\
HloModule m

ENTRY %main (a: f32[8], b: f32[2]) -> f32[8] {
  %a = f32[8]{0} parameter(0)
  %b = f32[2]{0} parameter(1)
  %r.1 = f32[8]{0} all-reduce(%a), replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add
  %r.2 = f32[2]{0} all-reduce(%b), replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add
  ROOT %r.3 = f32[8]{0} all-reduce(%r.1), replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add
}
"""
  (one,) = collectives.read(hlo.Program(text), MESH)
  assert (one.count, one.bytes, one.sizes) == (3, 72, ((32, 2), (8, 1)))
