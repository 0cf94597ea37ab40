# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What a newcomer types wrongly: one sentence that names the remedy, exit code 2, and no work."""

import re

import pytest

from vit_jax.cli import app

QUICK = "--config=configs/quickstart.py"
OWN = """
from vit_jax.configs import common

def get_config():
  config = common.get_config()
  config.model = common.model_config("ViT-Ti_16")
  config.total_steps = 10
  return config
"""
FROM_THE_ANCESTOR = """
from vit_jax.configs import common as common_config, models as models_config

def get_config():
  config = common_config.get_config()
  config.model = models_config.MODEL_CONFIGS["ViT-B_16"]
  return config
"""
FORGETFUL = """
def get_config():
  config = {"dataset": "digits"}
"""

# Arguments of `vit-jax train`, and what the answer has to say.
LINES = [
  (["--config=configs/vit.py:vit_base_patch16_224,cifar10"], "here it is called 'b16'"),
  (["--config=configs/swin.py:swin_base_patch4_window12_384,cifar10"], "it is called 'b_384'"),
  (["--config=configs/mixer.py:deit3_base_patch16_224,cifar10"], "'DeiT3-B_16', of another family"),
  (["--config=configs/augreg.py:vit_tiny_patch16_384.augreg_in21k"], "it is called 'ViT-Ti_16'"),
  (["--config=configs/vit.py:xyzzy,cifar10"], "`vit-jax models` lists them all."),
  (["--config=configs/vit.py:b16"], "MODEL,DATASET, as in configs/vit.py:b16,cifar10"),
  (["--config=configs/quikstart.py"], "configs/quickstart.py"),
  (["--config.batch=8"], "give one --config=FILE"),
  ([QUICK, "--batch=8"], "settings are --config.KEY=VALUE"),
  ([QUICK, "--config.batch"], "settings are --config.KEY=VALUE"),
  ([QUICK, "--config.lr=0.1"], "no config key 'lr'; use base_lr."),
  ([QUICK, "--config.optim.learning_rate=0.1"], "use base_lr."),
  ([QUICK, "--config.batch_size=8"], "use batch."),
  ([QUICK, "--config.weight_decay=0.1"], "use optim.weight_decay."),
  ([QUICK, "--config.image_size=224"], "use pp.crop."),
  ([QUICK, "--config.dropout=0.1"], "use model.dropout_rate."),
  ([QUICK, "--config.num_classes=10"], "remove it (the data set decides)"),
  ([QUICK, "--config.prefetch=2"], "`threads` sets the number of readers"),
  ([QUICK, "--config.tfds_manual_dir=/x"], "set tfds_data_dir"),
  ([QUICK, "--config.trainer=train"], "remove it (`vit-jax train` is the trainer)"),
  ([QUICK, "--config.model.transformer.dropout_rate=0.1"], "use model.dropout_rate"),
  ([QUICK, "--config.text.tokenizer=bert"], "use configs/lit.py"),
  (["--config=configs/lit.py:digits", "--config.text.tokenzer=bert"], "'text.tokenizer'"),
  ([QUICK, "--config.stall_timout=9"], "did you mean 'stall_timeout'"),
  ([QUICK, "--config.model.name=deit_small_distilled_patch16_224"], "'DeiT-S_16-distilled'"),
  ([QUICK, "--config.model=ViT-B_16"], "set its keys, such as --config.model.name=VALUE."),
  ([QUICK, "--config.optim=adamw"], "set its keys, such as --config.optim.name=VALUE."),
  ([QUICK, "--config.pp={1: 2}"], "is not a dict; set its keys, such as --config.pp.train=VALUE."),
  ([QUICK, "--config.base-lr=0.1"], "use base_lr."),
  ([QUICK, "--config.batch=None"], "cannot be none; set it to an integer."),
  ([QUICK, "--config.epochs=many"], "--config.epochs=many is not a number or none."),
  ([QUICK, "--config.pp.flip=perhaps"], "is not True or False."),
  ([QUICK, "--config.seed=-1"], "seed=-1 should be in [0, 2147483647]."),
  ([QUICK, "--config.base_lr=nan"], "base_lr=nan should not be negative, and be a finite number."),
  ([QUICK, "--config.model.dropout_rate=1.5"], "dropout_rate=1.5 should be in [0, 1)."),
  ([QUICK, "--config.model.num_layers=0"], "num_layers=0 should be at least 1."),
  ([QUICK, "--config.model.dtype=int8"], "choose one of float32, bfloat16"),
  ([QUICK, "--config.model.stem_width=8"], "stem_width=8 is not a multiple of 32; use 32."),
  ([QUICK, "--config.checkpoint_every=0", "--config.keep_every=5"], "set that to 5 too."),
  (
    ["--config=own.py"],
    "dataset is missing; set it to a TFDS name, a folder of images, or 'digits'",
  ),
  (["--config=ancestor.py"], "config.model = common.model_config('ViT-B_16')` instead."),
  (["--config=forgetful.py"], "did it forget to return the config?"),
]


@pytest.mark.parametrize("arguments, remedy", LINES, ids=[" ".join(line) for line, _ in LINES])
def test_one_sentence_names_the_remedy(arguments, remedy, tmp_path, monkeypatch, capsys):
  for name, text in (("own", OWN), ("ancestor", FROM_THE_ANCESTOR), ("forgetful", FORGETFUL)):
    (tmp_path / f"{name}.py").write_text(text)
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr("vit_jax.data.datasets.open_dataset", None)  # Nothing is to be opened.
  monkeypatch.setattr("vit_jax.checkpoints.download.fetch", None)
  assert app.main(["train", "--workdir=run", *arguments]) == 2
  out, said = capsys.readouterr()
  [sentence] = [line for line in said.splitlines() if line.startswith("vit-jax train: ")]
  assert remedy in sentence and sentence[-1] in ".?"
  assert len(re.sub(r" \(/\S+\)", "", sentence)) < 230  # Without the place of the package.
  assert not out and "Traceback" not in said and not (tmp_path / "run").exists()
