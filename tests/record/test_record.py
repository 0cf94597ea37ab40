# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What the version that is recorded here has written is read, and what it has given is given.

`stopped/` was made by small_runs.py, `given/` by outputs.py. They are not made again where a test
fails: whoever changes a plan or a logit on purpose changes the record by what has changed.
"""

import json
import pathlib

import numpy as np
import outputs
import pytest
import small_models
import small_runs

import vit_jax

GIVEN = pathlib.Path(__file__).parent / "given"
QUICK = {*small_models.QUICK, "deit"}


def given(file):
  return json.loads((GIVEN / file).read_text())


def assert_near(found, expected, relative):
  assert np.linalg.norm(found - expected) <= relative * np.linalg.norm(expected)


@pytest.mark.parametrize(
  "label", [x if x in QUICK else pytest.param(x, marks=pytest.mark.slow) for x in small_models.ALL]
)
def test_logits(label):
  expected = np.load(GIVEN / "logits.npz")
  for part, found in outputs.logits(label).items():
    assert_near(found, expected[part], 1e-6)


@pytest.mark.parametrize("preset", outputs.PRESETS)
def test_plans(preset):
  assert json.loads(json.dumps(outputs.plan(preset))) == given("plans.json")[preset]


def test_help_texts():
  """But for where argparse breaks lines."""
  letters = lambda texts: {command: "".join(text.split()) for command, text in texts.items()}
  assert letters(outputs.help_texts()) == letters(given("help.json"))


@pytest.mark.parametrize("name", small_runs.RUNS)
def test_runs_are_loaded_and_continued(name, tmp_path):
  expected = np.load(GIVEN / "runs.npz")
  workdir = outputs.unpack(name, tmp_path)
  if name == "distilled":
    outputs.unpack("batch-norm", tmp_path)  # Its teacher.
  arrays = outputs.loaded(workdir)
  assert {f"{name} half {path}" for path in arrays} == {x for x in expected if f"{name} half " in x}
  for path, found in arrays.items():
    if path == "logits":
      assert_near(found, expected[f"{name} half logits"], 1e-6)
    else:
      np.testing.assert_array_equal(found, expected[f"{name} half {path}"])

  scores, recorded = outputs.continued(workdir), given("runs.json")[name]
  assert scores.keys() == recorded.keys()
  for key, value in recorded.items():
    near = pytest.approx(value, rel=1e-5) if isinstance(value, dict) else value
    assert scores[key] == near, key


def test_a_lost_config_is_restored_from_the_checkpoint(tmp_path):
  workdir = outputs.unpack("vit", tmp_path)
  model, _ = vit_jax.from_pretrained(str(workdir))
  (workdir / "config.json").unlink()
  assert vit_jax.from_pretrained(str(workdir))[0] == model
