"""Functions of one variable, element by element."""

from __future__ import annotations

from collections.abc import Iterator

from nl_nodes.cases import Case, positive, real
from nl_nodes.node import Kept
from nl_nodes.nodes.arithmetic import Elementwise, MulConst
from nl_nodes.typing import Array


class Exp(Elementwise):
    """y = e^x.

    Forward: y = exp(x). Backward: dx = dy * y. Shapes: y has x's. Keeps: output. Kinks: none.
    Errors: none (x above about 88 in float32, 709 in float64, overflows). Source: Deep Learning from Scratch, 5.5.2.
    """

    keeps = ("output",)

    def forward(self, kept: Kept, *inputs: Array) -> Array:
        """exp(x)."""
        return kept.xp.exp(inputs[0])

    def backward(self, kept: Kept, dy: Array) -> Array:
        """Dy * y."""
        return dy * kept.output

    @classmethod
    def cases(cls) -> Iterator[Case]:
        """Normal values."""
        yield Case("matrix", cls, (real(3, 4),))
        yield Case("scalar", cls, (real(),))


class Log(Elementwise):
    """y = ln x.

    Forward: y = log(x). Backward: dx = dy / x. Shapes: y has x's. Keeps: inputs.
    Kinks: none; x <= 0 is outside the domain. Errors: none. Source: Deep Learning from Scratch, appendix A.
    """

    keeps = ("inputs",)

    def forward(self, kept: Kept, *inputs: Array) -> Array:
        """log(x)."""
        return kept.xp.log(inputs[0])

    def backward(self, kept: Kept, dy: Array) -> Array:
        """Dy / x."""
        return dy / kept.inputs[0]

    @classmethod
    def cases(cls) -> Iterator[Case]:
        """Positive values."""
        yield Case("matrix", cls, (positive(3, 4),))
        yield Case("scalar", cls, (positive(),))


class Tanh(Elementwise):
    """y = tanh x, finite for every finite x.

    Forward: y = tanh(x). Backward: dx = dy * (1 - y^2). Shapes: y has x's. Keeps: output. Kinks: none.
    Errors: none. Source: elementary calculus.
    """

    keeps = ("output",)

    def forward(self, kept: Kept, *inputs: Array) -> Array:
        """tanh(x)."""
        return kept.xp.tanh(inputs[0])

    def backward(self, kept: Kept, dy: Array) -> Array:
        """Dy * (1 - y^2)."""
        return dy * (1 - kept.output * kept.output)

    @classmethod
    def cases(cls) -> Iterator[Case]:
        """Normal and large values."""
        yield Case("matrix", cls, (real(3, 4),))
        yield Case("steep", lambda x: cls(MulConst(x, 3)), (real(5),))


class Softplus(Elementwise):
    """y = ln(1 + e^x), without overflow.

    Forward: y = m + log1p(exp(x - 2m)) with m = x where x > 0, else 0, since |x| = 2m - x.
    Backward: dx = dy * sigmoid(x), computed as (1 + tanh(x / 2)) / 2. Shapes: y has x's. Keeps: inputs.
    Kinks: none (both branches agree at 0). Errors: none.
    Source: Glorot, Bordes and Bengio, Deep Sparse Rectifier Neural Networks (2011), section 3.
    """

    keeps = ("inputs",)

    def forward(self, kept: Kept, *inputs: Array) -> Array:
        """log(1 + exp(x))."""
        x = inputs[0]
        m = x * (x.real > 0)
        return m + kept.xp.log1p(kept.xp.exp(x - 2 * m))

    def backward(self, kept: Kept, dy: Array) -> Array:
        """Dy * sigmoid(x)."""
        return dy * (0.5 * (1 + kept.xp.tanh(0.5 * kept.inputs[0])))

    @classmethod
    def cases(cls) -> Iterator[Case]:
        """Normal and large values, and zero, where the branches meet."""
        yield Case("matrix", cls, (real(3, 4),))
        yield Case("large", lambda x: cls(MulConst(x, 20)), (real(7),))
        yield Case("zero", lambda x: cls(MulConst(x, 0)), (real(3),), zero=(0,))
