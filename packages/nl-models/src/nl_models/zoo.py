"""The networks of Node_Layer_Network and of the textbook, Deep Learning from Scratch; `nl_models.resnet` has others.

Common arguments:

    input_shape: (C, H, W) of the images.
    classes: number of logits.
    width: scale of the layers; Node_Layer_Network has 64 (100 in the MLP).
    activation: "relu", "sigmoid" or "tanh".
    init: "he", "xavier" or a standard deviation.
    batch_norm: False, "before_activation" (also True), "before_affine" or "after_activation".
    dropout: dropout ratio after the activation of each hidden affine layer.
    seed: seed of weights and dropout masks.
    device: device of the network; None is `Device("cpu")`.

Unknown arguments and values are refused with `UserError`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from nl_layers import SoftmaxWithLoss
from nl_models.builder import WIDTH, Architecture, Options, PoolSpec, assemble
from nl_models.network import Network
from nl_models.resnet import resnet18, resnet20, resnet32, resnet44, resnet56
from nl_models.sequential import Sequential
from nl_models.specs import ConvSpec, DenseSpec
from nl_nodes import Device, UserError
from nl_nodes.arguments import SHARE, checked
from nl_nodes.typing import Shape

ModelFunction = Callable[..., Network]
"""A function that builds a network from the common arguments and its own."""


@checked
def mlp(
    input_shape: Shape = (1, 28, 28),
    classes: int = 10,
    width: int = 100,
    hidden: Sequence[int] | None = None,
    activation: str = "relu",
    init: str | float = "he",
    batch_norm: bool | str = False,
    dropout: float = 0.0,
    seed: int = 0,
    device: Device | None = None,
) -> Network:
    """A multilayer perceptron: input - 4 x `width` - classes, or the `hidden` widths given.

    Source: Node_Layer_Network, MLP; Deep Learning from Scratch, 6.2.4.
    """
    WIDTH.check("mlp", width=width)
    if isinstance(hidden, int):
        raise UserError(f"mlp: hidden must be a list of widths, such as [{hidden}], got {hidden}")
    widths = list(hidden) if hidden is not None else [width] * 4
    architecture: Architecture = [DenseSpec(n) for n in widths]
    options = Options(tuple(input_shape), classes, activation, init, batch_norm, dropout, seed)
    return assemble("mlp", architecture, options, device, {"width": width, "hidden": widths})


@checked
def cnn3(
    input_shape: Shape = (1, 28, 28),
    classes: int = 10,
    width: int = 64,
    activation: str = "relu",
    init: str | float = "he",
    batch_norm: bool | str = False,
    dropout: float = 0.0,
    seed: int = 0,
    device: Device | None = None,
) -> Network:
    """conv(w/2, 5x5, pad 0) - pool - affine 100 - affine.

    Source: Node_Layer_Network, CNN; Deep Learning from Scratch, 7.5.
    """
    WIDTH.check("cnn3", width=width)
    architecture: Architecture = [ConvSpec(width // 2, 5, 0), PoolSpec(), DenseSpec(100)]
    options = Options(tuple(input_shape), classes, activation, init, batch_norm, dropout, seed)
    return assemble("cnn3", architecture, options, device, {"width": width})


@checked
def simple_convnet(
    input_shape: Shape = (1, 28, 28),
    classes: int = 10,
    width: int = 30,
    activation: str = "relu",
    init: str | float = "he",
    batch_norm: bool | str = False,
    dropout: float = 0.0,
    seed: int = 0,
    device: Device | None = None,
) -> Network:
    """conv(w, 5x5, pad 0) - pool - affine 100 - affine: the textbook's SimpleConvNet.

    Source: Deep Learning from Scratch, 7.5.
    """
    WIDTH.check("simple_convnet", width=width)
    architecture: Architecture = [ConvSpec(width, 5, 0), PoolSpec(), DenseSpec(100)]
    options = Options(tuple(input_shape), classes, activation, init, batch_norm, dropout, seed)
    return assemble("simple_convnet", architecture, options, device, {"width": width})


@checked
def cnn8(
    input_shape: Shape = (1, 28, 28),
    classes: int = 10,
    width: int = 64,
    activation: str = "relu",
    init: str | float = "he",
    batch_norm: bool | str = False,
    dropout: float = 0.0,
    seed: int = 0,
    device: Device | None = None,
) -> Network:
    """conv(w/4) x2 - pool - conv(w/2) x2 - pool - conv(w) x2 - pool - affine 50 - affine: the textbook's DeepConvNet.

    Source: Node_Layer_Network, CNN; Deep Learning from Scratch, 8.1.1.
    """
    WIDTH.check("cnn8", width=width)
    a, b, c = width // 4, width // 2, width
    architecture: Architecture = [
        ConvSpec(a), ConvSpec(a), PoolSpec(),
        ConvSpec(b), ConvSpec(b, pad=2), PoolSpec(),
        ConvSpec(c), ConvSpec(c), PoolSpec(),
        DenseSpec(50),
    ]  # fmt: skip
    options = Options(tuple(input_shape), classes, activation, init, batch_norm, dropout, seed)
    return assemble("cnn8", architecture, options, device, {"width": width})


@checked
def vgg11(
    input_shape: Shape = (1, 28, 28),
    classes: int = 10,
    width: int = 64,
    activation: str = "relu",
    init: str | float = "he",
    batch_norm: bool | str = False,
    dropout: float = 0.0,
    seed: int = 0,
    device: Device | None = None,
) -> Network:
    """VGG-11: 8 convolutions of w to 8w filters, 5 poolings, affine w*w - affine 4w - affine.

    Source: Simonyan and Zisserman, VGG (2015), table 1 A; the second convolution's padding is Node_Layer_Network's.
    """
    WIDTH.check("vgg11", width=width)
    w = width
    architecture: Architecture = [
        ConvSpec(w), PoolSpec(),
        ConvSpec(2 * w, pad=2), PoolSpec(),
        *[ConvSpec(4 * w)] * 2, PoolSpec(),
        *[ConvSpec(8 * w)] * 2, PoolSpec(),
        *[ConvSpec(8 * w)] * 2, PoolSpec(),
        DenseSpec(w * w), DenseSpec(4 * w),
    ]  # fmt: skip
    options = Options(tuple(input_shape), classes, activation, init, batch_norm, dropout, seed)
    return assemble("vgg11", architecture, options, device, {"width": width})


@checked
def vgg16(
    input_shape: Shape = (1, 28, 28),
    classes: int = 10,
    width: int = 64,
    activation: str = "relu",
    init: str | float = "he",
    batch_norm: bool | str = False,
    dropout: float = 0.0,
    seed: int = 0,
    device: Device | None = None,
) -> Network:
    """VGG-16: 13 convolutions of w to 8w filters, 5 poolings, affine w*w - affine 4w - affine.

    Source: Simonyan and Zisserman, VGG (2015), table 1 D; the fourth convolution's padding is Node_Layer_Network's.
    """
    WIDTH.check("vgg16", width=width)
    w = width
    architecture: Architecture = [
        *[ConvSpec(w)] * 2, PoolSpec(),
        ConvSpec(2 * w), ConvSpec(2 * w, pad=2), PoolSpec(),
        *[ConvSpec(4 * w)] * 3, PoolSpec(),
        *[ConvSpec(8 * w)] * 3, PoolSpec(),
        *[ConvSpec(8 * w)] * 3, PoolSpec(),
        DenseSpec(w * w), DenseSpec(4 * w),
    ]  # fmt: skip
    options = Options(tuple(input_shape), classes, activation, init, batch_norm, dropout, seed)
    return assemble("vgg16", architecture, options, device, {"width": width})


RESNETS = (resnet20, resnet32, resnet44, resnet56, resnet18)
MODELS: dict[str, ModelFunction] = {f.__name__: f for f in (mlp, cnn3, simple_convnet, cnn8, vgg11, vgg16, *RESNETS)}


def build(name: str, device: Device | None = None, label_smoothing: float = 0.0, **options: Any) -> Network:
    """Return the network of this name; `build(**net.spec)` creates the same again.

    Args:
        name: a name in `MODELS`.
        device: device of the network.
        label_smoothing: of the loss, see `nl_layers.SoftmaxWithLoss`.
        options: arguments of the model's function.

    Raises:
        UserError: for an unknown name, and for label smoothing of a network with another loss.

    >>> build("mlp", hidden=(5,), input_shape=(1, 2, 2), classes=3)
    mlp(input (1, 2, 2), 3 classes, 43 parameters)
    """
    if name not in MODELS:
        raise UserError(f"model {name!r} is unknown: use one of {', '.join(MODELS)}")
    net = checked(MODELS[name])(device=device, **options)
    if isinstance(net, Sequential):
        net.spec = {"name": name, **options}
    if label_smoothing:
        SHARE.check("model", label_smoothing=label_smoothing)
        if not isinstance(net.loss_layer, SoftmaxWithLoss):
            raise UserError(f"{name}: label_smoothing is of SoftmaxWithLoss, not of {type(net.loss_layer).__name__}")
        net.loss_layer.label_smoothing = label_smoothing
        net.spec["label_smoothing"] = label_smoothing
    return net
