"""Sums, means and maxima over axes, and the repetition that undoes a sum's shape."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from nl_nodes.cases import Case, distinct, real
from nl_nodes.errors import UserError
from nl_nodes.node import PARTIAL_SUM, Context, Node, NotShardable
from nl_nodes.shapes import normalise, reduced, size
from nl_nodes.typing import Array, Axis, Shape


class Reduction(Node, abstract=True):
    """Base of the nodes that reduce axes: `axis` None (all), a number or several, negative ones from the end."""

    def __init__(self, x: Node, axis: Axis = None, keepdims: bool = False) -> None:
        self.axis = axis
        self.keepdims = keepdims
        super().__init__(x)

    def infer(self, *shapes: Shape) -> Shape:
        """The input's shape without (or with ones for) the reduced axes."""
        return reduced(shapes[0], normalise(self.axis, len(shapes[0])), self.keepdims)

    def batch_axis(self, shapes: tuple[Shape, ...], axes: tuple[int | None, ...]) -> int | None:
        """The input's, unless that is reduced."""
        axis = axes[0]
        assert axis is not None
        gone = normalise(self.axis, len(shapes[0]))
        if axis in gone:
            return self.over_samples()
        return axis if self.keepdims else axis - sum(a < axis for a in gone)

    def over_samples(self) -> int:
        """What a reduction of the samples' axis is: `PARTIAL_SUM`, or no such thing."""
        raise NotShardable(type(self).__name__)

    def spread(self, ctx: Context, dy: Array) -> Array:
        """The upstream gradient repeated along the reduced axes, as a read-only view."""
        shape = ctx.shapes[0]
        axes = normalise(self.axis, len(shape))
        return ctx.xp.broadcast_to(dy.reshape(reduced(shape, axes, keepdims=True)), shape)


class Sum(Reduction):
    """y = sum of x over axes.

    Forward: y = sum(x, axis). Backward: dx = dy, repeated along the axes. Shapes: y without the axes (ones with
    `keepdims`). Keeps: nothing. Kinks: none. Errors: `ShapeError` for an axis that x lacks.
    Source: Deep Learning from Scratch 2, 1.3.4.
    """

    def over_samples(self) -> int:
        """A sum of sums."""
        return PARTIAL_SUM

    def forward(self, ctx: Context, *inputs: Array) -> Array:
        """sum(x, axis)."""
        x = inputs[0]
        return x.sum(axis=normalise(self.axis, x.ndim), keepdims=self.keepdims)

    def backward(self, ctx: Context, dy: Array) -> Array:
        """Dy along every reduced axis."""
        return self.spread(ctx, dy)

    @classmethod
    def cases(cls) -> Iterator[Case]:
        """Every form of axis."""
        for axis in (None, 0, -1, (0, 2), (-1, 1)):
            for keepdims in (False, True):
                label = f"axis {axis}, keepdims {keepdims}"
                yield Case(label, lambda x, a=axis, k=keepdims: cls(x, a, k), (real(2, 3, 4),), linear=True)
        yield Case("scalar", cls, (real(),), linear=True)


class Mean(Reduction):
    """y = mean of x over axes.

    Forward: y = sum(x, axis) / n, n the number of elements per mean. Backward: dx = dy / n, repeated along the axes.
    Shapes: y without the axes (ones with `keepdims`). Keeps: nothing. Kinks: none.
    Errors: `ShapeError` for an axis that x lacks, and for a mean of no elements.
    Source: Ioffe and Szegedy, Batch Normalization (2015), algorithm 1.
    """

    def infer(self, *shapes: Shape) -> Shape:
        """The input's shape without (or with ones for) the reduced axes."""
        out = super().infer(*shapes)
        if size(out) and not size(shapes[0]):
            raise self.misfit("a mean of no elements", *shapes)
        return out

    def count(self, shape: Shape) -> int:
        """The number of elements per mean."""
        return size(tuple(shape[a] for a in normalise(self.axis, len(shape))))

    def forward(self, ctx: Context, *inputs: Array) -> Array:
        """sum(x, axis) / n."""
        x = inputs[0]
        return x.sum(axis=normalise(self.axis, x.ndim), keepdims=self.keepdims) / self.count(x.shape)

    def backward(self, ctx: Context, dy: Array) -> Array:
        """Dy / n along every reduced axis."""
        return self.spread(ctx, dy / self.count(ctx.shapes[0]))

    @classmethod
    def cases(cls) -> Iterator[Case]:
        """Every form of axis."""
        for axis in (None, 0, -1, (0, 2), (-1, 1)):
            for keepdims in (False, True):
                label = f"axis {axis}, keepdims {keepdims}"
                yield Case(label, lambda x, a=axis, k=keepdims: cls(x, a, k), (real(2, 3, 4),))
        yield Case("power of two", lambda x: cls(x, 1), (real(3, 4),), linear=True)


class Max(Reduction):
    """y = maximum of x over axes.

    Forward: y = max(x, axis), ordered by real part; NaN is larger than all. Backward: dx = dy at the maximum, 0
    elsewhere. Shapes: y without the axes (ones with `keepdims`). Keeps: mask (where the maximum is).
    Kinks: of tied maxima the first in row-major order over the axes is taken, with the whole gradient.
    Errors: `ShapeError` for an axis that x lacks, and for a maximum of no elements.
    Source: Deep Learning from Scratch, 7.4.4.
    """

    saves = ("saved",)

    def infer(self, *shapes: Shape) -> Shape:
        """The input's shape without (or with ones for) the reduced axes."""
        shape = shapes[0]
        if any(shape[a] == 0 for a in normalise(self.axis, len(shape))):
            raise self.misfit("a maximum of no elements", shape)
        return super().infer(shape)

    def forward(self, ctx: Context, *inputs: Array) -> Array:
        """max(x, axis)."""
        x = inputs[0]
        axes = normalise(self.axis, x.ndim)
        largest = x.real.max(axis=axes, keepdims=True)
        ctx.saved = self._first(ctx, (x.real == largest) | (x.real != x.real), largest, axes)
        # Not x.max: of complex numbers whose real parts tie, that is the one with the largest imaginary part.
        return ctx.xp.where(ctx.saved, x, 0).sum(axis=axes, keepdims=self.keepdims)

    def backward(self, ctx: Context, dy: Array) -> Array:
        """Dy at the first maximum."""
        return ctx.xp.where(ctx.saved, self.spread(ctx, dy), 0)

    def _first(self, ctx: Context, mask: Array, y: Array, axes: tuple[int, ...]) -> Array:
        """The first True of a mask over the axes, in row-major order, and no other; y has the shape of one of them."""
        first = ctx.xp.zeros_like(mask)
        seen = ctx.xp.zeros_like(y, dtype=bool)  # in y's layout: of another, each step would cross the memory
        # A candidate at a time: some whole-array operations each, where an accumulation works number by number.
        for place in product(*(range(mask.shape[a]) for a in axes)):
            at = [slice(None)] * mask.ndim
            for a, i in zip(axes, place, strict=True):
                at[a] = slice(i, i + 1)
            here = tuple(at)
            first[here] = mask[here] & ~seen
            seen |= mask[here]
        return first

    @classmethod
    def cases(cls) -> Iterator[Case]:
        """Every form of axis."""
        for axis in (None, 0, -1, (0, 2), (-1, 1)):
            for keepdims in (False, True):
                label = f"axis {axis}, keepdims {keepdims}"
                yield Case(label, lambda x, a=axis, k=keepdims: cls(x, a, k), (distinct(2, 3, 4),))


class Repeat(Node):
    """y = x with each element repeated r times along an axis.

    Forward: y = repeat(x, r, axis). Backward: dx = dy summed over each element's r copies.
    Shapes: y's axis is r times x's. Keeps: nothing. Kinks: none.
    Errors: `ShapeError` for an axis that x lacks, `UserError` for r < 1.
    Source: Deep Learning from Scratch 2, 1.3.4.
    """

    def __init__(self, x: Node, repeats: int, axis: int) -> None:
        if repeats < 1:
            raise UserError(f"Repeat: repeats must be 1 or more, got {repeats}")
        self.repeats = repeats
        self.axis = axis
        super().__init__(x)

    def infer(self, *shapes: Shape) -> Shape:
        """The input's shape, its axis r times as long."""
        (a,) = normalise(self.axis, len(shapes[0]))
        return tuple(n * self.repeats if i == a else n for i, n in enumerate(shapes[0]))

    def forward(self, ctx: Context, *inputs: Array) -> Array:
        """repeat(x, r, axis)."""
        return ctx.xp.repeat(inputs[0], self.repeats, axis=self.axis)

    def backward(self, ctx: Context, dy: Array) -> Array:
        """The sum over each element's copies."""
        shape = ctx.shapes[0]
        (a,) = normalise(self.axis, len(shape))
        return dy.reshape((*shape[: a + 1], self.repeats, *shape[a + 1 :])).sum(axis=a + 1)

    @classmethod
    def cases(cls) -> Iterator[Case]:
        """Axes of size one and more, from either end."""
        yield Case("size-1 axis", lambda x: cls(x, 3, 0), (real(1, 4),), linear=True)
        yield Case("last axis", lambda x: cls(x, 2, -1), (real(2, 3),), linear=True)
        yield Case("middle axis", lambda x: cls(x, 2, 1), (real(2, 3, 2),), linear=True)
