"""The gate of the code around the nodes: no mutant of a training step's functions survives unless it is listed.

One mutant in 60 runs, with `--thorough` every one.
"""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.mutants


def test_no_mutant_of_a_step_survives(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture) -> None:
    some = [] if request.config.getoption("--thorough") else ["--every", "60"]
    command = [sys.executable, str(Path(__file__).with_name("forked.py")), *some]
    with capsys.disabled():
        assert subprocess.run(command, check=False).returncode == 0
