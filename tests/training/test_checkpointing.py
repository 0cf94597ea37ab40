# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
import errno
import os
import subprocess
import sys
import threading

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_run as tiny

from vit_jax.errors import UserError
from vit_jax.parallel import coordination
from vit_jax.parallel import mesh as mesh_lib
from vit_jax.training.state import TrainState
from vit_jax.workdir import integrity, run_info, steps
from vit_jax.workdir.steps import Checkpointer


def _state(value, size=(300, 400)):
  params = {"kernel": jnp.full(size, value, jnp.float32), "bias": jnp.zeros(())}
  return TrainState(
    step=jnp.int32(value),
    params=params,
    opt_state=optax.adam(0.1, mu_dtype=jnp.bfloat16).init(params),
    rng=jax.random.key_data(jax.random.key(value)),
    first_bad_step=jnp.int32(-1),
    collections={},
  )


def _target(**kwargs):
  sharding = mesh_lib.replicated(mesh_lib.make_mesh())
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), _state(0, **kwargs)
  )


def _iterator():
  return iter(grain.MapDataset.range(100).seed(3).shuffle().repeat().to_iter_dataset())


def _scores(accuracy, loss):
  return {"accuracy": accuracy, "loss": loss, "top5": 1.0, "examples": 100}


def test_keeps_the_best_and_the_last_two(tmp_path):
  with Checkpointer(tmp_path / "c") as checkpointer:
    for step, scores in [
      (1, _scores(0.5, 1.0)),
      (2, _scores(0.9, 0.5)),
      (3, None),
      (4, _scores(0.9, 0.6)),  # Equal accuracy, but a higher loss.
      (5, None),
      (6, _scores(0.8, 0.1)),
    ]:
      checkpointer.save(step, _state(step), _iterator(), {}, scores)
    assert not checkpointer.is_better(_scores(0.9, 0.5))
    assert checkpointer.is_better(_scores(0.9, 0.4))
  # The next process neither forgets nor deletes the best.
  with Checkpointer(tmp_path / "c") as checkpointer:
    assert (checkpointer.steps, checkpointer.best_step) == ([2, 5, 6], 2)
    assert checkpointer.metrics(2) == _scores(0.9, 0.5) and checkpointer.metrics(5) == {}
    checkpointer.save(7, _state(7), _iterator(), {})
  with Checkpointer(tmp_path / "c", metric="loss", write=False) as checkpointer:
    assert (checkpointer.steps, checkpointer.best_step) == ([2, 6, 7], 6)


def test_what_is_better_is_known_before_it_is_written(tmp_path):
  with Checkpointer(tmp_path / "c") as checkpointer:
    checkpointer.save(1, _state(1), _iterator(), {}, _scores(0.9, 1.0))
    assert not checkpointer.is_better(_scores(0.8, 1.0))
    assert checkpointer.is_better(_scores(0.95, 1.0))


def test_keeps_more_if_asked_to(tmp_path):
  with Checkpointer(tmp_path / "c", keep_last=3, keep_every=4) as checkpointer:
    for step in range(1, 10):
      checkpointer.save(step, _state(step), _iterator(), {}, _scores(1 / step, 1.0))
  with Checkpointer(tmp_path / "c", write=False) as checkpointer:
    assert checkpointer.steps == [1, 4, 7, 8, 9]  # The best, multiples of 4, and the last three.


def test_restores_state_position_and_config(tmp_path):
  iterator = _iterator()
  seen = [next(iterator) for _ in range(7)]
  with Checkpointer(tmp_path / "c") as checkpointer:
    checkpointer.save(7, _state(7), iterator, {"timer": {"seconds": 1.5}, "none": None})
    ahead = [next(iterator) for _ in range(5)]
    again = _iterator()
    checkpointer.wait()
    state, config = checkpointer.restore(7, _target(), again), checkpointer.saved(7)
  assert config == {"timer": {"seconds": 1.5}, "none": None}
  assert [next(again) for _ in range(5)] == ahead != seen[:5]
  expected = _state(7)
  assert jax.tree.structure(state) == jax.tree.structure(expected)
  for path, value in tiny.leaves(expected).items():
    restored = tiny.leaves(state)[path]
    assert restored.dtype == value.dtype and restored.tobytes() == value.tobytes(), path


def test_saving_in_the_background_is_not_disturbed_by_later_steps(tmp_path):
  step = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
  state, target = _state(0, size=(2000, 1000)), _target(size=(2000, 1000))
  with Checkpointer(tmp_path / "c") as checkpointer:
    for i in range(1, 31):
      state = step(state)
      if i == 10:
        checkpointer.save(i, state, _iterator(), {})
    checkpointer.wait()
    restored = checkpointer.restore(10, target)
  for value in tiny.leaves(restored.params).values():
    assert np.unique(value.astype(np.float32)).tolist() == [10.0]


def test_reading_neither_creates_nor_changes(tmp_path):
  with Checkpointer(tmp_path / "c") as checkpointer:
    checkpointer.save(1, _state(1), _iterator(), {})
    checkpointer.save(2, _state(2), _iterator(), {})
  (tmp_path / "c" / "2" / "manifest.json").unlink()
  with Checkpointer(tmp_path / "c", write=False) as checkpointer:
    assert checkpointer.steps == [1]
  assert (tmp_path / "c" / "2").is_dir()
  with Checkpointer(tmp_path / "c") as checkpointer:  # A writer makes room for step 2.
    assert checkpointer.steps == [1]
    checkpointer.save(2, _state(2), _iterator(), {})
    checkpointer.wait()
    assert checkpointer.steps == [1, 2]


def test_a_state_of_another_shape_is_refused(tmp_path):
  with Checkpointer(tmp_path / "c") as checkpointer:
    checkpointer.save(1, _state(1), _iterator(), {})
    checkpointer.wait()
    with pytest.raises(UserError, match="does not fit this model"):
      checkpointer.restore(1, _target(size=(3, 4)))


def _noisy(ema):
  """A state whose arrays cannot be compressed; with or without an average."""
  rng = np.random.default_rng(0)
  state = _state(1, size=(1000, 250))
  state = state.replace(ema={"params": state.params} if ema else None)
  return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), state)


@pytest.mark.parametrize("ema", [True, False])
def test_whoever_needs_the_weights_gets_nothing_else(tmp_path, ema):
  """Of parameters, two moments and an average, of 1 MB each (the first moment of half)."""
  state = _noisy(ema)
  expected, target = jax.device_get(state.result), run_info._result_alone(_like(state))
  with Checkpointer(tmp_path / "c") as checkpointer:
    checkpointer.save(1, state, _iterator(), {})
    checkpointer.wait()
    del state
    live, read = _live_bytes(), _bytes_read()
    part = checkpointer.restore(1, target)
    assert _live_bytes() - live == sum(x.nbytes for x in jax.tree.leaves(expected))
    assert _bytes_read() - read < 1.5e6
  assert part.opt_state is None and part.step is None
  assert jax.tree.map(np.shape, part.result) == jax.tree.map(np.shape, expected)
  for path, value in tiny.leaves(expected).items():
    assert tiny.leaves(part.result)[path].tobytes() == value.tobytes(), path


def _like(state):
  sharding = mesh_lib.replicated(mesh_lib.make_mesh())
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), state)


def _live_bytes():
  return sum(x.nbytes for x in jax.live_arrays())


def _bytes_read():
  """Of all files, by this process."""
  with open("/proc/self/io") as file:
    return int(file.readline().split()[1])


@pytest.mark.parametrize(
  "change, message",
  [
    (dict(size=(3, 4)), r"params/kernel should be \(3, 4\), but is \(300, 400\)"),
    (dict(less="bias"), r"params/bias should be absent, but is \(\)"),
    (dict(more="scale"), r"params/scale should be \(\), but is absent"),
  ],
)
def test_weights_of_another_model_are_refused(tmp_path, change, message):
  with Checkpointer(tmp_path / "c") as checkpointer:
    checkpointer.save(1, _state(1), _iterator(), {})
    checkpointer.wait()
    params = dict(_target(**{k: v for k, v in change.items() if k == "size"}).params)
    params.pop(change.get("less"), None)
    params |= {change["more"]: params["bias"]} if "more" in change else {}
    target = run_info._result_alone(_target().replace(params=params))
    with pytest.raises(UserError, match=message):
      checkpointer.restore(1, target)


def test_the_weights_are_not_taken_for_the_average(tmp_path):
  """As if a damaged config.json did not say that there is one."""
  state = _noisy(ema=True)
  with Checkpointer(tmp_path / "c") as checkpointer:
    checkpointer.save(1, state, _iterator(), {})
    checkpointer.wait()
    target = run_info._result_alone(_like(state.replace(ema=None)))
    with pytest.raises(UserError, match="ema/params/bias should be absent"):
      checkpointer.restore(1, target)


def test_only_the_step_that_is_asked_for_is_verified(tmp_path, monkeypatch):
  with Checkpointer(tmp_path / "c", keep_last=3) as checkpointer:
    for step, accuracy in ((1, 0.5), (2, 0.9), (3, 0.8)):
      checkpointer.save(step, _state(step), _iterator(), {}, _scores(accuracy, 1.0))
  hashed = _hashed(monkeypatch, tmp_path / "c")
  with Checkpointer(tmp_path / "c", write=False) as checkpointer:
    assert checkpointer.best_step == 2 and hashed == {"2"}
  _damage(tmp_path / "c" / "2")
  hashed.clear()
  with Checkpointer(tmp_path / "c", write=False) as checkpointer:
    assert checkpointer.best_step == 3 and hashed == {"2", "3"}


def _damage(step_directory):
  [damaged] = (step_directory / "config").glob("metadata")
  damaged.write_bytes(damaged.read_bytes() + b" ")


def _hashed(monkeypatch, directory):
  """A set that gets the steps of which files are hashed."""
  hashed, sha256 = set(), integrity._sha256
  step_of = lambda path: path.relative_to(directory).parts[0]
  monkeypatch.setattr(
    integrity, "_sha256", lambda path: (hashed.add(step_of(path)), sha256(path))[1]
  )
  return hashed


def test_a_start_looks_at_the_step_that_it_continues_from(tmp_path, monkeypatch, caplog):
  """And at the best one when that is to be used."""
  with Checkpointer(tmp_path / "c", keep_last=4) as checkpointer:
    for step, accuracy in ((1, 0.8), (2, 0.9), (3, 0.5), (4, 0.6)):
      checkpointer.save(step, _state(step), _iterator(), {}, _scores(accuracy, 1.0))
  hashed = _hashed(monkeypatch, tmp_path / "c")
  _damage(tmp_path / "c" / "2")
  _damage(tmp_path / "c" / "4")
  with Checkpointer(tmp_path / "c", keep_last=4) as checkpointer:
    assert checkpointer.last_step == 3 and hashed == {"3", "4"}
    assert (tmp_path / "damaged" / "4-0").is_dir()
    hashed.clear()
    assert not checkpointer.is_better(_scores(0.85, 1.0))
    assert checkpointer.is_better(_scores(0.95, 1.0)) and not hashed
    assert "2 is damaged" not in caplog.text
    assert checkpointer.best_step == 1 and hashed == {"1", "2"}
    assert "2 is damaged (config/metadata has changed) and is not used" in caplog.text
    checkpointer.save(5, _state(5), _iterator(), {}, _scores(0.99, 1.0))
    checkpointer.wait()
    hashed.clear()
    # What this process has saved itself, and what it has looked at, is trusted.
    assert checkpointer.best_step == checkpointer.last_step == 5 and not hashed


def test_processes_hash_what_they_wrote_and_share_the_looking(tmp_path, monkeypatch):
  step = integrity.epath.Path(tmp_path) / "c" / "7"
  names = [
    *(
      "state/d/a",
      "state/ocdbt.process_0/d/b",
      "state/ocdbt.process_1/d/c",
      "state/manifest.ocdbt",
    ),
    *("data/process_0-of-2.json", "data/process_1-of-2.json", "commit_success.txt"),
  ]
  for name in names:
    (step / name).parent.mkdir(parents=True, exist_ok=True)
    (step / name).write_text(name)
  hashed, sha256 = [], integrity._sha256
  monkeypatch.setattr(integrity, "_sha256", lambda path: (hashed.append(path), sha256(path))[1])
  taken = lambda: {str(path.relative_to(step)) for path in [hashed.pop() for _ in [*hashed]]}
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  monkeypatch.setattr(jax, "process_index", lambda: 1)
  integrity.write_manifest(step)
  assert taken() == {names[2], names[5]}
  assert integrity.defect(step) == ""  # Of the first process there is none.
  monkeypatch.setattr(jax, "process_index", lambda: 0)
  integrity.write_manifest(step)
  assert taken() == {*names} - {names[2], names[5]}
  assert integrity.defect(step) is None and taken() == {*names}
  parts = [slice(index, None, 3) for index in range(3)]  # As another number of processes looks.
  looked = [(integrity.defect(step, part), taken()) for part in parts]
  assert [found for found, _ in looked] == [None] * 3
  assert sorted(name for _, part in looked for name in part) == sorted(names)
  (step / names[2]).write_text("changed")
  found = [integrity.defect(step, part) for part in parts]
  assert sorted(found, key=str) == [None, None, f"{names[2]} has changed"]
  assert integrity.defect(step, integrity.NONE) is None  # All of them are there.
  (step / "manifest.process_1.json").unlink()
  assert integrity.defect(step) == ""


def test_what_one_process_finds_is_what_all_find(tmp_path, monkeypatch):
  """Each looks at its part; a stand-in says what the other one has found."""
  with Checkpointer(tmp_path / "c") as checkpointer:
    checkpointer.save(1, _state(1), _iterator(), {}, _scores(0.9, 1.0))
    checkpointer.save(2, _state(2), _iterator(), {}, _scores(0.8, 1.0))
    checkpointer.wait()
    del checkpointer._defects[1]
    hashed, sha256 = [], integrity._sha256
    monkeypatch.setattr(integrity, "_sha256", lambda path: (hashed.append(path), sha256(path))[1])
    with monkeypatch.context() as patched:
      patched.setattr(coordination, "gather", lambda own: [own, "state/d/x has changed"])
      patched.setattr(jax, "process_count", lambda: 2)
      assert checkpointer.best_step == 2
    files = [*integrity.files(checkpointer._directory / "1")]
    assert len(hashed) == (len(files) + 1) // 2


OPEN = """
import sys
from vit_jax.workdir.steps import Checkpointer
Checkpointer(sys.argv[1]).close()
"""


@pytest.mark.parametrize("owner, name", [(integrity, "defect"), (steps, "_Manager")])
def test_a_constructor_that_fails_gives_its_lock_back(tmp_path, monkeypatch, owner, name):
  (tmp_path / "c" / "1").mkdir(parents=True)
  threads = threading.active_count()
  with monkeypatch.context() as patched:

    def full(*arguments, **options):
      raise OSError(errno.ENOSPC, "No space left on device")

    patched.setattr(owner, name, full)
    with pytest.raises(OSError, match="No space left") as caught:
      Checkpointer(tmp_path / "c")
  assert threading.active_count() == threads
  # While the error, and what hangs on its frames, still lives.
  done = subprocess.run(
    [sys.executable, "-c", OPEN, str(tmp_path / "c")],
    env={**os.environ, "JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  Checkpointer(tmp_path / "c").close()
  assert caught.value.errno == errno.ENOSPC


def test_closing_gives_the_lock_back_whatever_fails(tmp_path, monkeypatch):
  def fails(self):
    raise OSError(errno.EIO, "Input/output error")

  with monkeypatch.context() as patched:
    patched.setattr(steps._Manager, "close", fails)
    with pytest.raises(OSError, match="Input/output"):
      Checkpointer(tmp_path / "c").close()
  Checkpointer(tmp_path / "c").close()


def test_a_save_that_fails_says_so(tmp_path, monkeypatch):
  def full(step_directory):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(integrity, "write_manifest", full)
  with (
    pytest.raises(UserError, match=r"step 2 cannot be saved .*No space left.*the same command"),
    Checkpointer(tmp_path / "c") as checkpointer,
  ):
    checkpointer.save(2, _state(2), _iterator(), {})
    checkpointer.wait()
