# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Addresses and their place in the cache, checksums, offline mode and mirrors."""

import base64
import hashlib
import logging
import re
import urllib.parse

import pytest
from remote import BODY, OTHER, fails, files, serve, statuses
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


def test_servers_on_other_ports_are_other_servers(remote, cache):
  with serve() as second:
    second.body = OTHER
    for server in (remote, second):
      place = download.fetch(f"{server.address}/a/x.npz")
      assert place.read_bytes() == server.body
      assert place.parts[-3:-1] == (server.address.removeprefix("http://"), "a")


def test_places_without_a_port_are_as_they_were(monkeypatch):
  monkeypatch.setenv("VIT_JAX_CACHE", "/c")
  place = lambda address: str(download.cached_path(address))
  for address in ("https://Host/a/x.npz", "https://host:443/a/x.npz", "http://host:80/a/x.npz"):
    assert place(address) == "/c/host/a/x.npz"
  assert place("http://host:443/x.npz") == "/c/host:443/x.npz"
  assert place("https://host:80/x.npz") == "/c/host:80/x.npz"
  assert place("https://[::1]/x.npz") == "/c/::1/x.npz"
  assert place("https://[::1]:81/x.npz") == "/c/[::1]:81/x.npz"
  assert place("https://host/x.npz?v=1&dl=a b") == "/c/host/x.npz?v=1&dl=a%20b"
  for address in ("http://host:port/x.npz", "http://host:99999/x.npz"):
    with pytest.raises(UserError, match="pass an address like"):
      download.fetch(address)


# As torch.hub names its files, whoever asks for them.
@pytest.mark.parametrize("end", ["pth", "pt", "bin", "pth.tar"])
def test_the_digest_in_a_name_is_verified(remote, cache, end):
  right, wrong = (hashlib.sha256(body).hexdigest() for body in (BODY, OTHER))
  length = next(n for n in range(8, 64) if not (right[:n].isdecimal() or wrong[:n].isdecimal()))
  named = lambda digest: f"{remote.address}/vit-b_16-{digest[:length]}.{end}"
  path = download.fetch(f"{named(right)}?download=true")
  assert path.read_bytes() == BODY
  for _ in range(2):  # Nothing is kept that a second call would take.
    with pytest.raises(UserError, match=rf"cannot be downloaded \(its sha256 is {right}, not"):
      download.fetch(named(wrong))
  path.write_bytes(OTHER)  # In the cache it is held to it too.
  with pytest.raises(UserError, match=rf"another file than asked for \(its sha256 is {wrong}"):
    download.fetch(f"{named(right)}?download=true")


@pytest.mark.parametrize("name", ["run-20240131.pth", "x-1a2b3c4.pth", "x-1a2b3c4d.npz",
                                  "x_1a2b3c4d.pth", "x-1a2b3c4d.pth/x.pth"])  # fmt: skip
def test_names_without_a_digest_are_not_taken_for_one(remote, name):
  assert download.fetch(f"{remote.address}/{name}").read_bytes() == BODY


def test_registry_rows_with_a_digest_are_held_to_it(remote, monkeypatch):
  from vit_jax.models.weights import WEIGHTS

  urls = [row.url for rows in WEIGHTS.values() for row in rows]
  assert len([url for url in urls if download.HUB_DIGEST.search(url)]) == 8  # DeiT's.
  _, _, path = next(url for url in urls if "a1311bcf" in url).split("/", 2)
  address = f"{remote.address}/{path}"
  with pytest.raises(UserError, match=r"its sha256 is .*, not a1311bcf"):
    from_pretrained("DeiT-Ti_16", address)


SECRETS = ["X-Goog-Signature", "X-Amz-Credential", "access_token", "sig", "AWSAccessKeyId",
           "Api-Key", "token", "password", "access%5Ftoken", "Policy"]  # fmt: skip


@pytest.mark.parametrize("secret", SECRETS)
def test_secrets_of_a_query_are_neither_shown_nor_in_a_name(remote, cache, secret, caplog, capfd):
  caplog.set_level(logging.INFO)
  address = f"{remote.address}/x.npz?v=1&{secret}=hunter2&w=2#token=hunter2"
  path = download.fetch(address)
  assert remote.log[0][0].startswith(f"/x.npz?v=1&{secret}=hunter2&w=2")
  assert "hunter2" not in str(path) and "v=1&" in path.name and "&w=2" in path.name
  # Two secrets may stand for two files.
  assert download.cached_path(address.replace("hunter2", "hunter3")) != path
  path.unlink()
  remote.cuts = [0] * 9
  with pytest.raises(UserError, match=r"x.npz\?v=1&.*=\.\.\.&w=2 cannot be downloaded") as caught:
    download.fetch(address)
  told = f"{caught.value}{caplog.text}{capfd.readouterr()}{[*cache.rglob('*')]}"
  assert "trying again" in told and "hunter2" not in told


@pytest.mark.parametrize("user", ["hunter2", "me:hunter2", "me%40host:hunter2"])
def test_a_user_and_password_are_sent_and_never_shown(remote, cache, user, caplog, monkeypatch):
  caplog.set_level(logging.INFO)
  address = remote.address.replace("://", f"://{user}@") + "/x.npz"
  assert download.fetch(address) == cache / "x.npz"
  [sent] = remote.authorizations
  assert base64.b64decode(sent.removeprefix("Basic ")).decode() == urllib.parse.unquote(user)
  (cache / "x.npz").unlink()
  told = []
  for bad in (
    address,
    address.replace("/x.npz", ""),
    address.replace("@", "@host:port"),
    "https://u:hunter2@[/x",
  ):
    remote.statuses = [404]
    with pytest.raises(UserError) as caught:
      download.fetch(bad)
    told.append(str(caught.value))
  monkeypatch.setenv("VIT_JAX_OFFLINE", "1")
  with pytest.raises(UserError, match="is not in the cache") as caught:
    download.fetch(address)
  monkeypatch.setenv("VIT_JAX_MIRROR", "ftp://me:hunter2@host")
  with pytest.raises(UserError, match="is no address") as offline:
    download.fetch("gs://a/b.npz")
  told = f"{told}{caught.value}{offline.value}{caplog.text}"
  assert "Downloaded" in told and "hunter2" not in told


def test_schemes_are_known_in_any_letter_case(remote):
  path = download.fetch(f"{remote.address}/x.npz")
  assert download.fetch(f"{remote.address}/x.npz".replace("http", "HTTP")) == path
  assert len(remote.log) == 1
