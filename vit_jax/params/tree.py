# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Flat views of a parameter tree, and the comparison of what a file has with what a model needs.

Checkpoints are handled flat, `{"Transformer/encoder_norm/scale": array, ...}`, one entry per layer
even where the model scans over its layers; only `to_tree` and `from_tree` know about stacking.
"""

import functools
import itertools
import logging
import math
import re
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from vit_jax.errors import UserError

logger = logging.getLogger(__name__)

Flat = dict[str, np.ndarray]

# Before the paths of what is no parameter, but belongs to them: the running statistics of batch
# norms, which a model has in a collection of this name.
STATISTICS = "batch_stats/"

LAYER = re.compile(r"^(.*\b(?:encoderblock|MixerBlock))_(\d+)/(.*)$")
SCANNED = re.compile(r"^(.*\b(?:encoderblock|MixerBlock))/(.*)$")


def aligned_empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
  """An uninitialised array at an address that lets JAX's CPU backend take it without a copy."""
  alignment = 64
  size = math.prod(shape) * dtype.itemsize
  buffer = np.empty(size + alignment, np.uint8)
  start = -buffer.ctypes.data % alignment
  return buffer[start : start + size].view(dtype).reshape(shape)


def unstack_layers(flat: Mapping[str, Any]) -> dict[str, Any]:
  """Splits scanned leaves `encoderblock/x` [layers, ...] into `encoderblock_{i}/x` [...]."""
  result = {}
  for path, value in flat.items():
    match = SCANNED.match(path)
    if not match:
      result[path] = value
      continue
    for layer in range(value.shape[0]):
      result[f"{match[1]}_{layer}/{match[2]}"] = value[layer]
  return result


def stack_layers(flat: Mapping[str, np.ndarray]) -> Flat:
  """Stacks `encoderblock_{i}/x` [...] into `encoderblock/x` [layers, ...]: the inverse."""
  return dict(_taken_out(dict(flat), scanned=True))


def _taken_out(flat: Flat, *, scanned: bool) -> Iterator[tuple[str, np.ndarray]]:
  """Empties `flat` leaf by leaf; with `scanned` the layers of a leaf come stacked."""
  leaves: dict[str, dict[int, str]] = {}  # Path in the tree -> layer -> path in `flat`.
  for path in flat:
    match = LAYER.match(path) if scanned else None
    leaf, layer = (f"{match[1]}/{match[3]}", int(match[2])) if match else (path, 0)
    leaves.setdefault(leaf, {})[layer] = path
  for leaf, layers in leaves.items():
    if leaf in flat:
      yield leaf, flat.pop(leaf)
    else:
      values = [flat.pop(layers[layer]) for layer in sorted(layers)]
      stacked = aligned_empty((len(values), *values[0].shape), values[0].dtype)
      np.stack(values, out=stacked)
      del values
      yield leaf, stacked
      del stacked


def as_float32(flat: Mapping[str, np.ndarray]) -> Flat:
  """Half-precision and double arrays as float32, which is logged.

  Raises:
    UserError: an array is not of floating point numbers.
  """
  result, others = {}, set()
  for name, value in flat.items():
    if value.dtype == np.dtype("V2"):  # NumPy's files keep bfloat16 as two bytes without a type.
      value = value.view(ml_dtypes.bfloat16)
    if value.dtype != np.float32:
      if value.dtype.kind != "f" and value.dtype != ml_dtypes.bfloat16:
        raise UserError(
          f"{name} has dtype {value.dtype}, but parameters are floating point numbers."
        )
      others.add(str(value.dtype))
      value = value.astype(np.float32)
    result[name] = value
  if others:
    logger.info("Converted to float32 from %s.", ", ".join(sorted(others)))
  return result


def from_tree(params: Mapping[str, Any]) -> Flat:
  """A parameter tree as flat NumPy arrays, per layer even if the model scans."""
  flat = flax.traverse_util.flatten_dict(params, sep="/")
  return unstack_layers({path: np.asarray(value) for path, value in flat.items()})


def from_variables(variables: Mapping[str, Any]) -> Flat:
  """Parameters, and batch statistics if there are some, as flat NumPy arrays."""
  flat = from_tree(variables["params"])
  statistics = from_tree(variables.get(STATISTICS[:-1], {}))
  return flat | {STATISTICS + path: value for path, value in statistics.items()}


def to_variables(flat: Flat, *, scanned: bool) -> dict[str, Any]:
  """The inverse of `from_variables`, to `jax.Array`s; empties `flat`, see `to_tree`."""
  statistics = {
    path.removeprefix(STATISTICS): flat.pop(path) for path in [*flat] if path.startswith(STATISTICS)
  }
  variables = {"params": to_tree(flat, scanned=scanned)}
  if statistics:
    variables[STATISTICS[:-1]] = to_tree(statistics, scanned=scanned)
  return variables


def to_tree(flat: Flat, *, scanned: bool) -> dict[str, Any]:
  """Flat arrays as a nested tree of `jax.Array`s; with `scanned` the layers are stacked.

  Empties `flat`: every array is dropped as soon as the device has it, and layers are stacked one
  leaf at a time, so that little more than one copy of the parameters is in memory.
  """
  arrays = {}
  for path, value in _taken_out(flat, scanned=scanned):
    # The transfer is asynchronous, and holds the NumPy array until it is done.
    arrays[path] = jax.device_put(value).block_until_ready()
    del value  # Or it would live while the next leaf is stacked.
  return flax.traverse_util.unflatten_dict(arrays, sep="/")


def is_scanned(model: nn.Module) -> bool:
  """Whether the model keeps its layers stacked."""
  return bool(getattr(model, "scan_layers", False))


def expected_shapes(
  model: nn.Module, image_size: tuple[int, int], channels: int = 3
) -> Mapping[str, tuple[int, ...]]:
  """Shape of every leaf of `model` at an image size, flat and per layer, without computing.

  Leaves are the parameters, and batch statistics under STATISTICS.
  """
  return input_shapes(model, jax.ShapeDtypeStruct((1, *image_size, channels), jnp.float32))


@functools.lru_cache(maxsize=64)
def input_shapes(model: nn.Module, x: jax.ShapeDtypeStruct) -> Mapping[str, tuple[int, ...]]:
  """Shape of every leaf of a model, or of a tower, for an input of this shape and dtype.

  Tracing takes most of the time of opening a small file, so what is known is kept.
  """
  # One traced layer stands for all of them, which keeps this quick for deep models.
  quick = model.clone(scan_layers=True) if hasattr(model, "scan_layers") else model
  variables = jax.eval_shape(lambda key, x: quick.init(key, x, train=False), jax.random.key(0), x)
  shapes = {}
  leaves = flax.traverse_util.flatten_dict(variables["params"], sep="/")
  statistics = flax.traverse_util.flatten_dict(variables.get(STATISTICS[:-1], {}), sep="/")
  leaves |= {STATISTICS + path: leaf for path, leaf in statistics.items()}
  for path, leaf in leaves.items():
    match = SCANNED.match(path) if quick is not model or is_scanned(model) else None
    if not match:
      shapes[path] = leaf.shape
      continue
    for layer in range(leaf.shape[0]):
      shapes[f"{match[1]}_{layer}/{match[2]}"] = leaf.shape[1:]
  return types.MappingProxyType(shapes)


def _ranges(numbers: Iterable[int]) -> str:
  """[0, 1, 2, 5] -> "0..2,5"."""
  numbers = sorted(set(numbers))
  spans: list[list[int]] = []
  for number in numbers:
    if spans and number == spans[-1][1] + 1:
      spans[-1][1] = number
    else:
      spans.append([number, number])
  return ",".join(f"{low}" if low == high else f"{low}..{high}" for low, high in spans)


# Where a path counts layers: ours by these words, other libraries' between dots. Names that tell
# parts of one block apart, LayerNorm_0 and LayerNorm_1, are no such count.
INDEX = re.compile(
  r"(?:(?<=encoderblock_)|(?<=MixerBlock_)|(?<=_block_)|(?<=_residual_)|(?<=/unit)|(?<=/blocks_)"
  r"|(?<=\blayers_)|(?<=\bblock)|(?<=\.))(\d+)(?=[/._ ]|$)"
)
MOST_LINES = 10  # Of a mismatch; more would not be read.


def _folded(lines: Iterable[str]) -> dict[str, int]:
  """Lines that differ only in an index as one, "encoderblock_{0..11}/...", and how many they were.

  The last index is folded first: lines whose other indexes differ become one where all that has
  been folded agrees, as in "layers_{0..1}/blocks_{0..1}/...". None is left out.
  """
  folded = {tuple(INDEX.split(line)): 1 for line in lines}  # Text, index, text, ..., text.
  for place in range(max(map(len, folded), default=1) - 2, 0, -2):
    groups: dict[tuple, dict[str, int]] = {}
    for parts, count in folded.items():
      here = parts[place] if place < len(parts) else ""
      groups.setdefault((*parts[:place], None, *parts[place + 1 :]), {})[here] = count
    folded = {}
    for key, layers in groups.items():
      label = next(iter(layers)) if len(layers) == 1 else f"{{{_ranges(map(int, layers))}}}"
      parts = (*key[:place], label, *key[place + 1 :]) if label else key[:place]
      folded[parts] = sum(layers.values())
  return {"".join(parts): count for parts, count in folded.items()}


def _most_telling(folded: Mapping[str, int]) -> list[str]:
  """The lines of `_folded`, those first that say most.

  Where lines end in shapes, one for each shape comes before all others: a kernel rather than its
  bias, and what stands for most layers. What is outside of the layers comes before what is inside.
  """
  plain = lambda line: line.partition(" ")[0]
  is_bias = lambda line: line != plain(line) and plain(line).endswith("bias")
  first: dict[str, str] = {}  # By shape.
  for line in sorted(folded, key=lambda x: (is_bias(x), -folded[x], -len(plain(x)))):
    shape = line.removeprefix(plain(line))
    first.setdefault(shape or line, line)
  again = {*folded} - {*first.values()}
  inside = lambda line: folded[line] > 1 or INDEX.search(plain(line)) is not None
  return sorted(folded, key=lambda x: (x in again, is_bias(x), inside(x)))


def differences(
  have: Mapping[str, Any], expected: Mapping[str, tuple[int, ...]], also_extra: Iterable[str] = ()
) -> str:
  """What is missing, extra and of the wrong shape, as one clause; "" if all fits.

  All of it where MOST_LINES are enough for that, else the most telling lines and how many more.

  Args:
    have: arrays by path.
    expected: shapes by path.
    also_extra: names in the file that stand for no parameter of ours.
  """
  missing = [path for path in expected if path not in have]
  extra = [f"{path} {tuple(have[path].shape)}" for path in have if path not in expected]
  shapes = [
    f"{path} is {tuple(have[path].shape)}, expected {tuple(shape)}"
    for path, shape in expected.items()
    if path in have and tuple(have[path].shape) != tuple(shape)
  ]
  groups = {"missing": missing, "extra": [*extra, *also_extra], "of another shape": shapes}
  groups = {label: lines for label, lines in groups.items() if lines}
  folded = {label: _folded(lines) for label, lines in groups.items()}
  # One line of each in turn, until there are enough.
  turns = itertools.zip_longest(*map(_most_telling, folded.values()))
  chosen = [(n, line) for turn in turns for n, line in enumerate(turn) if line is not None]
  chosen = {*chosen[:MOST_LINES]}
  clauses = []
  for n, (label, lines) in enumerate(folded.items()):
    shown = [line for line in lines if (n, line) in chosen]
    more = len(groups[label]) - sum(lines[line] for line in shown)
    rest = f", and {more} more" if more else ""
    clauses.append(f"{len(groups[label])} {label}: {', '.join(shown)}{rest}")
  return "; ".join(clauses)
