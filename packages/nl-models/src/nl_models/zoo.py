"""The networks of Node_Layer_Network and of the textbook, Deep Learning from Scratch.

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
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from nl_models.builder import Architecture, ConvSpec, DenseSpec, Options, PoolSpec, assemble
from nl_models.network import Network
from nl_nodes import Device, UserError
from nl_nodes.typing import Shape

ModelFunction = Callable[..., Network]
"""A function that builds a network from the common arguments and its own."""


def mlp(
    input_shape: Shape = (1, 28, 28),
    classes: int = 10,
    width: int = 100,
    hidden: Sequence[int] | None = None,
    device: Device | None = None,
    **options: Any,
) -> Network:
    """A multilayer perceptron: input - 4 x `width` - classes, or the `hidden` widths given.

    Source: Node_Layer_Network, MLP; Deep Learning from Scratch, 6.2.4.
    """
    widths = list(hidden) if hidden is not None else [width] * 4
    architecture: Architecture = [DenseSpec(n) for n in widths]
    return _network("mlp", architecture, {"width": width, "hidden": widths}, input_shape, classes, device, options)


def cnn3(
    input_shape: Shape = (1, 28, 28), classes: int = 10, width: int = 64, device: Device | None = None, **options: Any
) -> Network:
    """conv(w/2, 5x5, pad 0) - pool - affine 100 - affine.

    Source: Node_Layer_Network, CNN; Deep Learning from Scratch, 7.5.
    """
    architecture: Architecture = [ConvSpec(width // 2, 5, 0), PoolSpec(), DenseSpec(100)]
    return _network("cnn3", architecture, {"width": width}, input_shape, classes, device, options)


def simple_convnet(
    input_shape: Shape = (1, 28, 28), classes: int = 10, width: int = 30, device: Device | None = None, **options: Any
) -> Network:
    """conv(w, 5x5, pad 0) - pool - affine 100 - affine: the textbook's SimpleConvNet.

    Source: Deep Learning from Scratch, 7.5.
    """
    architecture: Architecture = [ConvSpec(width, 5, 0), PoolSpec(), DenseSpec(100)]
    return _network("simple_convnet", architecture, {"width": width}, input_shape, classes, device, options)


def cnn8(
    input_shape: Shape = (1, 28, 28), classes: int = 10, width: int = 64, device: Device | None = None, **options: Any
) -> Network:
    """conv(w/4) x2 - pool - conv(w/2) x2 - pool - conv(w) x2 - pool - affine 50 - affine: the textbook's DeepConvNet.

    Source: Node_Layer_Network, CNN; Deep Learning from Scratch, 8.1.1.
    """
    a, b, c = width // 4, width // 2, width
    architecture: Architecture = [
        ConvSpec(a), ConvSpec(a), PoolSpec(),
        ConvSpec(b), ConvSpec(b, pad=2), PoolSpec(),
        ConvSpec(c), ConvSpec(c), PoolSpec(),
        DenseSpec(50),
    ]  # fmt: skip
    return _network("cnn8", architecture, {"width": width}, input_shape, classes, device, options)


def vgg11(
    input_shape: Shape = (1, 28, 28), classes: int = 10, width: int = 64, device: Device | None = None, **options: Any
) -> Network:
    """VGG-11: 8 convolutions of w to 8w filters, 5 poolings, affine w*w - affine 4w - affine.

    Source: Simonyan and Zisserman, VGG (2015), table 1 A; the second convolution's padding is Node_Layer_Network's.
    """
    w = width
    architecture: Architecture = [
        ConvSpec(w), PoolSpec(),
        ConvSpec(2 * w, pad=2), PoolSpec(),
        *[ConvSpec(4 * w)] * 2, PoolSpec(),
        *[ConvSpec(8 * w)] * 2, PoolSpec(),
        *[ConvSpec(8 * w)] * 2, PoolSpec(),
        DenseSpec(w * w), DenseSpec(4 * w),
    ]  # fmt: skip
    return _network("vgg11", architecture, {"width": width}, input_shape, classes, device, options)


def vgg16(
    input_shape: Shape = (1, 28, 28), classes: int = 10, width: int = 64, device: Device | None = None, **options: Any
) -> Network:
    """VGG-16: 13 convolutions of w to 8w filters, 5 poolings, affine w*w - affine 4w - affine.

    Source: Simonyan and Zisserman, VGG (2015), table 1 D; the fourth convolution's padding is Node_Layer_Network's.
    """
    w = width
    architecture: Architecture = [
        *[ConvSpec(w)] * 2, PoolSpec(),
        ConvSpec(2 * w), ConvSpec(2 * w, pad=2), PoolSpec(),
        *[ConvSpec(4 * w)] * 3, PoolSpec(),
        *[ConvSpec(8 * w)] * 3, PoolSpec(),
        *[ConvSpec(8 * w)] * 3, PoolSpec(),
        DenseSpec(w * w), DenseSpec(4 * w),
    ]  # fmt: skip
    return _network("vgg16", architecture, {"width": width}, input_shape, classes, device, options)


MODELS: dict[str, ModelFunction] = {f.__name__: f for f in (mlp, cnn3, simple_convnet, cnn8, vgg11, vgg16)}


def build(name: str, device: Device | None = None, **options: Any) -> Network:
    """Return the network of this name; `build(**net.spec)` creates the same again.

    >>> build("mlp", hidden=(5,), input_shape=(1, 2, 2), classes=3)
    mlp(input (1, 2, 2), 3 classes, 43 parameters)
    """
    if name not in MODELS:
        raise UserError(f"model {name!r} is unknown: use one of {', '.join(MODELS)}")
    known = {*inspect.signature(MODELS[name]).parameters, *inspect.signature(Options).parameters}
    if unknown := sorted(options.keys() - known):
        raise UserError(f"{name} takes no {unknown[0]!r}: it takes {', '.join(sorted(known - {'options'}))}")
    return MODELS[name](device=device, **options)


def _network(
    name: str,
    architecture: Architecture,
    extra: dict[str, Any],
    input_shape: Shape,
    classes: int,
    device: Device | None,
    options: dict[str, Any],
) -> Network:
    if extra["width"] < 4:
        raise UserError(f"width={extra['width']}: must be 4 or more")
    return assemble(name, architecture, Options(tuple(input_shape), classes, **options), device, extra)
