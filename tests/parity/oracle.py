# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""timm as the oracle: pairs of models, noise on every leaf, and timm set to Google's numerics."""

import dataclasses
import functools
from typing import Any

import flax.traverse_util
import jax
import numpy as np
import timm
import timm.layers
import torch
import torch.nn.functional as F

from vit_jax.models.lit import example_inputs

CLASSES = 10
TOLERANCE = 1e-5
# A default that differs must show at least this much, or the tolerance could not see it either.
VISIBLE = 5e-5


@dataclasses.dataclass(frozen=True)
class Pair:
  """The same network in both libraries, at reduced depth and resolution."""

  ours: str
  theirs: str
  depth: int
  image_size: int
  arguments: tuple[tuple[str, Any], ...] = ()  # of timm, for variants that have no name there
  overrides: tuple[tuple[str, Any], ...] = ()  # of ours, likewise

  @property
  def is_hybrid(self) -> bool:
    return self.ours.startswith("R")

  def model(self, **arguments: Any) -> torch.nn.Module:
    torch.manual_seed(0)
    return timm.create_model(
      self.theirs,
      depth=self.depth,
      img_size=self.image_size,
      num_classes=CLASSES,
      **dict(self.arguments),
      **arguments,
    ).eval()

  def fields(self) -> dict[str, Any]:
    return {"num_layers": self.depth, **dict(self.overrides)}

  def images(self) -> np.ndarray:
    shape = (2, self.image_size, self.image_size, 3)
    return np.random.default_rng(7).uniform(-1, 1, shape).astype(np.float32)


GAP = (("class_token", False), ("global_pool", "avg"), ("fc_norm", False))
MAP = (("class_token", False), ("global_pool", "map"))
PAIRS = {
  "Ti_16": Pair("ViT-Ti_16", "vit_tiny_patch16_224", 2, 224),
  "S_16": Pair("ViT-S_16", "vit_small_patch16_224", 2, 96),
  "B_16": Pair("ViT-B_16", "vit_base_patch16_224", 2, 96),
  "L_32": Pair("ViT-L_32", "vit_large_patch32_224", 1, 128),
  "H_14": Pair("ViT-H_14", "vit_huge_patch14_224", 1, 56),
  "B_8": Pair("ViT-B_8", "vit_base_patch8_224", 1, 64),
  "S_16-gap": Pair("ViT-S_16-gap-norep", "vit_small_patch16_224", 2, 96, GAP),
  "Ti_16-map": Pair("ViT-Ti_16", "vit_tiny_patch16_224", 2, 64, MAP, (("classifier", "map"),)),
  "R_Ti_16": Pair("R+ViT-Ti_16", "vit_tiny_r_s16_p8_224", 2, 128),
  "R26_S_32": Pair("R26+ViT-S_32", "vit_small_r26_s32_224", 1, 96),
  "R50_B_16": Pair("R50+ViT-B_16", "vit_base_r50_s16_224", 1, 96),
}


def relative_error(ours: Any, theirs: Any) -> float:
  """||ours - theirs|| / ||theirs||, in float64."""
  ours, theirs = (np.asarray(x, np.float64) for x in (ours, theirs))
  return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def noisy_variables(model: Any, images: np.ndarray, seed: int = 0) -> dict[str, Any]:
  """Initial parameters with noise on every leaf: zeros and ones would hide a wrong mapping.

  A residual unit's last scale is noise around its initial 0, as timm's own weights have it: around
  1 a random stem is chaotic, and float32 itself is 1e-5 away from float64 (measured in either
  library; in float64 the two agree to 3e-14).
  """
  rng = np.random.default_rng(seed)
  inputs = example_inputs(model, images)
  shapes = jax.eval_shape(lambda k: model.init(k, *inputs, train=False), jax.random.key(0))
  params = {}
  for path, leaf in flax.traverse_util.flatten_dict(shapes["params"], sep="/").items():
    fan_in = np.prod(leaf.shape[:-1]) if path.endswith("kernel") else 1
    if path.endswith(("out/kernel", "query/kernel", "key/kernel", "value/kernel")):
      fan_in = np.prod(leaf.shape) ** 0.5
    value = rng.normal(0, 1 / np.sqrt(fan_in) if fan_in > 1 else 0.2, leaf.shape)
    mean = path.endswith("scale") and not path.endswith("gn3/scale")
    params[path] = (value + mean).astype(np.float32)
  variables = {"params": flax.traverse_util.unflatten_dict(params, sep="/")}
  if "batch_stats" in shapes:
    noise = lambda path, x: _statistic(path[-1].key, x.shape, rng).astype(np.float32)
    variables["batch_stats"] = jax.tree_util.tree_map_with_path(noise, shapes["batch_stats"])
  return variables


def _statistic(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
  return rng.uniform(0.5, 1.5, shape) if "var" in name else rng.normal(0, 0.2, shape)


def with_noise(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
  """Adds noise to every parameter of timm's own random weights, and to running statistics."""
  generator = torch.Generator().manual_seed(seed)
  with torch.no_grad():
    for value in model.parameters():
      scale = 0.2 if value.ndim < 2 or value.shape[0] == 1 else 1 / value[0].numel() ** 0.5
      value.add_(torch.randn(value.shape, generator=generator) * scale)
    for name, value in model.named_buffers():
      if "running" in name:
        value.copy_(torch.from_numpy(_statistic(name, value.shape, np.random.default_rng(seed))))
  return model


def _google_convolution(module: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
  """Weight standardisation as the original hybrids have it: (w - mean) / (std + 1e-5)."""
  if module.same_pad:
    x = timm.layers.pad_same(x, module.kernel_size, module.stride, module.dilation)
  weight = module.weight
  weight = weight - weight.mean(dim=(1, 2, 3), keepdim=True)
  weight = weight / (weight.std(dim=(1, 2, 3), keepdim=True, correction=0) + 1e-5)
  return F.conv2d(
    x, weight, module.bias, module.stride, module.padding, module.dilation, module.groups
  )


def set_to_google(model: torch.nn.Module) -> torch.nn.Module:
  """Sets a timm hybrid's stem to the original's epsilons."""
  for module in model.modules():
    if isinstance(module, timm.layers.StdConv2dSame):
      module.forward = _google_convolution.__get__(module)
    if isinstance(module, torch.nn.GroupNorm):
      module.eps = 1e-6
  return model


@functools.partial(jax.jit, static_argnums=0)
def forward(model: Any, variables: dict[str, Any], images: np.ndarray) -> jax.Array:
  """What our model gives, as one program: one operation at a time takes four times as long."""
  return model.apply(variables, images, train=False)


def logits(model: torch.nn.Module, images: np.ndarray) -> np.ndarray:
  """timm's logits for images [batch, height, width, channels]."""
  with torch.no_grad():
    return model(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
