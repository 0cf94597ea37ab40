# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""From texts to the tokens of a text tower, and which text a training example has.

The ids are those that the towers of LiT (arXiv:2111.07991) were trained with.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import pathlib
import string
import types
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vit_jax.errors import UserError, nearest

log = logging.getLogger(__name__)


class Tokenizer:
  """Makes rows of one length: `first`, the ids of a text, then `pad`.

  A text is clipped to `max_len - 1` ids, so that one place is left: for [CLS] in front, or for the
  end of the text, which then is the last token of every row. Objects can be pickled and called
  from several threads.

  Attributes:
    max_len: tokens of a text.
    vocab_size: ids are below it.
    first: the ids in front of every text; at most one.
    pad: the id that fills a row.
  """

  max_len: int
  vocab_size: int
  first: tuple[int, ...] = ()
  pad: int

  def __init__(self, max_len: int):
    if not isinstance(max_len, int) or max_len < 2:
      raise UserError(f"max_len={max_len!r} leaves no room for text; use an integer of at least 2.")
    self.max_len = max_len

  def __call__(self, texts: Sequence[str]) -> np.ndarray:
    """Tokenises texts.

    Returns:
      int32 [texts, max_len].

    Raises:
      UserError: this is no sequence of texts.
    """
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
      raise UserError(f"a tokenizer takes a list of texts, not {texts!r:.80}; pass [text, ...].")
    return self.clipped([self.ids(text) for text in texts])

  def ids(self, text: str) -> list[int]:
    """All ids of a text, however many, without `first` and `pad`."""
    # Half of a surrogate pair, as in captions cut by JavaScript, becomes "?".
    return self._ids(text.encode("utf-8", "replace").decode("utf-8"))

  def clipped(self, ids: Sequence[Sequence[int]]) -> np.ndarray:
    """What a call makes of texts with these ids: int32 [texts, max_len]."""
    rows = np.full((len(ids), self.max_len), self.pad, np.int32)
    for row, own in zip(rows, ids, strict=True):
      own = [*self.first, *own[: self.max_len - 1]]
      row[: len(own)] = own
    return rows

  def tell_clipped(self, ids: Sequence[Sequence[int]], what: str) -> None:
    """Logs how many of `what` are longer than there is room for, in a line; none if none is."""
    longest = max(map(len, ids), default=0)
    if (room := self.max_len - 1) < longest:
      log.warning(
        "%d of %d %s are longer than the %d tokens that are read of a text, the longest has %d; "
        "what follows is left out",
        *(sum(len(own) > room for own in ids), len(ids), what, room, longest),
      )

  def _ids(self, text: str) -> list[int]:
    raise NotImplementedError


class BertTokenizer(Tokenizer):
  """WordPiece of BERT (arXiv:1810.04805) in lower case: [CLS], pieces, no [SEP], zeros.

  The vocabulary has one token a line; the number of the line, from 0, is the id.
  """

  pad = 0

  def __init__(self, vocabulary: str | os.PathLike | None, max_len: int):
    super().__init__(max_len)
    path = _file("bert", "a vocab.txt with one token a line", vocabulary)
    try:
      lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
      raise UserError(f"{path} is no text file; pass a vocab.txt with one token a line.") from error
    ids = {token: line for line, token in enumerate(lines)}
    for token in ("[CLS]", "[UNK]"):
      if token not in ids:
        raise UserError(f"{path} has no line {token}; pass the vocab.txt of a BERT model.")
    self.vocab_size = len(lines)
    self.first = (ids["[CLS]"],)

    import tokenizers

    # A longer word is unknown. TensorFlow counts bytes, which differs for long words beyond ASCII.
    pieces = tokenizers.models.WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=100)
    self._tokenizer = tokenizers.Tokenizer(pieces)
    self._tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(
      clean_text=True, handle_chinese_chars=True, strip_accents=True, lowercase=False
    )
    self._tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()

  def _ids(self, text: str) -> list[int]:
    # Lower case as in tensorflow_text, not as in BERT's own code: "…" is "..." and "ß" is "ss".
    return self._tokenizer.encode(unicodedata.normalize("NFKC", text).casefold()).ids


class SentencePieceTokenizer(Tokenizer):
  """SentencePiece (arXiv:1808.06226): pieces, then "</s>" up to and at the end."""

  def __init__(self, vocabulary: str | os.PathLike | None, max_len: int):
    super().__init__(max_len)
    path = _file("sentencepiece", "a model file", vocabulary)

    import sentencepiece

    try:
      self._processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
    except (RuntimeError, OSError) as error:
      raise UserError(f"{path} is no SentencePiece model; pass a .model file.") from error
    self.vocab_size = self._processor.vocab_size()
    self.pad = self._processor.eos_id()
    if self.pad < 0:
      raise UserError(f"{path} has no end-of-sentence piece; pass a model that has </s>.")

  def _ids(self, text: str) -> list[int]:
    return self._processor.encode(text)


class ByteTokenizer(Tokenizer):
  """The bytes of UTF-8, then the end token up to and at the end; needs no vocabulary.

  Numbered as in ByT5 (arXiv:2105.13626): 0 padding, 1 end, 2 unknown, and b + 3 for byte b.
  """

  vocab_size = 259
  pad = 1

  def __init__(self, vocabulary: None, max_len: int):
    super().__init__(max_len)
    if vocabulary is not None:
      raise UserError(f"the tokenizer 'bytes' has no vocabulary; leave out {vocabulary}.")

  def _ids(self, text: str) -> list[int]:
    return [byte + 3 for byte in text.encode("utf-8")]


TOKENIZERS: Mapping[str, type[Tokenizer]] = types.MappingProxyType(
  {"bert": BertTokenizer, "sentencepiece": SentencePieceTokenizer, "bytes": ByteTokenizer}
)


def make_tokenizer(
  kind: str, vocabulary: str | os.PathLike | None = None, max_len: int = 16
) -> Tokenizer:
  """Makes a tokenizer.

  Args:
    kind: a key of `TOKENIZERS`.
    vocabulary: path of the vocab.txt ("bert") or model ("sentencepiece"); None for "bytes".
    max_len: tokens of a text, at least 2.

  Raises:
    UserError: one of these is wrong, or the vocabulary is missing or of another kind.
  """
  if kind not in TOKENIZERS:
    raise UserError(
      f"the tokenizer {kind!r} is unknown{nearest(str(kind), list(TOKENIZERS))}; choose one of "
      f"{', '.join(TOKENIZERS)}."
    )
  return TOKENIZERS[kind](vocabulary, max_len)


def _file(kind: str, what: str, vocabulary: str | os.PathLike | None) -> pathlib.Path:
  if vocabulary is None:
    raise UserError(f"the tokenizer {kind!r} needs a vocabulary file; pass the path of {what}.")
  path = pathlib.Path(vocabulary).expanduser()
  if not path.is_file():
    raise UserError(f"there is no vocabulary file {path}; pass the path of {what}.")
  return path


def split_names(names: Sequence[str]) -> tuple[tuple[str, ...], ...]:
  """The alternative names of each class: ["tench, Tinca tinca"] is (("tench", "Tinca tinca"),).

  Raises:
    UserError: a name is empty.
  """
  if isinstance(names, str):
    raise UserError(f"class_names={names!r} is a single text; pass a list, with a class in each.")
  classes = tuple(tuple(part.strip() for part in name.split(",")) for name in names)
  for label, (name, parts) in enumerate(zip(names, classes, strict=True)):
    if not all(parts):
      raise UserError(
        f"class {label} is called {name!r}, where a name is empty; write names separated by commas."
      )
  return classes


def canonical(text: str) -> str:
  """Lower case, no punctuation, single spaces, as LiT was evaluated: "tshirt" for "T-shirt"."""
  words = text.replace("_", " ").translate(str.maketrans("", "", string.punctuation)).split()
  return " ".join(words).lower()


def prompts(class_names: Sequence[Sequence[str]], templates: Sequence[str]) -> list[list[str]]:
  """Every name of a class in every template, for each class, in canonical form.

  Args:
    class_names: the alternative names of each class.
    templates: texts in which "{}" stands for a name, such as "a photo of a {}".

  Raises:
    UserError: there is no template, or one without exactly one "{}".
  """
  if not templates:
    raise UserError("there are no templates; give at least one, such as '{}'.")
  for template in templates:
    if template.count("{}") != 1:
      raise UserError(f"the template {template!r} must have exactly one {{}}, where a name goes.")
  return [
    [canonical(template.replace("{}", name)) for name in names for template in templates]
    for names in class_names
  ]


@dataclasses.dataclass(frozen=True)
class Captions:
  """The text of a training example, tokenised: its own, or one made of its class.

  Attributes:
    tokenizer: makes the tokens.
    class_names: the alternative names of each class, in the order of the labels.
    templates: texts in which "{}" stands for a name.
  """

  tokenizer: Tokenizer
  class_names: tuple[tuple[str, ...], ...] = ()
  templates: tuple[str, ...] = ("{}",)
  # int32 [prompts, max_len] of each class.
  _prompts: tuple[np.ndarray, ...] = dataclasses.field(init=False, repr=False, compare=False)

  def __post_init__(self):
    texts = prompts(self.class_names, self.templates)
    object.__setattr__(self, "_prompts", tuple(map(self.tokenizer, texts)))

  def __call__(self, record: Mapping[str, Any], rng: np.random.Generator) -> np.ndarray:
    """Draws a text, all being equally likely.

    Args:
      record: with "text", one or several; or with "label".
      rng: decides which.

    Returns:
      int32 [max_len].

    Raises:
      UserError: the record has no text, and its class no name.
    """
    if texts := record.get("text"):
      texts = [texts] if isinstance(texts, str) else texts
      return self.tokenizer([texts[rng.integers(len(texts))]])[0]
    label = record.get("label", -1)
    if not 0 <= label < len(self._prompts):
      raise UserError(
        f"the example {record.get('id', '')!r} has no text, and label {label} is none of the "
        f"{len(self._prompts)} class names; give it a text, or every class a name."
      )
    rows = self._prompts[label]
    return rows[rng.integers(len(rows))]
