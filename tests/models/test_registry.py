# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Names, overrides, and the published size of every model."""

import subprocess
import sys

import jax
import numpy as np
import pytest
import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

import vit_jax
from vit_jax.errors import UserError
from vit_jax.models import cost, registry

ANCESTOR = [
  *("ViT-Ti_16", "ViT-S_16", "ViT-B_16", "ViT-L_16", "ViT-S_32", "ViT-B_32", "ViT-L_32"),
  *("ViT-B_8", "ViT-H_14", "ViT-S_16-gap-norep", "ViT-S_32-gap-norep", "ViT-B_16-gap-norep"),
  *("ViT-B_32-gap-norep", "R+ViT-Ti_16", "R26+ViT-S_32", "R26+ViT-B_32", "R50+ViT-B_16"),
  *("R50+ViT-L_32", "Mixer-B_16", "Mixer-B_32", "Mixer-L_16"),
]


def test_every_name_of_the_ancestor_resolves():
  assert [registry.resolve_name(name) for name in ANCESTOR] == ANCESTOR


@pytest.mark.parametrize(
  "name, canonical",
  [
    ("B_16", "ViT-B_16"),
    ("R_Ti_16", "R+ViT-Ti_16"),
    ("R26_S_32", "R26+ViT-S_32"),
    ("R50_L_32", "R50+ViT-L_32"),
    (
      "S_32-i21k-300ep-lr_0.001-aug_light1-wd_0.03-do_0.0-sd_0.0"
      "--imagenet2012-steps_20k-lr_0.03-res_224.npz",
      "ViT-S_32",
    ),
  ],
)
def test_augreg_names_resolve(name, canonical):
  assert registry.resolve_name(name) == canonical


def test_list_models():
  assert "R50+ViT-B_16" in vit_jax.list_models("*B_16*")
  assert "ViT-B_32" not in vit_jax.list_models("*B_16*")
  assert vit_jax.list_models("*ViT-Ti*", pretrained=True) == ["ViT-Ti_16", "R+ViT-Ti_16"]


@pytest.mark.parametrize(
  "name, filename",
  [
    ("L_16", "L_16-i21k-300ep-lr_0.001-aug_strong1-wd_0.1-do_0.0-sd_0.0"),
    ("R+ViT-Ti_16", "R_Ti_16-i21k-300ep-lr_0.001-aug_none-wd_0.03-do_0.0-sd_0.0"),
    ("S_32-i21k-300ep.npz", "S_32-i21k-300ep"),
  ],
)
def test_augreg_filename(name, filename):
  assert registry.augreg_filename(name) == filename


def test_augreg_has_no_huge_model():
  with pytest.raises(UserError, match="AugReg has no weights for 'ViT-H_14'; it has Ti_16, S_32"):
    registry.augreg_filename("ViT-H_14")


TIMM = {
  "ViT-Ti_16": "vit_tiny_patch16_224",
  "ViT-S_16": "vit_small_patch16_224",
  "ViT-S_32": "vit_small_patch32_224",
  "ViT-B_16": "vit_base_patch16_224",
  "ViT-B_8": "vit_base_patch8_224",
  "ViT-L_16": "vit_large_patch16_224",
  "ViT-H_14": "vit_huge_patch14_224",
  "R+ViT-Ti_16": "vit_tiny_r_s16_p8_224",
  "R26+ViT-S_32": "vit_small_r26_s32_224",
  "R50+ViT-B_16": "vit_base_r50_s16_224",
  "R50+ViT-L_32": "vit_large_r50_s32_224",
  "Mixer-S_32": "mixer_s32_224",
  "Mixer-B_16": "mixer_b16_224",
  "Mixer-L_16": "mixer_l16_224",
  "DeiT-Ti_16-distilled": "deit_tiny_distilled_patch16_224",
  "DeiT-B_16-384": "deit_base_patch16_384",
  "DeiT-B_16-384-distilled": "deit_base_distilled_patch16_384",
  "Swin-T": "swin_tiny_patch4_window7_224",
  "Swin-S": "swin_small_patch4_window7_224",
  "Swin-B": "swin_base_patch4_window7_224",
  "Swin-B-384": "swin_base_patch4_window12_384",
  "Swin-L": "swin_large_patch4_window7_224",
  "SwinV2-T-w8": "swinv2_tiny_window8_256",
  "SwinV2-S-w16": "swinv2_small_window16_256",
  "SwinV2-B-w8": "swinv2_base_window8_256",
  "BiT-R50x1": "resnetv2_50x1_bit",
  "BiT-R50x3": "resnetv2_50x3_bit",
  "BiT-R101x1": "resnetv2_101x1_bit",
  "BiT-R101x3": "resnetv2_101x3_bit",
  "BiT-R152x2": "resnetv2_152x2_bit",
  "BiT-R152x4": "resnetv2_152x4_bit",
  "PoolFormer-S12": "poolformer_s12",
  "PoolFormer-S24": "poolformer_s24",
  "PoolFormer-S36": "poolformer_s36",
  "PoolFormer-M36": "poolformer_m36",
  "PoolFormer-M48": "poolformer_m48",
  "MobileViT-XXS": "mobilevit_xxs",
  "MobileViT-XS": "mobilevit_xs",
  "MobileViT-S": "mobilevit_s",
  "MobileViTV2-0.5": "mobilevitv2_050",
  "MobileViTV2-0.75": "mobilevitv2_075",
  "MobileViTV2-1.0": "mobilevitv2_100",
  "MobileViTV2-1.25": "mobilevitv2_125",
  "MobileViTV2-1.5": "mobilevitv2_150",
  "MobileViTV2-1.75": "mobilevitv2_175",
  "MobileViTV2-2.0": "mobilevitv2_200",
}


def _cheapest_of_each_family(names):
  by_family = {}
  for name in sorted(names, key=lambda name: cost.costs()[name]["gflops"]):
    by_family.setdefault(registry.MODELS[name].module, name)
  return {*by_family.values()}


def _others_are_slow(names):
  quick = _cheapest_of_each_family(names)
  return [n if n in quick else pytest.param(n, marks=pytest.mark.slow) for n in names]


def _timms(name):
  with torch.device("meta"):
    return timm.create_model(TIMM[name], num_classes=1000).eval()


@pytest.mark.parametrize("name", TIMM)
def test_parameters_are_as_many_as_timms(name):
  assert cost.costs()[name]["parameters"] == sum(p.numel() for p in _timms(name).parameters())


@pytest.mark.parametrize("name", _others_are_slow(TIMM))
def test_operations_are_torchs_own_count(name):
  theirs, size = _timms(name), registry.MODELS[name].input.image_size
  with torch.no_grad(), FlopCounterMode(display=False) as counter:
    theirs(torch.zeros(1, 3, size, size, device="meta"))
  expected = pytest.approx(counter.get_total_flops() / 2e9, abs=6e-4)
  assert cost.costs()[name]["gflops"] == expected


def test_cost_table_has_every_model():
  assert list(cost.costs()) == vit_jax.list_models()


@pytest.mark.parametrize("name", _others_are_slow(vit_jax.list_models()))
def test_cost_table_is_what_the_models_cost(name):
  assert cost.costs()[name] == cost.compute_costs(name)


def test_unknown_names_and_fields_are_refused_with_the_nearest():
  with pytest.raises(UserError, match="no model 'ViT-B16'; did you mean 'ViT-B_16'"):
    vit_jax.create_model("ViT-B16")
  with pytest.raises(UserError, match="no field 'drop_rate'; did you mean 'dropout_rate'"):
    vit_jax.create_model("ViT-B_16", drop_rate=0.1)


def test_overrides_reach_the_module():
  model = vit_jax.create_model("B_16", num_layers=2, num_classes=None, patch_size=[8, 16])
  assert (model.num_layers, model.num_classes, model.patch_size) == (2, 1000, (8, 16))


def test_features_by_name():
  tiny = dict(patch_size=8, hidden_size=24, num_layers=11, mlp_dim=48, num_heads=3, num_classes=5)
  images = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
  results = {}
  for scan in (False, True):
    model = vit_jax.create_model("ViT-Ti_16", **tiny, scan_layers=scan)
    variables = jax.jit(model.init)(jax.random.key(0), images)
    found = vit_jax.extract_features(model, variables, images, attention=True)
    assert [n for n in found if n.startswith("blocks/")] == [f"blocks/{i}" for i in range(11)]
    assert found["attention/10"].shape == (2, 3, 17, 17)
    assert found["tokens"].shape == (2, 17, 24)
    np.testing.assert_array_equal(found["pre_logits"], found["tokens"][:, 0])
    results[scan] = found
  assert set(results[False]) == set(results[True])

  some = vit_jax.extract_features(model, variables, images, layers=["blocks/1*", "attention/2"])
  assert list(some) == ["attention/2", "blocks/1", "blocks/10"]
  np.testing.assert_allclose(some["blocks/10"], found["blocks/10"], rtol=1e-5, atol=1e-5)
  with pytest.raises(UserError, match="no layer 'block/1'"):
    vit_jax.extract_features(model, variables, images, layers=["block/1"])


def test_importing_the_package_is_light():
  code = (
    "import sys, vit_jax; print([m for m in ('jax', 'torch', 'tensorflow') if m in sys.modules])"
  )
  run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
  assert run.stdout.strip() == "[]"


def test_models_import_without_warnings_and_without_torch():
  code = (
    "import sys, vit_jax; vit_jax.create_model, vit_jax.from_pretrained, vit_jax.preprocessing_for;"
    "print([m for m in ('torch', 'tensorflow', 'timm') if m in sys.modules])"
  )
  run = subprocess.run(
    [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
  )
  assert run.stdout.strip() == "[]"
