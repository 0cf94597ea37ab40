# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""`preprocessing_for` against timm's transforms and transformers' image processors, on real photos.

Differences are in grey levels: 1 is 1/255 of an image's range, whatever the normalisation. Run with
`-s` to see the mean and the maximum of each.
"""

import dataclasses
import json
import logging

import numpy as np
import pytest
import timm
import timm.data
import timm.models
import transformers
from PIL import Image
from skimage import data as skimage_data
from sklearn.datasets import load_sample_images
from transformers.image_transforms import convert_to_rgb

from vit_jax import create_model, preprocessing_for, save_checkpoint
from vit_jax.checkpoints.preprocessing import to_metadata
from vit_jax.configs import quickstart
from vit_jax.data.transforms import eval_transform, normalize
from vit_jax.errors import UserError
from vit_jax.models import registry
from vit_jax.training.plan import make_plan
from vit_jax.workdir import data_record, run_info


def _views() -> dict[str, Image.Image]:
  """Photos of many shapes: landscape, portrait, square, small, long, grey and RGBA."""
  china, flower = load_sample_images().images
  coffee, cat = skimage_data.coffee(), skimage_data.chelsea()
  alpha = np.linspace(0, 255, coffee.shape[1]).astype(np.uint8)
  alpha = np.broadcast_to(alpha[None, :, None], (*coffee.shape[:2], 1))
  views = {
    "china 427x640": china,
    "flower 640x427": flower.transpose(1, 0, 2),
    "astronaut 512x512": skimage_data.astronaut(),
    "coffee 400x600": coffee,
    "rocket 427x640": skimage_data.rocket(),
    "cat 451x300": cat.transpose(1, 0, 2),
    "small 61x97": china[:61, :97],
    "small 150x91": flower[:150, :91],
    "long 101x600": coffee[100:201],
    "grey 512x512": skimage_data.camera(),
    "rgba 400x600": np.concatenate([coffee, alpha], axis=2),
  }
  return {name: Image.fromarray(np.ascontiguousarray(view)) for name, view in views.items()}


VIEWS = _views()
# The oracle for transparency, which timm's transforms and most processors leave to the caller.
RGB = {name: Image.fromarray(convert_to_rgb(v, return_numpy=True)) for name, v in VIEWS.items()}


def differences(ours, theirs, views=VIEWS):
  """Largest mean and largest single difference over the photos; `theirs` maps RGB to [c, h, w]."""
  std = np.array(ours.settings.std)
  means, maxima = [], []
  for name, view in views.items():
    expected = np.asarray(theirs(RGB[name]), np.float64).transpose(1, 2, 0)
    result = ours(view)
    assert result.dtype == np.float32 and result.shape == expected.shape == (*ours.settings.size, 3)
    levels = np.abs(result - expected) * std * 255
    means.append(levels.mean())
    maxima.append(levels.max())
  return max(means), max(maxima)


def report(what, mean, maximum):
  print(f"| {what} | {mean:.4f} | {maximum:.4f} |")


def write(folder, name, content):
  folder.mkdir(exist_ok=True)
  (folder / name).write_text(json.dumps(content))
  return folder


TIMM_MODELS = [
  "vit_base_patch16_224.augreg_in21k_ft_in1k",  # 0.9, bicubic, [-1, 1]
  "vit_base_patch16_384.augreg_in21k_ft_in1k",  # 1.0
  "deit_tiny_patch16_224.fb_in1k",
  "mixer_b16_224.goog_in21k_ft_in1k",  # 0.875
  "swin_tiny_patch4_window7_224.ms_in1k",
  "resnetv2_50x1_bit.goog_in21k_ft_in1k",  # 448, bilinear, 1.0
  "eva02_tiny_patch14_336.mim_in22k_ft_in1k",
  "vit_base_patch16_siglip_224.webli",  # bicubic, 0.9
  "eva02_base_patch14_448.mim_in22k_ft_in1k",  # squash
]
TIMM_MADE = {
  "bilinear, odd margins": dict(input_size=(3, 224, 224), crop_pct=0.95, interpolation="bilinear"),
  "squash, odd margins": dict(input_size=(3, 224, 224), crop_pct=0.95, crop_mode="squash"),
  "not square": dict(input_size=(3, 224, 320), crop_pct=0.95),
  "squash, not square": dict(input_size=(3, 320, 224), crop_pct=0.9, crop_mode="squash"),
  "silent": dict(num_classes=10),
}
TIMM_CONFIGS = {name: timm.get_pretrained_cfg(name).to_dict() for name in TIMM_MODELS} | TIMM_MADE


def timm_transform(config, **arguments):
  settings = timm.data.resolve_data_config(arguments, pretrained_cfg=config)
  return timm.data.create_transform(**settings, is_training=False)


@pytest.mark.parametrize("name", TIMM_CONFIGS)
def test_timm_folder(name, tmp_path):
  config = TIMM_CONFIGS[name]
  folder = write(tmp_path, "config.json", {"architecture": "x", "pretrained_cfg": config})
  mean, maximum = differences(preprocessing_for(folder), timm_transform(config))
  report(f"timm {name}", mean, maximum)
  assert mean < 0.01 and maximum < 0.01


def test_timm_folder_as_timm_writes_it(tmp_path):
  model = timm.create_model("vit_tiny_patch16_224.augreg_in21k_ft_in1k", depth=1)
  timm.models.save_for_hf(model, tmp_path, safe_serialization=True)
  theirs = timm_transform(model.pretrained_cfg)
  old = tmp_path / "old"
  write(old, "config.json", {"architecture": "x", **model.pretrained_cfg})
  for path in (tmp_path, tmp_path / "model.safetensors", old):
    ours = preprocessing_for(path)
    assert ours.settings.resized == (248, 248) and ours.settings.mean == (0.5, 0.5, 0.5)
    assert differences(ours, theirs)[1] < 0.01


def test_timm_at_another_size(tmp_path):
  config = TIMM_CONFIGS["deit_tiny_patch16_224.fb_in1k"] | {"crop_pct": 0.9}
  folder = write(tmp_path, "config.json", {"pretrained_cfg": config})
  for size in (384, (256, 320)):
    height, width = (size, size) if isinstance(size, int) else size
    theirs = timm_transform(config, input_size=(3, height, width))
    assert differences(preprocessing_for(folder, image_size=size), theirs)[1] < 0.01


def test_the_bound_sees_what_is_easily_wrong(tmp_path):
  """A pixel's offset, the filter of a shrinking resize and the kernel, each above half a level."""
  config = TIMM_CONFIGS["bilinear, odd margins"]
  ours = preprocessing_for(write(tmp_path, "config.json", {"pretrained_cfg": config}))
  for wrong in (
    dict(crop_offset="floor"),
    dict(antialias=False),
    dict(interpolation="bicubic"),
    dict(eval_resize="squash_crop"),
    dict(resize=236),
  ):
    settings = dataclasses.replace(ours.settings, **wrong)
    other = dataclasses.replace(ours, settings=settings)
    assert differences(other, timm_transform(config))[0] > 0.5, wrong


# (processor, its arguments)
PROCESSORS = {
  "ViT": ("ViT", {}),
  "ViT 384 bicubic ImageNet": (
    "ViT",
    dict(
      size=dict(height=384, width=384),
      resample=3,
      image_mean=[0.485, 0.456, 0.406],
      image_std=[0.229, 0.224, 0.225],
    ),
  ),
  "ViT not square": ("ViT", dict(size=dict(height=192, width=256))),
  "ViT not normalised": ("ViT", dict(do_normalize=False)),
  "ViT other factor": ("ViT", dict(rescale_factor=1 / 127.5)),
  "ViT not rescaled": (
    "ViT",
    dict(do_rescale=False, image_mean=[123.7, 116.3, 103.5], image_std=[58.4, 57.1, 57.4]),
  ),
  "DeiT": ("DeiT", {}),
  "DeiT odd margins": ("DeiT", dict(size=dict(height=235, width=251))),
  "Bit (DINOv2)": ("Bit", dict(size=dict(shortest_edge=256))),
  "CLIP not square": (
    "CLIP",
    dict(size=dict(shortest_edge=300), crop_size=dict(height=224, width=256)),
  ),
  "Siglip": ("Siglip", dict(size=dict(height=256, width=256))),
  "PoolFormer": ("PoolFormer", {}),
  "PoolFormer M": ("PoolFormer", dict(crop_pct=0.95)),
}


def processor(kind, backend, **arguments):
  return getattr(transformers, f"{kind}ImageProcessor{backend}")(**arguments)


def applied(processor):
  return lambda image: processor(image, return_tensors="np")["pixel_values"][0]


@pytest.mark.parametrize("backend", ["Pillow", "torchvision"])
@pytest.mark.parametrize("name", PROCESSORS)
def test_huggingface_folder(name, backend, tmp_path):
  """With Pillow it is the same arithmetic. torchvision rounds a resize of uint8 otherwise.

  The maxima are the measured differences of transformers' two processors from one another: 7 on a
  bicubic, squashed portrait, else at most 4.
  """
  kind, arguments = PROCESSORS[name]
  theirs = processor(kind, "Pil" if backend == "Pillow" else "", **arguments)
  theirs.save_pretrained(tmp_path)
  ours = preprocessing_for(tmp_path)
  mean, maximum = differences(ours, applied(theirs))
  report(f"transformers {name}, {backend}", mean, maximum)
  if backend == "Pillow":
    assert mean < 0.01 and maximum < 0.01
  else:
    assert mean < 0.5 and maximum < {"bilinear": 1.01, "bicubic": 7.01}[ours.settings.interpolation]


def test_half_pixels_are_cut_off_in_transformers(tmp_path):
  theirs = processor("Bit", "Pil", size=dict(shortest_edge=256))
  theirs.save_pretrained(tmp_path)
  ours = preprocessing_for(tmp_path)
  rounded = dataclasses.replace(
    ours, settings=dataclasses.replace(ours.settings, crop_offset="round")
  )
  assert differences(rounded, applied(theirs))[0] > 0.5


@pytest.mark.parametrize(
  "kind, old",
  [
    ("ViT", dict(feature_extractor_type="ViTFeatureExtractor", size=224, resample=2)),
    ("ViT", dict(image_processor_type="ViTFeatureExtractor", size=[192, 256], do_resize=True)),
    ("ViT", dict(image_processor_type="ViTImageProcessorFast")),
    ("DeiT", dict(feature_extractor_type="DeiTFeatureExtractor", size=256, crop_size=224)),
    ("CLIP", dict(feature_extractor_type="CLIPFeatureExtractor", size=256, crop_size=224)),
    ("Bit", dict(image_processor_type="BitImageProcessor")),
    ("Siglip", dict(image_processor_type="SiglipImageProcessor")),
  ],
)
def test_old_spellings_and_what_is_left_out(kind, old, tmp_path):
  write(tmp_path, "preprocessor_config.json", old)
  theirs = getattr(transformers, f"{kind}ImageProcessorPil").from_pretrained(tmp_path)
  views = {name: VIEWS[name] for name in ("china 427x640", "cat 451x300")}
  assert differences(preprocessing_for(tmp_path), applied(theirs), views)[1] < 0.01


def tiny(image_size, **fields):
  """A model of one narrow block, and its (empty) weights."""
  import jax
  import jax.numpy as jnp

  sizes = dict(hidden_size=8, num_layers=1, mlp_dim=8, num_heads=1, num_classes=2)
  model = create_model("ViT-Ti_16", **{**sizes, **fields})
  images = jnp.zeros((1, *image_size, 3))
  shapes = jax.eval_shape(lambda key: model.init(key, images, train=False), jax.random.key(0))
  return model, jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)


CUSTOM = registry.InputSpec(
  mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), resize="resize_crop", crop=0.9,
  interpolation="bicubic", antialias=True,
)  # fmt: skip


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ""])
@pytest.mark.parametrize("spec, size", [(registry.InputSpec(), (64, 64)), (CUSTOM, (32, 96))])
def test_our_own_files_tell(spec, size, suffix, tmp_path):
  expected = preprocessing_for(dataclasses.replace(spec, image_size=size))
  path = tmp_path / f"weights{suffix}"
  metadata = {"image_size": list(size), "input": to_metadata(expected.settings)}
  save_checkpoint(path, *tiny(size), metadata=metadata)
  for source in (path, str(path)):
    assert preprocessing_for(source) == expected
  for view in (VIEWS["china 427x640"], VIEWS["grey 512x512"]):
    assert expected(view).shape == (*size, 3)
  larger = preprocessing_for(path, image_size=128)
  assert larger.settings.size == (128, 128)
  assert larger.settings.resized == tuple(
    128 * r // s for r, s in zip(expected.settings.resized, size, strict=True)
  )


def test_our_folder_means_to_transformers_what_its_processor_says(tmp_path):
  save_checkpoint(tmp_path, *tiny((64, 64)))
  (tmp_path / "model.safetensors").unlink()  # With our own metadata, which would come first.
  theirs = transformers.ViTImageProcessorPil.from_pretrained(tmp_path)
  assert differences(preprocessing_for(tmp_path), applied(theirs))[1] < 0.01


def test_a_released_file_tells_by_its_name_and_positions(tmp_path):
  save_checkpoint(tmp_path / "ours.npz", *tiny((96, 96)))
  with np.load(tmp_path / "ours.npz") as file:
    released = {name: file[name] for name in file.files if not name.startswith("__")}
  np.savez(tmp_path / "ViT-Ti_16.npz", **released)
  spec = registry.get_entry("ViT-Ti_16").input
  expected = preprocessing_for(dataclasses.replace(spec, image_size=96))
  assert preprocessing_for(tmp_path / "ViT-Ti_16.npz") == expected
  np.savez(tmp_path / "mine.npz", **released)
  with pytest.raises(UserError, match="does not tell how its images"):
    preprocessing_for(tmp_path / "mine.npz")


AUGREG = "B_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.0-sd_0.0"


@pytest.mark.parametrize(
  "source, size",
  [
    ("ViT-B_16", 224),
    ("B_16", 224),
    (AUGREG, 224),
    (f"{AUGREG}.npz", 224),
    (f"{AUGREG}--imagenet2012-steps_20k-lr_0.03-res_384", 384),
    (f"{AUGREG}--cifar100-steps_10k-lr_0.01-res_384.npz", 384),
    (f"gs://vit_models/augreg/{AUGREG}--imagenet2012-steps_20k-lr_0.03-res_384.npz", 384),
    ("gs://vit_models/imagenet21k/ViT-B_16.npz", 224),
    ("gs://vit_models/imagenet21k+imagenet2012/ViT-B_16.npz", 384),
  ],
)
def test_names_and_addresses_of_released_weights(source, size, monkeypatch):
  monkeypatch.setenv("VIT_JAX_OFFLINE", "1")
  settings = preprocessing_for(source).settings
  assert settings.size == (size, size) and settings.eval_resize == "squash"
  assert (settings.interpolation, settings.antialias) == ("bilinear", False)
  assert settings.mean == settings.std == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
  "pp", [{}, dict(eval_resize="resize_crop", resize=40), dict(eval_resize="squash", antialias=True)]
)
def test_a_run_is_prepared_as_its_evaluation_was(pp, tmp_path):
  config = quickstart.get_config()
  config.pp.update(pp)
  plan = make_plan(config)
  model = create_model(plan.model.name, **plan.model.overrides, num_classes=10)
  record = data_record.Record(rule=2, counts={"train": 1}, epoch=1)
  info = run_info.describe_run(plan, model, ("0",) * 10, 1, record)
  run_info.write_run(tmp_path, info, record)
  preprocess = preprocessing_for(tmp_path)
  image = np.asarray(RGB["cat 451x300"])
  evaluated = eval_transform(plan.pp)({"image": image, "label": 0})["image"]
  assert evaluated.shape == (32, 32, 1)
  expected = normalize(evaluated, plan.pp.mean, plan.pp.std)
  np.testing.assert_array_equal(preprocess(image), expected)
  assert preprocessing_for(tmp_path, image_size=48)(image).shape == (48, 48, 1)


VIT = {"image_processor_type": "ViTImageProcessor"}


@pytest.mark.parametrize(
  "name, content, words",
  [
    ("config.json", {"pretrained_cfg": {"crop_mode": "border"}}, "border.*center, squash"),
    ("config.json", {"pretrained_cfg": {"interpolation": "lanczos"}}, "lanczos.*bilinear, bicubic"),
    ("config.json", {"pretrained_cfg": {"crop_pct": 1.1}}, "smaller than"),
    ("config.json", {"pretrained_cfg": {"crop_pct": "big"}}, "config.json"),
    ("config.json", {"model_type": "vit"}, "does not tell"),
    ("preprocessor_config.json", {"size": 224}, "image_processor_type=None.*ViT, DeiT"),
    (
      "preprocessor_config.json",
      {"image_processor_type": "LevitImageProcessor"},
      "Levit.*only",
    ),
    ("preprocessor_config.json", VIT | {"do_resize": False}, "do_resize"),
    ("preprocessor_config.json", VIT | {"do_pad": True}, "do_pad"),
    ("preprocessor_config.json", VIT | {"resample": 1}, "resample=1.*2, 3"),
    ("preprocessor_config.json", VIT | {"size": {"shortest_edge": 224}}, "without a crop"),
    ("preprocessor_config.json", VIT | {"size": {"max_height": 9, "max_width": 9}}, "max_height"),
    ("preprocessor_config.json", VIT | {"size": None}, "size=None"),
    (
      "preprocessor_config.json",
      VIT | {"do_center_crop": True, "crop_size": 256},
      "smaller than",
    ),
    ("preprocessor_config.json", VIT | {"image_std": [1, 0, 1]}, "positive"),
  ],
)
def test_what_cannot_be_done_is_refused_in_a_sentence(name, content, words, tmp_path):
  folder = write(tmp_path, name, content)
  with pytest.raises(UserError, match=words) as error:
    preprocessing_for(folder)
  assert str(folder) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
  "source, words",
  [
    ("ViT-B_17", "did you mean"),
    ("none/weights.npz", "no checkpoint"),
    ("weights.npz", "no checkpoint"),
    (f"{AUGREG}--imagenet.npz", "no checkpoint"),
  ],
)
def test_what_is_not_there(source, words, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(UserError, match=words):
    preprocessing_for(source)


def test_a_name_wins_over_a_directory_and_the_log_says_who_told(tmp_path, monkeypatch, caplog):
  caplog.set_level(logging.INFO)
  monkeypatch.chdir(tmp_path)
  write(tmp_path / "ViT-B_16", "preprocessor_config.json", VIT | {"size": 96})
  assert preprocessing_for("ViT-B_16").settings.size == (224, 224)
  assert preprocessing_for("./ViT-B_16").settings.size == (96, 96)
  assert "the registry" in caplog.messages[0] and "224x224 pixels, squash" in caplog.messages[0]
  assert "preprocessor_config.json" in caplog.messages[1] and "96x96" in caplog.messages[1]
