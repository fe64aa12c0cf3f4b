"""The values recorded in support/not_finite.py compared with PyTorch; and random windows with NaN and infinities."""

from collections.abc import Callable
from math import inf, nan

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.not_finite import POINTS, Point
from support.not_finite_layers import LAYER_POINTS, LayerPoint

from nl_layers import Pooling

pytestmark = pytest.mark.peers

Function = Callable[..., torch.Tensor]
LAYERS: dict[str, Function] = {
    "relu": F.relu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "softmax": lambda x: F.softmax(x, -1),
    "loss": lambda x, t: F.cross_entropy(x, t),
    "binary": lambda x, t: F.binary_cross_entropy_with_logits(x, t.double()),
    "pooling": lambda x: F.max_pool2d(x, 2, 2),
    "pooling, padded": lambda x: F.max_pool2d(x, 2, 2, 1),
}
NODES: dict[str, list[Function]] = {
    "ValueMask": [F.relu, F.relu, lambda x: F.threshold(x, 0.5, 0), lambda x: F.threshold(x, -1, 0)],
    "Sigmoid": [torch.sigmoid],
    "Softplus": [F.softplus],
    "Tanh": [torch.tanh],
    "Exp": [torch.exp],
    "Log": [torch.log],
    "Reciprocal": [torch.reciprocal],
    "Power": [lambda x: x**2, lambda x: x**0.5, lambda x: x**-0.5],
    "Max": [lambda x: x.max(1)[0]] * 2,
    "Affine": [lambda x, w, b: F.relu(x @ w + b)],
    "Pool": [lambda x: F.max_pool2d(x.permute(2, 3, 0, 1), 2)],
}


def asked(function: Function, inputs: tuple, rest: tuple, dy: object) -> list[np.ndarray]:
    """Return PyTorch's output and gradients."""
    given = [torch.tensor(np.array(x, float), requires_grad=True) for x in inputs]
    y = function(*given, *map(torch.tensor, rest))
    y.backward(torch.ones_like(y) if dy is None else torch.tensor(dy, dtype=torch.float64).reshape(y.shape))
    return [y.detach().numpy(), *(x.grad.numpy() for x in given)]


def agree(found: list[np.ndarray], written: list) -> None:
    for one, other in zip(found, written, strict=True):
        np.testing.assert_allclose(one.reshape(np.shape(other)), other, rtol=1e-14, atol=1e-16)


@pytest.mark.parametrize("name", LAYER_POINTS)
def test_recorded_layer_values_match_pytorch(name: str) -> None:
    point: LayerPoint = LAYER_POINTS[name]
    function = LAYERS.get(name) or LAYERS[name.split(",")[0]]
    rest = () if point.t is None else (point.t,)
    agree(asked(function, (point.x,), rest, point.dy), [point.y, point.dx])


@pytest.mark.parametrize(
    ("function", "point"),
    [pytest.param(f, p, id=name) for name, fs in NODES.items() for f, p in zip(fs, POINTS[name], strict=True)],
)
def test_recorded_node_values_match_pytorch(function: Function, point: Point) -> None:
    agree(asked(function, point.inputs, (), point.dy), [point.y, *point.dxs])


@pytest.mark.parametrize("seed", range(40))
def test_pooling_of_windows_with_non_finite_values(seed: int) -> None:
    """Values equal PyTorch's; gradients only in sum if there are NaN, of which PyTorch selects the last in a window."""
    rng = np.random.default_rng(seed)
    size, stride = int(rng.integers(1, 4)), int(rng.integers(1, 4))
    pad = int(rng.integers(0, size // 2 + 1))
    x = rng.choice([-inf, inf, nan, -1.0, 0.0, 1.0], (2, 3, *rng.integers(max(size, stride), 7, 2)))
    tensor = torch.tensor(x, requires_grad=True)
    peer = F.max_pool2d(tensor, size, stride, pad)
    dy = rng.integers(1, 9, peer.shape).astype(float)
    peer.backward(torch.tensor(dy))
    layer = Pooling(size, size, stride, pad)
    np.testing.assert_array_equal(layer.forward(x), peer.detach().numpy())
    dx, expected = layer.backward(dy), tensor.grad.numpy()
    np.testing.assert_array_equal(dx.sum((2, 3)), expected.sum((2, 3)))
    if not np.isnan(x).any():
        np.testing.assert_array_equal(dx, expected)


def test_pytorch_gives_nan_for_infinite_logits_and_dropped_infinity() -> None:
    """PyTorch multiplies a label of 0 by an infinite logarithm, this project does not; dropped infinity gives NaN."""
    infinite = torch.tensor([inf])
    assert F.binary_cross_entropy_with_logits(infinite, torch.ones(1)).isnan()
    assert F.dropout(torch.full((64,), inf), 0.5).isnan().any()
    assert F.cross_entropy(torch.tensor([[-inf, 0.0, 1.0]]), torch.tensor([[0.0, 1.0, 0.0]])).isnan()
