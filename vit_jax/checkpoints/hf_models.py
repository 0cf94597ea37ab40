# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The models of transformers that ours are: classes, `config.json` and names, as data.

A family is a row in HF_MODELS. What transformers' model does otherwise is refused, never dropped.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from vit_jax.checkpoints import huggingface, metaformer, mobilevit, swin, torch
from vit_jax.errors import UserError
from vit_jax.models.deit import DistilledVisionTransformer
from vit_jax.models.metaformer import MetaFormer
from vit_jax.models.mobilevit import MobileTransformer, MobileViT, rounded
from vit_jax.models.mobilevit_v2 import MobileViTV2
from vit_jax.models.swin import SwinTransformer, windows_of
from vit_jax.models.swin_v2 import SwinTransformerV2
from vit_jax.models.vit import VisionTransformer
from vit_jax.params.tables import SAVE_NPZ, Table, refuse_left, to_theirs, with_counters
from vit_jax.params.tree import Flat

Size = tuple[int, int]  # Height and width.


@dataclasses.dataclass(frozen=True)
class HfModel:
  """The model of transformers that a family of ours is.

  Attributes:
    family: how messages call it.
    model_type: in `config.json`; with a dot also what names have before them in a model with head.
    classifier: its class with a head.
    backbone: its class without one.
    table: its names, without what stands before them.
    outside: beginnings of the names that nothing stands before.
    config: (our model, size of its images) -> what `config.json` says of it. Raises a UserError if
      transformers computes something else.
    only: fields of ours, and the value that transformers' model stands for.
  """

  family: str
  model_type: str
  classifier: str
  backbone: str
  table: Table
  outside: tuple[str, ...]
  config: Callable[[Any, Size], dict[str, Any]]
  only: Mapping[str, Any]


def _side(pair: Sequence[int]) -> int | list[int]:
  return pair[0] if pair[0] == pair[1] else list(pair)


def _vit_config(model: VisionTransformer, size: Size) -> dict[str, Any]:
  config = {
    "hidden_size": model.hidden_size,
    "num_hidden_layers": model.num_layers,
    "num_attention_heads": model.num_heads,
    "intermediate_size": model.mlp_dim,
    "layer_norm_eps": model.layer_norm_eps,
    "hidden_dropout_prob": model.dropout_rate,
    "attention_probs_dropout_prob": model.attention_dropout_rate,
    "image_size": _side(size),
    "patch_size": _side(model.patch_shape()),
    "qkv_bias": True,
  }
  if model.representation_size:
    config |= {"pooler_output_size": model.representation_size, "pooler_act": "tanh"}
  return config


def _swin_config(model: SwinTransformer, size: Size) -> dict[str, Any]:
  _refuse_windows(model, size)
  widths = [model.embed_dim * 2**stage for stage in range(len(model.depths))]
  config = {
    "embed_dim": model.embed_dim,
    "depths": list(model.depths),
    "num_heads": [width // model.head_dim for width in widths],
    "window_size": model.window_size,
    "mlp_ratio": float(model.mlp_ratio),
    "drop_path_rate": model.drop_path_rate,
    "layer_norm_eps": model.layer_norm_eps,
    "image_size": _side(size),
    "patch_size": model.patch_size,
    "qkv_bias": True,
  }
  if isinstance(model, SwinTransformerV2):
    config["pretrained_window_sizes"] = list(model.trained_windows) or [0] * len(model.depths)
  return config


def _refuse_windows(model: SwinTransformer, size: Size) -> None:
  if not windows_alike(model, size):
    raise UserError(
      f"transformers' {HF_MODELS[type(model)].family} divides images of {size[0]}x{size[1]} into "
      f"other windows than {model.window_size} tokens a side; save an .npz or .safetensors file, "
      "or pass a size whose maps are whole windows as metadata={'image_size': [height, width]}."
    )


def windows_alike(model: SwinTransformer, size: Size) -> bool:
  """Whether transformers divides the maps of images of this size into the windows that ours does.

  It pads before the shift, as the paper's detectors do, and has one window and one shift for both
  sides of a map. The first version's biases are then for whole windows only; the second version
  rounds the sizes of the maps down where they are merged, and up.
  """
  for stage in range(len(model.depths)):
    map_size = tuple(length / (model.patch_size * 2**stage) for length in size)
    window, shift = windows_of(map_size, model.window_size, shifted=True)
    one = window[0] == window[1] and shift[0] == shift[1]
    whole = all(length % window[0] == 0 for length in map_size)
    smaller = window[0] < model.window_size and not isinstance(model, SwinTransformerV2)
    if not (one and whole) or smaller:
      return False
  return True


def _poolformer_config(model: MetaFormer, size: Size) -> dict[str, Any]:
  del size
  if any(int(width * model.mlp_ratio) != round(width * model.mlp_ratio) for width in model.widths):
    raise UserError(
      f"transformers' PoolFormer rounds down the widths of mlp_ratio={model.mlp_ratio} where ours "
      f"are rounded to the nearest; {SAVE_NPZ}."
    )
  stages = len(model.depths)
  return {
    "depths": list(model.depths),
    "hidden_sizes": list(model.widths),
    "num_encoder_blocks": stages,
    **huggingface.poolformer_strides(stages),
    "mlp_ratio": float(model.mlp_ratio),
    "layer_scale_init_value": model.layer_scale_init,
    "drop_path_rate": model.drop_path_rate,
  }


def _mobilevit_config(model: MobileViT, size: Size) -> dict[str, Any]:
  return {
    "hidden_sizes": list(model.hidden_sizes),
    "neck_hidden_sizes": [model.stem_width, *model.widths, model.final_width],
    "num_attention_heads": model.num_heads,
    "patch_size": model.patch_size,
    "image_size": _side(size),
    "mlp_ratio": float(model.mlp_ratio),
    "expand_ratio": float(model.expansion),
    "hidden_dropout_prob": model.dropout_rate,
    "classifier_dropout_prob": model.dropout_rate,
    "layer_norm_eps": model.layer_norm_eps,
  }


def _mobilevit_v2_config(model: MobileViTV2, size: Size) -> dict[str, Any]:
  """Refuses widths that do not follow from one number, as transformers' do."""
  factor = model.widths[-1] / 512
  stem = max(16, rounded(min(max(32 * factor, 16), 64)))
  widths = (rounded(64 * factor, 16), *(rounded(w * factor) for w in (128, 256, 384, 512)))
  hidden = tuple(rounded(w * factor) for w in (128, 192, 256))
  ours = (model.stem_width, model.widths, model.hidden_sizes)
  mlp = [int(width * model.mlp_ratio) for width in hidden]
  if ours != (stem, widths, hidden) or any(
    width != int(model.mlp_ratio) * size // 16 * 16 for width, size in zip(mlp, hidden, strict=True)
  ):
    raise UserError(
      f"transformers' MobileViTV2 has no stem_width, widths and hidden_sizes={ours!r} with "
      f"mlp_ratio={model.mlp_ratio}; {SAVE_NPZ}."
    )
  return {
    "width_multiplier": factor,
    "n_attn_blocks": list(model.num_layers),
    "ffn_multiplier": int(model.mlp_ratio),
    "ffn_dropout": model.dropout_rate,
    "patch_size": model.patch_size,
    "image_size": _side(size),
    "expand_ratio": float(model.expansion),
    "layer_norm_eps": model.group_norm_eps,
  }


_SWIN = dict(
  table=swin.HF_TO_OURS,
  outside=("classifier.",),
  config=_swin_config,
  # The norms of the embedding and of merged patches have it, whatever `config.json` says.
  only={"layer_norm_eps": 1e-5},
)
HF_MODELS: Mapping[type, HfModel] = {
  VisionTransformer: HfModel(
    family="ViT",
    model_type="vit",
    classifier="ViTForImageClassification",
    backbone="ViTModel",
    table=torch.HF_TO_OURS,
    outside=("classifier.",),
    config=_vit_config,
    only={"classifier": "token", "position_embedding": "learned_1d", "layer_scale_init": None},
  ),
  DistilledVisionTransformer: HfModel(
    family="DeiT",
    model_type="deit",
    classifier="DeiTForImageClassificationWithTeacher",
    backbone="DeiTModel",
    table=torch.HF_DEIT_TO_OURS,
    outside=("cls_classifier.", "distillation_classifier."),
    config=_vit_config,
    only={
      "position_embedding": "learned_1d",
      "layer_scale_init": None,
      "representation_size": None,
    },
  ),
  SwinTransformer: HfModel(
    family="Swin",
    model_type="swin",
    classifier="SwinForImageClassification",
    backbone="SwinModel",
    **_SWIN,
  ),
  SwinTransformerV2: HfModel(
    family="Swin V2",
    model_type="swinv2",
    classifier="Swinv2ForImageClassification",
    backbone="Swinv2Model",
    **_SWIN,
  ),
  MetaFormer: HfModel(
    family="PoolFormer",
    model_type="poolformer",
    classifier="PoolFormerForImageClassification",
    # PoolFormerModel lacks the last norm; without classes the classifier passes it on.
    backbone="PoolFormerForImageClassification",
    table=metaformer.HF_TO_OURS,
    outside=("norm.", "classifier."),
    config=_poolformer_config,
    only={"token_mixer": "pooling", "final_norm": "before_pooling", "group_norm_eps": 1e-5},
  ),
  MobileViT: HfModel(
    family="MobileViT",
    model_type="mobilevit",
    classifier="MobileViTForImageClassification",
    backbone="MobileViTModel",
    table=mobilevit.HF_TO_OURS,
    outside=("classifier.",),
    config=_mobilevit_config,
    only={"num_residuals": (1, 3, 1, 1, 1), "num_layers": (2, 4, 3), "batch_norm_eps": 1e-5},
  ),
  MobileViTV2: HfModel(
    family="MobileViTV2",
    model_type="mobilevitv2",
    classifier="MobileViTV2ForImageClassification",
    backbone="MobileViTV2Model",
    table=mobilevit.HF_V2_TO_OURS,
    outside=("classifier.",),
    config=_mobilevit_v2_config,
    only={"num_residuals": (1, 2, 1, 1, 1), "final_width": 0, "batch_norm_eps": 1e-5},
  ),
}


def of(model: Any) -> HfModel:
  """The row for a model.

  Raises:
    UserError: transformers has no such model, or its model lacks a field of it.
  """
  name = type(model).__name__
  if type(model) not in HF_MODELS:
    why = " (its ViT hybrid was removed in version 5)" if name.startswith("Hybrid") else ""
    raise UserError(f"transformers has no {name}{why}; save an .npz or .safetensors file.")
  row = HF_MODELS[type(model)]
  for field, only in row.only.items():
    value = getattr(model, field)
    if value != only and not (isinstance(value, tuple) and {*value} == {only}):
      raise UserError(
        f"transformers' {row.family} has no {field}={value!r}, only {only!r}; {SAVE_NPZ}."
      )
  return row


def class_of(model: Any) -> str:
  """The name of transformers' class that opens a folder of this model."""
  row = of(model)
  return row.classifier if model.num_classes else row.backbone


def config_of(
  model: Any, image_size: Sequence[int], channels: int, class_names: Sequence[str] = ()
) -> dict[str, Any]:
  """`config.json` with which transformers builds `model`.

  Args:
    model: the module.
    image_size: (height, width) of the images that it is for.
    channels: of the images.
    class_names: by logit; empty where they are not known.

  Raises:
    UserError: the model does something that transformers' does not; says what.
  """
  row = of(model)
  names = list(class_names) or [f"LABEL_{index}" for index in range(model.num_classes)]
  names = names if model.num_classes else []
  return {
    "architectures": [class_of(model)],
    "model_type": row.model_type,
    "hidden_act": huggingface.TO_HF[model.activation],
    **row.config(model, tuple(image_size)),
    "num_channels": channels,
    "dtype": "float32",
    # Without a head there are no labels: if nothing were said, transformers would make up two.
    "id2label": {str(index): name for index, name in enumerate(names)},
    "label2id": {name: index for index, name in enumerate(names)},
  }


def preprocessor_of(model: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
  """`preprocessor_config.json` of a model; see huggingface.preprocessor_of.

  Raises:
    UserError: transformers has no processor that does so, or MobileViT's own does not.
  """
  said = huggingface.preprocessor_of(settings)
  if not isinstance(model, MobileTransformer):
    return said
  # Weights of MobileViT are for BGR there, and only its own processor flips the channels.
  mean, std = said.pop("image_mean"), said.pop("image_std")
  if {*mean} != {0} or {*std} != {1} or settings["eval_resize"] != "resize_crop":
    raise UserError(
      f"transformers' MobileViT has images in [0, 1] and a centre crop, not mean={mean}, std={std} "
      f"and eval_resize={settings['eval_resize']!r}; save an .npz or .safetensors file."
    )
  own = {"do_flip_channel_order": True, "do_normalize": False}
  return {**said, "image_processor_type": "MobileViTImageProcessor", **own}


def to_hf(flat: Mapping[str, np.ndarray], model: Any) -> Flat:
  """Our flat parameters under the names that transformers writes into files.

  Raises:
    UserError: the model has parameters that these have no place for; nothing is dropped.
  """
  row = of(model)
  if isinstance(model, MobileTransformer):
    flat = mobilevit.flipped(flat, "from RGB to BGR")
  state, left = to_theirs(flat, row.table)
  if model.num_classes:  # A model with a head has no pooler.
    left += [path for path in flat if path.startswith("pre_logits/")]
  refuse_left(f"transformers' {class_of(model)}", left)
  state = with_counters(state)
  if class_of(model) != row.classifier:
    return state
  bare = lambda name: name.startswith(row.outside)
  return {n if bare(n) else f"{row.model_type}.{n}": x for n, x in state.items()}
