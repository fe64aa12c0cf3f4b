"""One training step: its calls, changes and reports."""

from collections.abc import Sequence
from time import perf_counter
from typing import Any

import numpy as np
import pytest

from nl_layers.optimizers import SGD
from nl_models import mlp
from nl_nodes import Device, UserError
from nl_training.data import Dataset, Normalization, Split, epoch_order
from nl_training.training.callbacks import Callback, StepReport
from nl_training.training.trainer import Trainer, TrainOptions

RNG = np.random.default_rng(2)
X, T = RNG.standard_normal((10, 1, 2, 2)), np.arange(10) % 3
DATA = Dataset("few", Split(X, T), None, Split(X, T), ("a", "b", "c"), Normalization.scaling(1.0, 1), "")
RATE, DECAY = 0.5, 0.1


class Notes(Callback):
    def __init__(self) -> None:
        self.given: list[tuple[Any, ...]] = []
        self.reports: list[StepReport] = []

    def on_batch(self, trainer: Trainer, step: int, x: Any, t: Any) -> None:
        self.given.append((trainer, step, x, t, trainer.progress.position))

    def on_step(self, report: StepReport) -> None:
        self.reports.append(report)


class Course:
    """A schedule that records its calls."""

    def __init__(self) -> None:
        self.asked: list[tuple[float, float]] = []

    def factor(self, epoch: float, epochs: float, losses: Sequence[float]) -> float:
        self.asked.append((epoch, epochs))
        return 1 / (1 + epoch)


def trainer(x: np.ndarray = X, **limits: Any) -> tuple[Trainer, Notes, Course]:
    net, notes, course = network(), Notes(), Course()
    data = Dataset("few", Split(x, T), None, Split(x, T), DATA.classes, DATA.normalization, "")
    settings = TrainOptions(**{"epochs": 3, "batch_size": 4, **limits})
    return Trainer(net, SGD(RATE), course, data, settings, DECAY, 0, [notes]), notes, course


def network() -> Any:
    return mlp((1, 2, 2), 3, hidden=[5], seed=1, device=Device(dtype="float64", compile=False))


def test_steps_match_the_same_operations_written_out() -> None:
    made, notes, course = trainer(max_steps=5)
    begun = perf_counter()
    made.run()
    elapsed = perf_counter() - begun
    assert course.asked == [(n / 3, 5 / 3) for n in range(5)]
    net = network()
    cut = [slice(0, 4), slice(4, 8), slice(8, 10)]
    for number, (report, given) in enumerate(zip(notes.reports, notes.given, strict=True)):
        epoch = number // 3
        at = epoch_order(10, 0, 1 + epoch)[cut[number % 3]]
        assert given[:2] == (made, number + 1)
        np.testing.assert_array_equal(given[2], X[at])
        np.testing.assert_array_equal(given[3], T[at])
        assert given[4] == number % 3
        step = net.step(X[at], T[at])
        right = (step.logits.argmax(1) == T[at]).mean()
        rate = RATE / (1 + number / 3)
        assert 0 < report.seconds < elapsed
        expected = StepReport(number + 1, 1 + epoch, float(step.loss), right, rate, len(at), report.seconds)
        assert report == expected
        for name, value in net.params.items():
            decay = DECAY * value if name.startswith("W") else 0
            value -= rate * (step.grads[name] + decay)
    for name, value in net.params.items():
        np.testing.assert_allclose(made.net.params[name], value, rtol=1e-12)


@pytest.mark.parametrize("rate", [0.0, DECAY])
def test_penalty_is_computed_only_if_weight_decay_is_set(rate: float, monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    monkeypatch.setattr("nl_training.training.steps.add_weight_decay", lambda params, grads, rate: rates.append(rate))
    made, _, _ = trainer(max_steps=2)
    made._steps.weight_decay = rate
    made.run()
    assert rates == [rate] * (2 if rate else 0)


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_non_finite_batch_is_skipped_or_ends_training(what: str) -> None:
    made, notes, _ = trainer(on_nan="skip", max_steps=4)
    before = made.net.params.flat.copy()
    spoil(made.net, what)
    with np.errstate(all="ignore"):
        made.run()
    assert made.step == 4
    assert len(notes.given) == 4
    assert not notes.reports
    np.testing.assert_array_equal(made.net.params.flat, before)
    made, notes, _ = trainer(on_nan="stop", max_steps=4)
    spoil(made.net, what)
    said = {"loss": "the loss became nan at step 1", "gradient": "a gradient became infinite or no number at step 1"}
    with np.errstate(all="ignore"), pytest.raises(UserError, match=said[what]):
        made.run()
    assert not notes.reports


def spoil(net: Any, what: str) -> None:
    """Make the loss of every batch, or only a gradient, NaN."""
    right = net.step

    def step(x: Any, t: Any) -> Any:
        done = right(x, t)
        done.grads.flat[-1] = np.nan
        return type(done)(np.float64(np.nan), done.logits, right(x, t).grads) if what == "loss" else done

    net.step = step
