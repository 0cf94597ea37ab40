# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Names of AugReg against a local copy of its index, with the columns of the real one."""

import csv
import functools
import http.server
import logging
import threading

import pytest

from vit_jax.checkpoints import augreg
from vit_jax.errors import UserError
from vit_jax.models import registry

COLUMNS = (
  *("name", "ds", "epochs", "lr", "aug", "wd", "do", "sd", "best_val", "final_val", "final_test"),
  *("adapt_ds", "adapt_lr", "adapt_steps", "adapt_resolution", "adapt_final_val"),
  *("adapt_final_test", "params", "infer_samples_per_sec", "filename", "adapt_filename"),
)


def stem(model, aug, ds="i21k"):
  return f"{model}-{ds}-300ep-lr_0.001-aug_{aug}-wd_0.1-do_0.0-sd_0.0"


# Model, upstream, augmentation, best_val, final_val. The best of R_Ti_16 by final_val is neither
# first nor last, nor the best by best_val, nor of ImageNet-1k, nor of a model with a similar name.
ROWS = [
  ("R_Ti_16", "i21k", "none", 0.30, 0.29),
  ("R_Ti_16", "i21k", "light1", 0.33, 0.32),
  ("R_Ti_16", "i21k", "strong1", 0.40, 0.10),
  ("R_Ti_16", "i1k", "medium1", 0.75, 0.74),
  ("Ti_16", "i21k", "medium2", 0.41, 0.41),
  ("R_Ti_16", "i21k", "medium2", 0.50, ""),
]
BEST = stem("R_Ti_16", "light1")


@pytest.fixture(autouse=True)
def fresh(monkeypatch, tmp_path):
  monkeypatch.setenv("VIT_JAX_CACHE", str(tmp_path / "cache"))
  monkeypatch.delenv("VIT_JAX_OFFLINE", raising=False)
  augreg._best.cache_clear()
  yield
  augreg._best.cache_clear()


@pytest.fixture
def index(monkeypatch, tmp_path):
  """Serves a bucket; yields the paths that were asked for."""
  file = tmp_path / "www/vit_models/augreg/index.csv"
  file.parent.mkdir(parents=True)
  with open(file, "w", newline="") as stream:
    writer = csv.DictWriter(stream, COLUMNS, restval="0")
    writer.writeheader()
    for model, ds, aug, best, final in ROWS:
      upstream = stem(model, aug, ds)
      for rate in ("0.01", "0.03"):  # Each pre-training is fine-tuned many times.
        tuned = f"{upstream}--imagenet2012-steps_20k-lr_{rate}-res_224"
        row = dict(name=model, ds=ds, filename=upstream, adapt_filename=tuned)
        writer.writerow({**row, "best_val": best, "final_val": final, "adapt_final_val": 0.9})
  asked = []

  class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
      asked.append(self.path)

  handler = functools.partial(Handler, directory=tmp_path / "www")
  server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
  threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
  monkeypatch.setenv("VIT_JAX_MIRROR", f"http://127.0.0.1:{server.server_port}")
  yield asked
  server.shutdown()
  server.server_close()


@pytest.mark.parametrize("name", ["R_Ti_16", "R+ViT-Ti_16"])
def test_a_short_name_is_the_best_by_upstream_validation_accuracy(index, name, caplog):
  with caplog.at_level(logging.INFO, "vit_jax.checkpoints.augreg"):
    assert augreg.resolve(name) == BEST
  messages = [r.getMessage() for r in caplog.records if r.name == augreg.__name__]
  assert messages == [f"AugReg's index: R_Ti_16 is {BEST} (final_val=0.320)."]


def test_the_index_is_fetched_once_and_kept(index, monkeypatch):
  assert augreg.resolve("R_Ti_16") == BEST
  assert augreg.resolve("Ti_16") == stem("Ti_16", "medium2")
  augreg._best.cache_clear()  # As another process.
  monkeypatch.setenv("VIT_JAX_OFFLINE", "1")
  assert augreg.resolve("R_Ti_16") == BEST
  assert index == ["/vit_models/augreg/index.csv"]


def test_a_local_copy_has_its_own_index(index, tmp_path, caplog):
  assert augreg.resolve("R_Ti_16", f"{tmp_path}/www/vit_models/augreg/") == BEST
  assert index == [] and not caplog.messages
  assert augreg.resolve("R_Ti_16", str(tmp_path)) == registry.AUGREG["R_Ti_16"]
  assert f"there is no {tmp_path}/index.csv" in caplog.messages[0]


def test_a_file_name_asks_nobody(index):
  tuned = f"{BEST}--imagenet2012-steps_20k-lr_0.03-res_224"
  assert augreg.resolve(BEST) == BEST
  assert augreg.resolve(f"{tuned}.npz") == tuned
  assert index == []


def test_without_network_the_recommended_file_is_used_and_told(monkeypatch, caplog):
  monkeypatch.setenv("VIT_JAX_OFFLINE", "1")
  assert augreg.resolve("R_Ti_16") == augreg.resolve("R_Ti_16") == registry.AUGREG["R_Ti_16"]
  messages = [r.getMessage() for r in caplog.records if r.name == augreg.__name__]
  assert len(messages) == 1 and registry.AUGREG["R_Ti_16"] in messages[0]
  assert messages[0].startswith("AugReg's index is out of reach, using the built-in")


@pytest.mark.parametrize(
  "name, message",
  [
    ("H_14", "AugReg has no weights for 'H_14'; it has Ti_16, S_32"),
    (stem("X_16", "none"), "AugReg has no weights for 'X_16'"),
    ("B_16-i21k-300ep", "'B_16-i21k-300ep' is no file name of AugReg; these are spelled like"),
    (f"{BEST}--imagenet2012", "is no file name of AugReg"),
    (f"../{BEST}", "is no file name of AugReg"),
  ],
)
def test_other_names_are_refused(name, message, index):
  with pytest.raises(UserError, match=message.replace("..", r"\.\.")):
    augreg.resolve(name)
  assert index == []


def test_a_wrong_file_in_the_indexs_place_is_refused(index, tmp_path):
  file = tmp_path / "cache/storage.googleapis.com/vit_models/augreg/index.csv"
  file.parent.mkdir(parents=True)
  file.write_text("<html>Sign in</html>\n")
  with pytest.raises(UserError, match=r"index\.csv is not AugReg's index \(no column 'ds'\)"):
    augreg.resolve("R_Ti_16")
  file.write_text("ds,filename,final_val\n")
  with pytest.raises(UserError, match="lists no i21k file of R_Ti_16"):
    augreg.resolve("R_Ti_16")
