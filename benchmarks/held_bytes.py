# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Bytes on a device in each phase of a run, counted and as `vit-jax plan` says.

    python benchmarks/held_bytes.py
    python benchmarks/held_bytes.py --devices=8 --fsdp=8

Fine-tunes two layers of a ViT-Ti/16 for six steps, with AdamW and an average of the weights,
on scikit-learn's digits. In each phase it adds up all arrays that JAX knows (`jax.live_arrays`), on
the device that has the most of them; what programs need while they run is not among them. What the
program of a training step needs is what its compiler says (`memory_analysis`). The first evaluation
is made the best, so that the end has to restore a checkpoint.
"""

import argparse
import collections
import contextlib
import json
import os
import tempfile
import unittest.mock
from collections.abc import Callable
from typing import Any


def main() -> None:
  parser = argparse.ArgumentParser()
  parser.add_argument("--devices", type=int, default=1)
  parser.add_argument("--fsdp", type=int, default=1, help="parts of the state")
  parser.add_argument("--tensor", type=int, default=1, help="parts of each layer")
  parser.add_argument("--accum", type=int, default=1, help="parts of a batch")
  parser.add_argument("--scratch", action="store_true", help="without weights to start from")
  parser.add_argument("--teacher", action="store_true", help="of the student's size, in each step")
  parser.add_argument("--model", type=json.loads, default={}, help="fields of the ViT, as JSON")
  parser.add_argument("--json", action="store_true")
  arguments = parser.parse_args()
  # Before anything imports JAX.
  os.environ["JAX_PLATFORMS"] = "cpu"
  count = f"--xla_force_host_platform_device_count={arguments.devices}"
  os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {count}"
  with tempfile.TemporaryDirectory() as folder:
    found = measure(arguments, folder)
  if arguments.json:
    print(json.dumps(found))
    return
  print(f"{'':<28}{'MB in the run':>15}{'MB by plan':>15}")
  run, plan = ({**found[of]["arrays"], **found[of]["program"]} for of in ("run", "plan"))
  for what, size in run.items():
    planned = f"{plan[what] / 1e6:,.3f}" if what in plan else "-"
    print(f"{what:<28}{size / 1e6:>15,.3f}{planned:>15}")


def measure(arguments: argparse.Namespace, folder: str) -> dict[str, dict[str, dict[str, int]]]:
  """Bytes on a device, of a run and by its plan: of arrays by phase, and of the step's program."""
  import jax

  import vit_jax
  from vit_jax.dry_run import chips, report
  from vit_jax.training import loop

  model = {"name": "ViT-Ti_16", "num_layers": 2, **arguments.model}
  config = dict(
    dataset="digits",
    model=model,
    pp=dict(crop=32, channels=1, train_crop="none", flip=False),
    **dict(total_steps=6, warmup_steps=1, base_lr=1e-4, batch=64, batch_eval=64),
    **dict(eval_every=3, checkpoint_every=0, progress_every=1),
    optim=dict(name="adamw"),
    mesh=dict(data=-1, fsdp=arguments.fsdp, tensor=arguments.tensor, max_whole=1.0),
    accum_steps=arguments.accum,
    ema_decay=0.99,
  )
  if arguments.teacher:
    teacher = os.path.join(folder, "teacher")
    loop.train_and_evaluate(config, teacher)
    config["distill"] = dict(teacher=teacher)
  if not arguments.scratch:
    config["checkpoint"] = os.path.join(folder, "weights.npz")
    made = vit_jax.create_model(**model, num_classes=5)
    images = jax.numpy.zeros((1, 32, 32, 1))
    variables = made.init(jax.random.key(0), images, train=False)
    vit_jax.save_checkpoint(config["checkpoint"], made, variables)
    del variables, images
  planned = report.dry_run(config, chips.parse(f"cpu:{arguments.devices}"), classes=10)
  held, memory = planned.held, planned.memory
  plan = {
    "arrays": {
      "a step": held.step,
      "saving": held.saving,
      "an evaluation": held.evaluation,
      "the end": held.end,
    },
    "program": {name: getattr(memory, name) for name in PROGRAM},
  }
  del planned
  found, program = collections.Counter(), {}
  note = lambda phase: found.update({phase: max(0, on_a_device() - found[phase])})
  with watched(note, program):
    loop.train_and_evaluate(config, os.path.join(folder, "run"))
  return {"run": {"arrays": dict(found), "program": program}, "plan": plan}


# By our name, that of `memory_analysis`.
PROGRAM = {"arguments": "argument", "outputs": "output", "aliased": "alias", "temporaries": "temp"}


def on_a_device() -> int:
  """Bytes of the arrays that live, on the device with the most of them."""
  import jax

  buffers: dict[Any, dict[int, int]] = collections.defaultdict(dict)
  for array in jax.live_arrays():
    for shard in [] if array.is_deleted() else array.addressable_shards:
      # By their addresses, since several arrays may share one buffer.
      buffers[shard.device][shard.data.unsafe_buffer_pointer()] = shard.data.nbytes
  return max((sum(sizes.values()) for sizes in buffers.values()), default=0)


@contextlib.contextmanager
def watched(note: Callable[[str], None], program: dict[str, int]):
  """Calls `note` with the phase before each step and batch to evaluate, and after restoring.

  And for each array that is saved. `program` gets the memory of the training step's program.
  """
  from orbax.checkpoint._src.serialization import replica_slices

  from vit_jax.evaluation import classification
  from vit_jax.training import loop
  from vit_jax.workdir.steps import Checkpointer

  phases, evaluations, slice_of = ["an evaluation"], [], replica_slices.ReplicaSlice.data
  make_step, make_eval_step = loop.make_planned_step, classification.make_eval_step
  save, restore = Checkpointer.save, Checkpointer.restore
  evaluate = classification.Evaluator.__call__

  def noting(function: Callable, phase: Callable[[], str]) -> Callable:
    def call(*arguments: Any) -> Any:
      note(phase())
      return function(*arguments)

    return call

  def saving(self: Any, *arguments: Any) -> None:
    save(self, *arguments)
    self.wait()  # What is still to be written lies on the host, which here is the device.

  def slicing(self: Any) -> Any:
    part = slice_of(self)
    note("saving")
    return part

  def compiled_step(*given: Any) -> Callable:
    step, compiled = make_step(*given), []

    def call(*arguments: Any) -> Any:
      note("a step")
      if not compiled:
        compiled.append(step.lower(*arguments).compile())
        sizes = compiled[0].memory_analysis()
        program.update({k: getattr(sizes, f"{v}_size_in_bytes") for k, v in PROGRAM.items()})
      return compiled[0](*arguments)

    return call

  def restoring(*arguments: Any) -> Any:
    state = restore(*arguments)
    if evaluations:  # Else it is the teacher's.
      note("the best is restored")
    return state

  def evaluating(self: Any, split: str, variables: Any) -> dict[str, Any]:
    phases.append("the end" if split == "test" else "an evaluation")
    evaluations.append(split)
    return evaluate(self, split, variables) | {"accuracy": 1 / len(evaluations)}

  new = [
    (loop, "make_planned_step", compiled_step),
    (replica_slices.ReplicaSlice, "data", slicing),
    (
      classification,
      "make_eval_step",
      lambda *given, **options: noting(make_eval_step(*given, **options), lambda: phases[-1]),
    ),
    (Checkpointer, "save", saving),
    (Checkpointer, "restore", restoring),
    (classification.Evaluator, "__call__", evaluating),
  ]
  with contextlib.ExitStack() as stack:
    for owner, name, function in new:
      stack.enter_context(unittest.mock.patch.object(owner, name, function))
    yield


if __name__ == "__main__":
  main()
