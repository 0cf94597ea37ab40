# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""PyTorch's names of ViTs and Mixers: timm's, Hugging Face's and torchvision's, as tables."""

import re
from collections.abc import Mapping, Sequence

import numpy as np

from vit_jax.checkpoints import bit, metaformer, mobilevit, swin
from vit_jax.checkpoints.npz import renamed
from vit_jax.params.tables import (
  CONV,
  COPY,
  HEADS_IN,
  HEADS_OUT,
  SAVE_NPZ,
  TAKE_OUT,
  Table,
  dense,
  norm,
  refuse_left,
  to_ours,
  to_theirs,
  with_counters,
)
from vit_jax.params.tree import Flat

_BLOCK = "Transformer/encoderblock_{i}/"
_ATTENTION = _BLOCK + "MultiHeadDotProductAttention_0/"
_UNIT = "block{i+1}/unit{j+1}/"
_THEIR_UNIT = "patch_embed.backbone.stages.{i}.blocks.{j}."

TIMM_TO_OURS: Table = [
  ("cls_token", "cls", COPY),
  ("pos_embed", "Transformer/posembed_input/pos_embedding", COPY),
  *dense("patch_embed.proj", "embedding", CONV),
  ("dist_token", "dist", COPY),
  *norm("blocks.{i}.norm1", _BLOCK + "LayerNorm_0"),
  *((f"blocks.{{i}}.ls{n + 1}.gamma", f"{_BLOCK}LayerScale_{n}/gamma", COPY) for n in (0, 1)),
  *(
    (f"blocks.{{i}}.attn.qkv.{theirs}", tuple(_ATTENTION + n for n in names), HEADS_OUT)
    for theirs, names in (
      ("weight", ("query/kernel", "key/kernel", "value/kernel")),
      ("bias", ("query/bias", "key/bias", "value/bias")),
    )
  ),
  *dense("blocks.{i}.attn.proj", _ATTENTION + "out", HEADS_IN),
  *norm("blocks.{i}.norm2", _BLOCK + "LayerNorm_1"),
  *dense("blocks.{i}.mlp.fc1", _BLOCK + "MlpBlock_0/Dense_0"),
  *dense("blocks.{i}.mlp.fc2", _BLOCK + "MlpBlock_0/Dense_1"),
  *norm("norm", "Transformer/encoder_norm"),
  *dense("head", "head"),
  *dense("head_dist", "head_dist"),
]
# DeiT's own files call LayerScale otherwise.
DEIT_TO_TIMM = [(r"\.gamma_([12])$", r".ls\1.gamma")]

_POOL = "MAPHead_0/MultiHeadDotProductAttention_0/"
TIMM_MAP_TO_OURS: Table = [
  ("attn_pool.latent", "MAPHead_0/probe", COPY),
  ("attn_pool.q.weight", _POOL + "query/kernel", HEADS_OUT),
  ("attn_pool.q.bias", _POOL + "query/bias", HEADS_OUT),
  ("attn_pool.kv.weight", (_POOL + "key/kernel", _POOL + "value/kernel"), HEADS_OUT),
  ("attn_pool.kv.bias", (_POOL + "key/bias", _POOL + "value/bias"), HEADS_OUT),
  *dense("attn_pool.proj", _POOL + "out", HEADS_IN),
  *norm("attn_pool.norm", "MAPHead_0/LayerNorm_0"),
  *dense("attn_pool.mlp.fc1", "MAPHead_0/MlpBlock_0/Dense_0"),
  *dense("attn_pool.mlp.fc2", "MAPHead_0/MlpBlock_0/Dense_1"),
]

# A stem with stages is a ResNetV2 in timm; a root convolution alone is that module's `stem` itself.
TIMM_RESNET_TO_OURS: Table = [
  ("patch_embed.backbone.stem.conv.weight", "conv_root/kernel", CONV),
  *norm("patch_embed.backbone.stem.norm", "gn_root"),
  *(
    row
    for n in (1, 2, 3)
    for row in [
      (f"{_THEIR_UNIT}conv{n}.weight", f"{_UNIT}conv{n}/kernel", CONV),
      *norm(f"{_THEIR_UNIT}norm{n}", f"{_UNIT}gn{n}"),
    ]
  ),
  (f"{_THEIR_UNIT}downsample.conv.weight", f"{_UNIT}conv_proj/kernel", CONV),
  *norm(f"{_THEIR_UNIT}downsample.norm", f"{_UNIT}gn_proj"),
]
TIMM_ROOT_TO_OURS: Table = [
  ("patch_embed.backbone.conv.weight", "conv_root/kernel", CONV),
  *norm("patch_embed.backbone.norm", "gn_root"),
]
TIMM = TIMM_TO_OURS + TIMM_MAP_TO_OURS + TIMM_RESNET_TO_OURS + TIMM_ROOT_TO_OURS

_MIXER = "MixerBlock_{i}/"
TIMM_MIXER_TO_OURS: Table = [
  *dense("stem.proj", "stem", CONV),
  *norm("blocks.{i}.norm1", _MIXER + "LayerNorm_0"),
  *dense("blocks.{i}.mlp_tokens.fc1", _MIXER + "token_mixing/Dense_0"),
  *dense("blocks.{i}.mlp_tokens.fc2", _MIXER + "token_mixing/Dense_1"),
  *norm("blocks.{i}.norm2", _MIXER + "LayerNorm_1"),
  *dense("blocks.{i}.mlp_channels.fc1", _MIXER + "channel_mixing/Dense_0"),
  *dense("blocks.{i}.mlp_channels.fc2", _MIXER + "channel_mixing/Dense_1"),
  *norm("norm", "pre_head_layer_norm"),
  *dense("head", "head"),
]

# Hugging Face's ViT, without the "vit." that models with a head put before it. Its pooler is a
# dense layer with tanh on the class token: our `pre_logits`.
_HF: Table = [
  ("embeddings.cls_token", "cls", COPY),
  ("embeddings.position_embeddings", "Transformer/posembed_input/pos_embedding", COPY),
  *dense("embeddings.patch_embeddings.projection", "embedding", CONV),
  *norm("encoder.layer.{i}.layernorm_before", _BLOCK + "LayerNorm_0"),
  *(
    (f"encoder.layer.{{i}}.attention.attention.{part}.{theirs}", f"{_ATTENTION}{part}/{ours}", how)
    for part in ("query", "key", "value")
    for theirs, ours, how in (("weight", "kernel", HEADS_OUT), ("bias", "bias", HEADS_OUT))
  ),
  *dense("encoder.layer.{i}.attention.output.dense", _ATTENTION + "out", HEADS_IN),
  *norm("encoder.layer.{i}.layernorm_after", _BLOCK + "LayerNorm_1"),
  *dense("encoder.layer.{i}.intermediate.dense", _BLOCK + "MlpBlock_0/Dense_0"),
  *dense("encoder.layer.{i}.output.dense", _BLOCK + "MlpBlock_0/Dense_1"),
  *norm("layernorm", "Transformer/encoder_norm"),
]
HF_TO_OURS: Table = [*_HF, *dense("pooler.dense", "pre_logits"), *dense("classifier", "head")]
# DeiTForImageClassificationWithTeacher's, without the "deit.", which the heads don't have.
HF_DEIT_TO_OURS: Table = [
  *_HF,
  ("embeddings.distillation_token", "dist", COPY),
  *dense("cls_classifier", "head"),
  *dense("distillation_classifier", "head_dist"),
]
# The modules of transformers 5 are named anew; its files keep the old names, state dicts do not.
HF_NEW_NAMES = [
  (r"^layers\.(\d+)\.attention\.o_proj\.", r"encoder.layer.\1.attention.output.dense."),
  (r"^layers\.(\d+)\.attention\.q_proj\.", r"encoder.layer.\1.attention.attention.query."),
  (r"^layers\.(\d+)\.attention\.k_proj\.", r"encoder.layer.\1.attention.attention.key."),
  (r"^layers\.(\d+)\.attention\.v_proj\.", r"encoder.layer.\1.attention.attention.value."),
  (r"^layers\.(\d+)\.mlp\.fc1\.", r"encoder.layer.\1.intermediate.dense."),
  (r"^layers\.(\d+)\.mlp\.fc2\.", r"encoder.layer.\1.output.dense."),
  (r"^layers\.(\d+)\.layernorm_", r"encoder.layer.\1.layernorm_"),
]

_TV_BLOCK = "encoder.layers.encoder_layer_{i}."
TORCHVISION_TO_OURS: Table = [
  ("class_token", "cls", COPY),
  ("encoder.pos_embedding", "Transformer/posembed_input/pos_embedding", COPY),
  *dense("conv_proj", "embedding", CONV),
  *norm(_TV_BLOCK + "ln_1", _BLOCK + "LayerNorm_0"),
  *(
    (
      f"{_TV_BLOCK}self_attention.in_proj_{leaf[0]}",
      tuple(f"{_ATTENTION}{part}/{leaf[1]}" for part in ("query", "key", "value")),
      HEADS_OUT,
    )
    for leaf in (("weight", "kernel"), ("bias", "bias"))
  ),
  *dense(_TV_BLOCK + "self_attention.out_proj", _ATTENTION + "out", HEADS_IN),
  *norm(_TV_BLOCK + "ln_2", _BLOCK + "LayerNorm_1"),
  *(
    row
    for first, second in (("mlp.0", "mlp.3"), ("mlp.linear_1", "mlp.linear_2"))  # new, before 0.12
    for row in (
      *dense(_TV_BLOCK + first, _BLOCK + "MlpBlock_0/Dense_0"),
      *dense(_TV_BLOCK + second, _BLOCK + "MlpBlock_0/Dense_1"),
    )
  ),
  *norm("encoder.ln", "Transformer/encoder_norm"),
  *dense("heads.pre_logits", "pre_logits"),
  *dense("heads.head", "head"),
]

# Parts of a pretraining model that are not the image model: the decoder of masked images (MAE).
BESIDE = re.compile(r"^(decoder\.|decoder_|(\w+\.)?(embeddings\.)?mask_token$)")

# Names of timm's that have no counterpart, and why: a file with them is refused, never cut down.
NOT_OURS = [
  (re.compile(r"fc_norm\."), "timm's norm after pooling (fc_norm=True) has no counterpart here"),
  (re.compile(r"reg_token"), "register tokens have no counterpart here"),
  (re.compile(r"norm_pre\."), "a norm before the blocks has no counterpart here"),
]

# Where the numbers of a timm model come from if nothing else is said about a file with its names.
TIMM_NUMERICS = {
  "activation": "gelu",
  "layer_norm_eps": 1e-6,
  "weight_standardization": "timm",
  "group_norm_eps": 1e-5,
  "final_norm": "after_pooling",
}
HF_NUMERICS = {"activation": "gelu", "layer_norm_eps": 1e-12}
TORCHVISION_NUMERICS = {"activation": "gelu", "layer_norm_eps": 1e-6}


# timm's families share names such as "norm.weight", which stand for other paths of ours. By a name
# that only such a file has: its table.
TIMM_IMPORTS: Sequence[tuple[re.Pattern[str], Table]] = (
  (re.compile(r"^blocks\.\d+\.mlp_tokens\."), TIMM_MIXER_TO_OURS),
  (re.compile(r"^stages\.\d+\.blocks\.\d+\.layer_scale1\."), metaformer.TIMM_TO_OURS),
  (re.compile(r"^stages\."), bit.TIMM_TO_OURS),
  (re.compile(""), TIMM),
)
# By a path that only such a tree begins with: the model of timm's that it is for, its names, and
# what to do about parameters that have none.
TIMM_EXPORTS: Sequence[tuple[str, str, Table, str]] = (
  ("MixerBlock_0/", "timm's Mixer", TIMM_MIXER_TO_OURS, SAVE_NPZ),
  (swin.V2_SIGN, "timm's Swin V2", swin.TIMM_V2_TO_OURS, SAVE_NPZ),
  ("layers_0/", "timm's Swin", swin.TIMM_TO_OURS, SAVE_NPZ),
  (mobilevit.V2_SIGN, "timm's MobileViTV2", mobilevit.TIMM_V2_TO_OURS, SAVE_NPZ),
  ("stem/conv/", "timm's MobileViT", mobilevit.TIMM_TO_OURS, SAVE_NPZ),
  ("root_block/", "timm's ResNetV2", bit.TIMM_TO_OURS, TAKE_OUT),
  ("input_embedding/", "timm's PoolFormer", metaformer.TIMM_TO_OURS, SAVE_NPZ),
  ("block1/", "timm's ViT", TIMM_TO_OURS + TIMM_MAP_TO_OURS + TIMM_RESNET_TO_OURS, SAVE_NPZ),
  ("", "timm's ViT", TIMM_TO_OURS + TIMM_MAP_TO_OURS + TIMM_ROOT_TO_OURS, SAVE_NPZ),
)


def from_timm(state: Mapping[str, np.ndarray], heads: int) -> tuple[Flat, list[str]]:
  """timm's names of any family, as `to_ours`."""
  table = next(table for sign, table in TIMM_IMPORTS if any(map(sign.search, state)))
  return to_ours(renamed(state, DEIT_TO_TIMM), table, heads)


def to_timm(flat: Mapping[str, np.ndarray]) -> Flat:
  """Our flat parameters under timm's names.

  Raises:
    UserError: the model has parameters that timm's has no place for; nothing is dropped.
  """
  where, table, instead = next(
    row for start, *row in TIMM_EXPORTS if any(path.startswith(start) for path in flat)
  )
  state, left = to_theirs(flat, table)
  refuse_left(where, left, instead)
  return with_counters(state)


def from_hf(state: Mapping[str, np.ndarray], heads: int) -> tuple[Flat, list[str]]:
  """Hugging Face's names, old and new, with and without their prefix, as `to_ours`."""
  bare = {re.sub(r"^(vit|deit|poolformer)\.", "", name): tensor for name, tensor in state.items()}
  return to_ours(
    renamed(bare, HF_NEW_NAMES), HF_TO_OURS + HF_DEIT_TO_OURS + metaformer.HF_TO_OURS, heads
  )
