# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""DeiT, "Training data-efficient image transformers & distillation" (arXiv:2012.12877).

A DeiT without distillation is a ViT, and so is DeiT-III (arXiv:2204.07118) with its LayerScale.
With it there is a second token, whose head learns from a teacher: section 4.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.models.layers import capture
from vit_jax.models.vit import VisionTransformer


class DistilledVisionTransformer(VisionTransformer):
  """ViT with a distillation token. Maps images [batch, height, width, channels] to logits.

  Attributes:
    average_heads: whether the logits are the mean of both heads' [batch, classes], as in the
      paper's evaluation; else they stay apart, [batch, 2, classes]: of the class token, and of the
      distillation token.
    The others: see VisionTransformer; `classifier` is "token".
  """

  average_heads: bool = True

  def prefix_tokens(self) -> tuple[str, ...]:
    return ("cls", "dist")

  def classify(self, x: Float[Array, "b n d"], *, train: bool) -> Array:
    del train
    capture(self, "features", "representation", jnp.mean(x[:, :2], axis=1))
    if not self.num_classes:
      return jnp.mean(x[:, :2], axis=1)
    logits = [self.make_head("head")(x[:, 0]), self.make_head("head_dist")(x[:, 1])]
    logits = jnp.stack(logits, axis=1)
    return jnp.mean(logits, axis=1) if self.average_heads else logits
