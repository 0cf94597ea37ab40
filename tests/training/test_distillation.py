# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Learning from a teacher: the loss written out, and runs taught by another run."""

import dataclasses
import json
import shutil

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_run as tiny
from compiled import apply, noise

from vit_jax import save_checkpoint
from vit_jax.checkpoints import preprocessing
from vit_jax.data import datasets, loader, transforms
from vit_jax.errors import UserError
from vit_jax.evaluation import classifier
from vit_jax.models.registry import create_model
from vit_jax.parallel import mesh as mesh_lib
from vit_jax.params import tree
from vit_jax.training import objectives, progress, teacher
from vit_jax.training.loop import train_and_evaluate
from vit_jax.training.plan import DistillPlan, make_plan
from vit_jax.training.state import state_target
from vit_jax.training.task import make_task
from vit_jax.workdir import run_info
from vit_jax.workdir.steps import Checkpointer

SMALL = dict(patch_size=4, hidden_size=16, num_layers=1, mlp_dim=32, num_heads=2, num_classes=10)
DIGITS = tuple("0123456789")


def a_batch(size=8, side=8):
  rng = np.random.default_rng(1)
  return {
    "image": rng.integers(256, size=(size, side, side, 1), dtype=np.uint8),
    "label": rng.integers(10, size=size).astype(np.int32),
  }


def teach(fixed, images):
  return images.reshape(images.shape[0], -1) @ fixed


@pytest.mark.parametrize("loss", ["hard", "soft"])
@pytest.mark.parametrize("name", ["DeiT-Ti_16", "DeiT-Ti_16-distilled"])
def test_the_loss_is_the_papers(name, loss):
  heads = {"average_heads": False} if "distilled" in name else {}
  model = create_model(name, **SMALL, **heads)
  batch, key = a_batch(), jax.random.key(0)
  variables = noise(model, jnp.zeros((1, 8, 8, 1)))
  fixed = np.random.default_rng(2).normal(0, 0.01, (64, 10)).astype(np.float32)
  plan = DistillPlan(teacher="", loss=loss, tau=2.0, weight=0.3)
  options = dict(mean=(0.5,), std=(0.25,), label_smoothing=0.1, mixup=0.8, num_classes=10)
  objective = objectives.distillation(
    model, teach, compare=teacher.comparison(plan), weight=plan.share, **options
  )
  value, (metrics, _) = objective(variables["params"], {}, batch, key, key, fixed)

  share = jax.random.beta(key, 0.8, 0.8)
  images = np.float32(batch["image"])
  images = share * images + (1 - share) * np.roll(images, 4, axis=0)
  labels = jax.nn.one_hot(batch["label"], 10)
  labels = share * labels + (1 - share) * jnp.roll(labels, 4, axis=0)
  logits = apply(model, variables, (images / 255 - 0.5) / 0.25)
  first, second = (logits[:, 0], logits[:, 1]) if heads else (logits, logits)
  taught = images.reshape(8, -1) @ fixed
  own = optax.softmax_cross_entropy(first, optax.smooth_labels(labels, 0.1)).mean()
  if loss == "hard":
    other = optax.softmax_cross_entropy_with_integer_labels(second, taught.argmax(-1)).mean()
  else:
    target = jax.nn.softmax(taught / 2)
    other = 4 * optax.kl_divergence(jax.nn.log_softmax(second / 2), target).mean()
  assert float(value) == pytest.approx(float(0.7 * own + 0.3 * other), rel=1e-5)
  agreement = np.mean((first + second).argmax(-1) == taught.argmax(-1))
  assert float(metrics["agreement"]) == pytest.approx(float(agreement))
  right = np.mean(taught.argmax(-1) == labels.argmax(-1))
  assert float(metrics["teacher_accuracy"]) == pytest.approx(float(right))


def test_what_is_not_asked_for_is_off():
  """Neither labels are smoothed nor images mixed."""
  model = create_model("DeiT-Ti_16", **SMALL)
  params, key = noise(model, jnp.zeros((1, 8, 8, 1)))["params"], jax.random.key(0)
  fixed = np.random.default_rng(2).normal(0, 0.01, (64, 10)).astype(np.float32)
  compare = teacher.comparison(DistillPlan(teacher=""))
  options = dict(compare=compare, weight=0.25, mean=(0.5,), std=(0.5,))

  @jax.jit
  def both(params):
    logits = model.apply({"params": params}, np.float32(a_batch()["image"]) / 127.5 - 1)
    own = optax.softmax_cross_entropy_with_integer_labels(logits, a_batch()["label"])
    taught = teach(fixed, a_batch()["image"]).argmax(-1)
    other = optax.softmax_cross_entropy_with_integer_labels(logits, taught)
    objective = objectives.distillation(model, teach, **options)
    return objective(params, {}, a_batch(), key, key, fixed)[0], (0.75 * own + 0.25 * other).mean()

  ours, expected = both(params)
  assert float(ours) == pytest.approx(float(expected), rel=1e-5)


def test_each_head_learns_from_its_own_target():
  model = create_model("DeiT-Ti_16-distilled", **SMALL, average_heads=False)
  variables, key = noise(model, jnp.zeros((1, 8, 8, 1))), jax.random.key(0)
  fixed = np.random.default_rng(2).normal(0, 0.01, (64, 10)).astype(np.float32)
  norms = {}
  for weight in (0.0, 1.0):
    objective = objectives.distillation(
      model,
      teach,
      compare=teacher.comparison(DistillPlan(teacher="")),
      weight=weight,
      mean=(0.5,),
      std=(0.5,),
    )
    gradient = jax.grad(lambda p, ask=objective: ask(p, {}, a_batch(), key, key, fixed)[0])
    head = lambda tree, name: float(jnp.linalg.norm(tree[name]["kernel"]))
    tree = gradient(variables["params"])
    norms[weight] = [head(tree, name) for name in ("head", "head_dist")]
  assert norms[0.0][0] > 0.01 and norms[0.0][1] == 0.0
  assert norms[1.0][0] == 0.0 and norms[1.0][1] > 0.01


def test_a_teacher_sees_its_own_size_channels_and_normalisation():
  model = create_model("BiT-R50x1", num_units=(1,), width_factor=0.5, num_classes=10)
  spec = transforms.Preprocessing(crop=16, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
  variables = noise(model, jnp.zeros((1, 16, 16, 3)))
  images = a_batch()["image"]
  big = np.repeat(
    jax.image.resize(np.float32(images), (8, 16, 16, 1), "bilinear"), 3, axis=-1
  )  # Enlarged, so that antialiasing has no effect.
  expected = apply(model, variables, (big / 255 - np.array(spec.mean)) / np.array(spec.std))
  found = jax.jit(teacher.Teacher(model, variables, spec).__call__)(variables, images)
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
  assert np.ptp(expected) > 0.1


@pytest.fixture(scope="module")
def taught_by(tmp_path_factory):
  """The work directory of a small run, which knows enough to teach others."""
  workdir = tmp_path_factory.mktemp("teacher") / "run"
  config = tiny.config(total_steps=60, base_lr=1e-2, eval_every=0, checkpoint_every=0)
  train_and_evaluate(config, workdir)
  return workdir


def recorded(workdir, tag):
  return [r[tag] for r in progress.read_metrics(workdir) if tag in r]


STUDENT = dict(name="DeiT-Ti_16-distilled")


def test_a_taught_run_and_its_continuation(taught_by, tmp_path):
  config = tiny.config(
    model=STUDENT,
    distill=dict(teacher=str(taught_by)),
    mixup=0.2,
    cutmix=0.5,
    ema_decay=0.9,
  )
  whole = train_and_evaluate(config, tmp_path / "whole")
  of_teacher = recorded(tmp_path / "whole", "train/teacher_accuracy")
  assert len(of_teacher) == 6 and np.mean(of_teacher) > 0.3  # Chance has 0.1.
  assert whole["test"]["loss"] != whole["test_raw"]["loss"]
  # What is loaded is what was tested: the average, whose heads are averaged too.
  again = classifier.evaluate_split(classifier.from_run(tmp_path / "whole"), "test")
  assert again["loss"] == pytest.approx(whole["test"]["loss"], rel=1e-5)

  shutil.copytree(tmp_path / "whole", tmp_path / "part")
  shutil.rmtree(tmp_path / "part" / "checkpoints" / "12")
  (tmp_path / "part" / "results.json").unlink()
  # The run knows its teacher again, wherever it lies, and no other one.
  config.distill.teacher = str(shutil.copytree(taught_by, tmp_path / "moved"))
  fields = dict(tiny.config().model)
  other = tmp_path / "other.npz"
  model = create_model(fields.pop("name"), **fields, num_classes=10)
  save_checkpoint(other, model, noise(model, jnp.zeros((1, 8, 8, 1))))
  replaced = tiny.config(**dict(config, distill=dict(teacher="ViT-Ti_16", checkpoint=str(other))))
  before = (tmp_path / "part" / "config.json").read_text()
  with pytest.raises(UserError, match="is not the teacher that this run has learned from"):
    train_and_evaluate(replaced, tmp_path / "part")
  assert (tmp_path / "part" / "config.json").read_text() == before
  continued = train_and_evaluate(config, tmp_path / "part")
  for split in ("val", "test", "test_raw"):
    assert continued[split] == whole[split]
  # Its record is in config.json and in each checkpoint.
  for folder in ("whole", "part"):
    noted = run_info.read_run(tmp_path / folder).teacher
    (tmp_path / folder / "config.json").unlink()
    assert run_info.read_run(tmp_path / folder).teacher == noted
    assert noted.step == 60 and noted.class_names == DIGITS


@pytest.fixture(scope="module")
def known(taught_by):
  """What a run has noted that `taught_by` teaches, as it is read from its config.json."""
  plan = make_plan(tiny.config(distill=dict(teacher=str(taught_by))))
  record = teacher.load(plan, DIGITS).record
  info = dataclasses.replace(run_info.existing_run(taught_by), teacher=record)
  return run_info._from_dict(json.loads(json.dumps(info.to_dict())))


def load(known, **distill):
  return teacher.load(make_plan(tiny.config(distill=distill)), DIGITS, known)


def as_file(taught_by, path, order=None, **changes):
  """The teacher as a file of ours, with its classes in another order or other weights."""
  model, variables, info = run_info.load_run(taught_by)
  names = info.class_names
  flat = {k: np.asarray(v) for k, v in tree.from_variables(variables).items()}
  flat |= {key: change(flat[key]) for key, change in changes.items()}
  if order:
    names = [names[k] for k in order]
    flat |= {key: flat[key][..., list(order)] for key in ("head/kernel", "head/bias")}
  variables = tree.to_variables(flat, scanned=False)
  told = {"class_names": names, "input": preprocessing.to_metadata(info.preprocessing)}
  save_checkpoint(path, model, variables, metadata=told, image_size=info.image_size)


def test_the_same_teacher_goes_on_wherever_it_lies(taught_by, known, tmp_path):
  file = tmp_path / "teacher.npz"
  as_file(taught_by, file)
  moved = shutil.copytree(taught_by, tmp_path / "moved")
  assert load(known, teacher=str(moved)).record.digest == known.teacher.digest
  plan = make_plan(tiny.config(distill=dict(teacher="ViT-Ti_16", checkpoint=str(file))))
  record = teacher.load(plan, DIGITS).record
  assert record.step is None and known.teacher.differences(record) == []


@pytest.mark.parametrize("cache", [False, True])
def test_a_teacher_that_was_trained_further_is_another(taught_by, known, tmp_path, cache):
  workdir = shutil.copytree(taught_by, tmp_path / "run")
  info = run_info.existing_run(workdir)
  with Checkpointer(workdir / "checkpoints") as checkpointer:
    state = checkpointer.restore(60, state_target(info.create_model(), info.plan, None))
    state = state.replace(params=jax.tree.map(lambda x: x * 1.001, state.params))
    data = iter(grain.MapDataset.range(9).to_iter_dataset())
    checkpointer.save(90, state, data, {"run": info.to_dict()}, {"accuracy": 1.0, "loss": 0.1})
  with pytest.raises(
    UserError,
    match=r"/run' is not the teacher that this run has learned from, for its weights "
    r"\(of step 60 then, of step 90 now\) differ; set it to where that one is now, or use another "
    r"workdir\.$",
  ):
    load(known, teacher=str(workdir), cache=cache)


@pytest.mark.parametrize(
  "change, message",
  [
    (dict(order=(1, 0, *range(2, 10))), "its weights.* and its class names or their order differ"),
    ({"head/bias": lambda x: np.nextafter(x, 1.0)}, r"for its weights \(of step 60 then, of"),
  ],
)
def test_a_file_with_another_teacher_is_refused(taught_by, known, tmp_path, change, message):
  file = tmp_path / "teacher.npz"
  as_file(taught_by, file, **change)
  with pytest.raises(UserError, match=message) as caught:
    load(known, teacher="ViT-Ti_16", checkpoint=str(file))
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
  "change, message",
  [
    (dict(model={"num_heads": 4}), r"its model \(num_heads 4 -> 2\) differ"),
    (
      dict(preprocessing=dict(mean=(0.4,))),
      r"its preprocessing \(mean \[0.4\] -> \[0.5\]\) differ",
    ),
    (dict(class_names=("9", *DIGITS[1:])), r"for its class names or their order differ"),
  ],
)
def test_the_same_weights_in_another_teacher_are_refused(taught_by, known, change, message):
  [(field, value)] = change.items()
  if isinstance(value, dict):
    value = getattr(known.teacher, field) | value
  record = dataclasses.replace(known.teacher, **{field: value})
  with pytest.raises(UserError, match=message):
    load(dataclasses.replace(known, teacher=record), teacher=str(taught_by))


def test_what_another_version_knows_does_not_make_another_teacher(taught_by, known):
  model = known.teacher.model | {"a_field_that_is_gone": 3}
  del model["num_heads"]
  record = dataclasses.replace(known.teacher, model=model)
  assert load(dataclasses.replace(known, teacher=record), teacher=str(taught_by))


def test_a_run_whose_teacher_is_gone_asks_where_it_is(known, tmp_path):
  with pytest.raises(
    UserError, match=r"/gone' is no work directory of a run any more \(if it has moved, name its"
  ) as caught:
    load(known, teacher=str(tmp_path / "gone"))
  assert "\n" not in str(caught.value)


def test_a_run_of_an_older_version_takes_the_teacher_at_its_path(
  taught_by, known, caplog, tmp_path
):
  config = tiny.config(distill=dict(teacher=str(taught_by)))
  plan = make_plan(config)
  old = {**known.to_dict(), "config": plan.to_dict()}
  del old["teacher"]
  old = run_info._from_dict(json.loads(json.dumps(old)))
  assert old.teacher is None
  assert teacher.load(plan, DIGITS, old).record.digest == known.teacher.digest
  [line] = [m for m in caplog.messages if "no record of its teacher" in m]
  assert line.endswith(f"it goes on with what is at {taught_by} now")
  run_info.refuse_another_run(tmp_path, old, plan, DIGITS)
  moved = dataclasses.replace(plan, distill=dataclasses.replace(plan.distill, teacher="/new"))
  with pytest.raises(
    UserError, match=r"-> '/new', of which an older version noted nothing but the"
  ):
    run_info.refuse_another_run(tmp_path, old, moved, DIGITS)
  new = dataclasses.replace(old, teacher=known.teacher)
  run_info.refuse_another_run(tmp_path, new, moved, DIGITS)
  with pytest.raises(UserError, match=r"distill\.tau"):  # Whether there is one is not free.
    run_info.refuse_another_run(tmp_path, new, dataclasses.replace(plan, distill=None), DIGITS)


def test_a_resized_teacher_is_known_by_what_is_not_resampled(taught_by, known):
  """Resampling rounds as the processor does; a run may go on on another one."""
  record = load(None, teacher=str(taught_by), image_size=16).record
  assert record.preprocessing["size"] == (16, 16)
  _, variables, _ = run_info.load_run(taught_by)
  flat = tree.from_variables(variables)
  del flat["Transformer/posembed_input/pos_embedding"]
  variables = tree.to_variables(flat, scanned=False)
  found = dataclasses.replace(classifier.from_run(taught_by), variables=variables)
  plain = teacher._describe(found, DistillPlan(teacher="")).digest
  assert record.digest == plain != known.teacher.digest


def test_cached_answers_are_the_teachers_of_whole_images(taught_by):
  config = tiny.config(
    model=STUDENT,
    distill=dict(teacher=str(taught_by), loss="soft", cache=True),
    pp=dict(random_affine=None),
  )
  plan, mesh = make_plan(config), mesh_lib.make_mesh()
  task = make_task(plan, DIGITS)
  train = datasets.open_dataset("digits").source("train")
  rows = task.rows(train, mesh)
  assert rows["teacher"].shape == (1257, 10) and task.fixed is None
  expected = classifier.evaluate_split(classifier.from_run(taught_by), "train", batch=419)
  assert np.mean(rows["teacher"].argmax(-1) == train.labels) == pytest.approx(expected["accuracy"])

  # Each example brings its own; without augmentation the loss is that of a teacher who is asked.
  batch = next(loader.TrainLoader(train, plan.pp, batch_size=8, seed=0, rows=rows).iterator())
  model = create_model("DeiT-Ti_16", **SMALL)
  params, key = noise(model, jnp.zeros((1, 8, 8, 1)))["params"], jax.random.key(0)
  objective = jax.jit(task.objective(model))
  cached, _ = objective(params, {}, batch, key, key, None)
  del batch["teacher"]
  asked, _ = objective(params, {}, batch, key, key, task.teacher.variables)
  assert float(cached) == pytest.approx(float(asked), rel=1e-5)
  batch["teacher"] = rows["teacher"][:8]  # Of other examples.
  other, _ = objective(params, {}, batch, key, key, None)
  assert abs(float(other) - float(asked)) > 1e-4


def test_a_runs_positions_are_resized_for_another_size(taught_by):
  distill = dict(teacher=str(taught_by), image_size=16)
  found = make_task(make_plan(tiny.config(distill=distill)), DIGITS).teacher
  assert found.preprocessing.size == (16, 16)
  [positions] = [v for k, v in tiny.leaves(found.variables).items() if "pos_embedding" in k]
  assert positions.shape[1] == 17
  # On the host, so that they can go to any devices; a run is restored to one.
  assert all(isinstance(x, np.ndarray) for x in jax.tree.leaves(found.variables))
  assert jax.jit(found.__call__)(found.variables, a_batch()["image"]).shape == (8, 10)


@pytest.mark.parametrize(
  "changes, message",
  [
    (dict(loss="hard", tau=2.0), r"distill.tau=2.0 has no effect.*loss='soft'"),
    (dict(loss="medium"), r"config.distill.loss='medium' is not 'hard' or 'soft'"),
    (dict(loss="soft", tau=0.0), r"distill.tau=0.0 should be positive"),
    (dict(weight=1.5), r"distill.weight=1.5 should be in"),
    (dict(teacher=None, loss="soft"), r"distill.loss has no effect without config.distill.teacher"),
    (dict(teacher="BiT-R50x2"), r"BiT-R50x2.*BiT-R50x1"),
    (dict(teacher="LiT-B16B"), r"distill.teacher='LiT-B16B' has two towers; name a classifier"),
    (
      dict(teacher="/no/such/run"),
      r"'/no/such/run' is no work directory of a run, and there is no",
    ),
    (dict(weight=0.0), r"distill.weight=0.0 should be in"),
    (dict(techer="x"), r"distill.techer .*'teacher'"),
  ],
)
def test_refuses_with_one_sentence(taught_by, changes, message):
  config = tiny.config(distill={"teacher": str(taught_by), **changes})
  with pytest.raises(UserError, match=message) as caught:
    make_task(make_plan(config), DIGITS)
  assert "\n" not in str(caught.value) and str(caught.value).endswith((".", "?"))


def test_an_empty_teacher_turns_it_off_and_an_empty_checkpoint_is_none(taught_by):
  of_a_run = dict(teacher=str(taught_by), checkpoint="")
  assert make_plan(tiny.config(distill=of_a_run)).distill.checkpoint is None
  assert make_plan(tiny.config(distill=dict(of_a_run, image_size=0))).distill.image_size is None
  off = dict(teacher="", checkpoint="gs://somewhere/a.npz", image_size=224)
  assert make_plan(tiny.config(distill=off)).distill is None


def test_refuses_what_does_not_fit(taught_by):
  distill = dict(teacher=str(taught_by))
  with pytest.raises(UserError, match="digits has 3 classes, but the teacher has 10"):
    make_task(make_plan(tiny.config(distill=distill)), ("0", "1", "2"))
  with pytest.raises(UserError, match="digits has class 'zero' where the teacher has '0'"):
    make_task(make_plan(tiny.config(distill=distill)), ("zero", *DIGITS[1:]))
  with pytest.raises(
    UserError, match=r"cache=True does not go with mixing.*mixup and config.cutmix to 0"
  ):
    make_plan(tiny.config(distill=dict(distill, cache=True), cutmix=1.0))
  with pytest.raises(UserError, match="sees grey images and the student colours"):
    make_task(make_plan(tiny.config(distill=distill, pp=dict(channels=3))), DIGITS)
