# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""What a version of vit_jax gives: logits, plans, help texts, and the ends of runs half done.

    python tests/record/outputs.py DIRECTORY

writes `logits.npz`, `plans.json`, `help.json`, `runs.npz` and `runs.json`. Only the command line,
the public names and `make_plan` are used, so that an older version can be asked the same: with its
path in PYTHONPATH.
"""

import argparse
import contextlib
import io
import json
import pathlib
import shutil
import sys
import tarfile
import tempfile
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import vit_jax
from vit_jax.cli import app, configuration
from vit_jax.training.plan import make_plan

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import small_models  # noqa: E402
import small_runs  # noqa: E402

PRESETS = (
  *("vit:b16,cifar10", "vit:r50_b16,imagenet2012", "vit:h14,cifar100", "augreg:B_16,cifar100"),
  *("augreg:R_Ti_16 dataset=photos", "mixer:b16,cifar10", "mixer:digits", "mixer_base16_cifar10"),
  *("bit:r50x1,cifar10", "bit:digits", "deit:s16,imagenet2012", "deit:s16_distilled,cifar10"),
  *("deit:digits", "deit:digits_distilled distill.teacher=BiT-R50x1", "swin:t,imagenet2012"),
  *("swin:v2_t_w8,imagenet2012", "swin:digits", "metaformer:s12,imagenet2012"),
  *("metaformer:digits", "mobilevit:s,imagenet2012", "mobilevit:digits", "quickstart"),
  *("lit:digits init.img=ViT-B_16", "lit:b16b2 dataset=photos frozen="),
  *("lit:l16ti dataset=photos init.img=ViT-L_16", "scratch:small,32 dataset=photos"),
  "scratch:s16 dataset=photos",
)
SCORES = ("val", "test", "test_raw", "1-nn", "metric", "best_step", "steps", "parameters")


def images(*shape: int) -> np.ndarray:
  """Noise as an image [*shape] in float32."""
  return np.random.default_rng(1).normal(0, 1, shape).astype(np.float32)


def noise(shapes: Any) -> Any:
  """Values for a model's variables, none of them zero; variances are positive."""
  rng = np.random.default_rng(0)
  draw = lambda x: (0.3 * rng.standard_normal(x.shape, np.float32) + 0.5).astype(np.float32)
  variables = jax.tree.map(draw, shapes)
  return variables | {
    name: jax.tree.map(np.abs, inner) for name, inner in variables.items() if name != "params"
  }


def logits(label: str) -> dict[str, np.ndarray]:
  """What a model of `small_models.ALL` answers: logits, or the embeddings of two towers."""
  name, fields, size = small_models.ALL[label]
  model = vit_jax.create_model(name, **fields)
  inputs = (images(2, *size, 3),)
  if "img" in fields:
    inputs += (jnp.asarray([[1, 2, 3] + 13 * [0], 16 * [0]]),)
  variables = noise(jax.eval_shape(model.init, jax.random.key(0), *inputs))
  answer = jax.jit(model.apply)(variables, *inputs)
  parts = answer[:2] if isinstance(answer, tuple) else (answer,)
  return {f"{label} {part}": np.asarray(value) for part, value in enumerate(parts)}


def plan(preset: str) -> dict[str, Any]:
  """The plan of a preset, with the keys that it has to be given, as a run records it."""
  preset, *keys = preset.split()
  file, colon, argument = preset.partition(":")
  options = [f"--config.{key}" for key in keys]
  return make_plan(
    configuration.parse([f"--config=configs/{file}.py{colon}{argument}", *options])
  ).to_dict()


def help_texts() -> dict[str, str]:
  """What `--help` prints, by the command."""
  found = {}
  for command in ("", *app.COMMANDS):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
      app.main([*filter(None, [command]), "--help"])
    found[command] = out.getvalue()
  return found


def unpack(name: str, directory: pathlib.Path) -> pathlib.Path:
  """Writes a run, as it was stopped half-way, into a directory of its name; returns its path."""
  with tarfile.open(HERE / "stopped" / f"{name}.tar.xz") as archive:
    archive.extractall(directory, filter="data")
  return directory / name


def continued(workdir: pathlib.Path) -> dict[str, Any]:
  """Continues a run that `unpack` wrote; returns the results, and the training losses since."""
  code = app.run("train", small_runs.command(workdir.name, workdir, workdir.parent))
  if code:
    sys.exit(f"{workdir} did not continue: exit code {code}")
  results = json.loads((workdir / "results.json").read_text())
  lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
  losses = {str(line["step"]): line["train/loss"] for line in lines if "train/loss" in line}
  return {"losses": losses, **{key: results[key] for key in SCORES if key in results}}


def loaded(workdir: pathlib.Path) -> dict[str, np.ndarray]:
  """The variables that a run's path alone gives, by path; and the logits of a batch of noise."""
  model, variables = vit_jax.from_pretrained(str(workdir))
  flat, _ = jax.tree_util.tree_flatten_with_path(variables)
  found = {jax.tree_util.keystr(path): np.asarray(value) for path, value in flat}
  if not hasattr(model, "txt"):
    pp = vit_jax.preprocessing_for(str(workdir)).settings
    sizes = pp.crop if isinstance(pp.crop, tuple) else (pp.crop, pp.crop)
    found["logits"] = np.asarray(model.apply(variables, images(2, *sizes, pp.channels)))
  return found


def write(path: pathlib.Path, content: Any) -> None:
  path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("directory", type=pathlib.Path)
  directory = parser.parse_args().directory
  directory.mkdir(parents=True, exist_ok=True)
  answers = [logits(label) for label in small_models.ALL]
  np.savez(directory / "logits.npz", **{k: v for answer in answers for k, v in answer.items()})
  write(directory / "plans.json", {preset: plan(preset) for preset in PRESETS})
  write(directory / "help.json", help_texts())
  scores, arrays = {}, {}
  with tempfile.TemporaryDirectory() as runs:
    for name in small_runs.RUNS:  # A teacher comes before the run that it teaches.
      workdir = unpack(name, pathlib.Path(runs))
      arrays |= {f"{name} half {path}": x for path, x in loaded(workdir).items()}
      if name == "distilled":
        shutil.rmtree(workdir.parent / "batch-norm")
        unpack("batch-norm", workdir.parent)
      scores[name] = continued(workdir)
      arrays |= {f"{name} end {path}": x for path, x in loaded(workdir).items()}
  write(directory / "runs.json", scores)
  np.savez(directory / "runs.npz", **arrays)


if __name__ == "__main__":
  main()
