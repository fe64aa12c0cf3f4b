"""However a process with worker processes ends, they end too."""

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

WAYS = {
    "refused input": "sys.exit(f'error: {refusal}')",
    "an error of its own": "raise RuntimeError",
    "SIGKILL": "os.kill(os.getpid(), 9)",
    "no cleaning up": "os._exit(3)",
}
CODE = """
import os, sys
import numpy as np
from nl_models import mlp
from nl_nodes import Device, UserError

device = Device(threads=2, workers="processes")
net = mlp(input_shape=(1, 2, 2), width=4, device=device)
net.gradient(np.ones((8, 1, 2, 2)), np.arange(8))
print(*(child.pid for child in device.team.children), flush=True)
try:
    net.load(sys.argv[1])
except UserError as refusal:
    {way}
"""


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_no_worker_is_left(way: str, tmp_path: Path) -> None:
    damaged = tmp_path / "weights"
    damaged.write_bytes(bytes(100))
    command = [sys.executable, "-c", CODE.replace("{way}", way), str(damaged)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=60)
    assert done.returncode != 0
    pids = [int(pid) for pid in done.stdout.split()]
    assert len(pids) == 1
    deadline = time.monotonic() + 20
    while any(map(alive, pids)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
