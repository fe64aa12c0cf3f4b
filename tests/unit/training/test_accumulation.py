"""Steps of several batches: like one large batch, except that batch norm sees each small one; bit-exact on resume."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.trainings import certificate_of

from nl_layers.optimizers import SGD, Adam
from nl_layers.schedules import Constant
from nl_models import build
from nl_nodes import Device
from nl_training.data import EpochBatches, Split, load
from nl_training.training.callbacks import Callback
from nl_training.training.checkpoint import Checkpoints
from nl_training.training.snapshot import restore
from nl_training.training.steps import AccumulatedSteps, Batch
from nl_training.training.trainer import Trainer, TrainOptions
from nl_training.verification import Training

DATA = load("digits", limit=143)
assert len(DATA.train) == 129


class Recorder(Callback):
    def __init__(self, stop: int = 0) -> None:
        self.steps, self.stop = [], stop

    def on_step(self, report) -> None:
        self.steps.append(report)

    def stop_request(self):
        return KeyboardInterrupt() if self.stop and self.steps and self.steps[-1].step == self.stop else None


def trainer(device, batch_size: int, accumulate: int, checkpoints=None, stop=0, data=DATA, **options) -> Trainer:
    net = build("mlp", input_shape=DATA.input_shape, hidden=[8], device=device, **options.pop("network", {}))
    options = TrainOptions(epochs=2, batch_size=batch_size, accumulate=accumulate, **options)
    return Trainer(net, Adam(0.01), Constant(), data, options, 1e-2, 0, [Recorder(stop)], checkpoints)


@pytest.mark.parametrize(
    "device",
    [{"compile": False}, {"threads": 1}, {"threads": 2, "workers": "processes"}],
    ids=["reference", "compiled", "processes"],
)
def test_accumulated_steps_equal_steps_of_large_batches(device) -> None:
    large, small = (trainer(Device(dtype="float64", **device), *sizes) for sizes in ((60, 1), (20, 3)))
    results = [made.run() for made in (large, small)]
    assert large.step == small.step == 2 * 3  # of 60, 60 and 9 images
    np.testing.assert_allclose(small.net.params.flat, large.net.params.flat, rtol=1e-9, atol=1e-12)
    for a, b in zip(large.callbacks[0].steps, small.callbacks[0].steps, strict=True):
        assert (a.step, a.images, a.lr, a.accuracy) == (b.step, b.images, b.lr, pytest.approx(b.accuracy))
        assert a.loss == pytest.approx(b.loss, rel=1e-9)
    assert results[0].test_accuracy == results[1].test_accuracy


def test_batch_norm_sees_each_small_batch() -> None:
    net, alone = (
        build("mlp", input_shape=(1, 2, 2), hidden=[3], batch_norm=True, device=Device(threads=1)) for _ in range(2)
    )
    rng = np.random.default_rng(0)
    x, t = rng.standard_normal((7, 1, 2, 2), dtype=np.float32), rng.integers(0, 10, 7)
    steps = AccumulatedSteps(net, SGD(1.0), 0.0, 3)
    before = net.params.flat.copy()
    steps.enqueue(Batch(x[:6], t[:6], 1.0))
    (taken,) = steps.results()
    grads = []
    for span in (slice(0, 3), slice(3, 6)):
        grads.append(alone.step(x[span], t[span]).grads.flat.copy())
    np.testing.assert_allclose(before - net.params.flat, (grads[0] + grads[1]) / 2, rtol=1e-5, atol=1e-6)
    found, expected = net.state_dict(), alone.state_dict()
    statistics = found.keys() - net.params.keys()
    assert statistics
    assert all(found[name].tobytes() == expected[name].tobytes() for name in statistics)
    assert len(taken.batch.t) == 6


def test_a_small_batch_that_is_not_finite_leaves_the_whole_step_out() -> None:
    x = DATA.train.x.copy()
    x[5] = np.nan
    broken = replace(DATA, train=Split(x, DATA.train.t))
    with np.errstate(all="ignore"):
        made = trainer(Device(threads=1), 20, 3, data=broken, on_nan="skip", network={"batch_norm": True})
        made.run()
    assert [report.epoch for report in made.callbacks[0].steps] == [1, 1, 2, 2]
    assert made.step == 6
    net, order = trainer(Device(threads=1), 20, 3, network={"batch_norm": True}).net, np.arange(60)
    statistics = {name: value for name, value in net.state_dict().items() if name not in net.params}
    steps = AccumulatedSteps(net, SGD(1.0), 0.0, 3)
    x, t = DATA.train.x[order], DATA.train.t[order]
    x[5] = np.nan
    steps.enqueue(Batch(x[:6], t[:6], 1.0))
    with np.errstate(all="ignore"):
        (taken,) = steps.results()
    assert taken.hits is None
    np.testing.assert_array_equal(taken.batch.t, t[3:6])  # named by an error
    after = net.state_dict()
    assert all(after[name].tobytes() == value.tobytes() for name, value in statistics.items())


def test_a_resumed_training_ends_like_an_uninterrupted_one(tmp_path: Path) -> None:
    options = {"network": {"batch_norm": True, "dropout": 0.3}}
    whole = trainer(Device(threads=1), 16, 3, **options)
    whole.run()
    with Checkpoints(tmp_path) as checkpoints:
        for stop in (1, 4, 0):
            made = trainer(Device(threads=1), 16, 3, checkpoints, stop, **options)
            if stop != 1:
                restore(made, checkpoints.newest())
            if stop:
                with pytest.raises(KeyboardInterrupt):
                    made.run()
            else:
                made.run()
    expected = whole.net.state_dict()
    assert all(value.tobytes() == expected[name].tobytes() for name, value in made.net.state_dict().items())


def test_a_single_last_image_is_left_out_of_steps_too() -> None:
    net = build("mlp", input_shape=DATA.input_shape, hidden=[8], batch_norm=True, device=Device(threads=1))
    found = EpochBatches.of(net, len(DATA.train), 16, 3)
    assert (found.images, found.step_size, found.count, found.sizes) == (128, 48, 3, {16})


def how(accumulate: int) -> Training:
    split = Split(DATA.train.x[:9], DATA.train.t[:9])
    return Training(split, frozenset({4}), frozenset({6}), 3.5, Adam(0.01), Constant(), 1e-3, accumulate)


@pytest.mark.parametrize("network", [{}, {"batch_norm": True, "dropout": 0.3}], ids=["plain", "batch norm"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_certificates_cover_accumulated_steps(dtype: str, network) -> None:
    device = Device(dtype=dtype, threads=1)
    net = build("mlp", input_shape=DATA.input_shape, hidden=[5], device=device, **network)
    certificate = certificate_of(net, how(accumulate=4))
    assert certificate.status == "verified"
    assert sum("4 batches per step" in link.name for link in certificate.links) == 2  # step and trainer


@pytest.mark.parametrize("wrong", ["sum", "equal shares", "last alone"])
def test_certificates_refuse_wrong_averages(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = AccumulatedSteps._pass

    def change(self, batch):
        whole, loss, hits, grads = right(self, batch)
        starts = range(0, len(batch.t), self.size)
        if wrong == "sum":
            grads.flat[...] *= len(starts)
        elif wrong == "equal shares":
            last = self.net.step(batch.x[starts[-1] :], batch.t[starts[-1] :]).grads.flat
            grads.flat[...] += (1 / len(starts) - (len(batch.t) - starts[-1]) / len(batch.t)) * last
        else:
            grads.flat[...] = self.net.step(batch.x[starts[-1] :], batch.t[starts[-1] :]).grads.flat
        return whole, loss, hits, grads

    net = build("mlp", input_shape=DATA.input_shape, hidden=[5], device=Device(threads=1))
    monkeypatch.setattr(AccumulatedSteps, "_pass", change)
    certificate = certificate_of(net, how(accumulate=2))
    assert "step" in {link.kind for link in certificate.links if not link.holds}
