"""The gate: no mutant survives unless it is listed as equivalent, and the list has no other entries.

Of the compiler's fused nodes every tenth mutant of each function runs, with `--thorough` every one.
"""

import json
import os
import signal
from pathlib import Path

import pytest

from mutants.gate import Report, Task, Verdict, mutants_of, run, under_mutated, verdicts
from mutants.targets import targets

pytestmark = pytest.mark.mutants

SCORE = Path(__file__).parents[2] / "outputs" / "mutants.json"
SOME = 10


@pytest.fixture(scope="module")
def reports(request: pytest.FixtureRequest) -> dict[str, Report]:
    return {"nodes": run(), "fused": run(fused=True, every=1 if request.config.getoption("--thorough") else SOME)}


def test_no_mutant_survives(reports: dict[str, Report], capsys: pytest.CaptureFixture) -> None:
    SCORE.parent.mkdir(exist_ok=True)
    SCORE.write_text(json.dumps({kind: report.summary() for kind, report in reports.items()}, indent=2) + "\n")
    with capsys.disabled():
        for kind, report in reports.items():
            which = kind if report.every == 1 else f"{kind}, every {report.every}th"
            print(f"\n{which}\n{report.table()}")
    alive = [verdict for report in reports.values() for verdict in report.survivors()]
    assert not alive, "\n\n".join(f"{v.key}\n{v.mutant.source}" for v in alive)


def test_every_listed_equivalent_survives(reports: dict[str, Report]) -> None:
    assert not [key for report in reports.values() for key in report.stale()]


def test_every_backward_with_arithmetic_has_ten_mutants() -> None:
    assert not list(under_mutated())


def test_mutant_that_ends_its_process_loses_no_other_verdict() -> None:
    name = "nl_nodes.nodes.functions:Exp.backward"
    target, made = targets()[name], mutants_of(name)[:5]
    found = verdicts([(target, made[:2]), (target, made[2:4]), (target, made[4:])], crash_on_the_third)
    expected = {m: "crash" if m is made[2] else "error" for m in made}
    assert {v.mutant: v.killed_by for v in found} == expected
    assert len(found) == 5


def crash_on_the_third(task: Task) -> list[Verdict]:
    target, chosen = task
    if mutants_of(target.name)[2] in chosen:
        os.kill(os.getpid(), signal.SIGKILL)
    return [Verdict(mutant, "error", False, False) for mutant in chosen]
