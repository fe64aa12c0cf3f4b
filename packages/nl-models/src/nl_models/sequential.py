"""`Sequential`: a network of any layers, with weights drawn for those that are given as specs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal
from math import prod
from typing import Any

import numpy as np

from nl_layers import Dropout, Layer, Loss, Mode
from nl_layers.initializers import normal
from nl_models.network import Network
from nl_models.specs import LayerSpec
from nl_nodes import Device, Input, ShapeError, UserError
from nl_nodes.arguments import COUNT, NATURAL, check_init
from nl_nodes.platform import refuse_beyond_memory
from nl_nodes.typing import Shape


@check_init
class Sequential(Network):
    """A network of layers, one after another, that ends in logits (N, classes).

    A layer belongs to one network, which takes over its weights. Parameters are named by the layers' numbers: W1 and
    b1, gamma1 and beta1 of a batch normalisation beside them, then W2. A dropout whose seed is 0 gets the network's,
    and one whose stream is 0 its position, so that each has masks of its own.

    Args:
        layers: layers with weights of their own, and specs, whose weights are drawn for the shape of their input.
        input_shape: shape of one input, (C, H, W) or (features,).
        loss: loss on the logits; None is `SoftmaxWithLoss()`.
        init: initial weights of specs: "he", "xavier" or a standard deviation.
        seed: seed of the weights and dropout masks.
        name: the network's name.
        device: device of the network; None is `Device("cpu")`.

    Raises:
        ShapeError: where a layer does not fit its input; the message names the layer.
        UserError: for an invalid argument.

    >>> from nl_layers import Relu
    >>> from nl_models import DenseSpec
    >>> Sequential([DenseSpec(5), Relu(), DenseSpec(3)], input_shape=(4,))
    sequential(input (4,), 3 classes, 43 parameters)
    """

    def __init__(
        self,
        layers: Iterable[Layer | LayerSpec],
        input_shape: Sequence[int],
        loss: Loss | None = None,
        init: str | float = "he",
        seed: int = 0,
        name: str = "sequential",
        device: Device | None = None,
    ) -> None:
        device = device or Device("cpu")
        stack = Stack(name, tuple(input_shape), seed, device)
        for layer in layers:
            stack.add(layer)
        if len(stack.shape) != 1 or not stack.layers:
            raise ShapeError(f"{name}: the last layer must give logits (N, classes), such as DenseSpec(10)")
        stack.draw(init)
        spec = {"name": name, "input_shape": list(input_shape), "classes": stack.shape[0]}
        super().__init__(stack.layers, spec, device, loss)


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
        self._number, self._taken = 1, set[str]()
        self._drawn: list[Layer] = []  # layers of specs, which have no weights yet
        self._parameters = 0  # of these

    def add(self, item: Layer | LayerSpec) -> None:
        """Put a layer on top."""
        where = f"{self.name}: layer {len(self.layers) + 1} ({item!r}) on input shape {self.shape}"
        try:
            layer = self._placed(item, where)
            output = layer.wire(Input("x", (1, *self.shape)), mode=Mode(train=False)).shape
        except ShapeError as error:
            raise ShapeError(f"{where}: {error}; the network's input shape is {self.input_shape}") from None
        assert output is not None  # all shapes are known
        self.shape = output[1:]

    def _placed(self, item: Layer | LayerSpec, where: str) -> Layer:
        """Append the layer with its number and return it."""
        if isinstance(item, Layer):
            layer = item
            if any(layer is other for other, _ in self.layers):
                raise UserError(f"{where}: it is in the network already: make a new one")
        elif isinstance(item, LayerSpec):
            shapes = item.shapes(self.shape)
            self._refuse_beyond_memory(sum(map(prod, shapes.values())))
            # Arrays without memory: the weights are drawn when all layers are known to fit.
            layer = item.layer(**{name: np.broadcast_to(0.0, shape) for name, shape in shapes.items()})
            self._drawn.append(layer)
        else:
            raise UserError(f"{where}: it is no layer: use those of nl_layers, your own, or specs of nl_models")
        names = {*layer.parameters, *layer.buffers}
        if names & self._taken:  # such as a second weight
            self._number, self._taken = self._number + 1, set()
        self._taken |= names
        if isinstance(layer, Dropout):
            layer.seed = layer.seed or self.seed
            layer.stream = layer.stream or len(self.layers) + 1
        self.layers.append((layer, self._number))
        return layer

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
