# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Weight maps as tables: what a row means, and one function a direction that applies any table.

The tables themselves are beside the families they are of: `torch`, `bit`.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from vit_jax.errors import UserError
from vit_jax.params.tree import STATISTICS, Flat


@dataclasses.dataclass(frozen=True)
class How:
  """One array of theirs, and the arrays of ours that it stands for.

  Attributes:
    to_ours: (array, number of our arrays, attention heads) -> our arrays.
    to_theirs: our arrays -> array.
  """

  to_ours: Callable[[np.ndarray, int, int], Sequence[np.ndarray]]
  to_theirs: Callable[[Sequence[np.ndarray]], np.ndarray]


def _transposed(axes: tuple[int, ...], x: np.ndarray) -> np.ndarray:
  # A tensor of another rank stays as it is: the comparison of shapes then tells of it.
  return x.transpose(axes) if x.ndim == len(axes) else x


def _reshaped(x: np.ndarray, *shape: int) -> np.ndarray:
  return x.reshape(shape) if x.size == np.prod(shape) else x


def _heads_out(tensor: np.ndarray, parts: int, heads: int) -> list[np.ndarray]:
  """[parts * dim, dim in] -> parts times [dim in, heads, dim head]; a bias without `dim in`."""
  width = tensor.shape[0] // (parts * heads)
  pieces = np.split(tensor, parts) if tensor.shape[0] % parts == 0 else [tensor] * parts
  return [_reshaped(p.T, *p.shape[1:], heads, width) for p in pieces]


def _heads_out_back(arrays: Sequence[np.ndarray]) -> np.ndarray:
  return np.concatenate([a.reshape(*a.shape[:-2], -1).T for a in arrays])


def _heads_in(tensor: np.ndarray, parts: int, heads: int) -> list[np.ndarray]:
  """[dim out, dim] -> [heads, dim head, dim out]."""
  del parts
  return [_reshaped(tensor.T, heads, tensor.shape[-1] // heads, tensor.shape[0])]


COPY = How(lambda x, *_: [x], lambda xs: xs[0])
LINEAR = How(
  lambda x, *_: [_transposed((1, 0), x)], lambda xs: _transposed((1, 0), xs[0])
)  # [out, in] <-> [in, out]
CONV = How(
  lambda x, *_: [_transposed((2, 3, 1, 0), x)], lambda xs: _transposed((3, 2, 0, 1), xs[0])
)  # OIHW <-> HWIO
HEADS_OUT = How(_heads_out, _heads_out_back)
HEADS_IN = How(_heads_in, lambda xs: xs[0].reshape(-1, xs[0].shape[-1]).T)

# (their name, our path or paths, how). {i} and {j} stand for a number, {i+1} for the one after it,
# {i:02} for its two digits.
Table = list[tuple[str, str | tuple[str, ...], How]]


def norm(theirs: str, ours: str) -> list[tuple[str, str, How]]:
  return [(f"{theirs}.weight", f"{ours}/scale", COPY), (f"{theirs}.bias", f"{ours}/bias", COPY)]


def batch_norm(theirs: str, ours: str) -> list[tuple[str, str, How]]:
  """Parameters and running statistics; the number of batches is in no table, see `COUNTERS`."""
  return [
    *norm(theirs, ours),
    (f"{theirs}.running_mean", f"{STATISTICS}{ours}/mean", COPY),
    (f"{theirs}.running_var", f"{STATISTICS}{ours}/var", COPY),
  ]


# PyTorch's batch norms count their batches, which nothing reads unless their momentum is None.
COUNTERS = ".num_batches_tracked"


def without_counters(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  return {name: value for name, value in state.items() if not name.endswith(COUNTERS)}


def with_counters(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Adds the count of batches, 0, beside every running mean: PyTorch loads no file without it."""
  end = ".running_mean"
  norms = [name.removesuffix(end) for name in state if name.endswith(end)]
  return {**state, **{f"{name}{COUNTERS}": np.zeros((), np.int64) for name in norms}}


def dense(theirs: str, ours: str, how: How = LINEAR) -> list[tuple[str, str, How]]:
  return [(f"{theirs}.weight", f"{ours}/kernel", how), (f"{theirs}.bias", f"{ours}/bias", COPY)]


_NUMBER = re.compile(r"\{(\w)(\+\d+)?(:02)?\}")


@functools.cache
def _pattern(template: str) -> re.Pattern[str]:
  text, end = "", 0
  for slot in _NUMBER.finditer(template):
    digits = r"\d{2,}" if slot[3] else r"\d+"
    text += f"{re.escape(template[end : slot.start()])}(?P<{slot[1]}>{digits})"
    end = slot.end()
  return re.compile(f"{text}{re.escape(template[end:])}$")


def _matched(template: str, name: str) -> dict[str, int] | None:
  """The numbers for which `template` is `name`, or None."""
  match = _pattern(template).match(name)
  return match and {
    slot[1]: int(match[slot[1]]) - int(slot[2] or 0) for slot in _NUMBER.finditer(template)
  }


def _filled(template: str, numbers: Mapping[str, int]) -> str:
  fill = lambda slot: f"{numbers[slot[1]] + int(slot[2] or 0):0{2 if slot[3] else 1}}"
  return _NUMBER.sub(fill, template)


def _paths(ours: str | tuple[str, ...]) -> tuple[str, ...]:
  return (ours,) if isinstance(ours, str) else ours


def to_ours(state: Mapping[str, np.ndarray], table: Table, heads: int) -> tuple[Flat, list[str]]:
  """Applies a table to arrays by their names.

  Args:
    state: arrays by their names.
    table: rows (their name, our path or paths, how).
    heads: attention heads, which the names and shapes of a fused projection do not tell.

  Returns:
    Our arrays by path, and the names that no row of the table knows.
  """
  flat, unknown = {}, []
  for name, tensor in state.items():
    for theirs, ours, how in table:
      numbers = _matched(theirs, name)
      if numbers is not None:
        paths = _paths(ours)
        arrays = how.to_ours(tensor, len(paths), heads)
        flat.update((_filled(p, numbers), array) for p, array in zip(paths, arrays, strict=True))
        break
    else:
      unknown.append(f"{name} {tuple(tensor.shape)}")
  return flat, unknown


def to_theirs(flat: Mapping[str, np.ndarray], table: Table) -> tuple[Flat, list[str]]:
  """Applies a table backwards: arrays by their names, and our paths that it has no name for."""
  state, used = {}, set()
  for theirs, ours, how in table:
    first, *_ = paths = _paths(ours)
    for path in flat:
      numbers = _matched(first, path)
      if numbers is None:
        continue
      mine = [_filled(p, numbers) for p in paths]
      used.update(mine)
      state[_filled(theirs, numbers)] = np.ascontiguousarray(how.to_theirs([flat[p] for p in mine]))
  return state, [path for path in flat if path not in used]


# What to do about paths that a format has no name for.
SAVE_NPZ = "save an .npz file, which keeps everything"
TAKE_OUT = "take them out of variables['params']"


def refuse_left(where: str, left: Sequence[str], instead: str = SAVE_NPZ) -> None:
  """Raises a UserError that names our paths that `where` has no name for, if there are any."""
  if left:
    raise UserError(f"{where} has no place for {', '.join(left)}; {instead}.")
