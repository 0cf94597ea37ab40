# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The tables of released files against the ancestor's README, timm, and our own models."""

import pytest
import timm
import torch

from vit_jax.checkpoints.augreg import FILENAME
from vit_jax.models import cost, registry
from vit_jax.models.weights import AUGREG, SOURCES, WEIGHTS

FILES = [(name, row) for name, rows in WEIGHTS.items() for row in rows]
KNOWN = [(name, row) for name, row in FILES if name in registry.MODELS]
VITS = ("vit", "hybrid")
AUGREG_FILES = [(name, row) for name, row in FILES if "/augreg/" in row.url]


def tag(value):
  return getattr(value, "tag", value)


# The README's table of recommended files: upstream, its MiB, fine-tuning, ImageNet top-1.
UPSTREAM = "-i21k-300ep-lr_0.001-aug_"
README = [
  ("L_16", "strong1-wd_0.1-do_0.0-sd_0.0", 1243, "0.01", 85.59),
  ("B_16", "medium1-wd_0.1-do_0.0-sd_0.0", 391, "0.03", 85.49),
  ("S_16", "light1-wd_0.03-do_0.0-sd_0.0", 115, "0.03", 83.73),
  ("R50_L_32", "medium1-wd_0.1-do_0.1-sd_0.1", 1337, "0.01", 85.99),
  ("R26_S_32", "light1-wd_0.1-do_0.0-sd_0.0", 170, "0.01", 83.85),
  ("Ti_16", "none-wd_0.03-do_0.0-sd_0.0", 37, "0.03", 78.22),
  ("B_32", "light1-wd_0.1-do_0.0-sd_0.0", 398, "0.01", 83.59),
  ("S_32", "none-wd_0.1-do_0.0-sd_0.0", 118, "0.01", 79.58),
  ("R_Ti_16", "none-wd_0.03-do_0.0-sd_0.0", 40, "0.03", 75.40),
]


@pytest.mark.parametrize("short, suffix, mebibytes, rate, accuracy", README)
def test_the_recommended_files_of_the_readme(short, suffix, mebibytes, rate, accuracy):
  stem = f"{short}{UPSTREAM}{suffix}"
  assert AUGREG[short] == stem
  rows = {row.url: row for row in WEIGHTS[registry.resolve_name(short)]}
  upstream = rows[f"gs://vit_models/augreg/{stem}.npz"]
  assert upstream.megabytes * 1e6 / 2**20 == pytest.approx(mebibytes, abs=1)
  assert (upstream.num_classes, upstream.accuracy) == (21_843, None)
  tuned = rows[f"gs://vit_models/augreg/{stem}--imagenet2012-steps_20k-lr_{rate}-res_384.npz"]
  assert (tuned.image_size, tuned.num_classes, tuned.accuracy) == (384, 1000, accuracy)


def test_a_model_of_augreg_begins_with_the_file_that_timm_adopted():
  adopted = {
    url
    for name in timm.list_pretrained("vit_*_224.augreg_in21k_ft_in1k")
    if (url := timm.get_pretrained_cfg(name).url)
  }
  first = {
    row[0].url.replace("gs://", "https://storage.googleapis.com/")
    for name, row in WEIGHTS.items()
    # timm took another pre-training of B/8 than the best.
    if row[0].tag.startswith("augreg") and name != "ViT-B_8"
  }
  assert len(first) == 9 and first < adopted


@pytest.mark.parametrize("name, row", AUGREG_FILES, ids=tag)
def test_augreg_names_parse_and_tell_their_model(name, row):
  file = row.url.removeprefix("gs://vit_models/augreg/").removesuffix(".npz")
  assert FILENAME.fullmatch(file) and registry.resolve_name(file) == name
  assert ("--imagenet2012-" in file) == (row.num_classes == 1000)
  assert file.endswith(f"-res_{row.image_size}") or row.num_classes == 21_843


def test_names_are_unique_and_of_models():
  assert len({row.url for _, row in FILES}) == len(FILES)
  assert len({(name, row.tag) for name, row in FILES}) == len(FILES)
  assert all(name in registry.MODELS or name.startswith("LiT-") for name in WEIGHTS)
  ancestor = ["Mixer-B_16", "Mixer-B_32", "Mixer-L_16", "LiT-B16B", "LiT-B16B_2", "LiT-L16L"]
  assert {*ancestor, "LiT-L16S", "LiT-L16Ti"} < set(WEIGHTS)
  assert all(registry.MODELS[name].weights == WEIGHTS[name] for name, _ in KNOWN)


def test_an_accuracy_has_a_source():
  for _, row in FILES:
    assert (row.accuracy is None) == (row.source is None)
    assert row.accuracy is None or (60 < row.accuracy < 90 and row.num_classes != 21_843)
  assert {row.source for _, row in FILES} == {*SOURCES, None}


def family_of(name):
  return registry.MODELS[name].family


@pytest.mark.parametrize("name, row", [k for k in KNOWN if family_of(k[0]) in VITS], ids=tag)
def test_a_file_fits_its_model(name, row):
  model = registry.create_model(name)
  step = model.pixels_per_token()[0]
  assert row.image_size % step == 0 and row.url.startswith("gs://vit_models/")
  width, layer = model.hidden_size, row.representation_size
  assert layer in (None, width)
  parameters = cost.costs()[name]["parameters"]  # With 1000 classes, at 224 pixels.
  parameters += (row.num_classes - 1000) * (width + 1) + (width * (width + 1) if layer else 0)
  parameters += ((row.image_size // step) ** 2 - (224 // step) ** 2) * width
  assert row.megabytes == round(4 * parameters / 1e6)


@pytest.mark.parametrize("name, row", [k for k in KNOWN if family_of(k[0]) == "mixer"], ids=tag)
def test_a_file_fits_its_mixer(name, row):
  assert row.image_size == 224 and row.url.startswith("gs://mixer_models/")
  assert row.representation_size is None
  classes = row.num_classes - 1000
  parameters = cost.costs()[name]["parameters"] + classes * (
    registry.create_model(name).hidden_dim + 1
  )
  assert row.megabytes == round(4 * parameters / 1e6)


@pytest.mark.parametrize("name, row", [k for k in KNOWN if family_of(k[0]) == "bit"], ids=tag)
def test_a_file_fits_its_bit(name, row):
  assert row.url.startswith("gs://bit_models/") and row.representation_size is None
  width = 2048 * registry.create_model(name).width_factor
  parameters = cost.costs()[name]["parameters"] + (row.num_classes - 1000) * (width + 1)
  assert row.megabytes == round(4 * parameters / 1e6)


@pytest.mark.parametrize(
  "name", [name for name in WEIGHTS if name.startswith(("Mixer-", "BiT-")) and name[-1] != "8"]
)
def test_sizes_of_mixers_and_bit_are_timms(name):
  family, size = name.split("-")
  # "Mixer-B_16" is mixer_b16_224, "BiT-R50x1" resnetv2_50x1_bit.
  theirs = f"mixer_{size.lower().replace('_', '')}_224" if family == "Mixer" else None
  theirs = theirs or f"resnetv2_{size.removeprefix('R')}_bit"
  sizes = {}
  for row in WEIGHTS[name]:
    if row.num_classes not in sizes:
      with torch.device("meta"):
        network = timm.create_model(theirs, num_classes=row.num_classes)
      sizes[row.num_classes] = round(sum(p.numel() for p in network.parameters()) * 4 / 1e6)
    assert row.megabytes == sizes[row.num_classes]
