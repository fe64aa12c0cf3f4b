"""Elementwise functions of one variable."""

from __future__ import annotations

from collections.abc import Iterator

from nl_nodes.cases import Case, positive, real
from nl_nodes.context import Context
from nl_nodes.nodes.arithmetic import Elementwise, MulConst
from nl_nodes.typing import Array


class Exp(Elementwise):
    """`y = exp(x)`.

    Forward: y = exp(x). Backward: dx = dy * y. Shapes: y has x's. Saves: output. Kinks: none.
    Errors: none (x above about 88 in float32, 709 in float64, overflows). Source: Deep Learning from Scratch, 5.5.2.
    """

    saves = ("output",)

    def forward(self, ctx: Context, *inputs: Array) -> Array:
        """Return `exp(x)`."""
        return ctx.xp.exp(inputs[0])

    def backward(self, ctx: Context, dy: Array) -> Array:
        """Return `dy * y`."""
        return dy * ctx.output

    @classmethod
    def cases(cls) -> Iterator[Case]:
        """Yield normal values."""
        yield Case("matrix", cls, (real(3, 4),))
        yield Case("scalar", cls, (real(),))


class Log(Elementwise):
    """`y = log(x)`, the natural logarithm.

    Forward: y = log(x). Backward: dx = dy / x. Shapes: y has x's. Saves: inputs.
    Kinks: none; x <= 0 is outside the domain. Errors: none. Source: Deep Learning from Scratch, appendix A.
    """

    saves = ("inputs",)

    def forward(self, ctx: Context, *inputs: Array) -> Array:
        """Return `log(x)`."""
        return ctx.xp.log(inputs[0])

    def backward(self, ctx: Context, dy: Array) -> Array:
        """Return `dy / x`."""
        return dy / ctx.inputs[0]

    @classmethod
    def cases(cls) -> Iterator[Case]:
        """Yield positive values."""
        yield Case("matrix", cls, (positive(3, 4),))
        yield Case("scalar", cls, (positive(),))


class Tanh(Elementwise):
    """`y = tanh(x)`, finite for every finite x.

    Forward: y = tanh(x). Backward: dx = dy * (1 - y^2). Shapes: y has x's. Saves: output. Kinks: none.
    Errors: none. Source: elementary calculus.
    """

    saves = ("output",)

    def forward(self, ctx: Context, *inputs: Array) -> Array:
        """Return `tanh(x)`."""
        return ctx.xp.tanh(inputs[0])

    def backward(self, ctx: Context, dy: Array) -> Array:
        """Return `dy * (1 - y^2)`."""
        return dy * (1 - ctx.output * ctx.output)

    @classmethod
    def cases(cls) -> Iterator[Case]:
        """Yield normal and large values."""
        yield Case("matrix", cls, (real(3, 4),))
        yield Case("steep", lambda x: cls(MulConst(x, 3)), (real(5),))


class Sigmoid(Elementwise):
    """`y = 1 / (1 + exp(-x))` without overflow, to full relative precision where y is small.

    Forward: y = exp(min(x, 0)) / (1 + exp(-|x|)). Backward: dx = dy * y * (1 - y). Shapes: y has x's. Saves: output.
    Kinks: none (both branches agree at 0). Errors: none. Source: Deep Learning from Scratch, 5.5.2.
    """

    saves = ("output",)

    def forward(self, ctx: Context, *inputs: Array) -> Array:
        """Return `1 / (1 + exp(-x))`."""
        return _sigmoid(ctx, inputs[0])

    def backward(self, ctx: Context, dy: Array) -> Array:
        """Return `dy * y * (1 - y)`."""
        return dy * ctx.output * (1 - ctx.output)

    @classmethod
    def cases(cls) -> Iterator[Case]:
        """Yield normal and large values, and zero, where the branches join."""
        yield Case("matrix", cls, (real(3, 4),))
        yield Case("steep", lambda x: cls(MulConst(x, 10)), (real(7),))
        yield Case("zero", lambda x: cls(MulConst(x, 0)), (real(3),), zero=(0,))


class Softplus(Elementwise):
    """`y = log(1 + exp(x))` without overflow.

    Forward: y = max(x, 0) + log1p(exp(-|x|)). Backward: dx = dy * sigmoid(x). Shapes: y has x's. Saves: inputs.
    Kinks: none (both branches agree at 0). Errors: none.
    Source: Glorot, Bordes and Bengio, Deep Sparse Rectifier Neural Networks (2011), section 3.
    """

    saves = ("inputs",)

    def forward(self, ctx: Context, *inputs: Array) -> Array:
        """Return `log(1 + exp(x))`."""
        x, xp = inputs[0], ctx.xp
        return xp.maximum(x, 0) + xp.log1p(xp.exp(-xp.maximum(x, -x)))

    def backward(self, ctx: Context, dy: Array) -> Array:
        """Return `dy * sigmoid(x)`."""
        return dy * _sigmoid(ctx, ctx.inputs[0])

    @classmethod
    def cases(cls) -> Iterator[Case]:
        """Yield normal and large values, and zero, where the branches join."""
        yield Case("matrix", cls, (real(3, 4),))
        yield Case("large", lambda x: cls(MulConst(x, 20)), (real(7),))
        yield Case("zero", lambda x: cls(MulConst(x, 0)), (real(3),), zero=(0,))


def _sigmoid(ctx: Context, x: Array) -> Array:
    """Return `1 / (1 + exp(-x))`, computed with exponents of at most 0.

    NumPy orders complex numbers by real, then imaginary part, so both maxima choose the same branch.
    """
    xp = ctx.xp
    return xp.exp(-xp.maximum(-x, 0)) / (1 + xp.exp(-xp.maximum(x, -x)))
