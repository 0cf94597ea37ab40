# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tokenizers against those of transformers, SentencePiece and TensorFlow; the texts of examples."""

import collections
import io
import pickle
import subprocess
import sys
from concurrent import futures

import numpy as np
import pytest
import scipy.stats
import sentencepiece
from transformers import ByT5Tokenizer
from transformers.models.bert.tokenization_bert_legacy import BertTokenizerLegacy

from vit_jax.data.text import TOKENIZERS, Captions, make_tokenizer, prompts, split_names
from vit_jax.errors import UserError

WORDS = """
photo of the cat dog tin ##ca lh ##asa ap ##so creme bru ##lee cafe uber ice cream don naive run
##ner walk ##ing un ##aff ##able cls stra ##sse fine coop ##ет при ##в 東 京 猫 ##京 東京
"""
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
# No word begins with "z" and none goes on with "q".
VOCABULARY = [
  *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
  *LETTERS.replace("z", ""),
  *(f"##{letter}" for letter in LETTERS.replace("q", "")),
  *"!\"#$%&'()*+,-./:;?@[]_`{}~«»“”—…ß™",
  *WORDS.split(),
]
TEXTS = [
  "",
  "  \t\n ",
  "a photo of the cat",
  "Tinca tinca, LHASA APSO; unaffable runner's walking!",
  "Crème Brûlée, café, Über, naïve, ZÜRICH, A\u030angstro\u0308m",
  "don't ice-cream 3.14 50% $5 #tag @home a/b _under_ (x) [y] {w} «quoted» “it” — so",
  "東京の猫 and 猫cat東京",
  "привет ПРИВЕТ ไทย 한국어 😀",
  "zebra aqua x zoo",
  "a\nphoto\tof\r\nthe\u00a0cat\u3000dog  run",
  "x" * 100,
  f"a {'x' * 101} b",
  f"{'a' * 99}-{'b' * 101}",
  "photo " * 40,
]
# What tensorflow_text 2.21.1's BertTokenizer(lower_case=True) gives.
PIECES = {
  "Tinca tinca, LHASA APSO!": "tin ##ca tin ##ca , lh ##asa ap ##so !",
  "東京の猫 cat東京": "東 京 [UNK] 猫 cat 東 京",
  f"a {'x' * 101} dog": "a [UNK] dog",
  "co\u00adop": "coop",
}
# The same, where BERT's own code gives something else: TensorFlow folds before it splits, and
# [CLS] in a text is nothing special to it.
FOLDED = {
  "zoo [CLS]": "[UNK] [ cls ]",
  "wait…": "w ##a ##i ##t . . .",
  "Straße": "stra ##sse",
  "x² ½": "x ##2 [UNK]",
  "cat™": "cat ##t ##m",
  "\ufb01ne \uff23\uff41\uff54": "fine cat",
}
NAMES = (("tench", "Tinca tinca"), ("dog",))
TEMPLATES = ("{}", "a {}", "a photo of a {}!")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
  """The vocabulary of each kind of tokenizer."""
  folder = tmp_path_factory.mktemp("vocabularies")
  paths = {"bert": folder / "vocab.txt", "sentencepiece": folder / "tiny.model", "bytes": None}
  paths["bert"].write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
  paths["sentencepiece"].write_bytes(train_sentencepiece())
  return paths


def train_sentencepiece(**options) -> bytes:
  """A model of 100 pieces, from sentences of random words."""
  rng = np.random.default_rng(0)
  words = ["".join(rng.choice([*LETTERS, *"éû,."], size=rng.integers(1, 7))) for _ in range(99)]
  sentences = [" ".join(rng.choice(words, size=rng.integers(3, 9))) for _ in range(400)]
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(sentences),
    model_writer=model,
    **{"vocab_size": 100, "minloglevel": 2, **options},
  )
  return model.getvalue()


def with_ends(ids, length, end):
  """`ids` clipped and filled to `length`, so that the last one is always `end`."""
  return ids[: length - 1] + [end] * (length - len(ids[: length - 1]))


def spelled(row):
  """The pieces of a row of "bert", without [CLS] in front and padding."""
  assert VOCABULARY[row[0]] == "[CLS]"
  return " ".join(VOCABULARY[i] for i in row[1:] if i)


@pytest.mark.parametrize("max_len", [2, 5, 16, 300])
def test_bert_equals_transformers(files, max_len):
  # Its plain Python: its public class is made of the library that ours is made of.
  theirs = BertTokenizerLegacy(files["bert"], do_lower_case=True)
  ids = [[theirs.cls_token_id, *theirs.encode(t, add_special_tokens=False)] for t in TEXTS]
  expected = [row[:max_len] + [0] * (max_len - len(row)) for row in ids]
  tokenizer = make_tokenizer("bert", files["bert"], max_len)
  tokens = tokenizer(TEXTS)
  assert tokens.dtype == np.int32
  np.testing.assert_array_equal(tokens, expected)
  assert (tokenizer.vocab_size, tokenizer.max_len) == (len(VOCABULARY), max_len)


@pytest.mark.parametrize("text", [*PIECES, *FOLDED])
def test_bert_equals_tensorflow(files, text):
  (row,) = make_tokenizer("bert", files["bert"])([text])
  assert spelled(row) == (PIECES | FOLDED)[text]
  berts = " ".join(BertTokenizerLegacy(files["bert"], do_lower_case=True).tokenize(text))
  assert (berts == spelled(row)) == (text in PIECES)


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_the_line_is_the_id(tmp_path, newline):
  # U+2028 and U+0085 are ends of a line for str.splitlines, and tokens of real vocabularies.
  lines = ["[UNK]", "\u2028", "dog", "\x85", "[CLS]", "", "##s", "cat"]
  for end in ("", newline):
    (tmp_path / "vocab.txt").write_bytes((newline.join(lines) + end).encode())
    tokenizer = make_tokenizer("bert", str(tmp_path / "vocab.txt"), 6)
    assert tokenizer(["dogs cat owl"]).tolist() == [[4, 2, 6, 7, 0, 0]]
    assert tokenizer.vocab_size == 8


@pytest.mark.parametrize("max_len", [2, 5, 16, 300])
@pytest.mark.parametrize("eos_id", [2, 0])
def test_sentencepiece_equals_the_processor(tmp_path, max_len, eos_id):
  model = tmp_path / "tiny.model"
  model.write_bytes(train_sentencepiece(eos_id=eos_id, unk_id=2 - eos_id))
  processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
  assert processor.piece_to_id("</s>") == eos_id
  expected = [with_ends(ids, max_len, eos_id) for ids in processor.encode(TEXTS, add_eos=True)]
  tokenizer = make_tokenizer("sentencepiece", model, max_len)
  tokens = tokenizer(TEXTS)
  assert tokens.dtype == np.int32
  np.testing.assert_array_equal(tokens, expected)
  assert (tokenizer.vocab_size, tokenizer.max_len) == (100, max_len)


@pytest.mark.parametrize("max_len", [2, 5, 16, 300])
def test_bytes_equal_byt5(max_len):
  theirs = ByT5Tokenizer()
  expected = [with_ends(ids, max_len, theirs.eos_token_id) for ids in theirs(TEXTS).input_ids]
  tokenizer = make_tokenizer("bytes", max_len=max_len)
  tokens = tokenizer(TEXTS)
  assert tokens.dtype == np.int32
  np.testing.assert_array_equal(tokens, expected)
  assert (tokenizer.vocab_size, tokenizer.max_len) == (259, max_len)


def test_bytes_by_hand():
  tokenizer = make_tokenizer("bytes", max_len=6)
  expected = {
    "": [1, 1, 1, 1, 1, 1],
    "cat": [102, 100, 119, 1, 1, 1],
    "\x00é": [3, 198, 172, 1, 1, 1],
    "abcde": [100, 101, 102, 103, 104, 1],
    "abcdef": [100, 101, 102, 103, 104, 1],
    "東京": [233, 160, 180, 231, 189, 1],
  }
  assert tokenizer(list(expected)).tolist() == list(expected.values())
  assert tokenizer([]).shape == (0, 6)


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("max_len", [2, 5, 300])
def test_all_ids_are_known_before_they_are_clipped(files, kind, max_len, caplog):
  tokenizer = make_tokenizer(kind, files[kind], max_len)
  texts = [*TEXTS, "a dog \ud83d"]
  ids = [tokenizer.ids(text) for text in texts]
  assert ids == [make_tokenizer(kind, files[kind], 5000).ids(text) for text in texts]
  np.testing.assert_array_equal(tokenizer.clipped(ids), tokenizer(texts))
  tokenizer.tell_clipped(ids, "texts")
  lengths = [len(own) for own in ids]
  cut = sum(length > max_len - 1 for length in lengths)
  assert [record.getMessage() for record in caplog.records] == (
    [
      f"{cut} of {len(texts)} texts are longer than the {max_len - 1} tokens that are read of a "
      f"text, the longest has {max(lengths)}; what follows is left out"
    ]
    if cut
    else []
  )
  assert cut or max_len == 300


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_pickled_tokenizer_is_the_same(files, kind):
  tokenizer = make_tokenizer(kind, files[kind])
  again = pickle.loads(pickle.dumps(tokenizer))
  np.testing.assert_array_equal(again(TEXTS), tokenizer(TEXTS))
  assert (again.max_len, again.vocab_size) == (tokenizer.max_len, tokenizer.vocab_size)


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_threads_may_share_a_tokenizer(files, kind):
  tokenizer = make_tokenizer(kind, files[kind])
  expected = tokenizer(TEXTS)
  with futures.ThreadPoolExecutor(8) as pool:
    for rows in pool.map(tokenizer, [TEXTS] * 200):
      np.testing.assert_array_equal(rows, expected)


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_half_a_character_becomes_a_question_mark(files, kind):
  tokenizer = make_tokenizer(kind, files[kind])
  np.testing.assert_array_equal(tokenizer(["a dog \ud83d"]), tokenizer(["a dog ?"]))


def test_the_libraries_are_imported_only_when_needed():
  code = (
    "import sys; from vit_jax.data import text; text.make_tokenizer('bytes')(['a']); "
    "print({'tokenizers', 'sentencepiece', 'torch', 'tensorflow'} & set(sys.modules))"
  )
  result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
  assert result.stdout.strip() == "set()"


@pytest.mark.parametrize(
  "arguments, words",
  [
    (("sp_piece",), ["'sp_piece'", "did you mean 'sentencepiece'?", "bert, sentencepiece, bytes"]),
    (("bert",), ["'bert' needs a vocabulary file", "vocab.txt"]),
    (("sentencepiece",), ["'sentencepiece' needs a vocabulary file", "model"]),
    (("bert", "missing.txt"), ["no vocabulary file", "missing.txt"]),
    (("sentencepiece", "missing.model"), ["no vocabulary file", "missing.model"]),
    (("bert", "."), ["no vocabulary file"]),
    (("bert", "no_cls.txt"), ["no_cls.txt has no line [CLS]"]),
    (("bert", "no_unk.txt"), ["no_unk.txt has no line [UNK]"]),
    (("bert", "tiny.model"), ["tiny.model is no text file", "vocab.txt"]),
    (("sentencepiece", "no_cls.txt"), ["no_cls.txt is no SentencePiece model"]),
    (("sentencepiece", "empty.model"), ["empty.model is no SentencePiece model"]),
    (("sentencepiece", "no_end.model"), ["no_end.model has no end", "</s>"]),
    (("bytes", "no_cls.txt"), ["'bytes' has no vocabulary", "no_cls.txt"]),
    (("bytes", None, 1), ["max_len=1", "at least 2"]),
    (("bytes", None, 7.5), ["max_len=7.5", "integer"]),
  ],
)
def test_what_cannot_be_a_tokenizer(tmp_path, monkeypatch, files, arguments, words):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "no_cls.txt").write_text("[UNK]\ncat\n")
  (tmp_path / "no_unk.txt").write_text("[CLS]\ncat\n")
  (tmp_path / "empty.model").write_bytes(b"")
  (tmp_path / "tiny.model").write_bytes(files["sentencepiece"].read_bytes())
  (tmp_path / "no_end.model").write_bytes(train_sentencepiece(eos_id=-1))
  with pytest.raises(UserError) as caught:
    make_tokenizer(*arguments)
  for word in words:
    assert word in str(caught.value)
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize("texts", ["a cat", [b"a cat"], [None], ["a cat", 3]])
def test_what_is_no_list_of_texts(texts):
  with pytest.raises(UserError, match="takes a list of texts"):
    make_tokenizer("bytes")(texts)


def test_names_are_separated_by_commas():
  names = ["tench, Tinca tinca", "dog", " great grey owl ,Strix nebulosa "]
  expected = (("tench", "Tinca tinca"), ("dog",), ("great grey owl", "Strix nebulosa"))
  assert split_names(names) == expected


@pytest.mark.parametrize("name", ["", " ", "tench,", "a,,b", ","])
def test_a_class_without_a_name_is_refused(name):
  with pytest.raises(UserError, match=f"class 1 is called '{name}'"):
    split_names(["dog", name])


def test_names_are_a_list():
  with pytest.raises(UserError, match="'cat' is a single text"):
    split_names("cat")


def test_prompts_are_every_name_in_every_template():
  assert prompts(NAMES, TEMPLATES) == [
    [
      *("tench", "a tench", "a photo of a tench"),
      *("tinca tinca", "a tinca tinca", "a photo of a tinca tinca"),
    ],
    ["dog", "a dog", "a photo of a dog"],
  ]
  # As big_vision writes them for its evaluation.
  assert prompts([["T-shirt"], ["sports_car "]], ["A  {}, on\tsale."]) == [
    ["a tshirt on sale"],
    ["a sports car on sale"],
  ]


@pytest.mark.parametrize("template", ["a photo", "{} and {}", "{name}", "{0}"])
def test_a_template_has_one_place(template):
  with pytest.raises(UserError, match=r"exactly one \{\}") as caught:
    prompts(NAMES, ["{}", template])
  assert repr(template) in str(caught.value)
  with pytest.raises(UserError, match=r"exactly one \{\}"):
    Captions(make_tokenizer("bytes"), NAMES, (template,))


def test_some_template_is_needed():
  with pytest.raises(UserError, match="no templates"):
    prompts(NAMES, ())


class Bytes:
  """A tokenizer that notes what it is given."""

  def __init__(self):
    self.texts = []
    self.tokenize = make_tokenizer("bytes", max_len=32)

  def __call__(self, texts):
    self.texts += texts
    return self.tokenize(texts)


def read(tokens):
  assert tokens.dtype == np.int32 and tokens.shape == (32,)
  return bytes(tokens[tokens > 2].astype(np.uint8) - 3).decode()


def drawn(captions, record, count=3000, seed=0):
  rng = np.random.default_rng(seed)
  return [read(captions(record, rng)) for _ in range(count)]


@pytest.mark.parametrize("label", [0, np.int32(1)])
def test_names_and_templates_are_drawn_uniformly(label):
  captions = Captions(Bytes(), NAMES, TEMPLATES)
  counts = collections.Counter(drawn(captions, {"label": label, "image": b""}))
  assert set(counts) == set(prompts(NAMES, TEMPLATES)[label])
  assert scipy.stats.chisquare(list(counts.values())).pvalue > 0.01


def test_prompts_are_tokenised_once():
  tokenizer = Bytes()
  captions = Captions(tokenizer, NAMES, TEMPLATES)
  before = list(tokenizer.texts)
  assert sorted(before) == sorted(text for own in prompts(NAMES, TEMPLATES) for text in own)
  drawn(captions, {"label": 0})
  assert tokenizer.texts == before


@pytest.mark.parametrize("record", [{"label": 0}, {"text": ["one", "two", "three"], "label": 0}])
def test_the_generator_decides(record):
  captions = Captions(Bytes(), NAMES, TEMPLATES)
  again = pickle.loads(pickle.dumps(captions))
  assert drawn(captions, record, 50) == drawn(again, record, 50)
  assert drawn(captions, record, 50) != drawn(captions, record, 50, seed=1)


@pytest.mark.parametrize("several", [list, tuple])
def test_its_own_text_wins(several):
  captions = Captions(Bytes(), NAMES, TEMPLATES)
  assert set(drawn(captions, {"text": "my fish", "label": 0}, 20)) == {"my fish"}
  texts = several(["my fish", "une tanche", "tench"])
  counts = collections.Counter(drawn(captions, {"text": texts, "label": 1}))
  assert set(counts) == set(texts)
  assert scipy.stats.chisquare(list(counts.values())).pvalue > 0.01


def test_texts_need_no_classes():
  assert drawn(Captions(Bytes()), {"text": "my fish"}, 1) == ["my fish"]


@pytest.mark.parametrize("text", [None, "", []])
def test_without_a_text_the_class_speaks(text):
  captions = Captions(Bytes(), NAMES, ("the {}",))
  assert set(drawn(captions, {"text": text, "label": 1}, 20)) == {"the dog"}


@pytest.mark.parametrize(
  "names, record",
  [
    ((), {"id": "7.jpg", "label": 0}),
    ((), {"id": "7.jpg", "text": ""}),
    (NAMES, {"id": "7.jpg"}),
    (NAMES, {"id": "7.jpg", "label": -1}),
    (NAMES, {"id": "7.jpg", "label": 2}),
  ],
)
def test_neither_text_nor_name(names, record):
  with pytest.raises(UserError, match=r"'7\.jpg' has no text, and label .* is none of the"):
    Captions(Bytes(), names)(record, np.random.default_rng(0))
