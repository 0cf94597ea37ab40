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
from vit_jax.data import sources, splits, transforms
from vit_jax.errors import UserError
from vit_jax.models import lit, registry
from vit_jax.training import checks

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
  momentum: float = 0.9
  b1: float = 0.9
  b2: float = 0.999
  eps: float = 1e-8
  weight_decay: float = 0.0


@dataclasses.dataclass(frozen=True)
class MeshPlan:
  """Devices along each axis of `training.mesh`; -1 takes all that are left.

  `max_whole` is the share of the state's bytes that `fsdp` may leave whole on every device.
  """

  replica: int = 1
  data: int = -1
  fsdp: int = 1
  tensor: int = 1
  max_whole: float = 0.02


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
  max_len: int
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

  teacher: str
  checkpoint: str | None = None
  image_size: int | None = None
  loss: Literal["hard", "soft"] = "hard"
  tau: float = 3.0
  weight: float | None = None
  cache: bool = False

  @property
  def share(self) -> float:
    usual = 0.5 if self.loss == "hard" else 0.1
    return usual if self.weight is None else self.weight


@dataclasses.dataclass(frozen=True)
class Plan:
  """All that a training run depends on. One field per config key."""

  dataset: str
  model: ModelPlan
  pp: transforms.Preprocessing
  # How long, in steps or in epochs, which `with_steps` turns into steps; those are recorded.
  total_steps: int | None = None
  epochs: float | None = None
  # Weights to start from: `checkpoint` is a path or URL; `pretrained_dir` holds `{model name}.npz`;
  # `model_or_filename` alone means the registry's recommended weights. None of them: from scratch.
  checkpoint: str | None = None
  pretrained_dir: str | None = None
  model_or_filename: str | None = None
  # (height, width) of the images that these weights were trained on, where the file does not tell.
  checkpoint_image_size: tuple[int, int] | None = None
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
  base_lr: float = 0.03
  decay_type: Literal["cosine", "linear", "rsqrt", "step", "constant"] = "cosine"
  warmup_steps: int | None = None  # None, without warmup_epochs: 500.
  warmup_epochs: float | None = None
  cooldown_steps: int = 0
  linear_end: float = 1e-5
  rsqrt_timescale: int = 10_000
  decay_at: tuple[float, ...] = (0.3, 0.6, 0.9)  # Shares of total_steps.
  decay_factor: float = 0.1
  grad_norm_clip: float | None = 1.0
  label_smoothing: float = 0.0
  mixup: float = 0.0  # Alpha of arXiv:1710.09412; 0 turns it off.
  cutmix: float = 0.0  # Alpha of arXiv:1905.04899; with mixup, either in half of the steps.
  ema_decay: float | None = None  # Of an average of the weights, which is then the run's result.
  batch: int = 512
  accum_steps: int = 1
  seed: int = 0
  # Data.
  tfds_data_dir: str | None = None
  shuffle_buffer: int | None = None  # The ancestor's; shuffling is global here.
  max_bad_fraction: float = 0.01
  threads: int = 4
  # What happens when. 0 turns the periodic action off; the last step always evaluates and saves.
  batch_eval: int = 512
  eval_every: int = 100
  checkpoint_every: int = 1000
  keep_last: int = 2  # Checkpoints, beside the best one: if the last is damaged, the other is used.
  keep_every: int = 0  # Those of multiples of this step are kept for good.
  progress_every: int = 10
  baseline: Literal["1-nn"] | None = None  # Evaluated beside the model at the end.
  # "accuracy": the evaluator's own metric, which is recall@1 where images have texts of their own.
  keep_best_metric: Literal["accuracy", "loss"] = "accuracy"
  # At a loss, gradient or update that is not finite: end; leave the step's update out; or go back
  # to the last checkpoint, and on with other data.
  nan_policy: Literal["stop", "skip", "rollback"] = "stop"
  stall_timeout: float = 300.0  # Seconds without a batch after which the loader is named.
  mesh: MeshPlan = MeshPlan()

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
  keys = config.to_dict() if hasattr(config, "to_dict") else dict(config)
  keys_lib.refuse_removed(keys, _REMOVED)
  model = _read_model(keys_lib.section(keys, "model"), keys.get("model_or_filename"))
  sections = {
    "model": model,
    "init": (init := keys_lib.read(InitPlan, keys_lib.section(keys, "init"), "init.")),
    "text": _read_text(keys_lib.section(keys, "text"), model, init),
    "distill": _read_distill(keys_lib.section(keys, "distill")),
    "pp": _read_preprocessing(keys_lib.section(keys, "pp"), model),
    "optim": keys_lib.read(OptimPlan, keys_lib.section(keys, "optim"), "optim."),
    "mesh": keys_lib.read(MeshPlan, keys_lib.section(keys, "mesh"), "mesh."),
  }
  top = {k: v for k, v in keys.items() if k not in sections}
  if top.get("ema_decay") == 0:  # A command line has no None.
    del top["ema_decay"]
  plan = keys_lib.read(Plan, top, "", sections)
  plan = dataclasses.replace(plan, **_absolute(plan))
  checks.refuse_without_effect(plan, keys)
  checks.check(plan)
  if plan.epochs is None and plan.warmup_epochs is None:
    plan = plan.with_steps(0)
  if plan.shuffle_buffer is not None:
    log.info("shuffle_buffer=%s is unused: every epoch is shuffled globally", plan.shuffle_buffer)
  return plan


# Keys of the ancestor that are gone, and what to do instead.
_REMOVED = {
  "trainer": "remove it (`vit-jax train` is the trainer)",
  "tfds_manual_dir": "remove it (prepare the data set beforehand, then set tfds_data_dir)",
  "prefetch": "remove it (reading ahead is automatic; `threads` sets the number of readers)",
  "eval_only": "remove it and run `vit-jax evaluate`",
  "with_dataset": "set `dataset` and `pp`",
}
_REMOVED_MODEL = {
  "model_name": "use model.name",
  "transformer": "its fields are the model's own now: use model.{inner}",
  "patches": "use model.patch_size",
  "resnet": "its fields are the model's own now (see `vit-jax models`)",
  "num_classes": "remove it (the data set decides)",
  "image_size": "use pp.crop",
}


def _read_model(keys: dict[str, Any], model_or_filename: Any) -> ModelPlan:
  keys_lib.refuse_removed(keys, _REMOVED_MODEL, "model.")
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
  # `--config.distill.teacher=` and `--config.distill.image_size=0`: a command line has no None.
  given = {key: value for key, value in _given(keys).items() if value != ""}
  if given.get("image_size") == 0:
    del given["image_size"]
  if "teacher" not in given:
    if given and keys.get("teacher") != "":
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
  for key in ("mean", "std"):
    value = given.get(key, getattr(spec, key))
    if isinstance(value, int | float):
      value = (value,)
    elif key not in given and given.get("channels") == 1:
      value = (sum(value) / len(value),)
    given[key] = value
  given.setdefault("crop", spec.image_size)
  given.setdefault("train", None)
  read = keys_lib.read(transforms.Preprocessing, given, "pp.")
  # `--config.pp.val=` asks for no split, which is not the same as not naming one.
  none = {
    split: splits.NONE for split in ("val", "test") if given.get(split) in ("", "none", "None")
  }
  return dataclasses.replace(read, **none)


def _absolute(plan: Plan) -> dict[str, Any]:
  """The keys that name directories, with those that exist as absolute paths.

  So a data set is found from another working directory, and "small", "small/", "./small" are one.
  """
  at = lambda name: sources.absolute(name) if name else name
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
