"""Temporary."""

import collections, dataclasses, os, pathlib

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


@dataclasses.dataclass
class Listing:
  images: list
  left_out: collections.Counter


def scan(directory, *, as_before=False, deep=True):
  found, seen, left = [], set(), collections.Counter()
  for here, directories, files in os.walk(directory, followlinks=True):
    real = os.path.realpath(here)
    if real in seen:
      directories.clear()
      continue
    seen.add(real)
    directories[:] = sorted(d for d in directories if not d.startswith("."))
    if not deep:
      directories.clear()
    relative = pathlib.PurePath(os.path.relpath(here, directory))
    for f in files:
      if f.startswith("."):
        continue
      if f.lower().endswith(EXTENSIONS):
        found.append((relative / f).as_posix())
      else:
        left[os.path.splitext(f)[1].lower()] += 1
  return Listing(sorted(found), left)


def list_images(directory):
  return scan(directory).images


def list_folders(path, *, as_before=False):
  return sorted(
    p.name for p in pathlib.Path(path).iterdir() if p.is_dir() and not p.name.startswith(".")
  )


def told(counter):
  return ", ".join(f"{n} {e or 'without suffix'}" for e, n in sorted(counter.items()))
