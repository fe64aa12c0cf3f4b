"""Sums, means and maxima over axes, and repetition along an axis."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from nl_nodes.cases import Case, distinct, real
from nl_nodes.context import PARTIAL_SUM, Context, NotShardable
from nl_nodes.errors import UserError
from nl_nodes.node import Node
from nl_nodes.shapes import normalise, reduced, size
from nl_nodes.typing import Array, Axis, Shape


class Reduction(Node, abstract=True):
    """Base class of reductions over `axis`: None (all), an index or several, negative ones from the end."""

    def __init__(self, x: Node, axis: Axis = None, keepdims: bool = False) -> None:
        self.axis, self.keepdims = axis, keepdims
        super().__init__(x)

    def infer(self, *shapes: Shape) -> Shape:
        """Return the input's shape without the reduced axes, or with ones there."""
        return reduced(shapes[0], normalise(self.axis, len(shapes[0])), self.keepdims)

    def batch_axis(self, shapes: tuple[Shape, ...], axes: tuple[int | None, ...]) -> int | None:
        """Return the input's batch axis in the output, or `batch_reduction` where it is reduced."""
        axis = axes[0]
        assert axis is not None
        removed = normalise(self.axis, len(shapes[0]))
        if axis in removed:
            return self.batch_reduction()
        return axis if self.keepdims else axis - sum(a < axis for a in removed)

    def batch_reduction(self) -> int:
        """Return `PARTIAL_SUM` where parts of the batch can be reduced separately and added."""
        raise NotShardable(type(self).__name__)

    def expand(self, ctx: Context, dy: Array) -> Array:
        """Return the output's gradient broadcast along the reduced axes, a read-only view."""
        shape = ctx.shapes[0]
        axes = normalise(self.axis, len(shape))
        return ctx.xp.broadcast_to(dy.reshape(reduced(shape, axes, keepdims=True)), shape)


class Sum(Reduction):
    """Sum over axes.

    Forward: y = sum(x, axis). Backward: dx = dy, repeated along the axes. Shapes: y without the axes (ones with
    `keepdims`). Saves: nothing. Kinks: none. Errors: `ShapeError` for an axis that x lacks.
    Source: Deep Learning from Scratch 2, 1.3.4.
    """

    def batch_reduction(self) -> int:
        """Return `PARTIAL_SUM`."""
        return PARTIAL_SUM

    def forward(self, ctx: Context, *inputs: Array) -> Array:
        """Return `sum(x, axis)`."""
        x = inputs[0]
        return x.sum(axis=normalise(self.axis, x.ndim), keepdims=self.keepdims)

    def backward(self, ctx: Context, dy: Array) -> Array:
        """Return `dy` repeated along the reduced axes."""
        return self.expand(ctx, dy)

    @classmethod
    def cases(cls) -> Iterator[Case]:
        """Yield every form of `axis`."""
        for axis in (None, 0, -1, (0, 2), (-1, 1)):
            for keepdims in (False, True):
                label = f"axis {axis}, keepdims {keepdims}"
                yield Case(label, lambda x, a=axis, k=keepdims: cls(x, a, k), (real(2, 3, 4),), linear=True)
        yield Case("scalar", cls, (real(),), linear=True)


class Mean(Reduction):
    """Mean over axes.

    Forward: y = sum(x, axis) / n, n the number of elements per mean. Backward: dx = dy / n, repeated along the axes.
    Shapes: y without the axes (ones with `keepdims`). Saves: nothing. Kinks: none.
    Errors: `ShapeError` for an axis that x lacks, and for a mean of no elements.
    Source: Ioffe and Szegedy, Batch Normalization (2015), algorithm 1.
    """

    def infer(self, *shapes: Shape) -> Shape:
        """Return the input's shape without the reduced axes, or with ones there."""
        out = super().infer(*shapes)
        if size(out) and not size(shapes[0]):
            raise self.misfit("a mean of no elements", *shapes)
        return out

    def count(self, shape: Shape) -> int:
        """Return the number of elements per mean."""
        return size(tuple(shape[a] for a in normalise(self.axis, len(shape))))

    def forward(self, ctx: Context, *inputs: Array) -> Array:
        """Return `sum(x, axis) / n`."""
        x = inputs[0]
        return x.sum(axis=normalise(self.axis, x.ndim), keepdims=self.keepdims) / self.count(x.shape)

    def backward(self, ctx: Context, dy: Array) -> Array:
        """Return `dy / n` repeated along the reduced axes."""
        return self.expand(ctx, dy / self.count(ctx.shapes[0]))

    @classmethod
    def cases(cls) -> Iterator[Case]:
        """Yield every form of `axis`."""
        for axis in (None, 0, -1, (0, 2), (-1, 1)):
            for keepdims in (False, True):
                label = f"axis {axis}, keepdims {keepdims}"
                yield Case(label, lambda x, a=axis, k=keepdims: cls(x, a, k), (real(2, 3, 4),))
        yield Case("power of two", lambda x: cls(x, 1), (real(3, 4),), linear=True)


class Max(Reduction):
    """Maximum over axes.

    Forward: y = max(x, axis), ordered by real part; NaN counts as the largest. Backward: dx = dy at the maximum, 0
    elsewhere. Shapes: y without the axes (ones with `keepdims`). Saves: saved, the mask of the maxima.
    Kinks: of tied maxima the first in row-major order over the axes gets the whole gradient.
    Errors: `ShapeError` for an axis that x lacks, and for a maximum of no elements.
    Source: Deep Learning from Scratch, 7.4.4.
    """

    saves = ("saved",)

    def infer(self, *shapes: Shape) -> Shape:
        """Return the input's shape without the reduced axes, or with ones there."""
        shape = shapes[0]
        if any(shape[a] == 0 for a in normalise(self.axis, len(shape))):
            raise self.misfit("a maximum of no elements", shape)
        return super().infer(shape)

    def forward(self, ctx: Context, *inputs: Array) -> Array:
        """Return `max(x, axis)`."""
        x = inputs[0]
        axes = normalise(self.axis, x.ndim)
        largest = x.real.max(axis=axes, keepdims=True)
        ctx.saved = self._first(ctx, (x.real == largest) | (x.real != x.real), largest, axes)
        # Not x.max, which breaks ties of complex numbers' real parts by their imaginary parts.
        return ctx.xp.where(ctx.saved, x, 0).sum(axis=axes, keepdims=self.keepdims)

    def backward(self, ctx: Context, dy: Array) -> Array:
        """Return `dy` at the first maximum, 0 elsewhere."""
        return ctx.xp.where(ctx.saved, self.expand(ctx, dy), 0)

    def _first(self, ctx: Context, mask: Array, y: Array, axes: tuple[int, ...]) -> Array:
        """Return the mask with only the first True, in row-major order over the axes; y has the reduced shape."""
        first = ctx.xp.zeros_like(mask)
        seen = ctx.xp.zeros_like(y, dtype=bool)  # in y's layout, for contiguous access
        # One position at a time, with whole-array operations: logical_or.accumulate works element by element.
        for index in product(*(range(mask.shape[a]) for a in axes)):
            at = [slice(None)] * mask.ndim
            for a, i in zip(axes, index, strict=True):
                at[a] = slice(i, i + 1)
            here = tuple(at)
            first[here] = mask[here] & ~seen
            seen |= mask[here]
        return first

    @classmethod
    def cases(cls) -> Iterator[Case]:
        """Yield every form of `axis`."""
        for axis in (None, 0, -1, (0, 2), (-1, 1)):
            for keepdims in (False, True):
                label = f"axis {axis}, keepdims {keepdims}"
                yield Case(label, lambda x, a=axis, k=keepdims: cls(x, a, k), (distinct(2, 3, 4),))


class Repeat(Node):
    """Each element repeated r times along an axis.

    Forward: y = repeat(x, r, axis). Backward: dx = dy summed over each element's r copies.
    Shapes: y's axis is r times x's. Saves: nothing. Kinks: none.
    Errors: `ShapeError` for an axis that x lacks, `UserError` for r < 1.
    Source: Deep Learning from Scratch 2, 1.3.4.
    """

    def __init__(self, x: Node, repeats: int, axis: int) -> None:
        if repeats < 1:
            raise UserError(f"Repeat: repeats must be 1 or more, got {repeats}")
        self.repeats, self.axis = repeats, axis
        super().__init__(x)

    def infer(self, *shapes: Shape) -> Shape:
        """Return the input's shape, its axis r times as long."""
        (a,) = normalise(self.axis, len(shapes[0]))
        return tuple(n * self.repeats if i == a else n for i, n in enumerate(shapes[0]))

    def forward(self, ctx: Context, *inputs: Array) -> Array:
        """Return `repeat(x, r, axis)`."""
        return ctx.xp.repeat(inputs[0], self.repeats, axis=self.axis)

    def backward(self, ctx: Context, dy: Array) -> Array:
        """Return the sum of `dy` over each element's copies."""
        shape = ctx.shapes[0]
        (a,) = normalise(self.axis, len(shape))
        return dy.reshape((*shape[: a + 1], self.repeats, *shape[a + 1 :])).sum(axis=a + 1)

    @classmethod
    def cases(cls) -> Iterator[Case]:
        """Yield axes of size 1 and more, from either end."""
        yield Case("size-1 axis", lambda x: cls(x, 3, 0), (real(1, 4),), linear=True)
        yield Case("last axis", lambda x: cls(x, 2, -1), (real(2, 3),), linear=True)
        yield Case("middle axis", lambda x: cls(x, 2, 1), (real(2, 3, 2),), linear=True)
