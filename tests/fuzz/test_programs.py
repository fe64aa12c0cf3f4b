"""A few random programs of API calls, and detection of a wrong result."""

import numpy as np
import pytest
from fuzz.drawn import Made, Program, Step, draw_program
from fuzz.execution import run_program
from fuzz.programs import failure, shrunk

from nl_models import Network


@pytest.mark.parametrize("seed", range(24))
def test_random_program_matches_the_reference(seed: int) -> None:
    run_program(draw_program(seed))


def test_wrong_result_is_found_and_its_program_shrunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted error: a network predicts wrongly after its state was loaded."""
    right = Network.predict

    def wrong(net: Network, x: object) -> np.ndarray:
        return right(net, x) * (1 + 1e-6 * (net.device.compile and net.passes == 2))

    monkeypatch.setattr(Network, "predict", wrong)
    calls = ("keep_state", "step", "predict", "step", "save", "predict", "evaluate")
    steps = tuple(Step("plain", (Made(name, 0, seed),)) for seed, name in enumerate(calls))
    program = Program(0, "one", (4, 5), 0, steps)
    assert "logits is off by 1.0e-06" in failure(program)
    assert [step.calls[0].name for step in shrunk(program, tries=1).steps] == ["step", "step", "predict"]


def test_program_is_determined_by_its_seed() -> None:
    assert draw_program(7) == draw_program(7) != draw_program(8)
