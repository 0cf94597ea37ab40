# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A head is kept for the classes that it was trained on, and for no others of the same number."""

import logging

import numpy as np
import pytest
import tiny_model as tiny

from vit_jax.checkpoints.pretrained import from_pretrained
from vit_jax.checkpoints.saving import save_checkpoint
from vit_jax.errors import UserError
from vit_jax.training import build
from vit_jax.training.plan import make_plan

NAMES = ("ant", "bee", "cat", "dog", "emu")


@pytest.fixture(params=["npz", "safetensors", "folder"])
def saved(request, tmp_path):
  """A file of a small ViT whose head names its five classes."""
  model, variables = tiny.tiny()
  path = tmp_path / ("folder" if request.param == "folder" else f"x.{request.param}")
  metadata = {"class_names": list(NAMES), "image_size": [tiny.SIZE, tiny.SIZE]}
  save_checkpoint(path, model, variables, metadata=metadata)
  return path, variables["params"]["head"]


def head(path, class_names):
  _, variables = from_pretrained(
    tiny.NAME, path, image_size=tiny.SIZE, class_names=class_names, **tiny.FIELDS
  )
  return variables["params"]["head"]


def test_the_same_names_keep_the_head(saved):
  path, theirs = saved
  np.testing.assert_array_equal(head(path, NAMES)["kernel"], theirs["kernel"])


def test_another_order_moves_its_rows(saved, caplog):
  path, theirs = saved
  caplog.set_level(logging.INFO)
  order = [3, 0, 4, 2, 1]
  ours = head(path, [NAMES[k] for k in order])
  np.testing.assert_array_equal(ours["kernel"], theirs["kernel"][:, order])
  np.testing.assert_array_equal(ours["bias"], theirs["bias"][order])
  assert any("same 5 classes in another order" in m for m in caplog.messages)


def test_other_names_give_a_fresh_head(saved, caplog):
  """Ten digits became ten animals, "5" an elephant."""
  path, _ = saved
  caplog.set_level(logging.INFO)
  for names in (("ant", "bee", "cat", "dog", "eel"), ("1", "2", "3", "4", "5")):
    assert not np.any(head(path, names)["kernel"])
  assert any("not the same ('eel' is only in one of them)" in m for m in caplog.messages)
  assert not np.any(head(path, ("ant", "bee"))["kernel"])  # Another number, as ever.


def test_without_names_their_number_decides_and_that_is_said(tmp_path, caplog):
  caplog.set_level(logging.INFO)
  model, variables = tiny.tiny()
  save_checkpoint(tmp_path / "x.npz", model, variables)
  ours = head(tmp_path / "x.npz", NAMES)
  np.testing.assert_array_equal(ours["kernel"], variables["params"]["head"]["kernel"])
  assert any("it does not name them" in m for m in caplog.messages)


def test_names_decide_alone(saved):
  for other in ({"num_classes": 5}, {"head": "keep"}, {"classes": [1]}):
    with pytest.raises(UserError, match="class_names decides on the head"):
      from_pretrained(tiny.NAME, saved[0], class_names=NAMES, **other, **tiny.FIELDS)


def test_training_asks_for_the_names_of_its_data_set(saved):
  path, theirs = saved
  plan = make_plan(
    dict(
      dataset="x",
      total_steps=1,
      warmup_steps=0,
      checkpoint=str(path),
      model=dict(name=tiny.NAME, **tiny.FIELDS),
      pp=dict(crop=tiny.SIZE),
    )
  )
  for names, kept in ((NAMES, True), (("1", "2", "3", "4", "5"), False)):
    _, variables = build.build_model(plan, 5, None, names)
    same = np.array_equal(variables["params"]["head"]["kernel"], theirs["kernel"])
    assert same == kept
