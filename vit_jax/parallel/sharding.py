# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Which axis of the mesh each array of a state lies along: a table of parameter paths.

Optimizer and average hold trees of the parameters' shapes, whose paths end alike; so the one table
is right for a whole `TrainState`, and for variables.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import re
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
from jax.sharding import NamedSharding, PartitionSpec

from vit_jax.errors import UserError
from vit_jax.parallel import mesh as mesh_lib
from vit_jax.params import tree as tree_lib

# The end of a path, and the axes of such an array, without that of scanned layers. In a pair of
# matrices the first is split by its outputs and the second by its inputs, so that only the sum of
# what the second gives has to travel: section 3 of arXiv:1909.08053. An axis whose size is no
# multiple is left whole. () is never split; LONGEST is for `fsdp` alone, see `spec`.
LONGEST = None
TABLE = (
  # Heads of their own axis: ViT, DeiT, hybrids, text towers, MobileViT.
  (r"MultiHeadDotProductAttention_\d+/(query|key|value)/kernel", ("fsdp", "tensor", None)),
  (r"MultiHeadDotProductAttention_\d+/(query|key|value)/bias", ("tensor", None)),
  (r"MultiHeadDotProductAttention_\d+/out/kernel", ("tensor", None, "fsdp")),
  # Heads side by side: Swin, and MobileViTV2's one head.
  (r"attention/(query|key|value)/kernel", ("fsdp", "tensor")),
  (r"attention/(query|key|value)/bias", ("tensor",)),
  (r"attention/out/kernel", ("tensor", "fsdp")),
  # All families' MLPs.
  (r"(MlpBlock_\d+|(token|channel)_(mixing|mlp))/Dense_0/kernel", ("fsdp", "tensor")),
  (r"(MlpBlock_\d+|(token|channel)_(mixing|mlp))/Dense_0/bias", ("tensor",)),
  (r"(MlpBlock_\d+|(token|channel)_(mixing|mlp))/Dense_1/kernel", ("tensor", "fsdp")),
  # Rows are looked up, so they stay whole: tables of tokens and positions, and learned tokens.
  (r"(\w*embedding|Embed_\d+)/embedding", (None, "fsdp")),
  (r"pos_embedding|(row|column)_embedding|table|relative_position_bias_table", (None, "fsdp")),
  (r"cls|dist|reg|probe", (None, "fsdp")),
  # Vectors and scalars: under 1% of the bytes, and one more thing to wait for in every layer.
  (r"bias|scale|gamma|layer_scale_\d+|logit_scale|t|b|mean|var", ()),
  (r"kernel|classes", LONGEST),
)
_TABLE = [(re.compile(f"(^|/)({end})$"), axes) for end, axes in TABLE]


def spec(path: str, shape: tuple[int, ...], sizes: dict[str, int]) -> PartitionSpec:
  """The axes of one array.

  Args:
    path: separated by slashes, "params/Transformer/encoderblock_0/MlpBlock_0/Dense_0/kernel".
    shape: of the whole array; that of scanned layers begins with their number.
    sizes: of the mesh's axes.

  Returns:
    What `TABLE` says, of the axes that are multiples. A matrix or kernel that gets no `fsdp` there,
    or is not in it, is split over it along its longest axis that is a multiple.
  """
  layers = 1 if tree_lib.SCANNED.match(path) else 0
  own = shape[layers:]
  row = next((axes for end, axes in _TABLE if end.search(path)), LONGEST)
  # Fewer axes than the row has: what an optimizer keeps of a matrix's rows or columns.
  axes = row if row and len(row) <= len(own) else ()
  axes = [None] * (len(own) - len(axes)) + list(axes)
  axes = [
    axis if axis and sizes[axis] > 1 and size % sizes[axis] == 0 else None
    for axis, size in zip(axes, own, strict=True)
  ]
  is_split = row is LONGEST or "fsdp" in row
  if sizes["fsdp"] > 1 and len(own) > 1 and is_split and "fsdp" not in axes:
    free = [i for i, size in enumerate(own) if axes[i] is None and size % sizes["fsdp"] == 0]
    if free:
      axes[max(free, key=lambda i: own[i])] = "fsdp"
  while axes and axes[-1] is None:
    axes.pop()
  return PartitionSpec(*[None] * layers, *axes) if axes else PartitionSpec()


def shardings(tree: Any, mesh: jax.sharding.Mesh) -> Any:
  """The same tree with the `NamedSharding` of every array (or shape) of a state or of variables."""
  sizes = dict(mesh.shape)
  return jax.tree_util.tree_map_with_path(
    lambda path, x: NamedSharding(mesh, spec(path_of(path), x.shape, sizes)), tree
  )


def path_of(keys: Any) -> str:
  """A path of `jax.tree_util` as names between slashes."""
  return jax.tree_util.keystr(keys, simple=True, separator="/")


@dataclasses.dataclass(frozen=True)
class Row:
  """One array of a state, as the summary shows it.

  Attributes:
    path: separated by slashes.
    shape: of the whole array.
    axes: of the mesh, along the array's axes.
    bytes: of the whole array.
    device_bytes: of it on each device.
  """

  path: str
  shape: tuple[int, ...]
  axes: PartitionSpec
  bytes: int
  device_bytes: int


def summary(tree: Any, mesh: jax.sharding.Mesh) -> list[Row]:
  """Where every array of a state (or of its shapes) lies, in the tree's order."""
  rows = []
  for path, x in jax.tree_util.tree_flatten_with_path(tree)[0]:
    name, size = path_of(path), math.prod(x.shape) * x.dtype.itemsize
    axes = spec(name, x.shape, dict(mesh.shape))
    part = NamedSharding(mesh, axes).shard_shape(x.shape)
    rows.append(Row(name, x.shape, axes, size, math.prod(part) * x.dtype.itemsize))
  return rows


def check(tree: Any, mesh: jax.sharding.Mesh, max_whole: float) -> None:
  """Refuses a mesh that splits less than its `fsdp` or `tensor` promises.

  Args:
    tree: a state's shapes.
    mesh: whose axes are checked.
    max_whole: the share of the bytes that may lie whole along `fsdp`.

  Raises:
    UserError: naming the largest arrays that are whole, or that nothing is split over `tensor`.
  """
  rows = summary(tree, mesh)
  if mesh.shape["tensor"] > 1 and not any("tensor" in row.axes for row in rows):
    raise UserError(
      f"config.mesh.tensor={mesh.shape['tensor']} splits nothing of this model, neither heads nor "
      "hidden units; use fsdp instead, or a size that divides them."
    )
  if mesh.shape["fsdp"] == 1:
    return
  whole = [row for row in rows if "fsdp" not in row.axes]
  share = sum(row.bytes for row in whole) / sum(row.bytes for row in rows)
  if share > max_whole:
    largest = sorted(whole, key=lambda row: -row.bytes)[:3]
    names = ", ".join(f"{row.path} {list(row.shape)}" for row in largest)
    raise UserError(
      f"config.mesh.fsdp={mesh.shape['fsdp']} leaves {share:.0%} of the bytes whole on "
      f"every device ({names}); use a size that divides their axes, or set "
      f"config.mesh.max_whole={share:.2g}."
    )


def describe(tree: Any, mesh: jax.sharding.Mesh) -> str:
  """One line on a state and its mesh."""
  rows = summary(tree, mesh)
  total, each = sum(row.bytes for row in rows), sum(row.device_bytes for row in rows)
  axes = " x ".join(f"{axis} {size}" for axis, size in mesh.shape.items() if size > 1) or "1 device"
  return f"mesh {axes}: state of {total / 1e6:,.1f} MB, {each / 1e6:,.1f} MB on each device"


@contextlib.contextmanager
def examples_stay(mesh: jax.sharding.Mesh, batch: int) -> Iterator[None]:
  """While a model is traced: what each of its modules gives stays with its example's device.

  Without it the compiler may prefer to keep split parameters where they are and to move activations
  instead, which with images are far more. The other axes are the compiler's choice.

  Args:
    mesh: whose batch axes the examples are split over.
    batch: the size of the first axis of what is meant.
  """
  if mesh.size == mesh_lib.data_parallelism(mesh) and mesh.shape["fsdp"] == 1:
    yield  # Parameters are whole, so nothing else could move.
    return

  def stay(x: Any) -> Any:
    if getattr(x, "ndim", 0) < 2 or x.shape[0] != batch:
      return x
    free = [PartitionSpec.UNCONSTRAINED] * (x.ndim - 1)
    sharding = NamedSharding(mesh, PartitionSpec(mesh_lib.BATCH_AXES, *free))
    return jax.lax.with_sharding_constraint(x, sharding)

  def interceptor(call: Any, arguments: Any, options: Any, context: nn.module.InterceptorContext):
    result = call(*arguments, **options)
    return jax.tree.map(stay, result) if context.method_name == "__call__" else result

  with nn.intercept_methods(interceptor):
    yield
