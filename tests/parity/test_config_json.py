# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What `config.json` says and no weights tell is followed, as transformers and timm do, or refused.

Each key of the configs of transformers that we know gets another value, and each argument of timm's
models: the answer is theirs, to 1e-5 relative, or a sentence that names the key.
"""

import json

import numpy as np
import pytest
import safetensors.torch
import timm
import timm.models
import torch
import transformers
from oracle import TOLERANCE, VISIBLE, forward, logits, relative_error, with_noise

from vit_jax.checkpoints import huggingface, timm_config
from vit_jax.checkpoints.pretrained import from_pretrained
from vit_jax.checkpoints.reading import read_metadata
from vit_jax.errors import UserError

CLASSES = 4
SIDE = 32
VIT = dict(hidden_size=32, num_layers=2, mlp_dim=64, num_heads=2)
HF_VIT = dict(hidden_size=32, num_hidden_layers=2, intermediate_size=64, num_attention_heads=2)
SWIN = dict(embed_dim=32, depths=(2, 1))
HF_SWIN = dict(embed_dim=32, depths=[2, 1], num_heads=[1, 2])
POOL = dict(depths=(1, 1, 1, 1), widths=(8, 8, 8, 16))
HF_POOL = dict(depths=[1, 1, 1, 1], hidden_sizes=[8, 8, 8, 16])
HF_MOBILE = dict(neck_hidden_sizes=[16, 16, 24, 32, 40, 48, 64], hidden_sizes=[24, 32, 40])
MOBILE = dict(stem_width=16, widths=(16, 24, 32, 40, 48), hidden_sizes=(24, 32, 40), final_width=64)
# By model_type: transformers' classes, what the small model is made of, our name and its fields,
# and the size of images.
KINDS = {
  "vit": ("ViT", HF_VIT, "ViT-B_16", VIT, SIDE),
  "vit_msn": ("ViTMSN", HF_VIT, "ViT-B_16", VIT, SIDE),
  "swin": ("Swin", {**HF_SWIN, "window_size": 4}, "Swin-T", SWIN, 64),
  "swinv2": ("Swinv2", {**HF_SWIN, "window_size": 4}, "SwinV2-T-w8", SWIN, 64),
  "poolformer": ("PoolFormer", HF_POOL, "PoolFormer-S12", POOL, SIDE),
  "mobilevit": ("MobileViT", HF_MOBILE, "MobileViT-S", MOBILE, 64),
}
OF_VIT = {
  "hidden_act": ["gelu_new", "silu", "relu", "quick_gelu"],
  "layer_norm_eps": [1e-2],
  "image_size": [[SIDE, 2 * SIDE]],
  "num_attention_heads": [4],
  "qkv_bias": [False],
}
OF_SWIN = {
  "hidden_act": ["gelu_new"],
  "layer_norm_eps": [1e-2],
  "window_size": [2],
  "qkv_bias": [False],
  "use_absolute_embeddings": [True],
  "image_size": [[64, 32]],
}
# The keys that change the answer of a model, and other values. The others are of dropout, losses
# and initial values, or are told by the shapes of the weights.
KEYS = {
  "vit": OF_VIT,
  "vit_msn": {**OF_VIT, "hidden_act": ["gelu_new"]},
  "swin": OF_SWIN,
  "swinv2": {**OF_SWIN, "pretrained_window_sizes": [[2, 2], [3, 2], [0, 0]]},
  "poolformer": {
    "hidden_act": ["gelu_new"],
    "pool_size": [5],
    "patch_sizes": [[7, 3, 3, 5]],
    "strides": [[4, 2, 2, 1]],
    "padding": [[2, 1, 1, 2]],
    "use_layer_scale": [False],
  },
  "mobilevit": {
    "hidden_act": ["gelu"],
    "layer_norm_eps": [1e-2],
    "num_attention_heads": [2],
    "patch_size": [1],
    "conv_kernel_size": [5],
    "output_stride": [16],
    "qkv_bias": [False],
  },
}
CASES = [
  (kind, key, value)
  for kind, keys in KEYS.items()
  for key, values in {"": [None], **keys}.items()
  for value in values
]


def images(height, width=None):
  shape = (1, height, width or height, 3)
  return np.random.default_rng(7).uniform(-1, 1, shape).astype(np.float32)


def of_transformers(kind, **changes):
  """A small random model with noise on every leaf, and the size of its images."""
  name, config, *_, size = KINDS[kind]
  config = {"image_size": size, "num_labels": CLASSES, **config, **changes}
  torch.manual_seed(0)
  model = getattr(transformers, f"{name}ForImageClassification")(
    getattr(transformers, f"{name}Config")(**config)
  )
  size = config["image_size"]
  return with_noise(model).eval(), (size if isinstance(size, list) else [size, size])


def answer(model, pixels):
  if isinstance(model, transformers.MobileViTForImageClassification):
    pixels = pixels[..., ::-1].copy()
  with torch.no_grad():
    return model(torch.from_numpy(pixels).permute(0, 3, 1, 2)).logits.numpy()


def loaded(path, name, pixels, **fields):
  model, variables = from_pretrained(name, path, **fields)
  return np.asarray(forward(model, variables, pixels))


def edit(folder, **changes):
  path = folder / "config.json"
  path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("kind, key, value", CASES)
def test_a_key_of_transformers_is_followed_or_refused(kind, key, value, tmp_path):
  theirs, size = of_transformers(kind, **({key: value} if key else {}))
  theirs.save_pretrained(tmp_path)
  _, _, name, fields, _ = KINDS[kind]
  pixels = images(*size)
  try:
    ours = loaded(tmp_path, name, pixels, **fields)
  except UserError as error:
    assert (huggingface.KINDS[kind].sizes.get(key) or key) in str(error) and "\n" not in str(error)
    assert key, error
  else:
    assert relative_error(ours, answer(theirs, pixels)) < TOLERANCE


def test_every_key_of_transformers_configs_is_thought_of():
  """One that a new version adds must be followed, refused or said to change nothing."""
  no_matter = {
    *("hidden_dropout_prob", "attention_probs_dropout_prob", "initializer_range", "drop_path_rate"),
    *("encoder_stride", "layer_scale_init_value", "classifier_dropout_prob", "aspp_out_channels"),
    *("aspp_dropout_prob", "atrous_rates", "semantic_loss_ignore_index", "attn_dropout"),
    *("ffn_dropout", "mask_ratio", "norm_pix_loss", "use_cache", "classifier_dropout"),
    *(
      "pad_token_id",
      "bos_token_id",
      "eos_token_id",
      "patch_size",
      "stride",
      "tie_word_embeddings",
    ),
  }
  by_shape = {
    *("num_channels", "pooler_output_size", "mlp_ratio", "expand_ratio", "num_encoder_blocks"),
    *("hidden_size", "num_hidden_layers", "intermediate_size", "embed_dim", "depths", "num_heads"),
    *("hidden_sizes", "neck_hidden_sizes", "n_attn_blocks", "base_attn_unit_dims"),
    *("width_multiplier", "ffn_multiplier", "vocab_size", "max_position_embeddings"),
    *("type_vocab_size", "add_cross_attention"),
  }
  followed = {
    *("hidden_act", "layer_norm_eps", "image_size", "num_attention_heads", "window_size"),
    *("pretrained_window_sizes", "pooler_act"),
  }
  common = {*transformers.PretrainedConfig().to_dict()}
  for name, kind in huggingface.KINDS.items():
    config = transformers.AutoConfig.for_model(name)
    keys = {*config.to_dict()} - common - no_matter - by_shape - followed - {*kind.only}
    keys -= {"out_features", "out_indices", "stage_names", "num_layers"}
    assert not {k for k in keys if not k.startswith("decoder_")}, name
    told = kind.layer_norm_eps if hasattr(config, "layer_norm_eps") else 1e-5
    assert getattr(config, "layer_norm_eps", told) == told, name
    for key, value in kind.defaults.items():
      assert getattr(config, key) == value, name
    assert huggingface.ACTIVATIONS[config.hidden_act] == kind.activation, name
    assert getattr(config, "image_size", kind.image_size) == kind.image_size or name == "poolformer"


@pytest.mark.parametrize("kind", ["vit", "vit_msn"])
def test_keys_that_are_left_out_mean_transformers_defaults(kind, tmp_path):
  """An epsilon of 1e-6 for 1e-12 shows where the tokens have little variance."""
  theirs, _ = of_transformers(kind)
  with torch.no_grad():
    for part in ("cls_token", "position_embeddings", "patch_embeddings.projection.weight"):
      theirs.get_parameter(f"vit.embeddings.{part}").mul_(1e-3)
    theirs.get_parameter("vit.embeddings.patch_embeddings.projection.bias").mul_(1e-3)
  theirs.save_pretrained(tmp_path)
  config = json.loads((tmp_path / "config.json").read_text())
  for key in ("layer_norm_eps", "hidden_act"):
    del config[key]
  (tmp_path / "config.json").write_text(json.dumps(config))
  ours, variables = from_pretrained("ViT-B_16", tmp_path, **VIT)
  expected = answer(theirs, images(SIDE))
  assert relative_error(forward(ours, variables, images(SIDE)), expected) < TOLERANCE
  other = ours.clone(layer_norm_eps={1e-12: 1e-6, 1e-6: 1e-12}[ours.layer_norm_eps])
  assert relative_error(forward(other, variables, images(SIDE)), expected) > VISIBLE
  del config["num_attention_heads"]  # 12, then, and no weights tell otherwise.
  (tmp_path / "config.json").write_text(json.dumps(config))
  with pytest.raises(UserError, match="model of num_heads=12"):
    from_pretrained("ViT-B_16", tmp_path, **VIT)


def test_a_pooler_of_another_activation_is_refused_where_it_counts(tmp_path):
  config = transformers.ViTConfig(**HF_VIT, image_size=SIDE, pooler_act="gelu")
  transformers.ViTModel(config).save_pretrained(tmp_path)
  with pytest.raises(UserError, match="pooler_act='gelu'"):
    from_pretrained("ViT-B_16", tmp_path, **VIT, representation_size=32)
  theirs, _ = of_transformers("vit", pooler_act="gelu")  # Has no pooler.
  theirs.save_pretrained(tmp_path / "head")
  ours = loaded(tmp_path / "head", "ViT-B_16", images(SIDE), **VIT)
  assert relative_error(ours, answer(theirs, images(SIDE))) < TOLERANCE


def test_sizes_that_the_weights_deny_are_refused(tmp_path):
  of_transformers("vit")[0].save_pretrained(tmp_path)
  for key, value in dict(num_hidden_layers=1, hidden_size=64, intermediate_size=32).items():
    before = (tmp_path / "config.json").read_text()
    edit(tmp_path, **{key: value})
    with pytest.raises(UserError, match=f"model of {huggingface.KINDS['vit'].sizes[key]}={value}"):
      from_pretrained("ViT-B_16", tmp_path, **VIT)
    (tmp_path / "config.json").write_text(before)
  edit(tmp_path, head_dim=8)
  with pytest.raises(UserError, match="head_dim=8; only hidden_size / num_attention_heads = 16"):
    from_pretrained("ViT-B_16", tmp_path, **VIT)


@pytest.mark.parametrize("name", [*huggingface.OTHER_KINDS])
def test_other_types_are_refused_with_what_they_are(name, tmp_path):
  of_transformers("vit")[0].save_pretrained(tmp_path)
  edit(tmp_path, model_type=name)
  for path in (tmp_path, tmp_path / "model.safetensors"):
    with pytest.raises(UserError, match="cannot be loaded here; nearest to it is") as caught:
      from_pretrained("ViT-B_16", path, **VIT)
    message = str(caught.value)
    assert f"model_type={name!r}, which is {huggingface.OTHER_KINDS[name][0]}" in message
    assert "\n" not in message and "vit_msn" in message


@pytest.mark.parametrize("value", ["vitt", "swinv3", "zzz", "", 5, None, ["vit"], {"a": 1}])
def test_types_that_nobody_knows_are_refused(value, tmp_path):
  of_transformers("vit")[0].save_pretrained(tmp_path)
  edit(tmp_path, model_type=value)
  with pytest.raises(
    UserError, match=r"config.json has model_type=.* cannot be loaded here"
  ) as told:
    from_pretrained("ViT-B_16", tmp_path, **VIT)
  assert ("did you mean 'vit'" in str(told.value)) == (value in ("vitt", ["vit"]))


def test_whose_config_it_is(tmp_path, caplog):
  """A config decides on the weights of its folder, and on others only if it can be theirs."""
  caplog.set_level("INFO")
  theirs, _ = of_transformers("vit", layer_norm_eps=1e-2)
  theirs.save_pretrained(tmp_path)
  expected = answer(theirs, images(SIDE))
  state = safetensors.torch.load_file(tmp_path / "model.safetensors")
  torch.save(state, tmp_path / "mine.pth")
  for path in (tmp_path, tmp_path / "model.safetensors", tmp_path / "mine.pth"):
    assert relative_error(loaded(path, "ViT-B_16", images(SIDE), **VIT), expected) < TOLERANCE
  edit(tmp_path, model_type="swin")
  for path in (tmp_path, tmp_path / "mine.pth"):
    with pytest.raises(UserError, match="has model_type='swin', but the weights beside it don't"):
      from_pretrained("ViT-B_16", path, **VIT)
  config = json.loads((tmp_path / "config.json").read_text())
  del config["model_type"]
  (tmp_path / "config.json").write_text(json.dumps(config))
  with pytest.raises(UserError, match="does not say its model_type"):
    from_pretrained("ViT-B_16", tmp_path, **VIT)
  # Weights of timm's that happen to lie there: their names decide, as without a config.
  of_timm = with_noise(timm_vit())
  safetensors.torch.save_file(of_timm.state_dict(), tmp_path / "timms.safetensors")
  for content in (config, {"model_type": "dinov2"}, {"name": "an app's"}):
    (tmp_path / "config.json").write_text(json.dumps(content))
    ours = loaded(tmp_path / "timms.safetensors", "ViT-B_16", images(SIDE), **VIT)
    assert relative_error(ours, logits(of_timm, images(SIDE))) < TOLERANCE
  assert "config.json is not of the weights beside it; their names decide" in caplog.text
  # But not those of the folder itself.
  (tmp_path / "config.json").write_text('{"model_type": "vit"}')
  safetensors.torch.save_file(of_timm.state_dict(), tmp_path / "model.safetensors")
  for path in (tmp_path, tmp_path / "model.safetensors"):
    with pytest.raises(UserError, match="has model_type='vit', but the weights beside it don't"):
      from_pretrained("ViT-B_16", path, **VIT)
  (tmp_path / "config.json").write_text('{"steps": 5}')  # Says nothing of a model.
  ours = loaded(tmp_path, "ViT-B_16", images(SIDE), **VIT)
  assert relative_error(ours, logits(of_timm, images(SIDE))) < TOLERANCE


# Below: timm.


def timm_vit(name="vit_tiny_patch16_224", **arguments):
  small = dict(embed_dim=32, depth=2, num_heads=2, mlp_ratio=2, img_size=SIDE, num_classes=CLASSES)
  torch.manual_seed(0)
  return timm.create_model(name, **{**small, **arguments}).eval()


def saved_by_timm(model, folder):
  with_noise(model)
  timm.models.save_for_hf(model, folder, safe_serialization=True)
  return json.loads((folder / "config.json").read_text())


FOLLOWED = {
  "plain": {},
  "tanh": dict(act_layer="gelu_tanh"),
  "silu": dict(act_layer="silu"),
  "no class token": dict(class_token=False, global_pool="avg", fc_norm=False),
  "map": dict(class_token=False, global_pool="map"),
  "not square": dict(img_size=(32, 48)),
  "layer scale": dict(init_values=1e-2),
  "norm": dict(norm_layer="layernorm"),
  "no place for the class token": dict(no_embed_class=True),
}
REFUSED = {
  "global_pool": dict(global_pool="avg", fc_norm=False),
  "global_pool='max'": dict(global_pool="max", fc_norm=False),
  "global_pool='avgmax'": dict(global_pool="avgmax", fc_norm=False),
  "global_pool='map'": dict(global_pool="map"),
  "global_pool='max'; of ViT only 'avg' or 'map' or ''": dict(
    class_token=False, global_pool="max", fc_norm=False
  ),
  "act_layer='relu'": dict(act_layer="relu"),
  "act_layer='quick_gelu'": dict(act_layer="quick_gelu"),
  "norm_layer='rmsnorm'": dict(norm_layer="rmsnorm"),
  "pre_norm": dict(pre_norm=True),
  "qkv_bias": dict(qkv_bias=False),
  "reg_tokens": dict(reg_tokens=2),
  "fc_norm": dict(fc_norm=True),
  "final_norm": dict(final_norm=False),
  "attn_layer": dict(attn_layer="diff"),
  "num_heads=4": dict(num_heads=4),
}


@pytest.mark.parametrize("case", FOLLOWED)
def test_arguments_of_timm_are_followed(case, tmp_path):
  arguments = FOLLOWED[case]
  theirs = timm_vit(**arguments)
  said = saved_by_timm(theirs, tmp_path)
  assert {k: said["model_args"][k] for k in arguments} == json.loads(json.dumps(arguments))
  size = arguments.get("img_size", (SIDE, SIDE))
  scale = {"layer_scale_init": 1e-2} if "init_values" in arguments else {}
  ours = loaded(tmp_path, "ViT-B_16", images(*size), **VIT, **scale)
  expected = logits(
    timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval(), images(*size)
  )
  assert relative_error(ours, expected) < TOLERANCE


@pytest.mark.parametrize("message", REFUSED)
def test_arguments_of_timm_that_ours_lacks_are_refused(message, tmp_path):
  saved_by_timm(timm_vit(**REFUSED[message]), tmp_path)
  with pytest.raises(UserError) as caught:
    from_pretrained("ViT-B_16", tmp_path, **VIT)
  assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("pool", ["avg", "max", "avgmax", "map", 5, ["token"], "tokens"])
def test_the_pooling_that_only_the_top_of_timms_config_says(pool, tmp_path):
  """As older versions write it, without model_args."""
  config = saved_by_timm(timm_vit(), tmp_path)
  del config["model_args"]
  (tmp_path / "config.json").write_text(json.dumps({**config, "global_pool": pool}))
  with pytest.raises(UserError, match=r"config.json has global_pool=.* only 'token' or '' with a"):
    from_pretrained("ViT-B_16", tmp_path, **VIT)


@pytest.mark.parametrize(
  "changes",
  [
    *(dict(pretrained_cfg=[1]), dict(pretrained_cfg=None), dict(architecture=5)),
    *(dict(model_args=[1]), dict(model_args={"num_heads": "2"}), dict(model_args={"depth": 2.5})),
    *(dict(model_args={"img_size": -1}), dict(model_args={"img_size": [1, 2, 3]})),
    *(dict(model_args={"qkv_bias": 1}), dict(model_args={"act_layer": ["gelu"]})),
    *(dict(model_args={"img_size": 10**9}), dict(model_args={"unheard_of": 1})),
  ],
  ids=repr,
)
def test_a_config_of_timm_of_other_types_is_a_sentence(changes, tmp_path):
  config = saved_by_timm(timm_vit(), tmp_path)
  (tmp_path / "config.json").write_text(json.dumps({**config, **changes}))
  with pytest.raises(UserError, match=r"config.json has ") as caught:
    read_metadata(tmp_path)
  assert "\n" not in str(caught.value)


class _Asked(Exception):
  pass


def architectures():
  """Architectures of timm's with the modules of our families, and their arguments."""
  from timm.models import deit, vision_transformer, vision_transformer_hybrid

  found = {}

  def ask(kind, variant, pretrained, **arguments):
    found[variant] = arguments
    raise _Asked

  for module in (vision_transformer, deit, vision_transformer_hybrid):
    name, build = module.__name__.rpartition(".")[2], module.build_model_with_cfg
    module.build_model_with_cfg = ask
    try:
      for variant in timm.list_models(module=name):
        if "resnet" not in variant:
          with pytest.raises(_Asked):
            getattr(module, variant)()
    finally:
      module.build_model_with_cfg = build
  return found


def test_what_timms_architectures_stand_for():
  """Heads and activations that no weights tell, of each that has nothing that weights show."""
  shown = ("pre_norm", "qk_norm", "mlp_layer", "scale_attn_norm", "reg_tokens", "attn_layer")
  shown += ("block_fn", "embed_norm_layer")
  count = 0
  for name, arguments in architectures().items():
    if any(map(arguments.get, shown)) or False in (
      arguments.get("qkv_bias"),
      arguments.get("final_norm"),
    ):
      continue
    told = timm_config._of_architecture(name)
    if "num_heads" in told:
      count += 1
      assert told["num_heads"] == arguments["num_heads"], name
    elif arguments["embed_dim"] in (192, 384, 512, 768, 1024, 1280, 1408, 1664):
      raise AssertionError(f"no heads are known of {name}")
    assert told.get("act_layer") == arguments.get("act_layer"), name
    assert "norm_layer" not in arguments, name
  assert count > 60


def test_an_architecture_of_other_heads_is_refused(tmp_path):
  """vit_base_patch16_gap_224 has 16 heads, and no weights tell."""
  name, size = "vit_base_patch16_gap_224", 32
  theirs = timm.create_model(name, depth=1, img_size=size, num_classes=CLASSES).eval()
  saved_by_timm(theirs, tmp_path)
  with pytest.raises(
    UserError, match=r"model of num_heads=16, as its config.json says, and not of"
  ):
    from_pretrained("ViT-B_16", tmp_path, num_layers=1)
  ours = loaded(tmp_path, "ViT-B_16", images(size), num_layers=1, num_heads=16)
  assert relative_error(ours, logits(theirs, images(size))) < TOLERANCE


SWINS = {
  "Swin": ("swin_tiny_patch4_window7_224", "Swin-T"),
  "Swin V2": ("swinv2_tiny_window8_256", "SwinV2-T-w8"),
}


@pytest.mark.parametrize("kind", SWINS)
def test_windows_of_timms_swins(kind, tmp_path):
  architecture, name = SWINS[kind]
  small = dict(embed_dim=32, depths=(2, 1), num_heads=(1, 2), num_classes=CLASSES, img_size=64)
  theirs = timm.create_model(architecture, window_size=4, **small).eval()
  saved_by_timm(theirs, tmp_path)
  ours = loaded(tmp_path, name, images(64), **SWIN)
  assert relative_error(ours, logits(theirs, images(64))) < TOLERANCE
  if kind == "Swin V2":
    off = loaded(tmp_path, name, images(64), **SWIN, window_size=8)  # An argument goes first.
    assert relative_error(off, logits(theirs, images(64))) > VISIBLE
  for message, changes in {
    "window_size=[4, 8]": {"window_size": [4, 8]},
    "global_pool='max'": {"global_pool": "max"},
    "qkv_bias=False": {"qkv_bias": False},
    "embed_dim=64": {"embed_dim": 64},
  }.items():
    edit(tmp_path, model_args=changes)
    with pytest.raises(UserError) as caught:
      from_pretrained(name, tmp_path, **SWIN)
    assert message in str(caught.value)


@pytest.mark.parametrize(
  "architecture, window, trained",
  [
    ("swinv2_tiny_window16_256", 16, None),
    ("swinv2_base_window12_192", 12, None),
    ("swinv2_base_window12to24_192to384", 24, (12, 12, 12, 6)),
  ],
)
def test_the_window_that_timms_architecture_says(architecture, window, trained, tmp_path):
  small = dict(embed_dim=32, depths=(1, 1, 1, 1), num_classes=CLASSES, num_heads=(1, 2, 4, 8))
  theirs = timm.create_model(architecture, img_size=128, **small).eval()
  config = saved_by_timm(theirs, tmp_path)
  del config["model_args"]
  (tmp_path / "config.json").write_text(json.dumps(config))
  fields = dict(embed_dim=32, depths=(1, 1, 1, 1))
  ours, variables = from_pretrained("SwinV2-T-w8", tmp_path, **fields)
  assert (ours.window_size, ours.trained_windows or None) == (window, trained)
  error = relative_error(forward(ours, variables, images(128)), logits(theirs, images(128)))
  assert error < TOLERANCE


# Indices tell the window alone, and not what it was trained with.
KEPT = [
  *((kept, trained) for kept in ("both", "table") for trained in ((0, 0), (6, 4), (4, 0))),
  ("index", (0, 0)),
]


@pytest.mark.parametrize("kept, trained", KEPT)
def test_the_tables_of_the_authors_files_tell_the_windows(kept, trained, tmp_path):
  small = dict(embed_dim=32, depths=(2, 1), num_heads=(1, 2), num_classes=CLASSES, img_size=64)
  theirs = timm.create_model(
    "swinv2_tiny_window8_256", window_size=5, pretrained_window_sizes=trained, **small
  ).eval()
  with_noise(theirs)
  state = dict(theirs.state_dict())
  for name, module in theirs.named_modules():
    for buffer in ("relative_coords_table", "relative_position_index"):
      if hasattr(module, buffer) and (kept == "both" or buffer.endswith(kept)):
        state[f"{name}.{buffer}"] = getattr(module, buffer).clone()
  torch.save({"model": state}, tmp_path / "swin.pth")
  ours, variables = from_pretrained("SwinV2-T-w8", tmp_path / "swin.pth", **SWIN)
  assert (ours.window_size, ours.trained_windows) == (5, trained if any(trained) else ())
  error = relative_error(forward(ours, variables, images(64)), logits(theirs, images(64)))
  assert error < TOLERANCE


def test_windows_that_the_tables_deny_are_refused(tmp_path):
  theirs, _ = of_transformers("swinv2")
  theirs.save_pretrained(tmp_path)
  state = safetensors.torch.load_file(tmp_path / "model.safetensors")
  name = "swinv2.encoder.layers.0.blocks.0.attention.self.relative_coords_table"
  state[name] = torch.zeros(1, 15, 15, 2)
  safetensors.torch.save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
  with pytest.raises(
    UserError, match=r"said to have window_size=4, but its .* windows of 8; fetch"
  ):
    from_pretrained("SwinV2-T-w8", tmp_path, **SWIN)
  theirs, _ = of_transformers("swin")
  theirs.save_pretrained(tmp_path / "first")
  edit(tmp_path / "first", window_size=3)
  with pytest.raises(
    UserError, match=r"said to have window_size=3, but its .* windows of 4; fetch"
  ):
    from_pretrained("Swin-T", tmp_path / "first", **SWIN)
