"""Trainings with augmentation, mixup, clipping and averaged weights: the recurrences, metrics and exact resume."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.assertions import refused
from support.fake_device import FakeBackend, install

from nl_layers import FlatDict, clip_norm
from nl_layers.optimizers import SGD, Adam
from nl_layers.schedules import Constant
from nl_models import Network, build
from nl_nodes import Device, UserError
from nl_training import fit
from nl_training.config import build as configured
from nl_training.config.cli import _compose
from nl_training.config.resolve import resolve
from nl_training.data import Split, epoch_order, load
from nl_training.data.augment import Augmentation
from nl_training.data.mixup import mixup
from nl_training.training.average import WeightAverage
from nl_training.training.callbacks import Callback
from nl_training.training.checkpoint import Checkpoints
from nl_training.training.regularization import Regularization
from nl_training.training.snapshot import restore, snapshot
from nl_training.training.trainer import Diverged, Trainer, TrainOptions

install()
DATA = load("digits", limit=143)
assert len(DATA.train) == 129
EVERYTHING = Regularization(("shift", "cutout"), mixup=0.4, clip_norm=0.5, ema=0.9)
RATE, DECAY = 0.1, 1e-2


class Recorder(Callback):
    def __init__(self, stop: int = 0) -> None:
        self.steps, self.batches, self.weights, self.stop = [], [], [], stop

    def on_start(self, trainer) -> None:
        self.net = trainer.net

    def on_batch(self, trainer, step, x, t) -> None:
        self.batches.append((np.array(x), np.array(t)))

    def on_step(self, report) -> None:
        self.steps.append(report)
        self.weights.append(self.net.state_dict())

    def stop_request(self):
        return KeyboardInterrupt() if self.stop and self.steps and self.steps[-1].step == self.stop else None


def trainer(
    how: Regularization, optimizer=None, checkpoints=None, stop=0, data=DATA, device=None, **options
) -> Trainer:
    device = Device(**{"dtype": "float64", "threads": 1, **(device or {})})
    net = build("mlp", device, 0.1, input_shape=data.input_shape, hidden=[8], batch_norm=True, dropout=0.3, seed=1)
    options = TrainOptions(**{"epochs": 2, "batch_size": 50, "regularization": how, **options})
    return Trainer(net, optimizer or SGD(RATE), Constant(), data, options, DECAY, 0, [Recorder(stop)], checkpoints)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (Regularization(("shift",)), Regularization(("cutout",))),
        (Regularization(mixup=0.4), Regularization()),
        (Regularization(), Regularization(clip_norm=0.5)),
        (Regularization(ema=0.9), Regularization(ema=0.99)),
    ],
)
def test_a_snapshot_of_another_regularization_is_refused(before: Regularization, after: Regularization) -> None:
    with refused("of another training: its regularization is", str(before) or "None", f"not {str(after) or None}"):
        restore(trainer(after), snapshot(trainer(before)))
    restore(trainer(before), snapshot(trainer(before)))


def test_a_snapshot_from_before_there_was_regularization_is_restored() -> None:
    found = snapshot(trainer(Regularization()))
    del found.facts["training"]["regularization"]
    restore(trainer(Regularization()), found)
    with refused("its regularization is None, not mixup=0.4"):
        restore(trainer(Regularization(mixup=0.4)), found)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_steps_match_the_recurrences_written_out(accumulate: int) -> None:
    made = trainer(EVERYTHING, accumulate=accumulate, batch_size=48 // accumulate)
    made.run()
    recorder, net = made.callbacks[0], trainer(EVERYTHING).net
    augment = Augmentation(EVERYTHING.augment, DATA, 0)
    average, step = {name: value.copy() for name, value in net.state_dict().items()}, 0
    norms = []
    for epoch in (1, 2):
        order = epoch_order(129, 0, epoch)[:129]
        for position, start in enumerate(range(0, made.epoch_batches.images, 48)):
            index = order[: made.epoch_batches.images][start : start + 48]
            x = augment(DATA.train.x[index], index, epoch)
            x, t = mixup(x, DATA.train.t[index], 0.4, 10, 0, epoch, position)
            np.testing.assert_array_equal(recorder.batches[step][0], x)
            np.testing.assert_array_equal(recorder.batches[step][1], t)
            grad, size = np.zeros_like(net.params.flat), 48 // accumulate
            for first in range(0, len(t), size):
                part = slice(first, first + size)
                done = net.step(x[part], t[part])
                grad += len(t[part]) / len(t) * done.grads.flat
            norms.append(np.sqrt((grad**2).sum()))
            grad *= min(1, 0.5 / (norms[-1] + 1e-6))
            decay = FlatDict(net.params.shapes(), np.zeros)
            decay.decayed = DECAY * net.params.decayed
            net.params.flat -= RATE * (grad + decay.flat)
            share = min(0.9, (1 + step) / (10 + step))
            average = {name: share * average[name] + (1 - share) * value for name, value in net.state_dict().items()}
            step += 1
    assert made.step == step == len(recorder.steps)
    np.testing.assert_allclose([report.grad_norm for report in recorder.steps], norms, rtol=1e-10)
    assert min(norms) > 0.5  # clipped
    np.testing.assert_allclose(made.net.params.flat, net.params.flat, rtol=1e-10)
    for name, value in made.average.net.state_dict().items():
        np.testing.assert_allclose(value, average[name], rtol=1e-10, atol=1e-14)


def test_a_gradient_below_the_limit_stays() -> None:
    plain, limited = trainer(Regularization()), trainer(Regularization(clip_norm=1e6))
    for made in (plain, limited):
        made.run()
    assert plain.net.params.flat.tobytes() == limited.net.params.flat.tobytes()
    assert all(report.grad_norm > 0 for report in limited.callbacks[0].steps)
    assert all(report.grad_norm is None for report in plain.callbacks[0].steps)


def test_the_norm_of_large_and_of_many_values_is_exact() -> None:
    grads = FlatDict({"W1": (400_000,)}, lambda size: np.full(size, 1e30, np.float32))
    assert clip_norm(grads, 1.0) == pytest.approx(1e30 * 400_000**0.5, rel=1e-7)
    np.testing.assert_allclose(grads.flat, 400_000**-0.5, rtol=1e-6)


def test_a_device_clips_and_averages_its_own_arrays() -> None:
    device, values = FakeBackend(), np.random.default_rng(0).standard_normal(10)
    grads = FlatDict({"W1": (2, 3), "b1": (4,)}, lambda size: device.array(np.zeros(size)))
    grads.flat[...] = device.array(values)
    assert clip_norm(grads, 1.0) == pytest.approx(np.linalg.norm(values))
    np.testing.assert_allclose(device.host(grads.flat), values / (np.linalg.norm(values) + 1e-6))
    net = build("mlp", Device("fake", dtype="float64"), input_shape=(4,), classes=3, hidden=[5])
    average, before = WeightAverage(net, 0.9), device.host(net.params.flat)
    net.params.flat[...] = device.array(np.ones(before.size))
    average.update()
    np.testing.assert_allclose(device.host(average.net.params.flat), 0.1 * before + 0.9)


def test_averaged_weights_are_evaluated_beside_the_others() -> None:
    made = trainer(EVERYTHING)
    result = made.run()
    net: Network = made.average.net
    validation, test = DATA.validation, DATA.test
    last = result.history[-1].metrics
    assert (last["val/loss_ema"], last["val/acc_ema"]) == net.evaluate(validation.x, validation.t)
    assert result.average == net.evaluate(test.x, test.t)
    assert (last["val/loss"], last["val/acc"]) == made.net.evaluate(validation.x, validation.t)
    assert last["val/loss"] != last["val/loss_ema"]
    best = max(result.history, key=lambda report: report.metrics["val/acc"])
    assert result.best_epoch == best.epoch  # not by the averaged weights


def test_a_step_that_is_left_out_does_not_count() -> None:
    x = DATA.train.x.copy()
    x[5] = np.nan
    broken = replace(DATA, train=Split(x, DATA.train.t))
    with np.errstate(all="ignore"):
        made = trainer(replace(EVERYTHING, mixup=0.0), data=broken, on_nan="skip")
        made.run()
        assert made.average.updates == len(made.callbacks[0].steps) == made.step - 2
        assert all(np.isfinite(value).all() for value in made.average.net.state_dict().values())
        with pytest.raises(Diverged, match=r"at step .* the batch's images"):
            trainer(EVERYTHING, data=broken).run()


@pytest.mark.parametrize("optimizer", [SGD, Adam])
def test_a_resumed_training_ends_with_the_same_bits(optimizer, tmp_path: Path) -> None:
    whole = trainer(EVERYTHING, optimizer(0.01))
    expected = whole.run()
    with Checkpoints(tmp_path) as checkpoints:
        for stop in (1, 4, 0):
            made = trainer(EVERYTHING, optimizer(0.01), checkpoints, stop)
            if stop != 1:
                restore(made, checkpoints.newest())
            if stop:
                with pytest.raises(KeyboardInterrupt):
                    made.run()
            else:
                result = made.run()
    for ours, theirs in ((made.net, whole.net), (made.average.net, whole.average.net)):
        state = theirs.state_dict()
        assert all(value.tobytes() == state[name].tobytes() for name, value in ours.state_dict().items())
    assert made.average.updates == whole.average.updates
    assert result.average == expected.average
    assert [epoch.metrics for epoch in result.history] == [epoch.metrics for epoch in expected.history]


@pytest.mark.parametrize("device", [{"compile": False}, {"threads": 2, "workers": "threads"}])
def test_batches_do_not_depend_on_the_workers(device) -> None:
    alone, together = trainer(EVERYTHING, max_steps=4), trainer(EVERYTHING, max_steps=4, device=device)
    for made in (alone, together):
        made.run()
    for ours, theirs in zip(alone.callbacks[0].batches, together.callbacks[0].batches, strict=True):
        assert all(a.tobytes() == b.tobytes() for a, b in zip(ours, theirs, strict=True))
    np.testing.assert_allclose(together.average.net.params.flat, alone.average.net.params.flat, rtol=1e-9)


def test_a_config_is_built() -> None:
    cfg = _compose(["regularization=modern", "data=digits", "regularization.mixup=0.2"])
    config = resolve(cfg)
    net = configured.network(config, DATA, Device(threads=1))
    made = configured.trainer(config, cfg, net, DATA, [])
    assert made.options.regularization == Regularization(("shift",), 0.2, 1.0, 0.999)
    assert net.loss_layer.label_smoothing == 0.1
    cfg = _compose(["regularization.augment=[crop_flip,cutout]"])
    assert configured.regularization(resolve(cfg), DATA).augment == ("crop_flip", "cutout")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("regularization.augment=crop", ["shift", "crop_flip", "cutout", "auto", "null"]),
        ("regularization.augment=[shift,rotate]", ["shift", "crop_flip", "cutout"]),
        ("regularization.ema=1", ["above 0 and below 1"]),
        ("regularization.clip_norm=0", ["above 0", "null"]),
        ("regularization.mixup=-1", ["0 or more"]),
        ("regularization.label_smoothing=1", ["below 1"]),
    ],
)
def test_config_out_of_range_is_refused(override: str, words: list[str]) -> None:
    with refused(override.partition("=")[0], *words):
        resolve(_compose([override]))


@pytest.mark.parametrize("wrong", [{"mixup": -1.0}, {"clip_norm": 0.0}, {"ema": 1.0}, {"augment": "shift"}])
def test_regularization_out_of_range_is_refused(wrong) -> None:
    with pytest.raises(UserError, match=f"Regularization: {next(iter(wrong))}"):
        Regularization(**wrong)


def test_fit_regularizes() -> None:
    made = trainer(Regularization(("shift",), mixup=0.4, clip_norm=0.5))
    made.run()
    net = trainer(Regularization()).net
    options = {"augment": "auto", "mixup": 0.4, "clip_norm": 0.5}
    fit(net, DATA, SGD(RATE), 2, 50, weight_decay=DECAY, progress=False, **options)
    expected = made.best_state
    assert all(value.tobytes() == expected[name].tobytes() for name, value in net.state_dict().items())
