"""Learning-rate schedules compared with their formulas."""

import math

import numpy as np
import pytest
from support.assertions import refused

from nl_layers.schedules import Constant, Cosine, Exponential, OneCycle, ReduceOnPlateau, Step


def test_constant_and_step() -> None:
    assert [Constant().factor(e, 10) for e in (0, 3.7, 10)] == [1, 1, 1]
    step = Step(every=2, gamma=0.5)
    assert [step.factor(e, 10) for e in (0, 1.99, 2, 3.5, 4, 9)] == [1, 1, 0.5, 0.5, 0.25, 0.0625]
    tenths = Step(every=0.1, gamma=0.5)
    assert [tenths.factor(steps / 20, 1) for steps in range(21)] == [0.5 ** (steps // 2) for steps in range(21)]


def test_cosine() -> None:
    warm = Cosine(warmup=2.0, final=0.1)
    assert warm.factor(0, 10) > 0
    assert [warm.factor(e, 10) for e in (0.5, 1.0, 1.5)] == [0.25, 0.5, 0.75]
    for epoch in (2, 3, 6, 9, 10):
        expected = 0.1 + 0.9 * (1 + math.cos(math.pi * (epoch - 2) / 8)) / 2
        assert warm.factor(epoch, 10) == pytest.approx(expected, abs=1e-11)
    assert (warm.factor(2, 10), warm.factor(10, 10), warm.factor(12, 10)) == (1, 0.1, 0.1)
    assert Cosine(warmup=5.0).factor(1.0, 2.0) == 1  # a short training warms up for half of its epochs
    assert all(0 < Cosine().factor(e / 7, 3) <= 1 for e in range(21))


def test_one_cycle_rises_from_a_25th_to_1_and_falls_to_its_ten_thousandth() -> None:
    cycle = OneCycle()
    assert [cycle.factor(e, 20) for e in (0, 6, 20, 21)] == pytest.approx([0.04, 1, 4e-6, 4e-6], rel=1e-12)
    assert cycle.factor(3, 20) == pytest.approx(0.52)  # half of the way up
    assert cycle.factor(13, 20) == pytest.approx((1 + 4e-6) / 2)  # half of the way down
    own = OneCycle(pct_start=0.5, div_factor=10, final_div_factor=2)
    for epoch in np.linspace(0, 8, 33):
        share = math.sin(math.pi * epoch / 8) ** 2
        low = 0.1 if epoch < 4 else 0.05
        assert own.factor(epoch, 8) == pytest.approx(low + (1 - low) * share, abs=1e-12)


def test_exponential_decays_within_epochs_too() -> None:
    decay = Exponential(gamma=0.5)
    assert [decay.factor(e, 10) for e in (0, 1, 3)] == [1, 0.5, 0.125]
    assert decay.factor(0.5, 10) == pytest.approx(math.sqrt(0.5))


@pytest.mark.parametrize(
    ("losses", "plateaus"),
    [
        ([], 0),
        ([5.0], 0),
        ([5, 4, 3, 2], 0),
        ([5, 5], 0),
        ([5, 5, 5], 1),
        ([5, 5, 5, 5], 1),
        ([5, 5, 5, 5, 5], 2),  # counts anew after a plateau
        ([5, 6, 4, 4.5, 3.5, 4, 3], 0),
        ([5, 4.6, 4.4, 4.4], 0),  # below 90 % of 5 just in time
        ([5, 4.6, 4.55, 4.55], 1),  # better, but not by the threshold
        ([math.nan], 0),
        ([math.nan, math.nan], 1),
        ([5, math.nan, math.inf], 1),
    ],
)
def test_a_plateau_is_more_than_patience_epochs_without_a_better_loss(losses: list[float], plateaus: int) -> None:
    assert ReduceOnPlateau(gamma=0.5, patience=1, threshold=0.1).factor(9.5, 10, losses) == 0.5**plateaus


def test_a_plateau_without_patience_is_one_epoch() -> None:
    schedule = ReduceOnPlateau(gamma=0.1, patience=0)
    assert [schedule.factor(e, 4, [3.0, 2.0, 2.0, 1.0][:e]) for e in range(5)] == [1, 1, 1, 0.1, 0.1]
    assert ReduceOnPlateau(patience=0, threshold=0.5).factor(2, 4, [2.0, 1.0]) == 0.1  # it must be below one half


def test_wrong_numbers_are_refused() -> None:
    for make, told in {
        lambda: OneCycle(pct_start=0): "OneCycle: pct_start must be a number above 0 and below 1, got 0",
        lambda: OneCycle(pct_start=1): "OneCycle: pct_start must be a number above 0 and below 1, got 1",
        lambda: OneCycle(div_factor=0.5): "OneCycle: div_factor must be a number, 1 or more, got 0.5",
        lambda: OneCycle(final_div_factor=0): "OneCycle: final_div_factor must be a number, 1 or more, got 0",
        lambda: Exponential(gamma=0): "Exponential: gamma must be a number above 0, up to 1, got 0",
        lambda: ReduceOnPlateau(gamma=2): "ReduceOnPlateau: gamma must be a number above 0, up to 1, got 2",
        lambda: ReduceOnPlateau(patience=-1): "ReduceOnPlateau: patience must be a whole number, 0 or more, got -1",
        lambda: ReduceOnPlateau(threshold=1): "ReduceOnPlateau: threshold must be a number from 0 to below 1, got 1",
        lambda: Exponential(rate=0.5): "Exponential has no argument 'rate'",
    }.items():
        with refused(told):
            make()
