"""Layers made of layers: values and gradients by loops, names, copies, changes and errors."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
from support.assertions import refused
from support.copies import COPIES

from nl_layers import (
    Affine,
    AveragePooling,
    BatchNormalization,
    Convolution,
    Dropout,
    GlobalAveragePooling,
    Layer,
    Relu,
    Residual,
    Sequential,
    Tanh,
    ZeroPadShortcut,
)
from nl_nodes.verify import upstream


def affine(seed: int, size: int = 4) -> Affine:
    rng = np.random.default_rng(seed)
    return Affine(rng.standard_normal((size, size)), rng.standard_normal(size))


def block() -> Residual:
    return Residual(Sequential([affine(1), Tanh(), affine(2)]), affine(3))


X = np.random.default_rng(0).standard_normal((3, 4))
DY = upstream(np.random.default_rng(9), (3, 4))


def test_a_residual_is_the_sum_of_branch_and_shortcut() -> None:
    whole, parts = block(), [affine(1), Tanh(), affine(2)]
    y = X
    for part in parts:
        y = part.forward(y)
    beside = affine(3)
    np.testing.assert_allclose(whole.forward(X), y + beside.forward(X), rtol=1e-13)
    dx = DY
    for part in reversed(parts):
        dx = part.backward(dx)
    np.testing.assert_allclose(whole.backward(DY), dx + beside.backward(DY), rtol=1e-13)
    expected = {"branch.0": parts[0].grads, "branch.2": parts[2].grads, "shortcut": beside.grads}
    assert set(whole.grads) == {f"{name}.{leaf}" for name in expected for leaf in ("weight", "bias")}
    for name, leaf in product(expected, ("weight", "bias")):
        np.testing.assert_allclose(whole.grads[f"{name}.{leaf}"], expected[name][leaf], rtol=1e-13)


def test_without_a_shortcut_the_input_is_added() -> None:
    layer, alone = Residual(affine(1)), affine(1)
    np.testing.assert_array_equal(layer.forward(X), alone.forward(X) + X)
    np.testing.assert_allclose(layer.backward(DY), alone.backward(DY) + DY, rtol=1e-13)


def test_an_empty_sequence_is_the_identity() -> None:
    layer = Sequential()
    np.testing.assert_array_equal(layer.forward(X), X)
    np.testing.assert_array_equal(layer.backward(DY), DY)


def test_parameters_and_buffers_have_dotted_names_and_are_the_childrens_own() -> None:
    norm = BatchNormalization(np.ones(4), np.zeros(4))
    layer = Residual(Sequential([affine(1), Residual(Sequential([norm]))]))
    assert list(layer.params) == [
        *["branch.0.weight", "branch.0.bias", "branch.1.branch.0.gamma", "branch.1.branch.0.beta"]
    ]
    assert list(layer.buffers) == ["branch.1.branch.0.running_mean", "branch.1.branch.0.running_var"]
    layer.params["branch.1.branch.0.gamma"] = np.full(4, 7)
    assert norm.gamma.value.tolist() == [7] * 4
    layer.forward(X)
    assert norm.running_mean.value.any()


def test_copies_are_independent_and_give_the_same() -> None:
    layer = block()
    expected = layer.forward(X)
    for duplicate in COPIES.values():
        twin = duplicate(layer)
        np.testing.assert_array_equal(twin.forward(X), expected)
        twin.params["branch.0.weight"] = np.zeros((4, 4))
        assert not np.array_equal(twin.forward(X), expected)
        np.testing.assert_array_equal(layer.forward(X), expected)


def test_the_representation_shows_the_layers_inside() -> None:
    assert repr(Residual(Sequential([affine(1), Relu()]))) == (
        "Residual(branch=Sequential(layers=(Affine(weight (4, 4), bias (4,)), Relu())))"
    )


CHANGES: dict[str, Callable[[Residual], None]] = {
    "a setting inside": lambda layer: setattr(layer.branch.layers[0], "ratio", 0.0),
    "a layer": lambda layer: setattr(layer, "branch", Sequential([Tanh()])),
    "the layers of a sequence": lambda layer: setattr(layer.branch, "layers", (Tanh(),)),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_inside_counts_and_takes_effect(what: str) -> None:
    layer = Residual(Sequential([Dropout(0.5, seed=3)]))
    layer.branch.layers[0].ratio = 0.6  # a replaced layer's changes do not vanish
    before, y = layer.changes, layer.forward(X)
    CHANGES[what](layer)
    assert layer.changes > before
    with refused("run forward first"):
        layer.backward(DY)
    assert not np.array_equal(layer.forward(X), y)


def test_zero_padding_takes_every_second_pixel_and_adds_channels_at_the_end() -> None:
    rng = np.random.default_rng(4)
    x = rng.standard_normal((2, 2, 5, 4))
    layer = ZeroPadShortcut(3, 2)
    y = layer.forward(x)
    assert y.shape == (2, 3, 3, 2)
    for n, c, i, j in np.ndindex(y.shape):
        assert y[n, c, i, j] == (x[n, c, 2 * i, 2 * j] if c < 2 else 0)
    dy = upstream(rng, y.shape)
    dx = layer.backward(dy)
    for n, c, i, j in np.ndindex(x.shape):
        assert dx[n, c, i, j] == (dy[n, c, i // 2, j // 2] if i % 2 == j % 2 == 0 else 0)


@pytest.mark.parametrize(("h", "w", "stride", "pad"), [(2, 2, 2, 0), (3, 2, 1, 1), (3, 3, 2, 2), (2, 3, 3, 0)])
def test_average_pooling_matches_loops(h: int, w: int, stride: int, pad: int) -> None:
    rng = np.random.default_rng(5)
    x = rng.standard_normal((2, 3, 6, 7))
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    layer = AveragePooling(h, w, stride, pad)
    y = layer.forward(x)
    assert y.shape == (2, 3, (6 + 2 * pad - h) // stride + 1, (7 + 2 * pad - w) // stride + 1)
    dy, dx = upstream(rng, y.shape), np.zeros_like(padded)
    for i, j in np.ndindex(y.shape[2:]):
        window = np.s_[:, :, i * stride : i * stride + h, j * stride : j * stride + w]
        np.testing.assert_allclose(y[:, :, i, j], padded[window].sum((2, 3)) / (h * w), rtol=1e-12, atol=1e-14)
        dx[window] += dy[:, :, i, j, None, None] / (h * w)
    np.testing.assert_allclose(layer.backward(dy), dx[:, :, pad : pad + 6, pad : pad + 7], rtol=1e-12, atol=1e-14)


def test_global_average_pooling_is_the_mean_of_all_pixels() -> None:
    rng = np.random.default_rng(6)
    x, dy, layer = rng.standard_normal((2, 3, 4, 5)), upstream(rng, (2, 3)), GlobalAveragePooling()
    np.testing.assert_allclose(layer.forward(x), x.reshape(2, 3, 20).sum(2) / 20, rtol=1e-13)
    np.testing.assert_allclose(layer.backward(dy), np.repeat(dy / 20, 20).reshape(x.shape), rtol=1e-13)


RELU = Relu()
WRONG: dict[str, tuple[Callable[[], object], tuple[str, ...]]] = {
    "unequal shapes": (
        lambda: Residual(Convolution(np.ones((3, 2, 1, 1)))).forward(np.ones((1, 2, 4, 4))),
        ("Residual", "(1, 3, 4, 4)", "identity", "(1, 2, 4, 4)"),
    ),
    "shapes that would broadcast": (
        lambda: Residual(Convolution(np.ones((2, 1, 1, 1)))).forward(np.ones((1, 1, 4, 4))),
        ("Residual", "(1, 2, 4, 4)", "(1, 1, 4, 4)"),
    ),
    "a shortcut's shape": (
        lambda: Residual(Relu(), ZeroPadShortcut(3)).forward(np.ones((1, 2, 4, 4))),
        ("Residual", "ZeroPadShortcut", "(1, 3, 4, 4)"),
    ),
    "a class": (lambda: Sequential([Relu]), ("Sequential", "Relu", "no layer")),
    "a layer in place of a list": (lambda: Sequential(Relu()), ("Sequential", "list", "[Relu()]")),
    "a layer twice": (lambda: Sequential([RELU, Tanh(), RELU]), ("Sequential", "Relu()", "twice")),
    "a layer in branch and shortcut": (lambda: Residual(Sequential([RELU]), RELU), ("Residual", "Relu()", "twice")),
    "a list of layers": (lambda: setattr(Sequential(), "layers", [RELU]), ("layers", "tuple")),
    "a branch that is a list": (lambda: Residual([Relu()]), ("Residual", "no layer")),
    "a shortcut that is a list": (lambda: Residual(Relu(), [Relu()]), ("Residual", "no layer")),
    "fewer filters": (lambda: ZeroPadShortcut(1).forward(np.ones((1, 2, 4, 4))), ("ZeroPadShortcut", "(1, 2, 4, 4)")),
    "no stride": (lambda: ZeroPadShortcut(1, 0), ("stride", "1 or more", "0")),
    "padding as wide as the window": (lambda: AveragePooling(2, 3, pad=2), ("AveragePooling", "pad 2", "2x3")),
    "rows": (lambda: GlobalAveragePooling().forward(X), ("GlobalAveragePooling", "(3, 4)")),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_use_is_refused(what: str) -> None:
    call, words = WRONG[what]
    with refused(*words):
        call()


@pytest.mark.parametrize("name", ["blocks", "stages"])
def test_a_tuple_of_layers_of_another_name_is_refused(name: str) -> None:
    with refused(name, "a tuple named layers"):
        setattr(Relu(), name, (Tanh(),))


class Twice(Layer, abstract=True):
    """A layer of a user's own with a layer inside."""

    def __init__(self, inner: Layer) -> None:
        super().__init__()
        self.inner = inner

    def wire(self, *inputs, mode):
        return mode.wire(self.inner, mode.wire(self.inner, inputs[0]))


def test_layers_of_ones_own_may_contain_layers() -> None:
    layer, once = Twice(affine(1)), affine(1)
    np.testing.assert_array_equal(layer.forward(X), once.forward(once.forward(X)))
    layer.backward(DY)
    assert list(layer.grads) == ["inner.weight", "inner.bias"]
