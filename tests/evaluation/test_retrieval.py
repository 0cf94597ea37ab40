# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled import apply, init
from PIL import Image
from sklearn.metrics import top_k_accuracy_score

import vit_jax
from vit_jax.data import captions, text, transforms
from vit_jax.evaluation import retrieval
from vit_jax.models.lit import example_inputs


def test_recall_equals_scikit_learns_where_each_query_has_one_item():
  similarity = np.random.default_rng(0).normal(size=(40, 40)).astype(np.float32)
  for k in (1, 5):
    expected = top_k_accuracy_score(np.arange(40), similarity, k=k)
    assert retrieval.recall(similarity, np.eye(40, dtype=bool), k) == pytest.approx(expected)


def test_recall_by_hand():
  similarity = np.array([[0.9, 0.5, 0.1], [0.2, 0.3, 0.4]])
  relevant = np.array([[False, True, True], [True, True, False]])
  assert retrieval.recall(similarity, relevant, 1) == 0.0
  assert retrieval.recall(similarity, relevant, 2) == 1.0
  # Embeddings that have all become the same find nothing.
  assert retrieval.recall(np.ones((3, 3)), np.eye(3, dtype=bool), 1) == 0.0
  assert retrieval.recall(np.full((3, 3), np.nan), np.eye(3, dtype=bool), 1) == 0.0


class Known:
  """Stands for a model: an image and a text have the embedding that a table has for them.

  An image is one grey value, a text one letter.
  """

  txt = type("Tower", (), {"vocab_size": 259})

  def __init__(self, images, texts):
    self._images, self._texts = np.zeros((256, 2)), np.zeros((259, 2))
    for table, given in ((self._images, images), (self._texts, texts)):
      for key, angle in given.items():
        table[key] = np.cos(angle), np.sin(angle)

  def apply(self, variables, images, tokens=None):
    if images is not None:
      grey = jnp.round((images[:, 0, 0, 0] * 0.5 + 0.5) * 255).astype(int)
      return jnp.asarray(self._images, jnp.float32)[grey], None, {}
    return None, jnp.asarray(self._texts, jnp.float32)[tokens.max(axis=1)], {}


def evaluated(folder, images, texts, angles_of_images, angles_of_texts, temperature=20.0):
  """Scores where image i is grey value images[i], with the letters texts[i] as its texts."""
  for i, grey in enumerate(images):
    Image.fromarray(np.full((8, 8, 3), grey, np.uint8)).save(folder / f"{i}.png")
  files = [f"{i}.png" for i in range(len(images))]
  source = captions.CaptionedSource(str(folder), files, [list(own) for own in texts])
  letters = lambda text: np.array([[ord(letter), 0] for letter in text], np.int32)
  model = Known(angles_of_images, {ord(k): v for k, v in angles_of_texts.items()})
  spec = transforms.Preprocessing(crop=8)
  evaluator = retrieval.RetrievalEvaluator(model, {"val": source}, spec, letters, batch=4)
  return evaluator("val", {"params": {"t": np.log([temperature]).astype(np.float32)}})


def test_a_perfect_model_finds_texts_that_repeat(tmp_path):
  angles = dict(zip((10, 20, 30), (0.0, 1.0, 2.0), strict=True))
  words = dict(zip("abc", (0.0, 1.0, 2.0), strict=True))
  images, texts = [10, 20, 30, 10, 20, 10], ["a", "b", "c", "a", "b", "a"]
  scores = evaluated(tmp_path, images, texts, angles, words, temperature=100.0)
  assert scores["recall@1"] == scores["recall@5"] == scores["text_to_image_recall@1"] == 1.0
  assert scores["examples"] == 6 and 0 <= scores["loss"] < 1e-5
  # The same model where images and texts have become one.
  one = dict.fromkeys((10, 20, 30), 0.5), dict.fromkeys("abc", 0.5)
  scores = evaluated(tmp_path, images, texts, *one)
  assert scores["recall@1"] == scores["text_to_image_recall@1"] == 0.0
  shares = np.array([3, 2, 1, 3, 2, 3]) / 6  # Of the texts that are equal to an image's own.
  assert scores["loss"] == pytest.approx(-np.log(shares).mean(), rel=1e-6)


def test_texts_that_repeat_by_hand(tmp_path):
  # Image 1 is closest to "a", which is not its own; its own "b" and the equal one come after.
  images, texts = [10, 20, 30, 40], ["a", "b", "bc", "d"]
  angles = {10: 0.0, 20: 0.1, 30: 0.6, 40: 3.0}
  words = {"a": 0.0, "b": 0.5, "c": 2.5, "d": 3.0}
  scores = evaluated(tmp_path, images, texts, angles, words)
  assert scores["recall@1"] == 3 / 4 and scores["recall@5"] == 1.0
  # Both "b" find image 2, which owns one of them; "c" finds image 3, which owns none.
  assert scores["text_to_image_recall@1"] == 4 / 5
  logits = 20 * np.cos(
    np.array([0.0, 0.1, 0.6, 3.0])[:, None] - np.array([0.0, 0.5, 0.5, 2.5, 3.0])[None, :]
  )
  equal = np.array([[1, 0, 0, 0, 0], [0, 1, 1, 0, 0], [0, 1, 1, 1, 0], [0, 0, 0, 0, 1]])
  shares = (np.exp(logits) * equal).sum(1) / np.exp(logits).sum(1)
  assert scores["loss"] == pytest.approx(-np.log(shares).mean(), rel=1e-4)


@pytest.fixture
def model():
  small = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "mlp_dim": 32}
  txt = {"name": "Text-Ti", "num_classes": 16, "vocab_size": 259, "max_len": 8, **small}
  img = {"name": "ViT-Ti_16", "patch_size": 4, **small}
  return vit_jax.create_model("LiT-B16B_2", img=img, txt=txt)


def test_evaluates_every_pair_and_leaves_out_what_cannot_be_read(model, tmp_path):
  rng = np.random.default_rng(0)
  for i in range(7):
    image = rng.integers(256, size=(8, 8, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / f"{i}.png")
  (tmp_path / "3.png").write_bytes(b"no image")
  texts = [[f"a{i}"] if i % 2 else [f"a{i}", f"b{i}"] for i in range(7)]
  source = captions.CaptionedSource(str(tmp_path), [f"{i}.png" for i in range(7)], texts)
  spec = transforms.Preprocessing(crop=8)
  tokenizer = text.make_tokenizer("bytes", None, 8)
  images = np.stack([transforms.Preprocess(spec)(str(tmp_path / f"{i}.png")) for i in range(3)])
  variables = init(model, *example_inputs(model, images))

  evaluator = retrieval.RetrievalEvaluator(
    model, {"val": source, "test": None}, spec, tokenizer, batch=4, max_bad_fraction=0.5
  )
  assert "val" in evaluator and "test" not in evaluator
  scores = evaluator("val", variables)

  good = [i for i in range(7) if i != 3]
  images = np.stack([transforms.Preprocess(spec)(str(tmp_path / f"{i}.png")) for i in good])
  owners = np.array([i for i in good for _ in texts[i]])
  tokens = tokenizer([t for i in good for t in texts[i]])
  zimg, ztxt, out = apply(model, variables, images, tokens)
  similarity = np.asarray(zimg @ ztxt.T)
  relevant = np.array(good)[:, None] == owners[None, :]
  first = [owners[row.argmax()] == i for i, row in zip(good, similarity, strict=True)]
  back = [good[column.argmax()] == i for i, column in zip(owners, similarity.T, strict=True)]
  shares = np.asarray(jax.nn.softmax(out["t"] * similarity, axis=-1))
  loss = -np.log((shares * relevant).sum(axis=1)).mean()
  assert scores["examples"] == 6
  assert scores[evaluator.metric] == scores["recall@1"] == pytest.approx(np.mean(first))
  assert scores["text_to_image_recall@1"] == pytest.approx(np.mean(back))
  assert scores["loss"] == pytest.approx(loss, rel=1e-5)
