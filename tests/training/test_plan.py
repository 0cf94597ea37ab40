# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
import json

import ml_collections
import pytest
import tiny_run as tiny

from vit_jax import keys
from vit_jax.errors import UserError
from vit_jax.training.continuation import differences
from vit_jax.training.plan import Plan, make_plan

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
  "changes, message",
  [
    (dict(base_lrr=0.1), r"config.base_lrr is not a known key; did you mean 'base_lr'"),
    (dict(pp=dict(cropp=8)), r"config.pp.cropp .*'crop'"),
    (dict(model=dict(hidden_sise=8)), r"hidden_sise.*'hidden_size'"),
    (dict(model=dict(name="ViT-B_15")), r"ViT-B_15.*ViT-B_16"),
    (dict(optim=dict(name="adam")), r"config.optim.name='adam' is not 'sgd' or 'adamw'"),
    (dict(optim=dict(name="sgd", momentun=0.9)), r"momentun.*'momentum'"),
    (dict(trainer="train"), r"config.trainer .*remove it"),
    (dict(tfds_manual_dir="/x"), r"tfds_manual_dir.*tfds_data_dir"),
    (dict(prefetch=2), r"config.prefetch .*threads"),
    (dict(model=dict(model_name="ViT-B_16")), r"model_name.*use model.name"),
    (dict(model=dict(transformer=dict(dropout_rate=0.0))), r"use model.dropout_rate"),
    (dict(model=dict(num_classes=3)), r"model.num_classes.*the data set decides"),
    (dict(model=None), r"config.model.name is missing"),
    (dict(total_steps=None), r"config.total_steps is missing; set it to an integer"),
    (dict(total_steps=1.5), r"total_steps=1.5 is not an integer"),
    (dict(batch=True), r"batch=True is not an integer"),
    (dict(base_lr="high"), r"base_lr='high' is not a number"),
    (dict(dataset=3), r"dataset=3 is not a string"),
    (dict(optim=0.1), r"config.optim should be a ConfigDict"),
    (dict(decay_type="cosin"), r"decay_type='cosin' is not 'cosine' or"),
    (dict(decay_at=(0.5,)), r"decay_at=\(0.5,\) has no effect.*decay_type='step'"),
    (dict(decay_type="step", decay_at=(200.0,)), r"decay_at=\(200.0,\) should be shares"),
    (dict(mixup=-0.1), r"mixup=-0.1 should not be negative"),
    (dict(cutmix=-1.0), r"cutmix=-1.0 should not be negative; 0 turns it off"),
    (dict(cutmix=1.0, accum_steps=32), r"no effect on parts of one example \(batch=32, accum_"),
    (dict(ema_decay=1.0), r"ema_decay=1.0 should be in \(0, 1\), such as 0.9999; 0 turns it off"),
    (dict(rsqrt_timescale=100), r"rsqrt_timescale=100 has no effect.*decay_type='rsqrt'"),
    (dict(linear_end=0.0), r"linear_end=0.0 has no effect"),
    (dict(optim=dict(name="adamw", momentum=0.9)), r"optim.momentum=0.9 has no effect.*'sgd'"),
    (dict(optim=dict(name="sgd", b1=0.9)), r"optim.b1=0.9 has no effect"),
    (dict(optim=dict(name="sgd", momentum=0.0), optim_dtype="bfloat16"), r"optim_dtype.*momentum"),
    (dict(pp=dict(min_area=0.1)), r"pp.min_area=0.1 has no effect"),
    (dict(pp=dict(resize=16)), r"pp.resize=16 has no effect"),
    (dict(tfds_data_dir="/data"), r"tfds_data_dir='/data' has no effect.*TFDS"),
    (dict(checkpoint="a.npz", pretrained_dir="b"), r"checkpoint and config.pretrained_dir both"),
    (dict(warmup_steps=13), r"warmup_steps=13 .*more than total_steps=12"),
    (dict(keep_last=1), r"keep_last=1 should be at least 2"),
    (dict(keep_every=4), r"keep_every=4 should be a multiple of config.checkpoint_every=3"),
    (dict(batch=0), r"batch=0 should be at least 1"),
    (dict(accum_steps=5), r"batch=32 is not a multiple of accum_steps=5"),
    (dict(label_smoothing=1.0), r"label_smoothing=1.0 should be in"),
    (dict(grad_norm_clip=-1.0), r"grad_norm_clip=-1.0 should be positive; 0 turns clipping off"),
    (dict(seed=-1), r"seed=-1 should be in \[0, 2147483647\]"),
    (dict(seed=2**31), r"seed=2147483648 should be in"),
    (dict(base_lr=NAN), r"base_lr=nan should not be negative, and be a finite number"),
    (dict(base_lr=INF), r"base_lr=inf should not be negative, and be a finite number"),
    (dict(base_lr=-0.1), r"base_lr=-0.1 should not be negative\."),
    (dict(mixup=NAN), r"mixup=nan should not be negative"),
    (dict(ema_decay=NAN), r"ema_decay=nan should be in \(0, 1\)"),
    (dict(grad_norm_clip=NAN), r"grad_norm_clip=nan should be positive"),
    (dict(grad_norm_clip=INF), r"grad_norm_clip=inf should be positive"),
    (dict(label_smoothing=NAN), r"label_smoothing=nan should be in"),
    (dict(max_bad_fraction=NAN), r"max_bad_fraction=nan should be in \[0, 1\]"),
    (dict(stall_timeout=0.0), r"stall_timeout=0.0 should be positive"),
    (dict(stall_timeout=INF), r"stall_timeout=inf should be positive"),
    (dict(decay_type="linear", linear_end=INF), r"linear_end=inf should not be negative"),
    (dict(decay_type="step", decay_factor=NAN), r"decay_factor=nan should be positive"),
    (dict(decay_type="step", decay_at=(NAN,)), r"decay_at=\(nan,\) should be shares"),
    (dict(optim=dict(name="adamw", eps=-1e-8)), r"optim.eps=-1e-08 should be positive"),
    (dict(optim=dict(name="adamw", b2=1.0)), r"optim.b2=1.0 should be in \[0, 1\)"),
    (dict(optim=dict(name="adamw", weight_decay=INF)), r"weight_decay=inf should not be negative"),
    (dict(mesh=dict(fsdp=0)), r"mesh.fsdp=0 should be at least 1, or -1 for all that are left"),
    (dict(mesh=dict(data=-2)), r"mesh.data=-2 should be at least 1, or -1"),
    (dict(mesh=dict(max_whole=1.5)), r"mesh.max_whole=1.5 should be in \[0, 1\]"),
    (dict(checkpoint_image_size=(0, 8)), r"checkpoint_image_size=\(0, 8\) should be at least 1"),
    (dict(shuffle_buffer=-1), r"shuffle_buffer=-1 should be at least 0"),
    (dict(total_steps=2**31), r"total_steps=2147483648 should be at least 1, and less than 2\^31"),
    (dict(eval_every=-1), r"eval_every=-1 should not be negative"),
    (dict(progress_every=0), r"progress_every=0 should be at least 1"),
    (dict(keep_every=-3), r"keep_every=-3 should not be negative"),
    (dict(checkpoint_every=0, keep_every=5), r"keep_every=5 has no effect with config.checkpoint_"),
    (dict(distill=dict(teacher="BiT-R50x1", weight=0.0)), r"distill.weight=0.0 should be in \(0,"),
    (dict(distill=dict(teacher="BiT-R50x1", image_size=-1)), r"image_size=-1 should be at least 1"),
    (
      dict(pp=dict(random_affine=dict(degrees=NAN))),
      r"random_affine.degrees=nan must be in \[0, 3",
    ),
    (dict(pp=dict(random_affine=dict(translate=-1))), r"random_affine.translate=-1 must be in \[0"),
    (dict(pp=dict(random_affine=dict(scale=(1, INF)))), r"random_affine.scale=\(1, inf\) must be"),
    (dict(pp=dict(random_affine=dict(scale=(1, "a")))), r"random_affine.scale=\(1, 'a'\) must be"),
    (dict(pp=dict(random_affine={1: 2})), r"random_affine.1 is unknown; it takes degrees"),
    (dict(pp=dict(min_area=NAN, train_crop="inception")), r"pp.min_area=nan must be above 0"),
    (dict(pp=dict(crop=0)), r"pp.crop=0 must be a positive size"),
    (dict(base_lr=10**400), r"config.base_lr=10+ is not a number"),
    (dict(pp=dict(mean=NAN)), r"pp.mean=\(nan,\) must have one number"),
    (dict(model=dict(dropout_rate=1.5)), r"dropout_rate=1.5 should be in \[0, 1\)"),
    (dict(model=dict(num_layers=0)), r"num_layers=0 should be at least 1"),
    (dict(model=dict(dtype="int8")), r"dtype='int8' is no type to compute in"),
    (dict(lr=0.1), r"config.lr is not a known key; use base_lr\."),
    (dict(num_classes=3), r"config.num_classes .*the data set decides"),
    (dict(optim=dict(lr=0.1)), r"config.optim.lr is not a known key; use base_lr\."),
    (dict(weight_decay=0.1), r"config.weight_decay is not a known key; use optim.weight_decay\."),
    (dict(zzz=1), r"config.zzz is not a known key; did you mean '\w+' or '\w+' or '\w+'\?$"),
    (dict(dataset=None), r"config.dataset is missing; set it to a TFDS name, a folder of images"),
    (dict(dataset=""), r"config.dataset is missing"),
    (dict(nan_policy="ignore"), r"nan_policy='ignore' is not 'stop' or 'skip' or 'rollback'"),
  ],
)
def test_refuses_with_one_sentence(changes, message):
  with pytest.raises(UserError, match=message) as caught:
    make_plan(tiny.config(**changes))
  text = str(caught.value)
  assert "\n" not in text and text.endswith((".", "?"))


def test_defaults_types_and_none():
  plan = make_plan(
    tiny.config(grad_norm_clip=None, base_lr=1, optim_dtype=None, shuffle_buffer=50_000)
  )
  assert plan.grad_norm_clip is None  # None is a value where a key may be off ...
  assert plan.optim_dtype == "float32"  # ... and else the default.
  assert plan.pp.mean == (0.5,) and plan.pp.channels == 1
  assert plan.from_scratch and plan.weights is None


def test_accepts_what_the_command_line_gives():
  config = tiny.config()
  config.unlock()
  config.dataset = ml_collections.config_dict.placeholder(str)
  config.tfds_data_dir = ml_collections.config_dict.placeholder(str)
  config.lock()
  config.dataset = "digits"
  assert make_plan(config).dataset == "digits"
  assert make_plan(ml_collections.FrozenConfigDict(config)).dataset == "digits"


def test_size_and_normalisation_default_to_the_models():
  pp = make_plan(dict(dataset="digits", total_steps=500, model=dict(name="ViT-B_16"))).pp
  assert (pp.crop, pp.mean, pp.std) == (224, (0.5,) * 3, (0.5,) * 3)


def test_no_split_is_not_the_same_as_a_split_that_no_one_names():
  plan = make_plan(tiny.config(pp=dict(train=None, val="", test=None)))
  assert (plan.pp.train, plan.pp.val, plan.pp.test) == (None, "", None)
  assert make_plan(tiny.config(pp=dict(val="none"))).pp.val == ""


def test_epochs_become_steps_of_the_training_images():
  keys = tiny.config(total_steps=None, warmup_steps=None, batch=32).to_dict()
  plan = make_plan({**keys, "epochs": 3, "warmup_epochs": 0.5}).with_steps(1257)
  assert (plan.total_steps, plan.warmup_steps) == (118, 20)  # 117.8 and 19.6.
  assert (plan.epochs, plan.warmup_epochs) == (None, None)
  assert make_plan({**keys, "epochs": 30}).with_steps(1257).warmup_steps == 500
  assert make_plan({**keys, "epochs": 1, "warmup_epochs": 0}).with_steps(10).total_steps == 1
  for changes, words in (
    (dict(total_steps=5, epochs=1), "total_steps=5 and config.epochs=1 both say how long"),
    (dict(epochs=1, warmup_steps=5, warmup_epochs=1), "warmup_epochs=1 both say how long"),
    (dict(epochs=0), "epochs=0 should be positive"),
    (dict(epochs=float("nan")), "epochs=nan should be positive"),
    (dict(epochs=float("inf")), "epochs=inf should be positive"),
    (dict(epochs=1, warmup_epochs=float("nan")), "warmup_epochs=nan should be at least 0"),
    (dict(epochs=1, warmup_epochs=-1), "warmup_epochs=-1 should be at least 0"),
    ({}, "total_steps is missing"),
  ):
    with pytest.raises(UserError, match=words):
      make_plan({**keys, **changes})
  with pytest.raises(UserError, match=r"warmup_steps=79 .* is more than total_steps=39"):
    make_plan({**keys, "epochs": 1, "warmup_epochs": 2}).with_steps(1257)


def test_directories_are_recorded_as_absolute_paths(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv("HOME", str(tmp_path))
  for folder in ("small/cat", "runs/teacher"):
    (tmp_path / folder).mkdir(parents=True)
  for spelling in ("small", "small/", "./small", "~/small", "runs/../small"):
    plan = make_plan(tiny.config(dataset=spelling, tfds_data_dir=None))
    assert plan.dataset == str(tmp_path / "small"), spelling
  assert make_plan(tiny.config(dataset="cifar10")).dataset == "cifar10"
  assert make_plan(tiny.config(checkpoint="runs/teacher/")).checkpoint == f"{tmp_path}/runs/teacher"
  plan = make_plan(tiny.config(distill=dict(teacher="runs/teacher")))
  assert plan.distill.teacher == f"{tmp_path}/runs/teacher"


def test_another_spelling_of_a_directory_is_the_same_plan(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "small").mkdir()
  (tmp_path / "other").mkdir()
  (tmp_path / "link").symlink_to(tmp_path / "small")
  saved = make_plan(tiny.config(dataset="small")).to_dict()
  saved["dataset"] = "small"  # As older versions recorded it.
  for spelling in ("small/", str(tmp_path / "small"), "link"):
    assert differences(saved, make_plan(tiny.config(dataset=spelling)), recorded=False) == []
  other = make_plan(tiny.config(dataset="other"))
  assert differences(saved, other, recorded=False) != []
  assert differences(saved, other, recorded=True) == []  # The record compares the files.


@pytest.mark.parametrize(
  "changes, expected",
  [
    (dict(pretrained_dir="gs://x/", model=dict(name="ViT-B_16")), "gs://x/ViT-B_16.npz"),
    (dict(pretrained_dir="d", model_or_filename="Ti_16-i21k-lr_1"), "d/Ti_16-i21k-lr_1.npz"),
    (dict(model_or_filename="Ti_16"), None),
    (dict(model_or_filename="Ti_16-i21k-lr_1"), "gs://vit_models/augreg/Ti_16-i21k-lr_1.npz"),
    (dict(checkpoint="a.npz"), "a.npz"),
  ],
)
def test_where_weights_come_from(changes, expected):
  plan = make_plan(tiny.config(**changes))
  assert plan.weights == expected and not plan.from_scratch


def test_devices_have_to_divide_the_batch():
  plan = make_plan(tiny.config(batch=32, accum_steps=2))
  plan.check_devices(16)
  with pytest.raises(UserError, match="use a multiple of 64"):
    plan.check_devices(32)


def test_survives_json():
  plan = make_plan(tiny.config())
  saved = json.loads(json.dumps(plan.to_dict()))
  assert Plan.from_dict(saved).to_dict() == plan.to_dict()
  assert differences(saved, plan) == []


def test_a_run_may_continue_on_another_mesh_and_in_less_memory():
  saved = make_plan(tiny.config()).to_dict()
  mesh = dict(replica=2, fsdp=2, tensor=2, max_whole=0.1)
  assert differences(saved, make_plan(tiny.config(mesh=mesh))) == []
  smaller = tiny.config(accum_steps=2, model=dict(remat="full"))
  assert differences(saved, make_plan(smaller)) == []


def test_differences_name_what_changed():
  saved = make_plan(tiny.config()).to_dict()
  other = make_plan(tiny.config(base_lr=0.5, model=dict(num_layers=2), threads=1, progress_every=7))
  assert differences(saved, other) == [
    "base_lr (0.001 -> 0.5)",
    "model.overrides.num_layers (1 -> 2)",
  ]


@pytest.mark.parametrize("decay_type, allowed", [("constant", True), ("cosine", False)])
def test_a_run_grows_longer_only_if_its_schedule_stays(decay_type, allowed):
  saved = make_plan(tiny.config(decay_type=decay_type)).to_dict()
  longer = make_plan(tiny.config(decay_type=decay_type, total_steps=20))
  assert (differences(saved, longer) == []) == allowed


def test_a_key_that_was_added_since_does_not_keep_a_run_from_continuing():
  plan = make_plan(tiny.config())
  saved = plan.to_dict()
  del saved["mixup"], saved["pp"]["crop_offset"]
  assert not differences(saved, plan)
  assert differences({**saved, "seed": 7}, plan) == ["seed (7 -> 0)"]


def test_a_command_line_turns_off_what_a_recipe_sets():
  changes = dict(ema_decay=0.0, frozen="", baseline="", checkpoint="none", grad_norm_clip=0)
  plan = make_plan(tiny.config(**changes))
  assert [getattr(plan, key) for key in changes] == [None] * 5
  assert make_plan(tiny.config(distill=dict(teacher="none", tau=2.0))).distill is None
  distill = make_plan(tiny.config(distill=dict(teacher="BiT-R50x1", image_size=0))).distill
  assert distill.image_size is None


def test_a_config_is_a_mapping_of_whatever_kind():
  keys = tiny.config().to_dict()
  mixed = {**keys, "pp": ml_collections.ConfigDict(keys["pp"]), "model": tiny.config().model}
  assert make_plan(mixed) == make_plan(keys) == make_plan(tiny.config())
  for wrong in (None, 3, "digits"):
    with pytest.raises(UserError, match=f"should be a ConfigDict or a dict, but is {wrong!r}"):
      make_plan(wrong)


def test_every_number_of_the_plan_has_a_range():
  """So that a key that is added says what it takes: NaN and infinity never."""
  numbers = {
    path: key
    for path, key in keys.flat(Plan).items()
    if key.kind() in (int, float, tuple) and "str" not in str(key.hint)
  }
  checked_by_pp = {f"pp.{name}" for name in ("train_sizes", "min_area", "mean", "std", "channels")}
  assert {path for path, key in numbers.items() if key.values is None} == checked_by_pp
  for path, key in numbers.items():
    for number in (NAN, INF, -INF):
      assert path in checked_by_pp or number not in key.values, path


def test_a_batch_larger_than_the_training_set_is_a_warning(caplog):
  plan = make_plan(tiny.config(batch=32))
  assert plan.with_steps(32) == plan and not caplog.records
  assert plan.with_steps(31) == plan
  [record] = caplog.records
  assert record.levelname == "WARNING"
  assert "config.batch=32 is more than the 31 training images" in record.getMessage()
  assert "--config.batch=31" in record.getMessage()
