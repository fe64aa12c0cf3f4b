"""Residual networks: parameters, blocks, names and paths; options; training with every executor; errors."""

from __future__ import annotations

import numpy as np
import pytest
from support.assertions import refused
from support.copies import COPIES

import nl_layers
from nl_layers import Affine, BatchNormalization, Convolution, Dropout, Layer, Relu, Residual, Tanh, ZeroPadShortcut
from nl_layers.module import Mode
from nl_models import BatchNormSpec, ConvSpec, DenseSpec, Network, ResidualSpec, Sequential, build
from nl_models.resnet import resnet18, resnet20, resnet32, resnet44, resnet56
from nl_nodes import Device, Node

COUNTS = {resnet20: 269_722, resnet32: 464_154, resnet44: 658_586, resnet56: 853_018, resnet18: 11_173_962}
RNG = np.random.default_rng(0)
X, T = RNG.standard_normal((5, 3, 9, 9)), np.array([0, 2, 1, 1, 0])


def small(make=resnet20, **options) -> Network:
    device = Device(dtype="float64", threads=1)
    return make(**{"width": 4, "input_shape": (3, 9, 9), "classes": 3, "device": device, **options})


@pytest.mark.parametrize("make", COUNTS, ids=lambda f: f.__name__)
def test_parameters_are_as_many_as_published(make) -> None:
    assert make().params.flat.size == COUNTS[make]


def layers_of(net: Network, kind: type) -> list:
    return [layer for layer in net.all_layers if type(layer) is kind]


@pytest.mark.parametrize(("make", "depth"), [(resnet20, 20), (resnet32, 32), (resnet44, 44), (resnet56, 56)])
def test_depth_blocks_and_shortcuts(make, depth: int) -> None:
    net = small(make)
    convolutions, blocks = layers_of(net, Convolution), layers_of(net, Residual)
    assert len(convolutions) + len(layers_of(net, Affine)) == depth
    assert [type(block.shortcut) for block in blocks if block.shortcut] == [ZeroPadShortcut] * 2
    n = (depth - 2) // 6
    assert [place for place, block in enumerate(blocks) if block.shortcut] == [n, 2 * n]
    assert [c.weight.value.shape[0] for c in convolutions] == [4] * (2 * n + 1) + [8] * 2 * n + [16] * 2 * n
    assert [i for i, c in enumerate(convolutions) if c.stride == 2] == [2 * n + 1, 4 * n + 1]
    assert not any(c.bias for c in convolutions)
    assert not layers_of(net, Dropout)


def test_projections_are_numbered_after_their_blocks_convolutions() -> None:
    net = small(resnet18)
    kernels = [net.params[f"W{n}"].shape[2:] for n in range(1, 21)]
    assert [n for n, shape in enumerate(kernels, 1) if shape == (1, 1)] == [8, 13, 18]
    assert net.params["W8"].shape == (8, 4, 1, 1)
    projection = layers_of(net, Residual)[2].shortcut
    assert [type(layer) for layer in projection.layers] == [Convolution, BatchNormalization]
    assert projection.layers[0].stride == 2


def test_names_and_paths_count_on_through_blocks() -> None:
    net = small()
    expected = [name for n in range(1, 20) for name in (f"W{n}", f"gamma{n}", f"beta{n}")]
    assert list(net.params) == [*expected, "W20", "b20"]
    paths = dict.fromkeys(row.name for row in net.summary(2).layers)
    assert list(paths)[:10] == [
        *["Convolution 1", "BatchNormalization 1", "Relu 1", "Residual 2/Convolution 2"],
        *["Residual 2/BatchNormalization 2", "Residual 2/Relu 2", "Residual 2/Convolution 3"],
        *["Residual 2/BatchNormalization 3", "Residual 2", "Relu 3"],
    ]
    assert "Residual 8/ZeroPadShortcut 9" in paths


def test_a_summary_counts_every_layer_inside() -> None:
    rows = {row.name: row for row in small().summary(2).layers}
    row = rows["Residual 2/Convolution 3"]
    assert (row.output, row.parameters) == ((2, 4, 9, 9), 4 * 4 * 9)
    assert row.reference["forward"].flops >= 2 * 2 * 81 * 4 * 4 * 9
    assert rows["Residual 2"].reference["forward"].flops == 2 * 4 * 81  # the addition


def test_without_shortcuts_it_is_the_plain_network() -> None:
    plain, residual = small(shortcuts=False), small()
    assert not layers_of(plain, Residual)
    assert list(plain.params) == list(residual.params)
    np.testing.assert_array_equal(plain.params.flat, residual.params.flat)
    assert not np.allclose(plain.predict(X), residual.predict(X))


def test_options_and_recreation_from_the_spec() -> None:
    net = small(dropout=0.5, activation="tanh", init="xavier", seed=4)
    assert [type(layer) for layer in net.layers[-2:]] == [Dropout, Affine]
    assert len(layers_of(net, Tanh)) == 19
    assert not layers_of(net, Relu)
    again = build(**net.spec, device=net.device)
    np.testing.assert_array_equal(again.params.flat, net.params.flat)
    np.testing.assert_array_equal(again.step(X, T).logits, net.step(X, T).logits)
    assert again.spec == net.spec
    for position in (True, "before_activation"):
        np.testing.assert_array_equal(small(batch_norm=position).predict(X), small().predict(X))
    with refused("resnet20: shortcuts must be True or False, got 'false'"):
        small(shortcuts="false")
    with refused("ResidualSpec: branch must be a list", "[Relu()]"):
        ResidualSpec(Relu())
    with refused("resnet20", "batch_norm=after_activation", "before_activation"):
        small(batch_norm="after_activation")
    with refused("resnet18", "width"):
        resnet18(width=3)


def test_copies_share_nothing() -> None:
    net = small()
    net.step(X, T)
    expected = net.predict(X)
    for duplicate in COPIES.values():
        twin = duplicate(net)
        np.testing.assert_array_equal(twin.predict(X), expected)
        twin.step(X, T)
        twin.params.flat[...] = 0
        np.testing.assert_array_equal(net.predict(X), expected)


def test_a_changed_setting_inside_a_block_takes_effect() -> None:
    net = Sequential([ResidualSpec([DenseSpec(4), Dropout(0.5)]), DenseSpec(3)], (4,), device=Device(threads=1))
    x = np.ones((5, 4))
    first = net.step(x, T).logits.copy()
    layers_of(net, Dropout)[0].ratio = 0.0
    assert not np.array_equal(net.step(x, T).logits, first)
    block = net.layers[0]
    block.branch = nl_layers.Sequential([Affine(np.eye(4))])
    for _ in range(2):
        with refused("Residual has a new Parameter"):
            net.step(x, T)


def test_a_layer_inside_another_takes_effect_when_it_is_set_first() -> None:
    class Maybe(Layer, abstract=True):
        inner: Dropout | None = None

        def wire(self, *inputs: Node, mode: Mode) -> Node:
            return mode.wire(self.inner, inputs[0]) if self.inner else inputs[0]

    layer = Maybe()
    net = Sequential([layer, DenseSpec(3)], (4,), device=Device(threads=1))
    x = np.ones((5, 4))
    first = net.step(x, T).logits.copy()
    layer.inner = Dropout(0.5)
    assert not np.array_equal(net.step(x, T).logits, first)


def test_dropouts_inside_blocks_get_the_networks_seed_and_streams_of_their_own() -> None:
    blocks = [ResidualSpec([DenseSpec(4), Dropout(0.5)]) for _ in range(2)]
    net = Sequential([*blocks, Dropout(0.5), DenseSpec(2)], (4,), seed=7)
    found = layers_of(net, Dropout)
    assert [layer.seed for layer in found] == [7] * 3
    assert len({layer.stream for layer in found}) == 3


def test_specs_and_layers_mix_in_blocks_and_blocks_in_blocks() -> None:
    inner = ResidualSpec([ConvSpec(4), Relu()])
    real = Residual(nl_layers.Sequential([Convolution(RNG.standard_normal((4, 4, 3, 3)), pad=1), Relu()]))
    shortcut = [ConvSpec(4, 1, 0, bias=False), BatchNormSpec()]
    layers = [ResidualSpec([ConvSpec(4), inner], shortcut), real, DenseSpec(2)]
    net = Sequential(layers, (3, 5, 5), device=Device(dtype="float64", threads=1))
    assert list(net.params) == ["W1", "b1", "W2", "b2", "W3", "gamma3", "beta3", "W4", "W5", "b5"]
    assert net.params["W3"].shape == (4, 3, 1, 1)
    assert np.shares_memory(real.params["branch.0.weight"], net.params["W4"])
    grads = net.step(RNG.standard_normal((4, 3, 5, 5)), [0, 1, 1, 0]).grads
    assert all(np.abs(grad).max() > 0 for grad in grads.values())


WRONG = {
    "shapes": (
        [ResidualSpec([ConvSpec(5)]), DenseSpec(2)],
        ["layer 1", "ResidualSpec", "(1, 5, 6, 6)", "(1, 3, 6, 6)"],
    ),
    "inside": ([ResidualSpec([Relu(), ConvSpec(3, 9, 0)])], ["layer 1", "layer 2", "window of 9x9", "(3, 6, 6)"]),
    "in a shortcut": ([ResidualSpec([Relu()], [ConvSpec(3, 9, 0)])], ["layer 1", "shortcut, layer 1", "9x9"]),
    "no layer": ([ResidualSpec([Relu])], ["layer 1", "no layer"]),
    "one layer twice": ([ResidualSpec([r := Relu()]), ResidualSpec([r])], ["layer 2", "in the network already"]),
    "one layer twice in a block": ([ResidualSpec([r := Relu()], [r])], ["Residual", "twice"]),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_blocks_are_refused_with_their_place(what: str) -> None:
    layers, words = WRONG[what]
    with refused(*words):
        Sequential(layers, (3, 6, 6))
