# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Opens any weight file: what container it is, whose names it uses, and which family it is of.

Containers are told by their first bytes and not by their suffix; names by a few that each scheme
must have. A new scheme is a row in SCHEMES, a new family a row in FAMILIES.
"""

import contextlib
import dataclasses
import logging
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
from flax.errors import FlaxError

from vit_jax.checkpoints import (
  beside,
  bit,
  grids,
  huggingface,
  metaformer,
  mobilevit,
  npz,
  swin,
  torch,
  torch_files,
)
from vit_jax.checkpoints.metadata import as_tuples
from vit_jax.errors import UserError
from vit_jax.models import registry
from vit_jax.params import tree
from vit_jax.params.tree import Flat

logger = logging.getLogger(__name__)

# Fields of a model that its weights decide, because the same weights mean other numbers without.
NUMERICS = (
  *("activation", "layer_norm_eps", "weight_standardization", "group_norm_eps"),
  *("batch_norm_eps", "final_norm", "token_mixer", "trained_windows"),
)
# Those that only a `config.json`, or a Swin V2's file, tells.
TOLD_BY_FILES = ("window_size", "classifier")


# Fields that count layers: a damaged one would take hours to build.
DEPTHS = ("num_layers", "num_blocks", "depths", "num_units", "stem_blocks", "num_residuals")
MOST_LAYERS = 1_000


@dataclasses.dataclass(frozen=True)
class Source:
  """What a checkpoint holds, before it is fitted to a model.

  Attributes:
    origin: the path it was read from.
    scheme: whose names it used, a key of SCHEMES.
    flat: float32 parameters by our paths, one entry per layer; statistics of batch norms too.
    unknown: names that stand for no parameter of ours.
    metadata: ours, or what a Hugging Face `config.json` says; {} in other files.
    slots: how many vectors may stand before those of the patches in its position embedding.
  """

  origin: str
  scheme: str
  flat: Flat
  unknown: tuple[str, ...]
  metadata: Mapping[str, Any]
  slots: tuple[int, ...] = (0,)

  @property
  def is_ours(self) -> bool:
    """Whether it is a file or a run of ours."""
    return "model" in self.metadata

  @property
  def is_square(self) -> bool:
    """Whether its grid is square if it can be: Google's own code reads its files so."""
    return self.scheme == "official" and not self.is_ours


@dataclasses.dataclass(frozen=True)
class Scheme:
  """A way of naming parameters.

  Attributes:
    name: how messages call it.
    sign: pattern of a name that every file of the scheme has.
    convert: (arrays, attention heads) -> (our flat parameters, unknown names).
    numerics: the fields of a model that weights with such names imply.
    unslotted: pattern of a name which shows that positions may be added before there are learned
      tokens, so that the position embedding has no slots for these.
  """

  name: str
  sign: re.Pattern[str]
  convert: Callable[[Mapping[str, Any], int], tuple[Flat, list[str]]]
  numerics: Mapping[str, Any]
  unslotted: re.Pattern[str] | None = None


SCHEMES = {
  # Swin's come first, since some of its names are those of other families too.
  "swin": Scheme(
    "Swin's npz",
    re.compile(r"(^|/)layers_\d+/blocks_\d+/attention/"),
    lambda flat, heads: (npz.to_linen(flat), []),
    swin.NUMERICS,
  ),
  "timm_swin": Scheme(
    "timm's Swin",
    re.compile(r"^layers\.\d+\.blocks\.\d+\.attn\."),
    lambda state, heads: swin.from_timm(state),
    swin.NUMERICS,
  ),
  "hf_swin": Scheme(
    "Hugging Face's Swin",
    re.compile(r"(^|\.)encoder\.layers\.\d+\.blocks\.\d+\.attention\."),
    lambda state, heads: swin.from_hf(state),
    swin.NUMERICS,
  ),
  "official": Scheme(
    "the official npz",
    re.compile(r"(^|/)(embedding|stem)/kernel$"),
    lambda flat, heads: (npz.to_linen(flat), []),
    {
      "activation": "gelu_tanh",
      "layer_norm_eps": 1e-6,
      "weight_standardization": "google",
      "group_norm_eps": 1e-6,
    },
    unslotted=re.compile(r"(?<!posembed_input/)\bpos_embedding$"),  # big_vision's.
  ),
  "timm_mobilevit": Scheme(
    "timm's MobileViT",
    re.compile(r"^stages\.\d+\.\d+\.conv_kxk\.conv\.weight$"),
    mobilevit.from_timm,
    mobilevit.NUMERICS,
  ),
  "hf_mobilevit": Scheme(
    "Hugging Face's MobileViT",
    re.compile(r"(^|\.)conv_stem\.convolution\.weight$"),
    mobilevit.from_hf,
    mobilevit.NUMERICS,
  ),
  # Before timm's, whose sign is also a name of these files.
  "poolformer": Scheme(
    "PoolFormer's release",
    re.compile(r"^network\.0\.0\.layer_scale_1$"),
    lambda state, heads: torch.to_ours(tree.as_float32(state), metaformer.RELEASED_TO_OURS, heads),
    metaformer.NUMERICS,
  ),
  "timm": Scheme(
    "timm",
    re.compile(
      r"^(patch_embed\.proj|stem\.proj|stages\.0\.blocks\.0\.downsample\.conv)\.weight$"
      r"|^stages\.0\.blocks\.0\.layer_scale1\.scale$"
    ),
    lambda state, heads: torch.from_timm(tree.as_float32(state), heads),
    torch.TIMM_NUMERICS,
    unslotted=re.compile(r"\.(ls1\.gamma|gamma_1)$"),  # DeiT-III's, among others.
  ),
  "hf": Scheme(
    "Hugging Face",
    re.compile(
      r"(^|\.)embeddings\.patch_embeddings\.projection\.weight$"
      r"|(^|\.)encoder\.patch_embeddings\.0\.projection\.weight$"
    ),
    lambda state, heads: torch.from_hf(tree.as_float32(state), heads),
    torch.HF_NUMERICS,
  ),
  "torchvision": Scheme(
    "torchvision",
    re.compile(r"^conv_proj\.weight$"),
    lambda state, heads: torch.to_ours(tree.as_float32(state), torch.TORCHVISION_TO_OURS, heads),
    torch.TORCHVISION_NUMERICS,
  ),
  "bit": Scheme(
    "BiT's npz",
    re.compile(r"(^|/)resnet/root_block/standardized_conv2d(_\d+)?/kernel$"),
    lambda flat, heads: bit.from_official(flat),
    bit.NUMERICS,
  ),
  "big_vision_bit": Scheme(
    "big_vision's BiT",
    re.compile(r"(^|/)root_block/conv_root/kernel$"),
    lambda flat, heads: (npz.to_linen(flat), []),
    bit.NUMERICS,
  ),
  "metaformer": Scheme(
    "our own MetaFormer",
    re.compile(r"(^|/)input_embedding/kernel$"),
    lambda flat, heads: (npz.to_linen(flat), []),
    metaformer.NUMERICS,
  ),
  "mobilevit": Scheme(
    "our own MobileViT",
    re.compile(r"(^|/)stem/conv/kernel$"),
    lambda flat, heads: (npz.to_linen(flat), []),
    mobilevit.NUMERICS,
  ),
}

# Family, pattern of a name that only this family has (ours or timm's); the first that is found.
FAMILIES = [
  ("Mixer", re.compile(r"(^|/)MixerBlock_\d+/|(^|\.)mlp_tokens\.")),
  ("MetaFormer", re.compile(r"(^|/)stage_\d+_block_\d+/")),
  ("MobileViT", re.compile(r"(^|/)stage_\d+_mobilevit/fusion/")),
  ("MobileViTV2", re.compile(r"(^|/)stage_\d+_mobilevit/encoderblock_\d+/attention/")),
  ("Swin V2", re.compile(r"(attn\.|attention(/|\.self\.))logit_scale$")),
  ("Swin", re.compile(r"relative_position_bias_table\b")),
  ("BiT ResNet", re.compile(r"(^|/)root_block/|(^|/)resnet/|^stages\.\d+\.blocks\.\d+\.conv3\.")),
  ("hybrid ViT", re.compile(r"(^|/)conv_root/kernel$|^patch_embed\.backbone\.")),
  ("distilled DeiT", re.compile(r"^(dist|dist_token|(\w+\.)?embeddings\.distillation_token)$")),
  ("ViT", re.compile(r"(^|/)Transformer/encoderblock(_\d+)?/|(^|\.)blocks\.\d+\.attn\.qkv\.")),
]


def family_of(names: Iterable[str]) -> tuple[str, str] | None:
  """The family that parameter names belong to, and a name that shows it; None if unknown."""
  names = list(names)
  for family, pattern in FAMILIES:
    for name in names:
      if pattern.search(name):
        return family, name
  return None


def scheme_of(names: Iterable[str]) -> str | None:
  """The key in SCHEMES of the scheme that names are of; None if none knows them."""
  names = list(names)
  return next((k for k, s in SCHEMES.items() if any(map(s.sign.search, names))), None)


# The image tower in a file of two; see npz.PREFIXES.
_IMAGE_TOWER = re.compile(r"(opt/target/)?(params/)?img/")


def image_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
  """What metadata of two towers says of the image tower alone."""
  about = {key: metadata[key] for key in ("image_size", "input") if key in metadata}
  tower = metadata.get("config", {}).get("img") or metadata.get("fields", {}).get("img")
  if not tower:
    return about
  model = registry.create_model(**tower)  # Its numerics may be those of its row, and go unsaid.
  numerics = {field: getattr(model, field) for field in NUMERICS if hasattr(model, field)}
  heads = ("name", "num_classes", "head_zeroinit", *NUMERICS)
  fields = {key: value for key, value in tower.items() if key not in heads}
  return {**about, "model": tower["name"], "fields": fields, **numerics}


def _container(path: Path) -> str:
  """Which kind a path is: "run" or "folder" (directories), "npz", "safetensors" or "pickled"."""
  if path.is_dir():
    return "folder" if torch_files.folder_weights(path) else "run"
  try:
    with open(path, "rb") as file:
      head = file.read(4096)
  except FileNotFoundError as error:
    raise UserError(
      f"there is no checkpoint at {path}; pass a file, a work directory or an address."
    ) from error
  except OSError as error:
    raise UserError(f"{path} cannot be read ({error.strerror}).") from error
  suffix = path.suffix.lower()
  if head[8:9] == b"{" or suffix == ".safetensors":
    return "safetensors"
  # torch writes zip archives too, and before 1.6 bare pickles.
  pickled = suffix in (".pth", ".pt", ".bin", ".tar") or b"/data.pkl" in head
  return "pickled" if pickled and not head.startswith(b"\x93NUMPY") else "npz"


def read_arrays(path: str | os.PathLike) -> tuple[Flat, dict[str, Any]]:
  """Reads the arrays of a file, folder or work directory as they are, and our metadata.

  Raises:
    UserError: there is no such file, or it is damaged or of another kind.
  """
  readers = {
    "run": _read_run,
    "npz": npz.read_npz,
    "folder": torch_files.read_folder,
    "safetensors": torch_files.read_safetensors,
    "pickled": lambda path: (torch_files.read_pickled(path), {}),
  }
  path = Path(path)
  container = _container(path)
  arrays, metadata = readers[container](path)
  return arrays, metadata or _beside(path, container, arrays)


def _beside(path: Path, container: str, names: Collection[str]) -> dict[str, Any]:
  """What a `config.json` beside PyTorch's weights says."""
  if container in ("npz", "run"):
    return {}
  folder = path if container == "folder" else path.parent
  owned = container == "folder" or path in torch_files.folder_weights(folder)
  return beside.read_config(folder, names, scheme_of(names), owned=owned)


def read_metadata(path: str | os.PathLike) -> dict[str, Any]:
  """What was said beside the weights (model, activation, class names, ...); {} if nothing.

  Reads no parameters of an npz or safetensors file.

  Raises:
    UserError: as `read_arrays`.
  """
  path = Path(path)
  if own := own_metadata(path):
    return own
  container = _container(path)
  folder = path if container == "folder" else path.parent
  if container in ("npz", "run") or not (folder / huggingface.CONFIG).is_file():
    return {}
  files = torch_files.folder_weights(path) if container == "folder" else [path]
  is_pickled = _container(files[0]) == "pickled"
  read = torch_files.read_pickled if is_pickled else torch_files.safetensors_names
  return _beside(path, container, [name for file in files for name in read(file)])


def own_metadata(path: str | os.PathLike) -> dict[str, Any]:
  """What we wrote beside the weights, and no others; as `read_metadata`."""
  path = Path(path)
  container = _container(path)
  if container == "run":
    from vit_jax.workdir import run_info

    run = run_info.existing_run(path)
    return _run_metadata(run, run.create_model())
  if container == "npz":
    return npz.read_npz(path, only=npz.METADATA)[1]
  file = torch_files.folder_weights(path)[0] if container == "folder" else path
  if _container(file) == "safetensors":
    return torch_files.read_safetensors(file, tensors=False)[1]
  return {}


def _read_run(path: Path) -> tuple[Flat, dict[str, Any]]:
  """The best checkpoint of a work directory; its model's own fields are under "fields"."""
  from vit_jax.workdir import run_info

  model, variables, run = run_info.load_run(path)
  return tree.from_variables(variables), _run_metadata(run, model)


def _run_metadata(run: Any, model: nn.Module) -> dict[str, Any]:
  """What `workdir.run_info.RunInfo` tells of a run's weights, as the metadata of a file of ours."""
  metadata = {
    "model": run.model_name,
    "class_names": list(run.class_names),
    "image_size": list(run.image_size),
    "fields": {key: value for key, value in run.model_fields.items() if key != "num_classes"},
    **{field: getattr(model, field) for field in NUMERICS if hasattr(model, field)},
    **({"window_size": model.window_size} if hasattr(model, "trained_windows") else {}),
  }
  if text := run.plan.text:
    metadata["text"] = {key: getattr(text, key) for key in ("tokenizer", "vocabulary", "max_len")}
  return metadata


def told_fields(metadata: Mapping[str, Any], entry: registry.Entry, origin: str) -> dict[str, Any]:
  """The fields of a model that its file or run tells, where they are not those of its row.

  Numerics and the head are left out, which other rules decide.

  Args:
    metadata: what the file tells; {} or without a model if it is not ours.
    entry: of the model that is asked for. Of another kind of model nothing is told.
    origin: what messages call the file.

  Raises:
    UserError: a field is unknown, or not of the type that the model needs.
  """
  row = registry.MODELS.get(metadata.get("model"))
  if row is None or row.module is not entry.module:
    return {}
  told = metadata.get("fields", metadata.get("config", {}))
  usual = registry.fields_of(registry.create_model(row.name))
  damaged = f"{origin}: the metadata beside its weights is damaged"
  if not {*told} <= {*usual}:
    unknown = ", ".join(sorted({*told} - {*usual}))
    raise UserError(f"{damaged} (it has {unknown}); fetch or copy it again.")
  fields = {key: as_tuples(value) for key, value in told.items()}
  for key, value in fields.items():
    fits = registry.takes(entry.module, key, value)
    layers = value if isinstance(value, tuple) else (value,)
    if not fits or (key in DEPTHS and max(layers, default=0) > MOST_LAYERS):
      raise UserError(f"{damaged} ({key}={value!r}); fetch or copy it again.")
  return {
    key: value
    for key, value in fields.items()
    if key not in (*NUMERICS, "num_classes") and value != usual[key]
  }


@contextlib.contextmanager
def blamed_on(origin: str, metadata: Mapping[str, Any]) -> Iterator[None]:
  """Errors about what a file holds name the file; where it tells fields, those of building too."""
  try:
    yield
  except UserError as error:
    if origin in str(error):
      raise
    raise UserError(f"{origin}: {error}") from error
  except (ArithmeticError, AssertionError, FlaxError, LookupError, TypeError, ValueError) as error:
    if not metadata:
      raise
    raise UserError(
      f"{origin}: the model that it tells of cannot be built ({error}); fetch or copy it again, or "
      "pass its fields."
    ) from error


def read_source(
  path: str | os.PathLike, entry: registry.Entry, overrides: Mapping[str, Any]
) -> Source:
  """Reads a checkpoint and brings its names to ours.

  Args:
    path: a local file or work directory.
    entry: of the model that it is for.
    overrides: fields of that model which differ from its row and from what the file tells.

  Raises:
    UserError: as `read_arrays`.
  """
  arrays, metadata = read_arrays(path)
  if any(map(_IMAGE_TOWER.match, arrays)):
    metadata = image_metadata(metadata)
  fields = {**told_fields(metadata, entry, str(path)), **overrides}
  with blamed_on(str(path), metadata):  # Fused projections do not tell the heads.
    heads = getattr(registry.create_model(entry.name, **fields), "num_heads", 1)
  return as_source(arrays, metadata, str(path), heads=heads)


def as_source(
  arrays: Mapping[str, Any], metadata: Mapping[str, Any], origin: str, *, heads: int
) -> Source:
  """Brings the names of arrays to ours.

  Args:
    arrays: as a file has them.
    metadata: what the file tells.
    origin: what messages call them.
    heads: attention heads of the model.
  """
  scheme = scheme_of(arrays)
  beside = [name for name in arrays if torch.BESIDE.search(name)]
  if beside:
    logger.info("Left out %d arrays of the pretraining decoder in %s.", len(beside), origin)
    arrays = {name: value for name, value in arrays.items() if name not in {*beside}}
  if scheme is None:  # But perhaps a family that the caller can name in its error.
    return Source(origin, "unknown", arrays, (), metadata)
  metadata = {**metadata, **swin.windows_told(arrays, metadata, origin)}
  with blamed_on(origin, metadata):
    flat, unknown = SCHEMES[scheme].convert(arrays, heads)
  if scheme == "hf_mobilevit" and metadata.get("channel_order", "bgr") == "bgr":
    flat = mobilevit.flipped(flat, "from BGR to RGB")
  slots, unslotted = (grids.learned_tokens(flat),), SCHEMES[scheme].unslotted
  if unslotted and "model" not in metadata and any(map(unslotted.search, arrays)):
    slots = (0, *slots)
  return Source(origin, scheme, flat, tuple(unknown), metadata, slots)
