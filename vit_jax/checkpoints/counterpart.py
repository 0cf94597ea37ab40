# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The PyTorch model that a file of ours is for: timm's or transformers', with the same numerics.

For proofs (`vit-jax convert --verify`); needs torch, and timm or transformers.
"""

import functools
import importlib
import os
from pathlib import Path
from typing import Any

import numpy as np

from vit_jax.checkpoints import hf_models, npz
from vit_jax.checkpoints.torch import to_timm
from vit_jax.errors import UserError
from vit_jax.models.bit import ROOT_WIDTH, BitResNet
from vit_jax.models.deit import DistilledVisionTransformer
from vit_jax.models.metaformer import MetaFormer
from vit_jax.models.mixer import MlpMixer
from vit_jax.models.mobilevit import MobileTransformer, MobileViT
from vit_jax.models.mobilevit_v2 import MobileViTV2
from vit_jax.models.swin import SwinTransformer
from vit_jax.models.swin_v2 import SwinTransformerV2
from vit_jax.models.vit import HybridVisionTransformer, VisionTransformer

# Stem units per stage (None: no stem), and a model of timm's that is built from them.
TIMM_STEMS = {
  None: "vit_base_patch16_224",
  (): "vit_tiny_r_s16_p8_224",
  (2, 2, 2, 2): "vit_small_r26_s32_224",
  (3, 4, 9): "vit_base_r50_s16_224",
  (3, 4, 6, 3): "vit_large_r50_s32_224",
}
# Our classifier: timm's pooling, and whether it has a class token.
TIMM_POOLING = {
  "token": ("token", True),
  "gap": ("avg", False),
  "map": ("map", False),
  "unpooled": ("", False),
  "token_unpooled": ("", True),
}


def run(path: str | os.PathLike, model: Any, images: np.ndarray) -> np.ndarray:
  """The answer of PyTorch to images, with the weights of a file and the numerics of `model`.

  Args:
    path: an .npz, timm's .safetensors or a transformers folder, opened by their own loaders.
    model: the flax module that the file was written for.
    images: float32 or float64 [batch, height, width, channels]; PyTorch computes in that.

  Returns:
    Logits [batch, classes]; without a head the representation [batch, dim].

  Raises:
    UserError: a library is not installed, or has no such model.
  """
  try:
    import torch
  except ImportError as error:
    raise UserError(_missing("torch")) from error
  path = Path(path)
  pixels = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
  with torch.inference_mode():
    if path.is_dir():
      return _run_transformers(path, model, pixels)
    theirs = timm_model(model, images.shape[1:3], images.shape[3])
    if path.suffix == ".npz" and hasattr(theirs, "load_pretrained"):
      theirs.load_pretrained(os.fspath(path))
    elif path.suffix == ".npz":  # timm does not read this family's: under its own names, then.
      arrays, _ = npz.read_npz(path)
      state = {n: torch.from_numpy(x) for n, x in to_timm(npz.to_linen(arrays)).items()}
      theirs.load_state_dict(state, strict=True)
    else:
      import safetensors.torch

      theirs.load_state_dict(safetensors.torch.load_file(path), strict=True)
    return theirs.eval().to(pixels.dtype)(pixels).numpy()


def check_installed(library: str) -> None:
  """Raises a UserError unless torch and this library, timm or transformers, can be imported."""
  for package in ("torch", library):
    try:
      module = importlib.import_module(package)
      if package == "transformers":  # Which imports its models late.
        module.ViTForImageClassification  # noqa: B018
    except (ImportError, RuntimeError, AttributeError) as error:
      raise UserError(f"{_missing(package)} ({str(error).partition(chr(10))[0]})") from error


def _missing(package: str) -> str:
  return f"this needs {package}; install it with `pip install 'vit_jax[torch]'`."


def _run_transformers(folder: Path, model: Any, pixels: Any) -> np.ndarray:
  try:
    import transformers
  except ImportError as error:
    raise UserError(_missing("transformers")) from error
  # Models of tokens have a pooler with parameters, our `pre_logits`; the others' is a mean.
  tokens = isinstance(model, VisionTransformer)
  pooled = not tokens or bool(model.representation_size)
  kind = getattr(transformers, hf_models.class_of(model))
  arguments = {"add_pooling_layer": pooled} if tokens and not model.num_classes else {}
  theirs, told = kind.from_pretrained(folder, output_loading_info=True, **arguments)
  if any(told.values()):
    raise UserError(f"{kind.__name__} does not take all of {folder} as it is: {told}.")
  if isinstance(model, MobileTransformer) and pixels.shape[1] == 3:
    pixels = pixels.flip(1)  # To BGR; see checkpoints.mobilevit.
  answer = theirs.eval().to(pixels.dtype)(pixels)
  if not getattr(model, "average_heads", True) and model.num_classes:
    return np.stack([answer.cls_logits.numpy(), answer.distillation_logits.numpy()], axis=1)
  if "logits" in answer:
    return answer.logits.numpy()
  if pooled:
    return answer.pooler_output.numpy()
  return answer.last_hidden_state[:, : len(model.prefix_tokens())].mean(1).numpy()


def timm_model(model: Any, image_size: tuple[int, int], channels: int = 3) -> Any:
  """timm's model of the same architecture and numerics, with random weights.

  Raises:
    UserError: timm is not installed or cannot build the model.
  """
  try:
    import timm  # noqa: F401
  except (ImportError, RuntimeError) as error:
    raise UserError(_missing("timm")) from error
  return TIMM_BUILDERS[type(model)](model, tuple(image_size), channels)


def _patches_and_blocks(model: Any, image_size: tuple[int, int], channels: int) -> dict[str, Any]:
  """Arguments of timm's for what ViTs and Mixers have in common."""
  import torch

  approximate = "tanh" if model.activation == "gelu_tanh" else "none"
  return dict(
    img_size=image_size,
    in_chans=channels,
    patch_size=model.patch_size,
    num_classes=model.num_classes,
    act_layer=functools.partial(torch.nn.GELU, approximate=approximate),
    norm_layer=functools.partial(torch.nn.LayerNorm, eps=model.layer_norm_eps),
  )


def _mixer(model: MlpMixer, image_size: tuple[int, int], channels: int) -> Any:
  from timm.models import mlp_mixer

  # timm takes the widths as ratios, and rounds down.
  widths = (model.tokens_mlp_dim, model.channels_mlp_dim)
  return mlp_mixer.MlpMixer(
    num_blocks=model.num_blocks,
    embed_dim=model.hidden_dim,
    mlp_ratio=tuple((width + 0.5) / model.hidden_dim for width in widths),
    **_patches_and_blocks(model, image_size, channels),
  )


# The epsilon of timm's weight standardisation, for ours.
TIMM_STANDARDIZATION = {"bit": 1e-10, "timm": 1e-8}


def _bit(model: BitResNet, image_size: tuple[int, int], channels: int) -> Any:
  import timm.layers
  from timm.models import resnetv2

  del image_size
  if model.weight_standardization not in TIMM_STANDARDIZATION:
    raise UserError(f"timm's BiT has no weight_standardization={model.weight_standardization!r}.")
  return resnetv2.ResNetV2(
    layers=list(model.num_units),
    width_factor=model.width_factor,
    stem_chs=ROOT_WIDTH,
    stem_type="fixed",
    conv_layer=functools.partial(
      timm.layers.StdConv2d, eps=TIMM_STANDARDIZATION[model.weight_standardization]
    ),
    norm_layer=functools.partial(
      timm.layers.GroupNormAct, num_groups=model.num_groups, eps=model.group_norm_eps
    ),
    num_classes=model.num_classes,
    in_chans=channels,
  )


def _swin(model: SwinTransformer, image_size: tuple[int, int], channels: int) -> Any:
  import torch
  from timm.models import swin_transformer, swin_transformer_v2

  if model.activation != "gelu":
    raise UserError(f"timm's Swin has no activation={model.activation!r}, only 'gelu'.")
  least = model.patch_size * 2 ** (len(model.depths) - 1) * (model.window_size - 1)
  second = isinstance(model, SwinTransformerV2)
  if min(image_size) <= least and not second:
    height, width = image_size
    raise UserError(
      f"timm's Swin has fewer position biases for images of {height}x{width}; compare with images "
      f"of more than {least} pixels a side."
    )
  make = swin_transformer.SwinTransformer
  if second:
    windows = tuple(model.trained_windows) or (0,) * len(model.depths)
    make = functools.partial(swin_transformer_v2.SwinTransformerV2, pretrained_window_sizes=windows)
  return make(
    img_size=image_size,
    patch_size=model.patch_size,
    in_chans=channels,
    num_classes=model.num_classes,
    embed_dim=model.embed_dim,
    depths=tuple(model.depths),
    num_heads=tuple(
      model.embed_dim * 2**stage // model.head_dim for stage in range(len(model.depths))
    ),
    window_size=model.window_size,
    mlp_ratio=model.mlp_ratio,
    norm_layer=functools.partial(torch.nn.LayerNorm, eps=model.layer_norm_eps),
  )


def _metaformer(model: MetaFormer, image_size: tuple[int, int], channels: int) -> Any:
  import timm.layers
  import torch
  from timm.models import metaformer

  del image_size
  mixer, count = model.token_mixer, len(model.depths)
  mixers = [mixer] * count if isinstance(mixer, str) else mixer
  known = {"pooling": metaformer.Pooling, "identity": torch.nn.Identity}
  if not {*mixers} <= {*known} or model.mlp_ratio != 4:
    raise UserError(
      f"timm has no PoolFormer with token_mixer={mixer!r} and mlp_ratio={model.mlp_ratio}, only "
      f"{' and '.join(map(repr, known))} and 4."
    )
  norm = functools.partial(timm.layers.GroupNorm1, eps=model.group_norm_eps)
  after_pooling = model.final_norm == "after_pooling"
  theirs = metaformer.MetaFormer(
    depths=model.depths,
    dims=model.widths,
    token_mixers=[known[mixer] for mixer in mixers],
    mlp_act=functools.partial(
      torch.nn.GELU, approximate="tanh" if model.activation == "gelu_tanh" else "none"
    ),
    mlp_bias=True,
    layer_scale_init_values=model.layer_scale_init,
    res_scale_init_values=None,
    downsample_norm=None,
    norm_layers=norm,
    output_norm=timm.layers.LayerNorm2d if after_pooling else norm,
    use_mlp_head=False,
    num_classes=model.num_classes,
    in_chans=channels,
  )
  if not after_pooling:  # As it was trained; timm's own way changes the logits.
    theirs.forward_head = lambda x: theirs.head.fc(theirs.head.norm(x).mean((2, 3)))
  return theirs


def _mobilevit(model: MobileTransformer, image_size: tuple[int, int], channels: int) -> Any:
  import timm.layers
  import torch
  from timm.models import byobnet
  from timm.models import mobilevit as _  # noqa: F401  Registers its blocks in byobnet.

  del image_size
  if isinstance(model, MobileViT):
    norm = functools.partial(torch.nn.LayerNorm, eps=model.layer_norm_eps)
    kind, own = dict(type="mobilevit"), dict(num_heads=model.num_heads)
  else:
    norm = functools.partial(timm.layers.GroupNorm1, eps=model.group_norm_eps)
    kind, own = dict(type="mobilevit2", gs=1), {}
  own |= dict(patch_size=model.patch_size, mlp_ratio=model.mlp_ratio, transformer_norm_layer=norm)

  def stage(index: int, width: int, residuals: int, hidden_size: int, layers: int) -> tuple:
    blocks = [
      byobnet.ByoBlockCfg(
        type="bottle",
        d=residuals,
        c=width,
        s=2 if index else 1,
        gs=1,
        br=model.expansion,
        block_kwargs=dict(bottle_in=True, linear_out=True),
      )
    ]
    if layers:
      sizes = dict(transformer_dim=hidden_size, transformer_depth=layers)
      blocks += [byobnet.ByoBlockCfg(d=1, c=width, s=1, block_kwargs={**sizes, **own}, **kind)]
    return tuple(blocks)

  config = byobnet.ByoModelCfg(
    blocks=tuple(stage(index, *sizes) for index, sizes in enumerate(model.stages())),
    stem_chs=model.stem_width,
    stem_type="3x3",
    stem_pool="",
    downsample="",
    act_layer=model.activation,
    num_features=model.final_width,
  )
  theirs = byobnet.ByobNet(config, num_classes=model.num_classes, in_chans=channels)
  for module in theirs.modules():
    if isinstance(module, torch.nn.BatchNorm2d):
      module.eps = model.batch_norm_eps
  return theirs


def _vit(model: VisionTransformer, image_size: tuple[int, int], channels: int) -> Any:
  import timm

  blocks = getattr(model, "stem_blocks", None)
  blocks = None if blocks is None else tuple(blocks)
  if blocks not in TIMM_STEMS or getattr(model, "stem_width", 64) != 64:
    raise UserError(f"timm has no hybrid with stem_blocks={blocks} and this stem_width.")
  pooling, class_token = TIMM_POOLING[model.classifier]
  distilled = isinstance(model, DistilledVisionTransformer)
  theirs = timm.create_model(
    "deit_base_distilled_patch16_224" if distilled else TIMM_STEMS[blocks],
    embed_dim=model.hidden_size,
    depth=model.num_layers,
    num_heads=model.num_heads,
    mlp_ratio=model.mlp_dim / model.hidden_size,
    class_token=class_token,
    global_pool=pooling,
    fc_norm=False,
    init_values=model.layer_scale_init,
    **_patches_and_blocks(model, image_size, channels),
  )
  if blocks is not None:
    _set_stem_numerics(theirs, model)
  return theirs


def _set_stem_numerics(theirs: Any, model: Any) -> None:
  """Weight standardisation and GroupNorm of the stem as the weights have them."""
  import timm
  import torch

  def google(self: Any, x: torch.Tensor) -> torch.Tensor:
    """(w - mean) / (std + 1e-5); timm's own is (w - mean) / sqrt(var + 1e-8)."""
    mean = self.weight.mean(dim=(1, 2, 3), keepdim=True)
    std = self.weight.std(dim=(1, 2, 3), keepdim=True, correction=0)
    weight = (self.weight - mean) / (std + 1e-5)
    x = timm.layers.pad_same(x, self.kernel_size, self.stride, self.dilation)
    return torch.nn.functional.conv2d(x, weight, self.bias, self.stride)

  for module in theirs.modules():
    if isinstance(module, torch.nn.GroupNorm):
      module.eps = model.group_norm_eps
    if isinstance(module, timm.layers.StdConv2dSame) and model.weight_standardization == "google":
      module.forward = google.__get__(module)


TIMM_BUILDERS = {
  VisionTransformer: _vit,
  HybridVisionTransformer: _vit,
  DistilledVisionTransformer: _vit,
  MlpMixer: _mixer,
  BitResNet: _bit,
  MetaFormer: _metaformer,
  MobileViT: _mobilevit,
  MobileViTV2: _mobilevit,
  SwinTransformer: _swin,
  SwinTransformerV2: _swin,
}
