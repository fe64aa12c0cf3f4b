"""Label smoothing: the formula, in training only; part of a network's spec."""

import numpy as np
import pytest
from support.assertions import refused

from nl_layers import SigmoidWithLoss, SoftmaxWithLoss
from nl_models import MODELS, DenseSpec, Network, Sequential, build
from nl_nodes import Device

RNG = np.random.default_rng(4)
X, T = RNG.standard_normal((5, 4)), np.array([0, 2, 1, 1, 0])
SOFT = RNG.dirichlet(np.ones(3), 5)


def network(smoothing: float, **device) -> Network:
    device = Device(dtype="float64", **device)
    return build("mlp", device, smoothing, input_shape=(4,), classes=3, hidden=[5], seed=1)


@pytest.mark.parametrize("t", [T, SOFT], ids=["class indices", "rows"])
@pytest.mark.parametrize("device", [{"compile": False}, {"threads": 1}, {"threads": 2, "workers": "threads"}])
def test_labels_are_smoothed_in_training_only(device, t: np.ndarray) -> None:
    net, rows = network(0.3, **device), t if t.ndim == 2 else np.eye(3)[t]
    logits = net.predict(X)
    logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    smoothed = rows * 0.7 + 0.1
    assert net.step(X, t).loss == pytest.approx(-(smoothed * logs).sum(1).mean(), rel=1e-12)
    np.testing.assert_allclose(net.gradient(X, t)["b2"], (np.exp(logs) - smoothed).mean(0), rtol=1e-10)
    assert net.loss(X, t) == pytest.approx(-(rows * logs).sum(1).mean(), rel=1e-12)


def test_large_logits_give_a_finite_loss() -> None:
    loss = SoftmaxWithLoss(label_smoothing=0.3)
    assert loss.forward(np.array([[1e4, 0.0, 0.0]]), np.array([0])) == pytest.approx(0.2 * 1e4)
    np.testing.assert_allclose(loss.backward(), [[0.2, -0.1, -0.1]], atol=1e-15)


def test_the_spec_builds_the_same_network_again() -> None:
    net = network(0.3)
    again = build(**net.spec)
    assert again.loss_layer.label_smoothing == net.loss_layer.label_smoothing == 0.3
    assert "label_smoothing" not in network(0.0).spec  # as in checkpoints of before


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, np.nan])
def test_smoothing_out_of_range_is_refused(smoothing: float) -> None:
    for make in (network, lambda e: SoftmaxWithLoss(label_smoothing=e)):
        with refused("label_smoothing", "below 1"):
            make(smoothing)


def test_smoothing_of_another_loss_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def binary(device=None) -> Network:
        return Sequential([DenseSpec(1)], (4,), SigmoidWithLoss(), device=device)

    monkeypatch.setitem(MODELS, "binary", binary)
    with refused("binary", "SoftmaxWithLoss", "SigmoidWithLoss"):
        build("binary", label_smoothing=0.1)
