"""1,000 interrupts of each executor."""

import pytest
from support.interrupts import EXECUTORS, interrupt, network


@pytest.mark.chaos
@pytest.mark.parametrize("executor", EXECUTORS)
def test_network_is_consistent_after_a_thousand_interrupts(executor: str) -> None:
    assert interrupt(network(**EXECUTORS[executor]), 1000, seed=1) == 1000
