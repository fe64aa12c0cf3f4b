"""Nodes that change the shape or the order of the axes, take a part of an array or surround it with zeros."""

from __future__ import annotations

from collections.abc import Iterator

from nl_nodes.cases import Case, real
from nl_nodes.context import Context, NotShardable
from nl_nodes.errors import ShapeError, UserError
from nl_nodes.node import Node
from nl_nodes.shapes import normalise, size
from nl_nodes.typing import Array, Shape


class Reshape(Node):
    """Another shape, with the elements in row-major order.

    Forward: y = reshape(x, shape), where 0 copies the input's axis and one -1 is inferred (as in ONNX), so
    that one graph serves every batch size. Backward: dx = reshape(dy, x's shape).
    Shapes: y has `shape`. Saves: nothing. Kinks: none. Errors: `ShapeError` where the numbers of elements differ.
    Source: ONNX operators, Reshape.
    """

    def __init__(self, x: Node, shape: Shape) -> None:
        self.target = shape
        super().__init__(x)

    def infer(self, *shapes: Shape) -> Shape:
        """Return the target shape with 0 and -1 resolved."""
        shape = shapes[0]
        if self.target.count(-1) > 1 or any(n < -1 or (n == 0 and i >= len(shape)) for i, n in enumerate(self.target)):
            raise self.misfit(f"cannot become {self.target}", shape)
        filled = [shape[i] if n == 0 else n for i, n in enumerate(self.target)]
        if -1 in filled:
            copied = {i for i, n in enumerate(self.target) if n == 0}
            left = size(tuple(n for i, n in enumerate(shape) if i not in copied))
            given = size(tuple(n for i, n in enumerate(filled) if n != -1 and i not in copied))
            filled[filled.index(-1)] = left // given
        if size(tuple(filled)) != size(shape):
            raise self.misfit(f"cannot become {self.target}", shape)
        return tuple(filled)

    def batch_axis(self, shapes: tuple[Shape, ...], axes: tuple[int | None, ...]) -> int | None:
        """Return the first axis where the reshape leaves it unchanged."""
        if axes[0] != 0 or self.infer(shapes[0])[:1] != shapes[0][:1] or self.target[0] not in (0, -1):
            raise NotShardable(type(self).__name__)
        return 0

    def forward(self, ctx: Context, *inputs: Array) -> Array:
        """Return `reshape(x, shape)`."""
        return inputs[0].reshape(self.infer(inputs[0].shape))

    def backward(self, ctx: Context, dy: Array) -> Array:
        """Return `dy` in x's shape."""
        return dy.reshape(ctx.shapes[0])

    @classmethod
    def cases(cls) -> Iterator[Case]:
        """Yield every form of target shape."""
        for target in ((6, 4), (-1,), (0, -1), (0, 0, 2, -1), (1, 24), (-1, 0)):
            yield Case(f"to {target}", lambda x, s=target: cls(x, s), (real(2, 3, 4),), linear=True)
        yield Case("empty batch", lambda x: cls(x, (0, -1)), (real(0, 3, 4),), linear=True, zero=(0,))


class Transpose(Node):
    """The axes in another order.

    Forward: y = transpose(x, axes). Backward: dx = transpose(dy, inverse of axes). Shapes: y's axis i is x's axis
    axes[i]. Saves: nothing. Kinks: none. Errors: `ShapeError` where axes is not a permutation of x's axes.
    Source: Deep Learning from Scratch, 7.4.3.
    """

    def __init__(self, x: Node, axes: tuple[int, ...]) -> None:
        self.axes = axes
        super().__init__(x)

    def infer(self, *shapes: Shape) -> Shape:
        """Return the permuted shape."""
        shape = shapes[0]
        try:
            fits = len(normalise(self.axes, len(shape))) == len(shape)
        except ShapeError:
            fits = False
        if not fits:
            raise self.misfit(f"axes {self.axes} are not a permutation", shape)
        return tuple(shape[a] for a in self.axes)

    def batch_axis(self, shapes: tuple[Shape, ...], axes: tuple[int | None, ...]) -> int | None:
        """Return the input's batch axis in the output."""
        return [a % len(self.axes) for a in self.axes].index(axes[0] or 0)

    def forward(self, ctx: Context, *inputs: Array) -> Array:
        """Return `transpose(x, axes)`."""
        return inputs[0].transpose(self.axes)

    def backward(self, ctx: Context, dy: Array) -> Array:
        """Return `dy` with the axes in x's order."""
        axes = [a % len(self.axes) for a in self.axes]
        return dy.transpose([axes.index(i) for i in range(len(axes))])

    @classmethod
    def cases(cls) -> Iterator[Case]:
        """Yield permutations, some of them their own inverse."""
        for axes in ((1, 2, 0), (0, 2, 1), (2, 0, 1), (-1, 0, 1)):
            yield Case(f"axes {axes}", lambda x, a=axes: cls(x, a), (real(2, 3, 4),), linear=True)
        yield Case("four axes", lambda x: cls(x, (0, 3, 1, 2)), (real(2, 3, 4, 5),), linear=True)


class T(Node):
    """All axes reversed; the transpose of a matrix.

    Forward: y = x.T. Backward: dx = dy.T. Shapes: y's are x's reversed. Saves: nothing. Kinks: none. Errors: none.
    Source: Deep Learning from Scratch, 5.6.1.
    """

    def __init__(self, x: Node) -> None:
        super().__init__(x)

    def infer(self, *shapes: Shape) -> Shape:
        """Return the reversed shape."""
        return shapes[0][::-1]

    def batch_axis(self, shapes: tuple[Shape, ...], axes: tuple[int | None, ...]) -> int | None:
        """Return the input's batch axis, counted from the other end."""
        return len(shapes[0]) - 1 - (axes[0] or 0)

    def forward(self, ctx: Context, *inputs: Array) -> Array:
        """Return `x.T`."""
        return inputs[0].T

    def backward(self, ctx: Context, dy: Array) -> Array:
        """Return `dy.T`."""
        return dy.T

    @classmethod
    def cases(cls) -> Iterator[Case]:
        """Yield a matrix and an array of three axes."""
        yield Case("matrix", cls, (real(3, 4),), linear=True)
        yield Case("three axes", cls, (real(2, 3, 4),), linear=True)


class Slice(Node):
    """A part of each axis, by a slice with a step of 1 or more.

    Forward: y = x[slices]. Backward: dx = dy where y was taken from x, 0 elsewhere.
    Shapes: y's axes are as long as their slices of x. Saves: nothing. Kinks: none.
    Errors: `ShapeError` unless there is a slice for each axis of x; `UserError` for anything else and a step below 1.
    Source: ONNX operators, Slice.
    """

    def __init__(self, x: Node, slices: tuple[slice, ...]) -> None:
        # Tuples, as slices have no hash and no attributes that a fingerprint could read.
        if not isinstance(slices, tuple) or not all(isinstance(s, slice) for s in slices):
            raise UserError(f"Slice: slices must be a tuple of a slice for each axis, got {slices}")
        self.spans = tuple((s.start, s.stop, 1 if s.step is None else s.step) for s in slices)
        if any(step < 1 for _, _, step in self.spans):
            raise UserError(f"Slice: steps must be 1 or more, got {slices}")
        super().__init__(x)

    @property
    def slices(self) -> tuple[slice, ...]:
        """The slice of each axis."""
        return tuple(slice(*span) for span in self.spans)

    def infer(self, *shapes: Shape) -> Shape:
        """Return the lengths of the slices."""
        shape = shapes[0]
        if len(shape) != len(self.spans):
            raise self.misfit(f"{len(self.spans)} slices need as many axes", shape)
        return tuple(len(range(*s.indices(n))) for s, n in zip(self.slices, shape, strict=True))

    def batch_axis(self, shapes: tuple[Shape, ...], axes: tuple[int | None, ...]) -> int | None:
        """Return the input's batch axis where the slice takes all of it."""
        axis = axes[0] or 0
        if self.spans[axis] != (None, None, 1):
            raise NotShardable(type(self).__name__)
        return axis

    def forward(self, ctx: Context, *inputs: Array) -> Array:
        """Return `x[slices]`."""
        return inputs[0][self.slices]

    def backward(self, ctx: Context, dy: Array) -> Array:
        """Return zeros with `dy` in place of the slice."""
        dx = ctx.xp.zeros(ctx.shapes[0], dtype=dy.dtype)
        dx[self.slices] = dy
        return dx

    @classmethod
    def cases(cls) -> Iterator[Case]:
        """Yield steps, negative and open ends, and slices of one element and of none."""
        every = slice(None)
        for label, slices in {
            "steps": (every, slice(None, None, 2), slice(None, None, 3)),
            "a range": (slice(1, 2), slice(0, 3, 2), every),
            "from the end": (every, slice(-2, None), slice(-4, -1, 2)),
            "beyond the end": (every, slice(1, 9), slice(4, None, 7)),
        }.items():
            yield Case(label, lambda x, s=slices: cls(x, s), (real(2, 3, 5),), linear=True)
        yield Case("nothing", lambda x: cls(x, (slice(1, 1), every)), (real(2, 3),), linear=True, zero=(0,))


class Pad(Node):
    """An array with zeros around it.

    Forward: y[i + widths[0][0], ...] = x[i, ...], 0 elsewhere. Backward: dx = the part of dy where x is in y.
    Shapes: y's axis is the sum of its widths longer than x's. Saves: nothing. Kinks: none.
    Errors: `ShapeError` unless there are widths for each axis of x; `UserError` for a negative width.
    Source: ONNX operators, Pad.

    Args:
        x: the array.
        widths: number of zeros before and after each axis.
    """

    def __init__(self, x: Node, widths: tuple[tuple[int, int], ...]) -> None:
        if not all(isinstance(pair, tuple) and len(pair) == 2 and min(pair) >= 0 for pair in widths):
            raise UserError(f"Pad: widths must be a pair of numbers, 0 or more, for each axis, got {widths}")
        self.widths = widths
        super().__init__(x)

    def infer(self, *shapes: Shape) -> Shape:
        """Return the input's lengths plus the widths."""
        shape = shapes[0]
        if len(shape) != len(self.widths):
            raise self.misfit(f"widths of {len(self.widths)} axes need as many axes", shape)
        return tuple(before + n + after for (before, after), n in zip(self.widths, shape, strict=True))

    def batch_axis(self, shapes: tuple[Shape, ...], axes: tuple[int | None, ...]) -> int | None:
        """Return the input's batch axis where it gets no zeros."""
        axis = axes[0] or 0
        if any(self.widths[axis]):
            raise NotShardable(type(self).__name__)
        return axis

    def forward(self, ctx: Context, *inputs: Array) -> Array:
        """Return zeros with x in their middle."""
        x = inputs[0]
        y = ctx.xp.zeros(self.infer(x.shape), dtype=x.dtype)
        y[self._inside(x.shape)] = x
        return y

    def backward(self, ctx: Context, dy: Array) -> Array:
        """Return the middle of `dy`."""
        return dy[self._inside(ctx.shapes[0])]

    def _inside(self, shape: Shape) -> tuple[slice, ...]:
        return tuple(slice(before, before + n) for (before, _), n in zip(self.widths, shape, strict=True))

    @classmethod
    def cases(cls) -> Iterator[Case]:
        """Yield widths before, after and on both sides."""
        for widths in (((0, 0), (1, 2)), ((2, 0), (0, 1)), ((0, 0), (0, 0))):
            yield Case(f"{widths}", lambda x, w=widths: cls(x, w), (real(2, 3),), linear=True)
        yield Case("channels", lambda x: cls(x, ((0, 0), (0, 3), (0, 0))), (real(2, 1, 4),), linear=True)
