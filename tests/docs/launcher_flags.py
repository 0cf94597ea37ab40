# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The flags of the launchers in docs/many-hosts.md, as far as the page uses them.

Their own parsers are not to be had here: XPK pins versions that exclude ours, the others are no
Python packages. Each table names the page that it was read from.
"""

import argparse
import dataclasses


@dataclasses.dataclass(frozen=True)
class Command:
  """One command of a launcher.

  Attributes:
    source: the page.
    read: when, as year-month-day.
    flags: those of the page; "--zone=" takes a value, "--spot" none.
    names: of its positional arguments.
    required: flags without which it does nothing.
  """

  source: str
  read: str
  flags: str
  names: tuple[str, ...] = ()
  required: tuple[str, ...] = ()

  def parse(self, arguments: list[str]) -> argparse.Namespace:
    """Parses the arguments.

    Raises:
      ValueError: a flag is unknown, or lacks its value, or a required one is missing.
    """
    parser = argparse.ArgumentParser(allow_abbrev=False, exit_on_error=False, add_help=False)
    for flag in self.flags.split():
      name = flag.rstrip("=")
      action = "store_true" if name == flag else "store"
      parser.add_argument(name, required=name in self.required, action=action)
    for name in self.names:
      rest = {"nargs": argparse.REMAINDER} if name == "command" else {}
      parser.add_argument(name, **rest)
    try:
      parsed, unknown = parser.parse_known_args(arguments)
    except argparse.ArgumentError as error:
      raise ValueError(str(error)) from error
    if unknown:
      raise ValueError(f"unknown: {unknown}")
    return parsed


_GCLOUD = "https://cloud.google.com/sdk/gcloud/reference"
_QUEUED = "compute tpus queued-resources"
_SSH = "--zone= --node= --worker= --command="

# By the words that a command line begins with.
COMMANDS = {
  f"gcloud alpha {_QUEUED} create": Command(
    f"{_GCLOUD}/alpha/compute/tpus/queued-resources/create",
    "2026-11-30",
    "--zone= --node-id= --node-count= --node-prefix= --accelerator-type= --runtime-version= --spot "
    "--autocheckpoint-enabled",
    ("name",),
    ("--accelerator-type", "--runtime-version"),
  ),
  f"gcloud {_QUEUED} ssh": Command(
    f"{_GCLOUD}/compute/tpus/queued-resources/ssh", "2026-11-30", _SSH, ("name",), ("--command",)
  ),
  f"gcloud {_QUEUED} describe": Command(
    f"{_GCLOUD}/compute/tpus/queued-resources/describe", "2026-11-30", "--zone=", ("name",)
  ),
  f"gcloud {_QUEUED} delete": Command(
    f"{_GCLOUD}/compute/tpus/queued-resources/delete",
    "2026-11-30",
    "--zone= --force --quiet",
    ("name",),
  ),
  "xpk workload create": Command(
    "https://github.com/AI-Hypercomputer/xpk/blob/main/src/xpk/parser/workload.py",
    "2026-11-30",
    "--cluster= --workload= --tpu-type= --num-slices= --docker-image= --max-restarts= "
    "--restart-on-exit-codes= --termination-grace-period-seconds= --command=",
    (),
    ("--cluster", "--workload", "--tpu-type", "--command"),
  ),
  "sbatch": Command(
    "https://slurm.schedmd.com/sbatch.html",
    "2026-11-30",
    "--nodes= --ntasks-per-node= --gpus-per-node= --gpus-per-task= --cpus-per-task= --time= "
    "--signal= --requeue --open-mode=",
    ("command",),
  ),
  "srun": Command(
    "https://slurm.schedmd.com/srun.html",
    "2026-11-30",
    "--cpus-per-task= --kill-on-bad-exit=",
    ("command",),
  ),
  "scontrol requeue": Command(
    "https://slurm.schedmd.com/scontrol.html", "2026-11-30", "", ("job",)
  ),
  "mpirun": Command(
    "https://www.open-mpi.org/doc/v4.1/man1/mpirun.1.php",
    "2026-11-30",
    "-np=",
    ("command",),
  ),
  "uv venv": Command(
    "https://docs.astral.sh/uv/reference/cli/#uv-venv",
    "2026-11-30",
    "--seed --python=",
    ("folder",),
  ),
  "pip install": Command(
    "https://pip.pypa.io/en/stable/cli/pip_install/", "2026-11-30", "", ("what",)
  ),
  "venv": Command("https://docs.python.org/3/library/venv.html", "2026-11-30", "", ("folder",)),
  "tail": Command("https://man7.org/linux/man-pages/man1/tail.1.html", "2026-11-30", "-f=", ()),
  "pkill": Command(
    "https://man7.org/linux/man-pages/man1/pgrep.1.html", "2026-11-30", "-TERM -f=", ()
  ),
}
