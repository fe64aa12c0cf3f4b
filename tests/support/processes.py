"""Trainings in real processes and a real MLflow store, killed at random moments and resumed."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from nl_training.tracking.address import PROJECT
from nl_training.tracking.store import Store
from support.scripts import Started
from support.stores import empty_store

ROOT = Path(__file__).resolve().parents[2]
# With everything that a resumed run must restore: dropout, running statistics, weight decay, an optimizer with state.
EPOCHS = 30
KILL_AT_START = 0.2  # share of resumed processes that are killed while they start
WORKER_EXIT_SECONDS = 10.0  # time for workers to exit after their training was killed
SMALL_TRAINING = [
    "model=mlp", "data=digits", "regularization=all", "verify=off",
    f"trainer.epochs={EPOCHS}", "trainer.checkpoint_every_seconds=0.2",
]  # fmt: skip


@dataclass
class TrainingProcess:
    """One process of a training.

    `run_id` and `step` are set when the run is open, and `orphans`, the number of workers that outlived the process,
    when it was killed.
    """

    process: Started
    began: float
    run_id: str = ""
    step: int = 0
    orphans: int = 0
    lines: list[str] = field(default_factory=list)

    def opened(self) -> TrainingProcess:
        """Wait until the run is open or reported as finished."""
        if not self.run_id:
            found = self.until(r"run (\w+)(?:, step (\d+) of| is finished)")
            self.run_id, self.step = found[1], int(found[2] or 0)
        return self

    def until(self, pattern: str) -> re.Match[str]:
        """Wait for a line of output that starts with the pattern."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            if found := re.match(pattern, line):
                return found
        raise AssertionError(self.ended())

    def ended(self) -> tuple[int, str, str]:
        """Wait for the end of the process; return exit code, stdout and stderr."""
        out, err = self.process.communicate(timeout=240)
        return self.process.returncode, "".join(self.lines) + out, err

    def kill(self) -> None:
        """Send SIGKILL and count the workers that outlive the process."""
        self.process.send_signal(signal.SIGSTOP)  # so that it starts no worker while they are listed
        workers = psutil.Process(self.process.pid).children(recursive=True)
        self.process.kill()
        deadline = time.monotonic() + WORKER_EXIT_SECONDS
        while (alive := sum(map(_runs, workers))) and time.monotonic() < deadline:
            time.sleep(0.05)
        self.orphans = alive

    def killed_after(self, seconds: float) -> str | None:
        """Kill the process after `seconds` and return its phase; None if it finished before."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            said = self.ended()[1]
            if f"\nepoch {EPOCHS:>3} " in said:
                return "ending"
            return "training" if "\nrun " in said else "opening"
        code, _, err = self.ended()
        assert code == 0, err
        return None


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@dataclass(frozen=True)
class Outcome:
    """A run's final status, the bytes of its weights, and the count of each metric value at each step."""

    status: str
    weights: dict[str, bytes]
    points: Counter[tuple[str, int, float]]
    models: int
    run_id: str = field(compare=False)


class TrainingRuns:
    """Training processes that log to a new store.

    Args:
        folder: folder of the store.
        seed: seed of the random kills.
        uri: URI of another store, to use instead.
        start: starts a process: `Started` or `python`.
    """

    def __init__(self, folder: Path, seed: int = 0, uri: str = "", start: Callable[..., Any] = Started) -> None:
        self._start = start
        self.uri = uri or empty_store(folder)
        self.rng = random.Random(seed)
        self.started: list[TrainingProcess] = []
        self.startup_seconds = self.training_seconds = 0.0
        self.store = Store.open(self.uri, PROJECT)

    def start(self, *arguments: str) -> TrainingProcess:
        """Start or resume a training."""
        environment = {**os.environ, "MLFLOW_TRACKING_URI": self.uri, "OPENBLAS_NUM_THREADS": "1"}
        self.started.append(TrainingProcess(self._start("train.py", *arguments, env=environment), time.monotonic()))
        return self.started[-1]

    def open(self, *arguments: str) -> TrainingProcess:
        """Start a training and wait until its run is open."""
        return self.start(*arguments).opened()

    def whole(self, *arguments: str) -> Outcome:
        """Run an uninterrupted training, and measure its time."""
        training = self.open(*arguments)
        self.startup_seconds = time.monotonic() - training.began
        code, _, err = training.ended()
        assert (code, err) == (0, "")
        self.training_seconds = time.monotonic() - training.began - self.startup_seconds
        return self.outcome(training.run_id)

    def killed(self, times: int, *arguments: str) -> tuple[str, list[str]]:
        """Run a training, kill it up to `times` times and let it finish; return its run ID and each kill's phase."""
        training = self.open(*arguments)
        run_id, kills = training.run_id, []
        for _ in range(times):
            if kills and self.rng.random() < KILL_AT_START:
                cut = training.killed_after(self.rng.uniform(0, self.startup_seconds))
            else:
                cut = training.opened().killed_after(self.rng.uniform(0, self.training_seconds))
            if cut is None:
                self.training_seconds *= 0.8  # it finished earlier than measured
                break
            kills.append(cut)
            training = self.start(f"resume={run_id}")
        code, _, err = training.ended()
        assert code == 0, err
        return run_id, kills

    def outcome(self, run_id: str) -> Outcome:
        """Return a run's records, without times, durations and system metrics."""
        client = self.store.client
        run = client.get_run(run_id)
        folder = Path(run.info.artifact_uri.removeprefix("file://")) / "weights"
        weights = {path.name: path.read_bytes() for path in sorted(folder.glob("*.safetensors"))}
        keys = [key for key in run.data.metrics if not key.startswith(("system/", "seconds"))]
        points = Counter(
            (m.key, m.step, m.value) for key in keys for m in client.get_metric_history(run_id, key)
        )  # fmt: skip
        models = run.outputs.model_outputs if run.outputs else []
        return Outcome(run.info.status, weights, points, len(models), run_id)

    def checkpoints(self, run_id: str) -> list[Path]:
        """Return a run's checkpoints, oldest first."""
        return sorted((ROOT / "outputs" / "checkpoints" / run_id).glob("*.safetensors"))

    def clean(self) -> None:
        """End running processes and delete the checkpoints, which are in the repository's output folder."""
        for training in self.started:
            if training.process.poll() is None:
                training.process.kill()
                training.ended()
            if training.run_id:
                shutil.rmtree(ROOT / "outputs" / "checkpoints" / training.run_id, ignore_errors=True)
