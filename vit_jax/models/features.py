# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What a model computed on the way to its logits, by name."""

import fnmatch
import re
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.errors import UserError

# Path of a captured value -> public name. {} takes the layer's number; a scanned model stacks its
# layers, which `_named` takes apart again.
NAMES = (
  (r"tokens", "tokens"),
  (r"representation", "pre_logits"),
  (r"stage(\d+)", "stages/{}"),
  (r"(?:Transformer/encoderblock|MixerBlock)(?:_(\d+))?/block", "blocks/{}"),
  (r"Transformer/encoderblock(?:_(\d+))?/.*/weights", "attention/{}"),
  (r"MAPHead_0/.*/weights", "attention/map"),
  (r"stage_(\d+)_block_(\d+)/token_mixer/weights", "attention/{}/{}"),
  (r"stage_(\d+)_mobilevit/encoderblock_(\d+)/block", "blocks/{}/{}"),
  (r"stage_(\d+)_mobilevit/encoderblock_(\d+)/.*/weights", "attention/{}/{}"),
)


def _named(path: str, value: Array) -> dict[str, Array]:
  for pattern, name in NAMES:
    if match := re.fullmatch(pattern, path.removeprefix("img/")):  # Of two towers.
      if "{}" not in name:
        return {name: value}
      if match[1] is not None:
        return {name.format(*match.groups()): value}
      return {name.format(layer): value[layer] for layer in range(value.shape[0])}
  raise KeyError(f"models/features.py has no public name for the captured value {path!r}.")


def _order(name: str) -> tuple:
  """Sorts blocks/2 before blocks/10."""
  return tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in name.split("/"))


def extract_features(
  model: nn.Module,
  variables: Mapping[str, Any],
  images: Float[Array, "b h w c"],
  *,
  layers: Sequence[str] | None = None,
  attention: bool = False,
) -> dict[str, Array]:
  """Runs the model and returns its intermediate values by name.

  Args:
    model: a module of the registry; of two towers the image tower is looked into.
    variables: as `from_pretrained` or `model.init` return them.
    images: [batch, height, width, channels] float32, preprocessed for the model.
    layers: names or shell patterns such as "blocks/*"; None takes all.
    attention: adds "attention/0"... [batch, heads, queries, keys] float32, which costs the memory
      that the model otherwise never spends. Stages have "attention/2/0"..., by stage and block.

  Returns:
    "pre_logits" [batch, dim]: what the head sees (after `pre_logits`' tanh, where there is one).
    "tokens" [batch, tokens, dim]: after the last norm, class token first when there is one.
    "blocks/0" ... [batch, tokens, dim]: after each block, before the last norm.
    "stages/0" ... [batch, height, width, channels]: where there are stages, after each; their
    strides are `feature_strides`.
    MobileViT's "blocks/2/0" ... and "attention/2/0" ... have the positions of a patch, which never
    meet, as images of their own: batch * positions instead of batch.

  Raises:
    UserError: if a name in `layers` matches nothing.
  """
  wanted = list(layers) if layers is not None else None
  by_name = wanted is not None and any(name.startswith("attention") for name in wanted)
  collections = ["features", "attention"] if attention or by_name else ["features"]

  @jax.jit
  def forward(variables, images):
    _, captured = model.apply(variables, images, train=False, mutable=collections)
    values = {}
    for collection in captured.values():
      for path, value in flax.traverse_util.flatten_dict(collection, sep="/").items():
        values.update(_named(path, value))
    if wanted is None:
      return values
    for pattern in wanted:
      if not fnmatch.filter(values, pattern):
        names = ", ".join(sorted(values, key=_order))
        raise UserError(f"the model has no layer {pattern!r}; it has {names}.")
    keep = {name for pattern in wanted for name in fnmatch.filter(values, pattern)}
    keep |= {name for name in values if attention and name.startswith("attention")}
    return {name: values[name] for name in keep}

  found = forward(variables, images)
  return {name: found[name] for name in sorted(found, key=_order)}


def feature_strides(model: nn.Module) -> dict[str, int]:
  """Pixels of the image between two positions of each map that `extract_features` gives.

  Returns:
    {"stages/0": 4, "stages/1": 8, ...}, what a detector or a segmenter asks of a backbone; {} for
    models without stages.
  """
  side = 64 * max(model.pixels_per_token())
  images = jnp.zeros((1, side, side, 3))

  def forward() -> Any:
    variables = model.init(jax.random.key(0), images, train=False)
    return model.apply(variables, images, train=False, mutable=["features"])[1]

  captured = flax.traverse_util.flatten_dict(jax.eval_shape(forward)["features"], sep="/")
  maps = {}
  for path, value in captured.items():
    maps |= {name: x for name, x in _named(path, value).items() if name.startswith("stages/")}
  return {name: side // maps[name].shape[1] for name in sorted(maps, key=_order)}
