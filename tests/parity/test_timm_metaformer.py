# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""PoolFormer: same weights, same images, same logits as timm and transformers, to 1e-5 relative.

And the other token mixers in the same block, against timm's MetaFormer with its own attention.
"""

import functools

import jax
import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from oracle import CLASSES, VISIBLE, logits, noisy_variables, relative_error, with_noise
from timm.layers import GroupNorm1
from timm.models import metaformer
from transformers import PoolFormerConfig, PoolFormerForImageClassification

import vit_jax
from vit_jax.checkpoints.metaformer import RELEASED_TO_OURS, TIMM_TO_OURS
from vit_jax.checkpoints.pretrained import from_pretrained
from vit_jax.checkpoints.saving import save_checkpoint
from vit_jax.models.registry import MODELS, create_model
from vit_jax.params.tables import HEADS_IN, HEADS_OUT, LINEAR, dense, to_theirs
from vit_jax.params.tree import from_tree

# Model, depths and image size: the native one, and one that no stride divides.
CASES = {
  "S12": ("PoolFormer-S12", (2, 2, 6, 2), (224, 224)),
  "S12, 97x130": ("PoolFormer-S12", (2, 2, 6, 2), (97, 130)),
  "M48": ("PoolFormer-M48", (1, 1, 2, 1), (224, 224)),
  "M48, 97x130": ("PoolFormer-M48", (1, 1, 2, 1), (97, 130)),
}
every_case = pytest.mark.parametrize("case", CASES)


def images(size):
  return np.random.default_rng(7).uniform(-1, 1, (2, *size, 3)).astype(np.float32)


@functools.partial(jax.jit, static_argnums=0)
def on(model, variables, pictures):
  return model.apply(variables, pictures)


def timm_model(name, depths, **arguments):
  """As timm registers its PoolFormers, at another depth or with another mixer."""
  torch.manual_seed(0)
  arguments = {
    "norm_layers": GroupNorm1,
    "layer_scale_init_values": MODELS[name].config["layer_scale_init"],
    **arguments,
  }
  return metaformer.MetaFormer(
    depths=depths,
    dims=MODELS[name].config["widths"],
    downsample_norm=None,
    mlp_act=torch.nn.GELU,
    mlp_bias=True,
    res_scale_init_values=None,
    use_mlp_head=False,
    num_classes=CLASSES,
    **arguments,
  ).eval()


def transformers_model(name, depths):
  torch.manual_seed(0)
  config = PoolFormerConfig(
    depths=list(depths), hidden_sizes=list(MODELS[name].config["widths"]), num_labels=CLASSES
  )
  return with_noise(PoolFormerForImageClassification(config)).eval()


def noisy(name, depths, size, **fields):
  model = create_model(name, num_classes=CLASSES, depths=depths, **fields)
  return model, noisy_variables(model, images(size))


def assert_norms_before_pooling_equal(variables, theirs):
  """Their biases, which pooling minus the token cancels, so that logits cannot show them."""
  found = from_tree(variables["params"])
  blocks = [path for path in found if path.endswith("LayerNorm_0/bias")]
  assert len(blocks) == len(theirs)
  for path, bias in zip(sorted(blocks), theirs, strict=True):
    np.testing.assert_array_equal(found[path], bias.detach())


def test_timm_registers_what_is_compared_here():
  registered = timm.create_model("poolformer_s12", num_classes=CLASSES)
  assert str(registered) == str(timm_model("PoolFormer-S12", (2, 2, 6, 2)).train())


@every_case
def test_timms_own_weights_load_here(case, tmp_path, parity):
  name, depths, size = CASES[case]
  theirs = with_noise(timm_model(name, depths))
  safetensors.torch.save_file(theirs.state_dict(), tmp_path / "theirs.safetensors")
  expected = logits(theirs, images(size))
  model, variables = from_pretrained(name, tmp_path / "theirs.safetensors", depths=depths)
  assert (model.final_norm, model.activation) == ("after_pooling", "gelu")
  assert_norms_before_pooling_equal(
    variables, [block.norm1.bias for stage in theirs.stages for block in stage.blocks]
  )
  error = relative_error(on(model, variables, images(size)), expected)
  # The tolerance can see the paper's order of norm and pooling under the same weights.
  off = relative_error(
    on(model.clone(final_norm="before_pooling"), variables, images(size)), expected
  )
  assert off > VISIBLE
  parity(f"PoolFormer-{case}", "timm", "ours", error, off)


@every_case
def test_transformers_own_weights_load_here(case, tmp_path, parity):
  name, depths, size = CASES[case]
  theirs = transformers_model(name, depths)
  theirs.save_pretrained(tmp_path / "theirs")
  with torch.no_grad():
    expected = theirs(torch.from_numpy(images(size)).permute(0, 3, 1, 2)).logits.numpy()
  model, variables = from_pretrained(name, tmp_path / "theirs", depths=depths)
  assert (model.final_norm, model.activation) == ("before_pooling", "gelu")
  assert_norms_before_pooling_equal(
    variables,
    [layer.before_norm.bias for stage in theirs.poolformer.encoder.block for layer in stage],
  )
  error = relative_error(on(model, variables, images(size)), expected)
  timms = model.clone(final_norm="after_pooling")
  off = relative_error(on(timms, variables, images(size)), expected)
  assert off > VISIBLE
  parity(f"PoolFormer-{case}", "transformers", "ours", error, off)


def test_timm_opens_our_safetensors_strictly(tmp_path, parity):
  name, depths, size = CASES["S12, 97x130"]
  model, variables = noisy(name, depths, size, final_norm="after_pooling")
  save_checkpoint(tmp_path / "ours.safetensors", model, variables)
  theirs = timm_model(name, depths)
  theirs.load_state_dict(safetensors.torch.load_file(tmp_path / "ours.safetensors"), strict=True)
  error = relative_error(on(model, variables, images(size)), logits(theirs, images(size)))
  parity("PoolFormer-S12, 97x130", "ours (safetensors)", "timm", error)

  # Stage by stage too, in the same order of axes.
  found = vit_jax.extract_features(model, variables, images(size), layers=["stages/*"])
  with torch.no_grad():
    stages = theirs.forward_intermediates(
      torch.from_numpy(images(size)).permute(0, 3, 1, 2), intermediates_only=True
    )
  for ours, stage in zip(found.values(), stages, strict=True):
    assert relative_error(ours, stage.permute(0, 2, 3, 1)) < 1e-5


def test_the_authors_names_mean_what_timm_takes_them_for(tmp_path, parity):
  """timm reads the released files by renaming; its head then norms after pooling."""
  name, depths, size = CASES["S12, 97x130"]
  _, variables = noisy(name, depths, size)
  released, left = to_theirs(from_tree(variables["params"]), RELEASED_TO_OURS)
  assert not left
  state = {key: torch.from_numpy(value) for key, value in released.items()}
  theirs = timm_model(name, depths)
  theirs.load_state_dict(metaformer.checkpoint_filter_fn(state, theirs), strict=True)
  torch.save(state, tmp_path / "x.pth.tar")
  restored, found = from_pretrained(name, tmp_path / "x.pth.tar", depths=depths)
  assert restored.final_norm == "before_pooling"
  jax.tree.map(np.testing.assert_array_equal, found["params"], variables["params"])
  timms = restored.clone(final_norm="after_pooling")
  error = relative_error(on(timms, found, images(size)), logits(theirs, images(size)))
  parity("PoolFormer-S12, the authors' names", "ours", "timm", error)


class TokenNorm(torch.nn.GroupNorm):
  """The block's norm where timm has tokens [batch, tokens, channels]."""

  def __init__(self, channels, **arguments):
    super().__init__(1, channels, **arguments)

  def forward(self, x):
    return super().forward(x.transpose(1, 2)).transpose(1, 2)


class SpatialFc(torch.nn.Module):
  """A linear layer over the positions of [batch, channels, height, width]."""

  def __init__(self, dim, positions=(8 * 8, 4 * 4), **ignored):
    super().__init__()
    side = {320: positions[0], 512: positions[1]}[dim]
    self.fc = torch.nn.Linear(side, side, bias=False)

  def forward(self, x):
    return self.fc(x.flatten(2)).reshape(x.shape)


# timm's token mixer, its norm, further arguments, and what our tables do not have: timm has no
# PoolFormer with these.
_THEIRS, _OURS = "stages.{i}.blocks.{j}.token_mixer.", "stage_{i}_block_{j}/token_mixer/"
MIXERS = {
  "identity": (torch.nn.Identity, GroupNorm1, {}, []),
  "mlp": (SpatialFc, GroupNorm1, {}, [(_THEIRS + "fc.weight", _OURS + "kernel", LINEAR)]),
  "attention": (
    metaformer.Attention,
    TokenNorm,
    dict(qkv_bias=True, proj_bias=True),
    [
      *(
        (
          f"{_THEIRS}qkv.{theirs}",
          tuple(f"{_OURS}{part}/{ours}" for part in ("query", "key", "value")),
          HEADS_OUT,
        )
        for theirs, ours in (("weight", "kernel"), ("bias", "bias"))
      ),
      *dense(_THEIRS + "proj", _OURS + "out", HEADS_IN),
    ],
  ),
}


@pytest.mark.parametrize("mixer", MIXERS)
def test_the_same_block_has_timms_other_token_mixers(mixer, parity):
  name, depths, size = "PoolFormer-S12", (1, 1, 2, 1), (128, 128)
  mixers = ("pooling", "pooling", mixer, mixer)
  model, variables = noisy(name, depths, size, token_mixer=mixers, final_norm="after_pooling")
  kind, norm, arguments, rows = MIXERS[mixer]
  theirs = timm_model(
    name,
    depths,
    token_mixers=[metaformer.Pooling, metaformer.Pooling, kind, kind],
    norm_layers=[GroupNorm1, GroupNorm1, norm, norm],
    **arguments,
  )
  state, left = to_theirs(from_tree(variables["params"]), TIMM_TO_OURS + rows)
  assert not left
  shapes = {key: value.shape for key, value in theirs.state_dict().items()}
  theirs.load_state_dict(
    {key: torch.from_numpy(value).reshape(shapes[key]) for key, value in state.items()}
  )
  error = relative_error(on(model, variables, images(size)), logits(theirs, images(size)))
  pooling = on(model.clone(token_mixer="pooling"), variables, images(size))
  off = relative_error(pooling, logits(theirs, images(size)))
  assert off > VISIBLE
  parity(f"PoolFormer-S12, {mixer} in two stages", "ours", "timm", error, off)
