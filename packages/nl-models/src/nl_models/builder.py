"""Builds a network from an architecture such as [ConvSpec(64), PoolSpec(), DenseSpec(100)]."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from math import prod
from typing import Any

import numpy as np

from nl_layers import Affine, BatchNormalization, Convolution, Dropout, Layer, Pooling, Relu, Sigmoid, Tanh
from nl_layers.initializers import normal
from nl_models.network import Network
from nl_nodes import Device, ShapeError, UserError
from nl_nodes.platform import refuse_beyond_memory
from nl_nodes.typing import Shape

# A registry, like `nl_models.MODELS`: a project adds its own (docs/tutorial.md).
ACTIVATIONS: dict[str, Callable[[], Layer]] = {"relu": Relu, "sigmoid": Sigmoid, "tanh": Tanh}
POSITIONS = ("before_activation", "before_affine", "after_activation")


@dataclass(frozen=True)
class ConvSpec:
    """A convolution to `filters` channels, followed by the activation."""

    filters: int
    size: int = 3
    pad: int = 1


@dataclass(frozen=True)
class PoolSpec:
    """Max pooling of 2x2 windows with stride 2."""


@dataclass(frozen=True)
class DenseSpec:
    """An affine layer to `features`, followed by the activation."""

    features: int


Architecture = Sequence[ConvSpec | PoolSpec | DenseSpec]


@dataclass(frozen=True)
class Options:
    """Options of every network, described in `nl_models.zoo`."""

    input_shape: Shape = (1, 28, 28)
    classes: int = 10
    activation: str = "relu"
    init: str | float = "he"
    batch_norm: bool | str = False
    dropout: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Validate the options."""
        if self.activation not in ACTIVATIONS:
            raise UserError(f"activation={self.activation}: use one of {', '.join(ACTIVATIONS)}")
        if self.batch_norm is not False and self.position not in POSITIONS:
            raise UserError(f"batch_norm={self.batch_norm}: use false, true or one of {', '.join(POSITIONS)}")
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout={self.dropout}: must be at least 0 and below 1")
        if self.classes < 1 or min(self.input_shape, default=0) < 1:
            raise UserError(f"classes={self.classes}, input_shape={self.input_shape}: all must be 1 or more")

    @property
    def position(self) -> bool | str:
        """Position of batch normalisation, or False for none."""
        return "before_activation" if self.batch_norm is True else self.batch_norm


def assemble(
    name: str, architecture: Architecture, options: Options, device: Device | None, spec: dict[str, Any]
) -> Network:
    """Return the network of an architecture, with a last affine layer to the classes."""
    device = device or Device("cpu")
    builder = NetworkBuilder(name, options)
    images = any(isinstance(layer, ConvSpec) for layer in architecture)
    for layer in architecture:
        builder.add(layer, images=images)
    builder.logits()
    # Weights and gradients; drawing the initial weights in float64 takes no more.
    refuse_beyond_memory(
        2 * np.dtype(device.dtype).itemsize * builder.parameters,
        f"{name} with its {Decimal(builder.parameters):.4g} parameters",
        "choose a smaller model.width or smaller images",
    )
    layers = [(make(), number) for make, number in builder.layers]
    spec = {"name": name, **spec, **vars(options), "input_shape": list(options.input_shape)}
    return Network(layers, spec, device)


class NetworkBuilder:
    """Appends layers, tracks the output shape and numbers the layers that have weights.

    Attributes:
        layers: a factory for each layer, to be called in this order, and the layer's number.
        parameters: total number of parameters.
    """

    def __init__(self, name: str, options: Options) -> None:
        self.name = name
        self.options = options
        self.rng = np.random.default_rng(options.seed)
        self.layers: list[tuple[Callable[[], Layer], int]] = []
        self.parameters = 0
        self.shape = options.input_shape
        self.number = 0

    def add(self, spec: ConvSpec | PoolSpec | DenseSpec, images: bool) -> None:
        """Append a layer with activation and options; with `images`, only convolutions get batch norm."""
        if isinstance(spec, PoolSpec):
            self.pool()
            return
        position = self.options.position if isinstance(spec, ConvSpec) or not images else False
        self.number += 1
        if position == "before_affine":
            self.normalise(images)
        if isinstance(spec, ConvSpec):
            self.convolution(spec, bias=position != "before_activation")
        else:
            self.affine(spec.features, bias=position != "before_activation")
        if position == "before_activation":
            self.normalise(images)
        self.layers.append((ACTIVATIONS[self.options.activation], self.number))
        if position == "after_activation":
            self.normalise(images)
        if isinstance(spec, DenseSpec) and self.options.dropout:
            stream = self.number
            self.layers.append((lambda: Dropout(self.options.dropout, seed=self.options.seed, stream=stream), stream))

    def convolution(self, spec: ConvSpec, bias: bool) -> None:
        """Append a convolution."""
        if len(self.shape) != 3:
            raise ShapeError(f"{self.name}: a convolution needs an input shape (C, H, W), got {self.shape}")
        c, h, w = self.shape
        weight = (spec.filters, c, spec.size, spec.size)
        self.weighted(weight, spec.filters, bias, partial(Convolution, pad=spec.pad), prod(weight[1:]))
        growth = 2 * spec.pad - spec.size + 1
        layer = f"a {spec.size}x{spec.size} convolution (pad {spec.pad})"
        self.set_shape((spec.filters, h + growth, w + growth), layer)

    def affine(self, features: int, bias: bool) -> None:
        """Append an affine layer."""
        fan_in = prod(self.shape)
        self.weighted((fan_in, features), features, bias, Affine, fan_in)
        self.shape = (features,)

    def weighted(self, shape: Shape, outputs: int, bias: bool, make: Callable[..., Layer], fan_in: int) -> None:
        """Append a layer with a new weight of this shape and, with `bias`, a bias per output."""
        self.parameters += prod(shape) + outputs * bias

        def layer() -> Layer:
            weight = normal(self.rng, shape, fan_in, self.options.init)
            return make(weight, np.zeros(outputs) if bias else None)

        self.layers.append((layer, self.number))

    def logits(self) -> None:
        """Append the last affine layer, to the classes."""
        self.number += 1
        self.affine(self.options.classes, bias=True)

    def normalise(self, images: bool) -> None:
        """Append batch normalisation, per channel with `images`, else per feature."""
        features = self.shape[0] if images else prod(self.shape)
        self.parameters += 2 * features
        self.layers.append((lambda: BatchNormalization(np.ones(features), np.zeros(features)), self.number))

    def pool(self) -> None:
        """Append max pooling of 2x2 windows."""
        c, h, w = self.shape
        self.layers.append((lambda: Pooling(2, 2, stride=2), self.number))
        self.set_shape((c, h // 2, w // 2), "2x2 max pooling")

    def set_shape(self, shape: Shape, layer: str) -> None:
        """Set the output shape of the layer appended last; raise `ShapeError` if it is empty."""
        if min(shape) < 1:
            raise ShapeError(
                f"{self.name}: {layer} after layer {self.number} turns {self.shape} into the empty {shape}; "
                f"the input shape {self.options.input_shape} is too small for this model"
            )
        self.shape = shape
