# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""`python -m vit_jax.main --config=... --workdir=...`: training as in the ancestor."""

import sys

from vit_jax.cli import app

if __name__ == "__main__":
  sys.exit(app.run("train", sys.argv[1:]))
