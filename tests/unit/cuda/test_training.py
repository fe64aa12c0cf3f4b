"""A training on the stand-in for a GPU has the CPU's losses and weights, and waits for the GPU once in many steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.fake_card import FakeCardBackend
from support.fake_device import EVENTS, TO_DEVICE, WAIT, FakeArray
from support.kernels.executor import COMPILER, NO_COMPILER

from nl_layers.optimizers import AdamW
from nl_layers.schedules import Cosine
from nl_models import build
from nl_nodes import Device
from nl_nodes.device import backends
from nl_training.data import Dataset, Split, load
from nl_training.training import steps
from nl_training.training.callbacks import Callback, StepReport, TrainingState
from nl_training.training.snapshot import restore, snapshot
from nl_training.training.trainer import Diverged, Trainer, TrainOptions

pytestmark = pytest.mark.skipif(COMPILER is None, reason=NO_COMPILER)

STEPS = 6  # two epochs of 50, 50 and 30 images


@pytest.fixture(autouse=True)
def backend(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeCardBackend:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = FakeCardBackend()
    monkeypatch.setitem(backends(), "fake", made)
    return made


def images(change: Callable[[Any], None] = lambda x: None) -> Dataset:
    data = load("digits")
    x = data.train.x[:130].copy()
    change(x)
    return dataclasses.replace(data, train=Split(x, data.train.t[:130]))


def training(
    device: Device, data: Dataset, *callbacks: Callback, on_nan: str = "stop", max_steps: int = 6, accumulate: int = 1
) -> Trainer:
    net = build("mlp", input_shape=data.input_shape, width=16, batch_norm=True, dropout=0.2, device=device)
    options = TrainOptions(2, 50, max_steps, on_nan=on_nan, accumulate=accumulate)
    return Trainer(net, AdamW(0.01), Cosine(), data, options, weight_decay=1e-3, callbacks=callbacks)


def both(data: Dataset, **options: Any) -> tuple[Trainer, Trainer]:
    cpu = training(Device(dtype="float64", threads=1), data, **options)
    return cpu, training(Device("fake", dtype="float64"), data, **options)


def spoilt(x: Any) -> None:
    x[7] = np.nan


@pytest.mark.parametrize("change", [lambda x: None, spoilt], ids=["finite", "one batch is not finite"])
@pytest.mark.parametrize("ahead", [1, 2, 32])
def test_a_training_is_the_cpus(change: Any, ahead: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "AHEAD", ahead)
    cpu, gpu = both(images(change), on_nan="skip")
    with np.errstate(all="ignore"):
        expected, found = cpu.run(), gpu.run()
    for ours, theirs in zip(expected.history, found.history, strict=True):
        assert theirs.metrics == pytest.approx(ours.metrics, rel=1e-8)
    for key, value in cpu.net.state_dict().items():
        np.testing.assert_allclose(gpu.net.state_dict()[key], value, rtol=1e-7, atol=1e-10)
    assert gpu.net.passes == cpu.net.passes
    assert gpu.optimizer.steps == cpu.optimizer.steps


def test_a_training_that_diverges_says_what_the_cpu_says() -> None:
    said = []
    for trainer in both(images(spoilt)):
        with np.errstate(all="ignore"), pytest.raises(Diverged, match="the loss became nan at step ") as error:
            trainer.run()
        said.append(str(error.value))
    assert said[0] == said[1]


def test_steps_wait_for_the_gpu_once_and_leave_images_there() -> None:
    trainer = training(Device("fake", dtype="float64"), images())
    trainer.run()  # compiles
    trainer = training(trainer.net.device, images())
    trainer._epoch(1)
    before = dict(EVENTS)
    order = np.arange(100)
    for first in (0, 50):
        index = order[first : first + 50]
        trainer._enqueue(trainer._splits["train"].x[index], trainer.data.train.t[index])
    assert EVENTS[WAIT] == before[WAIT]
    trainer._report()
    assert EVENTS[WAIT] == before[WAIT] + 1
    assert EVENTS[TO_DEVICE] == before[TO_DEVICE] + 4  # the labels and the indices of two batches


def test_steps_of_several_batches_are_those_of_the_cpu() -> None:
    cpu, gpu = both(images(), accumulate=2)
    assert cpu.run().steps == gpu.run().steps == 4  # of 100 and 30 images
    for name, value in cpu.net.state_dict().items():
        np.testing.assert_allclose(gpu.net.state_dict()[name], value, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("limit", "kind"), [(2**31, FakeArray), (2**17, np.ndarray)])
def test_images_that_do_not_fit_stay_on_the_host(limit: int, kind: type, backend: FakeCardBackend) -> None:
    backend.card.limit = limit
    split = steps.steps_of(training(Device("fake"), images()).net, AdamW(), 0.0, True).split(images().train)
    assert type(split.x[:2]) is type(split.x[np.array([1, 0])]) is kind
    own = backends()["fake"].host(split.x[np.array([5, 3])]) if kind is FakeArray else split.x[[5, 3]]
    np.testing.assert_array_equal(own, images().train.x[[5, 3]].astype(own.dtype))


class Weights(Callback):
    """Keeps the weights after each step."""

    def __init__(self) -> None:
        self.found: list[Any] = []

    def on_start(self, trainer: TrainingState) -> None:
        self.net = trainer.net

    def on_step(self, report: StepReport) -> None:
        self.found.append(self.net.state_dict()["W1"])


def test_a_callback_that_reads_the_network_sees_each_step() -> None:
    seen = Weights(), Weights()
    for weights, device in zip(
        seen, (Device(dtype="float64", threads=1), Device("fake", dtype="float64")), strict=True
    ):
        training(device, images(), weights).run()
    assert len(seen[0].found) == len(seen[1].found) == STEPS
    for expected, found in zip(*(weights.found for weights in seen), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-10)


def test_a_checkpoint_has_the_algorithms_of_products() -> None:
    trainer = training(Device("fake", dtype="float64"), images(), max_steps=2)
    trainer.run()
    saved = snapshot(trainer)
    algorithms = saved.facts["executor"]["algorithms"]
    assert algorithms
    changed = dict.fromkeys(algorithms, "0" * 128)
    saved.facts["executor"] = {**saved.facts["executor"], "algorithms": changed}
    other = training(Device("fake", dtype="float64"), images(), max_steps=2)
    restore(other, saved)
    assert other.net.device.executor.state() == {**saved.facts["executor"], "algorithms": changed}
