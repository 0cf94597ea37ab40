# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A run's directory: what it is, the steps that it has saved, and the images that it has seen."""
