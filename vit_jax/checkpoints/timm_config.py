# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What timm's `config.json` says beside its weights: architecture, pooling and `model_args`.

What no weights tell is followed (activation, epsilon, pooling, windows) or must be the model's own
(attention heads); what ours does not do is refused. An argument that is in no table here is refused
too.
"""

import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from vit_jax.checkpoints.huggingface import CONFIG, LARGEST_SIDE, read_json
from vit_jax.errors import UserError

# By a name that only such weights have: which of timm's models they are of.
_MODELS = (
  ("Mixer", re.compile(r"^blocks\.\d+\.mlp_tokens\.")),
  ("ViT", re.compile(r"^blocks\.\d+\.attn\.qkv\.")),
  ("Swin V2", re.compile(r"\.attn\.logit_scale$")),
  ("Swin", re.compile(r"^layers\.\d+\.blocks\.\d+\.attn\.")),
  ("such a model", re.compile("")),  # BiT, PoolFormer and MobileViT.
)
_ACTIVATIONS = {
  "gelu": "gelu",
  "gelu_tanh": "gelu_tanh",
  "silu": "silu",
  "swish": "silu",
}
# Arguments that an architecture's name stands for, where these are not what the size of the tokens
# tells or timm does else; the first pattern that fits is it, and `model_args` go before it.
_HEADS = {"tiny": 3, "small": 6, "medium": 8, "base": 12, "large": 16, "huge": 16}
_HEADS |= {"so400m": 16, "giant": 16, "giantopt": 16, "gigantic": 16}
_ARCHITECTURES: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], dict[str, Any]]], ...] = (
  (re.compile(r".*quickgelu"), lambda match: {"act_layer": "quick_gelu"}),
  (re.compile(r"vit_base_patch16_gap_224$"), lambda match: {"num_heads": 16}),
  (re.compile(r"vit_base_patch\d+_plus_"), lambda match: {"num_heads": 14}),
  (
    re.compile(
      r"vit_(?:(so400m)_patch16|(giantopt)_patch16|(base)_patch32)_siglip"
      r"|vit_(large)_patch16_siglip(?:_gap)?_512"
    ),
    lambda match: {"act_layer": "gelu_tanh", "num_heads": _HEADS[match[match.lastindex]]},
  ),
  (
    re.compile(r"swinv2_\w+_window(\d+)to(\d+)_"),
    lambda match: {
      "window_size": int(match[2]),
      "pretrained_window_sizes": [*[int(match[1])] * 3, int(match[1]) // 2],
    },
  ),
  (re.compile(r"swinv2_\w+_window(\d+)_"), lambda match: {"window_size": int(match[1])}),
  (re.compile(r"swinv2_"), lambda match: {}),
  (
    re.compile(
      rf"(?:vit|deit3?|flexivit|eva)_({'|'.join(_HEADS)})(?:_distilled)?(?:_(?!resnet)|$)"
    ),
    lambda match: {"num_heads": _HEADS[match[1]]},
  ),
)
# Arguments that the shapes or names of the weights tell, or that change no answer.
# The heads of a Swin are in its shapes.
_TOLD_BY_WEIGHTS = {
  *("num_classes", "in_chans", "patch_size", "mlp_ratio", "init_values", "no_embed_class"),
  *("class_token", "embed_layer", "drop_rate", "pos_drop_rate", "patch_drop_rate"),
  *("proj_drop_rate", "attn_drop_rate", "drop_path_rate", "weight_init", "fix_init"),
  *("dynamic_img_size", "strict_img_size", "layer_scale_init_values"),
  *("depths", "dims", "layers", "width_factor", "num_blocks", "num_heads", "head_dim", "nlhb"),
}
# Arguments with the one value that ours has.
_ONLY: Mapping[str, Any] = {
  **dict.fromkeys(("qkv_bias", "proj_bias", "final_norm"), True),
  **dict.fromkeys(("pre_norm", "qk_norm", "scale_attn_norm", "scale_mlp_norm"), False),
  **dict.fromkeys(("pool_include_prefix", "dynamic_img_pad", "stem_norm", "fc_norm"), False),
  "always_partition": False,  # Windows and shifts where a map is smaller than a window.
  "reg_tokens": 0,
  "pos_embed": "learn",
  "mlp_layer": "mlp",
}
# timm's pooling of a ViT, by whether there is a class token: our `classifier`.
_POOLING = {
  ("token", True): "token",
  ("avg", False): "gap",
  ("map", False): "map",
  ("", True): "token_unpooled",
  ("", False): "unpooled",
}
# Arguments of timm's with a field of ours that must be the same.
_FIELDS = {
  "ViT": {"num_heads": "num_heads", "embed_dim": "hidden_size", "depth": "num_layers"},
  "Mixer": {"embed_dim": "hidden_dim", "num_blocks": "num_blocks"},
  "Swin": {"embed_dim": "embed_dim", "depths": "depths"},
  "Swin V2": {"embed_dim": "embed_dim", "depths": "depths"},
}


def is_config(config: Mapping[str, Any]) -> bool:
  """Whether `config.json` is timm's."""
  return "architecture" in config or "pretrained_cfg" in config


def read_config(folder: Path, names: Collection[str]) -> dict[str, Any]:
  """timm's `config.json` as our metadata; as `huggingface.read_config`.

  Args:
    folder: where it lies.
    names: of the weights beside it, timm's.

  Raises:
    UserError: the file is damaged, or says something that our model does not do.
  """
  path = folder / CONFIG
  config = read_json(path)
  pretrained, own = config.get("pretrained_cfg", config), config.get("model_args")
  architecture = config.get("architecture") or ""
  for key, value, kind in (
    *(("pretrained_cfg", pretrained, dict), ("model_args", own or {}, dict)),
    ("architecture", architecture, str),
  ):
    if not isinstance(value, kind):
      raise UserError(f"{path} has {key}={f'{value!r:.80}'}, which is not what timm writes.")
  said = {
    "img_size": _fixed_size(pretrained),
    "window_size": pretrained.get("window_size"),
    "global_pool": config.get("global_pool"),
    **(own or {}),
  }
  given = {key: value for key, value in said.items() if value is not None}
  return _Reader(path, {**_of_architecture(architecture), **given}, names).metadata()


def _fixed_size(pretrained: Mapping[str, Any]) -> Any:
  """The size of the images of a model that has no other."""
  size = pretrained.get("input_size")
  return size[1:] if pretrained.get("fixed_input_size") and isinstance(size, list) else None


def _of_architecture(name: str) -> dict[str, Any]:
  """What an architecture's name says that its weights don't; {} of one that says nothing."""
  for pattern, arguments in _ARCHITECTURES:
    if match := pattern.match(name):
      return arguments(match)
  return {}


class _Reader:
  """The arguments of a model of timm's, each followed, left to the weights or refused."""

  def __init__(self, path: Path, arguments: Mapping[str, Any], names: Collection[str]):
    self.path, self.arguments, self.names = path, arguments, names
    self.model = next(m for m, sign in _MODELS if any(map(sign.search, names)))

  def refuse(self, key: str, known: str) -> None:
    value = f"{self.arguments[key]!r:.80}"
    raise UserError(f"{self.path} has {key}={value}; of {self.model} only {known} is known.")

  def whole(self, key: str, least: int = 1) -> int | tuple[int, ...]:
    value = self.arguments[key]
    values = value if isinstance(value, list) else [value]
    if not values or not all(type(v) is int and v >= least for v in values):
      self.refuse(key, f"a whole number of at least {least}, or a list of them,")
    return tuple(value) if isinstance(value, list) else value

  def metadata(self) -> dict[str, Any]:
    """What `read_config` returns."""
    metadata: dict[str, Any] = {"written_in": CONFIG, "told": {}}
    fields = _FIELDS.get(self.model, {})
    follow = {
      "act_layer": self.activation,
      "norm_layer": self.norm,
      "global_pool": self.pooling,
      "window_size": self.window,
      "pretrained_window_sizes": self.trained_windows,
      "img_size": self.image_size,
    }
    for key, value in self.arguments.items():
      if key in follow:
        metadata |= follow[key]()
      elif key in fields:
        metadata["told"][fields[key]] = self.whole(key)
      elif key in _ONLY:
        if value != _ONLY[key] or type(value) is not type(_ONLY[key]):
          self.refuse(key, repr(_ONLY[key]))
      elif key not in _TOLD_BY_WEIGHTS:
        shown = f"{value!r:.80}"
        raise UserError(
          f"{self.path} has {key}={shown} in its model_args, which {self.model} does not have "
          "here; save the model without it."
        )
    return metadata

  def activation(self) -> dict[str, Any]:
    name = self.arguments["act_layer"]
    if not isinstance(name, str) or name not in _ACTIVATIONS or self.model == "Swin":
      self.refuse("act_layer", ", ".join(_ACTIVATIONS))
    return {"activation": _ACTIVATIONS[name]}

  def norm(self) -> dict[str, Any]:
    """timm's own LayerNorm has another epsilon than PyTorch's, which its Swin has."""
    name = self.arguments["norm_layer"]
    if str(name).replace("_", "").lower() != "layernorm" or self.model == "such a model":
      self.refuse("norm_layer", "'layernorm'")
    return {"layer_norm_eps": 1e-6}

  def pooling(self) -> dict[str, Any]:
    pool = self.arguments["global_pool"]
    if self.model != "ViT":
      if pool != "avg":
        self.refuse("global_pool", "'avg'")
      return {}
    class_token = "cls_token" in self.names
    pooling = (pool, class_token) if isinstance(pool, str) else None
    distilled = "dist_token" in self.names
    if pooling not in _POOLING or (distilled and pool != "token"):
      allowed = [p for p, token in _POOLING if token == class_token and (p == "token") >= distilled]
      self.refuse(
        "global_pool",
        f"{' or '.join(map(repr, allowed))} {'with' if class_token else 'without'} a class token",
      )
    return {} if distilled else {"classifier": _POOLING[pooling]}

  def window(self) -> dict[str, Any]:
    sides = {*self.sides("window_size")}
    if len(sides) != 1:
      self.refuse("window_size", "one side for all windows")
    return {"window_size": sides.pop()}

  def sides(self, key: str, least: int = 1) -> tuple[int, ...]:
    value = self.whole(key, least)
    return value if isinstance(value, tuple) else (value,)

  def trained_windows(self) -> dict[str, Any]:
    if self.model != "Swin V2":
      self.refuse("pretrained_window_sizes", "none")
    trained = self.sides("pretrained_window_sizes", 0)
    return {"trained_windows": trained if any(trained) else ()}

  def image_size(self) -> dict[str, Any]:
    sides = self.sides("img_size")
    sides = sides * 2 if len(sides) == 1 else sides
    if len(sides) != 2 or max(sides) > LARGEST_SIDE:
      self.refuse("img_size", f"one side or two of at most {LARGEST_SIDE} pixels")
    return {"image_size": [*sides]}
