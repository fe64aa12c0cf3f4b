"""Layers and losses on infinite, NaN and extreme values: recorded values of PyTorch 2.13, reference and compiled.

tests/peers/test_not_finite_torch.py compares the recorded values with PyTorch.
"""

import warnings
from math import inf

import numpy as np
import pytest
from support.not_finite import close, compiled
from support.not_finite_layers import LAYER_POINTS, LayerPoint

from nl_layers import BatchNormalization, CrossEntropy, Dropout, Pooling, SigmoidWithLoss, SoftmaxWithLoss


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", LAYER_POINTS)
def test_layer_gives_recorded_pytorch_values(name: str, dtype: str) -> None:
    point = LAYER_POINTS[name]
    with warnings.catch_warnings():
        # NumPy warns only where PyTorch gives NaN.
        warnings.simplefilter("ignore" if np.isnan(point.y).any() or np.isnan(point.dx).any() else "error")
        layer = point.make()
        y = layer.forward(*point.arguments(dtype))
        close(y, point.y, dtype)
        close(layer.backward(point.upstream(dtype)), point.dx, dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", LAYER_POINTS)
def test_compiled_layer_gives_recorded_pytorch_values(name: str, dtype: str) -> None:
    point: LayerPoint = LAYER_POINTS[name]
    arrays = point.arguments(dtype)
    layer = point.make()
    feeds = dict(zip(layer.feeds, arrays, strict=True))
    close(compiled(layer.graph(tuple(a.shape for a in arrays)), feeds), point.y, dtype)


@pytest.mark.parametrize("value", [-inf, np.nan, inf])
@pytest.mark.parametrize(("size", "stride", "pad"), [(2, 2, 1), (3, 2, 1), (3, 1, 2), (2, 1, 0)])
def test_pooling_passes_on_the_whole_gradient(value: float, size: int, stride: int, pad: int) -> None:
    layer = Pooling(size, size, stride, pad)
    y = layer.forward(np.full((2, 1, 4, 3), value))
    np.testing.assert_array_equal(y, np.full_like(y, value))
    dx = layer.backward(np.ones_like(y))
    assert dx.sum() == y.size


@pytest.mark.parametrize(("x", "t", "y", "dx"), [(inf, 1, 0, 0), (inf, 0, inf, 1), (-inf, 1, inf, -1), (-inf, 0, 0, 0)])
def test_binary_loss_of_an_infinite_logit_is_the_limit(x: float, t: int, y: float, dx: float) -> None:
    """PyTorch has the same gradients, but its loss is NaN: 0 times infinity."""
    loss = SigmoidWithLoss()
    assert loss.forward(np.array([x]), np.array([t])) == y
    assert loss.backward().tolist() == [dx]


def test_one_hot_row_equals_label_if_another_logit_is_masked() -> None:
    x, loss = np.array([[-inf, 0, 1]]), SoftmaxWithLoss()
    assert loss.forward(x, np.array([[0, 1, 0]])) == loss.forward(x, np.array([1])) == pytest.approx(1.3132616875182228)


def test_zero_probability_of_other_classes_costs_nothing_without_eta() -> None:
    loss = CrossEntropy(eta=0)
    with np.errstate(divide="ignore"):
        assert loss.forward(np.array([[0.0, 0.25, 0.75]]), np.array([1])) == np.log(4)


def test_infinity_affects_only_its_channel_in_batch_norm() -> None:
    layer = BatchNormalization(np.ones(2), np.zeros(2))
    x, dy = np.array([[inf, 1], [1, 2], [3, 5]]), np.array([[1.0, 2], [3, 4], [7, 1]])
    with np.errstate(invalid="ignore"):
        y = layer.forward(x)
        plan = compiled(layer.graph((x.shape,)), {"x": x})
        dx = layer.backward(dy)
    assert np.isnan([y[:, 0], plan[:, 0], dx[:, 0]]).all()
    for found in (y, plan):
        close(found[:, 1], [-0.9805789785364644, -0.39223159141458575, 1.3728105699510502], "float64")
    running = [leaf.value for leaf in (layer.running_mean, layer.running_var)]
    np.testing.assert_allclose(running, [[inf, 0.1 * 8 / 3], [np.nan, 0.9 + 0.1 * 26 / 9]], rtol=1e-14)
    np.testing.assert_allclose(dx[:, 1], [-0.6109746967303703, 0.8146354181272335, -0.20366072139686334], rtol=1e-12)


def test_infinite_running_variance_normalizes_to_beta() -> None:
    layer = BatchNormalization(np.ones(2), np.array([0.0, 3]))
    layer.running_var.value[...] = inf
    assert layer.forward(np.array([[1.0, 2]]), train=False).tolist() == [[0, 3]]


def test_dropout_of_infinity_is_nan_as_in_pytorch() -> None:
    with np.errstate(invalid="ignore"):
        y = Dropout(0.5).forward(np.full(64, inf))
    assert set(np.isnan(y)) == {True, False}
    assert np.isinf(y[~np.isnan(y)]).all()
