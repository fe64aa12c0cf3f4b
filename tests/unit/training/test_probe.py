"""The probe: a check of gradients during training, which changes nothing."""

import numpy as np
import pytest

from nl_layers.optimizers import Adam
from nl_layers.schedules import Constant
from nl_models import build
from nl_nodes import Device, Dot
from nl_nodes.compiler.fused import Affine as FusedAffine
from nl_training.data import load
from nl_training.training.callbacks import Callback
from nl_training.training.trainer import Trainer, TrainOptions
from nl_training.verification import twins
from nl_training.verification.probe import Probe


class Recorder(Callback):
    def __init__(self):
        self.found = {}

    def on_metrics(self, step, metrics):
        self.found[step] = metrics


def train(*callbacks: Callback, **options) -> dict:
    data = load("digits")
    model = build("mlp", **{"hidden": (8, 8), "input_shape": data.input_shape, **options})
    Trainer(model, Adam(0.01), Constant(), data, TrainOptions(1, 64, 10), callbacks=callbacks).run()
    return {"passes": model.passes, **model.state_dict()}


REGULARIZED = {"batch_norm": True, "dropout": 0.3}
REFERENCE, THREADS = {"compile": False}, {"threads": 2, "workers": "threads"}


@pytest.mark.parametrize("device", [{}, REFERENCE, THREADS], ids=["default", "reference", "threads"])
def test_probe_accepts_a_correct_gradient_and_changes_nothing(device: dict) -> None:
    recorder = Recorder()
    alone = train(device=Device(**device), **REGULARIZED)
    probed = train(Probe(1), recorder, device=Device(**device), **REGULARIZED)
    assert alone.keys() == probed.keys()
    for name, value in alone.items():
        np.testing.assert_array_equal(value, probed[name])
    assert list(recorder.found) == list(range(1, 11))
    residuals = [metrics["verify/residual"] for metrics in recorder.found.values()]
    assert 0 < max(residuals) < 1e-12


@pytest.mark.parametrize(("node", "device"), [(Dot, REFERENCE), (FusedAffine, {})], ids=["reference", "fused"])
def test_probe_finds_an_error_in_the_compiled_network(
    node: type, device: dict, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    right = node.backward
    wrong = lambda s, k, dy: tuple(dx if dx is None else dx * 1.001 for dx in right(s, k, dy))  # noqa: E731
    monkeypatch.setattr(node, "backward", wrong)
    recorder = Recorder()
    train(Probe(5), recorder, device=Device(**device), **REGULARIZED)
    assert list(recorder.found) == [5, 10]
    assert all(metrics["verify/residual"] > 1e-6 for metrics in recorder.found.values())
    assert "step 5" in caplog.text


def test_probe_stays_within_its_memory_limit(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    net = build("mlp", input_shape=(1, 8, 8), hidden=(8, 8), classes=3)
    monkeypatch.setattr(twins, "MEMORY", 10 * twins.memory_of(net, 1))
    sliced, whole = Recorder(), Recorder()
    train(Probe(3), sliced)
    assert 0 < max(metrics["verify/residual"] for metrics in sliced.found.values()) < 1e-12
    assert not caplog.records
    train(Probe(3), whole, **REGULARIZED)
    assert whole.found == {}
    (record,) = caplog.records
    assert record.getMessage().startswith("step 3: the gradient is not checked: 64 images at once need")
