# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""MobileViT's files: batch statistics travel along, BGR becomes RGB once, and what is refused.

That PyTorch's names mean what they say is proved in tests/parity/test_timm_mobilevit.py.
"""

import json

import jax
import numpy as np
import pytest
import safetensors.numpy
import timm
import transformers
from flax.traverse_util import flatten_dict
from sklearn.datasets import load_sample_image
from tiny_model import CLASSES, images
from tiny_model import tiny as tiny_vit

from vit_jax import preprocessing_for
from vit_jax.checkpoints import counterpart, lit
from vit_jax.checkpoints.convert import verify
from vit_jax.checkpoints.npz import METADATA
from vit_jax.checkpoints.preprocessing import to_metadata
from vit_jax.checkpoints.pretrained import from_pretrained
from vit_jax.checkpoints.reading import read_metadata
from vit_jax.checkpoints.saving import save_checkpoint
from vit_jax.cli.app import main
from vit_jax.errors import UserError
from vit_jax.models.registry import MODELS, create_model

NAMES = {"V1": "MobileViT-XXS", "V2": "MobileViTV2-0.5"}
FIELDS = dict(
  stem_width=8,
  widths=(8, 16, 24),
  num_residuals=(1, 1, 1),
  hidden_sizes=(16,),
  num_layers=(1,),
  final_width=32,
)
every_version = pytest.mark.parametrize("version", NAMES)
STEM = "params/stem/conv/kernel"


def tiny(version="V1", **fields):
  """Returns (model, variables) with noise everywhere; variances are positive."""
  model = create_model(NAMES[version], num_classes=CLASSES, **{**FIELDS, **fields})
  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(model.init, jax.random.key(0), images())
  noise = lambda path, x: (
    rng.uniform(0.5, 1.5, x.shape) if path[-1].key == "var" else rng.normal(0, 0.3, x.shape)
  ).astype(np.float32)
  return model, jax.tree_util.tree_map_with_path(noise, shapes)


def flatten(variables):
  return flatten_dict(variables, sep="/")


def assert_equal(ours, theirs):
  """Same leaves of both collections, with the same bits."""
  ours, theirs = flatten(ours), flatten(theirs)
  assert ours.keys() == theirs.keys()
  for path in ours:
    np.testing.assert_array_equal(ours[path], theirs[path], err_msg=path)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
  folder = tmp_path_factory.mktemp("mobilevit")
  for version in NAMES:
    for suffix in (".npz", ".safetensors"):
      save_checkpoint(folder / f"{version}{suffix}", *tiny(version))
  return folder


def refused(path, version="V1", name=None, **arguments):
  """The message of the UserError, which must be one sentence on one line."""
  with pytest.raises(UserError) as caught:
    from_pretrained(name or NAMES[version], path, **arguments)
  message = str(caught.value)
  assert "\n" not in message and message.endswith(".") and ". " not in message
  return message


@every_version
@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_statistics_travel_with_the_parameters(version, suffix, saved):
  loaded, restored = from_pretrained(NAMES[version], saved / f"{version}{suffix}", **FIELDS)
  model, variables = tiny(version)
  assert loaded == model
  assert set(restored) == {"params", "batch_stats"}
  assert_equal(restored, variables)


def test_an_npz_has_our_names_with_and_without_a_prefix(saved, tmp_path):
  variables = tiny()[1]
  names = {path.removeprefix("params/"): value for path, value in flatten(variables).items()}
  assert "batch_stats/stem/norm/var" in names
  with np.load(saved / "V1.npz") as archive:
    assert set(archive.files) == {METADATA, *names}
  np.savez(tmp_path / "x.npz", **flatten(variables), step=np.zeros((), np.int64))
  assert_equal(from_pretrained(NAMES["V1"], tmp_path / "x.npz", **FIELDS)[1], variables)


@every_version
def test_a_timm_file_has_the_counters_of_pytorch(version, saved):
  state = safetensors.numpy.load_file(saved / f"{version}.safetensors")
  counters = {name: x for name, x in state.items() if name.endswith("num_batches_tracked")}
  means = [name for name in state if name.endswith("running_mean")]
  assert len(counters) == len(means) > 10
  assert all(x.shape == () and x.dtype == np.int64 for x in counters.values())


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("version, norm", [("V1", "layer_norm_eps"), ("V2", "group_norm_eps")])
def test_a_file_tells_its_numerics(version, norm, suffix, tmp_path):
  numerics = {"activation": "gelu", "batch_norm_eps": 1e-3, norm: 1e-6}
  model, variables = tiny(version, **numerics)
  save_checkpoint(tmp_path / f"x{suffix}", model, variables)
  again, restored = from_pretrained(NAMES[version], tmp_path / f"x{suffix}", **FIELDS)
  assert again == model
  assert_equal(restored, variables)


@pytest.mark.parametrize("name", ["batch_stats/stem/norm/var", "batch_stats/"])
def test_missing_statistics_are_refused(name, saved, tmp_path):
  with np.load(saved / "V1.npz") as archive:
    left = {key: archive[key] for key in archive.files if not key.startswith(name)}
  np.savez(tmp_path / "x.npz", **left)
  message = refused(tmp_path / "x.npz", **FIELDS)
  assert "missing: batch_stats/" in message and "batch_stats/stem/norm/var" in message
  model, variables = tiny()
  with pytest.raises(UserError, match="variables hold no 'batch_stats', which this model's"):
    save_checkpoint(tmp_path / "y.npz", model, {"params": variables["params"]})
  assert not (tmp_path / "y.npz").exists()


def test_the_head_channels_and_classes_are_adapted(saved):
  old = flatten(tiny()[1])
  file = saved / "V1.safetensors"
  model, restored = from_pretrained(NAMES["V1"], file, num_classes=7, **FIELDS)
  assert not flatten(restored)["params/head/kernel"].any() and model.num_classes == 7
  np.testing.assert_array_equal(
    restored["batch_stats"]["stem"]["norm"]["var"], old["batch_stats/stem/norm/var"]
  )
  grey, restored = from_pretrained(NAMES["V1"], file, classes=[3, 1], channels=1, **FIELDS)
  new = flatten(restored)
  kernel = "params/head/kernel"
  np.testing.assert_array_equal(new[kernel], old[kernel][:, [3, 1]])
  np.testing.assert_array_equal(new[STEM], old[STEM].sum(2, keepdims=True))
  assert jax.eval_shape(grey.apply, restored, images()[..., :1]).shape == (2, 2)
  _, restored = from_pretrained(NAMES["V1"], file, num_classes=0, image_size=65, **FIELDS)
  assert kernel not in flatten(restored)


def test_another_size_and_family_are_named(saved, tmp_path):
  variables = jax.eval_shape(create_model("MobileViT-XS").init, jax.random.key(0), images())
  zeros = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), variables)
  np.savez(tmp_path / "x.npz", **flatten(zeros))
  message = refused(tmp_path / "x.npz", name="MobileViT-S")
  assert "does not fit MobileViT-S (its sizes are those of MobileViT-XS)" in message
  for version, other, family in (("V1", "V2", "MobileViT"), ("V2", "V1", "MobileViTV2")):
    for suffix in (".npz", ".safetensors"):
      message = refused(saved / f"{version}{suffix}", version=other)
      assert f"this is a {family} checkpoint" in message
      assert f"pass one of: {family}-" in message
  save_checkpoint(tmp_path / "vit.npz", *tiny_vit())
  assert "this is a ViT checkpoint" in refused(tmp_path / "vit.npz")
  # timm has a variant with further layers (semobilevit_s).
  state = safetensors.numpy.load_file(saved / "V1.safetensors")
  state["stages.0.0.attn.fc1.weight"] = np.zeros((8, 16, 1, 1), np.float32)
  safetensors.numpy.save_file(state, tmp_path / "se.safetensors")
  message = refused(tmp_path / "se.safetensors", **FIELDS)
  assert "1 extra: stages.0.0.attn.fc1.weight (8, 16, 1, 1)" in message


def test_what_timm_does_not_have_is_refused(tmp_path):
  model, variables = tiny(num_residuals=(1, 1, 2))
  message = r"timm's MobileViT has no num_residuals=\(1, 1, 2\), only 1 in the last 1 stages; save"
  with pytest.raises(UserError, match=message):
    save_checkpoint(tmp_path / "x.safetensors", model, variables)
  save_checkpoint(tmp_path / "x.npz", model, variables)
  fields = {**FIELDS, "num_residuals": (1, 1, 2)}
  assert_equal(from_pretrained(NAMES["V1"], tmp_path / "x.npz", **fields)[1], variables)


@pytest.mark.parametrize("version, suffix", [("V1", ".npz"), ("V2", ".safetensors")])
def test_verify_runs_timms_model(version, suffix, tmp_path):
  model, variables = tiny(version, activation="gelu_tanh", batch_norm_eps=1e-2)
  file = tmp_path / f"x{suffix}"
  save_checkpoint(file, model, variables, metadata={"image_size": [33, 40]})
  errors = verify(file, model, variables)
  assert errors["float32"] < 1e-5
  moved = {**variables, "batch_stats": jax.tree.map(lambda x: x * 1.01, variables["batch_stats"])}
  assert verify(file, model, moved)["float32"] > 1e-4


# Sizes that transformers' have too.
HF_FIELDS = {
  "V1": dict(
    stem_width=8, widths=(8, 8, 8, 8, 16), hidden_sizes=(8, 8, 8), final_width=16, expansion=1.0
  ),
  "V2": dict(num_layers=(1, 1, 1), mlp_ratio=1.0),
}


def input_of(name):
  return to_metadata(preprocessing_for(name).settings)


def hf_folder(version, folder):
  name, fields = NAMES[version], HF_FIELDS[version]
  fields = {k: v for k, v in fields.items() if version == "V1" or k != "mlp_ratio"}
  model = create_model(name, num_classes=3, **fields)
  shapes = jax.eval_shape(model.init, jax.random.key(0), images())
  rng = np.random.default_rng(0)
  noise = lambda path, x: (
    rng.normal(1, 0.2, x.shape) ** 2
    if path[-1].key in ("var", "scale")
    else rng.normal(0, np.prod(x.shape[:-1]) ** -0.5 if x.ndim > 1 else 0.2, x.shape)
  ).astype(np.float32)
  variables = jax.tree_util.tree_map_with_path(noise, shapes)
  metadata = {"image_size": [64, 64], "class_names": ["a", "b", "c"], "input": input_of(name)}
  save_checkpoint(folder, model, variables, metadata=metadata)
  return name, fields, model, variables


@every_version
def test_folders_for_transformers(version, tmp_path):
  """Strictly opened, for BGR, and read back the same."""
  name, fields, model, variables = hf_folder(version, tmp_path / "ours")
  options = {"xla_backend_optimization_level": 0}
  ours = jax.jit(model.apply, compiler_options=options)(variables, images())
  theirs = counterpart.run(tmp_path / "ours", model, images())  # Also refuses names that differ.
  assert np.linalg.norm(ours - theirs) / np.linalg.norm(theirs) < 1e-5
  backwards = counterpart.run(tmp_path / "ours", model, images()[..., ::-1])
  assert np.linalg.norm(ours - backwards) / np.linalg.norm(theirs) > 5e-5

  loaded, restored = from_pretrained(name, tmp_path / "ours", **fields)
  assert loaded == model
  assert_equal(restored, variables)
  # And from the files that transformers makes of them, without our metadata.
  config = json.loads((tmp_path / "ours/config.json").read_text())
  kind = getattr(transformers, config["architectures"][0])
  kind.from_pretrained(tmp_path / "ours").save_pretrained(tmp_path / "theirs")
  again, restored = from_pretrained(name, tmp_path / "theirs", **fields)
  assert again == model
  assert_equal(restored, variables)
  assert read_metadata(tmp_path / "theirs")["class_names"] == ["a", "b", "c"]


def test_bgr_is_flipped_once_and_told(tmp_path, caplog):
  name, fields, _, variables = hf_folder("V1", tmp_path)
  with safetensors.safe_open(tmp_path / "model.safetensors", "numpy") as file:
    state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
  in_file = state["mobilevit.conv_stem.convolution.weight"].transpose(2, 3, 1, 0)
  ours = flatten(variables)[STEM]
  np.testing.assert_array_equal(in_file, ours[:, :, ::-1])
  assert not np.array_equal(in_file, ours)
  caplog.set_level("INFO")
  assert_equal(from_pretrained(name, tmp_path, **fields)[1], variables)
  assert caplog.text.count("Flipped the input channels of stem/conv/kernel, from BGR to RGB") == 1

  # Without our metadata, the processor decides; weights alone are for BGR, as released.
  safetensors.numpy.save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
  preprocessor = tmp_path / "preprocessor_config.json"
  said = json.loads(preprocessor.read_text())
  assert said["image_processor_type"] == "MobileViTImageProcessor"
  for processor, flips in (
    (said, True),
    ({"feature_extractor_type": "MobileViTFeatureExtractor"}, True),
    ({**said, "do_flip_channel_order": False}, False),
    ({"image_processor_type": "CLIPImageProcessor"}, False),
    (None, True),
  ):
    preprocessor.unlink() if processor is None else preprocessor.write_text(json.dumps(processor))
    restored = flatten(from_pretrained(name, tmp_path, **fields)[1])
    np.testing.assert_array_equal(restored[STEM], ours if flips else in_file)


def test_grey_images_have_nothing_to_flip(tmp_path):
  fields = dict(num_layers=(2, 4, 3), **HF_FIELDS["V1"])
  model = create_model(NAMES["V1"], num_classes=2, **fields)
  shapes = jax.eval_shape(model.init, jax.random.key(0), images()[..., :1])
  variables = jax.tree.map(lambda x: np.full(x.shape, 0.5, np.float32), shapes)
  save_checkpoint(tmp_path, model, variables, metadata={"input": input_of(NAMES["V1"])})
  assert json.loads((tmp_path / "config.json").read_text())["num_channels"] == 1
  assert_equal(from_pretrained(NAMES["V1"], tmp_path, **fields)[1], variables)


def test_the_image_processor_prepares_as_we_do(tmp_path):
  hf_folder("V1", tmp_path)
  ours = preprocessing_for(tmp_path)
  (tmp_path / "model.safetensors").unlink()  # With our own metadata, which comes first.
  photo = load_sample_image("china.jpg")[:400, :400]
  theirs = transformers.MobileViTImageProcessorPil.from_pretrained(tmp_path)
  expected = theirs(photo, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
  assert np.abs(ours(photo)[..., ::-1] - expected).max() < 3.01 / 255  # Three grey levels.
  assert np.abs(ours(photo) - expected).max() > 0.1


@pytest.mark.parametrize(
  "version, changes, message",
  [
    ("V1", {"num_layers": (1, 1, 1)}, "MobileViT has no num_layers=(1, 1, 1), only (2, 4, 3)"),
    ("V1", {"batch_norm_eps": 1e-3}, "MobileViT has no batch_norm_eps=0.001, only 1e-05"),
    ("V2", {"widths": (32, 64, 128, 192, 248)}, "MobileViTV2 has no stem_width, widths and hidden"),
    ("V2", {"mlp_ratio": 1.5}, "with mlp_ratio=1.5; save an .npz file"),
    ("V2", {"final_width": 8}, "MobileViTV2 has no final_width=8, only 0"),
  ],
)
def test_what_transformers_does_not_have_is_refused(version, changes, message, tmp_path):
  model = create_model(NAMES[version], **changes)
  shapes = jax.eval_shape(model.init, jax.random.key(0), images())
  zeros = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), shapes)
  with pytest.raises(UserError) as caught:
    save_checkpoint(tmp_path / "folder", model, zeros)
  assert message in str(caught.value)
  assert not (tmp_path / "folder").exists()


def test_normalised_images_are_refused_in_a_folder(tmp_path):
  model = create_model(NAMES["V1"])
  shapes = jax.eval_shape(model.init, jax.random.key(0), images())
  zeros = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), shapes)
  with pytest.raises(UserError, match=r"transformers' MobileViT has images in \[0, 1\] and a cent"):
    save_checkpoint(tmp_path / "folder", model, zeros, metadata={"input": input_of("Swin-T")})


def test_convert_goes_from_transformers_to_timm_and_is_verified(tmp_path, capsys):
  hf_folder("V1", tmp_path / "theirs")
  options = [f"--model.{key}={value}" for key, value in HF_FIELDS["V1"].items()]
  target = tmp_path / "x.safetensors"
  arguments = ["convert", str(tmp_path / "theirs"), str(target), f"--model={NAMES['V1']}"]
  assert main([*arguments, *options, "--from=hf", "--verify"]) == 0
  (line,) = (line for line in capsys.readouterr().out.splitlines() if "float32" in line)
  assert float(line.split(": ")[1].split()[0]) < 1e-5
  assert read_metadata(target)["class_names"] == ["a", "b", "c"]


@pytest.mark.parametrize("name", [name for name in MODELS if name.startswith("MobileViT")])
def test_images_are_prepared_as_timm_does(name):
  settings = preprocessing_for(name).settings
  file = MODELS[name].weights[0].url.split("/timm/")[1].split("/")[0]
  theirs = timm.get_pretrained_cfg(file)
  assert settings.size == theirs.input_size[1:] == (256, 256)
  assert settings.resized == (int(256 / theirs.crop_pct),) * 2
  assert (settings.mean, settings.std) == (theirs.mean, theirs.std) == ((0.0,) * 3, (1.0,) * 3)
  assert (settings.interpolation, settings.eval_resize) == (theirs.interpolation, "resize_crop")


def test_as_the_image_tower_of_two_its_statistics_travel_too(saved, tmp_path):
  tower = {**FIELDS, "name": NAMES["V1"]}
  txt = dict(hidden_size=16, num_layers=1, mlp_dim=32, num_heads=2, num_classes=16, vocab_size=50)
  fields = {"img": {**tower, "num_classes": 16}, "txt": txt}
  model = create_model("LiT-B16B_2", **fields)
  shapes = jax.eval_shape(model.init, jax.random.key(0), images(), np.ones((2, 16), np.int32))
  rng = np.random.default_rng(0)
  variables = jax.tree.map(lambda x: rng.uniform(0.5, 1, x.shape).astype(np.float32), shapes)
  save_checkpoint(tmp_path / "x.npz", model, variables)
  again, restored = from_pretrained("LiT-B16B_2", tmp_path / "x.npz", **fields)
  assert again == model
  assert_equal(restored, variables)
  _, alone = from_pretrained(NAMES["V1"], tmp_path / "x.npz", **FIELDS)
  assert_equal(alone, {kind: variables[kind]["img"] for kind in ("params", "batch_stats")})
  # A file for the image tower, whose head and text tower begin anew.
  _, loaded = lit.load_towers(
    "LiT-B16B_2", {"img": str(saved / "V1.npz"), "txt": None}, fields, images()[:1]
  )
  assert_equal(loaded["batch_stats"]["img"], tiny()[1]["batch_stats"])
  assert jax.tree.map(np.shape, loaded) == jax.tree.map(np.shape, variables)
