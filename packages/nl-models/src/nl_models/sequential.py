"""`Sequential`: a network of any layers, with weights drawn for those that are given as specs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from nl_layers import Layer, Loss
from nl_models.network import Network
from nl_models.specs import LayerSpec
from nl_models.stack import Stack
from nl_nodes import Device, ShapeError
from nl_nodes.arguments import check_init


@check_init
class Sequential(Network):
    """A network of layers, one after another, that ends in logits (N, classes).

    A layer belongs to one network, which takes over its weights. Parameters are named by the layers' numbers: W1 and
    b1, gamma1 and beta1 of a batch normalisation beside them, then W2. A dropout whose seed is 0 gets the network's,
    and one whose stream is 0 its position, so that each has masks of its own. Layers inside others, such as those of a
    residual block, are numbered in the order of wiring: the branch, then the shortcut.

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
