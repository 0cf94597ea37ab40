# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The ancestor's numbers: resized position embeddings, preprocessing, learning rates."""

import math

import ancestor_facts as facts
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

import vit_jax
from vit_jax.data import transforms
from vit_jax.data.text import make_tokenizer
from vit_jax.errors import UserError
from vit_jax.training import optim, plan

POSITIONS = "posembed_input"


# checkpoint.py: the grid is zoomed with order=1, the class token stays.


def zoomed(table, old, new, tokens):
  """[1, tokens + old * old, dim] -> [1, tokens + new * new, dim]."""
  grid = table[0, tokens:].reshape(old, old, -1)
  grid = scipy.ndimage.zoom(grid, (new / old, new / old, 1), order=1)
  return np.concatenate([table[:, :tokens], grid.reshape(1, new * new, -1)], axis=1)


@pytest.mark.parametrize("classifier, tokens", [("token", 1), ("gap", 0)])
@pytest.mark.parametrize("old, new", [(1, 2), (1, 14), (14, 24), (24, 14), (7, 12), (14, 14)])
def test_positions_are_zoomed_and_the_head_is_fresh(tmp_path, classifier, tokens, old, new):
  """Their test fine-tunes a `testing` of 16 pixels, whose grid is one token, at 32."""
  model = vit_jax.create_model("testing", num_classes=3, classifier=classifier)
  noise = np.random.default_rng(0)
  images = jax.ShapeDtypeStruct((1, 16 * old, 16 * old, 3), jnp.float32)
  shapes = jax.eval_shape(model.init, jax.random.key(0), images)
  draw = lambda x: noise.normal(size=x.shape).astype(np.float32)
  variables = jax.tree.map(draw, shapes)
  path = tmp_path / "testing.npz"
  vit_jax.save_checkpoint(path, model, variables, image_size=16 * old)
  size = 16 * new
  _, found = vit_jax.from_pretrained(
    "testing", path, num_classes=2, image_size=size, classifier=classifier
  )
  before, after = variables["params"], found["params"]
  table = before["Transformer"][POSITIONS]["pos_embedding"]
  expected = zoomed(table, old, new, tokens)
  theirs = after["Transformer"][POSITIONS]["pos_embedding"]
  assert theirs.shape == expected.shape
  np.testing.assert_allclose(theirs, expected, rtol=1e-6, atol=1e-6)
  assert after["head"]["kernel"].shape == (10, 2) and not np.any(after["head"]["kernel"])
  for path, leaf in jax.tree_util.tree_leaves_with_path(before):
    if POSITIONS not in (keys := [key.key for key in path]) and "head" not in keys:
      np.testing.assert_array_equal(leaf, at(after, keys))


def at(tree, keys):
  for key in keys:
    tree = tree[key]
  return np.asarray(tree)


# preprocess_test.py: rows of tokens, and images with a black border.


def test_rows_of_bert(tmp_path):
  """Three tokens: [CLS], a word, padding; a word that is unknown is the id after the last."""
  vocabulary = tmp_path / "vocab.txt"
  words = ["some", "test", "words", "xxx"]
  rows = [[1, 2, 0], [1, 3, 0], [1, 4, 0], [1, 5, 0]]
  # TensorFlow makes up an id for what is unknown; by design ours asks for a line that says it.
  vocabulary.write_text("[PAD]\n[CLS]\nsome\ntest\nwords")
  with pytest.raises(UserError, match=r"has no line \[UNK\]"):
    make_tokenizer("bert", vocabulary, 3)
  vocabulary.write_text("[PAD]\n[CLS]\nsome\ntest\nwords\n[UNK]")
  tokens = make_tokenizer("bert", vocabulary, 3)(words)
  np.testing.assert_array_equal(tokens, rows)
  assert tokens.dtype == np.int32


def test_rows_of_sentencepiece(tmp_path, monkeypatch):
  """The last token is always the end of the text, which fills the row as well."""
  import sentencepiece

  pieces, end = {"some": [1], "test": [2, 3], "words": [4, 5, 6]}, 7

  class Processor:
    def __init__(self, model_file):
      assert model_file == str(tmp_path / "test.model")

    def vocab_size(self):
      return 8

    def eos_id(self):
      return end

    def encode(self, text):
      return pieces[text]

  (tmp_path / "test.model").write_bytes(b"")
  monkeypatch.setattr(sentencepiece, "SentencePieceProcessor", Processor)
  tokens = make_tokenizer("sentencepiece", tmp_path / "test.model", 3)(list(pieces))
  np.testing.assert_array_equal(tokens, [[1, end, end], [2, 3, end], [4, 5, end]])
  assert tokens.dtype == np.int32


def tf_resize(image, height, width):
  """Bilinear with half-pixel centres and without antialias, in float64: tf.image.resize."""
  return interpolated(np.swapaxes(interpolated(image, height), 0, 1), width).swapaxes(0, 1)


def interpolated(image, size):
  """The same along the first axis."""
  centre = (np.arange(size) + 0.5) * len(image) / size - 0.5
  low = np.floor(centre).astype(int)
  share = (centre - low)[:, None, None]
  take = lambda index: image[np.clip(index, 0, len(image) - 1)]
  return take(low) * (1 - share) + take(low + 1) * share


def bordered(height, width):
  """White, with two rows or columns of black at either end of the longer side."""
  image = np.full((height, width, 3), 255, np.uint8)
  if height > width:
    image[:2] = image[-2:] = 0
  else:
    image[:, :2] = image[:, -2:] = 0
  return image


def fed(image, **keys):
  """What the loader feeds in evaluation, normalised; it is uint8 before."""
  spec = transforms.Preprocessing(**keys)
  pixels = transforms.eval_transform(spec)({"image": image, "label": 0})["image"]
  return np.asarray(transforms.normalize(pixels, spec.mean, spec.std))


@pytest.mark.parametrize("shape", [(16, 10), (10, 16)])
def test_images_with_a_border(shape):
  """Squashed, the border is half grey in the outer rows; cropped, nothing of it is left."""
  image = bordered(*shape)
  squashed = transforms.Preprocess(transforms.Preprocessing(crop=4))(image)
  assert squashed.shape == (4, 4, 3) and squashed.dtype == np.float32 and squashed.mean() < 1
  np.testing.assert_allclose(squashed, tf_resize(image / 127.5 - 1, 4, 4), atol=1e-6)
  cropped = transforms.Preprocessing(crop=4, resize=4, eval_resize="resize_crop")
  assert transforms.Preprocess(cropped)(image).mean() == fed(image, **vars(cropped)).mean() == 1


@pytest.mark.parametrize("shape", [(31, 47), (224, 224), (500, 375), (7, 9)])
@pytest.mark.parametrize("size", [32, 224])
def test_evaluation_squashes_like_input_pipeline(shape, size):
  """(pixels - 127.5) / 127.5 of the whole image, in float32."""
  image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
  expected = (tf_resize(image.astype(np.float64), size, size) - 127.5) / 127.5
  alone = transforms.Preprocess(transforms.Preprocessing(crop=size))(image)
  np.testing.assert_allclose(alone, expected, atol=1e-4)
  # By design the loader feeds uint8: at most one grey level from it, and on average a quarter.
  difference = np.abs(fed(image, crop=size) - expected)
  assert difference.max() <= 1 / 127.5 + 1e-6 and difference.mean() < 0.3 / 127.5


def test_the_inception_crop_is_theirs():
  """Any part of at least 5% of the image, mirrored in half of the cases."""
  keys = facts.plan_of("vit", "b16", "cifar10").pp
  assert (keys.train_crop, keys.min_area, keys.flip) == ("inception", 0.05, True)
  assert (keys.interpolation, keys.antialias, keys.mean, keys.std) == (
    *("bilinear", False),
    *((0.5,) * 3, (0.5,) * 3),
  )


# utils.py: the learning rate of every update, by how many went before.


def closed_form(decay, base, total, warmup, end=1e-5):
  """In float64, at 0 to `total` updates."""
  rates = []
  for step in range(total + 1):
    progress = min(max((step - warmup) / (total - warmup), 0.0), 1.0)
    if decay == "cosine":
      rate = base * math.cos(math.pi * progress / 2) ** 2
    else:
      rate = base + (end - base) * progress
    rates.append(rate * (min(1.0, step / warmup) if warmup else 1.0))
  return np.array(rates)


UPDATES = jnp.arange(20_001)  # One array, so that its operations are compiled once.
LENGTHS = [(10_000, 500), (20_000, 500), (500, 100), (500, 50), (1_000, 100), (100, 0), (7, 3)]


@pytest.mark.parametrize("base", [0.03, 0.01])
@pytest.mark.parametrize("total, warmup", LENGTHS)
@pytest.mark.parametrize("decay", ["cosine", "linear"])
def test_learning_rates(decay, total, warmup, base):
  keys = dict(total_steps=total, warmup_steps=warmup, base_lr=base, decay_type=decay)
  model = dict(name="testing")
  rate = optim.learning_rate(plan.make_plan(dict(dataset="digits", model=model, **keys)))
  ours = np.asarray(rate(UPDATES), np.float64)[: total + 1]
  expected = closed_form(decay, base, total, warmup)
  # Of the base: float32's cosine has that error, and near the end the rate is as small.
  np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=2e-7 * base)
  if warmup:
    assert ours[0] == 0.0 and ours[warmup] == pytest.approx(base, rel=1e-6)
