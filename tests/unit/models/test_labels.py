"""Labels of networks: of any dtype, as rows, soft, and invalid; compiled and by the reference."""

import numpy as np
import pytest
from support.assertions import refused

from nl_layers import Affine, CrossEntropy, Loss, Relu, SigmoidWithLoss, Softmax, SoftmaxWithLoss
from nl_models import Network, build, mlp
from nl_nodes import Device

RNG = np.random.default_rng(0)
X, T = RNG.standard_normal((5, 4)), np.array([0, 2, 1, 1, 0])
SOFT = RNG.dirichlet(np.ones(3), 5)


def network(loss: Loss | None = None, **device) -> Network:
    rng = np.random.default_rng(1)
    layers = [
        Affine(rng.standard_normal((4, 6)), np.zeros(6)),
        Relu(),
        Affine(rng.standard_normal((6, 3)), np.zeros(3)),
    ]
    if isinstance(loss, CrossEntropy):
        layers.append(Softmax())
    spec = {"name": "net", "input_shape": (4,), "classes": 3}
    return Network(
        [(layer, n // 2 + 1) for n, layer in enumerate(layers)], spec, Device(dtype="float64", **device), loss
    )


def results(net: Network, t) -> dict[str, np.ndarray]:
    net.passes = 0
    done = net.step(X, t)
    loss, accuracy = net.evaluate(X, t)
    return {"step": done.loss, "loss": loss, "accuracy": accuracy, **{k: g.copy() for k, g in done.grads.items()}}


@pytest.mark.parametrize("compile", [True, False])
def test_one_network_takes_labels_of_every_dtype(compile: bool) -> None:
    net = network(compile=compile, threads=1)
    expected = results(net, T)
    for t in (
        T.astype("uint8"),
        T.astype("float32"),
        T.astype("int16"),
        T.tolist(),
        np.eye(3)[T],
        np.eye(3, dtype=int)[T],
    ):
        for name, value in results(net, t).items():
            np.testing.assert_allclose(value, expected[name], rtol=1e-14, atol=1e-15)


def test_labels_reach_a_pass_as_integers_or_in_the_networks_dtype() -> None:
    net = mlp(input_shape=(4,), classes=3, hidden=[5], device=Device(threads=1))
    rows = np.eye(3)[T]
    assert (net._labels(T.astype("uint8"), len(T)).dtype, net._labels(rows, len(T)).dtype) == ("int64", "float32")
    shapes = [net.plan(True, 5, rows=given).graph.leaves["t"].shape for given in (False, True)]
    assert shapes == [(5,), (5, 3)]


@pytest.mark.parametrize("loss", [SoftmaxWithLoss, lambda: SoftmaxWithLoss("exact"), CrossEntropy, SigmoidWithLoss])
def test_soft_labels_compiled_match_the_reference(loss) -> None:
    reference = results(network(loss(), compile=False), SOFT)
    for device in ({"threads": 1}, {"threads": 2, "workers": "threads"}):
        for name, value in results(network(loss(), **device), SOFT).items():
            np.testing.assert_allclose(value, reference[name], rtol=1e-12, atol=1e-14)


def test_soft_labels_are_used_as_they_are() -> None:
    net = network(threads=1)
    logits = net.predict(X)
    logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    value = -(SOFT * logs).sum(1).mean()
    assert net.loss(X, SOFT) == pytest.approx(value, rel=1e-12)
    assert net.step(X, SOFT).loss == pytest.approx(value, rel=1e-12)
    np.testing.assert_allclose(net.gradient(X, SOFT)["b2"], (np.exp(logs) - SOFT).mean(0), rtol=1e-10)
    assert net.accuracy(X, SOFT) == (logits.argmax(1) == SOFT.argmax(1)).mean()
    assert net.count_correct(logits, SOFT) == (logits.argmax(1) == SOFT.argmax(1)).sum()


def test_label_forms_may_alternate() -> None:
    net = build("cnn3", width=4, device=Device(threads=1))
    x = RNG.standard_normal((3, 1, 28, 28))
    rows = RNG.dirichlet(np.ones(10), 3)
    for t in ([1, 2, 3], rows, np.eye(10)[[1, 2, 3]], [1, 2, 3]):
        exact = build("cnn3", width=4, device=Device(compile=False)).step(x, t)
        np.testing.assert_allclose(net.step(x, t).loss, exact.loss, rtol=1e-5)


@pytest.mark.parametrize("compile", [True, False])
def test_one_logit_distinguishes_two_classes(compile: bool) -> None:
    layer, spec = Affine(RNG.standard_normal((4, 1))), {"name": "net", "input_shape": (4,), "classes": 1}
    net = Network([(layer, 1)], spec, Device(dtype="float64", compile=compile, threads=1), SigmoidWithLoss())
    t = np.array([0, 1, 1, 0, 1])
    logits = net.predict(X)[:, 0]
    assert net.step(X, t).loss == pytest.approx(np.mean(np.log1p(np.exp(logits)) - t * logits), rel=1e-12)
    assert net.step(X, t[:, None]).loss == net.loss(X, t)
    assert net.accuracy(X, t) == np.mean((logits > 0) == t)
    with refused("net", "0 to 1", "got 2"):
        net.step(X, t + 1)


@pytest.mark.parametrize("compile", [True, False])
def test_bad_labels_are_refused_and_the_pass_does_not_count(compile: bool) -> None:
    net = mlp(input_shape=(4,), classes=3, hidden=[5], device=Device(compile=compile, threads=1))
    for bad, named in (
        ([0, 1, 2, 3, 0], "got 3"),
        (T - 1, "got -1"),
        (T + 0.5, "got 0.5"),
        (T > 0, "got False"),
        (T.astype(str), "got '0'"),
        (T * 1j, "complex"),
        (np.where(T, T, np.nan), "got nan"),
    ):
        for call in (net.step, net.gradient, net.loss, net.accuracy, net.evaluate):
            with refused("mlp", "0 to 2", named):
                call(X, bad)
    for bad, named in ((-SOFT, "got -"), (SOFT * np.nan, "got nan"), (SOFT.astype(complex), "complex")):
        with refused("mlp", "0 or more", named):
            net.step(X, bad)
    assert net.passes == 0


def test_target_of_one_half_counts_as_logit_not_above_zero() -> None:
    spec = {"name": "one", "input_shape": (4,), "classes": 1}
    net = Network([(Affine(np.ones((4, 1)), np.zeros(1)), 1)], spec, Device(), SigmoidWithLoss())
    assert net.count_correct(np.array([[1.0], [-1.0]]), np.array([[0.5], [0.5]])) == 1
    assert net.count_correct(np.array([[1.0], [-1.0], [-2.0]]), np.array([[0.5], [0.5], [0.5]])) == 2
