# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Resolution, head, pre_logits and class token: against scipy and torch, and by what is logged."""

import numpy as np
import pytest
import scipy.ndimage
import torch
from tiny import CLASSES, FIELDS, NAME, flatten, images, tiny

from vit_jax.checkpoints import adapt, download
from vit_jax.checkpoints.adapt import POSITIONS
from vit_jax.checkpoints.pretrained import from_pretrained, save_checkpoint
from vit_jax.errors import UserError

SIZES = [
  ((14, 14), (24, 24)),
  ((24, 24), (14, 14)),
  ((7, 7), (12, 5)),
  ((5, 12), (7, 7)),
  ((6, 9), (9, 6)),
  ((4, 4), (1, 3)),
  ((1, 4), (3, 4)),
]


def told(caplog, word):
  """What was logged about `word`, apart from the line with the file's name."""
  return [m for m in caplog.messages if word in m and not m.startswith("Numerics of")]


def grid_of(size, dim=6):
  return np.random.default_rng(0).normal(size=(*size, dim)).astype(np.float32)


@pytest.mark.parametrize("old, new", SIZES)
def test_bilinear_aligned_equals_scipy_zoom(old, new):
  grid = grid_of(old)
  expected = scipy.ndimage.zoom(grid, (new[0] / old[0], new[1] / old[1], 1), order=1)
  assert expected.shape[:2] == new
  np.testing.assert_allclose(adapt.resize_grid(grid, new), expected, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("old, new", SIZES)
@pytest.mark.parametrize(
  "method, mode, antialias",
  [("bilinear", "bilinear", False), ("bicubic_antialias", "bicubic", True)],
)
def test_other_methods_equal_torch(method, mode, antialias, old, new):
  grid = grid_of(old)
  expected = torch.nn.functional.interpolate(
    torch.from_numpy(grid).permute(2, 0, 1)[None], new, mode=mode, antialias=antialias
  )[0].permute(1, 2, 0)
  ours = adapt.resize_grid(grid, new, method)
  np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)
  if old[0] > 1:  # The methods are no synonyms, except where rows are only repeated.
    other = adapt.resize_grid(grid, new)
    assert np.linalg.norm(other - ours) / np.linalg.norm(ours) > 0.05


def test_unknown_method_is_refused():
  with pytest.raises(UserError, match=r"'bicubic' is not a method; .*bicubic_antialias"):
    from_pretrained(NAME, "none.npz", position_resize="bicubic")


@pytest.fixture
def saved(tmp_path):
  model, variables = tiny()
  save_checkpoint(tmp_path / "x.npz", model, variables)
  return tmp_path / "x.npz", variables


@pytest.mark.parametrize("size", [(96, 96), (32, 96), (96, 16)])
def test_resolution_changes_keep_the_class_slot(saved, size, caplog):
  caplog.set_level("INFO")
  file, variables = saved
  model, adapted = from_pretrained(NAME, file, image_size=size, **FIELDS)
  new = size[0] // 16, size[1] // 16
  before, after = flatten(variables)[POSITIONS], flatten(adapted)[POSITIONS]
  np.testing.assert_array_equal(after[:, 0], before[:, 0])
  zoom = (new[0] / 4, new[1] / 4, 1)
  expected = scipy.ndimage.zoom(before[0, 1:].reshape(4, 4, -1), zoom, order=1)
  np.testing.assert_allclose(after[0, 1:], expected.reshape(-1, 32), rtol=1e-5, atol=2e-6)
  assert told(caplog, "position embedding") == [
    f"Resized position embedding from 4x4 to {new[0]}x{new[1]} (bilinear_aligned)."
  ]
  assert model.apply(adapted, images(*size)).shape == (2, CLASSES)


def test_a_grid_that_is_not_square_comes_back_by_its_metadata(tmp_path):
  model, variables = tiny(size=(32, 96))
  save_checkpoint(tmp_path / "x.npz", model, variables, metadata={"image_size": [32, 96]})
  _, same = from_pretrained(NAME, tmp_path / "x.npz", **FIELDS)
  np.testing.assert_array_equal(flatten(same)[POSITIONS], flatten(variables)[POSITIONS])
  _, turned = from_pretrained(NAME, tmp_path / "x.npz", image_size=(96, 32), **FIELDS)
  before = flatten(variables)[POSITIONS][0, 1:].reshape(2, 6, -1)
  expected = scipy.ndimage.zoom(before, (3, 1 / 3, 1), order=1).reshape(-1, 32)
  np.testing.assert_allclose(flatten(turned)[POSITIONS][0, 1:], expected, rtol=1e-5, atol=2e-6)

  save_checkpoint(tmp_path / "y.npz", model, variables)
  _, same = from_pretrained(NAME, tmp_path / "y.npz", image_size=(32, 96), **FIELDS)
  np.testing.assert_array_equal(flatten(same)[POSITIONS], flatten(variables)[POSITIONS])
  with pytest.raises(UserError, match="13 tokens, which is not a square grid"):
    from_pretrained(NAME, tmp_path / "y.npz", image_size=(64, 64), **FIELDS)


@pytest.mark.parametrize("kind", ["learned_2d", "relative", "sincos_2d", "none"])
def test_other_position_embeddings_change_resolution_too(kind, tmp_path):
  model, variables = tiny(position_embedding=kind)
  save_checkpoint(tmp_path / "x.npz", model, variables)
  fields = dict(FIELDS, position_embedding=kind)
  same, restored = from_pretrained(NAME, tmp_path / "x.npz", image_size=64, **fields)
  np.testing.assert_array_equal(same.apply(restored, images()), model.apply(variables, images()))
  wide, adapted = from_pretrained(NAME, tmp_path / "x.npz", image_size=(32, 96), **fields)
  assert wide.apply(adapted, images(32, 96)).shape == (2, CLASSES)
  if kind == "relative":
    path = "Transformer/encoderblock_0/relative_position_bias/table"
    before, after = flatten(variables)[path], flatten(adapted)[path]
    np.testing.assert_array_equal(after[-3:], before[-3:])
    expected = scipy.ndimage.zoom(before[:-3].reshape(7, 7, -1), (3 / 7, 11 / 7, 1), order=1)
    np.testing.assert_allclose(after[:-3], expected.reshape(33, -1), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize(
  "arguments, classes, fresh, log",
  [
    ({}, 5, False, None),
    ({"num_classes": 5}, 5, False, None),
    ({"num_classes": 5, "head": "keep"}, 5, False, None),
    ({"num_classes": 5, "head": "fresh"}, 5, True, "fresh zero head of 5 classes"),
    ({"head": "fresh"}, 5, True, "fresh zero head of 5 classes"),
    ({"num_classes": 7}, 7, True, "fresh zero head of 7 classes; the checkpoint's, of 5, is drop"),
    ({"num_classes": 0}, 0, False, "Dropped the checkpoint's head of 5 classes"),
  ],
)
def test_head(saved, arguments, classes, fresh, log, caplog):
  caplog.set_level("INFO")
  file, variables = saved
  model, adapted = from_pretrained(NAME, file, **arguments, **FIELDS)
  assert model.num_classes == classes
  flat = flatten(adapted)
  if classes == 0:
    assert "head/kernel" not in flat
    assert model.apply(adapted, images()).shape == (2, 32)
  elif fresh:
    assert flat["head/kernel"].shape == (32, classes)
    assert not np.any(flat["head/kernel"]) and not np.any(flat["head/bias"])
  else:
    np.testing.assert_array_equal(flat["head/kernel"], flatten(variables)["head/kernel"])
  lines = told(caplog, "head")
  assert (log in lines[0] and len(lines) == 1) if log else not lines


def test_head_errors(saved):
  with pytest.raises(UserError, match=r"head='keep' does not go with num_classes=7: .* 5 classes"):
    from_pretrained(NAME, saved[0], num_classes=7, head="keep", **FIELDS)
  with pytest.raises(UserError, match="head='new' is not known"):
    from_pretrained(NAME, saved[0], head="new", **FIELDS)


def test_a_headless_checkpoint_gives_features_or_a_fresh_head(tmp_path):
  model, variables = tiny(num_classes=0)
  save_checkpoint(tmp_path / "x.npz", model, variables)
  assert from_pretrained(NAME, tmp_path / "x.npz", **FIELDS)[0].num_classes == 0
  model, adapted = from_pretrained(NAME, tmp_path / "x.npz", num_classes=3, **FIELDS)
  assert flatten(adapted)["head/kernel"].shape == (32, 3)


def test_pre_logits_only_when_asked(tmp_path, caplog):
  caplog.set_level("INFO")
  model, variables = tiny(representation_size=24)
  save_checkpoint(tmp_path / "x.npz", model, variables)

  _, kept = from_pretrained(NAME, tmp_path / "x.npz", representation_size=24, **FIELDS)
  np.testing.assert_array_equal(
    kept["params"]["pre_logits"]["kernel"], flatten(variables)["pre_logits/kernel"]
  )
  assert not told(caplog, "pre_logits")

  _, dropped = from_pretrained(NAME, tmp_path / "x.npz", num_classes=3, **FIELDS)
  assert "pre_logits" not in dropped["params"]
  assert told(caplog, "pre_logits") == [
    "Dropped the checkpoint's pre_logits layer (representation_size=24 keeps it)."
  ]
  with pytest.raises(UserError, match="pass representation_size=24 to keep both"):
    from_pretrained(NAME, tmp_path / "x.npz", **FIELDS)


def test_a_name_alone_gives_the_published_logits(tmp_path, monkeypatch):
  """The registry's own file keeps its pre_logits, since its head was trained behind it."""
  model, variables = tiny(representation_size=24)
  save_checkpoint(tmp_path / "x.npz", model, variables)
  monkeypatch.setattr(download, "fetch", lambda source: tmp_path / "x.npz")
  loaded, found = from_pretrained(NAME, **FIELDS)
  np.testing.assert_array_equal(loaded.apply(found, images()), model.apply(variables, images()))


def test_class_token_is_dropped_only_with_the_head(saved, caplog):
  caplog.set_level("INFO")
  file, _ = saved
  model, adapted = from_pretrained(NAME, file, num_classes=3, classifier="gap", **FIELDS)
  assert "cls" not in adapted["params"]
  assert model.apply(adapted, images()).shape == (2, 3)
  assert told(caplog, "class token") == [
    "Dropped the checkpoint's class token; the model has none.",
    "Dropped the class token's position embedding; the model has no class token.",
  ]
  with pytest.raises(UserError, match=r"1 extra: cls \(1, 1, 32\)"):
    from_pretrained(NAME, file, classifier="gap", **FIELDS)
