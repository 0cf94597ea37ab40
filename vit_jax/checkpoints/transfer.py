# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Brings one file over HTTP, however often the connection breaks and whoever else wants it.

The file appears under its name only when it is complete and verified. Until then its bytes are in
`NAME.part` beside it, and `NAME.lock`, held by the process that downloads, says which version of
the remote file they belong to: a killed download goes on where it stopped, and a remote file that
has changed starts anew.
"""

import base64
import contextlib
import email.utils
import hashlib
import http.client
import io
import json
import logging
import os
import re
import secrets
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import rich.console
import rich.progress

from vit_jax.errors import UserError

try:
  import fcntl
except ImportError:  # Windows.
  fcntl = None

logger = logging.getLogger(__name__)

TIMEOUT_SECONDS = 60
BACKOFF_SECONDS = (1, 2, 4, 8)  # Between tries that bring nothing new; one that does starts over.
CHUNK_BYTES = 1 << 18
# Answers after which the same request may succeed; any other HTTP error is final.
PASSING_ERRORS = (408, 429, 500, 502, 503, 504)
# Parameters of a query whose values are as good as a password: X-Goog-Signature, access_token, ...
SECRET = re.compile(
  r"sig|token|key|secret|pass|pwd|cred|auth|jwt|session|policy|hmac", re.IGNORECASE
)


def without_secrets(url: str, instead: Callable[[str], str] = lambda value: "...") -> str:
  """An address that may be shown: no user, password or fragment, and no secret of the query.

  Args:
    url: any text.
    instead: what stands for the value of a secret parameter.
  """
  url, _, query = re.sub(r"(?<=://)[^/?#]*@", "", url).partition("#")[0].partition("?")
  parts = re.split(r"([&;])", query)
  for index, part in enumerate(parts):
    name, equals, value = part.partition("=")
    if equals and SECRET.search(urllib.parse.unquote(name)):
      parts[index] = f"{name}={instead(value)}"
  return url + ("?" + "".join(parts) if query else "")


def bring(url: str, target: Path, checksum: str | None) -> None:
  """Makes `target` the file at `url`, unless another process does so meanwhile.

  Args:
    url: an http or https address, escaped.
    target: a file in a directory that exists.
    checksum: "sha256:..." or "md5:..." in hexadecimal, which may be abbreviated.

  Raises:
    UserError: the file cannot be had, or is another one by its checksum.
    OSError: the disk refuses it.
  """
  with _Partial.of(target) as partial:
    if target.is_file():  # The process that held the lock has brought it.
      verified(target, checksum)
    else:
      _download(url, target, partial, checksum)


def verified(path: Path, checksum: str | None) -> Path:
  """Returns `path`, or raises a UserError if it does not have this checksum."""
  try:
    problem = _mismatch(path, checksum) if checksum else None
  except OSError as error:
    raise UserError(f"{path} cannot be read ({error.strerror or error}).") from error
  if problem:
    raise UserError(f"{path} is another file than asked for ({problem}); replace or delete it.")
  return path


def _mismatch(path: Path, checksum: str) -> str | None:
  """What is wrong if `path` does not have this checksum."""
  algorithm, expected = checksum.lower().split(":")
  with open(path, "rb") as file:
    digest = hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False))
  found = digest.hexdigest()
  return None if found.startswith(expected) else f"its {algorithm} is {found}, not {expected}"


class _Partial:
  """The bytes of a download so far, and which version of the remote file they belong to.

  Attributes:
    path: the file of bytes, absent if there are none.
    validator: the strong ETag or the Last-Modified date of that version; "" if it has none, and
      then its bytes are of no use to another try.
    checksum: "md5:..." of the whole file as its server sent it, or "".
  """

  def __init__(self, path: Path, state: IO[str]):
    self.path, self._state = path, state
    state.seek(0)
    self.validator, _, self.checksum = state.read().partition("\n")
    if not self.validator.isprintable():  # A power cut can leave zeros.
      self.validator = ""

  @classmethod
  @contextlib.contextmanager
  def of(cls, target: Path) -> Iterator["_Partial"]:
    """Yields what there is of `target`, for this process alone; keeps what can be resumed."""
    lock, path = (target.with_name(target.name + suffix) for suffix in (".lock", ".part"))
    state = _acquire(lock)
    with state or contextlib.nullcontext():
      if not state:  # Then a name that nobody else has keeps processes apart.
        path = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
      partial = cls(path, state or io.StringIO())
      try:
        yield partial
      finally:
        if not (state and partial.validator and partial.size):
          path.unlink(missing_ok=True)
          if state:  # Removed while held, so that whoever waits for it sees that it is gone.
            lock.unlink(missing_ok=True)

  @property
  def size(self) -> int:
    return self.path.stat().st_size if self.path.exists() else 0

  def begin(self, validator: str = "", checksum: str = "") -> None:
    """Forgets the bytes, then notes the version of those to come."""
    self.path.unlink(missing_ok=True)
    self.validator, self.checksum = validator, checksum
    self._state.seek(0)
    self._state.truncate()
    self._state.write(f"{validator}\n{checksum}")
    self._state.flush()


def _acquire(lock: Path) -> IO[str] | None:
  """Opens and locks a file, waiting for whoever has it; None where there are no locks.

  The lock is the operating system's, so it vanishes with its process.
  """
  told = False
  while fcntl:
    state = open(lock, "a+", encoding="ascii", errors="ignore")  # noqa: SIM115
    try:
      fcntl.flock(state, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      if not told:
        logger.warning("Another process is downloading %s; waiting for it.", lock.stem)
      told = True
      fcntl.flock(state, fcntl.LOCK_EX)
    except OSError:  # Some network file systems.
      state.close()
      return None
    # The holder before removes the file when done: a lock on a removed file protects nothing.
    with contextlib.suppress(FileNotFoundError):
      if os.path.samestat(os.fstat(state.fileno()), os.stat(lock)):
        return state
    state.close()
  return None


class _Failed(Exception):
  """A try that brought no file, why, and whether another try may."""

  def __init__(self, reason: object, again: bool):
    super().__init__(getattr(reason, "strerror", None) or str(reason) or type(reason).__name__)
    self.again = again


def _download(url: str, target: Path, partial: _Partial, checksum: str | None) -> None:
  """Brings the file at `url` to `target`; tries again while that may help."""
  shown = without_secrets(url)
  columns = (
    rich.progress.TextColumn("{task.description}"),
    rich.progress.BarColumn(),
    rich.progress.DownloadColumn(),
    rich.progress.TransferSpeedColumn(),
    rich.progress.TimeRemainingColumn(),
  )
  console, hidden = rich.console.Console(stderr=True), not sys.stderr.isatty()
  failures = farthest = 0
  with rich.progress.Progress(*columns, console=console, disable=hidden, transient=True) as bar:
    task = bar.add_task(target.name, total=None)
    while True:
      try:
        for size, total in _receive(url, partial, checksum, reached=failures > 0):
          bar.update(task, completed=size, total=total)
        break
      except _Failed as failed:
        if partial.size > farthest:
          failures, farthest = 0, partial.size
        if not failed.again or failures == len(BACKOFF_SECONDS):
          kept = partial.size if partial.validator else 0
          resume = f"run the same command to go on after {kept:,} bytes, or " if kept else ""
          raise UserError(
            f"{shown} cannot be downloaded ({failed}); "
            f"{resume}fetch it elsewhere and put it at {target}."
          ) from failed
        wait = BACKOFF_SECONDS[failures]
        failures += 1
        logger.warning("%s: %s; trying again in %g s.", shown, failed, wait)
        time.sleep(wait)
  os.replace(partial.path, target)
  logger.info("Downloaded %s to %s.", shown, target)


def _receive(
  url: str, partial: _Partial, checksum: str | None, *, reached: bool
) -> Iterator[tuple[int, int | None]]:
  """Adds to `partial` what one request brings; yields the bytes there are and those in all."""
  size = partial.size if partial.validator else 0
  headers = {"User-Agent": "vit_jax"}
  if size:
    headers |= {"Range": f"bytes={size}-", "If-Range": partial.validator}
  with _open(url, headers, reached) as response:
    resumed = response.status == 206 and _continues(response.headers, size, partial.validator)
    if not resumed and size and response.status in (206, 416):
      # The file is another one by now, of a server that does not heed If-Range: from zero.
      partial.begin()
      yield from _receive(url, partial, checksum, reached=True)
      return
    if not resumed and response.status != 200:
      raise _Failed(f"HTTP {response.status} {response.reason}", response.status in PASSING_ERRORS)
    if response.headers.get_content_type() == "text/html":
      raise _Failed("the answer is a web page", again=False)
    if resumed:
      logger.info("Resuming %s after %s bytes.", without_secrets(url), f"{size:,}")
    else:
      size = 0
      partial.begin(_validator(response.headers), _google_md5(response.headers))
    # Without a length, only chunks tell their end.
    total = None if response.length is None else size + response.length
    ends = total is not None or response.chunked
    with open(partial.path, "ab") as file:
      for chunk in _chunks(response):
        file.write(chunk)
        size += len(chunk)
        yield size, total
      file.flush()
      os.fsync(file.fileno())
  # A connection that is cut looks like an end of file.
  if total is not None and size != total:
    raise _Failed(f"the connection ended after {size:,} of {total:,} bytes", again=True)
  for expected in filter(None, (checksum, partial.checksum)):
    if problem := _mismatch(partial.path, expected):
      partial.begin()
      # The bytes from before may be the bad ones, and those to come were perhaps cut.
      raise _Failed(problem, again=resumed or not ends)
  if ends or checksum or partial.checksum or (whole := _is_whole(partial.path)):
    return
  if whole is None:
    partial.begin()
    raise _Failed("the server tells no length, so a cut file could not be told", again=False)
  raise _Failed(f"the connection ended after {size:,} bytes, before the file did", again=True)


def _is_whole(path: Path) -> bool | None:
  """Whether a zip archive or safetensors file is complete by its own account; None for others."""
  with open(path, "rb") as file:
    head = file.read(9)
    try:
      if head.startswith(b"PK"):
        with zipfile.ZipFile(file) as archive:  # Its directory is its end.
          return not min((info.header_offset for info in archive.infolist()), default=0)
      if head[8:] != b"{":
        return None
      length = int.from_bytes(head[:8], "little")
      file.seek(8)
      header = json.loads(file.read(min(length, path.stat().st_size)))
      ends = [value["data_offsets"][1] for name, value in header.items() if name != "__metadata__"]
      return path.stat().st_size == 8 + length + max(ends, default=0)
    except (zipfile.BadZipFile, ValueError, TypeError, LookupError, AttributeError, RuntimeError):
      return False


class _Redirects(urllib.request.HTTPRedirectHandler):
  """Follows http and https, but never from https to http, where anyone may change the file."""

  def http_error_302(self, request, response, code, message, headers):
    if location := headers.get("Location") or headers.get("URI"):
      old, new = (
        request.type,
        urllib.parse.urlsplit(urllib.parse.urljoin(request.full_url, location)),
      )
      if new.scheme not in ("http", "https") or (old, new.scheme) == ("https", "http"):
        raise _Failed(f"it redirects from {old} to {new.scheme}, which is not safe", again=False)
    return super().http_error_302(request, response, code, message, headers)

  http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


def _open(url: str, headers: dict[str, str], reached: bool) -> http.client.HTTPResponse:
  """The answer to a request, whatever its status, if it is no redirect."""
  try:
    parsed = urllib.parse.urlsplit(url)
    user, _, host = parsed.netloc.rpartition("@")
    request = urllib.request.Request(parsed._replace(netloc=host).geturl(), headers=headers)
    if user:  # Only for this host, not for one that it redirects to.
      encoded = base64.b64encode(urllib.parse.unquote(user).encode()).decode()
      request.add_unredirected_header("Authorization", f"Basic {encoded}")
    return urllib.request.build_opener(_Redirects).open(request, timeout=TIMEOUT_SECONDS)
  except urllib.error.HTTPError as error:
    if error.status in (301, 302, 303, 307, 308):
      raise _Failed("it redirects in a circle, or to no address", again=False) from error
    return error
  except urllib.error.URLError as error:
    # Without a network, waiting does not help; a connection that was there may come back.
    raise _Failed(error.reason, again=reached) from error
  except (ValueError, http.client.InvalidURL) as error:  # Whose texts quote the address.
    raise _Failed("it is, or redirects to, no valid address", again=False) from error
  except (OSError, http.client.HTTPException) as error:
    raise _Failed(error, again=True) from error


def _chunks(response: http.client.HTTPResponse) -> Iterator[bytes]:
  """The bytes of an answer; only here is an OSError the network's and not the disk's."""
  try:
    while chunk := response.read(CHUNK_BYTES):
      yield chunk
  except (OSError, http.client.HTTPException) as error:
    raise _Failed(error, again=True) from error


def _validator(headers: http.client.HTTPMessage) -> str:
  """What If-Range may name this version by (RFC 9110, section 13.1.5), or ""."""
  if etag := headers.get("ETag"):
    return etag if etag.startswith('"') else ""
  dates = [email.utils.parsedate_tz(headers.get(name, "")) for name in ("Last-Modified", "Date")]
  # A file of this very second may change again under the same date.
  strong = all(dates) and email.utils.mktime_tz(dates[0]) < email.utils.mktime_tz(dates[1])
  return headers["Last-Modified"] if strong else ""


def _continues(headers: http.client.HTTPMessage, size: int, validator: str) -> bool:
  """Whether a partial answer goes on after `size` bytes of the version of `validator`."""
  name = "ETag" if validator.startswith('"') else "Last-Modified"
  begins = headers.get("Content-Range", "").startswith(f"bytes {size}-")
  return bool(size) and begins and headers.get(name) in (None, validator)


def _google_md5(headers: http.client.HTTPMessage) -> str:
  """The "md5:..." that Google's storage sends for files that it does not unpack on the way."""
  found = re.search(r"md5=([A-Za-z0-9+/]{22}==)", ",".join(headers.get_all("x-goog-hash", ())))
  if not found or headers.get("x-goog-stored-content-encoding", "identity") != "identity":
    return ""
  return "md5:" + base64.b64decode(found[1]).hex()
