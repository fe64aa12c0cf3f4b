"""The gate: no mutant survives unless it is listed as equivalent, and the list holds nothing else."""

import json
from pathlib import Path

import pytest

from mutants.gate import Report, run, thin

pytestmark = pytest.mark.mutants

SCORE = Path(__file__).parents[2] / "outputs" / "mutants.json"


@pytest.fixture(scope="module")
def report() -> Report:
    return run()


def test_no_mutant_survives(report: Report, capsys: pytest.CaptureFixture) -> None:
    SCORE.parent.mkdir(exist_ok=True)
    SCORE.write_text(json.dumps(report.summary(), indent=2) + "\n")
    with capsys.disabled():
        print(f"\n{report.table()}")
    assert not report.survivors(), "\n\n".join(f"{v.key}\n{v.mutant.source}" for v in report.survivors())


def test_every_listed_equivalent_is_a_mutant_that_nothing_kills(report: Report) -> None:
    assert not report.stale()


def test_every_backward_that_computes_has_ten_mutants() -> None:
    assert not list(thin())
