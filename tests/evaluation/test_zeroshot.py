# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Classes by their names: what the embeddings are, and that a run and its file say the same."""

import dataclasses
import json
import time

import jax
import numpy as np
import pytest
import sentencepiece
import small_lit
import tiny_run
from compiled import apply, noise

from vit_jax.data import transforms
from vit_jax.data.text import TOKENIZERS, ByteTokenizer, make_tokenizer
from vit_jax.errors import UserError
from vit_jax.evaluation import classifier, zeroshot
from vit_jax.models.registry import create_model
from vit_jax.training.loop import train_and_evaluate
from vit_jax.workdir import run_info

NAME = small_lit.NAME
SMALL = dict(hidden_size=16, num_layers=1, mlp_dim=32, num_heads=2)
TOKENIZER = ByteTokenizer(None, 24)
CLASSES = ("cat, kitten, tabby cat", "dog", "pot of tea, teapot")
TEMPLATES = ("{}", "a photo of a {}", "the {}")


@pytest.fixture(autouse=True)
def small_batch(monkeypatch):
  """One program for any number of prompts."""
  monkeypatch.setattr(zeroshot, "BATCH", 8)


@pytest.fixture(scope="module")
def towers():
  """A small LiT with noise on every leaf."""
  model = create_model(
    NAME,
    img=dict(SMALL, name="ViT-Ti_16", patch_size=4),
    txt=dict(SMALL, name="Text-Ti", num_classes=16, vocab_size=259, max_len=24),
    bias_init=-10.0,
  )
  inputs = np.zeros((1, 8, 8, 3), np.float32), np.zeros((1, 24), np.int32)
  return model, noise(model, *inputs)


def unit(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def embedded(model, variables, texts):
  """The text tower's own output, in float64, of length 1."""
  tokens = TOKENIZER(texts)
  z = jax.jit(model.txt.apply)({"params": variables["params"]["txt"]}, tokens)
  return unit(np.asarray(z, np.float64))


@pytest.mark.parametrize("batch", [3, 7, 64])
def test_a_class_is_the_mean_of_its_prompts(towers, monkeypatch, batch):
  monkeypatch.setattr(zeroshot, "BATCH", batch)  # Of 18 prompts: whole, padded, and one batch.
  prompts = zeroshot.make_prompts(TOKENIZER, CLASSES, TEMPLATES)
  assert prompts.class_names == ("cat", "dog", "pot of tea") and len(prompts.tokens) == 18
  ours = zeroshot.embed_classes(*towers, prompts)

  texts = {
    "cat": ["cat", "a photo of a cat", "the cat", "kitten", "a photo of a kitten", "the kitten",
            "tabby cat", "a photo of a tabby cat", "the tabby cat"],
    "dog": ["dog", "a photo of a dog", "the dog"],
    "pot": ["pot of tea", "a photo of a pot of tea", "the pot of tea",
            "teapot", "a photo of a teapot", "the teapot"],
  }  # fmt: skip
  z = embedded(*towers, [text for own in texts.values() for text in own])
  expected = unit(np.stack([z[:9].mean(0), z[9:12].mean(0), z[12:].mean(0)]))
  assert ours.dtype == np.float32
  np.testing.assert_allclose(ours, expected, atol=1e-6)


def test_more_names_do_not_weigh_more(towers):
  embed = lambda classes: zeroshot.embed_classes(*towers, zeroshot.make_prompts(TOKENIZER, classes))
  once, often = embed(["cat", "dog"]), embed(["cat, cat, cat, cat", "dog"])
  np.testing.assert_allclose(often, once, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(np.linalg.norm(embed(CLASSES), axis=1), 1.0, rtol=1e-6)


def test_logits_are_those_of_the_two_towers(towers):
  model, variables = towers
  prompts = zeroshot.make_prompts(TOKENIZER, CLASSES, TEMPLATES)
  module, own = zeroshot.classifier_of(model, variables, prompts)
  assert set(own["params"]) == {"img", "classes", "t", "b"}
  images = np.random.default_rng(1).uniform(-1, 1, (5, 8, 8, 3)).astype(np.float32)
  zimg, _, out = jax.jit(model.apply)(variables, images)
  expected = out["t"] * zimg @ zeroshot.embed_classes(model, variables, prompts).T + out["b"]
  logits = jax.jit(module.apply)(own, images)
  assert logits.shape == (5, 3) and np.ptp(expected, axis=0).min() > 1e-3
  np.testing.assert_allclose(logits, expected, rtol=1e-5)

  # Without a bias, as in the released models.
  model = dataclasses.replace(model, bias_init=None)
  params = {k: v for k, v in variables["params"].items() if k != "b"}
  module, own = zeroshot.classifier_of(model, {"params": params}, prompts)
  np.testing.assert_allclose(jax.jit(module.apply)(own, images), expected - out["b"], rtol=1e-5)


def test_tokens_that_the_tower_does_not_know_are_refused(towers):
  model, variables = towers
  model = dataclasses.replace(model, txt=model.txt.clone(vocab_size=100))
  prompts = zeroshot.make_prompts(TOKENIZER, ["cat"])
  with pytest.raises(UserError, match=r"token 119, but the text tower only 100 .* vocabulary"):
    zeroshot.embed_classes(model, variables, prompts)
  with pytest.raises(UserError, match="no classes to choose from"):
    zeroshot.make_prompts(TOKENIZER, [])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  return small_lit.trained(tmp_path_factory)


def test_a_run_and_its_file_predict_the_same(run):
  plan = run_info.read_run(run.workdir).plan.text
  options = dict(class_names=plan.class_names, templates=plan.templates)
  subjects = [
    zeroshot.from_run(run.workdir),
    zeroshot.from_checkpoint(NAME, str(run.workdir), **options),
    zeroshot.from_checkpoint(NAME, str(run.npz), **options),
  ]
  assert subjects[0].named and subjects[0].class_names == tuple("0123456789")
  expected = classifier.predict(subjects[0], run.images, top=10)
  names = [name.split(",")[0] for name in plan.class_names]
  for subject in subjects[1:]:
    assert not subject.named and subject.class_names == tuple(names)
    assert subject.preprocessing.size == (32, 32) and subject.preprocessing.channels == 1
    found = classifier.predict(subject, run.images, top=10)
    for one, other in zip(expected, found, strict=True):
      assert other.classes == tuple(names[int(digit)] for digit in one.classes)
      np.testing.assert_allclose(other.probabilities, one.probabilities, rtol=1e-5)


def test_a_run_evaluates_as_its_training_did(run):
  found = classifier.evaluate_split(zeroshot.from_run(run.workdir), "test")
  assert found["accuracy"] == run.results["test"]["accuracy"] and found["examples"] == 360
  assert found["loss"] == pytest.approx(run.results["test"]["loss"], rel=1e-5)
  # By the data set's own names, other words are read.
  other = zeroshot.from_checkpoint(NAME, str(run.npz), class_names=tuple("0123456789"), named=True)
  again = classifier.evaluate_split(other, "test", dataset="digits")
  assert again["examples"] == 360 and again["loss"] != pytest.approx(found["loss"], rel=1e-4)


def test_classes_keep_their_order_and_all_their_names_count(run):
  def subject(*names):
    return zeroshot.from_run(run.workdir, class_names=names, templates=["{}"])

  usual, turned = subject("one", "two, pair", "three"), subject("three", "one", "two")
  assert usual.class_names == ("one", "two", "three") and not usual.named
  ours, theirs = (x.variables["params"]["classes"] for x in (usual, turned))
  np.testing.assert_allclose(ours[[0, 2]], theirs[[1, 0]], atol=1e-6)
  assert np.abs(ours[1] - theirs[2]).max() > 1e-3  # A pair is two, too.

  [row, *_] = classifier.predict(turned, run.images[:1], top=3)
  logits = apply(turned.model, turned.variables, pixels(turned, run.images[0]))[0]
  assert row.classes == tuple(turned.class_names[k] for k in np.argsort(-logits))


def pixels(subject, path):
  """The model's input, from the image file."""
  image = transforms.eval_transform(subject.preprocessing)(
    {"image": path.read_bytes(), "label": 0}
  )["image"]
  return image[None].astype(np.float32) / 127.5 - 1


def test_a_file_of_names(tmp_path):
  path = tmp_path / "names.txt"
  path.write_bytes("\ufeff  tench, Tinca tinca \r\n\r\nTee & Gebäck\n".encode())
  assert zeroshot.read_lines(str(path)) == ("tench, Tinca tinca", "Tee & Gebäck")


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c"])
def test_only_line_feeds_end_names(tmp_path, mark):
  path = tmp_path / "names.txt"
  path.write_bytes(f"tench{mark}fish\r\ndog\n".encode())
  assert zeroshot.read_lines(str(path)) == (f"tench{mark}fish", "dog")


@pytest.mark.parametrize(
  "content, message",
  [
    (None, r"names.txt cannot be read .*No such file.*; pass a text file"),
    (b"", "names.txt is empty; write one name a line"),
    (b" \n\n", "names.txt is empty"),
    (b"\x89PNG\r\n\x1a\n\xff", "names.txt cannot be read .*pass a text file"),
  ],
)
def test_a_file_that_has_no_names(tmp_path, content, message):
  path = tmp_path / "names.txt"
  if content is not None:
    path.write_bytes(content)
  with pytest.raises(UserError, match=message) as caught:
    zeroshot.read_lines(str(path))
  assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


@pytest.mark.parametrize(
  "options, message",
  [
    (dict(class_names=["cat", "dog,"]), "class 1 is called 'dog,'"),
    (dict(class_names=["cat"], templates=["a photo"]), "'a photo' must have exactly one {}"),
    (dict(class_names=["cat"], templates=["{} {}"]), "'{} {}' must have exactly one {}"),
    (dict(class_names=["cat"], vocabulary="/no/vocab.txt"), "no vocabulary file /no/vocab.txt"),
  ],
)
def test_mistakes_in_words_are_found_before_weights_are_fetched(
  tmp_path, monkeypatch, options, message
):
  monkeypatch.setenv("VIT_JAX_OFFLINE", "1")  # There are no weights here, and none can be had.
  monkeypatch.setenv("VIT_JAX_CACHE", str(tmp_path))
  vocabulary = tmp_path / "vocab.txt"
  vocabulary.write_text("[PAD]\n[UNK]\n[CLS]\ncat\n")
  with pytest.raises(UserError, match=message):
    zeroshot.from_checkpoint(NAME, **{"vocabulary": str(vocabulary), **options})
  with pytest.raises(UserError, match=r"LiT-B16B_2.npz is not in the cache"):
    zeroshot.from_checkpoint(NAME, vocabulary=str(vocabulary), class_names=["cat"])


@pytest.mark.parametrize(
  "names, message",
  [
    (("C++", "C", "D"), "'C\\+\\+' and 'C' are one"),
    (("plus", "+"), "'\\+' is empty"),
    (("cat, dog", "owl", "Dog, cat"), "'cat, dog' and 'Dog, cat' are one"),
    (
      ("cat", "cat, cat", "cat,Cat", "c-a-t", "CAT"),
      "'cat', 'cat, cat', 'cat,Cat' and 2 others ar",
    ),
  ],
)
def test_classes_that_become_the_same_prompts_are_refused(names, message):
  for templates in (("{}",), ("a {}",)):
    with pytest.raises(UserError, match=message):
      zeroshot.make_prompts(ByteTokenizer(None, 16), names, templates)


WORDS = "a photo of the cat dog owl grey parrot heron rare african very old and faded picture"


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
  """One of each kind, for texts of `length` tokens."""
  root = tmp_path_factory.mktemp("vocabularies")
  (root / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", *WORDS.split()]))
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter([WORDS] * 50 + WORDS.split() * 50),
    model_prefix=str(root / "words"),
    vocab_size=60,
    hard_vocab_limit=False,
    minloglevel=2,
  )
  files = {"bert": root / "vocab.txt", "sentencepiece": root / "words.model", "bytes": None}
  return lambda kind, length: make_tokenizer(kind, files[kind], length)


LONG = "a very old and faded picture of the rare and faded photo {}"


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("templates", [(LONG,), ("{}", "a photo of the {}", LONG, LONG + " cat")])
@pytest.mark.parametrize("names", [("cat", "dog", "owl"), ("cat, old cat", "dog"), ("cat",)])
def test_names_that_are_cut_off_are_refused(tokenizers, kind, templates, names):
  before = len(tokenizers(kind, 99).ids(LONG.format("")))
  for length in (before, before + 1):  # One place is not for the text.
    with pytest.raises(UserError) as caught:
      zeroshot.make_prompts(tokenizers(kind, length), names, templates)
    said = str(caught.value)
    assert repr(LONG) in said and "has no room for 'cat'" in said and f"max_len={length}" in said
    assert len(names) == 1 or "'dog'" in said
    assert f"the first {length - 1} tokens" in said and "\n" not in said
  assert zeroshot.make_prompts(tokenizers(kind, before + 3), names, templates).class_names


@pytest.mark.parametrize(
  "kind, length, template",
  [("bert", 4, "the {}"), ("bytes", 14, "{}"), ("sentencepiece", 4, "the {}")],
)
def test_names_that_differ_where_they_are_cut_off_are_refused(tokenizers, kind, length, template):
  names = ["owl", "african grey parrot", "african grey heron"]
  with pytest.raises(UserError) as caught:
    zeroshot.make_prompts(tokenizers(kind, length), names, ("{}", "the {}"))
  assert str(caught.value) == (
    f"the template {template!r} has no room for what tells apart 'african grey parrot' and "
    f"'african grey heron': only the first {length - 1} tokens of a text are read "
    f"(max_len={length}); shorten the template or the names."
  )


def test_many_names_that_are_cut_off_are_counted(tokenizers):
  with pytest.raises(UserError, match=r"'class 0', 'class 1', 'class 2' and 997 others: only the"):
    zeroshot.make_prompts(tokenizers("bytes", 57), [f"class {k}" for k in range(1000)], [LONG])


def test_prompts_that_are_cut_and_differ_are_counted(tokenizers, caplog):
  """As those of long names of ImageNet are in the released models' 16 tokens."""
  templates = ("a photo of the {}", "the {} of the grey and rare and very very old dog")
  prompts = zeroshot.make_prompts(tokenizers("bert", 8), ["cat", "owl, grey owl"], templates)
  assert len(prompts.tokens) == 6
  [record] = caplog.records
  assert record.getMessage() == (
    "3 of 6 prompts are longer than the 7 tokens that are read of a text, the longest has 13; what "
    "follows is left out"
  )
  caplog.clear()
  zeroshot.make_prompts(tokenizers("bert", 14), ["cat", "owl, grey owl"], templates)
  assert not caplog.records


@pytest.mark.parametrize(
  "names, message",
  [
    (("cat", "zebra", "tapir"), "'zebra' and 'tapir' become the same tokens: the vocabulary does"),
    (("cat", "old zebra", "old tapir", "old gnu"), "'old zebra', 'old tapir' and 'old gnu' become"),
    (("résumé dog", "resume dog"), "'résumé dog' and 'resume dog' become the same tokens"),
    (("cat", "\u200b"), r"the vocabulary has no token for '\\u200b'; write the name in other"),
  ],
)
def test_names_that_the_vocabulary_does_not_tell_apart_are_refused(tokenizers, names, message):
  for templates in (("{}",), ("{}", "a photo of the {}")):
    with pytest.raises(UserError, match=message):
      zeroshot.make_prompts(tokenizers("bert", 16), names, templates)


def test_names_that_two_classes_share(tokenizers, caplog):
  """One name of two things is the user's to give; two names that look the same are told."""
  bert = tokenizers("bert", 16)
  assert len(zeroshot.make_prompts(bert, ["parrot, old parrot", "parrot, cat"]).tokens) == 4
  assert len(zeroshot.make_prompts(bert, ["zebra", "old tapir"]).tokens) == 2
  assert not caplog.records
  assert len(zeroshot.make_prompts(bert, ["dog, zebra", "cat, tapir"]).tokens) == 4
  [record] = caplog.records
  assert record.getMessage().startswith(
    "2 prompts of different classes become the same tokens, such as those of 'zebra' and 'tapir'"
  )


def test_a_class_whose_own_names_are_cut_to_the_same_is_no_mistake(tokenizers):
  names = ["african grey parrot, african grey heron", "cat"]
  prompts = zeroshot.make_prompts(tokenizers("bert", 3), names)
  assert len(prompts.tokens) == 3 and (prompts.tokens[0] == prompts.tokens[1]).all()


def test_training_refuses_templates_without_room(tmp_path):
  config = small_lit.config()
  config.text.templates = ("{}", "a photo, taken at night, of the number {}")
  with pytest.raises(
    UserError, match=r"no room for 'zero', 'nought', 'one' and 8 others: only .* 23"
  ):
    train_and_evaluate(config, tmp_path / "run")
  assert not (tmp_path / "run").exists()


def test_many_classes_are_compared_in_linear_time():
  names = [f"class {i}" for i in range(21_000)]
  start = time.perf_counter()
  assert len(zeroshot.make_prompts(TOKENIZER, names).owners) == 21_000
  assert time.perf_counter() - start < 5  # It takes 0.2 s; comparing all pairs took 14.
  with pytest.raises(UserError, match="'class 7' and 'Class - 7' are one"):
    zeroshot.make_prompts(TOKENIZER, [*names, "Class - 7"])


PROGRAM = """
import json, jax, numpy as np
from vit_jax.data import sources, text, transforms
from vit_jax.evaluation import classification, zeroshot
from vit_jax.models.registry import create_model
from vit_jax.parallel import mesh as mesh_lib, sharding
from vit_jax.parallel.mesh import MeshPlan

small = dict(hidden_size=16, num_layers=1, mlp_dim=32, num_heads=2)
model = create_model(
  "LiT-B16B_2",
  img=dict(small, name="ViT-Ti_16", patch_size=4),
  txt=dict(small, name="Text-Ti", num_classes=16, vocab_size=259, max_len=24),
)
inputs = np.zeros((1, 8, 8, 3), np.float32), np.zeros((1, 24), np.int32)
shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), *inputs))
rng = np.random.default_rng(0)
variables = jax.tree.map(lambda x: rng.normal(0, 0.3, x.shape).astype(np.float32), shapes)
images = rng.integers(256, size=(24, 8, 8, 3), dtype=np.uint8)
source = sources.ArraySource(images, np.arange(24, dtype=np.int32) % 3, [str(i) for i in range(24)])
prompts = zeroshot.make_prompts(text.ByteTokenizer(None, 24), ("cat", "dog", "pot of tea"))
spec = transforms.Preprocessing(crop=8)
made = classification.make_eval_step

def watched(*arguments, **options):
  step = made(*arguments, **options)
  def call(variables, batch):
    leaves = jax.tree.leaves(variables)
    total = sum(x.nbytes for x in leaves)
    each = {}
    for x in leaves:
      for shard in x.addressable_shards:
        each[shard.device.id] = each.get(shard.device.id, 0) + shard.data.nbytes
    found["share"] = max(each.values()) / total
    return step(variables, batch)
  return call

classification.make_eval_step = watched
results = []
for plan in (MeshPlan(data=1), MeshPlan(fsdp=8)):
  mesh, found = mesh_lib.make_mesh(plan), {}
  placed = mesh_lib.place(variables, sharding.shardings(variables, mesh))
  evaluator = zeroshot.ZeroShotEvaluator(model, {"val": source}, spec, prompts, batch=8, mesh=mesh)
  results.append({**evaluator("val", placed), **found})
print(json.dumps(results))
"""


def test_a_split_tower_is_evaluated_as_it_lies():
  flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
  done = tiny_run.run_python(PROGRAM, XLA_FLAGS=flags)
  assert done.returncode == 0, done.stderr
  one, eight = json.loads(done.stdout)
  assert one.pop("share") == 1
  assert eight.pop("share") < 0.3  # An eighth, and the vectors, which are much of so small a tower.
  assert eight == pytest.approx(one, rel=1e-5)
