"""From a plan such as [Conv(64), Pool(), Dense(100)] to the layers of a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from math import prod
from typing import Any

import numpy as np

from nl_layers import Affine, BatchNormalization, Convolution, Dropout, Layer, Pooling, Relu, Sigmoid, Tanh
from nl_layers.initializers import normal
from nl_models.network import Network
from nl_nodes import Device, ShapeError, UserError
from nl_nodes.platform import refuse_beyond_memory
from nl_nodes.typing import Shape

ACTIVATIONS: dict[str, Callable[[], Layer]] = {"relu": Relu, "sigmoid": Sigmoid, "tanh": Tanh}
POSITIONS = ("before_activation", "before_affine", "after_activation")


@dataclass(frozen=True)
class ConvSpec:
    """A convolution to `filters` channels, its activation behind it."""

    filters: int
    size: int = 3
    pad: int = 1


@dataclass(frozen=True)
class PoolSpec:
    """Max pooling of 2x2 windows that touch."""


@dataclass(frozen=True)
class DenseSpec:
    """An affine layer to `features`, its activation behind it."""

    features: int


Architecture = Sequence[ConvSpec | PoolSpec | DenseSpec]


@dataclass(frozen=True)
class Options:
    """What all networks share; see `nl_models.vgg16` for the meaning of each."""

    input_shape: Shape = (1, 28, 28)
    classes: int = 10
    activation: str = "relu"
    init: str | float = "he"
    batch_norm: bool | str = False
    dropout: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what no network can be made of."""
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
        """Where batch normalisation stands; False for nowhere."""
        return "before_activation" if self.batch_norm is True else self.batch_norm


def assemble(name: str, plan: Architecture, options: Options, device: Device | None, spec: dict[str, Any]) -> Network:
    """The network of a plan; the last affine layer, to the classes, is added here."""
    device = device or Device("cpu")
    builder = NetworkBuilder(name, options)
    for part in plan:
        builder.add(part, images=any(isinstance(p, ConvSpec) for p in plan))
    builder.logits()
    # Weights and gradients; the first weights are drawn in float64, which is no more.
    refuse_beyond_memory(
        2 * np.dtype(device.dtype).itemsize * builder.parameters,
        f"{name} with its {Decimal(builder.parameters):.4g} parameters",
        "choose a smaller model.width or smaller images",
    )
    layers = [(make(), number) for make, number in builder.layers]
    spec = {"name": name, **spec, **vars(options), "input_shape": list(options.input_shape)}
    return Network(layers, spec, device)


class NetworkBuilder:
    """Grows a network layer by layer, following the shape and numbering the layers that have weights.

    Attributes:
        layers: what makes each layer, to be called in this order, and its number.
        parameters: how many parameters the layers have together.
    """

    def __init__(self, name: str, options: Options) -> None:
        self.name = name
        self.options = options
        self.rng = np.random.default_rng(options.seed)
        self.layers: list[tuple[Callable[[], Layer], int]] = []
        self.parameters = 0
        self.shape = options.input_shape
        self.number = 0

    def add(self, part: ConvSpec | PoolSpec | DenseSpec, images: bool) -> None:
        """Add one part of a plan; in a net on images, batch norm stands at convolutions only."""
        if isinstance(part, PoolSpec):
            self.pool()
            return
        position = self.options.position if isinstance(part, ConvSpec) or not images else False
        self.number += 1
        if position == "before_affine":
            self.normalise(images)
        if isinstance(part, ConvSpec):
            self.convolution(part, bias=position != "before_activation")
        else:
            self.affine(part.features, bias=position != "before_activation")
        if position == "before_activation":
            self.normalise(images)
        self.layers.append((ACTIVATIONS[self.options.activation], self.number))
        if position == "after_activation":
            self.normalise(images)
        if isinstance(part, DenseSpec) and self.options.dropout:
            stream = self.number
            self.layers.append((lambda: Dropout(self.options.dropout, seed=self.options.seed, stream=stream), stream))

    def convolution(self, part: ConvSpec, bias: bool) -> None:
        """A convolution with fresh weights."""
        if len(self.shape) != 3:
            raise ShapeError(f"{self.name}: a convolution needs an input shape (C, H, W), got {self.shape}")
        c, h, w = self.shape
        weight = (part.filters, c, part.size, part.size)
        self.weigh(weight, part.filters, bias, lambda w, b: Convolution(w, b, pad=part.pad), c * part.size * part.size)
        grow = 2 * part.pad - part.size + 1
        self.follow((part.filters, h + grow, w + grow), f"a {part.size}x{part.size} convolution (pad {part.pad})")

    def affine(self, features: int, bias: bool) -> None:
        """An affine layer with fresh weights."""
        fan_in = prod(self.shape)
        self.weigh((fan_in, features), features, bias, Affine, fan_in)
        self.shape = (features,)

    def weigh(self, shape: Shape, outputs: int, bias: bool, make: Callable[..., Layer], fan_in: int) -> None:
        """A layer of fresh weights of this shape, with a bias for each of its outputs or none."""
        self.parameters += prod(shape) + outputs * bias

        def layer() -> Layer:
            weight = normal(self.rng, shape, fan_in, self.options.init)
            return make(weight, np.zeros(outputs) if bias else None)

        self.layers.append((layer, self.number))

    def logits(self) -> None:
        """The last affine layer, to the classes."""
        self.number += 1
        self.affine(self.options.classes, bias=True)

    def normalise(self, images: bool) -> None:
        """Batch normalisation of the shape so far: per channel in a net on images, else per feature."""
        features = self.shape[0] if images else prod(self.shape)
        self.parameters += 2 * features
        self.layers.append((lambda: BatchNormalization(np.ones(features), np.zeros(features)), self.number))

    def pool(self) -> None:
        """Max pooling of 2x2 windows."""
        c, h, w = self.shape
        self.layers.append((lambda: Pooling(2, 2, stride=2), self.number))
        self.follow((c, h // 2, w // 2), "2x2 max pooling")

    def follow(self, shape: Shape, what: str) -> None:
        """Go on with this shape, unless it is empty."""
        if min(shape) < 1:
            raise ShapeError(
                f"{self.name}: {what} after layer {self.number} turns {self.shape} into the empty {shape}; "
                f"the input shape {self.options.input_shape} is too small for this model"
            )
        self.shape = shape
