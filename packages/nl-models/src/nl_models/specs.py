"""Specs of layers with weights, which are created for the shape of the layer's input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from nl_layers import Affine, BatchNormalization, Convolution, Layer
from nl_nodes import ShapeError, UserError
from nl_nodes.arguments import COUNT, NATURAL, check_init
from nl_nodes.typing import Array, Shape


@check_init
@dataclass(frozen=True)
class ConvSpec:
    """A convolution to `filters` channels with windows of `size` x `size`; see `nl_layers.Convolution`."""

    filters: int
    size: int = 3
    pad: int = 1
    stride: int = 1
    bias: bool = True

    def __post_init__(self) -> None:
        """Validate the numbers."""
        COUNT.check("ConvSpec", filters=self.filters, size=self.size, stride=self.stride)
        NATURAL.check("ConvSpec", pad=self.pad)

    def shapes(self, shape: Shape) -> dict[str, Shape]:
        """Return the shapes of the parameters for an input of this shape, without the batch axis."""
        if len(shape) != 3:
            raise ShapeError(f"a convolution needs an input shape (C, H, W), got {shape}")
        weight: Shape = (self.filters, shape[0], self.size, self.size)
        return {"weight": weight, **({"bias": (self.filters,)} if self.bias else {})}

    def layer(self, **parameters: Array) -> Layer:
        """Return the layer with these parameters."""
        return Convolution(**parameters, stride=self.stride, pad=self.pad)


@check_init
@dataclass(frozen=True)
class DenseSpec:
    """An affine layer to `features`; see `nl_layers.Affine`."""

    features: int
    bias: bool = True

    def __post_init__(self) -> None:
        """Validate the numbers."""
        COUNT.check("DenseSpec", features=self.features)

    def shapes(self, shape: Shape) -> dict[str, Shape]:
        """Return the shapes of the parameters for an input of this shape, without the batch axis."""
        weight: Shape = (prod(shape), self.features)
        return {"weight": weight, **({"bias": (self.features,)} if self.bias else {})}

    def layer(self, **parameters: Array) -> Layer:
        """Return the layer with these parameters."""
        return Affine(**parameters)


@check_init
@dataclass(frozen=True)
class BatchNormSpec:
    """Batch normalisation of each channel, or with `flatten` of each feature; see `nl_layers.BatchNormalization`."""

    flatten: bool = False

    def shapes(self, shape: Shape) -> dict[str, Shape]:
        """Return the shapes of the parameters for an input of this shape, without the batch axis."""
        features = (prod(shape) if self.flatten else shape[0],)
        return {"gamma": features, "beta": features}

    def layer(self, **parameters: Array) -> Layer:
        """Return the layer with these parameters."""
        return BatchNormalization(**parameters)


@check_init
@dataclass(frozen=True)
class ResidualSpec:
    """A branch of layers and specs beside a shortcut, by default the identity; see `nl_layers.Residual`."""

    branch: Sequence[Layer | LayerSpec]
    shortcut: Sequence[Layer | LayerSpec] = ()

    def __post_init__(self) -> None:
        """Refuse a layer in place of a list."""
        for name, value in vars(self).items():
            if not isinstance(value, list | tuple):
                raise UserError(f"ResidualSpec: {name} must be a list of layers and specs, such as [{value!r:.60}]")


LayerSpec = ConvSpec | DenseSpec | BatchNormSpec | ResidualSpec
