# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Whether the processes of a run agree: compared before they work together, and told by name.

Processes that differ in a learning rate train another model without a word; those that differ in
how often they evaluate wait for each other for ever. So each process tells its facts, the first
process compares them, and its verdict ends all of them or none. Versions are compared first, and
only then is something asked of JAX that depends on them. Without several processes nothing happens
here.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import importlib.metadata
import json
import os
import pathlib
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jaxlib
import numpy as np
from etils import epath

import vit_jax
from vit_jax.errors import UserError
from vit_jax.parallel import coordination
from vit_jax.parallel.coordination import Disagreement
from vit_jax.training import continuation
from vit_jax.training.plan import Plan
from vit_jax.workdir import run_info
from vit_jax.workdir.data_record import Record
from vit_jax.workdir.run_data import RunData

FIRST_SECONDS = 60.0  # For the first check, which comes right after joining.
# For the others: a data set opens in a second here and in minutes there. A process that dies
# meanwhile ends this one earlier, by its missing heartbeats.
SECONDS = 3600.0
SHARED_SECONDS = 2.0  # Until a file that another host has written has to be seen.

# What drives the devices; and what decides initial weights, their updates, the order of examples
# and their pixels.
_PACKAGES = (
  *("libtpu", "jax-cuda12-plugin", "jax-cuda13-plugin"),
  *("flax", "optax", "orbax-checkpoint", "grain", "numpy", "opencv-python-headless"),
)
# Settings of JAX that decide what a program computes.
_SETTINGS = (
  *("jax_enable_x64", "jax_default_prng_impl", "jax_threefry_partitionable"),
  "jax_default_matmul_precision",
)
_SOURCES = (".py", ".json")
_SAMPLED = 8  # Examples of a split without files whose content is compared.
_SHOWN = 60  # Characters of a long value that a sentence shows,
_SIDES = 4  # and how many values.
_ABSENT = "nothing"  # The value of a fact that only others have; no JSON.


def check(facts: Mapping[str, Any], advice: str = "", *, seconds: float = SECONDS) -> str:
  """Raises `Disagreement` in all processes unless their facts are equal. Waits for all of them.

  Args:
    facts: any JSON by name, in the order in which differences are looked for.
    advice: what to do about a difference, as a main clause.
    seconds: to wait for the others.

  Returns:
    A random word, the same in all processes and another one each time.

  Raises:
    Disagreement: facts differ, or a process has ended with a `UserError` before it came here.
  """
  if not coordination.has_others():
    return ""
  problem, word = coordination.exchange(
    {name: _short(value) for name, value in facts.items()},
    lambda told: [difference(told, advice), secrets.token_hex(8)],
    seconds=seconds,
  )
  if problem:
    raise Disagreement(problem)
  return word


def difference(told: Sequence[Mapping[str, Any]], advice: str) -> str | None:
  """A sentence that names the first fact in which processes differ, its values, and who has which.

  Args:
    told: the facts of each process, in the order of their numbers.
    advice: what to do about it.
  """
  for name in dict.fromkeys(name for own in told for name in own):
    holders: dict[str, list[int]] = {}
    for process, own in enumerate(told):
      holders.setdefault(json.dumps(own[name]) if name in own else _ABSENT, []).append(process)
    if len(holders) > 1:
      # Whoever stands alone comes first, and of two sides the one without the first process.
      sides = sorted(holders.items(), key=lambda side: (len(side[1]), -side[1][0]))
      words = [f"{_having(who)} {_shown(value)}" for value, who in sides[1:_SIDES]]
      if len(sides) > _SIDES:
        words.append(f"and others have {len(sides) - _SIDES} more values")
      value, who = sides[0]
      return f"{_having(who)} {name}={_shown(value)}, {', '.join(words)}; {advice}."
  return None


def _shown(value: str) -> str:
  """A fact's JSON for a sentence: None instead of null, and words without quotes."""
  if value == _ABSENT:
    return value
  value = json.loads(value)
  return value if isinstance(value, str) and value else repr(value)


def _having(processes: Sequence[int]) -> str:
  """As "process 1 has", or "processes 0, 2, 4-1023 have"."""
  spans: list[list[int]] = []
  for process in processes:
    if spans and spans[-1][-1] == process - 1:
      spans[-1].append(process)
    else:
      spans.append([process])
  words = [
    word
    for span in spans
    for word in ([f"{span[0]}-{span[-1]}"] if len(span) > 2 else map(str, span))
  ]
  listed = ", ".join(words)
  return f"processes {listed} have" if len(processes) > 1 else f"process {listed} has"


def _short(value: Any) -> Any:
  """A value as itself, or where it is long its beginning with a digest of all of it."""
  text = json.dumps(value, sort_keys=True)
  if len(text) <= 2 * _SHOWN:
    return value
  return f"{text[:_SHOWN]}... (digest {hashlib.sha256(text.encode()).hexdigest()[:12]})"


def check_software() -> None:
  """Raises `Disagreement` unless all processes run the same code; before a backend is started."""
  if coordination.has_others():
    advice = "install the same versions and run the same code in all of them"
    check(
      {"processes": coordination.state().num_processes},
      "give all of them the same number",
      seconds=FIRST_SECONDS,
    )
    check({**_versions(), **_code()}, advice)


def _versions() -> dict[str, str | None]:
  found = {"vit_jax": vit_jax.__version__, "jax": jax.__version__, "jaxlib": jaxlib.__version__}
  found["jax_platforms"] = jax.config.jax_platforms
  for name in _PACKAGES:
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      found[name] = "not installed"
  return found


def _code() -> dict[str, str]:
  """Digests of the files of vit_jax, by their paths; configs are told by the plan."""
  root = pathlib.Path(vit_jax.__file__).parent
  names = sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.suffix in _SOURCES)
  return {
    f"{root.name}/{name}": f"content {hashlib.sha256((root / name).read_bytes()).hexdigest()[:12]}"
    for name in names
    if not name.startswith("configs/")
  }


def check_start(plan: Plan, workdir: epath.Path) -> None:
  """Raises unless all processes have the same plan, like devices, and the same work directory."""
  if not coordination.has_others():
    return
  config = {f"config.{k}": v for k, v in continuation.flatten(plan.to_dict()).items()}
  check(config, "start all of them with the same command")
  check(_devices(), "start all of them on hosts of the same kind, with the same environment")
  if "://" in os.fspath(workdir):
    run_info.has_checkpoints(workdir)  # Says which packages a bucket needs.
  _check_shared(workdir)


def _devices() -> dict[str, Any]:
  """What this process computes on, and the settings by which JAX compiles for it."""
  flags = lambda name: sorted(f for f in os.environ.get(name, "").split() if "/" not in f)
  return {
    "devices": jax.local_device_count(),
    "platform": jax.default_backend(),
    "runtime": " ".join(jax.local_devices()[0].client.platform_version.split()),
    **{name: getattr(jax.config, name) for name in _SETTINGS},
    # Without those that say where something is written, which may differ from host to host.
    **{name: " ".join(flags(name)) for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS")},
  }


def _check_shared(workdir: epath.Path) -> None:
  """Raises unless all processes see what the first writes into the work directory, and can write.

  The file's name is new, so that no host has it in a cache as one that is not there.
  """
  index = coordination.state().process_id
  name = f".processes-{check({})}"
  with contextlib.ExitStack() as written:
    if index == 0:
      written.enter_context(_written(workdir, name))
    check({})
    if index:
      _wait_for(workdir, name)
      with _written(workdir, f"{name}-{index}", parents=False):
        pass
    check({})


@contextlib.contextmanager
def _written(workdir: epath.Path, name: str, *, parents: bool = True) -> Iterator[None]:
  """An empty file for a while."""
  try:
    if parents:
      workdir.mkdir(parents=True, exist_ok=True)
    (workdir / name).write_bytes(b"")
  except OSError as error:
    raise UserError(
      f"workdir {workdir} cannot be written ({error.strerror or error}); choose another directory."
    ) from error
  try:
    yield
  finally:
    with contextlib.suppress(OSError):
      (workdir / name).unlink()


def _wait_for(workdir: epath.Path, name: str) -> None:
  """Waits a little for a file: network file systems show it later."""
  until, reason = time.monotonic() + SHARED_SECONDS, ""
  while True:
    try:
      if (workdir / name).exists():
        return
      [*workdir.iterdir()]  # Has the system look at the directory anew.
    except OSError as error:
      reason = f" ({error.strerror or error})"
    if time.monotonic() > until:
      raise UserError(
        f"{workdir} is not the work directory of process 0, which has written {name} to its own"
        f"{reason}; name one that all processes share, on a network file system or in a bucket."
      )
    time.sleep(0.1)


def check_data(data: RunData) -> None:
  """Raises `Disagreement` unless all processes have the same classes and examples."""
  if not coordination.has_others():
    return
  facts = {"classes": len(data.dataset.class_names), "class_names": data.dataset.class_names}
  for split, source in data.sources.items():
    facts[f"{split}.examples"] = len(source)
    facts[f"{split}.digest"] = _digest_of_split(source, data.record, split)
  check(facts, "give all of them the same data set")


def _digest_of_split(source: Any, record: Record, split: str) -> str:
  """Of the paths and sizes of all files; of other data sets, of a few examples' content."""
  digest = hashlib.sha256()
  if split in record.files:
    digest.update(record.paths[split].tobytes() + record.files[split].tobytes())
    return digest.hexdigest()[:12]
  for index in sorted({*np.linspace(0, len(source) - 1, _SAMPLED).astype(int).tolist()}):
    try:
      example = source[index]
    except (OSError, ValueError) as error:  # Counted when all are read.
      digest.update(type(error).__name__.encode())
    else:
      digest.update(f"{example['id']} {example['label']} ".encode())
      digest.update(_bytes(example["image"]))
  return digest.hexdigest()[:12]


def _bytes(value: Any) -> bytes:
  return value if isinstance(value, bytes) else np.ascontiguousarray(value).tobytes()


def check_model(info: run_info.RunInfo, variables: Any) -> None:
  """Raises `Disagreement` unless all processes start from the same weights and the same teacher.

  Args:
    info: of the run.
    variables: read from files, which may be other ones on each host; None if they are made anew.
  """
  if not coordination.has_others():
    return
  facts = continuation.flatten({k: v for k, v in info.to_dict().items() if k != "config"})
  facts["weights"] = _digest_of_arrays(variables)
  check(facts, "give all of them the same files to start from")


def _digest_of_arrays(tree: Any) -> str:
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)

  def one(leaf: tuple[Any, Any]) -> bytes:
    path, array = leaf
    digest = hashlib.sha256(f"{path} {array.dtype} {array.shape}".encode())
    digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    return digest.digest()

  with concurrent.futures.ThreadPoolExecutor(8) as threads:  # Gigabytes, of the largest models.
    return hashlib.sha256(b"".join(threads.map(one, leaves))).hexdigest()[:12]


def check_step(step: int | None) -> None:
  """Raises `Disagreement` unless all processes continue at the same step, or begin."""
  check({"step": step}, "look whether all of them see the same files in the work directory")
