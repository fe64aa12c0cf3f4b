"""Residual networks (He et al., Deep Residual Learning for Image Recognition, 2016) for small images.

The arguments are those of `nl_models.zoo`, with these differences:

    shortcuts: False for the plain network: the same layers without shortcuts.
    batch_norm: each convolution has batch norm before the activation, so that False, True and "before_activation" give
        the same network; other positions are refused.
    dropout: dropout ratio before the affine layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from nl_layers import Dropout, GlobalAveragePooling, Layer, ZeroPadShortcut
from nl_models.builder import ACTIVATIONS, WIDTH, Options, assemble_layers
from nl_models.network import Network
from nl_models.specs import BatchNormSpec, ConvSpec, DenseSpec, LayerSpec, ResidualSpec
from nl_nodes import Device, UserError
from nl_nodes.arguments import checked
from nl_nodes.typing import Shape

Layers = Sequence[Layer | LayerSpec]


@checked
def resnet20(
    input_shape: Shape = (3, 32, 32),
    classes: int = 10,
    width: int = 16,
    shortcuts: bool = True,
    activation: str = "relu",
    init: str | float = "he",
    batch_norm: bool | str = False,
    dropout: float = 0.0,
    seed: int = 0,
    device: Device | None = None,
) -> Network:
    """ResNet-20: a convolution, three stages of 3 blocks of w, 2w, 4w filters, global average pooling - affine.

    A shortcut to more filters has zeros in the new channels, and every other pixel.

    Source: He et al. (2016), 4.2; zero padding is option A of 3.3.
    """
    options = Options(tuple(input_shape), classes, activation, init, batch_norm, dropout, seed)
    return _assemble("resnet20", 3, 3, width, shortcuts, False, options, device)


@checked
def resnet32(
    input_shape: Shape = (3, 32, 32),
    classes: int = 10,
    width: int = 16,
    shortcuts: bool = True,
    activation: str = "relu",
    init: str | float = "he",
    batch_norm: bool | str = False,
    dropout: float = 0.0,
    seed: int = 0,
    device: Device | None = None,
) -> Network:
    """ResNet-32: a convolution, three stages of 5 blocks of w, 2w, 4w filters, global average pooling - affine.

    A shortcut to more filters has zeros in the new channels, and every other pixel.

    Source: He et al. (2016), 4.2; zero padding is option A of 3.3.
    """
    options = Options(tuple(input_shape), classes, activation, init, batch_norm, dropout, seed)
    return _assemble("resnet32", 3, 5, width, shortcuts, False, options, device)


@checked
def resnet44(
    input_shape: Shape = (3, 32, 32),
    classes: int = 10,
    width: int = 16,
    shortcuts: bool = True,
    activation: str = "relu",
    init: str | float = "he",
    batch_norm: bool | str = False,
    dropout: float = 0.0,
    seed: int = 0,
    device: Device | None = None,
) -> Network:
    """ResNet-44: a convolution, three stages of 7 blocks of w, 2w, 4w filters, global average pooling - affine.

    A shortcut to more filters has zeros in the new channels, and every other pixel.

    Source: He et al. (2016), 4.2; zero padding is option A of 3.3.
    """
    options = Options(tuple(input_shape), classes, activation, init, batch_norm, dropout, seed)
    return _assemble("resnet44", 3, 7, width, shortcuts, False, options, device)


@checked
def resnet56(
    input_shape: Shape = (3, 32, 32),
    classes: int = 10,
    width: int = 16,
    shortcuts: bool = True,
    activation: str = "relu",
    init: str | float = "he",
    batch_norm: bool | str = False,
    dropout: float = 0.0,
    seed: int = 0,
    device: Device | None = None,
) -> Network:
    """ResNet-56: a convolution, three stages of 9 blocks of w, 2w, 4w filters, global average pooling - affine.

    A shortcut to more filters has zeros in the new channels, and every other pixel.

    Source: He et al. (2016), 4.2; zero padding is option A of 3.3.
    """
    options = Options(tuple(input_shape), classes, activation, init, batch_norm, dropout, seed)
    return _assemble("resnet56", 3, 9, width, shortcuts, False, options, device)


@checked
def resnet18(
    input_shape: Shape = (3, 32, 32),
    classes: int = 10,
    width: int = 64,
    shortcuts: bool = True,
    activation: str = "relu",
    init: str | float = "he",
    batch_norm: bool | str = False,
    dropout: float = 0.0,
    seed: int = 0,
    device: Device | None = None,
) -> Network:
    """ResNet-18 for small images: a 3x3 convolution without pooling, four stages of 2 blocks of w to 8w filters.

    A shortcut to more filters is a projection: a 1x1 convolution with batch norm.

    Source: He et al. (2016), table 1; projections are option B of 3.3. The first layers are those of 4.2.
    """
    options = Options(tuple(input_shape), classes, activation, init, batch_norm, dropout, seed)
    return _assemble("resnet18", 4, 2, width, shortcuts, True, options, device)


def _assemble(
    name: str,
    stages: int,
    blocks: int,
    width: int,
    shortcuts: bool,
    project: bool,
    options: Options,
    device: Device | None,
) -> Network:
    """Return a network of stages of blocks; each stage has twice the filters of the one before it."""
    WIDTH.check(name, width=width)
    if not isinstance(shortcuts, bool):
        raise UserError(f"{name}: shortcuts must be True or False, got {shortcuts!r}")
    if options.position not in (False, "before_activation"):
        raise UserError(f"{name}: batch_norm={options.batch_norm} is not its architecture: use before_activation")

    def layers() -> Iterator[Layer | LayerSpec]:
        activation = ACTIVATIONS[options.activation]
        yield from (*_convolution(width), activation())
        for stage in range(stages):
            for block in range(blocks):
                filters, stride = width * 2**stage, 2 if stage and not block else 1
                branch = [*_convolution(filters, stride), activation(), *_convolution(filters)]
                if shortcuts:
                    yield ResidualSpec(branch, _shortcut(filters, stride, project) if stride > 1 else ())
                else:
                    yield from branch
                yield activation()
        yield GlobalAveragePooling()
        if options.dropout:
            yield Dropout(options.dropout)
        yield DenseSpec(options.classes)

    return assemble_layers(name, layers(), options, device, {"width": width, "shortcuts": shortcuts})


def _convolution(filters: int, stride: int = 1, size: int = 3) -> Layers:
    return ConvSpec(filters, size, pad=size // 2, stride=stride, bias=False), BatchNormSpec()


def _shortcut(filters: int, stride: int, project: bool) -> Layers:
    return _convolution(filters, stride, size=1) if project else [ZeroPadShortcut(filters, stride)]
