# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A small data set that TFDS prepares as ArrayRecord, offline and without TensorFlow."""

import pathlib
import subprocess
import sys

# In a process of its own: defining a builder registers its name for good.
_PREPARE = """
import io, sys
import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

class TinyShapes(tfds.core.GeneratorBasedBuilder):
  VERSION = tfds.core.Version("1.0.0")
  def _info(self):
    features = {
      "picture": tfds.features.Image(shape=(None, None, 3)),
      "kind": tfds.features.ClassLabel(names=["circle", "square"]),
      "note": tfds.features.Text(),
    }
    return tfds.core.DatasetInfo(
      builder=self, features=tfds.features.FeaturesDict(features),
      supervised_keys=("picture", "kind"),
    )
  def _split_generators(self, manager):
    make, hidden = self._generate_examples, int(sys.argv[3])
    test = {"test": make(60, 60 + hidden, True)} if hidden else {}
    return {"train": make(0, 50), "validation": make(50, 60), **test}
  def _generate_examples(self, start, stop, hidden=False):
    for i in range(start, stop):
      image = io.BytesIO()
      Image.fromarray(np.full((6, 8, 3), i, np.uint8)).save(image, "PNG")
      image.seek(0)  # Encoded bytes: arrays would need TensorFlow.
      yield i, {"picture": image, "kind": -1 if hidden else i % 2, "note": str(i)}

TinyShapes(data_dir=sys.argv[1], file_format="array_record").download_and_prepare(
  download_config=tfds.download.DownloadConfig(num_shards=int(sys.argv[2]))
)
assert "tensorflow" not in sys.modules
"""


def prepare(data_dir: pathlib.Path, shards: int = 1, hidden: int = 0) -> pathlib.Path:
  """Prepares tiny_shapes (50 + 10 pictures of 6 x 8 pixels); returns its version's directory.

  With a split "test" of so many pictures whose labels are hidden.
  """
  script = data_dir / "scripts" / "prepare.py"
  script.parent.mkdir()
  script.write_text(_PREPARE)
  command = [sys.executable, script, data_dir, str(shards), str(hidden)]
  subprocess.run(command, check=True, capture_output=True)
  return data_dir / "tiny_shapes" / "1.0.0"
