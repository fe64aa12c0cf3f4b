"""A small disk that becomes full while a run saves checkpoints on it."""

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ENDLESS = ["model=mlp", "data=digits", "verify=off", "trainer.epochs=100000", "trainer.checkpoint_every_seconds=0.3"]
DISK = ["unshare", "--map-root-user", "--mount"]
MISSING = None if shutil.which("unshare") and not subprocess.run([*DISK, "true"]).returncode else "no mount namespaces"


@pytest.mark.chaos
@pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
def test_full_disk_ends_no_training_and_damages_no_checkpoint() -> None:
    """The disk is mounted in a private mount namespace."""
    done = subprocess.run([*DISK, sys.executable, __file__], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr


def main() -> None:
    """Fill the disk during a training, kill it, free the disk, and resume the run."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from support.processes import ROOT, TrainingRuns

    from nl_training.training.checkpoint import read

    disk = ROOT / "outputs" / "checkpoints"
    disk.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], check=True)
    with tempfile.TemporaryDirectory() as folder:
        runs = TrainingRuns(Path(folder), seed=9)
        training = runs.open(*ENDLESS)
        wait(lambda: len(runs.checkpoints(training.run_id)) > 1)
        fill = disk / "fill"
        with fill.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                pass
        seen = runs.checkpoints(training.run_id)
        training.until(r"epoch +\d+ ")
        time.sleep(2)
        assert training.process.poll() is None, training.ended()
        kept = runs.checkpoints(training.run_id)
        assert kept[-1].name >= seen[-1].name
        steps = [read(path).facts["step"] for path in kept]
        training.process.kill()
        _, _, err = training.ended()
        assert "no checkpoint at step" in err, err
        assert "No space left on device" in err, err
        fill.unlink()
        again = runs.start("resume=latest", f"trainer.max_steps={steps[-1] + 40}").opened()
        assert (again.run_id, again.step) == (training.run_id, steps[-1])
        code, _, err = again.ended()
        assert (code, err) == (0, "")
        assert runs.outcome(training.run_id).status == "FINISHED"


def wait(until: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + 100
    while not until():
        assert time.monotonic() < deadline
        time.sleep(0.1)


if __name__ == "__main__":
    main()
