"""Exact values at kinks and extreme inputs, in a batch of one and on images of one pixel."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nl_layers import (
    Affine,
    Convolution,
    CrossEntropy,
    Layer,
    Loss,
    Pooling,
    Relu,
    Sigmoid,
    SigmoidWithLoss,
    Softmax,
    SoftmaxWithLoss,
    Tanh,
)

E = 1e-7
# Layer or loss, x, labels, output, and dx for an upstream gradient of ones.
EXTREMES = {
    "sigmoid": (Sigmoid, [[1e4, -1e4, 0]], None, [[1, 0, 0.5]], [[0, 0, 0.25]]),
    "tanh": (Tanh, [[1e4, -1e4, 0]], None, [[1, -1, 0]], [[0, 0, 1]]),
    "softmax": (Softmax, [[1e4, -1e4, 1e4]], None, [[0.5, 0, 0.5]], [[0, 0, 0]]),
    "softmax, all low": (Softmax, [[-1e4, -1e4]], None, [[0.5, 0.5]], [[0, 0]]),
    "sure and right": (SoftmaxWithLoss, [[1e4, -1e4, 0]], [0], 0, [[0, 0, 0]]),
    "sure and wrong": (SoftmaxWithLoss, [[1e4, -1e4, 0]], [1], 2e4, [[1, -1, 0]]),
    "exact, right": (lambda: SoftmaxWithLoss("exact"), [[1e4, -1e4]], [0], -np.log(1 + E), [[0, 0]]),
    "exact, wrong": (lambda: SoftmaxWithLoss("exact"), [[1e4, -1e4]], [1], -np.log(E), [[0, 0]]),
    "textbook, right": (lambda: SoftmaxWithLoss("textbook"), [[1e4, -1e4]], [0], -np.log(1 + E), [[0, 0]]),
    "textbook, wrong": (lambda: SoftmaxWithLoss("textbook"), [[1e4, -1e4]], [1], -np.log(E), [[1, -1]]),
    "binary, right": (SigmoidWithLoss, [1e4, -1e4], [1, 0], 0, [0, 0]),
    "binary, wrong": (SigmoidWithLoss, [1e4, -1e4], [0, 1], 1e4, [0.5, -0.5]),
    "binary, rows": (SigmoidWithLoss, [[1e4, -1e4, 0]], [[0, 0, 1]], 1e4 + np.log(2), [[1, 0, -0.5]]),
    "p = 0": (CrossEntropy, [[0, 1]], [0], -np.log(E), [[-1 / E, 0]]),
    "p = 1": (CrossEntropy, [[0, 1]], [1], -np.log(1 + E), [[0, -1 / (1 + E)]]),
    "p near 0": (CrossEntropy, [[1e-30, 1]], [0], -np.log(E), [[-1 / E, 0]]),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", EXTREMES)
def test_extreme_inputs_give_exact_limits(name: str, dtype: str) -> None:
    make, x, t, y, dx = EXTREMES[name]
    layer = make()
    got = layer.forward(np.array(x, dtype), *([] if t is None else [np.array(t)]))
    close = {"rtol": 1e-6, "atol": 2e-7} if dtype == "float32" else {"rtol": 1e-14, "atol": 2e-16}
    assert got.dtype == dtype
    np.testing.assert_allclose(got, y, **close)
    np.testing.assert_allclose(layer.backward(np.ones_like(got)), dx, **close)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "make",
    [
        Relu,
        Sigmoid,
        Tanh,
        Softmax,
        SoftmaxWithLoss,
        lambda: SoftmaxWithLoss("exact"),
        lambda: SoftmaxWithLoss("textbook"),
        SigmoidWithLoss,
        CrossEntropy,
    ],
)
@given(data=st.data())
def test_finite_inputs_give_finite_outputs_and_gradients(make, dtype: str, data: st.DataObject) -> None:
    layer: Layer | Loss = make()
    largest = 1 if isinstance(layer, CrossEntropy) else 1e4
    numbers = st.floats(0 if largest == 1 else -largest, largest, width=32)
    n, k = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 4))
    x = np.array(data.draw(st.lists(numbers, min_size=n * k, max_size=n * k)), dtype).reshape(n, k)
    t = [np.array(data.draw(st.lists(st.integers(0, k - 1), min_size=n, max_size=n)))] if len(layer.feeds) > 1 else []
    with np.errstate(all="raise", under="ignore"):
        y = layer.forward(x, *t)
        dx = layer.backward(np.ones_like(y))
    assert y.dtype == dx.dtype == dtype
    assert np.isfinite(y).all()
    assert np.isfinite(dx).all()


def test_relu_gradient_at_zero_is_zero() -> None:
    layer = Relu()
    assert layer.forward(np.zeros((2, 3))).tolist() == [[0] * 3] * 2
    assert layer.backward(np.full((2, 3), 7.0)).tolist() == [[0] * 3] * 2


@pytest.mark.parametrize("depth", [-1e-3, -5.0, -1e30])
def test_max_pooling_ignores_padding_for_negative_images(depth: float) -> None:
    layer = Pooling(3, 3, stride=2, pad=1)
    x = np.array([[[[1, 2, 3], [4, 5, 6], [7, 8, 9]]]]) * depth
    assert layer.forward(x).tolist() == (depth * np.array([[[[1, 2], [4, 5]]]])).tolist()
    dx = layer.backward(np.array([[[[1.0, 2], [3, 4]]]]))
    assert dx.tolist() == [[[[1, 2, 0], [3, 4, 0], [0, 0, 0]]]]


def test_pooling_of_one_pixel_with_padding() -> None:
    layer = Pooling(3, 3, stride=1, pad=1)
    assert layer.forward(np.full((1, 2, 1, 1), -4.0)).tolist() == [[[[-4]], [[-4]]]]
    assert layer.backward(np.array([[[[2.0]], [[3.0]]]])).tolist() == [[[[2]], [[3]]]]


@pytest.mark.parametrize(("size", "pad"), [(1, 0), (3, 1), (5, 2)])
def test_convolution_of_one_image_of_one_pixel(size: int, pad: int) -> None:
    weight = np.random.default_rng(0).standard_normal((2, 3, size, size))
    layer = Convolution(weight, np.array([0.5, -0.5]), pad=pad)
    x, dy = np.array([[[[1.0]], [[2.0]], [[-3.0]]]]), np.array([[[[2.0]], [[-1.0]]]])
    middle = weight[:, :, pad, pad]
    np.testing.assert_allclose(layer.forward(x)[0, :, 0, 0], middle @ [1, 2, -3] + [0.5, -0.5], rtol=1e-14)
    np.testing.assert_allclose(layer.backward(dy)[0, :, 0, 0], [2, -1] @ middle, rtol=1e-14)
    expected = np.zeros_like(weight)
    expected[:, :, pad, pad] = np.outer([2, -1], [1, 2, -3])
    assert layer.grads["weight"].tolist() == expected.tolist()
    assert layer.grads["bias"].tolist() == [2, -1]


def test_affine_of_one_sample_with_one_feature() -> None:
    layer = Affine(np.array([[3.0]]), np.array([1.0]))
    assert layer.forward(np.array([[2.0]])).tolist() == [[7]]
    assert layer.backward(np.array([[5.0]])).tolist() == [[15]]
    assert {name: grad.tolist() for name, grad in layer.grads.items()} == {"weight": [[10]], "bias": [5]}


@pytest.mark.parametrize("loss", [SoftmaxWithLoss(), SoftmaxWithLoss("textbook")])
def test_loss_of_one_sample_of_one_class_has_zero_gradient(loss: Loss) -> None:
    np.testing.assert_allclose(loss.forward(np.array([[3.0]]), np.array([0])), 0, atol=2e-7)
    assert loss.backward().tolist() == [[0]]
