# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A server to fetch from, and an empty cache to fetch into."""

import pytest
from remote import serve

from vit_jax.checkpoints import transfer


@pytest.fixture
def remote():
  """A local server; see remote.Remote."""
  with serve() as server:
    yield server


@pytest.fixture
def cache(remote, tmp_path, monkeypatch):
  """The directory that the server's files arrive in."""
  for name in ("VIT_JAX_OFFLINE", "VIT_JAX_MIRROR"):
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setenv("VIT_JAX_CACHE", str(tmp_path / "cache"))
  monkeypatch.setattr(transfer, "BACKOFF_SECONDS", (0, 0, 0))
  return tmp_path / "cache" / remote.address.removeprefix("http://")
