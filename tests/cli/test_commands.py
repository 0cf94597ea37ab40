# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The commands from outside, on digits and on a folder of photos with bad files among them."""

import io
import json
import pathlib
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
from compiled import apply
from PIL import Image

from vit_jax.cli import app

SMALL = [
  "--config.model.num_layers=2",
  "--config.model.hidden_size=32",
  "--config.model.mlp_dim=64",
  "--config.model.num_heads=4",
]


def test_help_is_quick_and_complete():
  start = time.perf_counter()
  run = subprocess.run(
    [sys.executable, "-m", "vit_jax.cli.app", "--help"], capture_output=True, text=True, check=True
  )
  # The promise is half a second; the factor is for machines that do something else beside.
  assert time.perf_counter() - start < 2.0
  assert all(f"  {name} " in run.stdout for name in app.COMMANDS)


@pytest.mark.parametrize("command", app.COMMANDS)
def test_every_command_has_help_with_an_example(command, capsys):
  with pytest.raises(SystemExit) as ended:
    app.main([command, "--help"])
  assert ended.value.code == 0
  assert f"vit-jax {command} " in capsys.readouterr().out.split("\n\n", 1)[1]


def test_models_table_and_json(capsys):
  assert app.main(["models", "*ViT-B_16", "--json"]) == 0
  rows = json.loads(capsys.readouterr().out)
  assert [row["name"] for row in rows] == ["ViT-B_16", "R50+ViT-B_16"]
  assert rows[0]["parameters"] == 86_567_656 and rows[0]["image_size"] == 224
  assert app.main(["models", "ViT-B_16"]) == 0
  assert "86.6 M" in capsys.readouterr().out


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """A short run on digits."""
  workdir = tmp_path_factory.mktemp("digits") / "run"
  settings = ["--config.total_steps=150", "--config.warmup_steps=10", "--config.eval_every=75"]
  settings += ["--config.batch=32"]
  argv = ["train", "--config=configs/quickstart.py", f"--workdir={workdir}", *settings, *SMALL]
  assert app.main(argv) == 0
  return workdir


def test_results_and_curves(run):
  results = json.loads((run / "results.json").read_text())
  assert results["steps"] == 150 and results["test"]["examples"] == 360
  assert results["val"]["examples"] == 180 and results["images_per_second"] > 0
  assert 0.5 < results["test"]["accuracy"] <= results["test"]["top5"] <= 1
  assert Image.open(run / "curves.png").size[0] > 300


def test_evaluate_repeats_the_result(run, capsys):
  assert app.main(["evaluate", f"--workdir={run}", "--json", "--batch=7"]) == 0
  found = json.loads(capsys.readouterr().out)["test"]
  expected = json.loads((run / "results.json").read_text())["test"]
  assert found["accuracy"] == expected["accuracy"] and found["examples"] == 360
  assert found["loss"] == pytest.approx(expected["loss"], rel=1e-5)


def test_sample_then_predict(run, tmp_path, capsys):
  assert app.main(["sample", f"--out={tmp_path}", "--count=60"]) == 0
  assert len(capsys.readouterr().out.splitlines()) == 60
  assert app.main(["predict", f"--workdir={run}", str(tmp_path), "--json", "--top=10"]) == 0
  rows = json.loads(capsys.readouterr().out)
  assert sum(p["probability"] for p in rows[0]["classes"]) == pytest.approx(1, abs=1e-5)
  right = [pathlib.Path(row["path"]).stem[-1] == row["classes"][0]["name"] for row in rows]
  accuracy = json.loads((run / "results.json").read_text())["test"]["accuracy"]
  assert np.mean(right) > accuracy - 0.15  # Of 60 examples, drawn from those 360.

  # The same digits as photos: dark ink on a larger, unevenly lit sheet.
  photos = tmp_path / "photos"
  photos.mkdir()
  for path in sorted(tmp_path.glob("*.png")):
    digit = cv2.resize(np.asarray(Image.open(path)), (150, 150), interpolation=cv2.INTER_CUBIC)
    sheet = np.tile(np.linspace(180, 230, 400)[:, None], (1, 300))
    sheet[100:250, 70:220] -= digit * 0.7
    Image.fromarray(sheet.clip(0, 255).astype(np.uint8)).convert("RGB").save(photos / path.name)
  assert app.main(["predict", f"--workdir={run}", str(photos), "--json"]) == 0
  rows = json.loads(capsys.readouterr().out)
  seen = [pathlib.Path(row["path"]).stem[-1] == row["classes"][0]["name"] for row in rows]
  assert np.mean(seen) > np.mean(right) - 0.2


def make_photos(root):
  """Sample photos of scikit-learn and scikit-image in two classes, and their variants.

  The split is by source photo, so that no photo is on both sides.
  """
  import skimage.data
  from sklearn.datasets import load_sample_images

  china, flower = load_sample_images().images
  by_class = {
    "nature": [flower, skimage.data.coffee(), skimage.data.cat()],
    "built": [china, skimage.data.rocket(), skimage.data.motorcycle_left()]
    if hasattr(skimage.data, "motorcycle_left")
    else [china, skimage.data.rocket(), skimage.data.astronaut()],
  }
  rng = np.random.default_rng(0)
  for name, photos in by_class.items():
    for split, photo in zip(("train", "val", "test"), photos, strict=True):
      folder = root / split / name
      folder.mkdir(parents=True)
      for variant in range(6):
        shift = rng.uniform(0.6, 1.3, 3)
        pixels = (photo[..., :3][::4, ::4] * shift).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{variant}.jpg", quality=90)
  train = root / "train"
  picture = Image.open(train / "nature" / "0.jpg")
  (train / "nature" / "corrupt.JPG").write_bytes((train / "nature" / "1.jpg").read_bytes()[:300])
  (train / "built" / "text.png").write_text("not an image")
  encoded = io.BytesIO()
  picture.save(encoded, "PNG")
  (train / "nature" / "really_a_png.jpg").write_bytes(encoded.getvalue())
  picture.convert("L").save(train / "nature" / "grey.PNG")
  picture.convert("CMYK").save(train / "nature" / "cmyk.jpeg")
  exif = Image.Exif()
  exif[0x0112] = 6  # Rotated by 90 degrees.
  picture.save(train / "nature" / "rotated.jpg", exif=exif)


def test_a_folder_of_photos_end_to_end(tmp_path, capfd, caplog):
  photos, workdir = tmp_path / "photos", tmp_path / "run"
  make_photos(photos)
  argv = [
    *("train", "--config=configs/vit.py:ti16,cifar10", f"--workdir={workdir}"),
    *(f"--config.dataset={photos}", "--config.pretrained_dir=", "--config.pp.crop=32"),
    *("--config.total_steps=8", "--config.warmup_steps=2", "--config.batch=8"),
    *("--config.accum_steps=2", "--config.batch_eval=8", "--config.eval_every=4"),
    *("--config.max_bad_fraction=0.2", *SMALL),
  ]
  assert app.main(argv) == 0
  assert "corrupt.JPG" in caplog.text and "text.png" in caplog.text
  assert not any(name in caplog.text for name in ("grey.PNG", "cmyk", "really_a_png", "rotated"))
  results = json.loads((workdir / "results.json").read_text())
  assert "wrote" in capfd.readouterr().out
  assert results["val"]["examples"] == results["test"]["examples"] == 12

  assert app.main(["evaluate", f"--workdir={workdir}", "--split=val", "--json"]) == 0
  found = json.loads(capfd.readouterr().out)["val"]
  assert found["accuracy"] == results["val"]["accuracy"]

  assert app.main(["predict", f"--workdir={workdir}", str(photos / "train"), "--json"]) == 0
  rows = json.loads(capfd.readouterr().out)
  last = " ".join(record.getMessage() for record in caplog.records[-3:])  # Read by threads.
  assert len(rows) == 12 + 4 and "corrupt.JPG" in last and "text.png" in last
  assert last.endswith("2 of 18 files are left out: they cannot be read")
  assert {c["name"] for c in rows[0]["classes"]} == {"nature", "built"}

  # With the share of bad images at its default the same folder is refused.
  again = [a for a in argv if "max_bad" not in a and "workdir" not in a]
  assert app.main([*again, f"--workdir={tmp_path / 'strict'}"]) == 2
  said = capfd.readouterr().err
  assert "max_bad_fraction" in said and "Traceback" not in said


def test_a_run_is_a_checkpoint(run):
  """What training wrote opens as any other weights, under the library's own name."""
  import vit_jax

  model, variables = vit_jax.from_pretrained("R+ViT-Ti_16", checkpoint=run, **_fields(run))
  assert apply(model, variables, np.zeros((1, 32, 32, 1), np.float32)).shape == (1, 10)


def _fields(run):
  return {
    k: v for k, v in json.loads((run / "config.json").read_text())["model_fields"].items()
    if k != "num_classes"
  }  # fmt: skip
