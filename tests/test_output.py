# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""JSON that any parser reads, and names that fit a line."""

import json
import os
import pathlib

import pytest

from vit_jax import output


def strict(text):
  """Parses as RFC 8259 has it: no NaN, and no half of a surrogate pair."""

  def refuse(constant):
    raise ValueError(constant)

  value = json.loads(text, parse_constant=refuse)
  json.dumps(value, ensure_ascii=False).encode("utf-8")
  return value


def test_what_json_does_not_have_is_null():
  value = {"a": [float("nan"), (1.5, float("inf"))], "b": {"c": -float("inf")}, "d": None, "e": 3}
  expected = {"a": [None, [1.5, None]], "b": {"c": None}, "d": None, "e": 3}
  assert strict(output.to_json(value)) == strict(output.to_json(value, indent=1)) == expected


def test_commands_and_the_files_of_a_run_are_written_by_it():
  package = pathlib.Path(output.__file__).parent
  files = [*(package / "cli").glob("*.py"), package / "training" / "records.py"]
  files += [package / "training" / name for name in ("results.py", "progress.py")]
  assert len(files) > 10
  assert [path.name for path in files if "json.dump" in path.read_text()] == []


@pytest.mark.parametrize(
  "name, in_json, in_a_line",
  [
    (os.fsdecode(b"caf\xe9.png"), "caf\\xe9.png", "caf\\xe9.png"),
    (os.fsdecode(b"\xff\xfe/\xe3\x81\x82"), "\\xff\\xfe/あ", "\\xff\\xfe/あ"),
    ("cut \ud83d", "cut \\ud83d", "cut \\ud83d"),
    ("two\nlines\x1b[2J\u2028", "two\nlines\x1b[2J\u2028", "two\\nlines\\x1b[2J\\u2028"),
    ("寿司 crème\u202fbrûlée 😀", "寿司 crème\u202fbrûlée 😀", "寿司 crème\u202fbrûlée 😀"),
  ],
)
def test_names_of_any_bytes(name, in_json, in_a_line):
  assert strict(output.to_json([name, {name: name}])) == [in_json, {in_json: in_json}]
  assert output.printable(name) == in_a_line
