# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The training loop; there is one."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Mapping
from typing import Any, Literal

import jax
import ml_collections
from etils import epath

from vit_jax.checkpoints import released
from vit_jax.data import loader
from vit_jax.errors import Stopped, UserError
from vit_jax.evaluation import baseline
from vit_jax.parallel import mesh as mesh_lib
from vit_jax.parallel import sharding
from vit_jax.training import agreement, build, multiscale, optim, profiling, room
from vit_jax.training import goodput as goodput_lib
from vit_jax.training import plan as plan_lib
from vit_jax.training import results as results_lib
from vit_jax.training.divergence import Guard
from vit_jax.training.phases import Phases
from vit_jax.training.preemption import StopSignal
from vit_jax.training.progress import Progress
from vit_jax.training.save_clock import SaveClock
from vit_jax.training.state import create_state, init_images, state_target
from vit_jax.training.step import make_planned_step
from vit_jax.training.stream import Stream
from vit_jax.training.task import make_task
from vit_jax.training.watchdog import Watchdog
from vit_jax.workdir import run_data, run_info
from vit_jax.workdir.steps import Checkpointer

log = logging.getLogger(__name__)


def train_and_evaluate(
  config: ml_collections.ConfigDict | Mapping[str, Any],
  workdir: str | os.PathLike,
  *,
  resume: bool | Literal["changed-data"] = True,
  profile: profiling.Steps | None = None,
  profile_port: int | None = None,
) -> dict[str, Any]:
  """Trains as `config` says, or continues the run that is in `workdir`, and evaluates the best.

  Args:
    config: see `vit_jax.training.plan.Plan`.
    workdir: gets `config.json`, `data.npz`, `checkpoints/`, `metrics.jsonl`, `tensorboard/`, at the
      end `results.json` and `curves.png`, and if it hangs `stacks/`. Nothing is written before the
      config is checked.
    resume: whether to continue the run that is in `workdir`; False refuses one. "changed-data"
      continues it even if images to train on were added, removed or replaced since.
    profile: the first and the last step of which `profile/` gets a trace.
    profile_port: where process 0 serves traces on demand; process 1 does so at the next port.

  Returns:
    What `results.json` holds: `val` and `test` (`accuracy`, `top5`, `loss`, `examples`, or those of
    `vit_jax.evaluation.retrieval`; of the best checkpoint), `metric` (the name of the evaluator's
    main score), `best_step`, `steps` and `seconds` (across continuations), `images_per_second`
    (training alone; None if no step was timed), `parameters`, `goodput` and `time` (where the wall
    time went, see `vit_jax.training.goodput`), with `config.ema_decay` also
    `test_raw`, of the weights that are not averaged, and `1-nn` if `config.baseline` asks for it
    (see `vit_jax.evaluation.baseline.compare`).

  Raises:
    UserError: for a mistake in the config, the data or the workdir; with several processes also
      where they differ, see `vit_jax.training.agreement`.
    Diverged: at a loss or gradient that is not finite, unless `config.nan_policy` goes on; the
      checkpoint before it stands.
    Stopped: after SIGTERM, SIGINT or SIGHUP, with everything saved.

  A run in which nothing has finished for twice `config.stall_timeout` ends this process, with exit
  code 69: see `vit_jax.training.watchdog`.
  """
  started = time.monotonic()
  agreement.check_software()
  plan = plan_lib.make_plan(config)
  workdir = epath.Path(workdir).expanduser()
  agreement.check_start(plan, workdir)
  mesh = mesh_lib.make_mesh(plan.mesh)
  plan.check_devices(mesh_lib.data_parallelism(mesh))
  earlier = run_info.earlier_run(workdir)
  if earlier and not resume:
    raise UserError(
      f"{workdir} holds a run, and --resume=never asks for a new one; use another workdir."
    )
  if not earlier:
    released.check(plan.model.name, plan.pretrained_dir, plan.model_or_filename, plan.dataset)
  data = run_data.open_run_data(plan, workdir, earlier)
  agreement.check_data(data)
  plan = data.planned(plan)
  profiling.check(profile, plan.total_steps)
  if earlier:
    run_info.refuse_another_run(workdir, earlier, plan, data.dataset.class_names)
    is_judged_anew = earlier.splits["test"] != plan.pp.test or "test" in data.changes
    if (results := results_lib.finished(workdir, plan)) and not is_judged_anew:
      log.info("%s is finished; use another workdir to train again", workdir)
      return results
    if "train" in data.changes and resume != "changed-data":
      raise UserError(
        f"the images to train on in {plan.dataset} are not those that {workdir} was started with "
        f"({data.changes['train']}); add --resume=changed-data to go on with those that are there "
        "now, or use another workdir."
      )
  with (
    room.explained(plan, mesh, len(data.dataset.class_names)),
    profiling.server(profile_port),
    Phases(started) as phases,
    Watchdog(phases, workdir, plan.stall_timeout),
  ):
    return _run(plan, mesh, data, workdir, earlier, phases, profile)


def _run(
  plan: plan_lib.Plan,
  mesh: jax.sharding.Mesh,
  data: run_data.RunData,
  workdir: epath.Path,
  earlier: run_info.RunInfo | None,
  phases: Phases,
  profile: profiling.Steps | None,
) -> dict[str, Any]:
  """The run itself. Releases the device memory when it fails."""
  if plan.baseline and jax.process_count() > 1:
    raise UserError("config.baseline needs a single process; set it to None.")
  dataset = data.dataset
  train, val, test = (data.sources.get(split) for split in ("train", "val", "test"))

  task = make_task(plan, dataset.class_names, earlier)
  num_classes = len(dataset.class_names)
  model, variables = build.build_model(plan, num_classes, earlier, dataset.class_names)
  multiscale.check(model, plan.pp)
  target = state_target(model, plan, mesh)
  sharding.check(target, mesh, plan.mesh.max_whole)
  log.info(sharding.describe(target, mesh))
  shardings = jax.tree.map(lambda x: x.sharding, target)
  fixed_shardings = sharding.shardings(task.fixed, mesh)
  share, shares = mesh_lib.reader(mesh)
  parameters = sum(math.prod(x.shape) for x in jax.tree.leaves(target.params))
  evaluator = task.evaluator(model, {"val": val, "test": test}, mesh)
  info = run_info.describe_run(
    *(plan, model, dataset.class_names, parameters, data.record, evaluator.metric),
    teacher=task.teacher and task.teacher.record,
    vocabulary=task.vocabulary,
  )
  agreement.check_model(info, variables)
  for line in run_data.summary(data, plan, parameters):
    log.info(line)
  train_step = make_planned_step(plan, task.objective(model), mesh, shardings, fixed_shardings)
  fixed = mesh_lib.place(task.fixed, fixed_shardings)
  resize = multiscale.make_resize(plan.pp.train_sizes, plan.seed, mesh)
  rows = task.rows(train, mesh)
  open_at = lambda first: loader.TrainLoader(
    train,
    plan.pp,
    batch_size=plan.batch // shares,
    seed=plan.seed,
    threads=plan.threads,
    max_bad_fraction=plan.max_bad_fraction,
    shard_index=share,
    shard_count=shares,
    first=first,
    captions=task.captions,
    rows=rows,
  ).iterator()

  with Checkpointer(
    workdir / run_info.CHECKPOINTS,
    metric=info.best_by,
    keep_last=plan.keep_last,
    keep_every=plan.keep_every,
  ) as checkpointer:
    stream = Stream(open_at, batch=plan.batch, shares=shares)
    run_info.write_run(workdir, info, data.record)
    start, timer = checkpointer.last_step, None
    agreement.check_step(start)
    if start is None:
      if earlier:  # Not one of its checkpoints is usable.
        model, variables = build.build_model(plan, num_classes, None, dataset.class_names)
      start = 0
      state = create_state(
        model,
        variables,
        optim.make_optimizer(plan),
        init_images(plan.pp),
        plan.seed,
        shardings=shardings,
        ema=plan.ema_decay is not None,
      )
      variables = None  # The state has its own.
    else:
      saved = checkpointer.saved(start)
      timer = saved["timer"]
      spent = saved.get("spent", {"other": timer["seconds"]})  # As an older version has saved it.
      phases.continue_from(spent, saved.get("saved_at"))
      same = stream.continue_from(saved["stream"])
      state = checkpointer.restore(start, target, stream.iterator if same else None)
      log.info("continuing %s at step %d of %d", workdir, start, plan.total_steps)

    with (
      StopSignal() as stop,
      Progress(
        workdir,
        total_steps=plan.total_steps,
        batch=plan.batch,
        every=plan.progress_every,
        start_step=start,
        timer=timer,
        started=phases.started,
      ) as progress,
      profiling.Trace(workdir, profile, progress.say) as trace,
      goodput_lib.Goodput(phases) as goodput,
    ):

      def evaluate(step: int, label: str, variables: Any) -> dict[str, float | int]:
        with phases.phase("evaluation", f"the evaluation of {label} at step {step}"):
          scores = evaluator(label.removesuffix("_raw"), variables)
        progress.evaluated(step, label, scores)
        return scores

      guard, clock = Guard(plan.nan_policy, progress.say), SaveClock(plan.checkpoint_minutes, mesh)
      step = start
      while step < plan.total_steps:
        step += 1
        phases.turn("steps", f"the steps up to {step}")
        with trace.step(step):
          # No name for the batch, which would keep it on the devices during an evaluation.
          state, metrics = train_step(
            state,
            resize(step, mesh_lib.place_batch(goodput.next_batch(stream, plan.dataset), mesh)),
            fixed,
          )
        goodput.dispatched(metrics["loss"])
        progress.update(step, metrics)
        if trace.ends(step):
          with progress.paused(), phases.phase("other", "the profile", watched=False):
            trace.end()
          goodput.resume()
        guard.update(step, metrics)
        checkpointer.poll()
        last = step == plan.total_steps
        evaluates = "val" in evaluator and (last or _due(step, plan.eval_every))
        stops = stop.reached()
        saves = last or stops or _due(step, plan.checkpoint_every) or clock.due(step)
        if evaluates or saves:
          guard.flush()
        if guard.bad_step is not None:
          with phases.phase("other", "the way back to a checkpoint", watched=False):
            checkpointer.wait()
            if guard.goes_back(checkpointer.last_step):
              step, state = checkpointer.last_step, None  # There may be no room for two.
              state = checkpointer.restore(step, target)
              progress.rewind(step)
              clock.restart()
              goodput.resume()
              continue
        if not evaluates and not saves:
          continue
        with progress.paused(), goodput.paused() as seconds:
          progress.timed(step, seconds)
          scores = evaluate(step, "val", state.result) if evaluates else None
          if scores and plan.ema_decay is not None:
            evaluate(step, "val_raw", state.variables)
          if saves or checkpointer.is_better(scores):
            with phases.phase("saving", f"the save of step {step}"):
              saved = {"plan": plan.to_dict(), "timer": progress.timer, "stream": stream.position}
              saved |= {"run": info.to_dict(), "spent": phases.spent(), "saved_at": time.time()}
              checkpointer.save(step, state, stream.iterator, saved, scores)
            guard.rollbacks = 0
            clock.restart()
        if stops and not last:
          with phases.phase("saving", f"the save of step {step}"):
            checkpointer.wait()
          raise Stopped(f"Stopped at step {step} with all saved; run the same command to continue.")

      phases.turn("other", "the end of the run", watched=False)
      with phases.phase("saving", "the last save"):
        checkpointer.wait()
      results, fixed = {}, None
      best = checkpointer.best_step
      if best != plan.total_steps:
        state = None  # There may be no room for two.
        state = checkpointer.restore(best, target)
      if scores := checkpointer.metrics(best):
        results["val"] = scores
      if "test" in evaluator:
        results["test"] = evaluate(best, "test", state.result)
        if plan.ema_decay is not None:
          results["test_raw"] = evaluate(best, "test_raw", state.variables)
        if plan.baseline:
          right = evaluator.right("test", state.result)
          results["1-nn"] = compared = baseline.compare(
            right, baseline.nearest_neighbour(train, test)
          )
          progress.say(
            f"scikit-learn's 1-nearest-neighbour on the same images: {compared['accuracy']:.4f}; "
            f"difference {compared['difference']:+.4f}, standard error "
            f"{compared['standard_error']:.4f}"
          )
      results |= {
        "metric": evaluator.metric,
        "best_step": best,
        "steps": plan.total_steps,
        "images_per_second": progress.images_per_second,
        "seconds": progress.timer["seconds"],
        "parameters": parameters,
        **goodput.result(),
      }
      progress.say(goodput_lib.in_words(results))
    if jax.process_index() == 0:
      results_lib.write(workdir, results, plan)
  return results


def _due(step: int, every: int) -> bool:
  return every > 0 and step % every == 0
