# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Retrieval: does an image find its text among all of a split, and a text its image?

Equal texts are one text: whoever owns one of them owns them all. Texts are equal if the text tower
reads the same tokens, because then they have the same embedding and no model can tell them apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import special

from vit_jax.data import text, transforms
from vit_jax.data.captions import CaptionedSource
from vit_jax.data.sources import Source
from vit_jax.errors import UserError
from vit_jax.evaluation import classification, zeroshot
from vit_jax.models.lit import TwoTowers
from vit_jax.parallel import mesh as mesh_lib


def recall(
  similarity: Float[np.ndarray, "queries items"],
  relevant: Bool[np.ndarray, "queries items"],
  k: int,
) -> float:
  """The share of queries with a relevant item among the `k` most similar.

  Ties with items that are not relevant are lost, and so is NaN: a model whose embeddings have all
  become the same finds nothing.
  """
  best = np.where(relevant, similarity, -np.inf).max(axis=1, keepdims=True)
  better = (~(similarity < best) & ~relevant).sum(axis=1)
  return float((better < k).mean())


def relevance(
  tokens: Int[np.ndarray, "texts length"],
  owners: Int[np.ndarray, " texts"],
  images: Int[np.ndarray, " images"],
) -> Bool[np.ndarray, "images texts"]:
  """Which texts are equal to one of an image's own; `owners` has the image of each text."""
  _, kinds = np.unique(tokens, axis=0, return_inverse=True)
  kinds = kinds.reshape(-1)  # NumPy 2.0 gives it another shape.
  owned = np.zeros((len(images), kinds.max() + 1), bool)
  rows = {image: row for row, image in enumerate(images.tolist())}
  owned[[rows[owner] for owner in owners.tolist()], kinds] = True
  return owned[:, kinds]


def _texts(split: str, source: Source) -> list[list[str]]:
  if not isinstance(source, CaptionedSource):  # A sum of splits, whose numbers would repeat.
    raise UserError(f"config.pp.{split} must be a single split or a slice of one.")
  return source.texts


class RetrievalEvaluator:
  """What `classification.Evaluator` is for images with texts of their own."""

  metric = "recall@1"

  def __init__(
    self,
    model: TwoTowers,
    splits: Mapping[str, Source | None],
    preprocessing: transforms.Preprocessing,
    tokenizer: text.Tokenizer,
    mesh: jax.sharding.Mesh | None = None,
    **options: Any,
  ):
    """Sets up the batches; `options` are those of `classification.batches_of`."""
    self._model, self._mesh = model, mesh or mesh_lib.make_mesh()
    self._batches = classification.batches_of(splits, preprocessing, self._mesh, **options)
    self._texts = {}
    for name in self._batches:
      texts = _texts(name, splits[name])
      owners = np.repeat(np.arange(len(texts)), [len(own) for own in texts])
      self._texts[name] = tokenizer([text for own in texts for text in own]), owners

    def embed(variables: Any, batch: Mapping[str, jax.Array]) -> tuple[jax.Array, ...]:
      images = transforms.normalize(batch["image"], preprocessing.mean, preprocessing.std)
      return model.apply(variables, images)[0], batch["label"], batch["mask"]

    self._embed = jax.jit(embed, out_shardings=mesh_lib.replicated(self._mesh))

  def __contains__(self, split: str) -> bool:
    return split in self._batches

  def __call__(self, split: str, variables: Any) -> dict[str, float | int]:
    """Evaluates every image and text of `split`.

    Returns:
      `{"recall@1", "recall@5"}`, image to text; `"text_to_image_recall@1"`; `"loss"`, the mean
      over the images of -log of the share that the texts equal to their own have in the softmax
      over all texts, in nats; and `"examples"`.

    Raises:
      UserError: if no image can be read.
    """
    embedded: dict[int, np.ndarray] = {}
    placed = mesh_lib.on_mesh(variables, self._mesh)
    for batch in self._batches[split]:
      rows = jax.device_get(self._embed(placed, mesh_lib.place_batch(dict(batch), self._mesh)))
      embedded |= {int(i): z for z, i, real in zip(*rows, strict=True) if real}
    if not embedded:
      raise UserError("There is no example to evaluate; check the split and the images.")
    tokens, owners = self._texts[split]
    known = np.isin(owners, [*embedded])  # Texts of images that cannot be read are left out.
    ztxt = zeroshot.embed_texts(self._model, variables, tokens[known])
    similarity = np.stack([*embedded.values()]) @ ztxt.T
    relevant = relevance(tokens[known], owners[known], np.array([*embedded]))
    logits = similarity * np.exp(jax.device_get(variables["params"]["t"]))
    own = np.where(relevant, logits, -np.inf)
    loss = special.logsumexp(logits, axis=1) - special.logsumexp(own, axis=1)
    return {
      "recall@1": recall(similarity, relevant, 1),
      "recall@5": recall(similarity, relevant, 5),
      "text_to_image_recall@1": recall(similarity.T, relevant.T, 1),
      "loss": float(loss.mean()),
      "examples": len(embedded),
    }
