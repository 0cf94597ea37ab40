# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics

from vit_jax.data import transforms
from vit_jax.data.sources import ArraySource
from vit_jax.errors import UserError
from vit_jax.evaluation.classification import Evaluator, evaluate, make_eval_step

CLASSES = 7


class Pixels(nn.Module):
  """Its logits are the image's first pixels, so that a test can choose them."""

  classes: int = CLASSES

  @nn.compact
  def __call__(self, images, train=False):
    assert not train
    return images.reshape(images.shape[0], -1)[:, : self.classes] * 4


def _data(examples):
  rng = np.random.default_rng(0)
  return (
    rng.integers(256, size=(examples, 3, 3, 1), dtype=np.uint8),
    rng.integers(CLASSES, size=examples).astype(np.int32),
  )


def _batches(images, labels, size):
  for start in range(0, len(images), size):
    part = slice(start, start + size)
    missing = size - len(images[part])
    pad = [(0, missing), (0, 0), (0, 0), (0, 0)]
    yield {
      # Padding of 255 and label 0: wrong if it is counted, as is its loss.
      "image": np.pad(images[part], pad, constant_values=255),
      "label": np.pad(labels[part], (0, missing)),
      "mask": np.pad(np.ones(size - missing, np.float32), (0, missing)),
    }


@pytest.mark.parametrize("examples, size", [(50, 16), (48, 16), (5, 16), (1, 1)])
def test_counts_every_example_once(examples, size):
  images, labels = _data(examples)
  step = make_eval_step(Pixels(), mean=(0.5,), std=(0.5,))
  result = evaluate(step, {}, _batches(images, labels, size))

  logits = (images.reshape(examples, -1)[:, :CLASSES] / 127.5 - 1.0) * 4
  all_classes = np.arange(CLASSES)
  probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  assert result["examples"] == examples
  assert result["accuracy"] == pytest.approx(np.mean(logits.argmax(-1) == labels))
  top5 = metrics.top_k_accuracy_score(labels, logits, k=5, labels=all_classes)
  assert result["top5"] == pytest.approx(top5)
  expected = metrics.log_loss(labels, probabilities, labels=all_classes)
  assert result["loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("classes", [1, 2, 5, 6, 7])
def test_top5_is_left_out_where_it_is_always_one(classes):
  images, labels = _data(20)
  step = make_eval_step(Pixels(classes=classes), mean=(0.5,), std=(0.5,))
  result = evaluate(step, {}, _batches(images, labels % classes, 8))
  assert set(result) - {"top5"} == {"accuracy", "loss", "examples"}
  assert ("top5" in result) == (classes > 5)


def test_top5_is_left_out_of_a_part_of_the_classes():
  images, labels = _data(20)
  step = make_eval_step(Pixels(), mean=(0.5,), std=(0.5,), classes=(6, 2, 4, 1, 0))
  assert "top5" not in evaluate(step, {}, _batches(images, labels % 5, 8))


class Constant(nn.Module):
  logits: tuple[float, ...]

  @nn.compact
  def __call__(self, images, train=False):
    return jnp.tile(jnp.array(self.logits), (images.shape[0], 1))


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
  "logits, first, five",  # The classes that are right, and those that count for top-5.
  [
    ((1, 1, 1, 1, 1, 1, 1), {0}, {0, 1, 2, 3, 4}),
    ((0, 3, 2, 3, 1, 2, 2), {1}, {1, 3, 2, 5, 6}),
    ((6, 5, 4, 3, 2, 2, 2), {0}, {0, 1, 2, 3, 4}),
    ((0.0, -0.0, -1, -1, -1, -1, -1), {0}, {0, 1, 2, 3, 4}),
    # A NaN leaves no order, be it the label's logit or another.
    ((NAN,) * 7, set(), set()),
    ((9, 8, 7, 6, 5, 4, NAN), set(), set()),
    ((NAN, 8, 7, 6, 5, 4, 3), set(), set()),
    # Infinity has its place in the order.
    ((0, 1, INF, 2, -INF, 3, 4), {2}, {2, 6, 5, 3, 1}),
    ((INF, 1, INF, -INF, -INF, -INF, -INF), {0}, {0, 2, 1, 3, 4}),
    ((-INF,) * 7, {0}, {0, 1, 2, 3, 4}),
    ((INF,) * 7, {0}, {0, 1, 2, 3, 4}),
  ],
)
def test_ties_nan_and_infinity_by_hand(logits, first, five):
  images, _ = _data(1)
  step = make_eval_step(Constant(tuple(map(float, logits))), mean=(0.5,), std=(0.5,))
  results = {
    label: evaluate(step, {}, _batches(images, np.array([label], np.int32), 1))
    for label in range(CLASSES)
  }
  assert {label for label, r in results.items() if r["accuracy"] == 1} == first
  assert {label for label, r in results.items() if r["top5"] == 1} == five
  assert all(r["examples"] == 1 for r in results.values())


def test_evaluator_reads_whole_splits_in_batches_that_fit_the_largest():
  images, labels = _data(50)
  ids = [str(i) for i in range(50)]
  spec = transforms.Preprocessing(crop=3, channels=1, train_crop="none", mean=(0.5,), std=(0.5,))
  evaluator = Evaluator(
    Pixels(),
    {
      "val": ArraySource(images[:9], labels[:9], ids[:9]),
      "test": ArraySource(images, labels, ids),
      "other": None,
    },
    spec,
    batch=32,
  )
  assert "val" in evaluator and "other" not in evaluator
  step = make_eval_step(Pixels(), mean=(0.5,), std=(0.5,))
  assert evaluator("test", {}) == evaluate(step, {}, _batches(images, labels, 32))
  assert evaluator("val", {})["examples"] == 9
  logits = images.reshape(50, -1)[:, :CLASSES]
  np.testing.assert_array_equal(evaluator.right("test", {}), logits.argmax(-1) == labels)


def test_nothing_to_evaluate():
  step = make_eval_step(Pixels(), mean=(0.5,), std=(0.5,))
  with pytest.raises(UserError, match="no example"):
    evaluate(step, {}, [])
