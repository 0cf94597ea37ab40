# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A user's mistakes: one sentence, the promised exit code, and nothing lost or half-written."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

import vit_jax
from vit_jax.cli import app

QUICK = ["--config=configs/quickstart.py", "--config.total_steps=2", "--config.warmup_steps=0"]
SMALL = [
  "--config.model.num_layers=1",
  "--config.model.hidden_size=8",
  "--config.model.mlp_dim=8",
  "--config.model.num_heads=2",
]


def tiny_run(*more):
  return ["train", *QUICK, *SMALL, *more]


@pytest.fixture
def refused(capsys):
  """Runs a command that must fail, and returns its one sentence."""

  def run(argv, code=2):
    assert app.main(argv) == code
    error = capsys.readouterr().err.strip()
    said = [line for line in error.splitlines() if line.startswith("vit-jax")]
    assert len(said) == 1 and "Traceback" not in error, error
    return said[0]

  return run


def photo(path, seed=0, size=(24, 24)):
  path.parent.mkdir(parents=True, exist_ok=True)
  pixels = np.random.default_rng(seed).integers(0, 255, (*size, 3), np.uint8)
  Image.fromarray(pixels).save(path)


def test_unknown_command_and_config_key(refused, tmp_path):
  assert "did you mean 'train'" in refused(["trian"])
  workdir = tmp_path / "run"
  said = refused(tiny_run(f"--workdir={workdir}", "--config.bse_lr=1"))
  assert "no config key 'bse_lr'; did you mean 'base_lr'" in said
  said = refused(tiny_run(f"--workdir={workdir}", "--config.batch=many"))
  assert "--config.batch=many" in said
  said = refused(["train", "--config=configs/quikstart.py", f"--workdir={workdir}"])
  assert "configs/quickstart.py" in said
  assert not workdir.exists()


def test_a_key_that_this_run_would_not_read_is_refused(refused, tmp_path):
  said = refused(tiny_run(f"--workdir={tmp_path / 'run'}", "--config.pp.resize=16"))
  assert "pp.resize" in said


def test_unknown_model(refused, tmp_path):
  said = refused(tiny_run(f"--workdir={tmp_path / 'run'}", "--config.model.name=ViT-B16"))
  assert "no model 'ViT-B16'; did you mean 'ViT-B_16'" in said
  photo(tmp_path / "a.png")
  said = refused(["predict", "--model=ViT-B16", str(tmp_path / "a.png")])
  assert "did you mean 'ViT-B_16'" in said
  assert not (tmp_path / "run").exists()


def test_image_size_that_is_no_multiple_of_the_patch(refused, tmp_path):
  said = refused(tiny_run(f"--workdir={tmp_path / 'run'}", "--config.pp.crop=33"))
  assert "33 is not a multiple of patch size 8; use 32 or 40" in said
  assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
  """A small hybrid's official file."""
  model = vit_jax.create_model("R+ViT-Ti_16", num_layers=1, num_classes=10, patch_size=2)
  variables = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 32, 32, 1), np.float32))
  path = tmp_path_factory.mktemp("weights") / "R+ViT-Ti_16.npz"
  vit_jax.save_checkpoint(path, model, variables)
  return path


def test_wrong_weights(refused, tmp_path, weights):
  workdir = tmp_path / "run"

  def start(path):
    return refused(tiny_run(f"--workdir={workdir}", f"--config.checkpoint={path}"))

  said = start(weights)  # Of width 192, for a model of width 8.
  assert "does not fit R+ViT-Ti_16" in said and "192" in said

  cut = tmp_path / "cut.npz"
  cut.write_bytes(weights.read_bytes()[:-1000])
  assert str(cut) in start(cut)

  pickled = tmp_path / "pickled.npz"
  np.savez(pickled, embedding=np.array([{"a": 1}], dtype=object))
  assert "pickle" in start(pickled)

  mixer = tmp_path / "mixer.npz"
  np.savez(mixer, **{"MixerBlock_0/LayerNorm_0/scale": np.ones(8, np.float32)})
  assert "Mixer" in start(mixer)

  assert "missing.npz" in start(tmp_path / "missing.npz")
  assert not workdir.exists()


def test_data_folders(refused, tmp_path):
  workdir = tmp_path / "run"

  def start(folder):
    common = [f"--workdir={workdir}", f"--config.dataset={folder}"]
    return refused(tiny_run(*common, "--config.pp.eval_resize=squash"))

  assert "no directory" in start(tmp_path / "missing")
  (tmp_path / "empty").mkdir()
  assert str(tmp_path / "empty") in start(tmp_path / "empty")

  photo(tmp_path / "one" / "cat" / "1.png")
  assert "class" in start(tmp_path / "one")

  photo(tmp_path / "hole" / "cat" / "1.png")
  photo(tmp_path / "hole" / "dog" / "1.png")
  (tmp_path / "hole" / "bird").mkdir()
  assert "bird" in start(tmp_path / "hole")
  assert not workdir.exists()


def test_unwritable_workdir(refused, tmp_path):
  (tmp_path / "file").write_text("")
  assert "file" in refused(tiny_run(f"--workdir={tmp_path / 'file' / 'run'}"))


def test_workdir_of_another_config_is_left_as_it_was(refused, tmp_path):
  workdir = tmp_path / "run"
  assert app.main(tiny_run(f"--workdir={workdir}")) == 0
  before = {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()}
  said = refused(tiny_run(f"--workdir={workdir}", "--config.base_lr=0.5"))
  assert "base_lr" in said and "another" in said
  assert {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()} == before

  # The finished run itself is a success, at once.
  assert app.main(tiny_run(f"--workdir={workdir}")) == 0


def test_nan_stops_with_the_last_good_checkpoint(refused, tmp_path):
  workdir = tmp_path / "run"
  settings = ["--config.base_lr=1e36", "--config.total_steps=40", "--config.checkpoint_every=1"]
  said = refused(tiny_run(f"--workdir={workdir}", *settings, "--config.warmup_steps=30"), code=3)
  assert "at step" in said and "the last good one" in said
  from vit_jax.workdir import run_info

  _, variables, info = run_info.load_run(workdir, "last")
  assert info.step >= 1
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(variables))


def test_batch_that_the_devices_do_not_divide(tmp_path):
  argv = tiny_run(f"--workdir={tmp_path / 'run'}", "--config.batch=12")
  environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
  run = subprocess.run(
    [sys.executable, "-m", "vit_jax.cli.app", *argv],
    env=environment, capture_output=True, text=True, check=False,
  )  # fmt: skip
  assert run.returncode == 2 and "Traceback" not in run.stderr
  assert "batch=12 is not a multiple of" in run.stderr and "8" in run.stderr
  assert not (tmp_path / "run").exists()


def test_predict_and_evaluate(refused, tmp_path):
  photo(tmp_path / "a.png")
  assert "--workdir" in refused(["predict", str(tmp_path / "a.png")])
  said = refused(["predict", f"--workdir={tmp_path}", str(tmp_path / "a.png")])
  assert "not the workdir of a training run" in said
  assert "nothing.png" in refused(
    ["predict", f"--workdir={tmp_path}", str(tmp_path / "nothing.png")]
  )
  assert "no model matches" in refused(["models", "nothing"])
