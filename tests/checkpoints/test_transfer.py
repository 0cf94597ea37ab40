# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Connections that break, files that change, processes that meet: what arrives is whole."""

import base64
import errno
import fcntl
import hashlib
import http.client
import io
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
import safetensors.numpy
import torch
from remote import BODY, NOW, OLD, OTHER, fails, files, interrupted, serve, statuses

from vit_jax.checkpoints import download, transfer
from vit_jax.errors import UserError

pytestmark = pytest.mark.usefixtures("cache")


def child(remote, *checksum):
  code = (
    "import sys; from vit_jax.checkpoints import download; print(download.fetch(*sys.argv[1:]))"
  )
  command = [sys.executable, "-c", code, f"{remote.address}/x.npz", *checksum]
  return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(condition):
  deadline = time.monotonic() + 20
  while not condition():
    assert time.monotonic() < deadline
    time.sleep(0.01)


def test_progress_is_shown_on_a_terminal(remote, monkeypatch):
  class Terminal(io.StringIO):
    def isatty(self):
      return True

  monkeypatch.setenv("TERM", "xterm")
  monkeypatch.setattr(sys, "stderr", Terminal())
  download.fetch(f"{remote.address}/x.npz")
  shown = sys.stderr.getvalue()
  assert "x.npz" in shown and "1.0/1.0 MB" in shown


@pytest.mark.parametrize("headers", [{"ETag": '"one"'}, {"Last-Modified": OLD}])
def test_a_cut_connection_is_resumed(remote, cache, headers, caplog):
  remote.headers, remote.cuts = headers, [700_000, 200_000]
  path = download.fetch(f"{remote.address}/x.npz")
  assert path.read_bytes() == BODY and files(cache) == ["x.npz"]
  assert remote.log == [
    ("/x.npz", None, 200, 700_000),
    ("/x.npz", "bytes=700000-", 206, 200_000),
    ("/x.npz", "bytes=900000-", 206, 100_000),
  ]
  told = f"{remote.address}/x.npz: the connection ended after 700,000 of 1,000,000 bytes; trying"
  assert caplog.messages[0].startswith(told)


def test_tries_end_only_when_nothing_new_comes(remote, cache):
  remote.cuts = [100_000] * 8
  assert download.fetch(f"{remote.address}/x.npz").read_bytes() == BODY
  remote.log.clear()
  (cache / "x.npz").unlink()
  interrupted(remote, 600_000, "; run the same command to go on after 600,000 bytes, or fetch")
  assert files(cache) == ["x.npz.lock", "x.npz.part"]
  assert download.fetch(f"{remote.address}/x.npz").read_bytes() == BODY
  assert remote.log[-1] == ("/x.npz", "bytes=600000-", 206, 400_000)
  assert files(cache) == ["x.npz"]


# A weak ETag, and a date so fresh that the file may have changed since, do not name one version.
@pytest.mark.parametrize("headers", [{}, {"ETag": 'W/"one"'}, {"Last-Modified": NOW}])
def test_bytes_of_no_known_version_are_not_kept(remote, cache, headers):
  remote.headers, remote.cuts = headers, [700_000]
  assert download.fetch(f"{remote.address}/x.npz").read_bytes() == BODY
  assert [(asked, sent) for _, asked, _, sent in remote.log] == [(None, 700_000), (None, 1_000_000)]
  (cache / "x.npz").unlink()
  remote.cuts = [700_000] * 9
  fails(remote, "700,000 of 1,000,000 bytes); fetch it elsewhere")
  assert not files(cache)


def test_a_server_that_refuses_ranges_starts_from_zero(remote):
  remote.ranges, remote.cuts = False, [700_000]
  assert download.fetch(f"{remote.address}/x.npz").read_bytes() == BODY
  assert remote.log[1:] == [("/x.npz", "bytes=700000-", 200, 1_000_000)]


# Servers that heed If-Range send the new file whole; others send its end, or find no such range.
@pytest.mark.parametrize("heeds, size, answers", [(True, 10**6, []), (False, 10**6, [206]),
                                                  (False, 500_000, [416])])  # fmt: skip
@pytest.mark.parametrize("name, old, new", [("ETag", '"1"', '"2"'), ("Last-Modified", OLD, NOW)])
def test_a_changed_file_is_not_spliced(remote, cache, heeds, size, answers, name, old, new):
  remote.headers = {name: old}
  interrupted(remote, 600_000)
  remote.log.clear()
  remote.headers, remote.body, remote.if_range = {name: new}, OTHER[:size], heeds
  assert download.fetch(f"{remote.address}/x.npz").read_bytes() == OTHER[:size]
  assert statuses(remote) == [*answers, 200]
  assert remote.log[0][1] == "bytes=600000-" and files(cache) == ["x.npz"]


def test_short_files_are_refused(remote, cache):
  remote.announced, remote.headers = 10, {}
  fails(remote, "(the connection ended after 1,000,000 of 1,000,010 bytes)")
  assert not files(cache)


@pytest.mark.parametrize("status", [403, 404])
def test_a_final_answer_is_not_asked_for_again(remote, cache, status):
  remote.statuses = [status] * 9
  fails(remote, f"HTTP {status}")
  assert len(remote.log) == 1 and not files(cache)


def test_a_busy_server_is_asked_again(remote):
  remote.statuses = [503, 429]
  assert download.fetch(f"{remote.address}/x.npz").read_bytes() == BODY
  remote.statuses = [503] * 9
  with pytest.raises(UserError, match="HTTP 503"):
    download.fetch(f"{remote.address}/y.npz")


def test_a_web_page_is_no_weights(remote, cache):
  remote.headers = {"Content-Type": "text/html; charset=utf-8"}
  fails(remote, "web page")
  assert not files(cache)


def test_without_a_network_the_error_comes_at_once(cache, caplog):
  with pytest.raises(
    UserError, match=r"^http://127.0.0.1:9/x.npz cannot be downloaded \(Connection"
  ):
    download.fetch("http://127.0.0.1:9/x.npz")
  assert not caplog.messages and not files(cache.with_name("127.0.0.1:9"))


def test_a_network_that_was_there_is_waited_for(remote, monkeypatch):
  remote.cuts = [600_000]
  errors = [None, urllib.error.URLError(OSError(101, "Network is unreachable")), None]
  opened = urllib.request.OpenerDirector.open

  def flaky(*args, **kwargs):
    if error := errors.pop(0):
      raise error
    return opened(*args, **kwargs)

  monkeypatch.setattr(urllib.request.OpenerDirector, "open", flaky)
  assert download.fetch(f"{remote.address}/x.npz").read_bytes() == BODY
  assert not errors and statuses(remote) == [200, 206]


class Plain(http.client.HTTPConnection):
  """An https connection without encryption, to a server that has none."""

  def __init__(self, host, **arguments):
    del arguments["context"]
    super().__init__(host, timeout=arguments["timeout"])


@pytest.mark.parametrize(
  "hops", [["http://{}"], ["https://{}", "http://{}"], ["/y.npz", "http://{}"]]
)
def test_https_is_not_left_for_http(remote, cache, hops, monkeypatch):
  monkeypatch.setattr(http.client, "HTTPSConnection", Plain)
  host = remote.address.removeprefix("http://")
  address = f"https://{host}/x.npz"
  remote.locations = [f"{hop.format(host)}/x.npz" for hop in hops]
  with pytest.raises(
    UserError, match=r"cannot be downloaded .it redirects from https to http, which"
  ):
    download.fetch(address)
  assert not files(cache) and not remote.log
  remote.locations = ["/y.npz", f"https://{host}/z.npz"]  # Others are followed.
  assert download.fetch(address).read_bytes() == BODY
  remote.locations = [f"{remote.address}/y.npz", f"https://{host}/z.npz"]
  assert download.fetch(f"http://{host}/http.npz").read_bytes() == BODY


@pytest.mark.parametrize("location, why", [
  ("file:///etc/hostname", "from http to file"), ("ftp://127.0.0.1/x", "from http to ftp"),
  ("data:text/plain,x", "from http to data"), ("//u:hunter2@127.0.0.1/x", "no valid address"),
  ("http://[/x", "no valid address"), ("/x.npz", "in a circle"), ("", "to no address"),
])  # fmt: skip
def test_redirects_elsewhere_are_refused(remote, cache, location, why, monkeypatch):
  remote.locations = [location] * 99
  fails(remote, why)
  assert not files(cache) and len(remote.authorizations) < 20


def test_a_password_is_not_handed_on(remote):
  with serve() as second:
    remote.locations = [f"{second.address}/x.npz"]
    path = download.fetch(remote.address.replace("://", "://me:hunter2@") + "/x.npz")
    assert path.read_bytes() == BODY
    assert remote.authorizations[0] and second.authorizations == [None]


def containers(tmp_path):
  """A file of each container that tells its own end."""
  array = np.arange(9000, dtype=np.float32)
  np.savez(tmp_path / "x.npz", a=array, b=array)
  safetensors.numpy.save_file({"a": array, "b": array}, tmp_path / "x.safetensors")
  torch.save({"a": torch.from_numpy(array)}, tmp_path / "x.pth")
  return [(tmp_path / f"x{suffix}").read_bytes() for suffix in (".npz", ".safetensors", ".pth")]


@pytest.mark.parametrize("headers", [{}, {"ETag": '"one"'}])
@pytest.mark.parametrize("kind", [0, 1, 2])
def test_without_a_length_a_file_tells_its_own_end(remote, cache, tmp_path, kind, headers):
  remote.framing, remote.headers, remote.body = "close", headers, containers(tmp_path)[kind]
  size = len(remote.body)
  for kept in (5, 300, 20_000, size - 30, size - 1):
    remote.cuts = [kept, *[0] * 9]
    fails(remote)
    assert "x.npz" not in files(cache)
    remote.cuts = []
    for part in cache.iterdir():
      part.unlink()
  remote.cuts = [20_000]
  assert download.fetch(f"{remote.address}/x.npz").read_bytes() == remote.body
  assert statuses(remote)[-2:] == [200, 206 if headers else 200]


def test_without_a_length_or_an_end_only_a_digest_proves_a_file(remote, cache):
  remote.framing = "close"
  fails(remote, "the server tells no length, so a cut file could not be told")
  assert not files(cache)
  digest = "sha256:" + hashlib.sha256(BODY).hexdigest()
  remote.cuts = [600_000]
  path = download.fetch(f"{remote.address}/x.npz", digest)
  assert path.read_bytes() == BODY and len(remote.log) == 3
  remote.headers = {"x-goog-hash": google(BODY)}
  assert download.fetch(f"{remote.address}/y.npz").read_bytes() == BODY


def test_chunks_that_are_cut_are_told(remote, cache):
  remote.framing, remote.cuts = "chunked", [600_000, *[0] * 9]
  fails(remote, "IncompleteRead")
  assert "x.npz" not in files(cache)
  remote.cuts = []
  assert download.fetch(f"{remote.address}/x.npz").read_bytes() == BODY


def google(body):
  return "crc32c=AAAAAA==,md5=" + base64.b64encode(hashlib.md5(body).digest()).decode()


def test_googles_md5_is_verified(remote, cache):
  remote.headers = {"x-goog-hash": google(OTHER)}
  md5 = [hashlib.md5(body).hexdigest() for body in (BODY, OTHER)]
  fails(remote, f"its md5 is {md5[0]}, not {md5[1]}")
  assert not files(cache) and len(remote.log) == 1
  # The sum of a file that is stored packed and sent unpacked is not that of these bytes.
  remote.headers["x-goog-stored-content-encoding"] = "gzip"
  assert download.fetch(f"{remote.address}/x.npz").read_bytes() == BODY
  remote.headers = {"x-goog-hash": google(BODY)}
  assert download.fetch(f"{remote.address}/y.npz").read_bytes() == BODY


def test_damaged_bytes_of_an_earlier_run_are_fetched_again(remote, cache):
  remote.headers = {"ETag": '"1"', "x-goog-hash": google(BODY)}
  interrupted(remote, 600_000)
  part = cache / "x.npz.part"
  part.write_bytes(bytes(part.stat().st_size))
  remote.log.clear()
  del remote.headers["x-goog-hash"]  # It came with the first answer.
  assert download.fetch(f"{remote.address}/x.npz").read_bytes() == BODY
  assert statuses(remote) == [206, 200]


def test_what_a_power_cut_leaves_is_not_trusted(remote, cache):
  cache.mkdir(parents=True)
  for name in ("x.npz.part", "x.npz.lock"):
    (cache / name).write_bytes(bytes(600))
  assert download.fetch(f"{remote.address}/x.npz").read_bytes() == BODY
  assert remote.log == [("/x.npz", None, 200, len(BODY))]
  assert files(cache) == ["x.npz"]


def test_processes_fetch_a_file_once(remote, cache):
  remote.cuts, remote.held = [600_000], threading.Event()
  first = child(remote)
  wait_for(lambda: remote.log)
  second, third = child(remote), child(remote, "md5:00000000")
  for process in (second, third):
    told = process.stderr.readline()
    assert told == "Another process is downloading x.npz; waiting for it.\n"
    assert process.poll() is None and not (cache / "x.npz").exists()
  remote.held.set()
  for process in (first, second):
    assert process.communicate(timeout=20) == (f"{cache / 'x.npz'}\n", "")
  # The one that wants another file does not take it.
  assert f"UserError: {cache / 'x.npz'} is another file than" in third.communicate(timeout=20)[1]
  assert len(remote.log) == 1 and (cache / "x.npz").read_bytes() == BODY
  assert files(cache) == ["x.npz"]


def test_one_that_waits_takes_over_from_one_that_is_killed(remote, cache):
  remote.cuts, remote.held = [900_000], threading.Event()
  first = child(remote)
  wait_for(lambda: (cache / "x.npz.part").exists() and (cache / "x.npz.part").stat().st_size > 5e5)
  second = child(remote)
  assert "waiting" in second.stderr.readline()
  first.kill()
  first.communicate()
  assert second.communicate(timeout=20) == (f"{cache / 'x.npz'}\n", "")
  assert (cache / "x.npz").read_bytes() == BODY and files(cache) == ["x.npz"]
  _, asked, status, sent = remote.log[1]
  assert len(remote.log) == 2 and status == 206
  assert sent < 5e5 and asked == f"bytes={len(BODY) - sent}-"


@pytest.mark.parametrize("missing", ["module", "support"])
def test_without_locks_every_process_has_a_file_of_its_own(remote, cache, missing, monkeypatch):
  if missing == "module":
    monkeypatch.setattr(transfer, "fcntl", None)
  else:
    monkeypatch.setattr(
      transfer.fcntl, "flock", lambda *_: (_ for _ in ()).throw(OSError(95, "no"))
    )
  remote.cuts, remote.held = [600_000, 600_000], threading.Event()
  threads = [threading.Thread(target=download.fetch, args=[f"{remote.address}/x.npz"])
             for _ in range(2)]  # fmt: skip
  for thread in threads:
    thread.start()
  wait_for(lambda: len(remote.log) == 2 and sum(".part." in name for name in files(cache)) == 2)
  remote.held.set()
  for thread in threads:
    thread.join(20)
  assert (cache / "x.npz").read_bytes() == BODY
  assert [name for name in files(cache) if ".part" in name] == []


def test_a_full_disk_is_not_taken_for_a_broken_network(remote, cache, monkeypatch):
  def full(_):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(os, "fsync", full)
  with pytest.raises(UserError, match=r"x.npz cannot be written \(No space left on device\); make"):
    download.fetch(f"{remote.address}/x.npz")
  assert len(remote.log) == 1 and not (cache / "x.npz").exists()


def test_a_lock_is_given_back_if_what_it_guards_cannot_be_read(tmp_path, monkeypatch):
  def broken(self, path, state):
    raise OSError(errno.EIO, "Input/output error")

  monkeypatch.setattr(transfer._Partial, "__init__", broken)
  with pytest.raises(OSError, match="Input/output") as caught, transfer._Partial.of(tmp_path / "a"):
    pass
  with open(tmp_path / "a.lock") as lock:  # While the error's frames still live.
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
  assert caught.value.errno == errno.EIO
