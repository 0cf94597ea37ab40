# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Fetches weights once: https and gs:// addresses into a cache directory, local paths untouched.

The cache is `$VIT_JAX_CACHE`, or `vit_jax` in `$XDG_CACHE_HOME` (`~/.cache`). A file can be put
there by hand; the error of a failed download names the place.
"""

import http.client
import os
import shutil
import sys
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import rich.console
import rich.progress

from vit_jax.checkpoints.npz import atomic
from vit_jax.errors import UserError

# Public buckets answer here without credentials.
GCS_ENDPOINT = "https://storage.googleapis.com/"
TIMEOUT_SECONDS = 60


def cache_dir() -> Path:
  """The directory that downloads are kept in."""
  if os.environ.get("VIT_JAX_CACHE"):
    return Path(os.environ["VIT_JAX_CACHE"]).expanduser()
  base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
  return Path(base).expanduser() / "vit_jax"


def to_https(address: str) -> str:
  """`gs://bucket/file` as its public https address; others as they are."""
  return GCS_ENDPOINT + address[5:] if address.startswith("gs://") else address


def is_address(source: str | os.PathLike) -> bool:
  """Whether `source` has to be fetched, as opposed to a local path."""
  return str(source).startswith(("https://", "http://", "gs://"))


def cached_path(address: str) -> Path:
  """Where the cache keeps the file of an address: by host and path."""
  parsed = urllib.parse.urlsplit(to_https(address))
  parts = [p for p in urllib.parse.unquote(parsed.path).split("/") if p not in ("", ".", "..")]
  if not parsed.hostname or not parts:
    raise UserError(f"{address} names no file; pass an address like https://host/path/weights.npz.")
  if parsed.query:
    parts[-1] += "?" + urllib.parse.quote(parsed.query, safe="=&")
  return cache_dir().joinpath(parsed.hostname, *parts)


def fetch(source: str | os.PathLike) -> Path:
  """Returns a local file for a path or address, downloading it at most once.

  Args:
    source: a local path, or an https://, http:// or gs:// address.

  Raises:
    UserError: the address cannot be fetched; it names the place for a copy made by hand.
  """
  if not is_address(source):
    return Path(source).expanduser()
  address = str(source)
  target = cached_path(address)
  if target.exists():
    return target
  try:
    target.parent.mkdir(parents=True, exist_ok=True)
    with (
      urllib.request.urlopen(to_https(address), timeout=TIMEOUT_SECONDS) as response,
      atomic(target) as temporary,
    ):
      size = response.headers.get("Content-Length")
      total = int(size) if size else None
      _copy(response, temporary, target.name, total)
      # A connection that is cut looks like an end of file.
      received = os.path.getsize(temporary)
      if total is not None and received != total:
        raise http.client.IncompleteRead(b"", total - received)
  except (OSError, ValueError, http.client.HTTPException, UserError) as error:
    reason = getattr(error, "reason", None) or str(error) or type(error).__name__
    raise UserError(
      f"{to_https(address)} cannot be downloaded ({reason}); "
      f"fetch it elsewhere and put it at {target}."
    ) from error
  return target


def _copy(response, path: str, name: str, total: int | None) -> None:
  console = rich.console.Console(stderr=True)
  columns = (
    rich.progress.TextColumn("{task.description}"),
    rich.progress.BarColumn(),
    rich.progress.DownloadColumn(),
    rich.progress.TimeRemainingColumn(),
  )
  hidden = not sys.stderr.isatty()
  with (
    rich.progress.Progress(*columns, console=console, disable=hidden, transient=True) as progress,
    progress.wrap_file(response, total or 0, description=name) as reader,
    open(path, "wb") as file,
  ):
    shutil.copyfileobj(reader, file, 1 << 20)
