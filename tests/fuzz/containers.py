# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""For each container: a small valid one, how it is read, and what another valid one may be.

All is written and read relative to the working directory, so that a seed means the same mutation
wherever that is.
"""

import csv
import dataclasses
import functools
import io
import json
import math
import pathlib
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import compiled
import grain
import jax
import numpy as np
import optax
import tiny_tfds
import torch
from PIL import Image, ImageOps

from vit_jax.checkpoints import npz, pretrained, reading
from vit_jax.checkpoints import preprocessing as preprocessing_lib
from vit_jax.checkpoints import torch as torch_names
from vit_jax.checkpoints.saving import save_checkpoint
from vit_jax.data import captions, datasets
from vit_jax.data.decode import decode
from vit_jax.data.splits import choose
from vit_jax.evaluation import zeroshot
from vit_jax.models.registry import create_model, get_entry
from vit_jax.params.tree import from_variables
from vit_jax.training import records, results
from vit_jax.training.plan import make_plan
from vit_jax.training.state import TrainState
from vit_jax.workdir import data_record, run_data, run_info
from vit_jax.workdir.steps import Checkpointer

Path = pathlib.Path

NAME = "ViT-Ti_16"
FIELDS = dict(patch_size=4, hidden_size=8, num_layers=1, mlp_dim=8, num_heads=2)
CLASSES = ("ant", "bee", "cat")
SIDE = 8


@dataclasses.dataclass(frozen=True)
class Container:
  """A kind of file, or a folder of files that belong together.

  Attributes:
    write: fills a directory.
    read: (directory, file that was mutated) -> what the files hold.
    files: glob patterns of the files to mutate and the kind of their mutations; see `mutations`.
    use: what the user gets in the end of what `read` gave; asked where that differs.
    data: (file, its content, what `read` gave) -> the ranges of its bytes that are tensors or
      pixels, of which the format has no checksum.
    is_valid: (file, content before, content after, what `read` gave after) -> whether that is
      another valid file, by other means than the reader's.
    without_values: what `read` gives without the values of tensors or pixels.
  """

  write: Callable[[Path], None]
  read: Callable[[Path, Path], Any]
  files: Mapping[str, str]
  use: Callable[[Path], Any] | None = None
  data: Callable[[Path, bytes, Any], list[range]] = lambda path, content, answer: []
  is_valid: Callable[[Path, bytes, bytes, Any], bool] = lambda path, before, after, answer: False
  without_values: Callable[[Any], Any] = lambda answer: answer


# What is another valid JSON file.

CHOICES = {  # Strings that are one of a few.
  "activation": {"gelu", "gelu_tanh", "silu"},
  "hidden_act": {"gelu", "gelu_new", "gelu_pytorch_tanh", "silu"},
  "model_type": {"vit"},
  "interpolation": {"bilinear", "bicubic", "area"},
  "eval_resize": {"squash", "squash_crop", "resize_crop"},
  "crop_offset": {"round", "floor"},
  "image_processor_type": {"ViTImageProcessor", "DeiTImageProcessor"},
  "resample": {2, 3},
  "decay_type": {"cosine", "linear", "rsqrt", "step", "constant"},
}
FREE_TEXTS = {"class_names", "id2label", "dataset", "train", "val", "test"}


def alike(
  before: Any,
  after: Any,
  removable: Callable[[tuple], bool] = lambda path: False,
  *,
  is_plan: bool = False,
  path: tuple = (),
) -> bool:
  """Whether a JSON value is like another: the same keys and types, numbers finite and positive.

  Args:
    before: of the valid file.
    after: of the mutated one.
    removable: whether the key at a path may be missing.
    is_plan: whether they are of a run's plan, whose numbers may be negative or null.
    path: of both.
  """
  below = functools.partial(alike, removable=removable, is_plan=is_plan)
  if isinstance(before, dict) and isinstance(after, dict):
    return all(
      below(value, after[key], path=(*path, key)) if key in after else removable((*path, key))
      for key, value in before.items()
    )
  if isinstance(before, list) and isinstance(after, list):
    if is_plan and path[-1:] == ("decay_at",):  # Of any length.
      return all(isinstance(x, int | float) and not isinstance(x, bool) for x in after)
    pairs = zip(before, after, strict=False)
    return len(before) == len(after) and all(below(*pair, path=path) for pair in pairs)
  if before == after and type(before) is type(after):
    return True
  key = next((key for key in reversed(path) if not str(key).isdigit()), "")
  if key in CHOICES:
    return any(after == choice and type(after) is type(choice) for choice in CHOICES[key])
  if isinstance(before, str):
    return isinstance(after, str) and bool({*path} & FREE_TEXTS)
  is_number = isinstance(after, int | float) and not isinstance(after, bool)
  if before is None:
    return is_plan and (isinstance(after, str) or (is_number and math.isfinite(after)))
  if isinstance(before, bool):
    return isinstance(after, bool)
  if after is None:
    return is_plan and key in ("total_steps", "warmup_steps", "grad_norm_clip")
  is_wanted = is_number and (isinstance(before, float) or isinstance(after, int))
  return is_wanted and math.isfinite(after) and (is_plan or after > 0)


def parsed(content: bytes) -> Any:
  """The JSON value; an object of its own where it is none."""
  try:
    return json.loads(content.decode())
  except (ValueError, RecursionError):
    return object()


# Weights.


@functools.cache
def tiny() -> tuple[Any, Any]:
  """A ViT of one layer with other values in every leaf."""
  model = create_model(NAME, num_classes=len(CLASSES), **FIELDS)
  return model, compiled.noise(model, np.zeros((1, SIDE, SIDE, 3), np.float32))


def save(path: Path) -> None:
  save_checkpoint(path, *tiny(), metadata={"class_names": [*CLASSES]}, image_size=SIDE)


def save_compressed(path: Path) -> None:
  flat = {name: np.asarray(value) for name, value in from_variables(tiny()[1]).items()}
  np.savez_compressed(path, **npz.to_released(flat))


def save_pickled(path: Path, **options: Any) -> None:
  state = torch_names.to_timm(from_variables(tiny()[1]))
  torch.save({name: torch.tensor(np.asarray(v)) for name, v in state.items()}, path, **options)


def save_sharded(folder: Path) -> None:
  """A Hugging Face folder whose weights are in two files."""
  save(folder)
  whole = folder / "model.safetensors"
  content = whole.read_bytes()
  (length,) = struct.unpack("<Q", content[:8])
  header, values = json.loads(content[8 : 8 + length]), content[8 + length :]
  metadata = header.pop("__metadata__")
  names, weight_map = sorted(header), {}
  for number, part in enumerate((names[::2], names[1::2]), start=1):
    file, body, inside = f"model-0000{number}-of-00002.safetensors", b"", {"__metadata__": metadata}
    for name in part:
      start, stop = header[name]["data_offsets"]
      inside[name] = {**header[name], "data_offsets": [len(body), len(body) + stop - start]}
      body += values[start:stop]
      weight_map[name] = file
    head = json.dumps(inside).encode()
    (folder / file).write_bytes(struct.pack("<Q", len(head)) + head + body)
  whole.unlink()
  index = {"metadata": {"total_size": len(values)}, "weight_map": weight_map}
  (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))


def read_weights(path: Path) -> dict[str, Any]:
  source = reading.read_source(path, get_entry(NAME), FIELDS)
  return {
    "arrays": {name: np.asarray(value) for name, value in source.flat.items()},
    "unknown": source.unknown,
    "metadata": dict(source.metadata),
  }


def read_with_preprocessing(path: Path) -> dict[str, Any]:
  settings = preprocessing_lib.preprocessing_for(path).settings
  return {**read_weights(path), "settings": dataclasses.asdict(settings)}


def use_weights(path: Path) -> dict[str, Any]:
  """What a user gets: the model, its variables, class names, and how images are prepared."""
  metadata = reading.read_metadata(path)
  if "model" in metadata:  # Ours: opened by its path alone.
    model, variables = pretrained.from_pretrained(path)
  else:
    model, variables = pretrained.from_pretrained(NAME, checkpoint=path, **FIELDS)
  used = {"class_names": metadata.get("class_names"), "model": repr(model)}
  if "input" in metadata or path.is_dir():
    settings = preprocessing_lib.preprocessing_for(path).settings
    used["settings"] = dataclasses.asdict(settings)
  return {"arrays": {k: np.asarray(v) for k, v in from_variables(variables).items()}, **used}


def shapes_alone(answer: Mapping[str, Any]) -> dict[str, Any]:
  shapes = {name: (value.dtype.str, value.shape) for name, value in answer["arrays"].items()}
  return {**answer, "arrays": shapes}


@functools.cache
def stored_arrays() -> list[bytes]:
  """The bytes of every array of `tiny` in PyTorch's layout."""
  state = torch_names.to_timm(from_variables(tiny()[1]))
  hf = []  # Hugging Face splits the fused projections of timm.
  for value in state.values():
    value = np.asarray(value)
    parts = [value] if value.shape[:1] != (3 * FIELDS["hidden_size"],) else np.split(value, 3)
    hf += [value.tobytes(), *(part.tobytes() for part in parts)]
  return hf


def tensor_bytes(path: Path, content: bytes, answer: Any) -> list[range]:
  found = [(content.find(values), len(values)) for values in stored_arrays()]
  return [range(at, at + length) for at, length in found if at >= 0]


def rest_of_safetensors(path: Path, content: bytes, answer: Any) -> list[range]:
  """What follows the header."""
  if path.suffix != ".safetensors":
    return []
  (length,) = struct.unpack("<Q", content[:8])
  return [range(8 + length, len(content))]


def is_valid_safetensors(path: Path, before: bytes, after: bytes, answer: Any) -> bool:
  """The same tensors, and metadata that are like those before."""
  if path.suffix != ".safetensors":
    if path.name == "config.json":
      return alike(parsed(before), parsed(after), lambda path: path != ("model_type",))
    if path.name == "preprocessor_config.json":
      # transformers has a value for each key that is missing, but not for which processor it is.
      return alike(parsed(before), parsed(after), lambda path: path != ("image_processor_type",))
    return False
  headers = []
  for content in (before, after):
    (length,) = struct.unpack("<Q", content[:8])
    headers.append(parsed(content[8 : 8 + length]))
  if not all(isinstance(header, dict) for header in headers):
    return False
  texts = [header.pop("__metadata__", {}).get("vit_jax") for header in headers]
  if headers[0] != headers[1]:
    return False
  # Without all of our metadata it is the file that timm would write.
  return texts[1] is None or alike(*(parsed(text.encode()) for text in texts))


def is_valid_npz(path: Path, before: bytes, after: bytes, answer: Any) -> bool:
  """Whether checksums are right, arrays are of the same shapes and type, and metadata alike.

  The mutations change no values by a right checksum, but may say that they lie in another order.
  """
  found = []
  try:
    for content in (before, after):
      with np.load(io.BytesIO(content)) as arrays:
        found.append({name: arrays[name] for name in arrays.files})
  except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, LookupError, SyntaxError):
    return False
  ours = [parsed(arrays.pop(npz.METADATA, np.array(b"{}")).tobytes()) for arrays in found]
  shapes = [{name: (x.dtype.str, x.shape) for name, x in arrays.items()} for arrays in found]
  return shapes[0] == shapes[1] and alike(*ours)


# A run.


def write_images(folder: Path) -> None:
  rng = np.random.default_rng(0)
  for name in CLASSES:
    (folder / name).mkdir(parents=True)
    for k in range(10):
      pixels = rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
      Image.fromarray(pixels).save(folder / name / f"{k}.png")


def write_run(workdir: Path, step: int | None = None) -> None:
  """A run on a folder of images in it, as if it had been trained."""
  photos = workdir / "photos"
  write_images(photos)
  plan = make_plan(
    dict(
      dataset=str(photos),
      total_steps=4,
      warmup_steps=1,
      batch=8,
      model=dict(name=NAME, **FIELDS),
      pp=dict(crop=SIDE, train_crop="none", train="train", val="val", test="test"),
      optim=dict(name="adamw"),
    )
  )
  plan = dataclasses.replace(plan, dataset=str(photos))  # Relative again.
  model, variables = tiny()
  dataset = datasets.open_dataset(plan.dataset)
  found = choose(dataset, {split: split for split in ("train", "val", "test")}).sources
  record = data_record.make(dataset.rule, found)
  info = run_info.describe_run(plan, model, dataset.class_names, 1234, record)
  run_info.write_run(workdir, info, record)
  scores = {"loss": 1.25, "accuracy": 0.5}
  file = records.Records(workdir, 0)
  for at in (2, 4):
    file.write({"step": at, "train/loss": 2.5 / at, "val/accuracy": 0.125 * at, "lr": None})
  file.close()
  results = {"metric": "accuracy", "steps": 4, "best_step": 4, "val": scores, "test": scores}
  (workdir / "results.json").write_text(json.dumps(results, indent=2) + "\n")
  if step is None:
    return
  state = TrainState(
    step=np.int32(step),
    params=variables["params"],
    opt_state=optax.EmptyState(),
    rng=np.zeros(2, np.uint32),
    first_bad_step=np.int32(-1),
    collections={},
  )
  state = make_state(plan, model, variables, state)
  iterator = iter(grain.MapDataset.range(8).to_iter_dataset())
  with Checkpointer(workdir / run_info.CHECKPOINTS) as checkpointer:
    checkpointer.save(step, state, iterator, {"run": info.to_dict(), "timer": None}, scores)
  for name in ("results.json", "metrics.jsonl"):
    (workdir / name).unlink()


def make_state(plan: Any, model: Any, variables: Any, state: TrainState) -> TrainState:
  from vit_jax.training import optim

  return state.replace(opt_state=jax.jit(optim.make_optimizer(plan).init)(variables["params"]))


def read_run(workdir: Path) -> dict[str, Any]:
  """All that is read of a run without its checkpoints."""
  info = run_info.existing_run(workdir)
  data = run_data.of_run(workdir, info)
  return {
    "info": info.to_dict(),
    "splits": {split: [*source.files] for split, source in data.sources.items()},
    "metrics": records.read_metrics(workdir),
    "results": results.finished(run_info.epath.Path(workdir), info.plan),
    "model": repr(info.create_model()),
  }


def is_valid_run(path: Path, before: bytes, after: bytes, answer: Any) -> bool:
  if path.name == "metrics.jsonl":  # Lines that are left out are told, but for the last half.
    lines = [parsed(line) for line in after.split(b"\n")]
    return all(any(record == line for line in lines) for record in answer["metrics"])
  if path.name == "results.json":  # Without results a run is evaluated again.
    removable = lambda path: path[0] in ("val", "test")
    return answer["results"] is None or alike(
      parsed(before), parsed(after), removable, is_plan=True
    )
  # A run from before a key was added has not got it.
  removable = lambda path: path[0] in ("config", "metric")
  return path.suffix == ".json" and alike(parsed(before), parsed(after), removable, is_plan=True)


def read_step(workdir: Path) -> dict[str, Any]:
  model, variables, info = run_info.load_run(workdir, "last")
  arrays = {name: np.asarray(value) for name, value in from_variables(variables).items()}
  return {"arrays": arrays, "step": info.step, "metrics": info.metrics, "model": repr(model)}


# Data sets.


def write_captions(folder: Path, suffix: str) -> None:
  rows = [
    (f"{k}.png", text)
    for k, text in enumerate(["a red cat", 'a "big" dog, asleep', "ein Käfer", "two\tbirds", "x"])
  ]
  folder.mkdir()
  for name, _ in rows:
    Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(folder / name)
  with open(folder / f"metadata.{suffix}", "w", encoding="utf-8", newline="") as file:
    if suffix == "csv":
      csv.writer(file, lineterminator="\n").writerows([("file_name", "text"), *rows])
    else:
      keys = ("file_name", "text")
      lines = [json.dumps(dict(zip(keys, row, strict=True)), ensure_ascii=False) for row in rows]
      file.write("\n".join(lines) + "\n")


def read_captions(folder: Path) -> list[tuple[str, str]]:
  tables = captions.open_captions(folder).tables.values()
  pairs = [
    (f, t)
    for table in tables
    for f, texts in zip(table.files, table.texts, strict=True)
    for t in texts
  ]
  return sorted(pairs)


def is_valid_captions(path: Path, before: bytes, after: bytes, answer: Any) -> bool:
  """Whether Python's own reader gives the same pairs."""
  try:
    content = after.decode("utf-8-sig")
  except UnicodeDecodeError:
    return False
  if path.suffix == ".csv":
    # The separator is the one that the header has.
    separator = next((s for s in "\t;" if s in content.split("\n")[0]), ",")
    rows = csv.DictReader(io.StringIO(content, newline=""), delimiter=separator)
    found = [{str(k).strip().lower(): v for k, v in row.items()} for row in rows]
  else:
    lines = [line for line in content.split("\n") if line.strip()]
    found = [json.loads(line, strict=False) for line in lines]
  found = [{k.strip().lower(): v for k, v in row.items()} for row in found]
  pairs = []
  for row in found:
    texts = row.get("text")
    texts = texts if isinstance(texts, list) else [texts]
    pairs += [(str(Path(str(row.get("file_name")).strip())), text) for text in texts]
  plain = lambda pairs: sorted((name, str(text).strip()) for name, text in pairs)
  return plain(pairs) == plain(answer)


def write_tfds(folder: Path) -> None:
  folder.mkdir()
  prepared = tiny_tfds.prepare(folder)
  for path in prepared.iterdir():
    path.rename(folder / path.name)


def read_tfds(folder: Path) -> dict[str, Any]:
  dataset = datasets.open_dataset(str(folder))
  records = {
    split: [table[k] for k in range(len(table))] for split, table in dataset.tables.items()
  }
  return {"class_names": dataset.class_names, "records": records}


def is_valid_tfds(path: Path, before: bytes, after: bytes, answer: Any) -> bool:
  """Other names of the classes; all else is as it was, or refused."""
  return path.suffix == ".txt" and is_valid_class_list(path, before, after, answer["class_names"])


def write_class_list(folder: Path) -> None:
  folder.mkdir()
  (folder / "labels.txt").write_text("ant\nbumble bee, bee\nKäfer\n", encoding="utf-8")


def is_valid_class_list(path: Path, before: bytes, after: bytes, answer: Any) -> bool:
  try:
    lines = after.decode("utf-8-sig").split("\n")
  except UnicodeDecodeError:
    return False
  return [*answer] == [line.strip() for line in lines if line.strip()]


# Images.


def picture() -> Image.Image:
  y, x = np.mgrid[:24, :32]
  return Image.fromarray(np.stack([8 * x, 10 * y, 4 * (x + y)], -1).astype(np.uint8))


def write_jpegs(folder: Path) -> None:
  folder.mkdir()
  exif = Image.Exif()
  exif[0x0112] = 6
  picture().save(folder / "baseline.jpg", quality=80)
  picture().save(folder / "progressive.jpg", quality=80, progressive=True)
  picture().save(folder / "turned.jpg", quality=80, exif=exif)


def write_pngs(folder: Path) -> None:
  folder.mkdir()
  picture().save(folder / "rgb.png")
  picture().convert("P").save(folder / "palette.png", transparency=3)
  picture().convert("RGBA").save(folder / "alpha.png")
  Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000).save(folder / "16-bit.png")


def write_webps(folder: Path) -> None:
  folder.mkdir()
  picture().save(folder / "lossy.webp")
  picture().save(folder / "lossless.webp", lossless=True)
  picture().convert("RGBA").save(folder / "alpha.webp", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0")


def read_image(folder: Path, file: Path) -> np.ndarray:
  return decode(file.read_bytes())


def pixel_bytes(path: Path, content: bytes, answer: Any) -> list[range]:
  """The coefficients and the tables that decode them. The chunks of a PNG have checksums."""
  if path.suffix == ".jpg":
    tables, sizes = content.index(b"\xff\xdb"), content.index(b"\0\x11\x08")
    return [range(tables, sizes - 2), range(sizes + 17, len(content))]
  if path.suffix == ".webp":
    return [*_payloads(content)]
  return []


def _payloads(content: bytes) -> Iterator[range]:
  at = 12
  while at + 8 <= len(content):
    (length,) = struct.unpack_from("<I", content, at + 4)
    if content[at : at + 4] in (b"VP8 ", b"VP8L", b"ALPH"):
      yield range(at + 8, at + 8 + length)
    at += 8 + length + length % 2


def is_valid_image(path: Path, before: bytes, after: bytes, answer: Any) -> bool:
  """Whether Pillow, which takes no damaged file, decodes it to the same pixels."""
  try:
    with Image.open(io.BytesIO(after)) as image:
      upright = ImageOps.exif_transpose(image)
      if upright.has_transparency_data:
        upright = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright)
      pixels = np.asarray(upright.convert("RGB"))
  except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
    return False
  return pixels.shape == answer.shape and bool((pixels == answer).all())


def _file(
  name: str, write: Callable[[Path], None], kind: str = "binary", **about: Any
) -> Container:
  """A container of one weight file."""

  def write_inside(folder: Path) -> None:
    folder.mkdir()
    write(folder / name)

  return Container(
    write_inside,
    lambda folder, file: read_weights(folder / name),
    {name: kind},
    use=lambda folder: use_weights(folder / name),
    without_values=shapes_alone,
    **about,
  )


def _pictures(write: Callable[[Path], None]) -> Container:
  return Container(
    write,
    read_image,
    {"*": "binary"},
    data=pixel_bytes,
    is_valid=is_valid_image,
    without_values=lambda pixels: pixels.shape,
  )


CONTAINERS = {
  # Each entry of a zip archive has a checksum, so that not a single bit may change unseen.
  "npz": _file("tiny.npz", save, "npz", is_valid=is_valid_npz),
  "npz, compressed": _file("tiny.npz", save_compressed, "npz", is_valid=is_valid_npz),
  "safetensors": _file(
    "tiny.safetensors", save, "safetensors", data=rest_of_safetensors, is_valid=is_valid_safetensors
  ),
  "pth": _file("tiny.pth", save_pickled),
  "pth, legacy": _file(
    "tiny.pth",
    functools.partial(save_pickled, _use_new_zipfile_serialization=False),
    data=tensor_bytes,
  ),
  "Hugging Face folder": Container(
    save_sharded,
    lambda folder, file: read_with_preprocessing(folder),
    {"*.json": "json", "*.safetensors": "safetensors"},
    use=use_weights,
    data=rest_of_safetensors,
    is_valid=is_valid_safetensors,
    without_values=shapes_alone,
  ),
  "run": Container(
    write_run,
    lambda workdir, file: read_run(workdir),
    {"*.json": "json", "metrics.jsonl": "jsonl", "data.npz": "binary"},
    is_valid=is_valid_run,
  ),
  "checkpoint of a run": Container(
    functools.partial(write_run, step=4),
    lambda workdir, file: read_step(workdir),
    {"checkpoints/**/*": "binary", "checkpoints/*/manifest.json": "json"},
  ),
  "TFDS": Container(
    write_tfds,
    lambda folder, file: read_tfds(folder),
    {"*.json": "json", "*.txt": "binary", "*.array_record*": "binary"},
    is_valid=is_valid_tfds,
  ),
  "captions, csv": Container(
    functools.partial(write_captions, suffix="csv"),
    lambda folder, file: read_captions(folder),
    {"metadata.csv": "csv"},
    is_valid=is_valid_captions,
  ),
  "captions, jsonl": Container(
    functools.partial(write_captions, suffix="jsonl"),
    lambda folder, file: read_captions(folder),
    {"metadata.jsonl": "jsonl"},
    is_valid=is_valid_captions,
  ),
  "class names": Container(
    write_class_list,
    lambda folder, file: zeroshot.read_lines(str(file)),
    {"labels.txt": "binary"},
    is_valid=is_valid_class_list,
  ),
  "JPEG": _pictures(write_jpegs),
  "PNG": _pictures(write_pngs),
  "WebP": _pictures(write_webps),
}
