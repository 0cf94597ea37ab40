# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Training images per second: our loader against a PyTorch DataLoader with Pillow and timm.

    python benchmarks/loader.py

Both read the same JPEGs (500x375, real photos), crop them at random (area 5% to 100%), resize to
224x224, mirror half and return uint8 batches. timm resizes with Pillow, whose bilinear filter is
antialiased; ours is measured as configured by default (no antialias, like the ancestor), with
"area" and with the very same Pillow filter. The loaders take turns, each with a fresh iterator; a
round is timed from its second batch on. Prints medians and writes benchmarks/results/loader.json.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import os
import pathlib
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

import cv2
import numpy as np
from machine import machine
from PIL import Image

from vit_jax.data.decode import decode
from vit_jax.data.digits import open_digits
from vit_jax.data.loader import TrainLoader
from vit_jax.data.sources import FileSource
from vit_jax.data.transforms import Preprocessing

BATCH = 64
OURS = {
  "ours": {},
  "ours, area": {"interpolation": "area"},
  "ours, Pillow's antialias": {"antialias": True},
}


def write_photos(directory: str, count: int) -> FileSource:
  """Writes `count` JPEGs of 500x375 from the photos of scikit-learn and scikit-image."""
  from skimage import data
  from sklearn.datasets import load_sample_images

  photos = [*load_sample_images().images, data.astronaut(), data.coffee(), data.rocket()]
  rng = np.random.default_rng(0)
  files = []
  for k in range(count):
    photo = photos[k % len(photos)]
    height, width = photo.shape[:2]
    h = int(min(height, width * 0.75) * rng.uniform(0.8, 1.0))
    w = int(h / 0.75)
    top, left = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
    view = Image.fromarray(photo[top : top + h, left : left + w])
    view = view.resize((500, 375), Image.Resampling.BICUBIC)
    files.append(f"{k:04d}.jpg")
    view.save(os.path.join(directory, files[-1]), quality=96)
  return FileSource(directory, files, np.arange(count) % 10)


def torch_batches(source: FileSource, workers: int) -> Callable[[], Iterator]:
  """A factory of endless iterators over a DataLoader with timm's crop and Pillow."""
  sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tests"))
  import cpu_torchvision  # noqa: F401
  import torch
  from timm.data.loader import fast_collate
  from timm.data.transforms import RandomResizedCropAndInterpolation

  class Photos(torch.utils.data.Dataset):
    crop = RandomResizedCropAndInterpolation(224, scale=(0.05, 1.0), interpolation="bilinear")

    def __len__(self):
      return 1 << 30

    def __getitem__(self, index):
      record = source[index * 7919 % len(source)]
      image = self.crop(Image.open(io.BytesIO(record["image"])).convert("RGB"))
      if torch.rand(()) < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
      return np.array(image).transpose(2, 0, 1), record["label"]

  return lambda: iter(
    torch.utils.data.DataLoader(
      Photos(), batch_size=BATCH, num_workers=workers, collate_fn=fast_collate, prefetch_factor=2
    )
  )


def rate(
  make: Callable[[], Iterator], batches: int, batch: int = BATCH, pause: float = 0.5
) -> tuple[float, float]:
  """(images per second, CPU milliseconds an image) of a fresh iterator, from its second batch on.

  CPU time includes threads and worker processes and what they prefetched in vain; unlike the rate
  it hardly depends on what else the machine does.
  """
  used = cpu_seconds()
  iterator = make()
  next(iterator)
  start = time.perf_counter()
  for _ in range(batches):
    next(iterator)
  seconds = time.perf_counter() - start
  if hasattr(iterator, "close"):
    iterator.close()
  del iterator  # Ends the workers.
  time.sleep(pause)
  return batches * batch / seconds, (cpu_seconds() - used) / (batch * (batches + 1)) * 1000


def cpu_seconds() -> float:
  return time.process_time() + sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])


def decode_batches(source: FileSource, threads: int) -> Iterator:
  """Bare JPEG decoding with OpenCV in as many threads as our loader has: the ceiling."""
  from concurrent.futures import ThreadPoolExecutor

  images = [source[k]["image"] for k in range(len(source))]
  with ThreadPoolExecutor(threads) as pool:
    for first in itertools.count(0, BATCH):
      chosen = [images[(first + k) % len(images)] for k in range(BATCH)]
      yield list(pool.map(decode, chosen))


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--photos", type=int, default=256)
  parser.add_argument("--batches", type=int, default=20, help="timed batches of 64 a round")
  parser.add_argument("--rounds", type=int, default=5)
  parser.add_argument("--workers", type=int, default=2, help="of the DataLoader")
  parser.add_argument("--threads", type=int, default=4, help="of our loader")
  parser.add_argument("--out", default=str(pathlib.Path(__file__).parent / "results/loader.json"))
  args = parser.parse_args()

  with tempfile.TemporaryDirectory() as directory:
    source = write_photos(directory, args.photos)
    size = sum(len(source[k]["image"]) for k in range(len(source))) / len(source)
    makers: dict[str, Callable[[], Iterator]] = {
      name: TrainLoader(
        source, Preprocessing(crop=224, **options), batch_size=BATCH, seed=0, threads=args.threads
      ).iterator
      for name, options in OURS.items()
    }
    makers["DataLoader"] = torch_batches(source, args.workers)
    makers["bare decoding"] = lambda: decode_batches(source, args.threads)
    results: dict[str, list[tuple[float, float]]] = {name: [] for name in makers}
    cv2.setNumThreads(1)
    for _ in range(args.rounds):
      for name, make in makers.items():
        results[name].append(rate(make, args.batches))
  affine = {"degrees": 10, "translate": 0.1, "scale": (0.9, 1.1)}
  digits = Preprocessing(
    crop=8, channels=1, mean=0.5, std=0.5, train_crop="none", flip=False, random_affine=affine
  )
  digit_loader = TrainLoader(open_digits().source("train"), digits, batch_size=BATCH, seed=0)
  digit_rates = [rate(digit_loader.iterator, 500, pause=0)[0] for _ in range(args.rounds)]

  rates = {name: [r for r, _ in values] for name, values in results.items()}
  median = {name: statistics.median(values) for name, values in rates.items()}
  cpu = {name: statistics.median(c for _, c in values) for name, values in results.items()}
  ratios = {
    name: statistics.median(a / b for a, b in zip(values, rates["DataLoader"], strict=True))
    for name, values in rates.items()
  }
  print(f"{args.photos} JPEGs of 500x375, {size / 1000:.0f} kB on average")
  print(f"{'loader':26}{'images/s':>9}{'vs DataLoader':>15}{'CPU ms/image':>14}{'less CPU':>10}")
  for name, value in median.items():
    less = cpu["DataLoader"] / cpu[name]
    print(f"{name:26}{value:9.0f}{ratios[name]:15.2f}{cpu[name]:14.2f}{less:9.2f}x")
  print(f"{'digits with affine':26}{statistics.median(digit_rates):9.0f}")
  result = {
    "what": "training images/s, JPEG 500x375 -> random crop 224x224 and flip, uint8 batches of 64",
    "machine": machine("grain", "opencv-python-headless", "pillow", "torch", "timm", "numpy"),
    "settings": {k: v for k, v in vars(args).items() if k != "out"}
    | {"mean_jpeg_bytes": round(size)},
    "images_per_second_median": {k: round(v, 1) for k, v in median.items()},
    "images_per_second": {k: [round(x, 1) for x in v] for k, v in rates.items()},
    "ratio_to_dataloader_median": {k: round(v, 3) for k, v in ratios.items()},
    "cpu_milliseconds_per_image": {k: round(v, 3) for k, v in cpu.items()},
    "digits_images_per_second": round(statistics.median(digit_rates), 1),
    "load_average_at_end": [round(x, 2) for x in os.getloadavg()],
  }  # fmt: skip
  pathlib.Path(args.out).parent.mkdir(parents=True, exist_ok=True)
  pathlib.Path(args.out).write_text(json.dumps(result, indent=2) + "\n")
  print(f"wrote {args.out}")


if __name__ == "__main__":
  main()
