# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What a Hugging Face folder says beside its weights: `config.json`, `preprocessor_config.json`."""

import json
import logging
import operator
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vit_jax.errors import UserError

logger = logging.getLogger(__name__)

CONFIG = "config.json"
PREPROCESSOR = "preprocessor_config.json"

# `hidden_act` of a config, and our name for it.
ACTIVATIONS = {
  "gelu": "gelu",
  "gelu_python": "gelu",
  "gelu_pytorch_tanh": "gelu_tanh",
  "gelu_new": "gelu_tanh",
  "silu": "silu",
  "swish": "silu",
}
TO_HF = {"gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh", "silu": "silu"}
# Kind of model, and the epsilon of its norms where a config is silent.
_KINDS = {
  **dict.fromkeys(("vit", "deit", "vit_mae", "bert"), 1e-12),
  **dict.fromkeys(("swin", "swinv2", "poolformer", "mobilevit", "mobilevitv2"), 1e-5),
}


def poolformer_strides(stages: int) -> dict[str, Any]:
  """What `config.json` says of a PoolFormer of ours that no name or shape of its weights tells."""
  repeated = lambda first, later: [first, *[later] * (stages - 1)]
  return {
    "patch_sizes": repeated(7, 3),
    "strides": repeated(4, 2),
    "padding": repeated(2, 1),
    "pool_size": 3,
    "use_layer_scale": True,
  }


# What a config may not say otherwise, by kind: transformers' models have it, ours do not, and the
# weights would not tell.
_ONLY: Mapping[str, Mapping[str, Any]] = {
  "swin": {"layer_norm_eps": 1e-5},  # Of only a part of their norms.
  "swinv2": {"layer_norm_eps": 1e-5},
  "poolformer": poolformer_strides(4),
  "mobilevit": {"num_attention_heads": 4, "patch_size": 2, "output_stride": 32},
  "mobilevitv2": {"patch_size": 2, "output_stride": 32},
}
# `eval_resize` of data.transforms.Preprocessing, and a processor that does it.
_PROCESSORS = {
  "squash": "ViTImageProcessor",
  "squash_crop": "DeiTImageProcessor",
  "resize_crop": "CLIPImageProcessor",
}
_RESAMPLE = {"bilinear": 2, "bicubic": 3}  # Pillow's numbers.


def read_json(path: Path) -> dict[str, Any]:
  """A JSON object; {} if there is no such file. Raises UserError if it is damaged."""
  if not path.is_file():
    return {}
  try:
    content = json.loads(path.read_text())
  except (OSError, ValueError, RecursionError) as error:
    raise UserError(f"{path} cannot be read ({error}); fetch or copy it again.") from error
  return content if isinstance(content, dict) else {}


def read_config(folder: Path) -> dict[str, Any]:
  """`config.json` of a model of transformers in _KINDS as our metadata; {} if none, or another's.

  Raises:
    UserError: the file is damaged, or names an activation that we don't have.
  """
  config = read_json(folder / CONFIG)
  try:
    return _to_metadata(config, folder)
  except UserError:
    raise
  except (TypeError, ValueError, AttributeError) as error:
    raise UserError(
      f"{folder / CONFIG} has a value of another type than transformers writes ({error}); fetch or "
      "copy it again."
    ) from error


def _to_metadata(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
  """What `read_config` returns."""
  if config.get("model_type") not in _KINDS:
    return {}
  mobile = config["model_type"].startswith("mobilevit")
  activation = config.get("hidden_act", "silu" if mobile else "gelu")
  if activation not in ACTIVATIONS:
    raise UserError(
      f"{folder / CONFIG} has hidden_act={activation!r}; only {', '.join(ACTIVATIONS)} are known."
    )
  for key, only in _ONLY.get(config["model_type"], {}).items():
    value = config.get(key, only)
    if value != (only[: len(value)] if isinstance(only, list) else only):
      raise UserError(f"{folder / CONFIG} has {key}={value!r}; only {only!r} is known.")
  metadata = {
    "written_in": CONFIG,
    "activation": ACTIVATIONS[activation],
    "layer_norm_eps": config.get("layer_norm_eps", _KINDS[config["model_type"]]),
  }
  if config["model_type"] == "bert":
    if config.get("position_embedding_type", "absolute") != "absolute":
      raise UserError(
        f"{folder / CONFIG} has position_embedding_type={config['position_embedding_type']!r}; "
        "only 'absolute' is known."
      )
    metadata["num_heads"] = config.get("num_attention_heads", 12)
  else:
    size = config.get("image_size", 256 if mobile else 224)
    metadata["image_size"] = [size, size] if isinstance(size, int) else [*map(operator.index, size)]
    if heads := config.get("num_attention_heads"):  # No name and no shape of a ViT's tells them.
      metadata["attention_heads"] = heads
  if any(windows := config.get("pretrained_window_sizes") or ()):  # Swin V2's.
    metadata["trained_windows"] = list(windows)
  if mobile:
    metadata["group_norm_eps"] = metadata["layer_norm_eps"]  # What the norms of MobileViTV2 are.
    metadata["channel_order"] = _channel_order(read_json(folder / PREPROCESSOR))
  names = config.get("id2label") or {}
  labels = [names[key] for key in sorted(names, key=int)]
  # "LABEL_0", "LABEL_1", ... is what transformers writes where there are no names.
  if labels and labels != [f"LABEL_{index}" for index in range(len(labels))]:
    metadata["class_names"] = labels
  return metadata


def _channel_order(processor: Mapping[str, Any]) -> str:
  """The order of the channels that MobileViT's weights are for, as the file beside them tells."""
  kind = processor.get("image_processor_type") or processor.get("feature_extractor_type")
  flips = kind is None or kind.startswith("MobileViT")
  return "bgr" if processor.get("do_flip_channel_order", flips) else "rgb"


def preprocessor_of(settings: Mapping[str, Any]) -> dict[str, Any]:
  """`preprocessor_config.json` for how images are evaluated, as `preprocessing.to_metadata` has it.

  Raises:
    UserError: transformers has no processor that does so.
  """
  kind, resample = settings["eval_resize"], settings["interpolation"]
  if kind not in _PROCESSORS or resample not in _RESAMPLE:
    raise UserError(
      f"no image processor of transformers does eval_resize={kind!r} with {resample!r}; "
      "save an .npz or .safetensors file."
    )
  pair = lambda size: [size, size] if isinstance(size, int) else list(size)
  crop = dict(zip(("height", "width"), pair(settings["crop"]), strict=True))
  resized = pair(settings["resize"] or settings["crop"])
  size = dict(zip(("height", "width"), resized, strict=True))
  return {
    "image_processor_type": _PROCESSORS[kind],
    "do_resize": True,
    "size": {"squash": crop, "resize_crop": {"shortest_edge": min(resized)}}.get(kind, size),
    "resample": _RESAMPLE[resample],
    "do_center_crop": kind != "squash",
    **({"crop_size": crop} if kind != "squash" else {}),
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": list(settings["mean"]),
    "image_std": list(settings["std"]),
  }
