"""A training without the system calls that macOS and Windows lack."""

import subprocess
import sys
from pathlib import Path

ABSENT = """
import os, socket, sys
for module, names in {
    os: ("sched_getaffinity", "sched_setaffinity", "sched_yield", "memfd_create"), socket: ("send_fds", "recv_fds")
}.items():
    for name in names:
        delattr(module, name)
for name in ("fcntl", "pwd", "grp"):
    sys.modules[name] = None
"""
TRAIN = """
import numpy as np
from nl_layers.optimizers import SGD
from nl_layers.schedules import Constant
from nl_models import build
from nl_nodes import Device
from nl_training.training.checkpoint import Checkpoints
from nl_training.data import load
from nl_training.training.trainer import Trainer, TrainOptions
import nl_training.commands.train, nl_training.config.cli, nl_training.tracking.store
data, states = load("digits"), []
for compiled in (True, False):
    net = build("mlp", input_shape=data.input_shape, width=16, device=Device(threads=2, compile=compiled))
    with Checkpoints(sys.argv[1], every_steps=2) as checkpoints:
        limits = TrainOptions(epochs=1, batch_size=300)
        Trainer(net, SGD(0.1), Constant(), data, limits, checkpoints=checkpoints).run()
    states.append(net.params.flat.copy())
print(type(Device(threads=2).executor).__name__, np.allclose(*states, atol=1e-5), len(checkpoints.paths()) > 0)
"""


def test_training_without_these_calls_runs_on_threads(tmp_path: Path) -> None:
    code = ABSENT + TRAIN.replace("sys.argv[1]", "__import__('pathlib').Path(sys.argv[1])")
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=200)
    assert (done.returncode, done.stdout, done.stderr) == (0, "Threads True True\n", "")
