"""What a run on a CPU does not import."""

from __future__ import annotations

import subprocess
import sys

TRAINING = """
import sys

from nl_layers.optimizers import Adam
from nl_layers.schedules import Constant
from nl_models import build
from nl_nodes import Device
from nl_training.data import load
from nl_training.training.trainer import Trainer, TrainOptions

data = load("digits")
net = build("mlp", input_shape=data.input_shape, device=Device(threads=1))
Trainer(net, Adam(0.01), Constant(), data, TrainOptions(1, 500, max_steps=1)).run()
print(*(name for name in sys.modules if name.startswith("nl_nodes.compiler.cuda")))
"""


def test_a_training_on_a_cpu_imports_no_compiler_of_kernels() -> None:
    done = subprocess.run([sys.executable, "-c", TRAINING], capture_output=True, text=True, timeout=240, check=True)
    assert done.stdout.split() == []
