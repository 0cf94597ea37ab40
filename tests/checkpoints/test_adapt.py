# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Resolution, patches, channels, classes, head and class token: by values and by what is logged."""

import jax
import numpy as np
import pytest
import scipy.ndimage
import torch
from compiled import apply
from timm.layers.patch_embed import resample_patch_embed
from timm.models._manipulate import adapt_input_conv
from tiny_model import CLASSES, FIELDS, NAME, flatten, images, tiny

from vit_jax.checkpoints import download
from vit_jax.checkpoints.grids import POSITIONS
from vit_jax.checkpoints.npz import to_released, write_npz
from vit_jax.checkpoints.pretrained import from_pretrained
from vit_jax.checkpoints.saving import save_checkpoint
from vit_jax.errors import UserError


def told(caplog, word):
  """What was logged about `word`, apart from the line with the file's name."""
  return [m for m in caplog.messages if word in m and not m.startswith("Numerics of")]


def output(model, variables, inputs):
  """Shape of the logits, without computing them."""
  return jax.eval_shape(model.apply, variables, inputs).shape


def to_torch(kernel):
  return torch.from_numpy(np.array(kernel)).permute(3, 2, 0, 1)  # HWIO to OIHW


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
  assert output(model, adapted, images(*size)) == (2, CLASSES)


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
  for size in (None, 64):  # Not even its own resolution is known.
    with pytest.raises(UserError, match=r"13 tokens, which is not a square grid; pass the image_s"):
      from_pretrained(NAME, tmp_path / "y.npz", image_size=size, **FIELDS)


@pytest.mark.parametrize("kind", ["learned_2d", "relative", "sincos_2d", "none"])
def test_other_position_embeddings_change_resolution_too(kind, tmp_path):
  model, variables = tiny(position_embedding=kind)
  save_checkpoint(tmp_path / "x.npz", model, variables)
  fields = dict(FIELDS, position_embedding=kind)
  # What has no grid of its own is loaded at the registry's resolution, and fits any.
  same, restored = from_pretrained(NAME, tmp_path / "x.npz", **fields)
  np.testing.assert_array_equal(apply(same, restored, images()), apply(model, variables, images()))
  wide, adapted = from_pretrained(NAME, tmp_path / "x.npz", image_size=(32, 96), **fields)
  assert output(wide, adapted, images(32, 96)) == (2, CLASSES)
  if kind == "relative":
    path = "Transformer/encoderblock_0/relative_position_bias/table"
    before, after = flatten(variables)[path], flatten(adapted)[path]
    np.testing.assert_array_equal(after[-3:], before[-3:])
    expected = scipy.ndimage.zoom(before[:-3].reshape(7, 7, -1), (3 / 7, 11 / 7, 1), order=1)
    np.testing.assert_allclose(after[:-3], expected.reshape(33, -1), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("size", [0, -16, 64.0, "64", (64,), (64, 64, 3), (64, 0)])
def test_an_image_size_is_one_side_or_two(size):
  with pytest.raises(UserError, match=r"is no size in pixels; pass one side, such as 224, or \(h"):
    from_pretrained(NAME, "none.npz", image_size=size, **FIELDS)


def test_unknown_methods_are_refused():
  for keyword in ("position_resize", "patch_resize"):
    with pytest.raises(UserError, match=rf"{keyword}='cubic' is not known; choose from: .*bicubic"):
      from_pretrained(NAME, "none.npz", **{keyword: "cubic"})


@pytest.mark.parametrize("patch, grid", [(8, (8, 8)), (32, (2, 2)), ((16, 8), (4, 8))])
def test_another_patch_size_keeps_the_resolution(saved, patch, grid, caplog):
  caplog.set_level("INFO")
  file, variables = saved
  fields = dict(FIELDS, patch_size=patch, patch_resize="bicubic_antialias")
  model, adapted = from_pretrained(NAME, file, **fields)
  sides = model.patch_shape()
  before, after = (flatten(v)["embedding/kernel"] for v in (variables, adapted))
  theirs = resample_patch_embed(to_torch(before), list(sides))
  np.testing.assert_allclose(to_torch(after), theirs, rtol=1e-4, atol=1e-5)
  zoom = scipy.ndimage.zoom(
    flatten(variables)[POSITIONS][0, 1:].reshape(4, 4, -1), (grid[0] / 4, grid[1] / 4, 1), order=1
  )
  np.testing.assert_allclose(
    flatten(adapted)[POSITIONS][0, 1:], zoom.reshape(-1, 32), rtol=1e-5, atol=2e-6
  )
  assert told(caplog, "embedding") == [
    f"Resized patch embedding from 16x16 to {sides[0]}x{sides[1]} "
    "(pseudo-inverse of bicubic_antialias).",
    f"Resized position embedding from 4x4 to {grid[0]}x{grid[1]} (bilinear_aligned).",
  ]
  assert output(model, adapted, images()) == (2, CLASSES)


def test_another_patch_size_of_a_grid_that_is_not_square(tmp_path, caplog):
  caplog.set_level("INFO")
  model, variables = tiny(size=(32, 96))
  save_checkpoint(tmp_path / "x.npz", model, variables, metadata={"image_size": [32, 96]})
  fields = dict(FIELDS, patch_size=32, patch_resize="bilinear")
  model, adapted = from_pretrained(NAME, tmp_path / "x.npz", **fields)
  assert told(caplog, "position embedding") == [
    "Resized position embedding from 2x6 to 1x3 (bilinear_aligned)."
  ]
  assert output(model, adapted, images(32, 96)) == (2, CLASSES)


def test_larger_patches_of_a_larger_image_give_the_same_logits(saved):
  file, variables = saved
  patches = images().reshape(2, 4, 16, 4, 16, 3).transpose(0, 1, 3, 5, 2, 4).reshape(-1, 3, 16, 16)
  larger = torch.nn.functional.interpolate(torch.from_numpy(patches), (32, 32), mode="bilinear")
  larger = larger.numpy().reshape(2, 4, 4, 3, 32, 32).transpose(0, 1, 4, 2, 5, 3)
  model, adapted = from_pretrained(
    NAME, file, image_size=128, patch_size=32, patch_resize="bilinear", **FIELDS
  )
  logits = apply(model, adapted, larger.reshape(2, 128, 128, 3))
  expected = tiny()[0].apply(variables, images())
  assert np.linalg.norm(logits - expected) / np.linalg.norm(expected) < 1e-5


def test_another_patch_size_is_refused_unless_asked_for(saved):
  hint = (
    r"does not fit ViT-Ti_8 \(patch_resize='bicubic_antialias' resamples its 16x16 patches to 8x8"
  )
  with pytest.raises(UserError, match=hint):
    from_pretrained("ViT-Ti_8", saved[0], **FIELDS)
  with pytest.raises(UserError, match="image_size=64 is not a multiple of patch size 12"):
    from_pretrained(NAME, saved[0], patch_size=12, patch_resize="bilinear", **FIELDS)
  with pytest.raises(UserError) as caught:  # No resampling makes another width fit.
    from_pretrained("ViT-Ti_8", saved[0], **dict(FIELDS, hidden_size=64))
  assert "patch_resize" not in str(caught.value)


def test_patches_of_a_hybrid_are_resized_in_positions_of_its_stem(tmp_path):
  name, stem = "R+ViT-Ti_16", dict(stem_width=32)
  model, variables = tiny(name=name, **stem)
  save_checkpoint(tmp_path / "x.npz", model, variables)
  fields = dict(FIELDS, **stem, patch_size=4, patch_resize="bicubic_antialias")
  model, adapted = from_pretrained(name, tmp_path / "x.npz", **fields)
  theirs = resample_patch_embed(to_torch(flatten(variables)["embedding/kernel"]), [4, 4])
  ours = to_torch(flatten(adapted)["embedding/kernel"])
  np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
  assert output(model, adapted, images()) == (2, CLASSES)  # 64 pixels are 2x2, now 4x4 patches.


@pytest.mark.parametrize("channels", [1, 2, 4, 7])
@pytest.mark.parametrize("name, path", [(NAME, "embedding"), ("R+ViT-Ti_16", "conv_root")])
def test_channels_follow_timms_rules(name, path, channels, tmp_path, caplog):
  caplog.set_level("INFO")
  stem = {} if name == NAME else dict(stem_width=32)
  model, variables = tiny(name=name, **stem)
  save_checkpoint(tmp_path / "x.npz", model, variables)
  model, adapted = from_pretrained(name, tmp_path / "x.npz", channels=channels, **FIELDS, **stem)
  before, after = flatten(variables), flatten(adapted)
  theirs = adapt_input_conv(channels, to_torch(before.pop(f"{path}/kernel")))
  np.testing.assert_allclose(to_torch(after.pop(f"{path}/kernel")), theirs, rtol=1e-5, atol=1e-7)
  assert all(np.array_equal(before[other], after[other]) for other in before)
  how = "summed" if channels == 1 else "repeated and scaled"
  assert told(caplog, "channels") == [
    f"Changed {path}/kernel from 3 to {channels} input channels ({how})."
  ]
  assert output(model, adapted, np.zeros((2, 64, 64, channels))) == (2, CLASSES)


def test_a_grey_image_gives_what_its_copies_gave(saved, caplog):
  caplog.set_level("INFO")
  file, variables = saved
  grey = images()[..., :1]
  model, adapted = from_pretrained(NAME, file, channels=1, **FIELDS)
  expected = apply(model, variables, np.repeat(grey, 3, axis=-1))
  np.testing.assert_allclose(apply(model, adapted, grey), expected, rtol=1e-4, atol=1e-5)
  caplog.clear()
  from_pretrained(NAME, file, channels=3, **FIELDS)
  assert not told(caplog, "channels")
  for wrong in (0, 1.5):
    with pytest.raises(UserError, match=rf"channels={wrong} is not a number of input channels"):
      from_pretrained(NAME, file, channels=wrong, **FIELDS)


@pytest.mark.parametrize(
  "classes, rows",
  [
    ([3, 0], [3, 0]),
    (np.array([4]), [4]),
    (["fox", "owl"], [1, 3]),
    (("fox", 0), [1, 0]),
    (range(5), [0, 1, 2, 3, 4]),
  ],
)
def test_chosen_classes_keep_their_logits(classes, rows, tmp_path, caplog):
  caplog.set_level("INFO")
  model, variables = tiny()
  metadata = {"class_names": ["crane", "fox", "crane", "owl", "elk"]}
  save_checkpoint(tmp_path / "x.npz", model, variables, metadata=metadata)
  expected = np.asarray(apply(model, variables, images()))[:, rows]
  for count in (None, len(rows)):
    caplog.clear()
    model, adapted = from_pretrained(
      NAME, tmp_path / "x.npz", classes=classes, num_classes=count, **FIELDS
    )
    assert model.num_classes == len(rows)
    np.testing.assert_allclose(apply(model, adapted, images()), expected, rtol=1e-5, atol=1e-6)
    listed = ", ".join(map(str, rows))
    assert told(caplog, "head") == [f"Kept {len(rows)} of the head's 5 classes ({listed})."]


@pytest.mark.parametrize(
  "arguments, message",
  [
    ({"classes": [0, 5]}, r"class 5 is out of range: .* 5 classes, 0 to 4"),
    ({"classes": [-1]}, "class -1 is out of range"),
    ({"classes": [1.0]}, "class 1.0 is neither an index nor a name"),
    ({"classes": [True, False]}, "class True is neither"),
    ({"classes": 3}, r"classes=3 is not a list; pass \[3\]"),
    ({"classes": "fox"}, r"classes='fox' is not a list; pass \['fox'\]"),
    ({"classes": []}, "keeps no class; pass num_classes=0"),
    ({"classes": ["foxes"]}, "no class 'foxes'; did you mean 'fox'?"),
    ({"classes": ["crane"]}, "classes 0, 2 are all called 'crane'; pass an index"),
    ({"classes": [1, 2], "num_classes": 3}, "choice of 2 classes .* not go with num_classes=3"),
    ({"classes": [1], "head": "fresh"}, "does not go with num_classes=None, head='fresh'"),
  ],
)
def test_classes_that_are_not_there_are_refused(arguments, message, tmp_path):
  names = ["crane", "fox", "crane", "owl", "elk"]
  save_checkpoint(tmp_path / "x.npz", *tiny(), metadata={"class_names": names})
  with pytest.raises(UserError, match=message):
    from_pretrained(NAME, tmp_path / "x.npz", **arguments, **FIELDS)


def test_classes_need_a_head_and_names_their_list(saved, tmp_path):
  with pytest.raises(UserError, match="no class names to look up 'fox' in; pass indices"):
    from_pretrained(NAME, saved[0], classes=["fox"], **FIELDS)
  save_checkpoint(tmp_path / "y.npz", *tiny(num_classes=0))
  with pytest.raises(UserError, match="no head to choose classes from"):
    from_pretrained(NAME, tmp_path / "y.npz", classes=[0], **FIELDS)


def test_all_at_once_one_line_each_scanned_or_not(saved, caplog):
  caplog.set_level("INFO")
  file, variables = saved
  arguments = dict(FIELDS, image_size=(96, 32), channels=1, classes=[2, 0], patch_size=8)
  arguments |= dict(position_resize="bicubic", patch_resize="bilinear")
  lines, logits = [], []
  for scan_layers in (False, True):
    caplog.clear()
    model, adapted = from_pretrained(NAME, file, scan_layers=scan_layers, **arguments)
    lines.append([m for m in caplog.messages if not m.startswith("Numerics of")])
    logits.append(jax.jit(model.apply)(adapted, images(96, 32)[..., :1]))
  assert (
    lines[0]
    == lines[1]
    == [
      "Kept 2 of the head's 5 classes (2, 0).",
      "Changed embedding/kernel from 3 to 1 input channels (summed).",
      "Resized patch embedding from 16x16 to 8x8 (pseudo-inverse of bilinear).",
      "Resized position embedding from 4x4 to 12x4 (bicubic).",
    ]
  )
  assert logits[0].shape == (2, 2)
  np.testing.assert_allclose(logits[0], logits[1], rtol=1e-5, atol=1e-6)
  grid = torch.from_numpy(flatten(variables)[POSITIONS][:, 1:]).reshape(1, 4, 4, 32)
  theirs = torch.nn.functional.interpolate(grid.permute(0, 3, 1, 2), (12, 4), mode="bicubic")
  ours = flatten(adapted)[POSITIONS][:, 1:].reshape(1, 12, 4, 32)
  np.testing.assert_allclose(ours.transpose(0, 3, 1, 2), theirs, rtol=1e-5, atol=1e-6)


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
    assert output(model, adapted, images()) == (2, 32)
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
  assert from_pretrained(tmp_path / "x.npz")[0].representation_size == 24  # Our files tell it.
  write_npz(tmp_path / "bare.npz", to_released(flatten(variables)))
  with pytest.raises(UserError, match="pass representation_size=24 to keep both"):
    from_pretrained(NAME, tmp_path / "bare.npz", **FIELDS)


def test_a_name_alone_gives_the_published_logits(tmp_path, monkeypatch):
  """The registry's own file keeps its pre_logits, since its head was trained behind it."""
  model, variables = tiny(representation_size=24)
  save_checkpoint(tmp_path / "x.npz", model, variables)
  monkeypatch.setattr(download, "fetch", lambda source: tmp_path / "x.npz")
  loaded, found = from_pretrained(NAME, **FIELDS)
  np.testing.assert_array_equal(apply(loaded, found, images()), apply(model, variables, images()))


def test_class_token_is_dropped_only_with_the_head(saved, caplog):
  caplog.set_level("INFO")
  file, _ = saved
  model, adapted = from_pretrained(NAME, file, num_classes=3, classifier="gap", **FIELDS)
  assert "cls" not in adapted["params"]
  assert output(model, adapted, images()) == (2, 3)
  assert told(caplog, "class token") == [
    "Dropped the checkpoint's class token; the model has none.",
    "Dropped the class token's position embedding; the model has no class token.",
  ]
  with pytest.raises(UserError, match=r"1 extra: cls \(1, 1, 32\)"):
    from_pretrained(NAME, file, classifier="gap", **FIELDS)
