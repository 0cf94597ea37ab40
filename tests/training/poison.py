# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Batches whose loss is not a number."""

import contextlib

import numpy as np
import tiny_run as tiny

from vit_jax.training import loop, stream


@contextlib.contextmanager
def poisoned(*batches):
  """The loss of these batches, by their number in the stream from 1, is not a number."""
  make_step, following = loop.make_planned_step, stream.Stream.__next__

  def make(plan, objective, *rest):
    def with_poison(params, collections, batch, *others):
      batch = dict(batch)
      poison = batch.pop("poison")
      loss, own = objective(params, collections, batch, *others)
      return loss + poison.mean(), own

    return make_step(plan, with_poison, *rest)

  def take(self):
    batch = dict(following(self))
    value = np.nan if self.position["taken"] in batches else 0.0
    return batch | {"poison": np.full(len(batch["label"]), value, np.float32)}

  with (
    tiny.changed(loop, "make_planned_step", make),
    tiny.changed(stream.Stream, "__next__", take),
  ):
    yield
