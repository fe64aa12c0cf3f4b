"""`nox -s chaos`: SIGKILL at random moments of a run, resume, and the end is that of an undisturbed run, to the bit."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.lives import SMALL, Lab

from nl_nodes import UserError
from nl_training.checkpoint import read

KILLS_A_RUN = 5


def corrupt(lab: Lab, run_id: str) -> int:
    """How many of a run's checkpoint files are not whole."""
    wrong = 0
    for path in lab.checkpoints(run_id):
        try:
            read(path)
        except UserError:
            wrong += 1
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no run after so long")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    asked = parser.parse_args()
    print(f"seed {asked.seed}")
    began, kills, runs, different, broken = time.monotonic(), Counter[str](), 0, 0, 0
    with tempfile.TemporaryDirectory() as folder:
        lab = Lab(Path(folder), asked.seed)
        try:
            expected = lab.whole(*SMALL)
            print(f"an undisturbed run: open after {lab.boot:.1f} s, over {lab.span:.1f} s later", flush=True)
            while kills.total() < asked.kills and time.monotonic() - began < 60 * asked.minutes:
                run_id, cut = lab.killed(min(KILLS_A_RUN, asked.kills - kills.total()), *SMALL)
                same = lab.outcome(run_id) == expected
                kills.update(cut)
                runs, different, broken = runs + 1, different + (not same), broken + corrupt(lab, run_id)
                print(f"killed while {', '.join(cut) or 'never'}: {'same' if same else 'DIFFERENT'}", flush=True)
        finally:
            lab.clean()
    where = ", ".join(f"{count} {cut}" for cut, count in kills.items())
    print(f"{kills.total()} kills ({where}) in {runs} runs: {different} ended otherwise, {broken} corrupt checkpoints")
    return 1 if different or broken or not kills else 0


if __name__ == "__main__":
    sys.exit(main())
