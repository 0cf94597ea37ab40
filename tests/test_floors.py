# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Imports point one way, from an upper floor to a lower one, and never in a circle.

The floors that are finished are listed, the lowest first; a module may import those of its own
floor and below. All imports count, those inside of functions and under TYPE_CHECKING too.
"""

import ast
import pathlib
import subprocess
import sys

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / "vit_jax"
FLOORS = (("errors", "output"), ("keys",), ("params",), ("models",), ("data", "parallel"))


def imported(source, package=PACKAGE):
  """The modules of the package that a source imports, as "data.loader"."""
  found = set()
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Import):
      names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and not node.level:
      names = [f"{node.module}.{alias.name}" for alias in node.names]
    else:
      continue
    for name in names:
      if name.startswith("vit_jax."):
        path = name.removeprefix("vit_jax.").split(".")
        while path and not package.joinpath(*path[:-1], f"{path[-1]}.py").is_file():
          path.pop()  # The name of something in a module.
        found.add(".".join(path))
  return found - {""}


def modules(package=PACKAGE):
  """What each module of the finished floors imports."""
  names = {name for floor in FLOORS for name in floor}
  paths = [path for path in package.rglob("*.py") if path.name != "__init__.py"]
  dotted = {".".join(p.relative_to(package).with_suffix("").parts): p for p in paths}
  return {
    name: imported(path.read_text(), package)
    for name, path in dotted.items()
    if name.split(".")[0] in names
  }


def upwards(imports):
  """A line for each import of a higher floor, or of one that is not listed, which is above all."""
  level = {name: number for number, floor in enumerate(FLOORS) for name in floor}
  floor = lambda module: level.get(module.split(".")[0], len(FLOORS))
  return [
    f"{module} imports {other}"
    for module, others in sorted(imports.items())
    for other in sorted(others)
    if floor(other) > floor(module)
  ]


def circle(imports):
  """The modules of a circle; none if there is none."""
  done, way = set(), []

  def visit(module):
    if module in way:
      return way[way.index(module) :]
    if module not in done:
      way.append(module)
      for other in sorted(imports.get(module, ())):
        if found := visit(other):
          return found
      way.pop()
      done.add(module)
    return []

  return next(filter(None, map(visit, sorted(imports))), [])


def test_imports_point_downwards():
  imports = modules()
  assert {name for floor in FLOORS for name in floor} == {name.split(".")[0] for name in imports}
  assert upwards(imports) == []


def test_there_is_no_circle():
  assert circle(modules()) == []


@pytest.mark.parametrize(
  "line",
  [
    "from vit_jax.data import splits",
    "import vit_jax.training.loop",
    "def f():\n  from vit_jax.data.splits import choose",
    "if TYPE_CHECKING:\n  from vit_jax.parallel import mesh",
  ],
)
def test_a_planted_import_is_found(line):
  imports = modules() | {"models.planted": imported(line)}
  assert len(upwards(imports)) == 1 and "models.planted imports" in upwards(imports)[0]


def test_a_planted_circle_is_found():
  imports = modules()
  imports["errors"] = imports["errors"] | {"params.tree"}
  assert {"errors", "params.tree"} <= {*circle(imports)}


def test_the_process_that_supervises_another_one_does_without_jax():
  """It lives as long as the run, beside it."""
  program = "import sys; from vit_jax.parallel import supervision; assert 'jax' not in sys.modules"
  subprocess.run([sys.executable, "-c", program], check=True)
