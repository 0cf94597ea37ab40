# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A local server that cuts, lies, changes and refuses, as servers do."""

import contextlib
import dataclasses
import http.server
import os
import re
import threading
from collections.abc import Iterator

import pytest

from vit_jax.checkpoints import download, transfer
from vit_jax.errors import UserError

OLD, NOW = "Mon, 01 Jan 2024 00:00:00 GMT", "Tue, 02 Jan 2024 00:00:00 GMT"
BODY = os.urandom(1_000_000)
OTHER = os.urandom(1_000_000)


@dataclasses.dataclass
class Remote:
  """What the server does; `log` has (path, Range header, status, bytes of the body sent).

  Attributes:
    framing: how an answer ends: "length", "chunked", or with the connection ("close").
    locations: where requests are redirected to, one for each.
    authorizations: the header of that name, of each request.
  """

  address: str
  body: bytes = BODY
  headers: dict = dataclasses.field(default_factory=lambda: {"ETag": '"one"'})
  cuts: list = dataclasses.field(default_factory=list)  # Bytes to send, one for each request.
  ranges: bool = True
  if_range: bool = True
  announced: int = 0  # Bytes that Content-Length promises beyond the body.
  statuses: list = dataclasses.field(default_factory=list)
  framing: str = "length"
  locations: list = dataclasses.field(default_factory=list)
  authorizations: list = dataclasses.field(default_factory=list)
  held: threading.Event | None = None  # After a cut's bytes, wait for it and send the rest.
  log: list = dataclasses.field(default_factory=list)


@contextlib.contextmanager
def serve() -> Iterator[Remote]:
  """A server at work; it does what the object says at the time of a request."""

  class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # Chunks belong to it.

    def do_GET(self):
      state.authorizations.append(self.headers.get("Authorization"))
      if state.locations:
        self.send_response_only(302)
        self.send_header("Location", state.locations.pop(0))
        self.send_header("Content-Length", "0")
        self.end_headers()
        return
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
      if state.framing == "length":
        self.send_header("Content-Length", str(len(body) + state.announced))
      elif state.framing == "chunked":
        self.send_header("Transfer-Encoding", "chunked")
      self.end_headers()
      if state.framing == "chunked":
        self.wfile.write(b"%x\r\n" % len(body) + body[:cut])
        self.wfile.write(b"" if body[cut:] else b"\r\n0\r\n\r\n")
        return
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
  remote.cuts = [size, *(0 for _ in transfer.BACKOFF_SECONDS)]
  fails(remote, f"ended after {size:,} of 1,000,000 bytes", *words)
  assert not remote.cuts
