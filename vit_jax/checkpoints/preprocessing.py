# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""`preprocessing_for`: how the images were prepared that given weights were trained for.

The answer is where the weights are: in the registry for released files, in our own metadata, in the
config of a run, in the `preprocessor_config.json` of Hugging Face or the `config.json` of timm.
What those two mean is told in the terms of `data.transforms.Preprocessing`.
"""

import dataclasses
import logging
import math
import os
import re
import typing
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vit_jax import keys
from vit_jax.checkpoints import download, grids, identity, reading, torch_files, transfer
from vit_jax.checkpoints.augreg import FILENAME
from vit_jax.checkpoints.huggingface import CONFIG, LARGEST_SIDE, PREPROCESSOR, read_json
from vit_jax.data.transforms import Preprocess, Preprocessing
from vit_jax.errors import UserError
from vit_jax.models import registry

logger = logging.getLogger(__name__)

Size = tuple[int, int]

# What timm does where a config is silent, and its crop modes in the words of registry.InputSpec.
TIMM = {
  "input_size": (3, 224, 224),
  "interpolation": "bicubic",
  "mean": (0.485, 0.456, 0.406),
  "std": (0.229, 0.224, 0.225),
  "crop_pct": 0.875,
  "crop_mode": "center",
}
CROP_MODES = {"center": "resize_crop", "squash": "squash"}

# What image processors of transformers do where their file is silent.
_EVERY = {
  "do_resize": True,
  "do_center_crop": False,
  "crop_size": None,
  "do_pad": False,
  "do_rescale": True,
  "rescale_factor": 1 / 255,
  "do_normalize": True,
  "image_mean": (0.5, 0.5, 0.5),
  "image_std": (0.5, 0.5, 0.5),
}
_CLIP = {
  "size": {"shortest_edge": 224},
  "resample": 3,
  "do_center_crop": True,
  "crop_size": 224,
  "image_mean": (0.48145466, 0.4578275, 0.40821073),
  "image_std": (0.26862954, 0.26130258, 0.27577711),
}
PROCESSORS: Mapping[str, Mapping[str, Any]] = {
  "ViT": {**_EVERY, "size": 224, "resample": 2},
  "DeiT": {**_EVERY, "size": 256, "resample": 3, "do_center_crop": True, "crop_size": 224},
  "Siglip": {**_EVERY, "size": {"height": 224, "width": 224}, "resample": 3},
  "CLIP": {**_EVERY, **_CLIP},
  "Bit": {**_EVERY, **_CLIP},  # DINOv2's.
  "PoolFormer": {
    **_EVERY,
    "size": {"shortest_edge": 224},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": 224,
    "crop_pct": 0.9,
    "image_mean": TIMM["mean"],
    "image_std": TIMM["std"],
  },
  # Its channels are flipped in the weights instead, see checkpoints.mobilevit.
  "MobileViT": {
    **_EVERY,
    "size": {"shortest_edge": 224},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": 256,
    "do_normalize": False,
  },
}
# A bare number for `size` is that; to others both sides.
SHORTER_SIDE = ("Siglip", "CLIP", "Bit", "PoolFormer", "MobileViT")
# "ViTImageProcessor", "ViTImageProcessorFast", and in old files "ViTFeatureExtractor".
_TYPE = re.compile(r"(\w+?)(?:ImageProcessor(?:Fast|Pil)?|FeatureExtractor)")
RESAMPLE = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers.


def preprocessing_for(
  source: str | os.PathLike | registry.InputSpec, image_size: int | Sequence[int] | None = None
) -> Preprocess:
  """The preprocessing that weights were published with, from an image to a model's input.

  Args:
    source: a model's name, AugReg's short name or full file name; a checkpoint as `from_pretrained`
      takes it: a file or folder that we, transformers or timm wrote, with the
      `preprocessor_config.json` or `config.json` that goes with it, the work directory of a run, or
      an address; or a `models.registry.InputSpec`. A name wins over a directory of that name.
    image_size: another size than the published one, pixels or (height, width); the size before a
      crop grows along.

  Returns:
    A function from a path, encoded bytes, a Pillow image or uint8 [height, width, channels] to
    float32 [height, width, channels], normalised; its `settings` tell size, crop, interpolation,
    mean and std.

  Raises:
    UserError: there is no such model or file, it does not tell how images are prepared, or that is
      something that we don't do.
  """
  preprocess = told_preprocessing(source, image_size)
  if preprocess is None:
    raise UserError(
      f"{source} does not tell how its images are prepared; put the {PREPROCESSOR} of Hugging Face "
      f"or the {CONFIG} of timm beside the weights, or pass the name of a model."
    )
  return preprocess


def told_preprocessing(
  source: str | os.PathLike | registry.InputSpec, image_size: int | Sequence[int] | None = None
) -> Preprocess | None:
  """As `preprocessing_for`, but None where nothing is told, as by a bare file of another project.

  Only then may a caller take another preprocessing, such as the registry's for the model: what is
  told but damaged, or something that we don't do, is refused here as there.
  """
  size = None if image_size is None else _pair(image_size)
  if not isinstance(source, (str, os.PathLike)):
    return Preprocess(_from_spec(source, size))
  spec, told_by = _released(source) if isinstance(source, str) else None, "the registry"
  if spec is not None:
    settings = _from_spec(spec, size)
  else:
    path = download.fetch(source)
    if not path.exists() and str(source) == path.name and not path.suffix:
      registry.resolve_name(path.name)  # Rather a misspelt name: raises with the nearest.
    found = _from_path(path, size)
    if found is None:
      return None
    settings, told_by = found
  preprocess = Preprocess(settings)
  shown = transfer.without_secrets(os.fspath(source))
  logger.info("Images for %s, as %s says: %s.", shown, told_by, preprocess)
  return preprocess


def of_spec(spec: registry.InputSpec, image_size: Sequence[int] | None = None) -> Preprocessing:
  """The settings that a row of the registry stands for, at another size if one is given."""
  return _from_spec(spec, image_size and tuple(image_size))


def _pair(size: int | Sequence[int]) -> Size:
  return (size, size) if isinstance(size, int) else tuple(size)


def _scaled(resized: Size, crop: Size, new: Size) -> Size:
  """What `resized`, the size before a crop to `crop`, is for a crop to `new`."""
  return resized[0] * new[0] // crop[0], resized[1] * new[1] // crop[1]


def _released(source: str) -> registry.InputSpec | None:
  """The spec of a model's name, or of a released file's name or address; None for others."""
  for entry in registry.MODELS.values():
    if source in (entry.name, registry.augreg_name(entry.name)):
      # The first weights are what the name alone stands for.
      sizes = [weights.image_size for weights in entry.weights]
      return dataclasses.replace(entry.input, image_size=(*sizes, entry.input.image_size)[0])
    for weights in entry.weights:
      if source == weights.url:
        return dataclasses.replace(entry.input, image_size=weights.image_size)
  file = source.rsplit("/", 1)[-1].removesuffix(".npz")
  is_name = file == source.removesuffix(".npz") and not Path(source).exists()
  if FILENAME.fullmatch(file) and (is_name or download.is_address(source)):
    spec = registry.get_entry(file).input
    resolution = re.search(r"-res_(\d+)$", file)  # Only of the fine-tuned.
    return dataclasses.replace(spec, image_size=int(resolution[1])) if resolution else spec
  return None


def _from_path(path: Path, size: Size | None) -> tuple[Preprocessing, str] | None:
  """The settings that a file or directory tells, and what told them; None if nothing does."""
  folder = path if path.is_dir() else path.parent
  is_run = path.is_dir() and _is_run(path)
  config = {} if is_run else read_json(folder / CONFIG)
  if is_run or (path.is_dir() and "model_name" in config):
    return _from_run(path, size), str(folder / CONFIG)
  has_weights = not path.is_dir() or torch_files.folder_weights(path)
  metadata = reading.own_metadata(path) if has_weights else {}
  if "input" in metadata:
    return _read(_from_metadata, metadata, path, size), "its metadata"
  if path.suffix != ".npz":
    processor = folder / PREPROCESSOR
    if content := read_json(processor):
      return _read(_from_processor, content, processor, size), str(processor)
    if "pretrained_cfg" in config or "architecture" in config:
      return _read(_from_timm, config, folder / CONFIG, size), str(folder / CONFIG)
  elif entry := identity.released(path):
    return _from_official(entry, path, size), "the registry"
  return None


def _read(reader: Any, content: Mapping[str, Any], path: Path, size: Size | None) -> Preprocessing:
  try:
    settings = reader(content, size)
    for side in (*settings.size, *settings.resized):
      _side("size", side)
    return settings
  except (
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    ZeroDivisionError,
    OverflowError,
  ) as error:
    raise UserError(f"{path} asks for a preprocessing that we don't have: {error}") from error


def _only(key: str, value: Any, allowed: Collection[Any]) -> Any:
  """A value that is one of these, as one of the type that they have: True is not 1 here."""
  if not any(value == one and type(value) is type(one) for one in allowed):
    raise UserError(f"{key}={value!r:.80}, where only {', '.join(map(str, allowed))} can be done.")
  return value


def _number(key: str, value: Any) -> float:
  """A number that float32 has."""
  if type(value) in (int, float) and (value == 0 or 0 < abs(np.float32(value)) < math.inf):
    return value
  raise UserError(f"{key}={value!r:.80}, where a number is expected.")


def _numbers(key: str, value: Any) -> tuple[float, ...]:
  """One number for all channels, or one for each."""
  return tuple(_number(key, one) for one in (value if isinstance(value, list) else [value]))


def _positive(key: str, value: Any) -> float:
  if not _number(key, value) > 0:
    raise UserError(f"{key}={value!r:.80}, where a number above 0 is expected.")
  return value


def _side(key: str, value: Any) -> int:
  if type(value) is not int or not 0 < value <= LARGEST_SIDE:
    raise UserError(f"{key}={value!r:.80}, where 1 to {LARGEST_SIDE} pixels are expected.")
  return value


def _from_spec(spec: registry.InputSpec, size: Size | None) -> Preprocessing:
  size = size or _pair(spec.image_size)
  resized = tuple(math.floor(side / spec.crop) for side in size)  # Rounded as timm does.
  squash_crop = spec.resize == "squash" and resized != size
  return Preprocessing(
    train=None,
    crop=size,
    resize=resized,
    eval_resize="squash_crop" if squash_crop else spec.resize,
    interpolation=spec.interpolation,
    antialias=spec.antialias,
    mean=spec.mean,
    std=spec.std,
    channels=spec.channels,
  )


# The fields of `Preprocessing` that say how an image is evaluated: what travels with weights.
_TRAVELS = (
  *("crop", "resize", "eval_resize", "crop_offset", "interpolation", "antialias"),
  *("mean", "std", "channels"),
)


def to_metadata(settings: Preprocessing) -> dict[str, Any]:
  """How images are evaluated, as JSON values to keep beside weights."""
  return {field: getattr(settings, field) for field in _TRAVELS}


def checked_metadata(values: Mapping[str, Any], channels: int | None) -> dict[str, Any]:
  """Such values with all of them there, for images of so many channels.

  Raises:
    UserError: a value is none of those that `Preprocessing` has, or is for other channels.
  """
  settings = _read(_from_metadata, {"input": values}, Path("metadata['input']"), None)
  if channels not in (None, settings.channels):
    alike = {*zip(settings.mean, settings.std, strict=True)}
    if channels in (1, 3) and len(alike) == 1:  # They hold for any number of channels.
      ((mean, std),) = alike
      one = dataclasses.replace(settings, channels=1, mean=mean, std=std)
      return to_metadata(dataclasses.replace(one, channels=channels, mean=mean, std=std))
    raise UserError(
      f"metadata['input'] is for images of {settings.channels} channels, the model for {channels}; "
      "pass it as it is for the model."
    )
  return to_metadata(settings)


def _from_metadata(metadata: Mapping[str, Any], size: Size | None) -> Preprocessing:
  """What we wrote beside the weights."""
  values = {k: tuple(v) if isinstance(v, list) else v for k, v in metadata["input"].items()}
  hints = typing.get_type_hints(Preprocessing)
  for key, value in values.items():
    if key not in _TRAVELS or not keys.fits(value, hints[key]):
      raise UserError(f"input.{key}={value!r:.80}")
  return _resized_to(Preprocessing(train=None, **values), size)


def _from_run(workdir: Path, size: Size | None) -> Preprocessing:
  from vit_jax.workdir import run_info

  return _resized_to(run_info.existing_run(workdir).preprocessing, size)


def _is_run(path: Path) -> bool:
  """Whether it is a work directory, even if its config.json is missing or damaged."""
  from vit_jax.workdir import run_info

  return run_info.has_checkpoints(path) and not torch_files.folder_weights(path)


def _resized_to(settings: Preprocessing, size: Size | None) -> Preprocessing:
  if size is None:
    return settings
  resized = _scaled(settings.resized, settings.size, size)
  return dataclasses.replace(settings, crop=size, resize=settings.resize and resized)


def _from_official(entry: registry.Entry, path: Path, size: Size | None) -> Preprocessing:
  """A released file: its positions tell the size."""
  if size is None:
    model, source = registry.create_model(entry.name), reading.read_source(path, entry, {})
    grid, _ = grids.grid_of(source.flat, source.slots)
    if grid is not None:
      size = tuple(n * side for n, side in zip(grid, model.pixels_per_token(), strict=True))
  return _from_spec(entry.input, size)


def _from_timm(config: Mapping[str, Any], size: Size | None) -> Preprocessing:
  """What `timm.data.create_transform(**resolve_data_config(pretrained_cfg=...))` does."""
  given = config.get("pretrained_cfg", config)  # Old files have these keys at the top.
  values = {**TIMM, **{key: given[key] for key in TIMM if given.get(key) is not None}}
  channels, *stored = values["input_size"]
  spec = registry.InputSpec(
    image_size=tuple(_side("input_size", side) for side in stored),
    mean=_numbers("mean", [*values["mean"]]),
    std=_numbers("std", [*values["std"]]),
    resize=CROP_MODES[_only("crop_mode", values["crop_mode"], CROP_MODES)],
    crop=_positive("crop_pct", values["crop_pct"]),
    interpolation=_only("interpolation", values["interpolation"], RESAMPLE.values()),
    antialias=True,
    channels=_only("channels", channels, (1, 3)),
  )
  return _from_spec(spec, size)


def _from_processor(config: Mapping[str, Any], size: Size | None) -> Preprocessing:
  """What an image processor of transformers does, of whatever version."""
  name = config.get("image_processor_type", config.get("feature_extractor_type"))
  kind = _TYPE.fullmatch(name) if isinstance(name, str) else None
  _only("image_processor_type", kind[1] if kind else name, PROCESSORS)
  defaults = PROCESSORS[kind[1]]
  values = {**defaults, **config}
  flags = ("do_resize", "do_rescale", "do_normalize", "do_center_crop", "do_pad")
  # Newer versions write null for what a processor does not do.
  unset = [key for key in flags if values[key] is None and not defaults[key]]
  values |= dict.fromkeys(unset, False)
  for key in flags:
    allowed = {"do_resize": [True], "do_pad": [False]}.get(key, [True, False])
    _only(key, values[key], allowed)
  resample = RESAMPLE[_only("resample", values["resample"], RESAMPLE)]

  resized, keeps_aspect = _sides("size", values["size"], kind[1] in SHORTER_SIDE)
  crop = resized
  if (share := values.get("crop_pct")) is not None:  # PoolFormer's `size` is that of the crop.
    resized = tuple(int(side / _positive("crop_pct", share)) for side in resized)
  if values["do_center_crop"]:
    crop, _ = _sides("crop_size", values["crop_size"], False)
  elif keeps_aspect:
    raise UserError(f"size={values['size']!r} without a crop gives images of many sizes.")
  if size is not None:
    resized, crop = _scaled(resized, crop, size), size

  # Theirs are the mean and std of the pixels times a factor, ours of the pixels / 255.
  factor = 255.0
  if values["do_rescale"]:
    factor *= _positive("rescale_factor", values["rescale_factor"])
  normal = ((0,), (1,))
  if values["do_normalize"]:
    normal = [_numbers(key, _listed(values[key])) for key in ("image_mean", "image_std")]
  mean, std = (tuple((np.asarray(x, float) / factor).tolist()) for x in normal)
  squash = "squash" if resized == crop else "squash_crop"
  return Preprocessing(
    train=None,
    crop=crop,
    resize=resized,
    eval_resize="resize_crop" if keeps_aspect else squash,
    crop_offset="floor",
    interpolation=resample,
    antialias=True,
    mean=mean,
    std=std,
  )


def _listed(value: Any) -> Any:
  return [*value] if isinstance(value, tuple) else value


def _sides(key: str, size: Any, number_is_shorter: bool) -> tuple[Size, bool]:
  """(height, width) of `size` as any version spells it, and whether an image keeps its aspect."""
  if isinstance(size, int):
    size = {"shortest_edge": size} if number_is_shorter else {"height": size, "width": size}
  elif isinstance(size, list):
    size = dict(zip(("height", "width"), size, strict=True))
  if isinstance(size, Mapping) and set(size) == {"shortest_edge"} and key == "size":
    return _pair(_side(key, size["shortest_edge"])), True
  if isinstance(size, Mapping) and set(size) == {"height", "width"}:
    return (_side(key, size["height"]), _side(key, size["width"])), False
  raise UserError(f"{key}={size!r:.80}, which is neither a number nor a height and a width.")
