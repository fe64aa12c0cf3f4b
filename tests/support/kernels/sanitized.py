"""Models through kernels that AddressSanitizer watches, in a child process that loads it before anything else.

As a script: `python sanitized.py MODEL FORM ...`; `python sanitized.py "a read"` for kernels with that fault planted.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parents[2]


def sanitized(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run this file as a script under AddressSanitizer."""
    from support.kernels.executor import COMPILER

    command = [str(COMPILER), "-print-file-name=libasan.so"]
    library = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    # Python frees not all of its memory at its end.
    environment = {**os.environ, "LD_PRELOAD": library, "ASAN_OPTIONS": "detect_leaks=0", "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, __file__, *arguments], env=environment, capture_output=True, text=True)


def main(name: str, *forms: str) -> None:
    """Compare a model in these forms with NumPy."""
    from support.kernels.executor import KernelExecutor
    from support.kernels.forms import ERROR, model
    from support.kernels.networks import network_error
    from support.kernels.planted import BESIDE_READ, BESIDE_WRITTEN, Planted

    plants = {"a read": BESIDE_READ, "a write": BESIDE_WRITTEN}
    if name in plants:
        network_error(model("mlp", "plain"), 5, kernels=Planted(plants[name], sanitized=True))
        return
    for form in forms:
        for train in (True, False):
            assert network_error(model(name, form), 5, train, KernelExecutor(sanitized=True)) <= ERROR


if __name__ == "__main__":
    sys.path.insert(0, str(TESTS))
    main(*sys.argv[1:])
