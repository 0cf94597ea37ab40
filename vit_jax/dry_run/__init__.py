# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What a run will need, before it has its machine: the real step, compiled for chips not here."""
