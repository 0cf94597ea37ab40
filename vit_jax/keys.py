# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""How a config key is declared, and how its values are read: names, types, ranges, and "none".

A key is a field of a dataclass; `key` adds to it what the type does not tell.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import functools
import math
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from vit_jax.errors import UserError

NONE = ("", "None", "none")  # How a command line, which has no None, writes it.
_MISSING = dataclasses.MISSING


@dataclasses.dataclass(frozen=True)
class Range:
  """Finite numbers from `low` to `high`.

  Attributes:
    low, high: the ends; both belong to it, unless `open` has "(" or ")".
    words: what a value "should", in place of the usual words.
    also: values beyond the ends, such as -1 for "all that are left".
  """

  low: float = -math.inf
  high: float = math.inf
  open: str = ""
  words: str = ""
  also: tuple[int, ...] = ()

  def __contains__(self, value: Any) -> bool:
    """Whether a number, or each of a tuple, is in the range; what is no number always is."""
    if isinstance(value, tuple):
      return all(v in self for v in value)
    if not isinstance(value, int | float) or isinstance(value, bool) or value in self.also:
      return True
    above = value > self.low if "(" in self.open else value >= self.low
    below = value < self.high if ")" in self.open else value <= self.high
    return above and below and abs(value) < math.inf  # NaN compares as False.

  def __str__(self) -> str:
    if self.words:
      return self.words
    if math.isinf(self.low):
      return "be a finite number"
    if math.isinf(self.high):
      return "be positive" if (self.low, self.open) == (0, "(") else f"be at least {self.low}"
    ends = "(" if "(" in self.open else "[", ")" if ")" in self.open else "]"
    return f"be in {ends[0]}{self.low}, {self.high}{ends[1]}"


FINITE = Range()
POSITIVE = Range(0, open="(")
NOT_NEGATIVE = Range(0, words="not be negative")
AT_LEAST_0 = Range(0)
AT_LEAST_1 = Range(1)
BELOW_1 = Range(0, 1, open=")")


def out_of_range(name: str, value: Any, values: Range, advice: str = "") -> str:
  """The sentence on a value out of range; `advice` ends it."""
  numbers = value if isinstance(value, tuple) else (value,)
  finite = "" if all(abs(number) < math.inf for number in numbers) else ", and be a finite number"
  return f"{name}={value!r} should {values}{finite}{advice}."


def key(
  default: Any = _MISSING,
  values: Range | None = None,
  *,
  off: float | None = None,
  none: Any = None,
  advice: str = "",
) -> Any:
  """Declares a key, as a field of a dataclass.

  Args:
    default: without one the key has to be set.
    values: the numbers that it takes, or that a tuple of it has.
    off: a number that means None, such as 0 for an average that is not made.
    none: what stands for NONE, where that is not None.
    advice: what ends "should be ...", or follows "set it to ..." where a key has no default.
  """
  metadata = {"values": values, "off": off, "none": none, "advice": advice}
  return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Key:
  """A key as it was declared, see `key`; `nones` are the words for None, if it may be None."""

  hint: Any
  default: Any = None
  nones: tuple[str, ...] = ()
  values: Range | None = None
  off: float | None = None
  none: Any = None
  advice: str = ""

  def is_none(self, value: Any) -> bool:
    """Whether a value is a way to write None."""
    if isinstance(value, str):
      return value in self.nones
    return self.off is not None and value == self.off and not isinstance(value, bool)

  def parse(self, text: str) -> Any:
    """The value that a command line writes so. Raises ValueError with what is expected."""
    if text in self.nones:
      return self.none
    # To a key with a default "none" may be a word, as to pp.train_crop.
    refused = NONE if self.default is _MISSING else NONE[:2]
    alternatives = [] if text in refused else _alternatives(self.hint)
    for hint in alternatives:
      value = _parse(text, hint, wrap=len(alternatives) == 1)
      if value is not None and fits(value, hint):
        return value
    expected = " or ".join(map(name_of, _alternatives(self.hint)))
    if text in NONE:
      raise ValueError(f"cannot be none; set it to {expected}")
    raise ValueError(f"is not {expected}{' or none' * bool(self.nones)}")

  def kind(self) -> type:
    """The type of a ConfigDict's field for it."""
    kinds = {_kind(hint) for hint in _alternatives(self.hint)}
    return kinds.pop() if len(kinds) == 1 else object


@functools.cache
def declared(cls: type) -> Mapping[str, Key]:
  """The keys of a dataclass, sections included."""
  hints, found = typing.get_type_hints(cls), {}
  for field in (f for f in dataclasses.fields(cls) if f.init):
    optional = fits(None, hints[field.name]) or field.metadata.get("none") is not None
    nones = NONE if optional else ()
    found[field.name] = Key(hints[field.name], field.default, nones, **field.metadata)
  return found


def flat(cls: type, prefix: str = "") -> dict[str, Key]:
  """The keys of a dataclass by their paths, those of its sections among them: "pp.crop"."""
  found = {}
  for name, key in declared(cls).items():
    [inner, *others] = _alternatives(key.hint)
    if not others and dataclasses.is_dataclass(inner):
      found |= flat(inner, f"{prefix}{name}.")
    else:
      found[prefix + name] = key
  return found


def _alternatives(hint: Any) -> list[Any]:
  """The types of a union but None; last those that more texts can be read as."""
  union = typing.get_origin(hint) in (typing.Union, types.UnionType)
  hints = [a for a in typing.get_args(hint) if a is not type(None)] if union else [hint]
  return sorted(hints, key=lambda a: {float: 1, tuple: 2, str: 3}.get(_kind(a), 0))


def _kind(hint: Any) -> type:
  """The plain type of what is no union; `object` for the others."""
  origin, args = typing.get_origin(hint), typing.get_args(hint)
  kind = type(args[0]) if origin is Literal else origin or hint
  return kind if kind in (int, float, bool, str, tuple) else object


_BOOLS = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}


def _parse(text: str, hint: Any, wrap: bool) -> Any:
  """Reads one type; None if the text is nothing of the kind. `wrap` makes tuples of single ones."""
  kind = _kind(hint)
  if kind is str:
    return text
  if kind is bool:
    return _BOOLS.get(text.lower())
  try:
    value = kind(text) if kind in (int, float) else ast.literal_eval(text)
  except (ValueError, SyntaxError):
    value = text if kind is tuple else None
  if kind is tuple:
    return tuple(value) if isinstance(value, list | tuple) else (value,) if wrap else None
  named = not isinstance(value, Mapping) or all(isinstance(name, str) for name in value)
  return value if named else None


def refuse_removed(keys: Mapping[str, Any], removed: Mapping[str, str], prefix: str = "") -> None:
  """Raises UserError for a key that `removed` has a hint for."""
  for key in keys:
    if key in removed and keys[key] is not None:
      inner = next(iter(keys[key])) if isinstance(keys[key], Mapping) and keys[key] else ""
      raise UserError(
        f"config.{prefix}{key} is a key that vit_jax does not have; "
        f"{removed[key].format(inner=inner)}."
      )


def closest(path: str, known: Iterable[str]) -> str:
  """The end of a sentence on an unknown key: the nearest known ones, three at most."""

  def likeness(name: str) -> float:
    ends = (path.rpartition(".")[2], name.rpartition(".")[2])
    ratio = lambda a, b: difflib.SequenceMatcher(None, a.lower(), b.lower()).ratio()
    return max(ratio(path, name), ratio(*ends))

  path = str(path)
  ranked = sorted(((likeness(name), name) for name in {*known}), reverse=True)[:3]
  near = [name for ratio, name in ranked if ratio >= 0.5] or [name for _, name in ranked]
  return f"; did you mean {' or '.join(map(repr, near))}?"


def section(keys: Mapping[str, Any], name: str) -> dict[str, Any]:
  """Returns a copy of a section of a config; empty if it is absent or None."""
  inner = keys.get(name)
  if hasattr(inner, "to_dict"):  # A ConfigDict in a dict.
    inner = inner.to_dict()
  if inner is not None and not isinstance(inner, Mapping):
    raise UserError(
      f"config.{name} should be a ConfigDict of its own keys, but is {inner!r}; "
      f"write config.{name} = ml_collections.ConfigDict(...)."
    )
  return dict(inner or {})


def read(
  cls: type,
  keys: Mapping[str, Any],
  prefix: str,
  given: Mapping | None = None,
  *,
  saved: bool = False,
) -> Any:
  """Builds a dataclass from the keys of a config section.

  Args:
    cls: a dataclass with type hints; its defaults are the keys' defaults.
    keys: the section. None stands for the default, unless the key may be None; then NONE and the
      number that turns it off stand for None too.
    prefix: of the section, for messages.
    given: fields that are ready.
    saved: whether a run has written the keys; then all values stand for themselves.

  Raises:
    UserError: for a key that is unknown, missing, of the wrong type or out of range.
  """
  given = dict(given or {})
  fields = {name: key for name, key in declared(cls).items() if name not in given}
  for name in keys:
    if name not in fields:
      near = closest(name, [*fields, *given])
      raise UserError(f"config.{prefix}{name} is not a known key{near}")
  for name, key in fields.items():
    value, is_set = keys.get(name), name in keys and (saved or fits(None, key.hint))
    if not saved and key.is_none(value):
      value = key.none
    if (value is None and not is_set) or (value == "" and key.default is _MISSING):
      if key.default is _MISSING:
        what = key.advice or name_of(key.hint)
        raise UserError(f"config.{prefix}{name} is missing; set it to {what}.")
      continue
    value = tuple(value) if isinstance(value, list) else value
    if not fits(value, key.hint):
      raise UserError(f"config.{prefix}{name}={value!r} is not {name_of(key.hint)}.")
    if key.values is not None and value not in key.values and not saved:
      raise UserError(out_of_range(f"config.{prefix}{name}", value, key.values, key.advice))
    given[name] = value
  return cls(**given)


def fits(value: Any, hint: Any) -> bool:
  """Whether a value is of the type that a field is declared with."""
  origin, args = typing.get_origin(hint), typing.get_args(hint)
  if hint is Any:
    return True
  if origin in (typing.Union, types.UnionType):
    return any(fits(value, a) for a in args)
  if origin is Literal:
    return value in args and isinstance(value, type(args[0]))
  if origin is tuple or hint is tuple:
    if not isinstance(value, tuple):
      return False
    if not args or args[-1] is Ellipsis:
      return all(fits(v, args[0]) for v in value) if args else True
    return len(value) == len(args) and all(map(fits, value, args))
  if hint is float:  # Of integers those that float can hold.
    return isinstance(value, float) or (fits(value, int) and abs(value) < 2**1023)
  if hint is int:
    return isinstance(value, int) and not isinstance(value, bool)
  return isinstance(value, origin or (type(None) if hint is None else hint))


def name_of(hint: Any) -> str:
  """A type in words."""
  origin, args = typing.get_origin(hint), typing.get_args(hint)
  if origin in (typing.Union, types.UnionType):
    return " or ".join(name_of(a) for a in args)
  if origin is Literal:
    return " or ".join(repr(a) for a in args)
  if origin is tuple:
    return "a tuple of " + " and ".join(name_of(a) for a in args if a is not Ellipsis)
  words = {int: "an integer", float: "a number", str: "a string", bool: "True or False"}
  return words.get(hint, "None" if hint is type(None) else "a dict")
