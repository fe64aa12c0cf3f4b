"""Masks of elements and of gradients: ReLU, dropout, stop-gradient."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

from nl_nodes.cases import Case, away, real
from nl_nodes.context import Context, NotShardable
from nl_nodes.errors import UserError
from nl_nodes.node import Node
from nl_nodes.nodes.arithmetic import Add, Elementwise, MulConst
from nl_nodes.shapes import size
from nl_nodes.typing import Array, Shape

WORDS = 2**64


class ValueMask(Elementwise):
    """`y = 0` where `x <= threshold`, else x; ReLU for threshold 0.

    Forward: y = x where not x <= threshold, else 0, compared by real part, so that NaN passes. Backward: dx = dy there,
    else 0, even if dy is not finite. Shapes: y has x's. Saves: saved, the mask.
    Kinks: at x = threshold the output and the gradient are 0.
    Errors: none. Source: Deep Learning from Scratch, 5.5.1.
    """

    saves = ("saved",)

    def __init__(self, x: Node, threshold: float = 0.0) -> None:
        self.threshold = threshold
        super().__init__(x)

    def forward(self, ctx: Context, *inputs: Array) -> Array:
        """Return `x`, or 0 up to the threshold."""
        x = inputs[0]
        ctx.saved = ~(x.real <= self.threshold)
        # Not x * mask: -inf * 0 is NaN.
        return ctx.xp.maximum(x, self.threshold) * ctx.saved

    def backward(self, ctx: Context, dy: Array) -> Array:
        """Return `dy`, or 0 up to the threshold."""
        return ctx.xp.where(ctx.saved, dy, 0)

    @classmethod
    def cases(cls) -> Iterator[Case]:
        """Yield both sides of the kink."""
        yield Case("rectifier", cls, (away(3, 4),))
        yield Case("threshold 0.5", lambda x: cls(x, 0.5), (away(3, 4, point=0.5),))
        yield Case("nothing passes", lambda x: cls(x, 1e6), (real(3),), zero=(0,))


class IndexMask(Elementwise):
    """Dropout without rescaling, deterministic in (seed, stream, pass index).

    Element i is set to 0 in pass p where word i of the counter-based generator Philox4x64-10, with key (seed, stream)
    and counter p, is below ratio * 2^64: an integer comparison, with the same result on every device and for every
    number of workers, which the pass index alone reproduces.

    Forward: y = x * (word >= ratio * 2^64). Backward: dx = dy * the same mask. Shapes: y has x's.
    Saves: saved, the mask. Kinks: none. Errors: `UserError` for a ratio outside [0, 1).
    Source: Srivastava et al., Dropout (2014), section 4; Salmon et al., Parallel Random Numbers (2011), section 3.3.
    """

    saves = ("saved",)

    def __init__(self, x: Node, ratio: float, seed: int = 0, stream: int = 0) -> None:
        if not 0 <= ratio < 1:
            raise UserError(f"IndexMask: ratio must be at least 0 and below 1, got {ratio}")
        self.ratio, self.seed, self.stream = ratio, seed, stream
        super().__init__(x)

    @property
    def position_dependent(self) -> bool:
        """True: element i uses word i."""
        return True

    def batch_axis(self, shapes: tuple[Shape, ...], axes: tuple[int | None, ...]) -> int | None:
        """Return the first axis: a worker's words start at its first sample."""
        if axes[0] != 0:
            raise NotShardable(type(self).__name__)
        return 0

    def forward(self, ctx: Context, *inputs: Array) -> Array:
        """Return `x * mask`."""
        x = inputs[0]
        words = ctx.random_bits(self.seed, self.stream, ctx.pass_index, size(x.shape))
        ctx.saved = (words >= int(Fraction(self.ratio) * WORDS)).reshape(x.shape)
        return x * ctx.saved

    def backward(self, ctx: Context, dy: Array) -> Array:
        """Return `dy * mask`."""
        return dy * ctx.saved

    @classmethod
    def cases(cls) -> Iterator[Case]:
        """Yield several ratios, and a word equal to its threshold."""
        yield Case("half", lambda x: cls(x, 0.5, seed=3), (real(4, 5),))
        yield Case("none", lambda x: cls(x, 0.0), (real(4, 5),))
        # Word 1 of this stream equals ratio * 2^64 exactly: its element is kept.
        yield Case("on the limit", lambda x: cls(x, 8809539400576710656 / 2**64, seed=402), (real(20),))
        yield Case("scaled", lambda x: MulConst(cls(x, 0.3, seed=1, stream=2), 2), (real(4, 5),))


class StopGradient(Elementwise):
    """`y = x`, treated as a constant in differentiation.

    Forward: y = x, the real part of a complex x, so that a complex step sees a constant too. Backward: none.
    Shapes: y has x's. Saves: nothing. Kinks: none. Errors: none.
    Source: Chen and He, Exploring Simple Siamese Representation Learning (2021), section 3.
    """

    constant = True

    def forward(self, ctx: Context, *inputs: Array) -> Array:
        """Return `x`."""
        return inputs[0].real.astype(inputs[0].dtype)

    @classmethod
    def cases(cls) -> Iterator[Case]:
        """Yield the node alone, and beside a path that has a gradient."""
        yield Case("alone", cls, (real(3),), zero=(0,), surrogate=True)
        yield Case("beside", lambda x: Add(MulConst(x, 3), cls(x)), (real(3),), surrogate=True)
