# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Which files of a folder are images: the formats that can be decoded, and a walk through it."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import os
import pathlib
import re
from collections.abc import Callable, Iterator
from typing import NoReturn

from vit_jax.errors import UserError

# Pillow's name of each format that `decode` reads: its extensions, and how such a file begins.
FORMATS = {
  "JPEG": (".jpg .jpeg .jpe .jfif .mpo", rb"\xff\xd8\xff"),
  "PNG": (".png .apng", rb"\x89PNG\r\n\x1a\n"),
  "WEBP": (".webp", rb"RIFF....WEBP"),
  "BMP": (".bmp", rb"BM....\0\0\0\0"),
  "DIB": (".dib", None),
  "TIFF": (".tif .tiff", rb"II[*+]\0|MM\0[*+]"),
  "GIF": (".gif", rb"GIF8[79]a"),
  "AVIF": (".avif .avifs", rb"....ftyp(....){,8}?avi[fs]"),
  "JPEG2000": (".jp2 .j2k .j2c .jpc .jpf .jpx", rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51"),
  "PPM": (".ppm .pgm .pbm .pnm", rb"P[1-6]\s+(#.*?\n\s*)*\d+\s+\d+\s"),
  "TGA": (".tga .icb .vda .vst", None),
  "PCX": (".pcx", rb"\n[\0-\x05]\x01[\x01\x02\x04\x08]"),
  "SGI": (".sgi", rb"\x01\xda[\0\x01][\x01\x02]"),
  "SUN": (".ras", rb"\x59\xa6\x6a\x95"),
  "QOI": (".qoi", rb"qoif"),
  "ICO": (".ico", rb"\0\0\x01\0[^\0]\0"),
  "PSD": (".psd", rb"8BPS\0\x01"),
}
EXTENSIONS = tuple(e for extensions, _ in FORMATS.values() for e in extensions.split())
_BEGINNING = re.compile(b"|".join(begin for _, begin in FORMATS.values() if begin), re.DOTALL)
_OLD_EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")

# What operating systems, network drives and archives put into folders. Only names that no class
# would have; in lower case.
_SYSTEM_FOLDERS = {
  "@eadir", "@recycle", "@recently-snapshot", "#recycle", "#snapshot", "$recycle.bin", "__macosx",
  "__pycache__", "lost+found", "lost.dir", "system volume information",
}  # fmt: skip
_SYSTEM_FILES = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"}


@dataclasses.dataclass(frozen=True)
class Listing:
  """What a folder holds.

  Attributes:
    images: paths relative to the folder, sorted, with forward slashes.
    left_out: how many other files have each extension, "" being none; hidden files do not count.
  """

  images: list[str]
  left_out: collections.Counter[str]


def is_system_folder(name: str) -> bool:
  """Whether a folder is hidden (".git") or the operating system's ("@eaDir", "__MACOSX")."""
  return _is_hidden(name) or name.lower() in _SYSTEM_FOLDERS


def _is_hidden(name: str) -> bool:
  return name.startswith(".")


def list_folder(
  directory: str | os.PathLike[str], *, as_before: bool = False, deep: bool = True
) -> Listing:
  """Finds the images of a folder, at any depth, and counts the other files.

  A file is an image by its extension; one without any, by its first bytes. Hidden files and
  `is_system_folder`s are left out; symbolic links are followed, each directory once.

  Args:
    directory: the folder.
    as_before: list what version 0.1 listed (.jpg, .jpeg, .png, .webp and .bmp only, also in system
      folders that are not hidden), for runs that began with it.
    deep: False leaves out the folders inside.

  Raises:
    UserError: the folder, or one inside it, cannot be read.
  """
  images, left_out = [], collections.Counter()
  walk = _walk(directory, _is_hidden if as_before else is_system_folder)
  for here, files in walk if deep else itertools.islice(walk, 1):
    relative = pathlib.PurePath(os.path.relpath(here, directory))
    for file in files:
      extension = os.path.splitext(file)[1].lower()
      if _is_hidden(file) or file.lower() in _SYSTEM_FILES:
        continue
      if as_before:
        is_image = file.lower().endswith(_OLD_EXTENSIONS)
      elif extension.strip("."):
        is_image = extension in EXTENSIONS
      else:
        is_image = _begins_like_an_image(os.path.join(here, file))
      if is_image:
        images.append((relative / file).as_posix())
      else:
        left_out[extension.rstrip(".")] += 1
  return Listing(sorted(images), left_out)


def list_images(directory: str | os.PathLike[str], *, as_before: bool = False) -> list[str]:
  """The images of `list_folder`: sorted paths relative to `directory`, with forward slashes."""
  return list_folder(directory, as_before=as_before).images


def list_folders(directory: str | os.PathLike[str], *, as_before: bool = False) -> list[str]:
  """The names of the folders in a folder, sorted, without those that `list_folder` skips."""
  skipped = _is_hidden if as_before else is_system_folder
  try:
    with os.scandir(directory) as entries:
      return sorted(entry.name for entry in entries if entry.is_dir() and not skipped(entry.name))
  except OSError as error:
    refuse(error)


def told(left_out: collections.Counter[str]) -> str:
  """The counts of a `Listing` in words, such as "12 .heic, 3 .txt, 1 without suffix"."""
  counts = sorted(left_out.items(), key=lambda item: (-item[1], item[0]))
  words = [f"{count} {extension or 'without suffix'}" for extension, count in counts[:5]]
  if others := sum(count for _, count in counts[5:]):
    words.append(f"{others} others")
  return ", ".join(words)


def refuse(error: OSError) -> NoReturn:
  """Raises a `UserError` for a folder that the operating system does not let us read."""
  raise UserError(
    f"{error.filename or 'the folder'} cannot be read ({error.strerror or error}); make it "
    "readable for this user, or move it out of the data."
  ) from error


def _walk(
  directory: str | os.PathLike[str], skipped: Callable[[str], bool]
) -> Iterator[tuple[str, list[str]]]:
  """Yields each folder and the names of its files. `os.walk` hides what cannot be read."""
  waiting, seen = [os.fspath(directory)], set()
  while waiting:
    here = waiting.pop()
    real = os.path.realpath(here)
    if real in seen:  # A link that leads back up.
      continue
    seen.add(real)
    folders, files = [], []
    try:
      with os.scandir(here) as entries:
        for entry in entries:
          if not entry.is_dir():
            files.append(entry.name)
          elif not skipped(entry.name):
            folders.append(entry.path)
    except OSError as error:
      refuse(error)
    yield here, files
    waiting += sorted(folders, reverse=True)


def _begins_like_an_image(path: str) -> bool:
  try:
    if not os.path.isfile(path):  # Opening a named pipe would wait for ever.
      return False
    with open(path, "rb") as file:
      return _BEGINNING.match(file.read(256)) is not None
  except OSError:
    return False
