# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Experiment configurations; each file's docstring gives its command and what to expect."""
