"""Every layer and loss compared with PyTorch in float64: values and gradients, random shapes, strides and paddings."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from peers.torch_models import batch_norm, mask
from support.layer_cases import LAYERS

from nl_layers import (
    Affine,
    AveragePooling,
    BatchNormalization,
    Convolution,
    CrossEntropy,
    Dropout,
    GlobalAveragePooling,
    Pooling,
    Relu,
    Residual,
    Sequential,
    Sigmoid,
    SigmoidWithLoss,
    Softmax,
    SoftmaxWithLoss,
    Tanh,
    ZeroPadShortcut,
)
from nl_layers.module import Module
from nl_nodes.verify import upstream

pytestmark = pytest.mark.peers

LIMIT = 1e-12
DRAWS = 50
Rng = np.random.Generator


@dataclass(frozen=True)
class Pair:
    """A layer, the arguments of its `forward`, and PyTorch's equivalent: a function of `x` and parameters by name."""

    layer: Module
    x: Any
    peer: Callable[..., torch.Tensor]
    rest: Any = True


def sizes(rng: Rng, count: int, low: int = 1, high: int = 6) -> tuple[int, ...]:
    return tuple(int(n) for n in rng.integers(low, high, count))


def some(rng: Rng, *shape: int) -> np.ndarray:
    """Return normal values, rounded to integers in half of the draws for zeros and ties; the first is positive."""
    x = rng.standard_normal(shape) * 2
    x.flat[0] = 3
    return x.round() if coin(rng) else x


def coin(rng: Rng) -> bool:
    return bool(rng.random() < 0.5)


def elementwise(layer: type[Module], peer: Callable[..., torch.Tensor]) -> Callable[[Rng], Pair]:
    return lambda rng: Pair(layer(), some(rng, *sizes(rng, rng.choice([2, 4]), 2)), peer)


def softmax(rng: Rng) -> Pair:
    return Pair(Softmax(), rng.standard_normal(sizes(rng, rng.choice([1, 2]), 2)), lambda x: F.softmax(x, -1))


def affine(rng: Rng) -> Pair:
    (n, out), shape = sizes(rng, 2), sizes(rng, rng.choice([1, 3]))
    layer = Affine(rng.standard_normal((int(np.prod(shape)), out)), rng.standard_normal(out) if coin(rng) else None)
    return Pair(layer, some(rng, n, *shape), lambda x, weight, bias=None: F.linear(x.flatten(1), weight.T, bias))


def images(rng: Rng, channels: int, window: list[int], stride: int, pad: int) -> np.ndarray:
    """Return images into which the padded window fits, with at least one pixel in each window."""
    h, w = (max(stride, size - 2 * pad) + int(rng.integers(0, 7)) for size in window)
    return some(rng, int(rng.integers(1, 5)), channels, h, w)


def convolution(rng: Rng) -> Pair:
    c, fn, *window = sizes(rng, 4)
    stride, pad = int(rng.integers(1, 4)), int(rng.integers(0, 4))
    layer = Convolution(
        rng.standard_normal((fn, c, *window)), rng.standard_normal(fn) if coin(rng) else None, stride, pad
    )
    x = images(rng, c, window, stride, pad)
    return Pair(layer, x, lambda x, weight, bias=None: F.conv2d(x, weight, bias, stride, pad))


def pooling(rng: Rng) -> Pair:
    """PyTorch limits padding to half a window, so it gets padded images."""
    c, *window = sizes(rng, 3)
    stride, pad = int(rng.integers(1, 4)), int(rng.integers(0, min(window)))

    def peer(x: torch.Tensor) -> torch.Tensor:
        return F.max_pool2d(F.pad(x, [pad] * 4, value=-torch.inf), window, stride)

    return Pair(Pooling(*window, stride=stride, pad=pad), images(rng, c, window, stride, pad), peer)


def average_pooling(rng: Rng) -> Pair:
    """PyTorch limits padding to half a window, so it gets padded images."""
    c, *window = sizes(rng, 3)
    stride, pad = int(rng.integers(1, 4)), int(rng.integers(0, min(window)))

    def peer(x: torch.Tensor) -> torch.Tensor:
        return F.avg_pool2d(F.pad(x, [pad] * 4), window, stride)

    return Pair(AveragePooling(*window, stride=stride, pad=pad), images(rng, c, window, stride, pad), peer)


def global_average_pooling(rng: Rng) -> Pair:
    return Pair(GlobalAveragePooling(), some(rng, *sizes(rng, 4)), lambda x: F.adaptive_avg_pool2d(x, 1).flatten(1))


def zero_pad(rng: Rng) -> Pair:
    x, (more, stride) = some(rng, *sizes(rng, 4)), sizes(rng, 2, 1, 4)
    more -= 1
    return Pair(
        ZeroPadShortcut(x.shape[1] + more, stride),
        x,
        lambda x: F.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, 0, more)),
    )


def square(rng: Rng, size: int) -> Affine:
    return Affine(rng.standard_normal((size, size)), rng.standard_normal(size))


def sequential(rng: Rng) -> Pair:
    n, size = sizes(rng, 2)
    layer = Sequential([square(rng, size), Tanh(), square(rng, size)])

    def peer(x: torch.Tensor, **p: torch.Tensor) -> torch.Tensor:
        y = torch.tanh(F.linear(x, p["0.weight"].T, p["0.bias"]))
        return F.linear(y, p["2.weight"].T, p["2.bias"])

    return Pair(layer, rng.standard_normal((n, size)), peer)


def residual(rng: Rng) -> Pair:
    """A branch beside the identity or an affine layer."""
    n, size = sizes(rng, 2)
    layer = Residual(square(rng, size), square(rng, size) if coin(rng) else None)

    def peer(x: torch.Tensor, **p: torch.Tensor) -> torch.Tensor:
        beside = F.linear(x, p["shortcut.weight"].T, p["shortcut.bias"]) if "shortcut.weight" in p else x
        return F.linear(x, p["branch.weight"].T, p["branch.bias"]) + beside

    return Pair(layer, rng.standard_normal((n, size)), peer)


def batch_normalization(rng: Rng) -> Pair:
    """Features, images and flattened images, in training and inference mode, after two training passes."""
    kind, train = rng.choice(["features", "images", "flattened"]), coin(rng)
    n, c = sizes(rng, 2, 4, 9)
    shape = (n, c) if kind == "features" else (n, c, *sizes(rng, 2, 2, 5))
    form = (n, -1) if kind == "flattened" else shape
    d = int(np.prod(shape[1:])) if kind == "flattened" else c
    layer = BatchNormalization(
        rng.standard_normal(d),
        rng.standard_normal(d),
        momentum := rng.uniform(0.5, 0.99),
        eps := 10 ** rng.uniform(-6, -2),
    )
    state = torch.zeros(d, dtype=torch.float64), torch.ones(d, dtype=torch.float64)
    for _ in range(2):
        x = rng.standard_normal(shape) * 3 + 1
        layer.forward(x)
        weights = [torch.from_numpy(p) for p in layer.params.values()]
        _, *state = batch_norm(torch.from_numpy(x).reshape(form), *state, *weights, True, momentum, eps)

    def peer(x: torch.Tensor, gamma: torch.Tensor, beta: torch.Tensor) -> torch.Tensor:
        return batch_norm(x.reshape(form), *state, gamma, beta, train, momentum, eps)[0]

    return Pair(layer, rng.standard_normal(shape) * 3 + 1, peer, train)


def dropout(rng: Rng) -> Pair:
    """Both forms, in training and inference mode, at a random pass index, with this project's mask."""
    ratio, inverted, train = rng.uniform(0, 0.6), coin(rng), coin(rng)
    (seed, stream, passes), x = sizes(rng, 3, 0), rng.standard_normal(sizes(rng, rng.choice([2, 4]), 3))
    layer = Dropout(ratio, inverted, seed, stream)
    for _ in range(passes):
        layer.forward(x)
    if train:
        scale = mask(x.shape, ratio, seed, stream, passes) / (1 - ratio if inverted else 1)
    else:
        scale = 1 if inverted else 1 - ratio
    return Pair(layer, x, lambda x: x * scale, train)


def targets(rng: Rng, n: int, k: int) -> np.ndarray:
    """Return labels (N,), one-hot rows or rows of probabilities."""
    labels = rng.integers(0, k, n)
    return [labels, np.eye(k)[labels], rng.dirichlet(np.ones(k), n)][rng.integers(3)]


def nll(logs: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return F.nll_loss(logs, t) if t.ndim == 1 else -(t * logs).sum(1).mean()


def cross_entropy(rng: Rng) -> Pair:
    n, k = sizes(rng, 2, 2, 9)
    t, eta = targets(rng, n, k), 10 ** rng.uniform(-9, -2)
    return Pair(
        CrossEntropy(eta), rng.dirichlet(np.ones(k), n), lambda x: nll(torch.log(x + eta), torch.from_numpy(t)), t
    )


def softmax_with_loss(rng: Rng) -> Pair:
    n, k = sizes(rng, 2, 2, 9)
    form, rows, eta = str(rng.choice(["stable", "exact", "textbook"])), targets(rng, n, k), 10 ** rng.uniform(-9, -2)
    t, smoothing = torch.from_numpy(rows), float(rng.choice([0.0, 0.1, 0.7]))
    even = (F.one_hot(t, k).double() if t.ndim == 1 else t) * (1 - smoothing) + smoothing / k

    def peer(x: torch.Tensor) -> torch.Tensor:
        stable, exact = F.cross_entropy(x, t, label_smoothing=smoothing), nll(torch.log(F.softmax(x, 1) + eta), even)
        return {"stable": stable, "exact": exact, "textbook": stable + (exact - stable).detach()}[form]

    return Pair(SoftmaxWithLoss(form, eta, smoothing), rng.standard_normal((n, k)), peer, rows)


def sigmoid_with_loss(rng: Rng) -> Pair:
    n, k = sizes(rng, 2, 2, 9)
    shape = [(n,), (n, 1), (n, k)][rng.integers(3)]
    given = targets(rng, n, k) if shape == (n, k) else rng.integers(0, 2, n)
    t = torch.from_numpy(given)
    rows = F.one_hot(t, k) if shape == (n, k) and t.ndim == 1 else t.reshape(shape)

    def peer(x: torch.Tensor) -> torch.Tensor:
        return F.binary_cross_entropy_with_logits(x, rows.double(), reduction="sum") / n

    return Pair(SigmoidWithLoss(), rng.standard_normal(shape) * 2, peer, given)


PAIRS = {
    "Affine": affine,
    "AveragePooling": average_pooling,
    "BatchNormalization": batch_normalization,
    "Convolution": convolution,
    "CrossEntropy": cross_entropy,
    "Dropout": dropout,
    "GlobalAveragePooling": global_average_pooling,
    "Pooling": pooling,
    "Relu": elementwise(Relu, F.relu),
    "Residual": residual,
    "Sequential": sequential,
    "Sigmoid": elementwise(Sigmoid, torch.sigmoid),
    "SigmoidWithLoss": sigmoid_with_loss,
    "Softmax": softmax,
    "SoftmaxWithLoss": softmax_with_loss,
    "Tanh": elementwise(Tanh, torch.tanh),
    "ZeroPadShortcut": zero_pad,
}


def test_every_layer_and_loss_is_compared() -> None:
    assert set(PAIRS) == set(LAYERS)
    assert all(type(PAIRS[name](np.random.default_rng(0)).layer) is layer for name, layer in LAYERS.items())


@pytest.mark.parametrize("seed", range(DRAWS))
@pytest.mark.parametrize("name", PAIRS)
def test_layer_matches_pytorch(name: str, seed: int, near: Callable) -> None:
    rng = np.random.default_rng(seed)
    pair = PAIRS[name](rng)
    x, *_ = leaves = [torch.tensor(a, requires_grad=True) for a in (pair.x, *pair.layer.params.values())]
    expected = pair.peer(x, **dict(zip(pair.layer.params, leaves[1:], strict=True)))
    near(pair.layer.forward(pair.x, pair.rest), expected, LIMIT)
    dy = upstream(rng, tuple(expected.shape))
    expected.backward(torch.from_numpy(dy))
    dx, grads = pair.layer.backward(dy), pair.layer.grads
    for ours, leaf in zip([dx, *(grads[key] for key in pair.layer.params)], leaves, strict=True):
        near(ours, leaf.grad, LIMIT)
