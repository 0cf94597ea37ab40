# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What a Hugging Face folder says beside its weights: `config.json`, `preprocessor_config.json`."""

import dataclasses
import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vit_jax.errors import UserError, nearest

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


@dataclasses.dataclass(frozen=True)
class Kind:
  """What `config.json` of a `model_type` means. Keys that it does not say are transformers' own.

  Attributes:
    scheme: whose names its weights have, a key of reading.SCHEMES; None of a text tower.
    layer_norm_eps, activation, image_size: where the file is silent.
    sizes: keys that have a field of ours, and that field. A model with another value is refused,
      because no weights, or not all, would tell.
    defaults: of `sizes`, where the shapes of the weights don't tell them.
    only: keys with the one value that ours can do.
  """

  scheme: str | None
  layer_norm_eps: float
  activation: str = "gelu"
  image_size: int | None = 224
  sizes: Mapping[str, str] = dataclasses.field(default_factory=dict)
  defaults: Mapping[str, int] = dataclasses.field(default_factory=dict)
  only: Mapping[str, Any] = dataclasses.field(default_factory=dict)


_VIT = Kind(
  scheme="hf",
  layer_norm_eps=1e-12,
  sizes={
    "num_attention_heads": "num_heads",
    "hidden_size": "hidden_size",
    "num_hidden_layers": "num_layers",
    "intermediate_size": "mlp_dim",
  },
  defaults={"num_attention_heads": 12},
  only={"qkv_bias": True},
)
_SWIN = Kind(
  scheme="hf_swin",
  layer_norm_eps=1e-5,
  sizes={"embed_dim": "embed_dim", "depths": "depths"},
  # Their epsilon is of only a part of the norms.
  only={"layer_norm_eps": 1e-5, "qkv_bias": True, "use_absolute_embeddings": False},
)
_MOBILEVIT = Kind(
  scheme="hf_mobilevit",
  layer_norm_eps=1e-5,
  activation="silu",
  image_size=256,
  only={"patch_size": 2, "output_stride": 32, "conv_kernel_size": 3},
)
# By `model_type`.
KINDS: Mapping[str, Kind] = {
  "vit": _VIT,
  "deit": _VIT,
  "vit_mae": _VIT,
  "vit_msn": dataclasses.replace(_VIT, layer_norm_eps=1e-6),
  "swin": _SWIN,
  "swinv2": _SWIN,
  "poolformer": Kind(
    scheme="hf",
    layer_norm_eps=1e-5,
    sizes={"hidden_sizes": "widths", "depths": "depths"},
    only=poolformer_strides(4),
  ),
  "mobilevit": dataclasses.replace(
    _MOBILEVIT, only={**_MOBILEVIT.only, "num_attention_heads": 4, "qkv_bias": True}
  ),
  "mobilevitv2": _MOBILEVIT,
  "bert": Kind(
    scheme=None,
    layer_norm_eps=1e-12,
    image_size=None,
    only={"position_embedding_type": "absolute", "is_decoder": False},
  ),
}
# What other types are, and what comes nearest to them among those that are known.
_PLAIN_VIT = "a plain ViT ('vit', 'vit_msn' or 'vit_mae')"
_OF_TIMM = "the same weights in timm's files, as a ViT with layer_scale_init"
OTHER_KINDS: Mapping[str, tuple[str, str]] = {
  "aimv2": ("AIMv2, a ViT with RMS norms and gated MLPs", _PLAIN_VIT),
  "align": ("ALIGN, an EfficientNet with a text tower", "a LiT in big_vision's npz"),
  "altclip": ("AltCLIP, two towers of images and texts", "a LiT in big_vision's npz"),
  "beit": ("BEiT, a ViT with relative position biases and LayerScale", _PLAIN_VIT),
  "bit": ("BiT, a ResNet", "the same weights in timm's or BiT's own files"),
  "blip": ("BLIP, a ViT with a text model", _PLAIN_VIT),
  "chinese_clip": ("Chinese CLIP, two towers of images and texts", "a LiT in big_vision's npz"),
  "clip": ("CLIP, two towers of images and texts", "a LiT in big_vision's npz"),
  "clip_vision_model": ("CLIP's image tower, a ViT with a norm before its blocks", _PLAIN_VIT),
  "convnext": ("ConvNeXt, a network of convolutions", "PoolFormer ('poolformer')"),
  "convnextv2": ("ConvNeXt V2, a network of convolutions", "PoolFormer ('poolformer')"),
  "cvt": ("CvT, a ViT with convolutions", "Swin ('swin')"),
  "data2vec-vision": ("data2vec, built as BEiT is", _PLAIN_VIT),
  "depth_anything": ("Depth Anything, DINOv2 with a decoder of depths", _OF_TIMM),
  "detr": ("DETR, a detector of objects", _PLAIN_VIT),
  "dinat": ("DiNAT, neighbourhood attention", "Swin ('swin')"),
  "dinov2": ("DINOv2, a ViT with LayerScale", _OF_TIMM),
  "dinov2_with_registers": ("DINOv2 with register tokens", _OF_TIMM),
  "dinov3_convnext": ("DINOv3's ConvNeXt", "PoolFormer ('poolformer')"),
  "dinov3_vit": ("DINOv3, a ViT with rotary positions and register tokens", _PLAIN_VIT),
  "donut-swin": ("Donut's Swin, without the last norm", "Swin ('swin')"),
  "dpt": ("DPT, a ViT with a decoder of depths", _PLAIN_VIT),
  "efficientformer": ("EfficientFormer", "PoolFormer ('poolformer')"),
  "focalnet": ("FocalNet, focal modulation", "Swin ('swin')"),
  "hiera": ("Hiera, a hierarchical ViT", "Swin ('swin')"),
  "ijepa": ("I-JEPA, a ViT without a class token", _PLAIN_VIT),
  "levit": ("LeViT, a ViT with convolutions", "MobileViT ('mobilevit')"),
  "maskformer-swin": ("MaskFormer's Swin", "Swin ('swin')"),
  "metaclip_2": ("MetaCLIP 2, two towers of images and texts", "a LiT in big_vision's npz"),
  "mlcd_vision_model": ("MLCD, a ViT with rotary positions", _PLAIN_VIT),
  "owlvit": ("OWL-ViT, a detector of objects", _PLAIN_VIT),
  "pixio": ("Pixio, a ViT with several class tokens", _PLAIN_VIT),
  "pvt": ("PVT, a pyramid of ViTs", "Swin ('swin')"),
  "pvt_v2": ("PVT v2, a pyramid of ViTs", "Swin ('swin')"),
  "resnet": ("a ResNet", "a BiT in timm's files"),
  "segformer": ("SegFormer, a segmenter of images", "Swin ('swin')"),
  "siglip": ("SigLIP, two towers of images and texts", "its image tower in timm's files"),
  "siglip2": ("SigLIP 2, two towers of images and texts", "its image tower in timm's files"),
  "siglip2_vision_model": ("SigLIP 2's image tower", "the same weights in timm's files"),
  "siglip_vision_model": ("SigLIP's image tower", "the same weights in timm's files"),
  "swin2sr": ("Swin2SR, which enlarges images", "Swin V2 ('swinv2')"),
  "timesformer": ("TimeSformer, a model of videos", _PLAIN_VIT),
  "timm_backbone": ("a model of timm's inside transformers", "timm's own file of it"),
  "timm_wrapper": ("a model of timm's inside transformers", "timm's own file of it"),
  "upernet": ("UPerNet, a segmenter of images", "the backbone alone, as a ViT or Swin"),
  "videomae": ("VideoMAE, a model of videos", "a ViT of images ('vit_mae')"),
  "vit_hybrid": ("a ViT on a ResNet", "the same weights in timm's files or the official npz"),
  "vitdet": ("ViTDet, a ViT for detectors", _PLAIN_VIT),
  "vitpose": ("ViTPose, a ViT that finds poses", _PLAIN_VIT),
  "vivit": ("ViViT, a model of videos", "a ViT of images ('vit')"),
  "yolos": ("YOLOS, a ViT that detects objects", _PLAIN_VIT),
}
# Keys by which a config of transformers is known that does not say its type.
_SIGNS = (
  *("architectures", "transformers_version", "hidden_act", "layer_norm_eps"),
  *("num_attention_heads", "num_hidden_layers", "intermediate_size", "id2label"),
)
LARGEST_SIDE = 2**15  # Of an image in pixels; more is a damaged file.
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
    content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_once)
  except (OSError, ValueError, RecursionError) as error:
    raise UserError(f"{path} cannot be read ({error}); fetch or copy it again.") from error
  if not isinstance(content, dict):
    raise UserError(
      f"{path} cannot be read (it holds {str(content)[:40]!r} and no JSON object, as in "
      '{"key": value}); fetch or copy it again.'
    )
  return content


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  """An object of JSON, each of whose keys may stand there only once."""
  content = dict(pairs)
  if len(content) < len(pairs):
    keys = [key for key, _ in pairs]
    raise ValueError(f"the key {next(k for k in keys if keys.count(k) > 1)!r} stands there twice")
  return content


def is_config(config: Mapping[str, Any]) -> bool:
  """Whether `config.json` is transformers' (and not timm's or a run's of ours)."""
  if "model_type" in config:
    return True
  others = ("architecture", "pretrained_cfg", "model_name")
  return any(key in config for key in _SIGNS) and not any(key in config for key in others)


def is_for(config: Mapping[str, Any], scheme: str | None) -> bool:
  """Whether a config of transformers can be of weights whose names are of `scheme`."""
  kind = KINDS.get(_type_of(config))
  return bool(scheme and scheme.startswith("hf")) or (kind is not None and kind.scheme == scheme)


def _type_of(config: Mapping[str, Any]) -> str:
  return config["model_type"] if isinstance(config.get("model_type"), str) else ""


def read_config(folder: Path, scheme: str | None) -> dict[str, Any]:
  """`config.json` of transformers as our metadata: what it says is followed or refused.

  Args:
    folder: where it lies.
    scheme: whose names the weights beside it have, a key of reading.SCHEMES; None: unknown ones.

  Returns:
    Fields of a model that follow it, "image_size", "class_names", and under "told" the fields that
    a model must have (pretrained refuses others).

  Raises:
    UserError: the file is damaged, is of a type that we don't have or of other weights, or says
      something that ours does not do.
  """
  path = folder / CONFIG
  config = read_json(path)
  name = _type_of(config)
  if name not in KINDS:
    raise UserError(_unknown_type(path, config))
  kind = KINDS[name]
  if scheme != kind.scheme and (scheme is not None or kind.scheme is not None):
    raise UserError(
      f"{path} has model_type={name!r}, but the weights beside it don't have the names of such a "
      "model; put the config.json of these weights there, or move them to a folder of their own."
    )
  return _Reader(path, config).metadata(name, kind, read_json(folder / PREPROCESSOR))


def _unknown_type(path: Path, config: Mapping[str, Any]) -> str:
  """The sentence about a type that we don't have: what it is, and what is nearest to it."""
  known = ", ".join(KINDS)
  if "model_type" not in config:
    return (
      f"{path} does not say its model_type, without which its other values mean nothing; add it "
      f"(one of {known}), or remove the file to let the names of the weights decide."
    )
  name = config["model_type"]
  if isinstance(name, str) and name in OTHER_KINDS:
    what, near = OTHER_KINDS[name]
    return (
      f"{path} has model_type={name!r}, which is {what} and cannot be loaded here; nearest to it "
      f"is {near} (of transformers' types there are {known})."
    )
  near = nearest(str(name), list(KINDS)).rstrip("?")
  return (
    f"{path} has model_type={str(name)[:40]!r}, which cannot be loaded here{near}; pass weights of "
    f"one of transformers' types {known}, or the same model in timm's file."
  )


class _Reader:
  """The values of a config, of the types that transformers writes; others are refused by name."""

  def __init__(self, path: Path, config: Mapping[str, Any]):
    self.path, self.config = path, config

  def refuse(self, key: str, known: str) -> None:
    value = self.config.get(key)
    shown = f"{value!r:.80}"
    raise UserError(f"{self.path} has {key}={shown}; only {known} is known.")

  def number(self, key: str, default: float) -> float:
    value = self.config.get(key, default)
    if type(value) not in (int, float) or not 0 < value < math.inf:
      self.refuse(key, "a number above 0")
    return value

  def whole(self, key: str, default: Any = None) -> int | tuple[int, ...]:
    """A whole number above 0, or where the key has several, a tuple of them."""
    value = self.config.get(key, default)
    values = value if isinstance(value, list) else [value]
    if not values or not all(type(v) is int and v > 0 for v in values):
      self.refuse(key, "a whole number above 0, or a list of them,")
    return tuple(value) if isinstance(value, list) else value

  def metadata(self, name: str, kind: Kind, processor: Mapping[str, Any]) -> dict[str, Any]:
    """What `read_config` returns."""
    activation = self.config.get("hidden_act", kind.activation)
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
      raise UserError(
        f"{self.path} has hidden_act={activation!r}; only {', '.join(ACTIVATIONS)} are known."
      )
    for key, only in kind.only.items():
      value = self.config.get(key, only)
      wanted = only[: len(value)] if isinstance(only, list) and isinstance(value, list) else only
      if value != wanted or isinstance(value, bool) != isinstance(wanted, bool):
        raise UserError(f"{self.path} has {key}={value!r}; only {only!r} is known.")
    metadata = {
      "written_in": CONFIG,
      "activation": ACTIVATIONS[activation],
      "layer_norm_eps": self.number("layer_norm_eps", kind.layer_norm_eps),
      "told": {
        field: self.whole(key, kind.defaults.get(key))
        for key, field in kind.sizes.items()
        if key in self.config or key in kind.defaults
      },
    }
    if kind.image_size is None:
      heads = self.whole("num_attention_heads", 12)
      return {**metadata, "num_heads": heads, **self.class_names()}
    metadata["image_size"] = self.image_size(kind.image_size)
    if kind.scheme == "hf" and "num_heads" in metadata["told"]:
      self.heads_of_vit(metadata["told"])
      metadata["pooler_act"] = self.config.get("pooler_act", "tanh")
    if kind is _SWIN:
      metadata |= self.windows(name)
    if kind.scheme == "hf_mobilevit":
      metadata["group_norm_eps"] = metadata["layer_norm_eps"]  # What MobileViTV2's norms are.
      metadata["channel_order"] = _channel_order(processor)
    return {**metadata, **self.class_names()}

  def image_size(self, default: int) -> list[int]:
    size = self.whole("image_size", default)
    sides = [size, size] if isinstance(size, int) else [*size]
    if len(sides) != 2 or max(sides) > LARGEST_SIDE:
      self.refuse("image_size", f"one side or two of at most {LARGEST_SIDE} pixels")
    return sides

  def heads_of_vit(self, told: Mapping[str, Any]) -> None:
    """Heads may have a width that is not their share of the tokens', which ours always is."""
    if "head_dim" in self.config and "hidden_size" in told:
      share = told["hidden_size"] // told["num_heads"]
      if self.config["head_dim"] != share:
        self.refuse("head_dim", f"hidden_size / num_attention_heads = {share}")

  def windows(self, name: str) -> dict[str, Any]:
    """The side of a Swin's windows, and of the windows that a Swin V2 was trained with."""
    windows = {"window_size": self.whole("window_size", 7)}
    if not isinstance(windows["window_size"], int):
      self.refuse("window_size", "one side for all windows")
    trained = self.config.get("pretrained_window_sizes") or ()
    if not isinstance(trained, (list, tuple)) or not all(
      type(w) is int and w >= 0 for w in trained
    ):
      self.refuse("pretrained_window_sizes", "a list of sides, one a stage,")
    if name == "swinv2":  # Its attention heads, as those of the first version, are in its shapes.
      windows["trained_windows"] = tuple(trained) if any(trained) else ()
    return windows

  def class_names(self) -> dict[str, Any]:
    """`id2label` in the order of its numbers, {} if there are no names."""
    names = self.config.get("id2label")
    names = {} if names is None else names
    order = [str(index) for index in range(len(names) if isinstance(names, dict) else 0)]
    if not isinstance(names, dict) or {*names} != {*order}:
      self.refuse("id2label", 'an object with the keys "0", "1", ... without a gap')
    labels = [names[key] for key in order]
    if not all(isinstance(label, str) for label in labels):
      self.refuse("id2label", "an object of texts")
    # "LABEL_0", "LABEL_1", ... is what transformers writes where there are no names.
    unnamed = labels == [f"LABEL_{index}" for index in range(len(labels))]
    return {} if unnamed else {"class_names": labels}


def _channel_order(processor: Mapping[str, Any]) -> str:
  """The order of the channels that MobileViT's weights are for, as the file beside them tells."""
  kind = processor.get("image_processor_type") or processor.get("feature_extractor_type")
  flips = kind is None or str(kind).startswith("MobileViT")
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
