"""Accepted labels of losses, and error messages for invalid ones."""

import numpy as np
import pytest
from support.assertions import refused
from support.fake_device import FakeArray, FakeBackend, install

from nl_layers import CrossEntropy, SigmoidWithLoss, SoftmaxWithLoss
from nl_layers.labels import checked_labels

install()
FAKE = FakeBackend()
X = np.random.default_rng(0).uniform(0.1, 0.9, (3, 4))
T = np.array([2, 0, 3])
LOSSES = [SoftmaxWithLoss, lambda: SoftmaxWithLoss("exact"), lambda: SoftmaxWithLoss("textbook")]
LOSSES += [CrossEntropy, SigmoidWithLoss]
BAD = {
    "above": ([0, 1, 4], "0 to 3", "got 4"),
    "far above": (np.array([0, 1, 2**63], "uint64"), "0 to 3", "got 9223372036854775808"),
    "below": (np.array([0, -1, 4], "int8"), "0 to 3", "got -1"),
    "a half": ([0, 1.5, 2], "0 to 3", "got 1.5"),
    "NaN": ([0, np.nan, 2], "0 to 3", "got nan"),
    "infinite": ([0, np.inf, 2], "0 to 3", "got inf"),
    "booleans": ([True, False, True], "0 to 3", "got True"),
    "strings": (["0", "1", "2"], "0 to 3", "got '0'"),
    "complex": ([0, 1j, 2], "0 to 3", "complex"),
    "nothing": ([None, 1, 2], "0 to 3", "got None"),
    "ragged": ([[1], [1, 2], [3]], "different lengths"),
    "too few": ([0, 1], "(3,)", "(3, 4)", "(2,)"),
    "rows too wide": (np.eye(5)[T], "(3,)", "(3, 4)", "(3, 5)"),
    "rows too narrow": (np.ones((3, 3)), "(3,)", "(3, 4)", "(3, 3)"),
    "a column": ([[0], [1], [2]], "(3,)", "(3, 4)", "(3, 1)"),
    "a negative share": (np.full((3, 4), -0.25), "0", "got -0.25"),
    "a share that is NaN": (np.full((3, 4), np.nan), "0", "got nan"),
    "an infinite share": (np.full((3, 4), np.inf), "0", "got inf"),
    "complex shares": (np.full((3, 4), 1j), "0", "got 1j"),
}


@pytest.mark.parametrize("what", BAD)
@pytest.mark.parametrize("make", LOSSES)
def test_bad_labels_are_refused(make, what: str) -> None:
    t, *named = BAD[what]
    with refused(type(make()).__name__, *named):
        make().forward(X, t)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint64", "float16", "float32", "float64"])
@pytest.mark.parametrize("make", LOSSES)
def test_classes_of_any_dtype_are_one_hot_rows(make, dtype: str) -> None:
    loss = make()
    results = []
    for t in (T, T.astype(dtype), np.eye(4)[T].astype(dtype), T.tolist()):
        results.append([loss.forward(X, t), *loss.backward().ravel()])
    assert all(result == results[0] for result in results)


@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_soft_rows_are_used_as_they_are(scale: float) -> None:
    rows = np.random.default_rng(1).dirichlet(np.ones(4), 3) * scale
    p = np.exp(X) / np.exp(X).sum(1, keepdims=True)
    for loss, value, gradient in (
        (SoftmaxWithLoss(), -(rows * np.log(p)).sum(1).mean(), (p * rows.sum(1, keepdims=True) - rows) / 3),
        (CrossEntropy(eta=0.0), -(rows * np.log(X)).sum(1).mean(), -rows / X / 3),
        (SigmoidWithLoss(), (np.log1p(np.exp(X)) - rows * X).sum(1).mean(), (1 / (1 + np.exp(-X)) - rows) / 3),
    ):
        assert loss.forward(X, rows) == pytest.approx(value, rel=1e-12)
        np.testing.assert_allclose(loss.backward(), gradient, rtol=1e-12)


def test_sigmoid_loss_refuses_rows_of_weights() -> None:
    rows = np.full((3, 4), 2.0)
    assert SoftmaxWithLoss().forward(X, rows) == pytest.approx(2 * SoftmaxWithLoss().forward(X, rows / 2))
    with refused("SigmoidWithLoss", "0 to 1", "got 2.0"):
        SigmoidWithLoss().forward(X, rows)
    with refused("SoftmaxWithLoss", "0 or more", "got -2.0"):
        SoftmaxWithLoss().forward(X, -rows)


@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_labels_for_one_logit_are_targets(shape) -> None:
    loss, x = SigmoidWithLoss(), X[:, 0].reshape(shape)
    for t in ([1, 0, 1], [0.3, 0.5, 1.0]):
        expected = np.mean(np.log1p(np.exp(X[:, 0])) - np.array(t) * X[:, 0])
        assert loss.forward(x, t) == pytest.approx(expected, rel=1e-12)
    for t, named in (([1, 0, 2], "got 2"), ([1, -0.1, 0], "got -0.1"), ([True, False, True], "got True")):
        with refused("0 to 1", named):
            loss.forward(x, t)
    for t in (np.ones(2), np.ones(4), np.ones((3, 2))):
        with refused("(3,)", str(t.shape)):
            loss.forward(x, t)


def test_labels_without_classes_are_refused() -> None:
    with refused("0 to -1", "got 0"):
        checked_labels("net", [0, 0, 0], (3, 0))


def test_more_classes_than_the_label_dtype_can_hold() -> None:
    for dtype in ("uint8", "int8", "float16"):
        assert checked_labels("net", np.array([0, 100], dtype), (2, 70_000)).tolist() == [0, 100]


def test_labels_on_device_are_checked_on_the_device() -> None:
    labels = checked_labels("net", FAKE.array(T.astype("float32")), (3, 4))
    assert isinstance(labels, FakeArray)
    assert labels.dtype == "int64"
    with refused("0 to 3", "got 1.5"):
        checked_labels("net", FAKE.array([0, 1.5, 2]), (3, 4))
    with refused("0 to 3", "got 9"):
        SoftmaxWithLoss().forward(FAKE.array(X), FAKE.array([0, 9, 2]))
