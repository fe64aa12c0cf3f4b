"""Layers made of layers: one after another, or a branch beside a shortcut."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial

from nl_layers.activations import Tanh
from nl_layers.affine import Affine
from nl_layers.convolution import Convolution
from nl_layers.module import Drawing, Layer, LayerCase, Mode
from nl_layers.normalization import BatchNormalization
from nl_nodes import Node, Pad, ShapeError, Slice, UserError
from nl_nodes.arguments import COUNT
from nl_nodes.cases import real


class Sequential(Layer):
    """Layers one after another, as one layer. A network of layers, with a loss, is `nl_models.Sequential`.

    Args:
        layers: the layers in order; none make the identity.

    x and y have the shapes of the first layer's input and of the last one's output.

    Raises:
        UserError: for anything that is no layer, and a layer that is there twice.
    """

    def __init__(self, layers: Iterable[Layer] = ()) -> None:
        super().__init__()
        if isinstance(layers, Layer):
            raise UserError(f"Sequential: layers must be a list, such as [{layers!r:.60}]")
        layers = tuple(layers)
        _check("Sequential", *layers)
        self.layers = layers

    def wire(self, *inputs: Node, mode: Mode) -> Node:
        """x -> the first layer -> ... -> the last layer."""
        x = inputs[0]
        for layer in self.layers:
            x = mode.wire(layer, x)
        return x

    @classmethod
    def cases(cls) -> Iterator[LayerCase]:
        """Layers with parameters of the same names, and a sequence in a sequence."""
        yield LayerCase("two affine layers", lambda draw: cls([*_affine(draw), Tanh(), *_affine(draw)]), (real(3, 4),))
        yield LayerCase("nested", lambda draw: cls([cls(_affine(draw)), Tanh(), cls(_affine(draw))]), (real(3, 4),))


class Residual(Layer):
    """y = branch(x) + shortcut(x).

    Args:
        branch: the layer that learns the residual, such as a `Sequential`.
        shortcut: the layer beside it; None is the identity.

    Branch and shortcut give the same shape, which is y's.

    Raises:
        ShapeError: where the shapes of branch and shortcut differ.
        UserError: for anything that is no layer, and a layer that is there twice.

    Source: He et al., Deep Residual Learning for Image Recognition (2016), 3.2, equations 1 and 2.
    """

    def __init__(self, branch: Layer, shortcut: Layer | None = None) -> None:
        super().__init__()
        _check("Residual", *([branch] if shortcut is None else [branch, shortcut]))
        self.branch, self.shortcut = branch, shortcut

    def wire(self, *inputs: Node, mode: Mode) -> Node:
        """x -> branch -> Add to x -> shortcut."""
        x = inputs[0]
        y = mode.wire(self.branch, x)
        beside = x if self.shortcut is None else mode.wire(self.shortcut, x)
        if y.shape != beside.shape:
            kind = "the identity" if self.shortcut is None else type(self.shortcut).__name__
            raise ShapeError(
                f"Residual: the branch gives {y.shape}, the shortcut ({kind}) {beside.shape}: make them equal"
            )
        return y + beside

    @classmethod
    def cases(cls) -> Iterator[LayerCase]:
        """The identity, zero padding, a projection, and a block in a block."""
        yield LayerCase("identity", lambda draw: cls(Sequential([*_affine(draw), Tanh()])), (real(3, 4),))
        yield LayerCase("zero padding", lambda draw: cls(_block(draw), ZeroPadShortcut(3, 2)), (real(2, 2, 4, 5),))
        yield LayerCase("projection", lambda draw: cls(_block(draw), _projection(draw)), (real(2, 2, 4, 5),))
        yield LayerCase("nested", lambda draw: cls(cls(*_affine(draw)), *_affine(draw)), (real(3, 4),))


class ZeroPadShortcut(Layer):
    """y[n, c, i, j] = x[n, c, i s, j s] for the channels of x, 0 for further ones up to `filters`.

    Args:
        filters: number of channels of y, at least that of x.
        stride: the step s between the pixels taken.

    x is (N, C, H, W); y is (N, filters, ceil(H / s), ceil(W / s)).

    Raises:
        ShapeError: where x is not (N, C, H, W), or has more channels than `filters`.
        UserError: for an argument out of its range.

    Source: He et al., Deep Residual Learning for Image Recognition (2016), 3.3 and 4.1, shortcuts of option A.
    """

    def __init__(self, filters: int, stride: int = 1) -> None:
        super().__init__()
        COUNT.check("ZeroPadShortcut", filters=filters, stride=stride)
        self.filters, self.stride = filters, stride

    def wire(self, *inputs: Node, mode: Mode) -> Node:
        """x -> Slice -> Pad."""
        x = inputs[0]
        if x.shape is None or len(x.shape) != 4 or x.shape[1] > self.filters:
            raise ShapeError(f"ZeroPadShortcut: needs images (N, up to {self.filters}, H, W), got {x.shape}")
        step = slice(None, None, self.stride)
        taken = Slice(x, (slice(None), slice(None), step, step))
        return Pad(taken, ((0, 0), (0, self.filters - x.shape[1]), (0, 0), (0, 0)))

    @classmethod
    def cases(cls) -> Iterator[LayerCase]:
        """More channels, fewer pixels, both, and neither."""
        for filters, stride in ((5, 1), (2, 2), (4, 3), (2, 1)):
            yield LayerCase(f"to {filters}, stride {stride}", partial(cls._case, filters, stride), (real(2, 2, 4, 5),))

    @classmethod
    def _case(cls, filters: int, stride: int, draw: Drawing) -> ZeroPadShortcut:
        return cls(filters, stride)


def _check(owner: str, *layers: Layer) -> None:
    """Refuse anything that is no layer."""
    for layer in layers:
        if not isinstance(layer, Layer):
            raise UserError(f"{owner}: {layer!r:.60} is no layer: use those of nl_layers, or your own")


def _affine(draw: Drawing) -> tuple[Affine]:
    return (Affine(draw(real(4, 4)), draw(real(4))),)


def _block(draw: Drawing) -> Sequential:
    """Return a convolution to three channels with stride 2, and another."""
    first, second = Convolution(draw(real(3, 2, 3, 3)), None, 2, 1), Convolution(draw(real(3, 3, 3, 3)), None, 1, 1)
    norm = BatchNormalization(draw(real(3)), draw(real(3)))
    return Sequential([first, norm, Tanh(), second])


def _projection(draw: Drawing) -> Sequential:
    """Return a 1x1 convolution to three channels with stride 2, and batch normalisation."""
    norm = BatchNormalization(draw(real(3)), draw(real(3)))
    return Sequential([Convolution(draw(real(3, 2, 1, 1)), None, 2), norm])
