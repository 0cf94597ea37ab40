# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Downloads from a local server that cuts, lies, changes and refuses, as servers do."""

import base64
import dataclasses
import hashlib
import http.server
import io
import os
import re
import subprocess
import sys
import threading
import time

import pytest
from tiny import FIELDS, NAME, assert_equal, tiny

from vit_jax.checkpoints import download
from vit_jax.checkpoints.pretrained import from_pretrained, save_checkpoint
from vit_jax.errors import UserError

OLD, NOW = "Mon, 01 Jan 2024 00:00:00 GMT", "Tue, 02 Jan 2024 00:00:00 GMT"
BODY = os.urandom(1_000_000)
OTHER = os.urandom(1_000_000)


@dataclasses.dataclass
class Remote:
  """What the server does; `log` has (path, Range header, status, bytes of the body sent)."""

  address: str
  body: bytes = BODY
  headers: dict = dataclasses.field(default_factory=lambda: {"ETag": '"one"'})
  cuts: list = dataclasses.field(default_factory=list)  # Bytes to send, one for each request.
  ranges: bool = True
  if_range: bool = True
  announced: int = 0  # Bytes that Content-Length promises beyond the body.
  statuses: list = dataclasses.field(default_factory=list)
  held: threading.Event | None = None  # After a cut's bytes, wait for it and send the rest.
  log: list = dataclasses.field(default_factory=list)


@pytest.fixture
def remote():
  class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
      asked = self.headers.get("Range")
      first = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked else 0
      versions = (state.headers.get("ETag"), state.headers.get("Last-Modified"))
      if not state.ranges or (state.if_range and self.headers.get("If-Range") not in versions):
        first = 0
      status = state.statuses.pop(0) if state.statuses else 206 if first else 200
      if first >= len(state.body):
        status = 416
      body = state.body[first:] if status in (200, 206) else b""
      cut = state.cuts.pop(0) if state.cuts else len(body)
      state.log.append((self.path, asked, status, len(body[:cut])))
      self.send_response_only(status)
      for name, value in {"Date": NOW, **state.headers}.items():
        self.send_header(name, value)
      if status == 206:
        self.send_header("Content-Range", f"bytes {first}-{len(state.body) - 1}/{len(state.body)}")
      self.send_header("Content-Length", str(len(body) + state.announced))
      self.end_headers()
      self.wfile.write(body[:cut])
      if state.held and body[cut:]:
        state.held.wait(30)
        self.wfile.write(body[cut:])

    def log_message(self, *args):
      pass

  with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
    server.handle_error = lambda *args: None  # The killed client's broken pipe.
    state = Remote(f"http://127.0.0.1:{server.server_port}")
    threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
    yield state
    if state.held:
      state.held.set()
    server.shutdown()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
  """The directory that the server's files arrive in."""
  for name in ("VIT_JAX_OFFLINE", "VIT_JAX_MIRROR"):
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setenv("VIT_JAX_CACHE", str(tmp_path / "cache"))
  monkeypatch.setattr(download, "BACKOFF_SECONDS", (0, 0, 0))
  return tmp_path / "cache" / "127.0.0.1"


def files(cache):
  return sorted(path.name for path in cache.iterdir())


def statuses(remote):
  return [status for _, _, status, _ in remote.log]


def fails(remote, *words, **kwargs):
  """Asserts that x.npz cannot be fetched, and that the error is one sentence with these words."""
  with pytest.raises(UserError) as caught:
    download.fetch(f"{remote.address}/x.npz", **kwargs)
  message = str(caught.value)
  assert message.startswith(f"{remote.address}/x.npz cannot be downloaded (")
  place = download.cached_path(f"{remote.address}/x.npz")
  assert message.endswith(f"fetch it elsewhere and put it at {place}.") and "\n" not in message
  assert not place.exists()
  for word in words:
    assert word in message


def interrupted(remote, size, *words):
  """A run that gives up after `size` bytes, as its error says."""
  remote.cuts = [size, *(0 for _ in download.BACKOFF_SECONDS)]
  fails(remote, f"ended after {size:,} of 1,000,000 bytes", *words)
  assert not remote.cuts


def child(remote):
  code = "import sys; from vit_jax.checkpoints import download; print(download.fetch(sys.argv[1]))"
  command = [sys.executable, "-c", code, f"{remote.address}/x.npz"]
  return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(condition):
  deadline = time.monotonic() + 20
  while not condition():
    assert time.monotonic() < deadline
    time.sleep(0.01)


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


def test_without_a_network_the_error_comes_at_once(cache, monkeypatch):
  monkeypatch.setattr(download, "BACKOFF_SECONDS", (60,))
  with pytest.raises(
    UserError, match=r"^http://127.0.0.1:9/x.npz cannot be downloaded \(Connection"
  ):
    download.fetch("http://127.0.0.1:9/x.npz")
  assert not files(cache)


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


def test_two_processes_fetch_a_file_once(remote, cache):
  remote.cuts, remote.held = [600_000], threading.Event()
  first = child(remote)
  wait_for(lambda: remote.log)
  second = child(remote)
  told = second.stderr.readline()
  assert told == "Another process is downloading x.npz; waiting for it.\n"
  assert second.poll() is None and not (cache / "x.npz").exists()
  remote.held.set()
  for process in (first, second):
    assert process.communicate(timeout=20) == (f"{cache / 'x.npz'}\n", "")
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
    monkeypatch.setattr(download, "fcntl", None)
  else:
    monkeypatch.setattr(
      download.fcntl, "flock", lambda *_: (_ for _ in ()).throw(OSError(95, "no"))
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


def test_a_cache_that_cannot_be_written_is_named(remote, cache):
  cache.parent.mkdir()
  cache.write_text("a file where the directory should be")
  with pytest.raises(UserError, match=r"x.npz cannot be written .*; make room .* VIT_JAX_CACHE"):
    download.fetch(f"{remote.address}/x.npz")


def test_a_full_disk_is_not_taken_for_a_broken_network(remote, cache, monkeypatch):
  def full(_):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(os, "fsync", full)
  with pytest.raises(UserError, match=r"x.npz cannot be written \(No space left on device\); make"):
    download.fetch(f"{remote.address}/x.npz")
  assert len(remote.log) == 1 and not (cache / "x.npz").exists()


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
