# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Two towers in files: LiT's npz (`img/...`, `txt/...`, `t`), and BERT as transformers names it.

The image tower's names are those of its family, so it is read as a file of its own. A tower can
come from a file of its own as well, which is how a LiT is made: see `load_towers`.
"""

import logging
import math
import os
from collections.abc import Iterable, Mapping
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from vit_jax.checkpoints import bit, download, npz, pretrained, reading
from vit_jax.errors import UserError
from vit_jax.models import registry
from vit_jax.models.lit import BertTower, TextTransformer, example_inputs
from vit_jax.params import tree
from vit_jax.params.tables import (
  COPY,
  HEADS_IN,
  HEADS_OUT,
  TAKE_OUT,
  How,
  Table,
  dense,
  norm,
  refuse_left,
  to_ours,
  to_theirs,
)
from vit_jax.params.tree import Flat

logger = logging.getLogger(__name__)


def _apart(joined: np.ndarray, *shape: int) -> list[np.ndarray]:
  """Splits the heads; what has them apart, or does not fit, is left to the comparison of shapes."""
  fits = joined.ndim == len(shape) - 1 and joined.size == math.prod(shape)
  return [joined.reshape(shape) if fits else joined]


# Flaxformer, which the released files come from, stores the heads of a projection joined.
_JOINED_OUT = How(
  lambda x, _, heads: _apart(x, x.shape[0], heads, x.shape[-1] // heads),
  lambda xs: xs[0].reshape(xs[0].shape[0], -1),
)
_JOINED_BIAS = How(
  lambda x, _, heads: _apart(x, heads, x.shape[-1] // heads), lambda xs: xs[0].reshape(-1)
)
_JOINED_IN = How(
  lambda x, _, heads: _apart(x, heads, x.shape[0] // heads, x.shape[-1]),
  lambda xs: xs[0].reshape(-1, xs[0].shape[-1]),
)

_BLOCK = "encoderblock_{i}/"
_ATTENTION = _BLOCK + "MultiHeadDotProductAttention_0/"
_LAYER = "BertEncoder_0/encoder_block/layer_sequence/layers_{i}/"
FLAXFORMER_TO_OURS: Table = [
  *(
    (f"BertEncoder_0/embedder/embedders_{theirs}/embedding", f"{ours}/embedding", COPY)
    for theirs, ours in (
      ("token_ids", "token_embedding"),
      ("position_ids", "position_embedding"),
      ("segment_ids", "segment_embedding"),
    )
  ),
  *(
    (f"{theirs}/{leaf}", f"{ours}/{leaf}", COPY)
    for theirs, ours, leaves in (
      ("BertEncoder_0/layer_norm", "embedding_norm", ("scale", "bias")),
      (_LAYER + "attention_block/layer_norm", _BLOCK + "LayerNorm_0", ("scale", "bias")),
      (_LAYER + "mlp_block/mlp/dense_layer", _BLOCK + "MlpBlock_0/Dense_0", ("kernel", "bias")),
      (_LAYER + "mlp_block/dense_layer", _BLOCK + "MlpBlock_0/Dense_1", ("kernel", "bias")),
      (_LAYER + "mlp_block/layer_norm", _BLOCK + "LayerNorm_1", ("scale", "bias")),
      ("head", "head", ("kernel", "bias")),
    )
    for leaf in leaves
  ),
  *(
    (f"{_LAYER}attention_block/attention_layer/{name}/{leaf}", f"{_ATTENTION}{name}/{leaf}", how)
    for name in ("query", "key", "value")
    for leaf, how in (("kernel", _JOINED_OUT), ("bias", _JOINED_BIAS))
  ),
  (_LAYER + "attention_block/dense_layer/kernel", _ATTENTION + "out/kernel", _JOINED_IN),
  (_LAYER + "attention_block/dense_layer/bias", _ATTENTION + "out/bias", COPY),
]

HF_BERT_TO_OURS: Table = [
  *(
    (f"embeddings.{name}_embeddings.weight", f"{ours}_embedding/embedding", COPY)
    for name, ours in (("word", "token"), ("position", "position"), ("token_type", "segment"))
  ),
  *norm("embeddings.LayerNorm", "embedding_norm"),
  *(
    (f"encoder.layer.{{i}}.attention.self.{name}.{theirs}", f"{_ATTENTION}{name}/{ours}", HEADS_OUT)
    for name in ("query", "key", "value")
    for theirs, ours in (("weight", "kernel"), ("bias", "bias"))
  ),
  *dense("encoder.layer.{i}.attention.output.dense", _ATTENTION + "out", HEADS_IN),
  *norm("encoder.layer.{i}.attention.output.LayerNorm", _BLOCK + "LayerNorm_0"),
  *dense("encoder.layer.{i}.intermediate.dense", _BLOCK + "MlpBlock_0/Dense_0"),
  *dense("encoder.layer.{i}.output.dense", _BLOCK + "MlpBlock_0/Dense_1"),
  *norm("encoder.layer.{i}.output.LayerNorm", _BLOCK + "LayerNorm_1"),
]
# Of BERT's pretraining, not of its encoder; and a buffer of old versions.
HF_BERT_BESIDE = ("pooler.", "cls.", "embeddings.position_ids")
HF_BERT_NUMERICS = {"activation": "gelu", "layer_norm_eps": 1e-12}


def open_checkpoint(
  entry: registry.Entry,
  path: str | os.PathLike,
  *,
  overrides: Mapping[str, Any],
  **image_options: Any,
) -> pretrained.Opened:
  """Two towers with the weights of one file; what `pretrained.open_checkpoint` does for them.

  Args:
    entry: of the registry.
    path: an npz or a work directory with `img/`, `txt/` and `t`.
    overrides: fields of the model; those of a tower are a mapping.
    **image_options: `image_size`, `position_resize`, ... of `pretrained.from_pretrained`.

  Raises:
    UserError: the file has no two towers, or a tower does not fit.
  """
  path = download.fetch(path)
  arrays, metadata = reading.read_arrays(path)
  arrays = npz.strip_prefixes(arrays, ("opt/target/", "params/"))
  parts = {tower: _under(f"{tower}/", arrays) for tower in ("img", "txt")}
  towers = ("img/", "txt/", tree.STATISTICS)
  beside = {name: x for name, x in arrays.items() if not name.startswith(towers)}
  if not all(parts.values()):
    raise UserError(
      f"{path} has no two towers (parameters under img/ and txt/), as {entry.name} needs; a tower "
      "of its own is loaded in training, by --config.init.img=FILE and --config.init.txt=FILE."
    )
  statistics = _under(f"{tree.STATISTICS}img/", arrays)
  parts["img"] |= {tree.STATISTICS + path: x for path, x in statistics.items()}
  stored = reading.told_fields(metadata, entry, str(path))
  fields = {
    tower: registry.tower_config(
      registry.tower_config(entry.config[tower], stored.get(tower, {})), _given(tower, overrides)
    )
    for tower in parts
  }
  others = {k: v for k, v in {**stored, **overrides}.items() if k not in parts}
  others.setdefault("bias_init", 0.0 if "b" in beside else None)
  if others["bias_init"] is not None and "b" not in beside:
    logger.info("Initialised b, which the file lacks, at %s.", others["bias_init"])
    beside["b"] = np.full(1, others["bias_init"], np.float32)

  img = _image_tower(fields["img"], parts["img"], f"img/ of {path}", metadata, image_options)
  txt = registry.create_text_tower(**fields["txt"])
  flat, unknown = _text_names(parts["txt"], txt)
  _require(txt, flat, f"{path}: the text tower", unknown)
  top = {name: np.atleast_1d(x) for name, x in tree.as_float32(beside).items()}
  expected = {"t": (1,), **({"b": (1,)} if others["bias_init"] is not None else {})}
  if problems := tree.differences(top, expected):
    raise UserError(f"{path} does not fit {entry.name}: {problems}.")
  model = registry.create_model(entry.name, img=img.model, txt=txt, **others)
  params = {
    "img": img.variables["params"],
    "txt": tree.to_tree(dict(flat), scanned=tree.is_scanned(txt)),
    **{name: jnp.asarray(x) for name, x in top.items()},
  }
  variables = {"params": params, **_statistics(img.variables)}
  return pretrained.Opened(
    entry.name, model, variables, path, img.image_size, img.known_size, metadata
  )


def _statistics(variables: Mapping[str, Any]) -> dict[str, Any]:
  """The batch statistics of an image tower as those of both towers; {} if it has none."""
  name = tree.STATISTICS[:-1]
  return {name: {"img": variables[name]}} if name in variables else {}


def load_towers(
  name: str,
  files: Mapping[str, str | None],
  overrides: Mapping[str, Any],
  images: jax.Array,
  seed: int = 0,
) -> tuple[nn.Module, dict[str, Any]]:
  """A model of two towers whose weights come from files of their own, or are initialised.

  Args:
    name: of a model of two towers in the registry.
    files: "img" and "txt": a file, folder, work directory, address or model name, or None. Images:
      what `from_pretrained` takes. Texts: BERT as transformers names it.
    overrides: fields of the model.
    images: float32 [1, height, width, channels], of the size and channels to load at.
    seed: of what no file holds: heads that give the embeddings' width, the temperature, a tower
      without a file.

  Returns:
    The model and its variables.

  Raises:
    UserError: a file does not fit its tower.
  """
  entry = registry.get_entry(name)
  fields = {
    tower: registry.tower_config(entry.config[tower], _given(tower, overrides))
    for tower in ("img", "txt")
  }
  found, towers, statistics = {}, {}, {}
  if files.get("img"):
    given = {k: v for k, v in fields["img"].items() if k not in ("name", "num_classes")}
    source = files["img"]
    named = _model_name(source)
    if named:
      if named != fields["img"]["name"]:
        raise UserError(
          f"the image tower is a {fields['img']['name']}, but init.img={source} is another model; "
          f"pass init.img={fields['img']['name']} or a file."
        )
      source = None
    _, *size, channels = images.shape
    img, variables = pretrained.from_pretrained(
      fields["img"]["name"], source, num_classes=0, image_size=size, channels=channels, **given
    )
    towers["img"] = img.clone(num_classes=fields["img"]["num_classes"])
    found["img"], statistics = variables["params"], _statistics(variables)
  if files.get("txt"):
    path = download.fetch(files["txt"])
    arrays, metadata = reading.read_arrays(path)
    heads = metadata.get("num_heads", fields["txt"].get("num_heads"))
    told = {k: metadata[k] for k in HF_BERT_NUMERICS if k in metadata}
    numerics = {**HF_BERT_NUMERICS, **told} if _is_hf(arrays) else {}
    txt = registry.create_text_tower(**{**numerics, **fields["txt"]})
    if heads not in (None, txt.num_heads):
      raise UserError(
        f"{path} has {heads} attention heads, but the text tower {txt.num_heads}; "
        f"set txt.num_heads={heads}."
      )
    flat, unknown = _text_names(arrays, txt)
    _require(txt.clone(num_classes=0), flat, str(path), unknown)
    towers["txt"] = txt
    found["txt"] = tree.to_tree(dict(flat), scanned=tree.is_scanned(txt))
  model = registry.create_model(name, **{**overrides, **towers})
  return model, {**_completed(model, found, images, seed), **statistics}


def _model_name(source: str) -> str | None:
  """The model that a name means; None for a file or an address."""
  if os.path.exists(source) or download.is_address(source):
    return None
  try:
    return registry.resolve_name(source)
  except UserError:
    return None


def _completed(
  model: nn.Module, found: Mapping[str, Any], images: jax.Array, seed: int
) -> dict[str, Any]:
  """Variables with the parameters found, and initial values of the others."""
  flatten = lambda params: flax.traverse_util.flatten_dict(params, sep="/")
  found = flatten(found)

  @jax.jit
  def missing() -> tuple[dict[str, jax.Array], dict[str, Any]]:
    variables = model.init(jax.random.key(seed), *example_inputs(model, images), train=False)
    params = flatten(variables.pop("params"))
    return {path: x for path, x in params.items() if path not in found}, variables

  fresh, collections = missing()
  logger.info("Initialised, since no file holds them: %s.", ", ".join(_tops(fresh)))
  params = flax.traverse_util.unflatten_dict({**found, **fresh}, sep="/")
  return {"params": params, **collections}


def _tops(paths: Iterable[str]) -> list[str]:
  """What paths are under, to two levels: "txt/head", "t"."""
  return sorted({"/".join(path.split("/")[:2]) for path in paths})


def to_released(flat: Mapping[str, np.ndarray]) -> Flat:
  """Our names of both towers as the released files'."""
  img, txt = _under("img/", flat), _under("txt/", flat)
  is_bit = any(path.startswith("root_block/") for path in img)
  img = bit.to_released(img) if is_bit else npz.to_released(img)
  if "token_embedding/embedding" in txt:
    txt, left = to_theirs(txt, FLAXFORMER_TO_OURS)
    refuse_left("LiT's .npz", left, TAKE_OUT)
  return {
    **{f"img/{path}": x for path, x in img.items()},
    **{f"txt/{path}": x for path, x in txt.items()},
    **{path: x for path, x in flat.items() if not path.startswith(("img/", "txt/"))},
  }


def _given(tower: str, overrides: Mapping[str, Any]) -> Mapping[str, Any]:
  """The fields that a caller overrides in a tower."""
  given = overrides.get(tower, {})
  if not isinstance(given, Mapping):
    raise UserError(
      f"{tower} is a {type(given).__name__}, but beside a file it is a mapping of the fields that "
      f"differ from the file's; pass {tower}={{...}} or leave it out."
    )
  return given


def _under(prefix: str, flat: Mapping[str, Any]) -> dict[str, Any]:
  return {path.removeprefix(prefix): x for path, x in flat.items() if path.startswith(prefix)}


def _image_tower(
  fields: Mapping[str, Any],
  arrays: Mapping[str, np.ndarray],
  origin: str,
  metadata: Mapping[str, Any],
  options: Mapping[str, Any],
) -> pretrained.Opened:
  given = {k: v for k, v in fields.items() if k not in ("name", "num_classes")}
  heads = getattr(registry.create_model(fields["name"], **given), "num_heads", 1)
  about = reading.image_metadata(metadata)
  source = reading.as_source(arrays, about, origin, heads=heads)
  opened = pretrained.open_checkpoint(fields["name"], source, **options, **given)
  classes = opened.model.num_classes
  if classes != fields["num_classes"]:
    has = f"embeds in {classes} dimensions" if classes else "has no head"
    raise UserError(
      f"{origin}: the image tower {has}, but img.num_classes={fields['num_classes']}; "
      f"pass img={{'num_classes': {classes}}}."
    )
  return opened


def _is_hf(names: Iterable[str]) -> bool:
  """Whether a text tower has transformers' names."""
  return any(name.endswith("embeddings.word_embeddings.weight") for name in names)


def _text_names(
  arrays: Mapping[str, np.ndarray], tower: BertTower | TextTransformer
) -> tuple[Flat, list[str]]:
  """Our names for a text tower's arrays under any names that are known, and those that are not."""
  if any(name.startswith("BertEncoder_0/") for name in arrays):
    return to_ours(tree.as_float32(arrays), FLAXFORMER_TO_OURS, tower.num_heads)
  if _is_hf(arrays):
    arrays = _under("bert.", arrays) or dict(arrays)
    arrays = {
      name.replace(".gamma", ".weight").replace(".beta", ".bias"): x
      for name, x in arrays.items()
      if not name.startswith(HF_BERT_BESIDE)
    }
    return to_ours(tree.as_float32(arrays), HF_BERT_TO_OURS, tower.num_heads)
  flat = npz.with_linen_names(arrays, npz.BLOCKS_TO_LINEN)
  # Some of big_vision's files have a second position embedding by mistake: their sum counts.
  first, second = flat.get("pos_embedding"), flat.get("Encoder_0/pos_embedding")
  if first is not None and second is not None and first.shape == second.shape:
    flat["pos_embedding"] = first + flat.pop("Encoder_0/pos_embedding")
  return flat, []


def _require(tower: nn.Module, flat: Flat, origin: str, unknown: list[str] = ()) -> None:
  """Raises a UserError unless the arrays are those of the tower."""
  expected = tree.input_shapes(tower, jax.ShapeDtypeStruct((1, tower.max_len), jnp.int32))
  if problems := tree.differences(flat, expected, unknown):
    raise UserError(f"{origin} does not fit {type(tower).__name__}: {problems}.")
