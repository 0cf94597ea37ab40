# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Fields that no model can be built with are refused when it is made; and timm's names."""

import dataclasses
import math

import compiled
import flax.linen as nn
import jax
import numpy as np
import pytest

import vit_jax
from vit_jax.errors import UserError
from vit_jax.models import fields, registry, timm_names

WRONG = [
  ("ViT-Ti_16", dict(dropout_rate=1.5), r"ViT-Ti_16: dropout_rate=1.5 should be in \[0, 1\)\."),
  ("ViT-Ti_16", dict(dropout_rate=-0.1), "dropout_rate=-0.1 should be in"),
  ("ViT-Ti_16", dict(drop_path_rate=1), r"drop_path_rate=1 should be in \[0, 1\)"),
  ("ViT-Ti_16", dict(attention_dropout_rate=math.nan), "attention_dropout_rate=nan should be in"),
  ("ViT-Ti_16", dict(num_layers=0), "num_layers=0 should be at least 1"),
  ("ViT-Ti_16", dict(num_layers=2.0), "num_layers=2.0 is not an integer"),
  ("ViT-Ti_16", dict(num_layers=True), "num_layers=True is not an integer"),
  ("ViT-Ti_16", dict(hidden_size=0), "hidden_size=0 should be at least 1"),
  ("ViT-Ti_16", dict(hidden_size=-3), "hidden_size=-3 should be at least 1"),
  ("ViT-Ti_16", dict(hidden_size=100), "hidden_size=100 is not a multiple of num_heads=3; use 99"),
  ("ViT-Ti_16", dict(mlp_dim=0), "mlp_dim=0 should be at least 1"),
  ("ViT-Ti_16", dict(num_heads=0), "num_heads=0 should be at least 1"),
  ("ViT-Ti_16", dict(num_classes=-1), "num_classes=-1 should be at least 0"),
  ("ViT-Ti_16", dict(patch_size=0), "patch_size=0 should be at least 1"),
  ("ViT-Ti_16", dict(patch_size=(16, 0)), r"patch_size=\(16, 0\) should be at least 1"),
  ("ViT-Ti_16", dict(patch_size=(16,)), r"patch_size=\(16,\) is not an integer or a tuple"),
  ("ViT-Ti_16", dict(representation_size=0), "representation_size=0 should be at least 1"),
  ("ViT-Ti_16", dict(layer_norm_eps=-1e-6), "layer_norm_eps=-1e-06 should be positive"),
  (
    "ViT-Ti_16",
    dict(layer_norm_eps=math.inf),
    "layer_norm_eps=inf should be positive, and be a fin",
  ),
  ("ViT-Ti_16", dict(layer_scale_init=math.nan), "layer_scale_init=nan should be a finite number"),
  ("ViT-Ti_16", dict(head_bias_init=-math.inf), "head_bias_init=-inf should be a finite number"),
  ("ViT-Ti_16", dict(dtype="int8"), "dtype='int8' is no type to compute in; choose one of float32"),
  ("ViT-Ti_16", dict(dtype="bf16"), "dtype='bf16' is no type to compute in"),
  ("ViT-Ti_16", dict(dtype=8), "dtype=8 is no type"),
  ("ViT-Ti_16", dict(dtype="('a',)"), "is no type to compute in"),
  ("ViT-Ti_16", dict(dtype=("a", 1)), "is no type to compute in"),
  ("ViT-Ti_16", dict(classifier="cls"), "classifier='cls' is not known; choose from: token"),
  ("ViT-Ti_16", dict(remat="all"), "remat='all' is not known; choose from: "),
  ("ViT-Ti_16", dict(activation="relu"), "activation='relu' is not known"),
  ("ViT-Ti_16", dict(scan_layers="yes"), "scan_layers='yes' is not True or False"),
  ("R+ViT-Ti_16", dict(stem_width=8), "stem_width=8 is not a multiple of 32; use 32"),
  ("R50+ViT-B_16", dict(stem_blocks=(3, 0)), r"stem_blocks=\(3, 0\) should be at least 1"),
  ("Mixer-S_16", dict(num_blocks=0), "num_blocks=0 should be at least 1"),
  ("Mixer-S_16", dict(tokens_mlp_dim=0), "tokens_mlp_dim=0 should be at least 1"),
  ("BiT-R50x1", dict(width_factor=0.0), "width_factor=0.0 should be positive"),
  ("BiT-R50x1", dict(num_units=(3, -4)), r"num_units=\(3, -4\) should be at least 1"),
  ("BiT-R50x1", dict(group_norm_eps=0.0), "group_norm_eps=0.0 should be positive"),
  ("Swin-T", dict(embed_dim=100), "embed_dim=100 is not a multiple of head_dim=32; use 96"),
  ("Swin-T", dict(window_size=0), "window_size=0 should be at least 1"),
  ("Swin-T", dict(depths=(2, 0)), r"depths=\(2, 0\) should be at least 1"),
  ("SwinV2-T-w8", dict(trained_windows=(-1,)), r"trained_windows=\(-1,\) should be at least 0"),
  ("PoolFormer-S12", dict(mlp_ratio=-1.0), "mlp_ratio=-1.0 should be positive"),
  ("PoolFormer-S12", dict(token_mixer=("pooling", "conv")), "token_mixer='conv' is not known"),
  ("MobileViT-S", dict(hidden_sizes=(8, 8, 9)), "hidden_sizes=9 is not a multiple of num_heads=4"),
  (
    "MobileViTV2-0.5",
    dict(expansion=math.nan),
    "expansion=nan should be positive, and be a finite",
  ),
  ("LiT-B16B", dict(temperature_init=0.0), "temperature_init=0.0 should be positive"),
  ("LiT-B16B", dict(txt=dict(max_len=0)), "Bert-B: max_len=0 should be at least 1"),
  ("LiT-B16B", dict(img=dict(num_layers=0)), "ViT-B_16: num_layers=0 should be at least 1"),
]


@pytest.mark.parametrize("name, overrides, message", WRONG)
def test_refused_when_the_model_is_made(name, overrides, message):
  for make in (vit_jax.create_model, vit_jax.from_pretrained):  # Which fetches no weights before.
    with pytest.raises(UserError, match=message):
      make(name, **overrides)


@pytest.mark.parametrize("name", [None, 3, [], ("ViT-B_16",), b"ViT-B_16"])
def test_a_name_is_a_string(name):
  with pytest.raises(UserError, match=r"is no name of a model; pass a string, such as 'ViT-B_16'"):
    vit_jax.create_model(name)
  with pytest.raises(UserError, match=r"is no name of a model"):
    vit_jax.create_model("LiT-B16B", img=dict(name=name))
  with pytest.raises(UserError, match=r"there is no text tower"):
    vit_jax.create_model("LiT-B16B", txt=dict(name=name))


def test_all_rows_can_be_made_and_every_number_has_a_range():
  for name in vit_jax.list_models():
    model = registry.create_model(name)
    dtype = {"dtype": "float32"} if hasattr(model, "dtype") else {}
    usual = registry.create_model(name, **dtype)
    assert registry.create_model(name, **registry.fields_of(usual)) == usual
    for field in fields.model_fields(type(model)):
      assert fields.types_of(type(model))[field] is not None
  assert {field.name for field in dataclasses.fields(model)} >= {*fields.model_fields(type(model))}


def test_types_that_programs_pass_are_taken():
  import jax.numpy as jnp
  import numpy as np

  model = vit_jax.create_model("ViT-Ti_16", dtype=jnp.bfloat16, num_layers=np.int64(2))
  assert model.num_layers == 2 and type(model.num_layers) is int
  assert vit_jax.create_model("ViT-Ti_16", dtype=None).dtype is None
  assert vit_jax.create_model("ViT-Ti_16", dtype="float64", drop_path_rate=0).dtype == "float64"


@pytest.mark.parametrize(
  "theirs, ours",
  [
    ("vit_base_patch16_224", "ViT-B_16"),
    ("vit_base_patch16_384.augreg_in21k_ft_in1k", "ViT-B_16"),
    ("timm/vit_huge_patch14_224.orig_in21k", "ViT-H_14"),
    ("google/vit-base-patch16-224-in21k", "ViT-B_16"),
    ("vit_giant_patch14_224", "ViT-g_14"),
    ("vit_gigantic_patch14_224", "ViT-G_14"),
    ("vit_base_r50_s16_384", "R50+ViT-B_16"),
    ("deit_small_distilled_patch16_224", "DeiT-S_16-distilled"),
    ("deit_base_distilled_patch16_384", "DeiT-B_16-384-distilled"),
    ("facebook/deit-tiny-patch16-224", "DeiT-Ti_16"),
    ("deit3_large_patch16_384", "DeiT3-L_16-384"),
    ("deit_3_small_224_21k", "DeiT3-S_16"),  # The authors' file.
    ("swin_tiny_patch4_window7_224", "Swin-T"),
    ("swin_base_patch4_window12_384_22kto1k", "Swin-B-384"),
    ("microsoft/swinv2-tiny-patch4-window8-256", "SwinV2-T-w8"),
    ("mixer_b16_224_in21k", "Mixer-B_16"),
    ("resnetv2_101x3_bitm", "BiT-R101x3"),
    ("BiT-M-R50x1", "BiT-R50x1"),
    ("poolformer_m36.sail_in1k", "PoolFormer-M36"),
    ("mobilevitv2_175", "MobileViTV2-1.75"),
    # Other models, whose names begin in the same way.
    ("vit_base_patch16_clip_224", None),
    ("vit_base_patch16_224_dino", None),
    ("vit_base_patch16_gap_224", None),
    ("beit_base_patch16_224", None),
    ("ViT-B_17", None),
    ("", None),
  ],
)
def test_names_of_timm_and_the_hub(theirs, ours):
  assert timm_names.ours(theirs) == ours
  for find in (registry.get_entry, vit_jax.create_model, vit_jax.from_pretrained):
    with pytest.raises(UserError, match=r"no model|nor a model") as e:
      find(theirs)
    assert (f"; here it is called {ours!r}." in str(e.value)) == bool(ours)


def test_every_model_with_a_counterpart_in_timm_is_found_by_its_name():
  """With the names that the costs are compared under, and by those of the released files."""
  from test_registry import TIMM

  assert {theirs: timm_names.ours(theirs) for theirs in TIMM.values()} == {
    theirs: ours for ours, theirs in TIMM.items()
  }


def test_what_goes_with_what_is_seen_where_the_file_is_known(tmp_path):
  """Of a file, whose width is not the row's, the heads do not have to divide the row's."""
  fields = dict(hidden_size=20, num_heads=5, num_layers=1, mlp_dim=8, num_classes=2)
  model = vit_jax.create_model("ViT-B_16", **fields)
  variables = compiled.noise(model, np.zeros((1, 32, 32, 3), np.float32))
  vit_jax.save_checkpoint(tmp_path / "mine.npz", model, variables)
  again, _ = vit_jax.from_pretrained("ViT-B_16", tmp_path / "mine.npz", num_heads=5)
  assert (again.hidden_size, again.num_heads) == (20, 5)
  for wrong, message in ((dict(num_heads=0), "num_heads=0"), (dict(heads=2), "no field 'heads'")):
    with pytest.raises(UserError, match=message):
      vit_jax.from_pretrained("ViT-B_16", tmp_path / "missing.npz", **wrong)


NORMS = {
  "layer_norm_eps": "LayerNorm",
  "group_norm_eps": "GroupNorm",
  "batch_norm_eps": "BatchNorm",
}
FAMILIES = {
  "ViT-Ti_16": dict(num_layers=2, classifier="map"),
  "R+ViT-Ti_16": dict(num_layers=1),
  "DeiT-Ti_16-distilled": dict(num_layers=1),
  "Mixer-S_16": dict(num_blocks=1),
  "BiT-R50x1": dict(num_units=(1, 1)),
  "Swin-T": dict(depths=(1, 1)),
  "SwinV2-T-w8": dict(depths=(1, 1)),
  "PoolFormer-S12": dict(depths=(1, 1), widths=(8, 16)),
  "MobileViT-XXS": {},
  "MobileViTV2-0.5": {},
}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_field_reaches_every_layer_that_has_it(name):
  """Logits would not show an epsilon that one norm of many does not get."""
  known = registry.model_fields(registry.get_entry(name).module)
  values = {field: 0.125 for field in NORMS if field in known}
  values |= {"activation": "silu"} if "activation" in known else {}
  model = vit_jax.create_model(name, num_classes=3, **FAMILIES[name], **values)
  found = {field: [] for field in values}

  def look(call, arguments, options, context):
    for field in values:
      own = getattr(context.module, field, None)
      if type(context.module).__name__ == NORMS.get(field):
        own = context.module.epsilon
      found[field] += [] if own is None else [own]
    return call(*arguments, **options)

  with nn.intercept_methods(look):
    jax.eval_shape(lambda: model.init(jax.random.key(0), np.zeros((1, 64, 64, 3), np.float32)))
  for field, value in values.items():
    # The model's own is one of them.
    assert len(found[field]) > 1 and {*found[field]} == {value}, (field, found[field])


RATES = ("dropout_rate", "attention_dropout_rate", "drop_path_rate")


@pytest.mark.parametrize("name", FAMILIES)
def test_nothing_is_dropped_but_what_the_row_says(name):
  row = registry.get_entry(name).config
  model = vit_jax.create_model(name, num_classes=3, **FAMILIES[name])
  rates = {rate: getattr(model, rate) for rate in RATES if hasattr(model, rate)}
  assert rates == {rate: row.get(rate, 0.0) for rate in rates}
  off = model.clone(**dict.fromkeys(rates, 0.0))
  images = np.zeros((2, 64, 64, 3), np.float32)

  def train():  # Without random numbers.
    variables = off.init(jax.random.key(0), images)
    return off.apply(variables, images, train=True, mutable=["batch_stats"])[0]

  assert jax.tree.leaves(jax.eval_shape(train))[0].shape[0] == 2
