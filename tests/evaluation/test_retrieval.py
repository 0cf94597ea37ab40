# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
import jax
import numpy as np
import pytest
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
  variables = model.init(jax.random.key(0), *example_inputs(model, images))

  evaluator = retrieval.RetrievalEvaluator(
    model, {"val": source, "test": None}, spec, tokenizer, batch=4, max_bad_fraction=0.5
  )
  assert "val" in evaluator and "test" not in evaluator
  scores = evaluator("val", variables)

  good = [i for i in range(7) if i != 3]
  images = np.stack([transforms.Preprocess(spec)(str(tmp_path / f"{i}.png")) for i in good])
  owners = np.array([i for i in good for _ in texts[i]])
  tokens = tokenizer([t for i in good for t in texts[i]])
  zimg, ztxt, out = model.apply(variables, images, tokens)
  similarity = np.asarray(zimg @ ztxt.T)
  relevant = np.array(good)[:, None] == owners[None, :]
  first = [owners[row.argmax()] == i for i, row in zip(good, similarity, strict=True)]
  back = [good[column.argmax()] == i for i, column in zip(owners, similarity.T, strict=True)]
  shares = np.asarray(jax.nn.softmax(out["t"] * similarity, axis=-1))
  loss = -np.log((shares * relevant).sum(axis=1)).mean()
  assert scores["examples"] == 6
  assert scores["accuracy"] == pytest.approx(np.mean(first))
  assert scores["text_to_image"] == pytest.approx(np.mean(back))
  assert scores["loss"] == pytest.approx(loss, rel=1e-5)
