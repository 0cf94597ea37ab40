# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
