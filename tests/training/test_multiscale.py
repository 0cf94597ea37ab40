# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Training at sizes that are drawn: which, what an image becomes, and what a run makes of it."""

import collections
import itertools
import json

import jax
import numpy as np
import pytest
import tiny_run as tiny
from PIL import Image

from vit_jax.data.transforms import Preprocessing, eval_transform, train_transform
from vit_jax.errors import UserError
from vit_jax.parallel import mesh as mesh_lib
from vit_jax.parallel.mesh import MeshPlan
from vit_jax.training import build, loop, multiscale
from vit_jax.training.plan import make_plan
from vit_jax.workdir import run_info

ANY_SIZE = dict(position_embedding="sincos_2d", classifier="gap")
PP = dict(train_sizes=(8, 12), train_crop="random")


def test_sizes_are_uniform_and_depend_on_seed_and_step_alone():
  sizes = (160, 192, 256)
  drawn = [multiscale.draw(sizes, 3, step) for step in range(3000)]
  counts = collections.Counter(drawn)
  # Four standard deviations of a binomial with n=3000, p=1/3.
  assert set(counts) == {*sizes} and all(abs(count - 1000) < 104 for count in counts.values())
  repeats = sum(a == b for a, b in itertools.pairwise(drawn))
  assert abs(repeats - 1000) < 104  # Not by turns either.
  assert [multiscale.draw(sizes, 3, step) for step in range(900, 920)] == drawn[900:920]
  other = [multiscale.draw(sizes, 4, step) for step in range(3000)]
  assert abs(sum(a == b for a, b in zip(drawn, other, strict=True)) - 1000) < 104


def test_sizes_are_those_of_earlier_versions():
  """Otherwise a run that is continued by another version would draw others from then on."""
  drawn = [multiscale.draw((160, 192, 256), 3, step) for step in range(1, 13)]
  assert drawn == [256, 160, 160, 160, 192, 192, 160, 256, 192, 256, 160, 192]


def test_images_are_shrunk_as_pillow_does(monkeypatch):
  monkeypatch.setattr(multiscale, "draw", lambda sizes, seed, step: sizes[step])
  # Noise, so that the filter is seen.
  images = np.random.default_rng(0).integers(256, size=(2, 24, 24, 3), dtype=np.uint8)
  mesh = mesh_lib.make_mesh(MeshPlan(data=1))
  resize = multiscale.make_resize((24, 10), 0, mesh)
  batch = mesh_lib.place_batch({"image": images, "label": np.int32([1, 2])}, mesh)
  assert resize(0, batch)["image"] is batch["image"]
  ours = resize(1, batch)
  assert ours["label"] is batch["label"] and ours["image"].dtype == np.uint8
  ours = np.asarray(ours["image"], int)
  filters = Image.Resampling.BILINEAR
  theirs = np.stack([Image.fromarray(x).resize((10, 10), filters) for x in images]).astype(int)
  assert np.abs(ours - theirs).max() <= 1
  plain = jax.image.resize(images.astype(np.float32), theirs.shape, "bilinear", antialias=False)
  assert np.abs(plain - theirs).max() > 20


def test_two_devices_shrink_as_one_does():
  program = """
import json, jax, numpy as np
from vit_jax.parallel import mesh as mesh_lib
from vit_jax.training import multiscale
from vit_jax.parallel.mesh import MeshPlan
images = np.random.default_rng(0).integers(256, size=(4, 24, 24, 3), dtype=np.uint8)
found = []
for devices in (1, 2):
  mesh = mesh_lib.make_mesh(MeshPlan(data=devices))
  shrunk = multiscale.make_resize((10,), 0, mesh)(1, mesh_lib.place_batch({"image": images}, mesh))
  shards = [list(x.data.shape) for x in shrunk["image"].addressable_shards]
  found.append([np.asarray(shrunk["image"]).tolist(), shards])
print(json.dumps(found))
"""
  done = tiny.run_python(program, XLA_FLAGS="--xla_force_host_platform_device_count=2")
  assert done.returncode == 0, done.stderr
  (one, [whole]), (two, halves) = json.loads(done.stdout)
  assert one == two
  assert (whole, halves) == ([4, 10, 10, 3], [[2, 10, 10, 3]] * 2)


@pytest.mark.parametrize("crop, resize", [("random", None), ("random", 14), ("inception", None)])
def test_training_images_are_of_the_largest_size_and_others_as_ever(crop, resize):
  pp = Preprocessing(crop=8, train_sizes=(6, 12), train_crop=crop, resize=resize)
  record = {"image": np.zeros((20, 30, 3), np.uint8), "label": 1}
  rng = np.random.default_rng(0)
  assert train_transform(pp)(record, rng)["image"].shape == (12, 12, 3)
  assert eval_transform(pp)(record)["image"].shape == (8, 8, 3)
  assert Preprocessing(crop=8, train_sizes=()) == Preprocessing(crop=8)


def test_evaluations_resize_is_not_trainings():
  pp = Preprocessing(crop=8, train_sizes=(6, 12), resize=10, eval_resize="resize_crop")
  record = {"image": np.zeros((20, 30, 3), np.uint8), "label": 1}
  assert train_transform(pp)(record, np.random.default_rng(0))["image"].shape == (12, 12, 3)


@pytest.fixture
def sizes(monkeypatch):
  """The sizes that training steps have seen since the last look."""
  seen, make = [], loop.make_planned_step

  def recording(*arguments):
    step = make(*arguments)

    def recorded(state, batch, *rest):
      seen.append(batch["image"].shape[1:3])
      return step(state, batch, *rest)

    return recorded

  monkeypatch.setattr(loop, "make_planned_step", recording)
  return seen


def test_a_run_sees_each_size_and_a_continued_one_the_same(tmp_path, sizes):
  def config(**changes):
    # A rate that does not know the end, so that a run can be prolonged.
    keys = dict(decay_type="constant", optim=dict(name="sgd"), pp=PP)
    model = dict(name="PoolFormer-S12", depths=(1,), widths=(8,), token_mixer="identity")
    return {**tiny.config(**{**keys, **changes}).to_dict(), "model": model}

  loop.train_and_evaluate(config(total_steps=3), tmp_path)
  first = list(sizes)
  loop.train_and_evaluate(config(total_steps=6), tmp_path)
  drawn = [(multiscale.draw((8, 12), 0, step),) * 2 for step in range(1, 7)]
  assert (first, sizes) == (drawn[:3], drawn)
  assert len({*drawn}) == 2
  info = run_info.read_run(tmp_path)
  assert info.image_size == (8, 8) and info.plan.pp.train_sizes == (8, 12)
  with pytest.raises(UserError, match=r"pp.train_sizes \(\[8, 12\] -> None\)"):
    loop.train_and_evaluate(config(total_steps=6, pp={"train_crop": "random"}), tmp_path)


@pytest.mark.parametrize(
  "pp, message",
  [
    (dict(train_sizes=8), r"config.pp.train_sizes=8 is not a tuple of an integer or None"),
    (dict(train_sizes=(8, 9.5)), r"config.pp.train_sizes=\(8, 9.5\) is not a tuple"),
    (dict(train_sizes=(8, 0)), r"train_sizes=\(8, 0\) should be positive sides in pixels"),
    (dict(train_crop="none"), r"needs images cropped to the largest; set pp.train_crop"),
    (dict(resize=10), r"has a side above pp.resize=10, from which images are cropped; enlarge"),
  ],
)
def test_mistakes_are_refused(pp, message):
  with pytest.raises(UserError, match=message):
    make_plan(tiny.config(pp={**PP, **pp}))


@pytest.mark.parametrize(
  "model, message",
  [
    ({}, r"parameters are for images of 8x8 and not for 12; remove it, or train a model of any"),
    (ANY_SIZE | dict(position_embedding="relative"), r"are for images of 8x8 and not for 12"),
    (ANY_SIZE | dict(patch_size=8), r"this model: image_size=12 is not a multiple of patch size 8"),
  ],
)
def test_models_of_one_size_are_refused_before_anything_is_written(model, message, tmp_path):
  with pytest.raises(UserError, match=message) as caught:
    loop.train_and_evaluate(tiny.config(model=model, pp=PP), tmp_path / "run")
  assert str(caught.value).startswith("config.pp.train_sizes=(8, 12) does not go with this model")
  assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
  "model, message",
  [
    (
      dict(name="PoolFormer-S12", depths=(1,), widths=(8,), token_mixer="mlp"),
      r"3x3 positions in a stage whose token_mixer='mlp' is for 4",
    ),
    (
      dict(name="Mixer-S_16", patch_size=4, hidden_dim=8, num_blocks=1),
      r"12x12 pixels has 9 patches, but the token-mixing MLPs of this Mixer are for 4",
    ),
    (dict(name="PoolFormer-S12", depths=(1,), widths=(8,)), None),
    (dict(name="Swin-T", embed_dim=8, depths=(1,), head_dim=4, patch_size=2), None),
  ],
)
def test_what_families_take(model, message):
  plan = make_plan(dict(tiny.config(pp=PP).to_dict(), model=model))
  built, _ = build.build_model(plan, 10)
  if message is None:
    multiscale.check(built, plan.pp)
  else:
    with pytest.raises(UserError, match=message):
      multiscale.check(built, plan.pp)
