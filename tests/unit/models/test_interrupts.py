"""An interrupted call takes effect completely or not at all, and the network remains usable."""

import signal

import pytest
from support.interrupts import EXECUTORS, interrupt, network

from nl_nodes.signals import DeferSignals


@pytest.mark.parametrize("executor", EXECUTORS)
def test_network_is_consistent_after_interrupts(executor: str) -> None:
    assert interrupt(network(**EXECUTORS[executor]), 12) == 12


def test_every_deferred_signal_is_handled_once_after_the_block() -> None:
    heard: list[int] = []

    def hear(number: int, frame: object) -> None:
        heard.append(number)
        raise LookupError(number)

    numbers = (signal.SIGUSR1, signal.SIGUSR2)
    before = [signal.signal(number, hear) for number in numbers]
    try:
        with pytest.raises(LookupError):
            raise_deferred((*numbers, *numbers), heard)
        assert sorted(heard) == sorted(numbers)
        assert [signal.getsignal(number) for number in numbers] == [hear, hear]
        with pytest.raises(LookupError):
            signal.raise_signal(signal.SIGUSR1)
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def raise_deferred(numbers: tuple[int, ...], heard: list[int]) -> None:
    with DeferSignals():
        with DeferSignals():
            for number in numbers:
                signal.raise_signal(number)
        assert not heard
