# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Two commands of one run that differ, or of which one is lost: exit codes, sentences and times.

The cases of each fact are in `test_agreement.py`, where two processes join once for all of them;
here each is the command that a user types, so most of them are longer proofs.
"""

import errno
import os
import pathlib
import re
import shutil
import signal
import socket
import time

import pytest
import tiny_folder
import tiny_run as tiny
from test_processes import end, hosts, losses, patience

import vit_jax.configs
from vit_jax.cli import app
from vit_jax.errors import UserError
from vit_jax.parallel import coordination, processes
from vit_jax.training.loop import train_and_evaluate
from vit_jax.workdir.steps import Checkpointer

SAYS_WHEN_JOINED = """
import sys, time
from vit_jax.parallel import processes
join = processes.join
def joined(*given, **settings):
  join(*given, **settings)
  print("joined at", time.time(), file=sys.stderr, flush=True)
processes.join = joined
"""

OPENS_ANOTHER_FOLDER = """
from vit_jax.data import sources, datasets
open_dataset = datasets.open_dataset
datasets.open_dataset = lambda name, **settings: open_dataset({folder!r}, **settings)
"""

# The process kills itself where a method is called, in its first life alone.
DIES = """
import os, pathlib, signal
from vit_jax.evaluation import classification
from vit_jax.training import progress
from vit_jax.workdir import steps
marker = pathlib.Path({marker!r})
def dies(owner, name, when):
  method = getattr(owner, name)
  def patched(self, *given, **settings):
    if when(*given) and not marker.exists():
      marker.write_text("")
      os.kill(os.getpid(), signal.SIGKILL)
    return method(self, *given, **settings)
  setattr(owner, name, patched)
dies({where})
"""
IN_A_SAVE = "steps._Manager, 'save', lambda step, **rest: step >= 6"
AFTER_AN_EVALUATION = "progress.Progress, 'evaluated', lambda *given: True"
IN_AN_EVALUATION = "classification.Evaluator, '__call__', lambda *given: True"
AT_THE_LAST_STEP = "steps._Manager, 'save', lambda step, **rest: step == 12"


def differing(folder, *options, devices=1, last, **changes):
  """Exit codes and last lines of two processes, of which the second has something otherwise."""
  with hosts(
    *(2, folder, *options), before=SAYS_WHEN_JOINED, devices=devices, last=last, **changes
  ) as both:
    codes, told = end(both)
    now = time.time()
  joined = [float(found) for text in told for found in re.findall(r"joined at ([\d.]+)", text)]
  assert len(joined) == 2 and "Traceback" not in "".join(told), told
  print(f"{now - max(joined):.1f} s after joining: {told[0].splitlines()[-1]}")
  assert now - max(joined) < patience(5)
  return codes, [text.splitlines()[-1].removeprefix("vit-jax train: ") for text in told]


@pytest.mark.parametrize(
  "key, value",
  [
    ("base_lr", 0.02),
    *(
      pytest.param(key, value, marks=pytest.mark.slow)
      for key, value in dict(
        seed=1, batch=16, total_steps=9, eval_every=2, checkpoint_every=6
      ).items()
    ),
  ],
)
def test_another_plan(tmp_path, key, value):
  codes, told = differing(tmp_path, last=dict(changes={key: value}))
  usual = tiny.config()[key]
  assert codes == [2, 2]
  assert (
    told
    == [
      f"process 1 has config.{key}={value}, process 0 has {usual}; start all of them with the same "
      "command."
    ]
    * 2
  )
  assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_other_images(tmp_path):
  few, more = (
    tiny_folder.write(tmp_path / str(count), dict.fromkeys("ab", count)) for count in (24, 30)
  )
  before = OPENS_ANOTHER_FOLDER.format(folder=str(more))
  changes = dict(
    dataset=str(few), batch=8, pp=dict(train=None, val=None, test=None, channels=3, crop=8)
  )
  codes, told = differing(tmp_path, last=dict(before=before), **changes)
  assert codes == [2, 2] and told[0] == told[1]
  assert re.match(r"process 1 has train.examples=\d+, process 0 has \d+; give all", told[0]), told


@pytest.mark.slow
def test_another_version_of_the_code(tmp_path):
  package = pathlib.Path(vit_jax.__file__).parent
  copy = tmp_path / "other" / package.name
  for folder in (package, vit_jax.configs.__path__[0]):
    to = copy if folder is package else copy / "configs"
    shutil.copytree(folder, to, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
  with (copy / "training" / "step.py").open("a") as file:
    file.write("# Another version.\n")
  codes, told = differing(tmp_path, last=dict(cwd=tmp_path / "other"))
  assert codes == [2, 2] and told[0] == told[1]
  assert re.match(r"process 1 has vit_jax/training/step.py=content \w+, process 0 has", told[0])


@pytest.mark.slow
def test_a_work_directory_that_is_not_shared(tmp_path):
  codes, told = differing(tmp_path, last=dict(workdir=tmp_path / "local"))
  assert codes == [2, 2] and told[0] == told[1]
  assert told[0].startswith(f"process 1: {tmp_path}/local is not the work directory of process 0")
  assert not [*(tmp_path / "run").iterdir()]


@pytest.mark.slow
def test_other_numbers_of_devices(tmp_path):
  codes, told = differing(tmp_path, last=dict(devices=3))
  assert codes == [2, 2] and told[0] == told[1]
  assert told[0].startswith("process 1 has devices=3, process 0 has 1; start all of them on hosts")


@pytest.mark.slow
def test_a_mistake_of_one_alone_is_told_by_all(tmp_path):
  train_and_evaluate(tiny.config(total_steps=3, eval_every=0), tmp_path / "run")
  last = dict(options=["--resume=never"])
  codes, told = differing(tmp_path, last=last, total_steps=3, eval_every=0)
  assert codes == [2, 2] and told[0] == told[1]
  assert told[0].startswith(f"process 1: {tmp_path}/run holds a run, and --resume=never asks")


@pytest.mark.slow
@pytest.mark.parametrize(
  "where, settings",
  [
    (IN_A_SAVE, {}),
    # While a save is under way its end is waited for, until heartbeats are missed.
    (AFTER_AN_EVALUATION, dict(checkpoint_every=0)),
    (IN_AN_EVALUATION, dict(checkpoint_every=0)),
    (AT_THE_LAST_STEP, dict(checkpoint_every=0, eval_every=0)),
  ],
)
def test_a_process_that_is_lost_is_no_full_disk(tmp_path, where, settings):
  before = DIES.format(marker=str(tmp_path / "died"), where=where)
  with hosts(2, tmp_path, last=dict(before=before), **settings) as both:
    codes, told = end(both)
  assert codes == [69, 128 + signal.SIGKILL], told
  assert "Another process stopped answering" in told[0].splitlines()[-1]
  assert "make room" not in told[0] and "Traceback" not in told[0]


@pytest.mark.parametrize("victim", ["last", pytest.param("first", marks=pytest.mark.slow)])
def test_a_lost_run_starts_again_by_itself(tmp_path, victim):
  index = "1" if victim == "last" else "0"
  marker = tmp_path / "died"
  when = f"lambda step, metrics: step == 8 and '--process={index}' in __import__('sys').argv"
  before = DIES.format(marker=str(marker), where=f"progress.Progress, 'update', {when}")
  settings = dict(pp=dict(val="", test=""), eval_every=0, progress_every=1)
  with hosts(2, tmp_path, "--max-restarts=2", before=before, **settings) as both:
    codes, told = end(both)
  assert codes == [0, 0], told
  assert marker.exists()
  assert all(
    text.count("starting again from the last checkpoint (1 of 2 restarts)") == 1 for text in told
  )
  assert "continuing" in told[0] and {*losses(tmp_path)} == {*range(1, 13)}


def test_not_all_come(tmp_path):
  with hosts(2, tmp_path, "--start-timeout=3", last=dict(options=["--process=2"])) as both:
    codes, told = end(both)
  assert codes == [2, 2], told
  sentence = r"the processes did not meet at localhost:\d+ within --start-timeout=3 s"
  assert re.search(sentence, told[0].splitlines()[-1]), told
  assert "checkpoint" not in told[0]
  assert "--process=2 is not one of the 2 processes" in told[1]


def test_addresses(monkeypatch):
  monkeypatch.setattr(processes, "_PORT_SECONDS", 0.2)
  for address in ("localhost", "localhost:", ":1234", "localhost:99999", "localhost:port"):
    with pytest.raises(UserError, match="is no HOST:PORT"):
      processes.join(address, 2, 0)
  with socket.create_server(("localhost", 0)) as taken:
    address = f"localhost:{taken.getsockname()[1]}"
    with pytest.raises(UserError, match=f"{address} is taken by another program on this host"):
      processes.join(address, 2, 0)


@pytest.mark.parametrize(
  "options, sentence",
  [
    (["--max-restarts=2"], "--max-restarts is for one process of several"),
    (["--max-restarts=-1", "--distributed"], "--max-restarts=-1 should be 0 or more"),
  ],
)
def test_restarts_that_cannot_be(capsys, options, sentence):
  config = ["--config=configs/quickstart.py", "--workdir=unused"]
  assert app.run("train", [*config, *options]) == 2
  assert sentence in capsys.readouterr().err


@pytest.fixture
def two_processes(monkeypatch):
  monkeypatch.setattr(coordination.state(), "num_processes", 2)


LOST = "UNKNOWN: Gloo AllGather failed: [pair.cc:547] Connection closed by peer [127.0.0.1]:58775"
FULL = (
  'RESOURCE_EXHAUSTED: Error writing "0.0" in OCDBT database at local file "/run/": Failed to write'
  " 3341314 bytes to file 4: No space left on device [os_error_code='28']"
)


@pytest.mark.parametrize(
  "error, is_lost",
  [
    (ValueError(LOST), True),
    (TimeoutError("barrier"), True),
    (ValueError(FULL), False),
    (ValueError(FULL.replace("RESOURCE_EXHAUSTED", "UNKNOWN")), False),
    (ValueError('UNKNOWN: Error writing "gs://bucket/run/0.0"'), False),
    (ValueError("tree structures do not match"), False),
    (OSError(errno.ENOSPC, "No space left on device"), False),
    (TimeoutError(errno.ETIMEDOUT, "Connection timed out"), False),
    (UserError("config.oops is not a known key"), False),
  ],
)
def test_what_a_loss_is(two_processes, tmp_path, error, is_lost):
  assert processes.is_loss(error) == is_lost
  if isinstance(error, UserError):
    return
  wrapped = UserError("in other words")
  wrapped.__cause__ = error
  assert processes.is_loss(wrapped) == (is_lost and not isinstance(error, TimeoutError))
  checkpointer = Checkpointer(os.fspath(tmp_path / "checkpoints"))
  with (
    pytest.raises(type(error) if is_lost else UserError) as raised,
    checkpointer,
    checkpointer._explaining_failure(3),
  ):
    raise error
  assert ("make room" in str(raised.value)) == (not is_lost)


def test_a_single_process_loses_nobody():
  assert not processes.is_loss(ValueError(LOST))
