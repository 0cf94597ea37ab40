# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Mutation testing: which changes of the source no test notices.

    python benchmarks/mutation.py --work=/tmp/mutation --seed=0 [data evaluation training models]

Changes one place at a time in a copy of the repository: an operator, a constant, an argument, a
branch, a call, a refusal. Nothing is changed in error texts, log messages, annotations, decorators
and docstrings. Then it runs the tests that TABLE has for the file, and if they pass those of
FURTHER. A mutant is killed if one fails or the time is up; it has survived if none does, and it was
not run if none even comes to the place, which leaves a mark when it is executed. Each is tried in a
fork of this process, which has imported everything but vit_jax.

WORK/results.jsonl has a line for each mutant; those that are there are not tried again. So after
tests were added, begin in another directory with the lines of those that were killed.
"""

import argparse
import ast
import collections
import compileall
import copy
import importlib
import json
import multiprocessing
import os
import pathlib
import random
import re
import shutil
import signal
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
COUNTS = {"data": 75, "evaluation": 35, "training": 60, "models": 40}
# A file, and the tests that should notice; of a test file with a colon those with these words.
TABLE = """
data/splits      splits
data/listing     listing
data/transforms  transforms
data/loader      loader
data/sources     sources splits
data/datasets    sources splits tfds
data/captions    captions
data/decode      decode
data/text        text
evaluation/baseline        baseline
evaluation/classification  classification
evaluation/classifier      classifier
evaluation/retrieval       retrieval
evaluation/zeroshot        zeroshot
training/step        micro_batches step
training/objectives  mixed_labels micro_batches contrastive:written_out+by_hand
                     distillation:the_papers+own_target+not_asked step:mixup+statistics
training/losses      losses contrastive:torch+bfloat16
training/optim       optim contrastive:frozen_stays+spare_a_head
training/schedules   schedules optim:all_keys
training/divergence  divergence
training/augment     augment mixed_labels
training/state       step:average+not_finite
training/multiscale  multiscale
training/stream      stream
models/layers    layers vit
models/positions vit
models/vit       vit
models/mixer     mixer
models/resnet    vit:hybrid+standardised
models/swin      swin
models/swin_v2   swin_v2
"""
# For what those leave alive: tests that use the package for something else.
FURTHER = {
  "data": """evaluation/test_evaluate_folders evaluation/test_classifier evaluation/test_zeroshot
             training/test_run_data training/test_distillation training/test_retrieval_run
             parity/test_preprocessing ancestor/test_ancestor_numbers cli/test_configuration""",
  "evaluation": """evaluation/test_evaluate_folders evaluation/test_zeroshot cli/test_predict
                   cli/test_zeroshot_command training/test_retrieval_run""",
  "training": """training/test_distillation training/test_contrastive training/test_devices
                 training/test_frozen_norms training/test_loop ancestor/test_ancestor_numbers""",
  "models": """models/test_layers models/test_registry models/test_finite parity/test_rectangles
               parity/test_timm parity/test_timm_swin parity/test_timm_swin_v2""",
}
# Whole runs and programs of their own, which take too long for a mutant.
LEFT_OUT = (
  "eight_devices or skip_leaves or skip_ends or rollback_goes or rollback_ends or sees_each_size"
  " or two_devices or before_anything_is_written or costs"
)
SECONDS = 1200  # For a mutant; only endless loops should need it, on a busy machine too.


def both_ways(pairs):
  return {a: b for pair in map(str.split, pairs.split(",")) for a, b in (pair, pair[::-1])}


OPERATORS = both_ways(
  "Lt LtE, Gt GtE, Eq NotEq, In NotIn, Is IsNot, Add Sub, Mult Div, FloorDiv Mod, BitAnd BitOr,"
  "And Or, LShift RShift"
) | {"Pow": "Mult"}
FUNCTIONS = both_ways("minimum maximum, min max, floor ceil, argmin argmax, any all, mean sum")
TELLING = {"info", "warning", "debug", "say", "_say", "print"}
IMPORTED = (
  "pytest cpu_torchvision cv2 flax.linen grain jax ml_collections optax orbax.checkpoint"
  " scipy.stats sklearn.neighbors tensorboardX timm transformers"
)


def variants(node):
  """Yields (kind, source) of what may stand in place of a node."""

  def changed(**fields):
    other = copy.copy(node)
    vars(other).update(fields)
    return ast.unparse(other)

  swaps = lambda op: type(op).__name__ in OPERATORS
  swapped = lambda op: getattr(ast, OPERATORS[type(op).__name__])()
  match node:
    case ast.Compare(ops=[op, *others]) if swaps(op):
      yield "comparison", changed(ops=[swapped(op), *others])
    case ast.BinOp(op=op) | ast.BoolOp(op=op) | ast.AugAssign(op=op) if swaps(op):
      yield "and, or" if isinstance(node, ast.BoolOp) else "arithmetic", changed(op=swapped(op))
    case ast.UnaryOp(operand=operand):
      yield "not, minus", ast.unparse(operand)
    case ast.Constant(value=bool(value)):
      yield "true, false", repr(not value)
    case ast.Constant(value=int(value)):
      yield "integer", repr(value + 1)
      yield "integer", repr(value - 1 if value else 2)
    case ast.Constant(value=float(value)):
      yield "number", repr(value * (1.5 if value > 1e-3 else 10) if value else 1.0)
    case ast.IfExp(body=body, orelse=orelse):
      yield "branches", changed(body=orelse, orelse=body)
    case ast.Call(func=ast.Attribute(attr="where"), args=[condition, a, b]):
      yield "branches", changed(args=[condition, b, a])
    case ast.Call(func=function, keywords=keywords):
      for k in range(len(keywords)):
        yield "argument", changed(keywords=keywords[:k] + keywords[k + 1 :])
      before, dot, name = ast.unparse(function).rpartition(".")
      if name in FUNCTIONS:
        yield "function", changed(func=ast.Name(before + dot + FUNCTIONS[name]))


def places(node):
  """Yields (node, kind, source) for everything in a node that a test should notice."""
  match node:
    case ast.Raise():
      yield node, "refusal", "pass"
      return
    case ast.Expr(value=ast.Constant()) | ast.JoinedStr():
      return
    case ast.Expr(value=ast.Call(func=function)):
      if ast.unparse(function).rpartition(".")[2] in TELLING:
        return
      yield node, "statement", "pass"
  for kind, source in variants(node):
    yield node, kind, source if isinstance(node, ast.stmt) else f"({source})"
  for name, parts in ast.iter_fields(node):
    for part in parts if isinstance(parts, list) else [parts]:
      if isinstance(part, ast.AST) and name not in ("annotation", "returns", "decorator_list"):
        yield from places(part)


def sources():
  """Yields (file, arguments of pytest) of each row of TABLE."""
  for row in re.findall(r"^\S.*(?:\n .*)*", TABLE, re.MULTILINE):
    name, *entries = row.split()
    found = []
    for test, _, words in (entry.partition(":") for entry in entries):
      file = pathlib.Path("tests", name).parent / f"test_{test}.py"
      if file.exists():
        named = re.findall(rf"def (test_\w*(?:{words.replace('+', '|')})\w*)", file.read_text())
        found += [f"{file}::{test}" for test in named] if words else [str(file)]
    yield f"vit_jax/{name}.py", found


def choose(package, seed):
  """Draws mutants of a package, equally many of each kind while there are."""
  pools = collections.defaultdict(list)
  for file, tests in sources():
    if file.startswith(f"vit_jax/{package}/"):
      text, starts = pathlib.Path(file).read_bytes(), [0]
      for line in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
      for node, kind, new in places(ast.parse(text)):
        mutant = dict(package=package, file=file, line=node.lineno, kind=kind, new=new, tests=tests)
        mutant["begin"] = starts[node.lineno - 1] + node.col_offset
        mutant["end"] = starts[node.end_lineno - 1] + node.end_col_offset
        mutant["old"] = text[mutant["begin"] : mutant["end"]].decode()
        pools[kind].append(mutant)
  order = []
  for pool in pools.values():
    random.Random(f"{seed} {package}").shuffle(pool)
    order += enumerate(pool)
  return [mutant for _, mutant in sorted(order, key=lambda x: x[0])][: COUNTS[package]]


def run(arguments, log):
  """Runs pytest in a fork; returns its exit code, -9 if the time was up."""

  def child():
    code = 3
    try:
      os.setpgid(0, 0)
      output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
      os.dup2(output, 1), os.dup2(output, 2)
      options = ["-xq", "-n0", "-p", "no:cacheprovider", "-k", f"not ({LEFT_OUT})"]
      code = int(sys.modules["pytest"].main([*options, *arguments]))
    finally:
      os._exit(code)

  process = multiprocessing.get_context("fork").Process(target=child)
  process.start()
  process.join(SECONDS)
  if process.exitcode is None:
    os.killpg(process.pid, signal.SIGKILL)
    process.join()
  return process.exitcode


def attempt(work, mutant, sound):
  """Runs the tests of a mutant; returns what became of it.

  Args:
    work: the directory of the copy.
    mutant: from `choose`.
    sound: lists of tests that pass without a change; those that are found to are added.
  """
  path, started = pathlib.Path(mutant["file"]), time.monotonic()
  mark, log, result = work / "mark", work / "last.log", {"outcome": "not run"}
  text, stat, new = path.read_bytes(), path.stat(), mutant["new"]
  leave = f"open({str(mark)!r}, 'w').close()"
  new = f"[{leave}, {new}][1]" if new.startswith("(") else f"{leave}; {new}"
  further = [f"tests/{test}.py" for test in FURTHER[mutant["package"]].split()]
  for tests in mutant["tests"], [test for test in further if os.path.exists(test)]:
    if not tests:
      continue
    if tuple(tests) not in sound and run(tests, log):
      sys.exit(f"{' '.join(tests)} fail without a change: see {log}")
    sound.add(tuple(tests))
    mark.unlink(missing_ok=True)
    path.write_bytes(text[: mutant["begin"]] + new.encode() + text[mutant["end"] :])
    code = run(tests, log)
    path.write_bytes(text)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    if mark.exists():
      result["outcome"] = "survived"
    if code:
      result |= {"outcome": "killed", "code": code, "further": tests is not mutant["tests"]}
      break
  return result | {"seconds": time.monotonic() - started}


def prepare(work):
  """Copies the repository, where all are tried, and imports what takes long."""
  ignored = shutil.ignore_patterns("__pycache__", ".git")
  shutil.copytree(ROOT, work, dirs_exist_ok=True, ignore=ignored)
  if not (work / "vit_jax/configs").exists():
    (work / "vit_jax/configs").symlink_to("../configs")
  compileall.compile_dir(work / "vit_jax", quiet=1)
  sys.dont_write_bytecode = True
  os.environ |= dict(JAX_COMPILATION_CACHE_DIR=str(work / "compiled"), PYTHONPATH=str(work))
  os.environ |= dict(JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0", PYTHONDONTWRITEBYTECODE="1")
  os.environ |= dict(XLA_FLAGS="--xla_backend_optimization_level=0", OPENBLAS_NUM_THREADS="1")
  os.environ |= dict(JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES="0", JAX_PLATFORMS="cpu")
  os.chdir(work)
  sys.path[:0] = [str(work), str(work / "tests")]
  for name in IMPORTED.split():
    importlib.import_module(name)


def main():
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("--work", type=pathlib.Path, required=True, help="gets the copy and results")
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("packages", nargs="*", default=[*COUNTS])
  options = parser.parse_args()
  work = options.work.resolve()
  prepare(work)
  results = work / "results.jsonl"
  lines = results.read_text().splitlines() if results.exists() else []
  key = lambda mutant: (mutant["file"], mutant["begin"], mutant["end"], mutant["new"])
  known = {key(result): result for result in map(json.loads, lines)}
  sound = set()
  print("package | mutants | killed | survived | not run")
  for package in options.packages:
    counts = collections.Counter()
    for mutant in choose(package, options.seed):
      if key(mutant) not in known:
        known[key(mutant)] = mutant | attempt(work, mutant, sound)
        with results.open("a") as file:
          file.write(json.dumps(known[key(mutant)]) + "\n")
      counts[known[key(mutant)]["outcome"]] += 1
    row = [counts[outcome] for outcome in ("killed", "survived", "not run")]
    print(package, sum(row), *row, sep=" | ", flush=True)


if __name__ == "__main__":
  main()
