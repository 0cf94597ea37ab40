# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Each command of docs/many-hosts.md, run by bash with launchers that only note what they get.

So quotes and variables are read by bash, here and behind ssh, and what arrives is parsed: by
vit_jax's own parser and config parser, or by the flags of the launcher in `launcher_flags`.
"""

import contextlib
import itertools
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tomllib

import launcher_flags
import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from vit_jax import errors
from vit_jax.cli import configuration, train
from vit_jax.parallel import processes, supervision
from vit_jax.training import plan

pytestmark = pytest.mark.usefixtures("hangups_are_heard")

ROOT = pathlib.Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "many-hosts.md").read_text()
TOOLS = {
  *("gcloud", "xpk", "sbatch", "srun", "scontrol", "mpirun", "ssh", "vit-jax"),
  *("python3", "python3.12", "pip", "tail", "pkill"),
}

# Stands for each tool: notes what it got, and runs the command within as the tool would.
STAND_IN = """\
#!{python} -IS
import json, os, signal, subprocess, sys
name, *words = os.path.basename(sys.argv[0]), *sys.argv[1:]
stays = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
note = dict(words=[name, *words], stays=stays, devices=os.environ.get("JAX_LOCAL_DEVICE_IDS"))
with open(os.environ["NOTES"], "a") as file:
  file.write(json.dumps(note) + "\\n")
inner = [w.removeprefix("--command=") for w in words if w.startswith("--command=")]
if name == "ssh":
  inner = [" ".join(words[1:])]
if inner:  # By a shell over there.
  sys.exit(subprocess.run(["bash", "-c", inner[0] + "\\nwait"]).returncode)
program = [i for i, w in enumerate(words) if w == "bash" or w.endswith("/vit-jax")]
if name in ("srun", "mpirun"):
  subprocess.run(words[program[0]:], check=True)
if name == "srun":
  sys.exit(int(os.environ["ENDS_WITH"]))
"""

# What the launchers set, of the first process.
VARIABLES = {
  "SLURM_JOB_ID": "17",
  "OMPI_COMM_WORLD_SIZE": "32",
  "OMPI_COMM_WORLD_RANK": "9",
  "OMPI_COMM_WORLD_LOCAL_RANK": "1",
}


def blocks():
  """The indented blocks that hold commands, and the commands within sentences."""
  tools = "|".join(map(re.escape, TOOLS))
  indented = [
    re.sub("^    ", "", found, flags=re.M) for found in re.findall(r"(?:^    .*\n)+", PAGE, re.M)
  ]
  commands = [block for block in indented if re.match(rf"#!|for |({tools}) ", block)]
  return [*commands, *re.findall(rf"`(?:RUN )?((?:{tools}) [^`]+)`", PAGE)]


@pytest.fixture(scope="module")
def run_block(tmp_path_factory):
  """Runs a block in bash, where nothing but the tools can be found; gives what they noted."""
  folder = tmp_path_factory.mktemp("stand-ins")
  (folder / "vit" / "bin").mkdir(parents=True)
  for name in TOOLS:
    (folder / name).write_text(STAND_IN.format(python=sys.executable))
    (folder / name).chmod(0o755)
  for name in ("vit-jax", "pip"):
    (folder / "vit" / "bin" / name).symlink_to(folder / name)
  for name in ("bash", "nohup"):
    (folder / name).symlink_to(shutil.which(name))

  def run(block, ends_with=0, restarts=0):
    notes = folder / "notes"
    notes.write_text("")
    variables = {"ENDS_WITH": str(ends_with), "SLURM_RESTART_COUNT": str(restarts)}
    variables |= {"NOTES": str(notes), "HOME": str(folder)}
    done = subprocess.run(
      ["bash", "-c", f"{block}\nwait"],
      env={"PATH": str(folder), **VARIABLES, **variables},
      cwd=folder,
      capture_output=True,
      text=True,
    )
    assert done.stderr == "", (block, done.stderr)
    return [json.loads(line) for line in notes.read_text().splitlines()]

  return run


@pytest.fixture(scope="module")
def notes(run_block):
  """Of each command line of the page what its tool got."""
  found = [note for block in blocks() for note in run_block(block, ends_with=75)]
  directives = " ".join(re.findall(r"^    #SBATCH (.*)$", PAGE, re.M))
  return [*found, {"words": ["sbatch", *directives.split(), "b16.sh"]}]


def parsed(notes, start):
  """The command lines that begin so, parsed by the table."""
  count, command = len(start.split()), launcher_flags.COMMANDS[start]
  lines = [note["words"] for note in notes]
  return [command.parse(line[count:]) for line in lines if line[:count] == start.split()]


def test_each_command_line_of_a_launcher_is_understood(notes):
  lines = [note["words"] for note in notes]
  assert {line[0] for line in lines} == TOOLS
  for line in lines:
    if line[0] in ("vit-jax", "ssh"):
      continue
    line = line[2:] if line[1] == "-m" else line  # Of a module of Python.
    [start] = [s for s in launcher_flags.COMMANDS if line[: len(s.split())] == s.split()]
    launcher_flags.COMMANDS[start].parse(line[len(start.split()) :])


def test_where_the_flags_were_read_is_said():
  for command in launcher_flags.COMMANDS.values():
    assert command.source.startswith("https://") and re.fullmatch(r"\d{4}-\d\d-\d\d", command.read)


@pytest.fixture
def started(monkeypatch, notes):
  """The options and the plan of each run that the page starts."""
  found, options, parse = [], [], configuration.parse
  parse_options = train.argparse.ArgumentParser.parse_known_args

  def remember(self, argv):
    options.append(parse_options(self, argv))
    return options[-1]

  def plan_of(argv):
    config = parse(argv)
    found.append((options[-1][0], plan.make_plan(config)))
    return config

  monkeypatch.setattr(train.argparse.ArgumentParser, "parse_known_args", remember)
  monkeypatch.setattr(configuration, "parse", plan_of)
  # As in a process that is supervised already, and has met the others.
  monkeypatch.setattr(supervision, "supervise", lambda *_, **__: None)
  monkeypatch.setattr(processes, "join", lambda *_, **__: None)
  monkeypatch.setattr(processes, "ends_alone", lambda _: contextlib.nullcontext())
  monkeypatch.setattr(train, "_train", lambda *_: 0)
  monkeypatch.chdir(ROOT)
  for note in notes:
    if note["words"][:2] == ["vit-jax", "train"]:
      assert train.main(note["words"][2:]) == 0
  return found


def test_each_run_is_one_that_vit_jax_starts(notes, started):
  assert len(started) == len([n for n in notes if n["words"][0] == "vit-jax"]) == 10
  for options, planned in started:
    planned.check_devices(512)  # No recipe has more.
    assert planned.dataset == "imagenet2012" and planned.tfds_data_dir
    rented = planned.tfds_data_dir.startswith("gs://")  # And taken away within seconds.
    assert (planned.checkpoint_minutes > 0) == rented
    assert options.distributed + (options.coordinator is not None) == (planned.mesh.fsdp == 1)
  named = [o for o, _ in started if o.coordinator]
  assert [(o.processes, o.process) for o in named] == [(32, 9), *((4, i) for i in range(4))]


def test_a_run_without_a_terminal_stays(notes):
  """A launcher waits for its processes; ssh comes back, and its terminal is gone."""
  for above, note in itertools.pairwise(notes):
    if note["words"][0] == "vit-jax":
      assert note["stays"] == (above["words"][0] == "ssh" or "ssh" in above["words"])


def test_xpk_starts_again_what_asks_for_it(notes, started):
  [words] = parsed(notes, "xpk workload create")
  codes = {int(code) for code in words.restart_on_exit_codes.split(",")}
  assert codes == {errors.Lost.exit_code, errors.Stopped.exit_code}
  assert int(words.max_restarts) > 0 and int(words.termination_grace_period_seconds) > 30
  assert "\n" not in words.command  # It is copied into a YAML file.
  for name in (words.cluster, words.workload):  # XPK's workload_name_type; 1.16.0 has no other.
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name) and len(name) <= 40
  assert [p.mesh.replica for _, p in started if p.mesh.replica > 1] == [int(words.num_slices)]


def test_slurm_shows_each_process_all_devices_of_its_node(notes):
  """JAX's local_device_ids are the local number of the process."""
  [words] = parsed(notes, "sbatch")[1:]
  assert words.gpus_per_node == words.ntasks_per_node and words.gpus_per_task is None
  assert parsed(notes, "srun")[0].cpus_per_task == words.cpus_per_task
  name, seconds = words.signal.split("@")
  assert name == "TERM" and int(seconds) >= 120


@pytest.mark.parametrize("code", [0, 1, 2, 3, 69, 75, 137])
def test_slurm_starts_again_what_asks_for_it(run_block, code):
  [script] = [block for block in blocks() if block.startswith("#!")]
  queued = [n["words"] for n in run_block(script, code) if n["words"][0] == "scontrol"]
  again = code in (errors.Lost.exit_code, errors.Stopped.exit_code, 128 + 9)
  assert queued == [["scontrol", "requeue", "17"]] * again
  assert not [n for n in run_block(script, code, restarts=100) if n["words"][0] == "scontrol"]


def test_open_mpi_gives_each_process_a_device_of_its_own(notes):
  assert [n["devices"] for n in notes if n["words"][0] == "vit-jax" and n["devices"]] == ["1"]


def test_what_is_installed_comes_from_an_address(notes):
  project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
  assert "3.12" in SpecifierSet(project["requires-python"])
  asked = [words.what for words in parsed(notes, "pip install")]
  assert len(asked) == 3
  for requirement in map(Requirement, asked):
    assert requirement.url.startswith("git+") and requirement.name == project["name"]
    assert requirement.extras <= {*project["optional-dependencies"]}
