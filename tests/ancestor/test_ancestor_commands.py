# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The ancestor's command lines as its README and its configs print them, typed word for word.

A shell expands each line; what it gives `python -m vit_jax.main` goes through the command line up
to the plan, which is compared key by key.
"""

import logging
import os
import pathlib
import subprocess
import sys

import ancestor_facts as facts
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import vit_jax
from vit_jax.checkpoints import download, released
from vit_jax.cli import app, configuration
from vit_jax.configs import common, deit, mobilevit
from vit_jax.errors import UserError
from vit_jax.models import registry
from vit_jax.training import loop
from vit_jax.training.plan import make_plan
from vit_jax.workdir import run_data

VIT = r"""python -m vit_jax.main --workdir=/tmp/vit-$(date +%s) \
    --config=$(pwd)/vit_jax/configs/vit.py:b16,cifar10 \
    --config.pretrained_dir='gs://vit_models/imagenet21k'"""
MIXER = r"""python -m vit_jax.main --workdir=/tmp/vit-$(date +%s) \
    --config=$(pwd)/vit_jax/configs/mixer_base16_cifar10.py \
    --config.pretrained_dir='gs://mixer_models/imagenet21k'"""
AUGREG = r"""python -m vit_jax.main --workdir=/tmp/vit-$(date +%s) \
    --config=$(pwd)/vit_jax/configs/augreg.py:R_Ti_16 \
    --config.dataset=oxford_iiit_pet \
    --config.base_lr=0.01"""
AUGREG_SPLIT = r"""python -m vit_jax.main --workdir=/tmp/vit \
    --config=$(pwd)/vit_jax/configs/augreg.py:R_Ti_16 \
    --config.dataset=oxford_iiit_pet \
    --config.pp.train='train[:90%]' \
    --config.base_lr=0.01"""
R_TI_16 = "R_Ti_16-i21k-300ep-lr_0.001-aug_none-wd_0.03-do_0.0-sd_0.0"
AUGREG_FILE = AUGREG_SPLIT.replace("R_Ti_16", R_TI_16)
OF_2020 = (  # As the README had it before.
  "python -m vit_jax.main --workdir=/tmp/vit --config=$(pwd)/vit_jax/configs/vit.py:b16,cifar10 "
  '--config.pretrained_dir="gs://vit_models/imagenet21k/"'
)
B32 = "python -m vit_jax.main --config=$(pwd)/vit_jax/configs/vit.py:b32,cifar10 --workdir=/tmp/vit"
VIT_MODELS, PETS = {"pretrained_dir": "gs://vit_models/imagenet21k"}, {"dataset": "oxford_iiit_pet"}
B16 = facts.vit_config("b16", "cifar10")
PETS_LINE = {**PETS, "base_lr": 0.01}
TRAIN_90 = {**PETS_LINE, "pp.train": "train[:90%]", "pp.val": None}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
  """A directory without configs, an empty cache and no network."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv("VIT_JAX_CACHE", str(tmp_path / "cache"))
  monkeypatch.setenv("VIT_JAX_OFFLINE", "1")
  monkeypatch.setattr(app, "_speak_in_lines", lambda: None)  # Other tests' logs stay as they are.


def typed(line):
  """What a shell makes of a line: the arguments of `vit_jax.main`."""
  script = 'python() { printf "%s\\0" "$@"; }\n' + line
  done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
  module, *argv = done.stdout.removesuffix("\0").split("\0")[1:]
  assert module == "vit_jax.main"
  return argv


def planned(line, monkeypatch):
  """The plan that a line trains by."""
  plans = []

  def train_and_evaluate(config, workdir, *, resume, **options):
    assert str(workdir).startswith("/tmp/vit") and resume is True and not any(options.values())
    plans.append(make_plan(config))
    return {}

  monkeypatch.setattr(loop, "train_and_evaluate", train_and_evaluate)
  assert app.run("train", typed(line)) == 0
  return plans[0]


# Line, what is added to it; the ancestor's config, where ours differs, and what is typed.
LINES = {
  "vit": (VIT, "", B16, facts.DIFFERENCES, VIT_MODELS),
  "vit of 2020": (
    OF_2020,
    "",
    B16,
    facts.DIFFERENCES,
    {"pretrained_dir": "gs://vit_models/imagenet21k/"},
  ),
  "configs/README": (B32, "", facts.vit_config("b32", "cifar10"), facts.DIFFERENCES, {}),
  "mixer": (
    *(MIXER, "", facts.mixer_config(), facts.MIXER_DIFFERENCES),
    {"pretrained_dir": "gs://mixer_models/imagenet21k"},
  ),
  "augreg": (*(AUGREG, "", facts.augreg_config("R_Ti_16"), facts.AUGREG_DIFFERENCES, PETS_LINE),),
  "augreg, a split": (
    *(AUGREG_SPLIT, "", facts.augreg_config("R_Ti_16"), facts.AUGREG_DIFFERENCES, TRAIN_90),
  ),
  "augreg, a file": (
    *(AUGREG_FILE, "", facts.augreg_config(R_TI_16), facts.AUGREG_DIFFERENCES, TRAIN_90),
  ),
}
# Settings of the README and of the comments in its configs, and what they mean.
SETTINGS = {
  "--config.accum_steps=8": {"accum_steps": 8},
  "--config.accum_steps=16": {"accum_steps": 16},
  "--config.accum_steps=1": {"accum_steps": 1},
  "--config.accum_steps=32": {"accum_steps": 32},
  "--config.accum_steps=2 --config.batch=16": {"accum_steps": 2, "batch": 16},
  "--config.batch=512": {"batch": 512},
  "--config.base_lr=0.001": {"base_lr": 0.001},
  "--config.shuffle_buffer=50000": {"shuffle_buffer": 50_000},
  "--config.total_steps=500 --config.warmup_steps=50": {"total_steps": 500, "warmup_steps": 50},
  "--config.total_steps=1000 --config.warmup_steps=100": {
    "total_steps": 1_000,
    "warmup_steps": 100,
  },
  "--config.total_steps=2000": {"total_steps": 2_000},
  "--config.optim_dtype=float32": {"optim_dtype": "float32"},
  "--config.decay_type=linear": {"decay_type": "linear"},
  "--config.grad_norm_clip=0.5": {"grad_norm_clip": 0.5},
  "--config.checkpoint_every=0": {"checkpoint_every": 0},
  "--config.eval_every=50 --config.progress_every=5": {"eval_every": 50, "progress_every": 5},
  "--config.batch_eval=64": {"batch_eval": 64},
  "--config.pp.crop=224": {"pp.crop": 224},
  "--config.dataset=cifar10": {"dataset": "cifar10"},
  "--config.pretrained_dir=gs://vit_models/sam": {"pretrained_dir": "gs://vit_models/sam"},
  "--config.model_or_filename=B_16 --config.pretrained_dir=gs://vit_models/augreg": {
    "model_or_filename": "B_16",
    "pretrained_dir": "gs://vit_models/augreg",
  },
  "--config.model.dropout_rate=0.1": {"model.dropout_rate": 0.1},
  "--config.model.classifier=gap": {"model.classifier": "gap"},
  "--config.model.representation_size=768": {"model.representation_size": 768},
}
LINES |= {
  setting: (VIT, f" {setting}", B16, facts.DIFFERENCES, {**VIT_MODELS, **meant})
  for setting, meant in SETTINGS.items()
}


@pytest.mark.parametrize("which", LINES)
def test_a_line_is_the_plan_that_the_ancestor_trains_by(which, monkeypatch):
  line, more, theirs, differences, changes = LINES[which]
  facts.compare(planned(line + more, monkeypatch), theirs, differences, changes)


@pytest.mark.parametrize(
  "line, weights",
  [
    (VIT, "gs://vit_models/imagenet21k/ViT-B_16.npz"),
    (OF_2020, "gs://vit_models/imagenet21k/ViT-B_16.npz"),
    (MIXER, "gs://mixer_models/imagenet21k/Mixer-B_16.npz"),
    (AUGREG_FILE, f"gs://vit_models/augreg/{R_TI_16}.npz"),
    (AUGREG, f"gs://vit_models/augreg/{R_TI_16.replace('none', 'light1')}.npz"),
  ],
)
def test_the_weights_of_a_line(line, weights, monkeypatch):
  index = download.cached_path("gs://vit_models/augreg/index.csv")
  index.parent.mkdir(parents=True)
  rows = ["ds,filename,final_val"]
  rows += [f"i21k,{R_TI_16.replace('none', aug)},{val}" for aug, val in (("light1", 0.4),)]
  rows += [f"i21k,{R_TI_16},0.3", f"i1k,{R_TI_16.replace('i21k', 'i1k')},0.9"]
  index.write_text("\n".join(rows) + "\n")
  assert planned(line, monkeypatch).weights == weights


def test_a_tfds_directory_and_a_folder_are_data_sets_as_there(tmp_path, monkeypatch):
  plan = planned(f"{VIT} --config.tfds_data_dir={tmp_path}", monkeypatch)
  assert (plan.dataset, plan.tfds_data_dir) == ("cifar10", str(tmp_path))
  for split in ("train", "test"):
    (tmp_path / "photos" / split / "cat").mkdir(parents=True)
  plan = planned(f"{VIT} --config.dataset=$(pwd)/photos", monkeypatch)
  assert plan.dataset == str(tmp_path / "photos")
  assert (plan.pp.train, plan.pp.test, plan.base_lr) == (None, None, 0.01)


def test_augreg_takes_a_preset_of_a_data_set():
  """Of the data set are the splits; steps and warm-up are AugReg's."""
  plan = make_plan(configuration.parse(["--config=configs/augreg.py:R_Ti_16,cifar10"]))
  theirs = facts.augreg_config("R_Ti_16", "cifar10")
  splits = {"pp.train": "train[:98%]", "pp.test": "test", "pp.val": "train[98%:]"}
  facts.compare(plan, theirs, facts.AUGREG_DIFFERENCES, splits)
  with pytest.raises(UserError, match="no preset for dataset 'pets'"):
    configuration.parse(["--config=configs/augreg.py:R_Ti_16,pets"])


@pytest.mark.parametrize(
  "setting, words",
  [
    ("prefetch=2", "prefetch"),
    ("trainer=train", "trainer"),
    ("trainer=inference_time", "trainer"),
    ("tfds_manual_dir=/data", "tfds_manual_dir"),
    ("accumulation_steps=1", "use accum_steps"),
    ("model.transformer.dropout_rate=0.1", "model.dropout_rate"),
  ],
)
def test_keys_that_are_gone_are_refused_by_name(setting, words, capsys):
  assert app.run("train", typed(f"{VIT} --config.{setting}")) == 2
  assert words in capsys.readouterr().err


def test_inference_time_names_the_benchmark():
  """By the module itself, whose arguments the other tests here give to what it calls."""
  line = (
    "python -m vit_jax.main --workdir=$(pwd)/x --config=$(pwd)/vit_jax/configs/inference_time.py"
  )
  script = f'python() {{ "{sys.executable}" "$@"; }}\n{line} --config.model_name=ViT-B_32'
  run = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
  assert run.returncode == 2 and "Traceback" not in run.stderr
  assert "`python benchmarks/speed.py --models=ViT-B_16 --batch=8`" in run.stderr
  assert pathlib.Path(__file__).parents[2].joinpath("benchmarks", "speed.py").is_file()


# Where a config file is looked for.


@pytest.mark.parametrize(
  "path, is_said",
  [
    ("configs/vit.py", False),
    ("vit_jax/configs/vit.py", False),
    ("{here}/vit_jax/configs/vit.py", True),
  ],
)
def test_a_config_that_is_not_there_is_the_shipped_one(path, is_said, tmp_path, caplog):
  caplog.set_level(logging.INFO)
  path = path.format(here=tmp_path)
  shipped = configuration.shipped_configs() / "vit.py"
  assert configuration.find_config(path) == shipped and shipped.is_file()
  said = f"there is no file {path}; taking configs/vit.py of vit_jax"
  assert (said in caplog.messages) == is_said


def test_a_config_that_is_there_comes_first(tmp_path):
  mine = tmp_path / "vit_jax" / "configs" / "vit.py"
  mine.parent.mkdir(parents=True)
  mine.write_text("")
  assert configuration.find_config(str(mine)) == mine
  wrong = ("vit.py", "my/vit.py", "../configs/vit.py", "configs/vti.py", "configs/models.py")
  for path in (*wrong, str(tmp_path / "configs" / "vit.py")):  # One's own, mistyped.
    with pytest.raises(UserError, match=r"there is no config file .*configs/") as caught:
      configuration.find_config(path)
    assert "common" not in str(caught.value) and "inference_time" not in str(caught.value)


# Names of models.


@pytest.mark.parametrize("model", [*facts.VITS, *facts.MIXERS, *facts.LITS])
def test_every_short_name_is_found(model):
  row = {**facts.VITS, **facts.MIXERS, **facts.LITS}[model]
  assert common.find_model(model) == (row.name if isinstance(row, facts.Vit) else row[0])


@pytest.mark.parametrize(
  "spelling, name",
  [
    *((s, "MobileViT-S") for s in ("s", "S", "mobilevit_s", "MobileViT-S", "mobilevit-s")),
    *((s, "MobileViT-XXS") for s in ("xxs", "mobilevit_xxs")),
    *((s, "MobileViTV2-0.5") for s in ("v2_0.5", "mobilevitv2_0.5", "v2_050", "mobilevitv2_050")),
    *((s, "MobileViTV2-1.75") for s in ("v2_1.75", "v2-1.75", "MobileViTV2-1.75", "v2_175")),
    ("v2_1.0", "MobileViTV2-1.0"),
    ("mobilevitv2_100", "MobileViTV2-1.0"),
  ],
)
def test_short_names_of_mobilevit(spelling, name):
  assert mobilevit.get_config(f"{spelling},cifar10").model.name == name


@pytest.mark.parametrize("name", registry.MODELS)
def test_every_model_is_found_by_its_full_name_and_its_short_one(name):
  assert common.find_model(name) == common.find_model(common.short_name(name)) == name


def test_a_spelling_of_two_models_is_neither():
  for spelling in ("vit_g14", "VIT-G/14"):
    with pytest.raises(UserError, match=rf"no model '{spelling}' in this configuration"):
      common.find_model(spelling)
  assert common.find_model("g14") == "ViT-g_14" and common.find_model("G14") == "ViT-G_14"


def test_deit_3_is_fine_tuned_only():
  assert deit.get_config("3_s16,cifar10").model.name == "DeiT3-S_16"
  with pytest.raises(UserError, match=r"recipe of DeiT3-S_16 .* is not here; fine-tune its"):
    deit.get_config("deit3_s16,imagenet2012")


# Weights that were never released.


@pytest.mark.parametrize(
  "argument, preset",
  [
    ("swin_t,cifar10", "configs/swin.py:t,cifar10"),
    ("Swin-B-384,cifar100", "configs/swin.py:b_384,cifar100"),
    ("swinv2_t_w8,cifar10", "configs/swin.py:v2_t_w8,cifar10"),
    ("deit_s16_distilled,imagenet2012", "configs/deit.py:s16_distilled,imagenet2012"),
    ("deit3_s16,cifar10", "configs/deit.py:3_s16,cifar10"),
    ("mixer_b16,cifar10", "configs/mixer.py:b16,cifar10"),
    ("bit_r50x1,cifar10", "configs/bit.py:r50x1,cifar10"),
    ("poolformer_s12,cifar10", "configs/metaformer.py:s12,cifar10"),
    ("mobilevit_s,cifar10", "configs/mobilevit.py:s,cifar10"),
    ("mobilevitv2_0.5,cifar10", "configs/mobilevit.py:v2_0.5,cifar10"),
    ("lit_b16b_2,cifar10", "configs/lit.py:b16b2"),
  ],
)
def test_another_family_is_refused_at_once_with_its_preset(argument, preset, capsys, tmp_path):
  line = f"--config=configs/vit.py:{argument}"
  assert app.main(["train", line, f"--workdir={tmp_path / 'run'}"]) == 2
  assert f"use --config={preset}." in capsys.readouterr().err
  assert configuration.parse([f"--config={preset}"]).model.name in registry.MODELS
  assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
  "line, advice",
  [
    ("vit.py:ti16,cifar10", "use --config=configs/augreg.py:Ti_16,cifar10"),
    ("vit.py:r26_s32,cifar100", "use --config=configs/augreg.py:R26_S_32,cifar100"),
    ("vit.py:s16,cifar10 --config.dataset={here}", "use --config=configs/augreg.py:S_16,"),
    ("vit.py:g14,cifar10", "no weights of it were released: train it by configs/scratch.py:ViT-g"),
    ("vit.py:r26_b32,cifar10", "configs/scratch.py:R26+ViT-B_32"),
    ("vit.py:testing,cifar10", "holds no testing.npz"),
    (
      "vit.py:s16_gap_norep,cifar10",
      "add --config.pretrained_dir= --config.model_or_filename=ViT-S_16-gap-norep",
    ),
    (
      "vit.py:b8,cifar10 --config.pretrained_dir=gs://vit_models/sam",
      "add --config.pretrained_dir=gs://vit_models/imagenet21k",
    ),
    (
      "vit.py:b16,cifar10 --config.pretrained_dir=gs://vit_models/augreg/",
      "add --config.pretrained_dir=gs://vit_models/imagenet21k",
    ),
    (
      "vit.py:b16,cifar10 --config.model_or_filename=B_16",
      "add --config.pretrained_dir=gs://vit_models/augreg",
    ),
    (
      "vit.py:h14,cifar10 --config.pretrained_dir=gs://vit_models/augreg "
      "--config.model_or_filename=H_14",
      "add --config.pretrained_dir=gs://vit_models/imagenet21k",
    ),
    ("mixer.py:s8,cifar10", "add --config.pretrained_dir=gs://mixer_models/gsam"),
    ("mixer.py:h14,cifar10", "configs/scratch.py:Mixer-H_14"),
    ("vit.py:b16,cifar10 --config.model.name=Swin-T", "use --config=configs/swin.py:t,cifar10"),
  ],
)
def test_weights_that_do_not_exist_are_refused_before_any_data(
  line, advice, capsys, tmp_path, monkeypatch
):
  """The data set was asked for first: half an hour of preparing it, then an address of no file."""
  monkeypatch.setattr(run_data, "open_run_data", lambda *_: pytest.fail("data were read"))
  config, *settings = line.format(here=tmp_path).split()
  argv = ["train", f"--config=configs/{config}", *settings, f"--workdir={tmp_path / 'run'}"]
  assert app.main(argv) == 2
  said = capsys.readouterr().err
  assert " holds no " in said and advice in said
  assert not (tmp_path / "run").exists() and not (tmp_path / "cache").exists()


def test_files_that_exist_are_not_refused(monkeypatch):
  check = released.check
  for name, entry in registry.MODELS.items():
    for weights in entry.weights:
      folder, _, file = weights.url.rpartition("/")
      check(name, folder, file)
  check("ViT-Ti_16", "/my/folder")
  check("ViT-Ti_16", None, "ViT-Ti_16")
  check("R+ViT-Ti_16", "gs://vit_models/augreg", "R_Ti_16")
  check("R+ViT-Ti_16", "gs://vit_models/augreg/", f"{R_TI_16}.npz")
  with pytest.raises(
    UserError, match=r"'B_16' is a ViT-B_16, .*use --config=configs/augreg.py:B_16"
  ):
    check("R+ViT-Ti_16", "gs://vit_models/augreg", "B_16")
  with pytest.raises(UserError, match=r"holds no ViT-Ti_16\.npz"):
    check("ViT-Ti_16", "gs://vit_models/imagenet21k")
  monkeypatch.setenv("VIT_JAX_MIRROR", "https://example.org")  # It may hold more.
  check("ViT-Ti_16", "gs://vit_models/imagenet21k")


# The ancestor's train_test.py: one step of its model for tests, on a folder, by the command itself.

ONE_STEP = r"""python -m vit_jax.main --workdir=$(pwd)/vit-$(date +%s) \
    --config=$(pwd)/vit_jax/configs/vit.py:testing,cifar10 \
    --config.pretrained_dir='gs://vit_models/imagenet21k' \
    --config.dataset=$(pwd)/dataset --config.pp.crop=64 \
    --config.batch=64 --config.accum_steps=2 --config.batch_eval=8 --config.total_steps=1"""


def test_one_step_of_testing(tmp_path, capsys):
  for name in ("train/test1", "train/test2", "test/test1", "test/test2"):
    (tmp_path / "dataset" / name).mkdir(parents=True)
    for i in range(8):
      Image.new("RGB", (1, 1)).save(tmp_path / "dataset" / name / f"{i}.jpg")
  model = vit_jax.create_model("testing", num_classes=1)
  variables = jax.jit(model.init)(jax.random.key(0), jnp.ones((1, 16, 16, 3)))
  weights = download.cached_path("gs://vit_models/imagenet21k/testing.npz")
  weights.parent.mkdir(parents=True)
  vit_jax.save_checkpoint(weights, model, variables)

  assert app.run("train", typed(ONE_STEP)) == 0
  [workdir] = tmp_path.glob("vit-*")
  assert [p.name for p in (workdir / "checkpoints").iterdir() if p.name.isdecimal()] == ["1"]
  assert "test: accuracy 50.00%, step 1" in capsys.readouterr().out  # All images are black.
  # The one token's position was zoomed to 4 x 4, and one step of rate 0 left it there.
  _, trained = vit_jax.from_pretrained(workdir)
  before = variables["params"]["Transformer"]["posembed_input"]["pos_embedding"]
  after = trained["params"]["Transformer"]["posembed_input"]["pos_embedding"]
  assert after.shape == (1, 17, 10)
  np.testing.assert_array_equal(after, np.concatenate([before[:, :1], *[before[:, 1:]] * 16], 1))


def test_unpooled_does_not_learn_classes(capsys, tmp_path):
  argv = ["train", "--config=configs/vit.py:testing_unpooled,cifar10", "--config.dataset=digits"]
  argv += ["--config.pretrained_dir=", "--config.pp.crop=32", f"--workdir={tmp_path / 'run'}"]
  assert app.main(argv) == 2
  assert "choose a classifier that pools" in capsys.readouterr().err
  assert not os.path.exists(tmp_path / "run")
