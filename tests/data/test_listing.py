# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Which files of a folder are images, and what is said about the others."""

import collections
import os
import subprocess
import sys

import pytest
from pictures import encoded, every_format, photo, write_folder
from PIL import Image

from vit_jax.data import listing
from vit_jax.data.datasets import open_dataset
from vit_jax.data.decode import decode
from vit_jax.data.listing import is_system_folder, list_folder, list_images, told
from vit_jax.errors import UserError

FILES = every_format(photo(60, 80))


def test_no_format_is_lost():
  assert sorted(listing.EXTENSIONS) == sorted([
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".bmp", ".dib", ".tif",
    ".tiff", ".gif", ".avif", ".avifs", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".ppm",
    ".pgm", ".pbm", ".pnm", ".tga", ".icb", ".vda", ".vst", ".pcx", ".sgi", ".ras", ".qoi",
    ".ico", ".psd",
  ])  # fmt: skip


@pytest.mark.parametrize("kind", listing.FORMATS)
def test_every_format_is_listed_and_decoded_by_each_of_its_extensions(kind, tmp_path):
  extensions, begin = listing.FORMATS[kind]
  names = [f"photo{e}" for e in extensions.split()] + [
    f"LOUD{e.upper()}" for e in extensions.split()
  ]
  names += ["bare", "with.", "00001"] if begin else []
  for name in names:
    (tmp_path / name).write_bytes(FILES[kind])
  assert list_folder(tmp_path) == listing.Listing(sorted(names), collections.Counter())
  for name in names:
    pixels = decode((tmp_path / name).read_bytes())
    assert abs(pixels.astype(int) - photo(60, 80)).mean() < 6, name  # A GIF has 256 colours.


def test_all_others_are_left_out_and_counted(tmp_path):
  (tmp_path / "deep" / "er").mkdir(parents=True)
  (tmp_path / "deep" / "er" / "a.png").write_bytes(FILES["PNG"])
  texts = "README", "LICENSE", "BMW", "P1 is a letter", "II*"  # The last begin nearly as images do.
  for k, text in enumerate(texts):
    (tmp_path / "deep" / f"text{k}").write_text(text)
  for name in ("a.heic", "b.HEIC", "deep/c.Heic", "notes.txt", "deep/a.tar.gz", "empty", "pngpng"):
    (tmp_path / name).write_bytes(b"")
  os.mkfifo(tmp_path / "pipe")  # Reading one would wait for ever.
  (tmp_path / "broken").symlink_to("nothing")
  found = list_folder(tmp_path)
  assert found.images == list_images(tmp_path) == ["deep/er/a.png"]
  assert found.left_out == {".heic": 3, ".txt": 1, ".gz": 1, "": len(texts) + 4}
  assert told(found.left_out) == "9 without suffix, 3 .heic, 1 .gz, 1 .txt"


def test_many_kinds_are_told_shortly():
  assert told(collections.Counter()) == ""
  assert told(collections.Counter({".txt": 3, "": 1, ".heic": 12})) == (
    "12 .heic, 3 .txt, 1 without suffix"
  )
  many = collections.Counter({f".{k}": 10 - k for k in range(8)})
  assert told(many) == "10 .0, 9 .1, 8 .2, 7 .3, 6 .4, 12 others"


def test_what_the_system_puts_into_folders_is_neither_listed_nor_counted(tmp_path):
  folders = [
    "@eaDir", "@Recycle", "#recycle", "#snapshot", "$RECYCLE.BIN", "$Recycle.Bin", "__MACOSX",
    ".ipynb_checkpoints", ".thumbnails", ".git", "System Volume Information", "lost+found",
  ]  # fmt: skip
  write_folder(tmp_path, {f"cat/{name}": 2 for name in folders} | {"cat": 1, "cat/recycle": 1})
  for name in ("Thumbs.db", "desktop.ini", "._000.jpg", ".DS_Store"):
    (tmp_path / "cat" / name).write_bytes(FILES["JPEG"])
  found = list_folder(tmp_path)
  assert found.images == ["cat/000.jpg", "cat/recycle/000.jpg"] and not found.left_out
  assert all(map(is_system_folder, folders))
  classes = "recycle", "thumbs", "Thumbs", "system", "lost", "macosx", "0", "@home", "#1", "$5", "_"
  assert not any(map(is_system_folder, classes))


def test_runs_of_the_past_see_what_they_saw(tmp_path):
  for name in ("a.JPG", "b.jpeg", "c.png", "d.webp", "e.bmp", "@eaDir/f.jpg", "__MACOSX/g.png"):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"")
  before = list_images(tmp_path)
  for name in ("h.tif", "i.gif", "j.jfif", "k.avif", "bare", ".hidden/l.jpg", ".m.jpg"):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(FILES["JPEG"])
  assert before == ["a.JPG", "b.jpeg", "c.png", "d.webp", "e.bmp"]
  assert list_images(tmp_path, as_before=True) == sorted(
    [*before, "@eaDir/f.jpg", "__MACOSX/g.png"]
  )
  assert len(list_images(tmp_path)) == 10


@pytest.mark.parametrize("where", ["", "cat", "cat/deep/er"])
@pytest.mark.parametrize("as_before", [False, True])
def test_a_folder_that_cannot_be_read_is_told(where, as_before, tmp_path, monkeypatch):
  write_folder(tmp_path, {"cat": 3, "cat/deep/er": 20, "dog": 5})
  closed = os.path.normpath(tmp_path / where)
  scandir = os.scandir

  def refusing(path="."):
    if os.path.normpath(path) == closed:
      raise PermissionError(13, "Permission denied", str(path))
    return scandir(path)

  monkeypatch.setattr(os, "scandir", refusing)
  with pytest.raises(UserError) as error:
    list_images(tmp_path, as_before=as_before)
  assert os.path.normpath(str(error.value).split(" cannot be read ")[0]) == closed
  assert str(error.value).endswith(
    " cannot be read (Permission denied); make it readable for this user, or move it out of the "
    "data."
  )


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="changes to another user")
@pytest.mark.parametrize("mode", [0o000, 0o311, 0o644])
@pytest.mark.parametrize("where", ["", "cat", "cat/deep"])
def test_another_users_folder_is_one_sentence(where, mode, tmp_path):
  write_folder(tmp_path / "photos", {"cat": 3, "cat/deep/er": 20, "dog": 5})
  (tmp_path / "photos" / where).chmod(mode)
  told = opened_by_nobody(tmp_path)
  assert told.startswith(f"told: {os.path.normpath(f'photos/{where}')}")
  assert told.endswith(
    " cannot be read (Permission denied); make it readable for this user, or move it out of the "
    "data.\n"
  )


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="changes to another user")
def test_a_link_into_another_users_folder_is_one_sentence(tmp_path):
  write_folder(tmp_path / "photos", {"cat": 3, "dog": 5})
  write_folder(tmp_path / "closed", {"more": 20})
  (tmp_path / "closed").chmod(0)
  (tmp_path / "photos" / "cat" / "more").symlink_to("../../closed/more")
  assert opened_by_nobody(tmp_path).startswith("told: photos/cat/more cannot be read (Permission")


def opened_by_nobody(directory):
  """What opening `photos` there prints for a user who is not root."""
  directory.chmod(0o755)
  program = (
    "import os; from vit_jax.data import datasets; "
    "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
    "try: print(datasets.open_dataset('photos'))\n"
    "except datasets.UserError as error: print('told:', error)"
  )
  # As the working directory it can be used even if those above are closed.
  done = subprocess.run(
    [sys.executable, "-c", program], cwd=directory, capture_output=True, text=True
  )
  assert done.returncode == 0 and done.stdout.count("\n") == 1, done.stderr
  return done.stdout


def test_linked_folders_are_listed_once_by_their_first_name(tmp_path):
  write_folder(tmp_path, {"b/deep": 2, "c": 1})
  (tmp_path / "b" / "back").symlink_to(tmp_path)
  (tmp_path / "a").symlink_to("b/deep")
  (tmp_path / "d").symlink_to("c")
  expected = ["a/000.jpg", "a/001.jpg", "c/000.jpg"]
  assert list_images(tmp_path) == list_images(tmp_path, as_before=True) == expected


def test_other_beginnings_of_the_same_formats(tmp_path):
  image = photo(60, 80)
  files = {
    "gimp": b"P6\n# Created by GIMP version 2.10.36 PNM plug-in\n" + FILES["PPM"][3:],
    "ascii": b"P3 1 2 255 1 2 3 4 5 6",
    "big-endian": encoded(image, "TIFF", tiffinfo={}, big_tiff=True),
    "codestream": encoded(image, "JPEG2000", no_jp2=True),
    "moving": encoded(image, "AVIF", save_all=True, append_images=[Image.fromarray(255 - image)]),
    "gif87": FILES["GIF"],
  }
  for name, data in files.items():
    (tmp_path / name).write_bytes(data)
    decode(data)
  assert list_images(tmp_path) == sorted(files)


def test_a_folder_of_any_format_can_be_trained_on(tmp_path):
  for name in ("cat", "dog"):
    (tmp_path / name).mkdir()
    for kind in ("TIFF", "GIF", "AVIF", "JPEG2000"):
      (tmp_path / name / f"photo{listing.FORMATS[kind][0].split()[0]}").write_bytes(FILES[kind])
  assert len(open_dataset(str(tmp_path)).source("train+val+test")) == 8
