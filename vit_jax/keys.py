# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Reads sections of a config into dataclasses, with names and types checked."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal

from vit_jax.errors import UserError, nearest


def refuse_removed(keys: Mapping[str, Any], removed: Mapping[str, str], prefix: str = "") -> None:
  """Raises UserError for a key that `removed` has a hint for."""
  for key in keys:
    if key in removed and keys[key] is not None:
      inner = next(iter(keys[key])) if isinstance(keys[key], Mapping) and keys[key] else ""
      raise UserError(
        f"config.{prefix}{key} is a key that vit_jax does not have; "
        f"{removed[key].format(inner=inner)}."
      )


def section(keys: Mapping[str, Any], name: str) -> dict[str, Any]:
  """Returns a copy of a section of a config; empty if it is absent or None."""
  inner = keys.get(name)
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
    keys: the section. None stands for the default, unless the field may be None; "" for None.
    prefix: of the section, for messages.
    given: fields that are ready.
    saved: whether a run has written the keys; then None and "" stand for themselves.

  Raises:
    UserError: for a key that is unknown, missing or of the wrong type.
  """
  given = dict(given or {})
  hints = typing.get_type_hints(cls)
  fields = {f.name: f for f in dataclasses.fields(cls) if f.init and f.name not in given}
  for key in keys:
    if key not in fields:
      known = [*fields, *given]
      near = nearest(key, known) or f"; known are {', '.join(sorted(known))}."
      raise UserError(f"config.{prefix}{key} is not a known key{near}")
  for name, field in fields.items():
    value, optional = keys.get(name), fits(None, hints[name])
    if value == "" and optional and not saved:  # `--config.KEY=`, since a command line has no None.
      value = None
    if value is None and not (name in keys and (optional or saved)):
      if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
        raise UserError(f"config.{prefix}{name} is missing; set it to {_name(hints[name])}.")
      continue
    value = tuple(value) if isinstance(value, list) else value
    if not fits(value, hints[name]):
      raise UserError(f"config.{prefix}{name}={value!r} is not {_name(hints[name])}.")
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
  if hint is float:
    return isinstance(value, int | float) and not isinstance(value, bool)
  if hint is int:
    return isinstance(value, int) and not isinstance(value, bool)
  return isinstance(value, origin or (type(None) if hint is None else hint))


def _name(hint: Any) -> str:
  origin, args = typing.get_origin(hint), typing.get_args(hint)
  if origin in (typing.Union, types.UnionType):
    return " or ".join(_name(a) for a in args)
  if origin is Literal:
    return " or ".join(repr(a) for a in args)
  if origin is tuple:
    return "a tuple of " + " and ".join(_name(a) for a in args if a is not Ellipsis)
  words = {int: "an integer", float: "a number", str: "a string", bool: "True or False"}
  return words.get(hint, "None" if hint is type(None) else "a dict")
