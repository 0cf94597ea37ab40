# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A config becomes a frozen plan: every key known, typed, effective, and checked before any work.

The keys keep the names of google-research/vision_transformer; their defaults are the fields below.
`None` for a key that cannot be off means its default.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
from collections.abc import Mapping
from typing import Any, Literal

import ml_collections

from vit_jax import keys as keys_lib
from vit_jax.checkpoints import augreg
from vit_jax.data import datasets, transforms
from vit_jax.errors import UserError
from vit_jax.keys import AT_LEAST_0, AT_LEAST_1, BELOW_1, NOT_NEGATIVE, POSITIVE, Range, key
from vit_jax.models import lit, registry
from vit_jax.parallel.mesh import MeshPlan
from vit_jax.training import checks, synonyms

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class ModelPlan:
  """Which model: a registry name, and fields of its module that differ from the registry's."""

  name: str
  overrides: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class OptimPlan:
  """SGD with momentum (fine-tuning) or AdamW (training from scratch); `weight_decay` decoupled."""

  name: Literal["sgd", "adamw"] = "sgd"
  momentum: float = key(0.9, BELOW_1)
  b1: float = key(0.9, BELOW_1)
  b2: float = key(0.999, BELOW_1)
  eps: float = key(1e-8, POSITIVE)
  weight_decay: float = key(0.0, NOT_NEGATIVE)


@dataclasses.dataclass(frozen=True)
class TextPlan:
  """How a model of two towers reads texts; see `vit_jax.data.text`.

  Attributes:
    tokenizer: kind of tokenizer.
    max_len: tokens of a text; always that of the model's text tower.
    vocabulary: path or address of the tokenizer's file.
    templates: what is said of an image that has a class and no text, "a photo of a {}."; and the
      prompts of the evaluation.
    class_names: what to call the classes, in the order of the labels, alternatives separated by
      commas; None takes the data set's names.
  """

  tokenizer: str
  max_len: int = key(values=AT_LEAST_1)
  vocabulary: str | None = None
  templates: tuple[str, ...] = ("{}",)
  class_names: tuple[str, ...] | None = None


@dataclasses.dataclass(frozen=True)
class InitPlan:
  """Weights that one tower starts from: a file, folder, work directory, address or model name."""

  img: str | None = None
  txt: str | None = None


@dataclasses.dataclass(frozen=True)
class DistillPlan:
  """Whom a student learns from, section 4 of arXiv:2012.12877; see `training.teacher`.

  Attributes:
    teacher: work directory of a run, or a name in the registry; any family.
    checkpoint: weights for a name in the registry; None takes the recommended ones.
    image_size: what the teacher sees, in pixels; None: what it was trained or released for.
    loss: "hard", the class that the teacher names, or "soft", all its probabilities.
    tau: temperature of the soft ones; 3, as in the paper, where it says nothing.
    weight: share of the teacher in the loss; None: the paper's 0.5 (hard) or 0.1 (soft).
    cache: whether the teacher is asked once for each training image, as it is, instead of in every
      step for what augmentation made of it.
  """

  teacher: str = key(none="")
  checkpoint: str | None = None
  image_size: int | None = key(None, AT_LEAST_1, off=0)
  loss: Literal["hard", "soft"] = "hard"
  tau: float = key(3.0, POSITIVE)
  weight: float | None = key(None, Range(0, 1, open="("))
  cache: bool = False

  @property
  def share(self) -> float:
    usual = 0.5 if self.loss == "hard" else 0.1
    return usual if self.weight is None else self.weight


_STEPS = Range(1, 2**31 - 1, words="be at least 1, and less than 2^31")
_SHARES = Range(0, 1, open="()", words="be shares of total_steps in (0, 1)")


@dataclasses.dataclass(frozen=True)
class Plan:
  """All that a training run depends on. One field per config key."""

  dataset: str = key(advice="a TFDS name, a folder of images, or 'digits'")
  model: ModelPlan
  pp: transforms.Preprocessing
  # How long, in steps or in epochs, which `with_steps` turns into steps; those are recorded.
  total_steps: int | None = key(None, _STEPS)
  epochs: float | None = key(None, POSITIVE)
  # Weights to start from: `checkpoint` is a path or URL; `pretrained_dir` holds `{model name}.npz`;
  # `model_or_filename` alone means the registry's recommended weights. None of them: from scratch.
  checkpoint: str | None = None
  pretrained_dir: str | None = None
  model_or_filename: str | None = None
  # (height, width) of the images that these weights were trained on, where the file does not tell.
  checkpoint_image_size: tuple[int, int] | None = key(None, AT_LEAST_1)
  # Of models of two towers (LiT); None for the others. `init` may stand for `checkpoint`.
  text: TextPlan | None = None
  init: InitPlan = InitPlan()
  contrastive_loss: Literal["softmax", "sigmoid"] = "softmax"
  # A teacher to learn from beside the labels; None for none.
  distill: DistillPlan | None = None
  # Pattern of the parameters that are not trained, from the beginning of their path: "img/".
  frozen: str | None = None
  # Optimization.
  optim: OptimPlan = OptimPlan()
  optim_dtype: Literal["float32", "bfloat16"] = "float32"  # Of the (first) momentum.
  base_lr: float = key(0.03, NOT_NEGATIVE)
  decay_type: Literal["cosine", "linear", "rsqrt", "step", "constant"] = "cosine"
  warmup_steps: int | None = key(None, AT_LEAST_0)  # None, without warmup_epochs: 500.
  warmup_epochs: float | None = key(None, AT_LEAST_0)
  cooldown_steps: int = key(0, NOT_NEGATIVE)
  linear_end: float = key(1e-5, NOT_NEGATIVE)
  rsqrt_timescale: int = key(10_000, AT_LEAST_1)
  decay_at: tuple[float, ...] = key((0.3, 0.6, 0.9), _SHARES)
  decay_factor: float = key(0.1, POSITIVE)
  grad_norm_clip: float | None = key(1.0, POSITIVE, off=0, advice="; 0 turns clipping off")
  label_smoothing: float = key(0.0, BELOW_1)
  # Alphas of arXiv:1710.09412 and arXiv:1905.04899; of both, either in half of the steps.
  mixup: float = key(0.0, NOT_NEGATIVE, advice="; 0 turns it off")
  cutmix: float = key(0.0, NOT_NEGATIVE, advice="; 0 turns it off")
  # Of an average of the weights, which is then the run's result.
  ema_decay: float | None = key(
    None, Range(0, 1, open="()"), off=0, advice=", such as 0.9999; 0 turns it off"
  )
  batch: int = key(512, AT_LEAST_1)
  accum_steps: int = key(1, AT_LEAST_1)
  seed: int = key(0, Range(0, 2**31 - 1))
  # Data.
  tfds_data_dir: str | None = None
  shuffle_buffer: int | None = key(None, AT_LEAST_0)  # The ancestor's; shuffling is global here.
  max_bad_fraction: float = key(0.01, Range(0, 1))
  threads: int = key(4, AT_LEAST_1)
  # What happens when. 0 turns the periodic action off; the last step always evaluates and saves.
  batch_eval: int = key(512, AT_LEAST_1)
  eval_every: int = key(100, NOT_NEGATIVE)
  checkpoint_every: int = key(1000, NOT_NEGATIVE)
  # A checkpoint also when so many have passed since the last one; 0: none.
  checkpoint_minutes: float = key(0.0, NOT_NEGATIVE)
  # Checkpoints, beside the best one: if the last is damaged, the other is used.
  keep_last: int = key(2, Range(2), advice=", so that a run survives damage to its last checkpoint")
  keep_every: int = key(0, NOT_NEGATIVE)  # Those of multiples of this step are kept for good.
  progress_every: int = key(10, AT_LEAST_1)
  baseline: Literal["1-nn"] | None = None  # Evaluated beside the model at the end.
  # "accuracy": the evaluator's own metric, which is recall@1 where images have texts of their own.
  keep_best_metric: Literal["accuracy", "loss"] = "accuracy"
  # At a loss, gradient or update that is not finite: end; leave the step's update out; or go back
  # to the last checkpoint, and on with other data.
  nan_policy: Literal["stop", "skip", "rollback"] = "stop"
  # Seconds without any progress after which the stacks are written; after twice as many the run
  # ends. See `training.watchdog`.
  stall_timeout: float = key(300.0, POSITIVE)
  mesh: MeshPlan = MeshPlan()  # noqa: RUF009 - It is frozen.

  @property
  def weights(self) -> str | None:
    """Path or URL of the weights to start from; None where there is none to name."""
    name = (self.model_or_filename or self.model.name).removesuffix(".npz")
    if self.pretrained_dir:
      if self.model_or_filename and "-" not in name:  # AugReg's short name, as in the ancestor.
        name = augreg.resolve(name, self.pretrained_dir)
      return f"{self.pretrained_dir.rstrip('/')}/{name}.npz"
    if self.model_or_filename and "-lr_" in name:  # A file name of AugReg, not a model's.
      return f"gs://vit_models/augreg/{name}.npz"
    return self.checkpoint

  @property
  def from_scratch(self) -> bool:
    return not (self.checkpoint or self.pretrained_dir or self.model_or_filename)

  def with_steps(self, examples: int) -> Plan:
    """The plan with its epochs of `examples` training images as steps, rounded to the nearest."""
    steps = lambda epochs: max(1, round(epochs * examples / self.batch))
    total, warmup = self.total_steps, self.warmup_steps
    if self.epochs is not None:
      total = steps(self.epochs)
    if self.warmup_epochs is not None:
      warmup = steps(self.warmup_epochs) if self.warmup_epochs else 0
    elif warmup is None:
      warmup = 500
    known = dataclasses.replace(
      self, total_steps=total, warmup_steps=warmup, epochs=None, warmup_epochs=None
    )
    checks.check_steps(known)
    if 0 < examples < self.batch:
      log.warning(
        "config.batch=%d is more than the %d training images, so a step holds some of them more "
        "than once; --config.batch=%d is the most that does not",
        *(self.batch, examples, examples),
      )
    return known

  def check_devices(self, count: int) -> None:
    """Raises `UserError` unless `count` devices along the batch's axes divide it."""
    if self.batch % (count * self.accum_steps):
      raise UserError(
        f"batch={self.batch} is not a multiple of devices x accum_steps = {count} x "
        f"{self.accum_steps}; use a multiple of {count * self.accum_steps}."
      )

  def to_dict(self) -> dict[str, Any]:
    """Returns the plan as plain JSON types."""
    return _plain(dataclasses.asdict(self))

  @classmethod
  def from_dict(cls, saved: Mapping[str, Any]) -> Plan:
    """Makes a plan from what `to_dict` gave; keys that have since been added get their default."""
    read = functools.partial(keys_lib.read, saved=True)
    text, distill = saved.get("text"), saved.get("distill")
    sections = {
      "model": _saved_model(saved["model"]),
      "text": None if text is None else read(TextPlan, text, "text."),
      "init": read(InitPlan, saved.get("init", {}), "init."),
      "distill": None if distill is None else read(DistillPlan, distill, "distill."),
      "pp": read(transforms.Preprocessing, saved["pp"], "pp."),
      "optim": read(OptimPlan, saved["optim"], "optim."),
      "mesh": read(MeshPlan, saved["mesh"], "mesh."),
    }
    return read(cls, {k: v for k, v in saved.items() if k not in sections}, "", sections)


def make_plan(config: ml_collections.ConfigDict | Mapping[str, Any]) -> Plan:
  """Turns a config into a plan.

  Args:
    config: keys as the fields of `Plan`; `model` holds `name` and any field of that model's module,
      `pp` the fields of `vit_jax.data.transforms.Preprocessing` and the split specifications
      `train`, `val`, `test`.

  Returns:
    The plan, with every default filled in.

  Raises:
    UserError: for a key that is unknown, of the wrong type, missing, without effect, or out of
      range. The message names the key.
  """
  if not isinstance(config, Mapping) and not hasattr(config, "to_dict"):
    raise UserError(f"the config should be a ConfigDict or a dict, but is {config!r:.60}.")
  keys = config.to_dict() if hasattr(config, "to_dict") else dict(config)
  keys_lib.refuse_removed(keys, synonyms.REMOVED)
  model = _read_model(keys_lib.section(keys, "model"), keys.get("model_or_filename"))
  _refuse_other_words(keys)
  sections = {
    "model": model,
    "init": (init := keys_lib.read(InitPlan, keys_lib.section(keys, "init"), "init.")),
    "text": _read_text(keys_lib.section(keys, "text"), model, init),
    "distill": _read_distill(keys_lib.section(keys, "distill")),
    "pp": _read_preprocessing(keys_lib.section(keys, "pp"), model),
    "optim": keys_lib.read(OptimPlan, keys_lib.section(keys, "optim"), "optim."),
    "mesh": keys_lib.read(MeshPlan, keys_lib.section(keys, "mesh"), "mesh."),
  }
  plan = keys_lib.read(Plan, {k: v for k, v in keys.items() if k not in sections}, "", sections)
  plan = dataclasses.replace(plan, **_absolute(plan))
  checks.refuse_without_effect(plan, keys)
  checks.check(plan)
  if plan.epochs is None and plan.warmup_epochs is None:
    plan = plan.with_steps(0)
  if plan.shuffle_buffer is not None:
    log.info("shuffle_buffer=%s is unused: every epoch is shuffled globally", plan.shuffle_buffer)
  return plan


_TWO_TOWERS = ("text", "init", "contrastive_loss")  # What only models of two towers have.


def declared_keys(config: Mapping[str, Any]) -> dict[str, keys_lib.Key]:
  """The keys that can be set in a config, by their paths, such as "pp.crop", "model.num_layers".

  Args:
    config: tells the model, whose fields are keys too, and whether it has two towers.

  Raises:
    UserError: there is no such model.
  """
  declared = keys_lib.flat(Plan)
  del declared["model.overrides"]
  # Left out, it is the data set's own split.
  declared["pp.train"] = dataclasses.replace(declared["pp.train"], default=None)
  model = config.get("model")
  model = model.to_dict() if isinstance(model, ml_collections.ConfigDict) else model
  model = model if isinstance(model, Mapping) else {}
  name = model.get("name") or config.get("model_or_filename")
  entry = registry.get_entry(name) if isinstance(name, str) else None
  if entry is None or not entry.text:
    declared = {k: v for k, v in declared.items() if k.split(".")[0] not in _TWO_TOWERS}
  for path, hint in () if entry is None else registry.field_types(entry, model).items():
    # None means what the weights' own file or the registry has. To some fields "none" is a word.
    nones = keys_lib.NONE[:2] if hint is str else keys_lib.NONE
    declared[f"model.{path}"] = keys_lib.Key(hint, None, nones)
  return declared


def _refuse_other_words(keys: Mapping[str, Any]) -> None:
  """Refuses keys whose words are known elsewhere, with the ones that we have for them."""
  declared = declared_keys(keys)
  inner = {f"{k}.{i}" for k, v in keys.items() if isinstance(v, Mapping) for i in v}
  for path in (*keys, *inner):
    is_known = path in declared or any(known.startswith(f"{path}.") for known in declared)
    if not is_known and (remedy := synonyms.in_our_words(path, declared)):
      raise UserError(f"config.{path} is not a known key; {remedy}.")


def _read_model(keys: dict[str, Any], model_or_filename: Any) -> ModelPlan:
  keys_lib.refuse_removed(keys, synonyms.REMOVED_FROM_MODEL, "model.")
  name = keys.pop("name", None) or model_or_filename
  if not isinstance(name, str):
    raise UserError(
      "config.model.name is missing; set it to one of the names that `vit-jax models` lists."
    )
  entry = registry.get_entry(name)  # Refuses an unknown name, with near matches.
  overrides = _given(keys)
  registry.create_model(name, **overrides)  # Refuses an unknown field, likewise.
  return ModelPlan(entry.name, _without_the_registrys(entry, overrides))


def _saved_model(saved: Mapping[str, Any]) -> ModelPlan:
  tuples = {k: tuple(v) if isinstance(v, list) else v for k, v in saved["overrides"].items()}
  return ModelPlan(saved["name"], _without_the_registrys(registry.get_entry(saved["name"]), tuples))


def _without_the_registrys(entry: registry.Entry, overrides: Mapping[str, Any]) -> dict[str, Any]:
  """What a config says anew: the same plan, whether a field of the row is repeated or left out."""
  return {k: v for k, v in overrides.items() if k not in entry.config or v != entry.config[k]}


def _given(keys: Mapping[str, Any]) -> dict[str, Any]:
  """The keys that are set, in sections too."""
  given = {k: _given(v) if isinstance(v, Mapping) else v for k, v in keys.items()}
  return {k: v for k, v in given.items() if v is not None}


def _read_text(keys: dict[str, Any], model: ModelPlan, init: InitPlan) -> TextPlan | None:
  """Reads `text`; what it leaves out is the model's."""
  spec = registry.get_entry(model.name).text
  if spec is None:
    if _given(keys):
      raise UserError(
        f"config.text has no effect: {model.name} has no text tower; use configs/lit.py."
      )
    return None
  tower = registry.create_model(model.name, **model.overrides).txt
  if keys.get("max_len") not in (None, tower.max_len):
    raise UserError(
      f"config.text.max_len={keys['max_len']} is not that of the text tower, {tower.max_len}; "
      "set config.model.txt.max_len instead."
    )
  own = keys.get("tokenizer") in (None, spec.tokenizer)
  usual = dataclasses.asdict(spec) if own else {}
  beside = os.path.join(init.txt or "", "vocab.txt")
  if own and init.txt and os.path.isfile(beside):  # As transformers keeps a BERT.
    usual["vocabulary"] = beside
  given = {**usual, **_given(keys), "max_len": tower.max_len}
  text = keys_lib.read(TextPlan, given, "text.")
  if isinstance(tower, lit.BertTower) != (text.tokenizer == "bert"):
    raise UserError(
      f"config.text.tokenizer={text.tokenizer!r} does not go with {type(tower).__name__}: BERT "
      "reads [CLS] in front and skips zeros, which only 'bert' gives; a TextTransformer reads the "
      "end of the text, which the others give."
    )
  return text


def _read_distill(keys: dict[str, Any]) -> DistillPlan | None:
  known = keys_lib.declared(DistillPlan)
  is_none = lambda name, value: value is None or (name in known and known[name].is_none(value))
  given = {name: value for name, value in keys.items() if not is_none(name, value)}
  if "teacher" not in given:
    if given and keys.get("teacher") is None:  # And not turned off, with all that goes with it.
      raise UserError(
        f"config.distill.{next(iter(given))} has no effect without config.distill.teacher; name a "
        "model or the work directory of a run."
      )
    return None
  return keys_lib.read(DistillPlan, given, "distill.")


def _read_preprocessing(keys: dict[str, Any], model: ModelPlan) -> transforms.Preprocessing:
  """Reads `pp`; what it leaves out of size and normalisation is the model's."""
  spec = registry.get_entry(model.name).input
  given = {k: v for k, v in keys.items() if v is not None}
  for name in ("mean", "std"):
    value = given.get(name, getattr(spec, name))
    if isinstance(value, int | float):
      value = (value,)
    elif name not in given and given.get("channels") == 1:
      value = (sum(value) / len(value),)
    given[name] = value
  given.setdefault("crop", spec.image_size)
  given.setdefault("train", None)
  return keys_lib.read(transforms.Preprocessing, given, "pp.")


def _absolute(plan: Plan) -> dict[str, Any]:
  """The keys that name directories, with those that exist as absolute paths.

  So a data set is found from another working directory, and "small", "small/", "./small" are one.
  """
  at = lambda name: datasets.absolute(name) if name else name
  keys = ("dataset", "tfds_data_dir", "pretrained_dir", "checkpoint")
  changed = {key: at(getattr(plan, key)) for key in keys}
  changed["init"] = InitPlan(at(plan.init.img), at(plan.init.txt))
  if plan.distill:
    changed["distill"] = dataclasses.replace(plan.distill, teacher=at(plan.distill.teacher))
  return changed


def _plain(value: Any) -> Any:
  if isinstance(value, Mapping):
    return {str(k): _plain(v) for k, v in value.items()}
  if isinstance(value, list | tuple):
    return [_plain(v) for v in value]
  return value if isinstance(value, str | int | float | bool | None) else str(value)
