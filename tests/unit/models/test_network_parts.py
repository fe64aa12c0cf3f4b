"""What single methods of a network give: names, labels, counts, and arrays after a fork."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
from support.assertions import refused
from support.forked import Forked

from nl_layers import Affine, BatchNormalization, CrossEntropy, Loss, Relu, SigmoidWithLoss, SoftmaxWithLoss
from nl_models import Network
from nl_nodes import Device

RNG = np.random.default_rng(0)
X, T = RNG.standard_normal((5, 4)), np.array([0, 2, 1, 1, 0])


def network(classes: int = 3, loss: Loss | None = None, hidden: int = 6, **device: Any) -> Network:
    layers = [
        Affine(RNG.standard_normal((4, 6)), np.zeros(6)),
        BatchNormalization(np.ones(6), np.zeros(6)),
        Relu(),
        Affine(RNG.standard_normal((hidden, classes)), np.zeros(classes)),
    ]
    numbered = [(layer, number) for layer, number in zip(layers, (1, 1, 1, 2), strict=True)]
    spec = {"name": "net", "input_shape": (4,), "classes": classes}
    return Network(numbered, spec, Device(**{"threads": 1, **device}), loss)


def test_nodes_bear_the_path_of_their_layer() -> None:
    graph = network().wire(5, train=True)
    paths = {node.path for node in (*graph.order, *graph.updates.values())} - {""}
    assert paths == {"Affine 1", "BatchNormalization 1", "Relu 1", "Affine 2", "SoftmaxWithLoss"}
    assert {node.path for node in graph.updates.values()} == {"BatchNormalization 1"}


def test_an_error_names_the_number_of_the_layer() -> None:
    with refused("net: layer 4 (Affine) on input shape (4,)"):
        network(hidden=5)


def test_labels_are_fed_as_integers_or_in_the_networks_dtype() -> None:
    net = network()
    assert net.plan(True, 5).inputs["t"].dtype == "int64"
    assert net.plan(True, 5, rows=True).inputs["t"].dtype == "float32"


@pytest.mark.parametrize("compile", [True, False])
def test_rows_of_another_dtype_leave_the_networks_dtype(compile: bool) -> None:
    assert network(compile=compile).step(X, np.eye(3)[T]).loss.dtype == "float32"


ONE = np.array([[-2.0], [0.0], [3.0]])
TWO = np.array([[2.0, -1.0], [-3.0, -1.0], [1.0, 1.0]])


@pytest.mark.parametrize(
    ("loss", "logits", "t", "count"),
    [
        (SigmoidWithLoss(), ONE, [0.4, 0.5, 0.6], 3),  # a logit of 0 is not above 0, nor is 0.5 above 0.5
        (SigmoidWithLoss(), ONE, [1.0, 0.0, 0.0], 1),
        (SigmoidWithLoss(), ONE[:, [0]] + 0.5, [0.0, 0.0, 1.0], 2),
        (SigmoidWithLoss(), TWO, [[1, 0], [0, 1], [1, 0]], 3),
        (SigmoidWithLoss(), TWO, [[0, 1], [0, 1], [0, 1]], 1),
        (CrossEntropy(), ONE, [0, 0, 0], 3),
        (SoftmaxWithLoss(), TWO, [0, 1, 0], 3),
        (SoftmaxWithLoss(), TWO, [1, 1, 1], 1),
    ],
)
def test_correct_rows_are_counted(loss: Loss, logits: np.ndarray, t: Any, count: int) -> None:
    assert network(logits.shape[1], loss).count_correct(logits, np.array(t)) == count


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_arrays_keep_their_place_after_a_fork() -> None:
    net = network()
    net.step(X, T)

    def in_child() -> list[bool]:
        weight, flat = net.params["W1"], net.params.flat
        net.step(X, T)
        return [net.params["W1"] is weight, net.params.flat is flat]

    assert Forked(in_child).result() == [True, True]
