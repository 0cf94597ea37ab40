# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Fetches weights once: https and gs:// addresses into a cache directory, local paths untouched.

The environment decides how:

  VIT_JAX_CACHE    the cache directory; else `vit_jax` in `$XDG_CACHE_HOME` (`~/.cache`). A file can
                   be put there by hand; the error of a failed download names the place.
  VIT_JAX_OFFLINE  1: never use the network, only the cache.
  VIT_JAX_MIRROR   an address that stands in for https://storage.googleapis.com, also for gs://
                   (`https://host/path` serves gs://bucket/file as https://host/path/bucket/file).
                   The place in the cache stays that of the original address.
"""

import hashlib
import os
import re
import urllib.parse
from pathlib import Path

from vit_jax.checkpoints import transfer
from vit_jax.errors import UserError

# Public buckets answer here without credentials.
GCS_ENDPOINT = "https://storage.googleapis.com/"
# As torch.hub names files: -1234abcd.pth is the start of their sha256. All in decimal it is rather
# a date, or the number of a step.
HUB_DIGEST = re.compile(r"-(?=\d*[a-f])([0-9a-f]{8,64})\.(pth|pt|bin|ckpt)(\.tar)?$")


def cache_dir() -> Path:
  """The directory that downloads are kept in."""
  if os.environ.get("VIT_JAX_CACHE"):
    return Path(os.environ["VIT_JAX_CACHE"]).expanduser()
  base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
  return Path(base).expanduser() / "vit_jax"


def to_https(address: str) -> str:
  """`gs://bucket/file` as its public https address; others as they are."""
  if not address.lower().startswith("gs://"):
    return address
  return GCS_ENDPOINT + urllib.parse.quote(address[5:], safe="/+")


def is_address(source: str | os.PathLike) -> bool:
  """Whether `source` has to be fetched, as opposed to a local path."""
  return str(source).lower().startswith(("https://", "http://", "gs://"))


def cached_path(address: str) -> Path:
  """Where the cache keeps the file of an address: by host, port and path.

  Raises:
    UserError: the address has no host or no file.
  """
  try:
    parsed = urllib.parse.urlsplit(to_https(address))
    host, port = parsed.hostname, parsed.port
  except ValueError:  # Brackets that hold no IPv6 address, or a port that is no number.
    parsed, host = urllib.parse.urlsplit(""), None
  parts = [p for p in urllib.parse.unquote(parsed.path).split("/") if p not in ("", ".", "..")]
  if not host or not parts:
    # What cannot be parsed is not shown: a password may be anywhere in it.
    shown = transfer.without_secrets(address) if host else address.partition("://")[0] + "://..."
    raise UserError(f"{shown} names no file; pass an address like https://host/path/weights.npz.")
  if port not in (None, {"https": 443, "http": 80}.get(parsed.scheme)):
    host = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
  # Secrets are told apart without standing in a file's name.
  hashed = lambda value: hashlib.sha256(value.encode()).hexdigest()[:8]
  if query := urllib.parse.urlsplit(transfer.without_secrets(parsed.geturl(), hashed)).query:
    parts[-1] += "?" + urllib.parse.quote(query, safe="=&")
  return cache_dir().joinpath(host, *parts)


def fetch(source: str | os.PathLike, checksum: str | None = None) -> Path:
  """Returns a local file for a path or address, downloading it at most once.

  A connection that is cut is taken up again where it broke; processes that want the same file wait
  for the first one. Downloads are verified by their length, by the MD5 that Google's storage sends
  along, and by the digest in a name like torch.hub's. A user and password in an address are sent to
  its host, and are never shown.

  Args:
    source: a local path, or an https://, http:// or gs:// address.
    checksum: "sha256:..." or "md5:..." of the file in hexadecimal, at least its first 8 digits
      cached files and local paths are held to it too. None: the one in an address's file name.

  Raises:
    UserError: the address cannot be fetched, and which place a copy made by hand belongs in; or
      the file does not have this checksum.
  """
  if checksum is not None and not re.fullmatch(r"(sha256|md5):[0-9a-fA-F]{8,64}", checksum):
    raise UserError(f"checksum={checksum!r} is not understood; pass 'sha256:...' or 'md5:...'.")
  if not is_address(source):
    return transfer.verified(Path(source).expanduser(), checksum)
  address, target = str(source), cached_path(str(source))
  url = _mirrored(to_https(address))
  if checksum is None and (
    digest := HUB_DIGEST.search(urllib.parse.urlsplit(to_https(address)).path)
  ):
    checksum = f"sha256:{digest[1]}"
  try:
    if target.is_file():
      return transfer.verified(target, checksum)
    if os.environ.get("VIT_JAX_OFFLINE", "").lower() not in ("", "0", "false", "no"):
      raise UserError(
        f"{transfer.without_secrets(address)} is not in the cache and VIT_JAX_OFFLINE forbids to "
        f"fetch it; put the file at {target} or unset VIT_JAX_OFFLINE."
      )
    target.parent.mkdir(parents=True, exist_ok=True)
    transfer.bring(url, target, checksum)
  except OSError as error:
    raise UserError(
      f"{target} cannot be written ({error.strerror or error}); make room for it, "
      f"or set VIT_JAX_CACHE to another directory."
    ) from error
  return target


def _mirrored(url: str) -> str:
  mirror = os.environ.get("VIT_JAX_MIRROR")
  if mirror and not mirror.startswith(("https://", "http://")):
    shown = transfer.without_secrets(mirror)
    raise UserError(f"VIT_JAX_MIRROR={shown} is no address; set one like https://host/path.")
  if mirror and url.startswith(GCS_ENDPOINT):
    url = mirror.rstrip("/") + "/" + url.removeprefix(GCS_ENDPOINT)
  # Spaces and letters beyond ASCII have to be escaped; what already is stays.
  return urllib.parse.quote(url, safe="%/:=&?~#+!$,;'@()*[]")
