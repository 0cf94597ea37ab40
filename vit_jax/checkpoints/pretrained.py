# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""`from_pretrained`: models with weights.

Nothing is guessed silently: where numerics come from and what was resized, dropped or freshly
initialised is logged in one line each.
"""

import dataclasses
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn

from vit_jax.checkpoints import (
  adapt,
  bit,
  download,
  grids,
  hf_models,
  identity,
  metaformer,
  mobilevit,
  reading,
  swin,
  torch,
)
from vit_jax.checkpoints.reading import NUMERICS, SCHEMES, TOLD_BY_FILES, Source, family_of
from vit_jax.errors import UserError, choose, nearest
from vit_jax.models import registry
from vit_jax.params import tree
from vit_jax.params.resample import RESIZE_METHODS

logger = logging.getLogger(__name__)

AUGREG_ADDRESS = "gs://vit_models/augreg/{}.npz"
HEADS = (None, "keep", "fresh")
# Fields that say how a model is computed, and not what: a path alone stands for the model as it was
# written, a name for that model computed as usual.
HOW_COMPUTED = ("dtype", "remat", "scan_layers")


@dataclasses.dataclass(frozen=True)
class Opened:
  """A model with its weights, and what is known of both.

  Attributes:
    name: of the model in the registry.
    model, variables: as `from_pretrained` returns them.
    path: the local file or directory that was read; None where arrays were given.
    image_size: (height, width) in pixels that it was loaded at.
    known_size: the same where it is certain that the parameters are for it; else None.
    metadata: what the file tells; see reading.Source.
  """

  name: str
  model: nn.Module
  variables: dict[str, Any]
  path: Path | None
  image_size: tuple[int, int]
  known_size: tuple[int, int] | None
  metadata: Mapping[str, Any]


def from_pretrained(
  name: str | os.PathLike,
  checkpoint: str | os.PathLike | Source | None = None,
  num_classes: int | None = None,
  image_size: int | tuple[int, int] | None = None,
  *,
  head: str | None = None,
  classes: Iterable[int | str] | None = None,
  class_names: Sequence[str] | None = None,
  channels: int | None = None,
  checkpoint_image_size: int | tuple[int, int] | None = None,
  position_resize: str = "bilinear_aligned",
  patch_resize: str | None = None,
  **overrides: Any,
) -> tuple[nn.Module, dict[str, Any]]:
  """Builds a model and loads weights into it.

  Args:
    name: a model of the registry, or AugReg's short name or full file name; or, alone, the path or
      address of a file that tells its model: one that we wrote, the work directory of a run, or a
      released file under its own name.
    checkpoint: an .npz in any official layout; a .safetensors or PyTorch file with the names of
      timm (DeiT's and MAE's too), Hugging Face or torchvision; a Hugging Face folder; a work
      directory of ours; an https:// or gs:// address; or what `reading.read_source` returned. None
      fetches the registry's weights.
    num_classes: None or the checkpoint's own number keeps its head; another number gives a fresh
      zero head; 0 leaves the head out.
    image_size: pixels, one side or (height, width); None keeps the checkpoint's resolution.
    head: "fresh" replaces the head although the number of classes is the same; "keep" insists on
      the checkpoint's. A head that was trained behind `pre_logits` is only kept together with that
      layer: pass its `representation_size` (the registry's own weights need no asking).
    classes: keeps these classes of the checkpoint's head, in this order: indices, or names where
      the file's metadata has them.
    class_names: of the images that the model is for, by label. Where the checkpoint names its own,
      its head is kept for the same names only, with its rows in this order; where it does not,
      their number decides.
    channels: of the model's images; None keeps the checkpoint's. See adapt.adapt_channels.
    checkpoint_image_size: pixels of the images that the checkpoint was trained on, one side or
      (height, width), where neither the file nor a square tells which grid its positions are for.
    position_resize: how position embeddings are resampled, one of resample.RESIZE_METHODS.
    patch_resize: allows a checkpoint of another patch size, and says how its filters are resampled
      (resample.resize_filters). A method and no flag, because there is no usual one: FlexiViT's
      own code has "bilinear", timm "bicubic_antialias". Without it another patch size is refused,
      since a wrong name or file is the likelier reason.
    **overrides: fields of the model. `activation`, `layer_norm_eps` and, of hybrids,
      `weight_standardization` and `group_norm_eps` otherwise follow the file: its metadata, else
      the origin that its names show, else the registry. A file that we wrote and a run tell their
      other fields too, and are followed but for `dtype`, `remat` and `scan_layers`, which only a
      path without a name follows.

  Returns:
    (model, {"params": tree of float32 jax.Arrays}), and "batch_stats" beside "params" where the
    model has batch norms.

  Raises:
    UserError: the file cannot be read, is of another family, or does not fit; all leaves that are
      missing, extra or of another shape are listed together.
  """
  opened = open_checkpoint(
    name,
    checkpoint,
    num_classes,
    image_size,
    head=head,
    classes=classes,
    class_names=class_names,
    channels=channels,
    checkpoint_image_size=checkpoint_image_size,
    position_resize=position_resize,
    patch_resize=patch_resize,
    **overrides,
  )
  return opened.model, opened.variables


def open_checkpoint(
  name: str | os.PathLike | None,
  checkpoint: str | os.PathLike | Source | None = None,
  num_classes: int | None = None,
  image_size: int | tuple[int, int] | None = None,
  *,
  head: str | None = None,
  classes: Iterable[int | str] | None = None,
  class_names: Sequence[str] | None = None,
  channels: int | None = None,
  checkpoint_image_size: int | tuple[int, int] | None = None,
  position_resize: str = "bilinear_aligned",
  patch_resize: str | None = None,
  **overrides: Any,
) -> Opened:
  """As `from_pretrained`, with all that is known of the model; `name` may be None too."""
  classes = None if classes is None else _as_list(classes)
  _check_head(head, num_classes, classes, class_names)
  choose("position_resize", position_resize, RESIZE_METHODS)
  if patch_resize is not None:
    choose("patch_resize", patch_resize, RESIZE_METHODS)
  if image_size is not None:
    image_size = adapt.pair("image_size", image_size)
  if checkpoint_image_size is not None:
    checkpoint_image_size = adapt.pair("checkpoint_image_size", checkpoint_image_size)
  by_name = name
  name, checkpoint = identity.resolve(name, checkpoint)
  alone = name != by_name
  entry = registry.get_entry(name)
  if entry.family == "lit":
    from vit_jax.checkpoints import lit  # Late: it loads the image tower by this function.

    if (num_classes, head, classes, class_names) != (None, None, None, None):
      raise UserError(
        f"{name} has no classes, so num_classes, head and classes don't go with it; "
        "`vit-jax zeroshot` takes their names instead."
      )
    _check_overrides(name, checkpoint, overrides)
    return lit.open_checkpoint(
      entry,
      checkpoint if checkpoint is not None else _recommended(entry.name, entry),
      overrides=overrides,
      image_size=image_size,
      channels=channels,
      checkpoint_image_size=checkpoint_image_size,
      position_resize=position_resize,
      patch_resize=patch_resize,
    )
  source, path = checkpoint, None
  _check_overrides(name, checkpoint, {**overrides, "num_classes": num_classes})
  if not isinstance(checkpoint, Source):
    address = checkpoint if checkpoint is not None else _recommended(name, entry)
    path = download.fetch(address)
    source = reading.read_source(path, entry, overrides)
  _check_family(source, entry)
  if class_names is not None:
    theirs = source.metadata.get("class_names", ())
    decided = adapt.head_for(class_names, theirs, adapt.head_classes(source.flat))
    num_classes, head, classes = decided
  _check_class_names(source)
  chosen = adapt.adapt_classes(source.flat, classes, source.metadata.get("class_names", ()))
  source = dataclasses.replace(source, flat=adapt.adapt_channels(chosen, channels))

  old_classes = adapt.head_classes(source.flat)
  keep = _keeps_head(source, old_classes, num_classes, head)
  left_out = [
    *overrides,
    *(() if alone else HOW_COMPUTED),
    *(() if keep else ["representation_size"]),
  ]
  overrides = {**_fields(source, entry, left_out), **overrides}
  if num_classes is None:
    # A fresh head has the checkpoint's classes, else the registry's; a missing one stays missing.
    usual = registry.create_model(entry.name, **overrides).num_classes
    num_classes = old_classes or (usual if head == "fresh" else 0)
    if not num_classes:
      logger.info("%s has no head; the model returns its representation.", source.origin)
  if checkpoint is None and keep and "pre_logits/kernel" in source.flat:
    # A name alone asks for the published logits, and these pass through that layer.
    overrides = {"representation_size": source.flat["pre_logits/kernel"].shape[-1], **overrides}
  numerics = _numerics(source, entry, overrides)
  with reading.blamed_on(source.origin, source.metadata):
    model = registry.create_model(name, num_classes=num_classes, **{**numerics, **overrides})
    # The checkpoint's resolution is its grid times its own patches.
    patch = None if grids.is_free(source.flat) else adapt.patch_of(source.flat)
    theirs = model.clone(patch_size=patch) if patch else model
    trained = checkpoint_image_size or _told_size(source, theirs, entry, image_size)
    size, old, slots = _sizes(source, theirs, entry, image_size, trained)
    channels = adapt.input_channels(source.flat) or entry.input.channels
    expected = tree.expected_shapes(model, size, channels)
  _check_windows(source, model, size)
  flat = adapt.adapt_class_token(source.flat, expected, keeps_head=keep)
  if patch_resize:
    flat = adapt.adapt_patches(flat, expected, patch_resize)
  new = grids.of_size(model, size)
  flat = adapt.adapt_positions(
    flat, expected, new, old=old, slots=slots, method=position_resize, origin=source.origin
  )
  flat = swin.adapt_tables(flat, expected)
  flat = adapt.adapt_head(flat, expected, keep=keep, bias=getattr(model, "head_bias_init", 0.0))
  flat = adapt.adapt_representation(flat, expected, keeps_head=keep and bool(old_classes))
  problems = tree.differences(flat, expected, source.unknown)
  if problems:
    raise UserError(_misfit(source, entry, problems, expected))
  _check_told(source, model)
  known = bool(trained or image_size or grids.ROWS in flat or (source.is_square and old))
  flat, metadata = dict(flat), source.metadata
  del source, chosen  # `to_tree` frees the arrays one by one; nothing else may hold them.
  variables = tree.to_variables(flat, scanned=tree.is_scanned(model))
  return Opened(entry.name, model, variables, path, size, size if known else None, metadata)


def _as_list(classes: Iterable[int | str]) -> list[int | str]:
  if isinstance(classes, (str, int)):
    raise UserError(f"classes={classes!r} is not a list; pass [{classes!r}].")
  return list(classes)


def _check_head(
  head: str | None,
  num_classes: int | None,
  classes: Sequence[int | str] | None,
  class_names: Sequence[str] | None,
) -> None:
  """Refuses arguments that say different things of the head."""
  if head not in HEADS:
    raise UserError(f"head={head!r} is not known; pass 'keep', 'fresh' or None.")
  if classes is not None and (head == "fresh" or num_classes not in (None, len(classes))):
    raise UserError(
      f"a choice of {len(classes)} classes of the checkpoint's head does not go with "
      f"num_classes={num_classes}, head={head!r}; leave these two out."
    )
  if class_names is not None and (num_classes, head, classes) != (None, None, None):
    raise UserError("class_names decides on the head; leave num_classes, head and classes out.")


def _check_overrides(name: str, checkpoint: Any, overrides: Mapping[str, Any]) -> None:
  """Refuses fields before anything is fetched: a file of the user's may tell the others."""
  given = {k: v for k, v in overrides.items() if (k, v) != ("num_classes", None)}
  if checkpoint is None:
    registry.create_model(name, **given)
  else:
    registry.check_fields(name, given)


def _recommended(name: str, entry: registry.Entry) -> str:
  """The address of the weights that a name stands for."""
  file = name.removesuffix(".npz")
  if file != entry.name and file != registry.augreg_name(entry.name):
    return AUGREG_ADDRESS.format(file)  # A full AugReg file name is these weights and no others.
  if not entry.weights:
    near = nearest(entry.name, registry.list_models(pretrained=True))
    raise UserError(f"there are no released weights for {entry.name}; pass checkpoint=...{near}")
  weights = entry.weights[0]
  logger.info("Using %s (%s).", weights.url, weights.tag)
  return weights.url


def _check_family(source: Source, entry: registry.Entry) -> None:
  found = family_of([*source.flat, *source.unknown])
  family = _family(entry)
  if found and found[0] != family:
    names = _alike(source, found[0]) or [
      name for name, other in registry.MODELS.items() if _family(other) == found[0]
    ]
    advice = f"pass one of: {', '.join(names[:6])}" if names else f"pass a {family} checkpoint"
    raise UserError(
      f"{source.origin}: this is a {found[0]} checkpoint (it has {found[1]!r}), "
      f"but model {entry.name!r} is a {family}; {advice}."
    )
  if source.scheme == "unknown":
    schemes = ", ".join(scheme.name for scheme in SCHEMES.values())
    names = ", ".join(list(source.flat)[:3])
    raise UserError(
      f"{source.origin} has names of none of these: {schemes} (it has {names}); "
      f"pass a {family} checkpoint with such names."
    )


def _family(entry: registry.Entry) -> str:
  """The registry's family as reading.FAMILIES calls it."""
  if "-distilled" in entry.name:
    return "distilled DeiT"
  names = {"vit": "ViT", "testing": "ViT", "deit": "ViT", "hybrid": "hybrid ViT", "mixer": "Mixer"}
  names |= {"bit": "BiT ResNet", "swin": "Swin", "swin_v2": "Swin V2", "metaformer": "MetaFormer"}
  names |= {"mobilevit": "MobileViT", "mobilevit_v2": "MobileViTV2"}
  return names.get(entry.family, entry.family)


def _alike(source: Source, family: str) -> list[str]:
  """Models of the registry that the checkpoint says it is of, or whose sizes it has."""
  if source.metadata.get("model") in registry.MODELS:
    return [source.metadata["model"]]
  kernel = source.flat.get(adapt.first_of(adapt.PATCHES, source.flat))
  depth = len({match[2] for match in map(tree.LAYER.match, source.flat) if match})
  sizes = [names.sizes_of(source.flat) for names in (bit, swin, metaformer, mobilevit)]
  if kernel is not None and kernel.ndim == 4:
    patch, width = kernel.shape[0], kernel.shape[-1]
    sizes += [  # As ViTs call them, and Mixers.
      {"hidden_size": width, "num_layers": depth, "patch_size": patch},
      {"hidden_dim": width, "num_blocks": depth, "patch_size": patch},
    ]
  return [
    name
    for name, entry in registry.MODELS.items()
    if _family(entry) == family
    and any(size and size.items() <= entry.config.items() for size in sizes)
  ]


def _fields(source: Source, entry: registry.Entry, left_out: Sequence[str]) -> dict[str, Any]:
  """The fields of the model that the file tells, but for some; they are logged."""
  fields = reading.told_fields(source.metadata, entry, source.origin)
  fields = {key: value for key, value in fields.items() if key not in left_out}
  if fields:
    told = ", ".join(f"{key}={value!r}" for key, value in fields.items())
    what = "run" if "fields" in source.metadata else "model"
    logger.info("Fields of the %s in %s: %s.", what, source.origin, told)
  return fields


def _check_class_names(source: Source) -> None:
  names, classes = source.metadata.get("class_names", ()), adapt.head_classes(source.flat)
  if names and classes and len(names) != classes:
    raise UserError(
      f"{source.origin} names {len(names)} classes, but its head has {classes}; correct the names "
      "beside the weights, or leave them out."
    )


def _keeps_head(source: Source, old: int, num_classes: int | None, head: str | None) -> bool:
  if head == "keep" and (not old or num_classes not in (None, old)):
    has = f"a head of {old} classes" if old else "no head"
    raise UserError(
      f"head='keep' does not go with num_classes={num_classes}: {source.origin} has {has}."
    )
  return head != "fresh" and num_classes in (None, old)


def _numerics(
  source: Source, entry: registry.Entry, overrides: Mapping[str, Any]
) -> dict[str, Any]:
  """Fields that the weights decide, and where each came from, in one line of log."""
  fields = registry.model_fields(entry.module)
  scheme = SCHEMES[source.scheme]
  chosen, told = {}, []
  for field in (f for f in (*NUMERICS, *TOLD_BY_FILES) if f in fields):
    if field in overrides:
      value, where = overrides[field], "argument"
    elif field in source.metadata:
      value = source.metadata[field]
      value = tuple(value) if isinstance(value, list) else value
      if not registry.takes(entry.module, field, value):
        raise UserError(f"{source.origin} is damaged ({field}={value!r}); fetch or copy it again.")
      where = source.metadata.get("written_in", "metadata of the file")
    elif field in scheme.numerics:
      value, where = scheme.numerics[field], f"names of {scheme.name}"
    else:
      continue
    chosen[field] = value
    told.append(f"{field}={value} ({where})")
  logger.info("Numerics of %s: %s.", source.origin, ", ".join(told))
  return chosen


def _check_windows(source: Source, model: nn.Module, size: tuple[int, int]) -> None:
  """Refuses a Swin of transformers at a size of its own at which it has other windows than ours."""
  if source.scheme != "hf_swin" or source.is_ours or hf_models.windows_alike(model, size):
    return
  height, width = size
  why = (
    f"transformers divides images of {height}x{width} into other windows than ours, which are the "
    "original's"
  )
  if source.metadata.get("image_size") == [height, width]:
    raise UserError(
      f"{source.origin}: {why}, so that the numbers would be others; pass an image_size whose maps "
      "are whole windows of both."
    )
  logger.warning("%s: %s.", source.origin, why)


def _check_told(source: Source, model: nn.Module) -> None:
  """Refuses weights of which config.json says something else than the model does.

  Some of it no weights tell, such as attention heads: the same shapes would give other numbers.
  """
  for field, theirs in source.metadata.get("told", {}).items():
    ours = getattr(model, field, theirs)
    if theirs != (tuple(ours) if isinstance(ours, (tuple, list)) else ours):
      raise UserError(
        f"{source.origin} is a model of {field}={theirs}, as its config.json says, and not of "
        f"{ours}; pass {field}={theirs}, or the name of the model that it is of."
      )
  activation = source.metadata.get("pooler_act", "tanh")
  if activation != "tanh" and getattr(model, "representation_size", None):
    raise UserError(
      f"{source.origin} has pooler_act={activation!r}, as its config.json says, and pre_logits has "
      "'tanh' only; load it without its pooler (representation_size=None)."
    )


def _told_size(
  source: Source, model: nn.Module, entry: registry.Entry, wanted: tuple[int, int] | None
) -> tuple[int, int] | None:
  """The size of the images that the weights are for, where the file or its release tells it."""
  fits = lambda size: grids.fits(source.flat, grids.of_size(model, size), source.slots) is not None
  if stored := source.metadata.get("image_size"):
    stored = adapt.pair(f"{source.origin}: image_size", stored)
    # Before version 2 a square that was only guessed stood in our files too.
    guessed = source.metadata.get("version") == 1 and stored[0] == stored[1]
    if guessed and not (fits(stored) and (wanted in (None, stored) or not fits(wanted))):
      return None
    return stored
  if source.is_ours:
    return None
  file = os.path.basename(source.origin)
  sizes = {adapt.pair("", w.image_size) for w in entry.weights if w.url.endswith(f"/{file}")}
  sizes = {size for size in sizes if fits(size)}
  return sizes.pop() if len(sizes) == 1 else None


def _sizes(
  source: Source,
  model: nn.Module,
  entry: registry.Entry,
  image_size: tuple[int, int] | None,
  told: tuple[int, int] | None,
) -> tuple[tuple[int, int], tuple[int, int] | None, int]:
  """The image size to load at, and the checkpoint's grid and slots as `grids.grid_of`."""
  patch = model.pixels_per_token()
  old, slots = grids.grid_of(
    source.flat,
    source.slots,
    told=told and grids.of_size(model, told),
    wanted=image_size and grids.of_size(model, image_size),
    square_first=source.is_square,
    patch=patch,
    origin=source.origin,
  )
  usual = adapt.pair("image_size", entry.input.image_size)
  own = told or (usual if old is None else (old[0] * patch[0], old[1] * patch[1]))
  if image_size is None and own != usual:
    logger.info("Loaded at the checkpoint's resolution, %dx%d pixels.", *own)
  return image_size or own, old, slots


def _misfit(
  source: Source, entry: registry.Entry, problems: str, expected: Mapping[str, tuple[int, ...]]
) -> str:
  """The one error about leaves: why, where that is known, and then every leaf."""
  reasons = []
  old, path = adapt.patch_of(source.flat), adapt.first_of(adapt.PATCHES, source.flat)
  new = expected.get(path, ())
  if old and old != new[:2] and source.flat[path].shape[2:] == new[2:]:
    resized = "patch_resize='bicubic_antialias' resamples its {}x{} patches to {}x{}"
    reasons.append(resized.format(*old, *new[:2]))
  names = [name for name in _alike(source, _family(entry)) if name != entry.name]
  if names:
    reasons.append(f"its sizes are those of {' or '.join(names)}")
  elif source.is_ours:
    reasons.append("without a model's name it is loaded as it was written")
  reasons += [why for sign, why in torch.NOT_OURS if any(map(sign.match, source.unknown))]
  because = f" ({'; '.join(reasons)})" if reasons else ""
  return f"{source.origin} does not fit {entry.name}{because}: {problems}."
