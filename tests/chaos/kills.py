"""`nox -s chaos`: runs killed by SIGKILL at random moments and resumed end bit for bit like an uninterrupted run.

Each run has one of several device settings, and is compared with an uninterrupted run with the same settings.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from itertools import cycle
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.processes import SMALL_TRAINING, Outcome, TrainingRuns
from support.scripts import python

from nl_nodes import UserError
from nl_training.training.checkpoint import read

KILLS_A_RUN = 5
SETTINGS = {
    "alone": ["device.threads=1"],
    "threads": ["device.threads=2", "device.workers=threads"],
    "processes": ["device.threads=2", "device.workers=processes"],
    "reference": ["device.compile=false"],
}


def corrupt(runs: TrainingRuns, run_id: str) -> int:
    """Return the number of a run's corrupt checkpoint files."""
    wrong = 0
    for path in runs.checkpoints(run_id):
        try:
            read(path)
        except UserError:
            wrong += 1
    return wrong


class Setting:
    """The trainings with one device setting, and the outcome of an uninterrupted one."""

    def __init__(self, folder: Path, name: str, seed: int) -> None:
        folder.mkdir()
        self.name, self.arguments = name, [*SMALL_TRAINING, *SETTINGS[name]]
        self.runs = TrainingRuns(folder, seed, start=python)
        self._expected: Outcome | None = None

    def killed(self, times: int) -> tuple[list[str], int, int]:
        """Kill a training up to `times` times; return the interrupted phases, if it ends differently, corrupt files."""
        if self._expected is None:
            self._expected = self.runs.whole(*self.arguments)
            startup, training = self.runs.startup_seconds, self.runs.training_seconds
            print(f"{self.name}: run open after {startup:.1f} s, finished {training:.1f} s later", flush=True)
        run_id, cut = self.runs.killed(times, *self.arguments)
        different = self.runs.outcome(run_id) != self._expected
        print(f"{self.name}: killed while {', '.join(cut) or 'never'}: {'DIFFERENT' if different else 'same'}")
        return cut, different, corrupt(self.runs, run_id)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no run after this time")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    asked = parser.parse_args()
    print(f"seed {asked.seed}")
    began, kills, runs, different, broken = time.monotonic(), Counter[str](), 0, 0, 0
    share = max(1, min(KILLS_A_RUN, asked.kills // len(asked.settings)))
    with tempfile.TemporaryDirectory() as folder:
        settings = [Setting(Path(folder, name), name, asked.seed + i) for i, name in enumerate(asked.settings)]
        turns = cycle(settings)
        try:
            while kills.total() < asked.kills and time.monotonic() - began < 60 * asked.minutes:
                cut, other, wrong = next(turns).killed(min(share, asked.kills - kills.total()))
                kills.update(cut)
                runs, different, broken = runs + 1, different + other, broken + wrong
        finally:
            for setting in settings:
                setting.runs.clean()
        left = sum(training.orphans for setting in settings for training in setting.runs.started)
    where = ", ".join(f"{count} {cut}" for cut, count in kills.items())
    print(
        f"{kills.total()} kills ({where}) in {runs} runs of {', '.join(asked.settings)}: {different} ended otherwise,"
    )
    print(f"{broken} corrupt checkpoints, {left} worker processes left alive")
    return 1 if different or broken or left or not kills else 0


if __name__ == "__main__":
    sys.exit(main())
