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

from nl_training.tracking.store import EXPERIMENT, Store
from support.scripts import Started
from support.stores import empty_store

ROOT = Path(__file__).resolve().parents[2]
# Dropout, running statistics, weight decay and an optimizer with state: all that a resumed run must have again.
EPOCHS = 60
OPENING = 0.2  # how many of the resumed are killed while they start
PATIENCE = 10.0  # seconds that a killed training's workers have to notice it
SMALL = [
    "model=mlp", "data=digits", "regularization=all", "verify=off",
    f"trainer.epochs={EPOCHS}", "trainer.checkpoint_every_seconds=0.2",
]  # fmt: skip


@dataclass
class Life:
    """One process of a training.

    `run_id` and `step` are known when it has opened its run, and `left`, how many of its workers outlived it, when it
    was killed.
    """

    process: Started
    began: float
    run_id: str = ""
    step: int = 0
    left: int = 0
    lines: list[str] = field(default_factory=list)

    def opened(self) -> Life:
        """Wait until the run is open, or told to be finished."""
        if not self.run_id:
            found = self.until(r"run (\w+)(?:, step (\d+) of| is finished)")
            self.run_id, self.step = found[1], int(found[2] or 0)
        return self

    def until(self, pattern: str) -> re.Match[str]:
        """Wait until it says a line that begins like this."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            if found := re.match(pattern, line):
                return found
        raise AssertionError(self.ended())

    def ended(self) -> tuple[int, str, str]:
        """Wait for its end: the exit code, and what it said."""
        out, err = self.process.communicate(timeout=240)
        return self.process.returncode, "".join(self.lines) + out, err

    def kill(self) -> None:
        """SIGKILL, and see which of its workers outlive it."""
        self.process.send_signal(signal.SIGSTOP)  # so that it starts none while they are listed
        workers = psutil.Process(self.process.pid).children(recursive=True)
        self.process.kill()
        deadline = time.monotonic() + PATIENCE
        while (alive := sum(map(_runs, workers))) and time.monotonic() < deadline:
            time.sleep(0.05)
        self.left = alive

    def killed_after(self, seconds: float) -> str | None:
        """Kill it so much later and tell what it was doing; None where it was faster and ended well."""
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
    """What a run came to: its status, its weights' bytes, how often each metric's value is there at each step."""

    status: str
    weights: dict[str, bytes]
    points: Counter[tuple[str, int, float]]
    models: int
    run_id: str = field(compare=False)


class Lab:
    """A store of its own, and the trainings in it.

    Args:
        folder: where the store lies.
        seed: of the moments of the kills.
        uri: of another store.
        start: how processes start, `Started` or `python`.
    """

    def __init__(self, folder: Path, seed: int = 0, uri: str = "", start: Callable[..., Any] = Started) -> None:
        self._start = start
        self.uri = uri or empty_store(folder)
        self.rng = random.Random(seed)
        self.lives: list[Life] = []
        self.boot = self.span = 0.0
        self.store = Store.open(self.uri, EXPERIMENT)

    def start(self, *arguments: str) -> Life:
        """Start a training, or go on with one."""
        environment = {**os.environ, "MLFLOW_TRACKING_URI": self.uri, "OPENBLAS_NUM_THREADS": "1"}
        self.lives.append(Life(self._start("train.py", *arguments, env=environment), time.monotonic()))
        return self.lives[-1]

    def open(self, *arguments: str) -> Life:
        """Start a training and wait until its run is open."""
        return self.start(*arguments).opened()

    def whole(self, *arguments: str) -> Outcome:
        """A training that nothing disturbs, which also tells how long one takes."""
        life = self.open(*arguments)
        self.boot = time.monotonic() - life.began
        code, _, err = life.ended()
        assert (code, err) == (0, "")
        self.span = time.monotonic() - life.began - self.boot
        return self.outcome(life.run_id)

    def killed(self, times: int, *arguments: str) -> tuple[str, list[str]]:
        """A training killed up to `times` times and then left to end; its run, and what each kill cut short."""
        life = self.open(*arguments)
        run_id, kills = life.run_id, []
        for _ in range(times):
            if kills and self.rng.random() < OPENING:
                cut = life.killed_after(self.rng.uniform(0, self.boot))
            else:
                cut = life.opened().killed_after(self.rng.uniform(0, self.span))
            if cut is None:
                self.span *= 0.8  # the machine is faster now than when it was measured
                break
            kills.append(cut)
            life = self.start(f"resume={run_id}")
        code, _, err = life.ended()
        assert code == 0, err
        return run_id, kills

    def outcome(self, run_id: str) -> Outcome:
        """What a run holds at its end; times, loads and durations are left out."""
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
        """A run's checkpoints, the oldest first."""
        return sorted((ROOT / "outputs" / "checkpoints" / run_id).glob("*.safetensors"))

    def clean(self) -> None:
        """End what still runs, and take the checkpoints away, which lie in the repository's output folder."""
        for life in self.lives:
            if life.process.poll() is None:
                life.process.kill()
                life.ended()
            if life.run_id:
                shutil.rmtree(ROOT / "outputs" / "checkpoints" / life.run_id, ignore_errors=True)
