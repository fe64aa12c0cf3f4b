"""`Stack`: layers on top of each other, with weights drawn for specs."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from math import prod
from typing import Any

import numpy as np

from nl_layers import Dropout, Layer, Mode, Residual, Sequential
from nl_layers.initializers import normal
from nl_layers.module import Module
from nl_models.names import Numbering
from nl_models.ownership import is_in_a_network
from nl_models.specs import BatchNormSpec, ConvSpec, DenseSpec, LayerSpec, ResidualSpec
from nl_nodes import Device, Input, ShapeError, UserError
from nl_nodes.arguments import COUNT, NATURAL
from nl_nodes.platform import refuse_beyond_memory
from nl_nodes.typing import Shape


class Stack:
    """Layers on top of each other, with the shape of their output.

    Args:
        name: the network's name, for errors.
        input_shape: shape of one input.
        seed: seed of weights and dropout masks.
        device: device of the network, for the memory that it needs.

    Attributes:
        layers: each layer with its number.
        shape: shape of one output.
    """

    def __init__(self, name: str, input_shape: Shape, seed: int, device: Device) -> None:
        if not input_shape:
            raise ShapeError(f"{name}: input_shape must be (C, H, W) or (features,), got ()")
        for length in input_shape:
            COUNT.check(name, input_shape=length)
        NATURAL.check(name, seed=seed)
        self.name, self.input_shape, self.seed, self.device = name, input_shape, seed, device
        self.layers: list[tuple[Layer, int]] = []
        self.shape = input_shape
        self._numbering = Numbering()
        self._placed: dict[Module, None] = {}  # all layers, also those inside others
        self._drawn: list[Layer] = []  # layers of specs, which have no weights yet
        self._parameters = 0  # of these

    def add(self, item: Layer | LayerSpec) -> None:
        """Put a layer on top."""
        where = f"{self.name}: layer {len(self.layers) + 1}"
        try:
            layer, self.shape = self._layer(item, self.shape, where)
        except ShapeError as error:
            raise ShapeError(f"{error}; the network's input shape is {self.input_shape}") from None
        numbers = [self._place(part, f"{where} ({_short(item)})") for part in layer.tree()]
        self.layers.append((layer, numbers[0]))

    def _layer(self, item: Layer | LayerSpec, shape: Shape, where: str) -> tuple[Layer, Shape]:
        """Return the layer for an input of this shape, and the shape of its output."""
        where = f"{where} ({_short(item)}) on input shape {shape}"
        if isinstance(item, ResidualSpec):
            branch = self._chain(item.branch, shape, f"{where}: layer")
            shortcut = self._chain(item.shortcut, shape, f"{where}: shortcut, layer") if item.shortcut else None
            layer: Layer = Residual(branch, shortcut)
        elif isinstance(item, Layer):
            layer = item
        elif isinstance(item, LayerSpec):
            layer = self._undrawn(item, shape, where)
        else:
            raise UserError(f"{where}: it is no layer: use those of nl_layers, your own, or specs of nl_models")
        try:
            output = layer.wire(Input("x", (1, *shape)), mode=Mode(train=False)).shape
        except ShapeError as error:
            raise ShapeError(f"{where}: {error}") from None
        assert output is not None  # all shapes are known
        return layer, output[1:]

    def _chain(self, items: Sequence[Layer | LayerSpec], shape: Shape, where: str) -> Layer:
        """Return layers one after another as one layer."""
        layers = []
        for place, item in enumerate(items, 1):
            layer, shape = self._layer(item, shape, f"{where} {place}")
            layers.append(layer)
        return layers[0] if len(layers) == 1 else Sequential(layers)

    def _undrawn(self, spec: ConvSpec | DenseSpec | BatchNormSpec, shape: Shape, where: str) -> Layer:
        """Return the layer of a spec with arrays without memory: weights are drawn when all layers are known to fit."""
        try:
            shapes = spec.shapes(shape)
        except ShapeError as error:
            raise ShapeError(f"{where}: {error}") from None
        self._refuse_beyond_memory(sum(map(prod, shapes.values())))
        layer = spec.layer(**{name: np.broadcast_to(0.0, shape) for name, shape in shapes.items()})
        self._drawn.append(layer)
        return layer

    def _place(self, layer: Module, where: str) -> int:
        """Give a layer its number, and a dropout its seed and stream."""
        if layer in self._placed:
            raise UserError(f"{where}: {_short(layer)} is in the network already: make a new one")
        if is_in_a_network(layer):
            raise UserError(f"{where}: {_short(layer)} is in another network: make a new one, or a copy.deepcopy of it")
        self._placed[layer] = None
        if isinstance(layer, Dropout):
            layer.seed = layer.seed or self.seed
            layer.stream = layer.stream or sum(not part.children for part in self._placed)
            self._refuse_same_masks(layer, where)
        return self._numbering.next(layer)

    def _refuse_same_masks(self, layer: Dropout, where: str) -> None:
        for part in self._placed:
            same = isinstance(part, Dropout) and (part.seed, part.stream) == (layer.seed, layer.stream)
            if same and part is not layer:
                raise UserError(
                    f"{where}: another dropout has the same masks, those of seed={layer.seed}, stream={layer.stream}: "
                    "make a new one, or give it a stream of its own"
                )

    def _refuse_beyond_memory(self, parameters: int) -> None:
        """Count new parameters; refuse a network that needs more memory than there is."""
        self._parameters += parameters
        # Weights and gradients; drawing the initial weights in float64 takes no more.
        refuse_beyond_memory(
            2 * np.dtype(self.device.dtype).itemsize * self._parameters,
            f"{self.name} with its first {len(self.layers) + 1} layers, {Decimal(self._parameters):.4g} parameters,",
            "choose smaller layers (model.width) or smaller images",
        )

    def draw(self, init: str | float) -> None:
        """Draw the weights of layers that were given as specs; biases and betas are 0, gammas 1."""
        rng = np.random.default_rng(self.seed)
        for layer in self._drawn:
            for name, leaf in layer.parameters.items():
                leaf.value = _initial(name, leaf.value.shape, rng, init)


def _initial(name: str, shape: Shape, rng: np.random.Generator, init: str | float) -> Any:
    if name == "weight":
        fan_in = prod(shape[1:]) if len(shape) == 4 else shape[0]
        return normal(rng, shape, fan_in, init)
    return np.ones(shape) if name == "gamma" else np.zeros(shape)


def _short(item: Any) -> str:
    """Return how a layer was made, or its class where that is long."""
    text = repr(item)
    return text if len(text) <= 100 else type(item).__name__
