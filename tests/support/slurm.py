"""A SLURM cluster with this machine as its only node, started from Debian's packages in a temporary folder."""

import getpass
import os
import platform
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "sinfo")
CONFIG = """\
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
{node} NodeAddr=127.0.0.1
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@contextmanager
def one_node() -> Iterator[dict[str, str]]:
    """Run the cluster and yield its programs' environment; skip the test if they are not installed."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}: apt-get install slurmctld slurmd slurm-client munge")
    with ExitStack() as stack:
        # Not pytest's folder: munged needs one that every user can enter.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slurm-")))
        folder.chmod(0o755)
        (folder / "state").mkdir()
        key = folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(1024))
        files = {"key-file": key, "pid-file": folder / "munged.pid", "seed-file": folder / "munged.seed"}
        files |= {"log-file": folder / "munged.log", "socket": folder / "munge.socket"}
        node = subprocess.run(["slurmd", "-C"], capture_output=True, text=True, check=True).stdout.splitlines()[0]
        config = folder / "slurm.conf"
        own = {"host": platform.node(), "user": getpass.getuser(), "ports": _free_ports(2), "node": node}
        config.write_text(CONFIG.format(folder=folder, **own))
        environment = {"SLURM_CONF": str(config)}
        commands = (
            ["munged", "--foreground", *(f"--{option}={path}" for option, path in files.items())],
            ["slurmctld", "-D", "-f", str(config)],
            ["slurmd", "-D", "-f", str(config)],
        )
        for command in commands:
            _start(stack, command, folder, environment)
        _wait_until_idle(folder, environment)
        yield environment


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _start(stack: ExitStack, command: list[str], folder: Path, environment: dict[str, str]) -> None:
    out = stack.enter_context((folder / f"{command[0]}.txt").open("w"))
    process = subprocess.Popen(command, cwd=folder, env={**os.environ, **environment}, stdout=out, stderr=out)
    stack.callback(process.wait, 30)
    stack.callback(process.terminate)


def _wait_until_idle(folder: Path, environment: dict[str, str]) -> None:
    deadline = time.monotonic() + 60
    while "idle" not in _states(environment):
        assert time.monotonic() < deadline, "\n".join(path.read_text() for path in sorted(folder.glob("*.txt")))
        time.sleep(0.5)


def _states(environment: dict[str, str]) -> str:
    command = ["sinfo", "--noheader", "--format=%t"]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True).stdout
