# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Addresses and their place in the cache, checksums, offline mode and mirrors."""

import hashlib
import re

import pytest
from remote import BODY, OTHER, fails, files, statuses
from tiny_model import FIELDS, NAME, assert_equal, tiny

from vit_jax.checkpoints import download
from vit_jax.checkpoints.pretrained import from_pretrained
from vit_jax.checkpoints.saving import save_checkpoint
from vit_jax.errors import UserError

pytestmark = pytest.mark.usefixtures("cache")


def test_a_file_is_fetched_once(remote, cache, capfd):
  for _ in range(2):
    path = download.fetch(f"{remote.address}/a/x.npz")
    assert path == cache / "a" / "x.npz" and path.read_bytes() == BODY
  assert remote.log == [("/a/x.npz", None, 200, len(BODY))]
  assert files(cache / "a") == ["x.npz"]
  assert capfd.readouterr() == ("", "")  # No progress bar in a log file.


def test_a_model_is_loaded_from_an_address(remote, tmp_path):
  model, variables = tiny()
  save_checkpoint(tmp_path / "x.npz", model, variables)
  remote.body = (tmp_path / "x.npz").read_bytes()
  for _ in range(2):
    _, loaded = from_pretrained(NAME, f"{remote.address}/x.npz", **FIELDS)
    assert_equal(loaded, variables)
  assert statuses(remote) == [200]


def test_local_paths_stay(tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  assert download.fetch("~/x.npz") == tmp_path / "x.npz"
  assert download.fetch(tmp_path) == tmp_path


@pytest.mark.parametrize(
  "address", ["https://", "https://host", "gs://", "https://[1/x", "http:///x"]
)
def test_addresses_without_a_file_are_refused(address):
  with pytest.raises(UserError, match="pass an address like"):
    download.fetch(address)


@pytest.mark.parametrize("algorithm", ["sha256", "md5"])
def test_a_checksum_is_verified_wherever_the_file_comes_from(remote, cache, tmp_path, algorithm):
  right = hashlib.new(algorithm, BODY).hexdigest()
  wrong = hashlib.new(algorithm, OTHER).hexdigest()
  fails(remote, f"its {algorithm} is {right}, not {wrong}", checksum=f"{algorithm}:{wrong}")
  assert not files(cache) and len(remote.log) == 1
  for checksum in (f"{algorithm}:{right}", f"{algorithm}:{right[:8].upper()}"):
    path = download.fetch(f"{remote.address}/x.npz", checksum=checksum)
    assert path.read_bytes() == BODY
  assert len(remote.log) == 2
  for source in (f"{remote.address}/x.npz", path):
    with pytest.raises(UserError, match=f"{path} is another file than asked for .its {algorithm}"):
      download.fetch(source, checksum=f"{algorithm}:{wrong}")
  with pytest.raises(UserError, match=r"none.npz cannot be read"):
    download.fetch(tmp_path / "none.npz", checksum=f"{algorithm}:{right}")


@pytest.mark.parametrize(
  "checksum", ["", "12345678", "crc32c:12345678", "md5:1234", "sha256:wxyzwxyz"]
)
def test_other_checksums_are_refused(remote, checksum):
  with pytest.raises(UserError, match=r"pass 'sha256:...' or 'md5:...'"):
    download.fetch(f"{remote.address}/x.npz", checksum=checksum)
  assert not remote.log


def test_a_cache_that_cannot_be_written_is_named(remote, cache):
  cache.parent.mkdir()
  cache.write_text("a file where the directory should be")
  with pytest.raises(UserError, match=r"x.npz cannot be written .*; make room .* VIT_JAX_CACHE"):
    download.fetch(f"{remote.address}/x.npz")


def test_offline_only_the_cache_is_used(remote, cache, monkeypatch):
  monkeypatch.setenv("VIT_JAX_OFFLINE", "1")
  place = re.escape(str(cache / "x.npz"))
  with pytest.raises(UserError, match=rf"x.npz is not in the cache .* put the file at {place} or"):
    download.fetch(f"{remote.address}/x.npz")
  assert not remote.log
  monkeypatch.setenv("VIT_JAX_OFFLINE", "0")
  download.fetch(f"{remote.address}/x.npz")
  monkeypatch.setenv("VIT_JAX_OFFLINE", "1")
  assert download.fetch(f"{remote.address}/x.npz").read_bytes() == BODY
  assert len(remote.log) == 1


def test_google_storage_is_read_through_https(monkeypatch):
  monkeypatch.delenv("VIT_JAX_CACHE")
  monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
  assert download.to_https("gs://a/b.npz") == "https://storage.googleapis.com/a/b.npz"
  assert download.to_https("gs://a/R50+B 16?#%.npz").endswith("/a/R50+B%2016%3F%23%25.npz")
  assert download.to_https("https://a/b.npz") == "https://a/b.npz"
  root = "/somewhere/vit_jax/storage.googleapis.com"
  assert str(download.cached_path("gs://a/b.npz")) == f"{root}/a/b.npz"
  assert str(download.cached_path("gs://a/R50+B 16?#%.npz")) == f"{root}/a/R50+B 16?#%.npz"
  assert str(download.cached_path("gs://a/../../b.npz")) == f"{root}/a/b.npz"


def test_a_mirror_stands_in_for_google_storage(remote, cache, monkeypatch):
  monkeypatch.setenv("VIT_JAX_MIRROR", f"{remote.address}/mirror/")
  google = cache.parent / "storage.googleapis.com" / "a"
  assert download.fetch("gs://a/R50+B 16.npz") == google / "R50+B 16.npz"
  assert download.fetch("https://storage.googleapis.com/a/c.npz") == google / "c.npz"
  assert download.fetch(f"{remote.address}/d é.npz") == cache / "d é.npz"
  paths = [path for path, *_ in remote.log]
  assert paths == ["/mirror/a/R50+B%2016.npz", "/mirror/a/c.npz", "/d%20%C3%A9.npz"]
  remote.statuses = [404]
  with pytest.raises(UserError, match=f"^{remote.address}/mirror/a/e.npz cannot be downloaded"):
    download.fetch("gs://a/e.npz")
  monkeypatch.setenv("VIT_JAX_MIRROR", "/mnt/weights")
  with pytest.raises(UserError, match="VIT_JAX_MIRROR=/mnt/weights is no address"):
    download.fetch("gs://a/e.npz")
