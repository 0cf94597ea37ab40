# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The command line: one file a subcommand, parsing only; the work is in the packages."""
