"""Builds a network from an architecture such as [ConvSpec(64), PoolSpec(), DenseSpec(100)]."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from nl_layers import Dropout, Layer, Pooling, Relu, Sigmoid, Tanh
from nl_models.network import Network
from nl_models.specs import BatchNormSpec, ConvSpec, DenseSpec, LayerSpec
from nl_models.stack import Stack
from nl_nodes import Device, UserError
from nl_nodes.arguments import COUNT, SHARE, Range, check_init, near
from nl_nodes.typing import Shape

# A registry, like `nl_models.MODELS`: a project adds its own (docs/tutorial.md).
ACTIVATIONS: dict[str, Callable[[], Layer]] = {"relu": Relu, "sigmoid": Sigmoid, "tanh": Tanh}
POSITIONS = ("before_activation", "before_affine", "after_activation")


@dataclass(frozen=True)
class PoolSpec:
    """Max pooling of 2x2 windows with stride 2."""


# A model's `width`.
WIDTH = Range("a whole number, 4 or more", at_least=4, whole=True)
Architecture = Sequence[ConvSpec | PoolSpec | DenseSpec]


@check_init
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
            raise UserError(f"activation={self.activation} is unknown: {near(str(self.activation), ACTIVATIONS)}")
        if self.batch_norm is not False and self.position not in POSITIONS:
            raise UserError(f"batch_norm={self.batch_norm}: use false, true or one of {', '.join(POSITIONS)}")
        SHARE.check("model", dropout=self.dropout)
        COUNT.check("model", classes=self.classes)

    @property
    def position(self) -> bool | str:
        """Position of batch normalisation, or False for none."""
        return "before_activation" if self.batch_norm is True else self.batch_norm


def assemble(
    name: str, architecture: Architecture, options: Options, device: Device | None, spec: dict[str, Any]
) -> Network:
    """Return the network of an architecture, with a last affine layer to the classes."""
    return assemble_layers(name, layers_of(architecture, options), options, device, spec)


def assemble_layers(
    name: str, layers: Iterable[Layer | LayerSpec], options: Options, device: Device | None, spec: dict[str, Any]
) -> Network:
    """Return the network of layers and specs; `spec` has the model's arguments besides the options."""
    device = device or Device("cpu")
    stack = Stack(name, tuple(options.input_shape), options.seed, device)
    for layer in layers:
        stack.add(layer)
    stack.draw(options.init)
    spec = {"name": name, **spec, **vars(options), "input_shape": list(options.input_shape)}
    return Network(stack.layers, spec, device)


def layers_of(architecture: Architecture, options: Options) -> Iterator[Layer | LayerSpec]:
    """Yield an architecture's layers: each convolution and affine layer with batch norm, activation and dropout.

    With convolutions, only these get batch norm.
    """
    images = any(isinstance(spec, ConvSpec) for spec in architecture)
    norm, number = BatchNormSpec(flatten=not images), 0
    for spec in architecture:
        if isinstance(spec, PoolSpec):
            yield Pooling(2, 2, stride=2)
            continue
        number += 1
        position = options.position if isinstance(spec, ConvSpec) or not images else False
        if position == "before_affine":
            yield norm
        yield replace(spec, bias=spec.bias and position != "before_activation")
        if position == "before_activation":
            yield norm
        yield ACTIVATIONS[options.activation]()
        if position == "after_activation":
            yield norm
        if isinstance(spec, DenseSpec) and options.dropout:
            yield Dropout(options.dropout, seed=options.seed, stream=number)
    yield DenseSpec(options.classes)
