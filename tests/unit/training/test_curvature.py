"""The largest eigenvalue of the Hessian during training, which changes nothing."""

from collections.abc import Sequence

import numpy as np
import pytest

from nl_layers.optimizers import Adam
from nl_layers.schedules import Constant
from nl_models import Curvature, Network, build
from nl_nodes import UserError
from nl_training.data import load
from nl_training.training import curvature
from nl_training.training.callbacks import Callback
from nl_training.training.curvature import Sharpness
from nl_training.training.trainer import Trainer, TrainOptions


class Recorder(Callback):
    def __init__(self) -> None:
        self.found: dict[int, dict] = {}
        self.nets: dict[int, Network] = {}

    def on_batch(self, trainer, step, x, t) -> None:
        self.nets[step] = trainer.net.on(trainer.net.device)

    def on_metrics(self, step, metrics) -> None:
        self.found[step] = dict(metrics)


def train(callbacks: Sequence[Callback], steps: int = 6) -> dict:
    data = load("digits", limit=400)
    net = build("mlp", hidden=(8,), input_shape=data.input_shape, batch_norm=True, dropout=0.3)
    Trainer(net, Adam(0.01), Constant(), data, TrainOptions(2, 64, steps), callbacks=callbacks).run()
    return {"passes": net.passes, **net.state_dict()}


def test_eigenvalue_is_reported_and_training_does_not_change() -> None:
    recorder = Recorder()
    alone, watched = train([]), train([Sharpness(3, seed=7), recorder])
    assert alone.keys() == watched.keys()
    for name, value in alone.items():
        np.testing.assert_array_equal(value, watched[name])
    assert list(recorder.found) == [3, 6]
    split = load("digits", limit=400).train
    some = np.sort(np.random.default_rng(7).permutation(len(split))[: curvature.IMAGES])
    for step, metrics in recorder.found.items():
        matrix = Curvature(recorder.nets[step], split.x[some], split.t[some], curvature.BATCH)
        exact = matrix.eigenvalues(tolerance=1e-8)[0]
        assert metrics.keys() == {"curvature/largest"}
        assert abs(metrics["curvature/largest"] / exact - 1) <= 1e-3


def test_all_images_are_taken_where_there_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder()
    monkeypatch.setattr(curvature, "IMAGES", 10**6)
    train([Sharpness(2), recorder], steps=2)
    split = load("digits", limit=400).train
    matrix = Curvature(recorder.nets[2], split.x, split.t, curvature.BATCH)
    np.testing.assert_allclose(recorder.found[2]["curvature/largest"], matrix.eigenvalues()[0], rtol=1e-10)


def test_a_refusal_does_not_stop_the_training(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(self, **options) -> None:
        raise UserError("eigenvalues needs SciPy")

    monkeypatch.setattr(Curvature, "eigenvalues", refuse)
    recorder = Recorder()
    train([Sharpness(5), recorder])
    assert recorder.found == {}
    assert "step 5: no curvature: eigenvalues needs SciPy" in caplog.text
