"""1,000 interrupts of each kind of executor."""

import pytest
from support.interrupts import EXECUTORS, interrupt, network


@pytest.mark.chaos
@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_thousand_interrupts_leave_a_network_whole(executor: str) -> None:
    assert interrupt(network(**EXECUTORS[executor]), 1000, seed=1) == 1000
