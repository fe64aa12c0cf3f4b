"""Paths of layers, and numbers of their parameters, in every way of putting layers into others."""

import numpy as np
import pytest

from nl_layers import Affine, Relu, Residual, Sequential, Tanh
from nl_layers.module import Module
from nl_models.names import all_layers, layer_paths, name_leaves


def affine() -> Affine:
    return Affine(np.eye(3), np.zeros(3))


def test_layers_inside_others_have_their_paths_and_a_second_one_a_number() -> None:
    top = Sequential([Relu(), Relu()])
    inner = Sequential([Relu(), Sequential([Relu(), Tanh()])])
    block = Residual(inner)
    paths = layer_paths([(top, 1), (block, 2), (Relu(), 2)])
    assert list(paths.values()) == [
        *["Sequential 1", "Sequential 1/Relu 1", "Sequential 1/Relu 1.2"],
        *["Residual 2", "Residual 2", "Residual 2/Relu 2", "Residual 2"],  # a Sequential inside has its layer's path
        *["Residual 2/Relu 2.2", "Residual 2/Tanh 2", "Relu 2"],
    ]
    assert paths[inner] == paths[block]


def test_a_layer_that_two_layers_share_comes_once() -> None:
    shared = affine()
    first, second = Residual(shared), Residual(shared)
    layers: list[tuple[Module, int, Module | None]] = list(all_layers([(first, 1), (second, 2)]))
    assert layers == [(first, 1, None), (shared, 1, first), (second, 2, None)]
    assert list(layer_paths([(first, 1), (second, 2)]).values()) == ["Residual 1", "Residual 1/Affine 1", "Residual 2"]


class Scaled(Residual):
    """A block with a weight of its own."""

    def __init__(self, branch: Sequential) -> None:
        super().__init__(branch)
        self.weight = affine().weight


@pytest.mark.parametrize(("kind", "first"), [(Residual, 4), (Scaled, 5)])
def test_layers_inside_count_on_from_the_number_of_theirs(kind: type[Residual], first: int) -> None:
    inside = [affine(), affine()]
    parameters, _ = name_leaves([(kind(Sequential(inside)), 4)])
    for number, layer in enumerate(inside, first):
        assert parameters[f"W{number}"] is layer.weight
        assert parameters[f"b{number}"] is layer.bias
    assert len(parameters) == (4 if kind is Residual else 5)
