"""Elementwise sums, products and powers."""

from __future__ import annotations

from collections.abc import Iterator

from nl_nodes.cases import Case, positive, real
from nl_nodes.context import Context, NotShardable
from nl_nodes.errors import UserError
from nl_nodes.node import Node
from nl_nodes.shapes import broadcast
from nl_nodes.typing import Array, Shape


class Pairwise(Node, abstract=True):
    """Base class of binary nodes with broadcasting; the graph reduces their gradients."""

    broadcasts = True

    def __init__(self, a: Node, b: Node) -> None:
        super().__init__(a, b)

    def infer(self, *shapes: Shape) -> Shape:
        """Return the broadcast shape."""
        try:
            return broadcast(*shapes)
        except ValueError:
            raise self.misfit("shapes do not broadcast", *shapes) from None

    def batch_axis(self, shapes: tuple[Shape, ...], axes: tuple[int | None, ...]) -> int | None:
        """Return the inputs' common batch axis, from the right, along which the others must have size 1."""
        found = {axis - len(shape) for shape, axis in zip(shapes, axes, strict=True) if axis is not None}
        axis = min(found)
        others = (shape[axis] for shape, own in zip(shapes, axes, strict=True) if own is None and len(shape) >= -axis)
        if len(found) > 1 or any(n != 1 for n in others):
            raise NotShardable(type(self).__name__)
        return axis + max(map(len, shapes))


class Elementwise(Node, abstract=True):
    """Base class of unary elementwise nodes: an output element depends on the input element in its place alone.

    Attributes:
        position_dependent: whether it also depends on the element's index, so that the node does not commute with a
            reordering of the input.
    """

    def __init__(self, x: Node) -> None:
        super().__init__(x)

    @property
    def position_dependent(self) -> bool:
        """True where a setting is an array, a list or a tuple, with a value for each index."""
        values = self.attributes.values()
        return any(getattr(value, "shape", ()) or isinstance(value, list | tuple) for value in values)

    def infer(self, *shapes: Shape) -> Shape:
        """Return the input's shape."""
        return shapes[0]

    def batch_axis(self, shapes: tuple[Shape, ...], axes: tuple[int | None, ...]) -> int | None:
        """Return the input's batch axis, unless the node is position dependent."""
        if self.position_dependent:
            raise NotShardable(type(self).__name__)
        return axes[0]


class Add(Pairwise):
    """`y = a + b`.

    Forward: y = a + b, broadcast. Backward: da = dy, db = dy, each summed over its broadcast axes.
    Shapes: a, b broadcastable; y their common shape. Saves: nothing. Kinks: none.
    Errors: `ShapeError` where the shapes do not broadcast. Source: Deep Learning from Scratch, 5.4.2.
    """

    def forward(self, ctx: Context, *inputs: Array) -> Array:
        """Return `a + b`."""
        a, b = inputs
        return a + b

    def backward(self, ctx: Context, dy: Array) -> tuple[Array, Array]:
        """Return `dy` for both inputs."""
        return dy, dy

    @classmethod
    def cases(cls) -> Iterator[Case]:
        """Yield equal shapes and every kind of broadcast."""
        yield Case("equal shapes", cls, (real(3, 4), real(3, 4)), linear=True)
        yield Case("row", cls, (real(3, 4), real(4)), linear=True)
        yield Case("column", cls, (real(3, 1), real(3, 4)), linear=True)
        yield Case("both broadcast", cls, (real(3, 1), real(1, 4)), linear=True)
        yield Case("scalar", cls, (real(2, 3), real()), linear=True)
        yield Case("middle axis", cls, (real(2, 3, 4), real(2, 1, 4)), linear=True)
        yield Case("no columns", cls, (real(3, 0), real(1, 0)), linear=True, zero=(0, 1))
        yield Case("shared", lambda x: cls(x, x), (real(5),), linear=True)


class Mul(Pairwise):
    """`y = a * b`, element by element.

    Forward: y = a * b, broadcast. Backward: da = dy * b, db = dy * a, each summed over its broadcast axes.
    Shapes: a, b broadcastable; y their common shape. Saves: inputs. Kinks: none.
    Errors: `ShapeError` where the shapes do not broadcast. Source: Deep Learning from Scratch, 5.4.1.
    """

    saves = ("inputs",)

    def forward(self, ctx: Context, *inputs: Array) -> Array:
        """Return `a * b`."""
        a, b = inputs
        return a * b

    def backward(self, ctx: Context, dy: Array) -> tuple[Array | None, Array | None]:
        """Return `dy * b` and `dy * a`."""
        a, b = ctx.inputs
        return (dy * b if ctx.needs[0] else None), (dy * a if ctx.needs[1] else None)

    @classmethod
    def cases(cls) -> Iterator[Case]:
        """Yield equal shapes and every kind of broadcast."""
        yield Case("equal shapes", cls, (real(3, 4), real(3, 4)))
        yield Case("row", cls, (real(3, 4), real(4)))
        yield Case("column", cls, (real(3, 1), real(3, 4)))
        yield Case("both broadcast", cls, (real(3, 1), real(1, 4)))
        yield Case("scalar", cls, (real(), real(2, 3)))
        yield Case("square", lambda x: cls(x, x), (real(5),))


class MaskedMul(Pairwise):
    """`y = a * b`, and 0 where `a = 0` even if b is not finite, as for `p * log(q)` with `0 * log(0) = 0`.

    Forward: y = a * b where a != 0, else 0, broadcast. Backward: da = dy * b, db = dy * a, each summed over its
    broadcast axes. Shapes: a, b broadcastable; y their common shape. Saves: inputs. Kinks: none.
    Errors: `ShapeError` where the shapes do not broadcast.
    Source: Cover and Thomas, Elements of Information Theory (2006), 2.1.
    """

    saves = ("inputs",)

    def forward(self, ctx: Context, *inputs: Array) -> Array:
        """Return `a * b`, or 0 where `a = 0`."""
        a, b = inputs
        return a * ctx.xp.where(a != 0, b, 0)

    def backward(self, ctx: Context, dy: Array) -> tuple[Array | None, Array | None]:
        """Return `dy * b` and `dy * a`."""
        a, b = ctx.inputs
        return (dy * b if ctx.needs[0] else None), (dy * a if ctx.needs[1] else None)

    @classmethod
    def cases(cls) -> Iterator[Case]:
        """Yield equal shapes, a broadcast, and zeros for a."""
        yield Case("equal shapes", cls, (real(3, 4), real(3, 4)))
        yield Case("row", cls, (real(3, 4), real(4)))
        yield Case("zeros", lambda a, b: cls(MulConst(a, 0), b), (real(5), real(5)), linear=True, zero=(0, 1))


class AddConst(Elementwise):
    """`y = x + c` for a number c.

    Forward: y = x + c. Backward: dx = dy. Shapes: y has x's. Saves: nothing. Kinks: none.
    Errors: none. Source: Deep Learning from Scratch, 5.4.2.
    """

    def __init__(self, x: Node, c: float) -> None:
        self.c = c
        super().__init__(x)

    def forward(self, ctx: Context, *inputs: Array) -> Array:
        """Return `x + c`."""
        return inputs[0] + self.c

    def backward(self, ctx: Context, dy: Array) -> Array:
        """Return `dy`."""
        return dy

    @classmethod
    def cases(cls) -> Iterator[Case]:
        """Yield both signs."""
        yield Case("positive", lambda x: cls(x, 1.5), (real(3, 4),))
        yield Case("negative", lambda x: cls(x, -2), (real(5),))


class MulConst(Elementwise):
    """`y = c * x` for a number c.

    Forward: y = c * x. Backward: dx = c * dy. Shapes: y has x's. Saves: nothing. Kinks: none.
    Errors: none. Source: Deep Learning from Scratch, 5.4.1.
    """

    def __init__(self, x: Node, c: float) -> None:
        self.c = c
        super().__init__(x)

    def forward(self, ctx: Context, *inputs: Array) -> Array:
        """Return `c * x`."""
        return inputs[0] * self.c

    def backward(self, ctx: Context, dy: Array) -> Array:
        """Return `c * dy`."""
        return dy * self.c

    @classmethod
    def cases(cls) -> Iterator[Case]:
        """Yield both signs and zero."""
        yield Case("positive", lambda x: cls(x, 0.75), (real(3, 4),))
        yield Case("negative", lambda x: cls(x, -2), (real(5),), linear=True)
        yield Case("zero", lambda x: cls(x, 0), (real(5),), linear=True, zero=(0,))


class Reciprocal(Elementwise):
    """`y = 1 / x`.

    Forward: y = 1 / x. Backward: dx = -dy * y^2. Shapes: y has x's. Saves: output.
    Kinks: none; x = 0 is outside the domain. Errors: none. Source: Deep Learning from Scratch, 5.5.2.
    """

    saves = ("output",)

    def forward(self, ctx: Context, *inputs: Array) -> Array:
        """Return `1 / x`."""
        return 1 / inputs[0]

    def backward(self, ctx: Context, dy: Array) -> Array:
        """Return `-dy * y^2`."""
        return -(dy * ctx.output * ctx.output)

    @classmethod
    def cases(cls) -> Iterator[Case]:
        """Yield positive and negative values."""
        yield Case("positive", cls, (positive(3, 4),))
        yield Case("negative", lambda x: cls(MulConst(x, -1)), (positive(5),))


class Power(Elementwise):
    """`y = x ** p` for a number p.

    Forward: y = x ** p. Backward: dx = dy * p * x ** (p - 1). Shapes: y has x's. Saves: inputs.
    Kinks: none on the domain: any x for an integer p >= 1, else x > 0 (x != 0 for a negative integer p).
    Errors: `UserError` for p = 0, a constant, whose gradient is undefined at 0.
    Source: elementary calculus.
    """

    saves = ("inputs",)

    def __init__(self, x: Node, p: float) -> None:
        if p == 0:
            raise UserError("Power: p = 0 gives a constant; use a Constant instead")
        self.p = p
        super().__init__(x)

    def forward(self, ctx: Context, *inputs: Array) -> Array:
        """Return `x ** p`."""
        return inputs[0] ** self.p

    def backward(self, ctx: Context, dy: Array) -> Array:
        """Return `dy * p * x ** (p - 1)`."""
        return dy * self.p * ctx.inputs[0] ** (self.p - 1)

    @classmethod
    def cases(cls) -> Iterator[Case]:
        """Yield integer, negative and fractional powers."""
        for integer in (1, 2, 3):
            yield Case(f"p = {integer}", lambda x, p=integer: cls(x, p), (real(3, 4),))
        for other in (-0.5, 0.5, -1, 2.5):
            yield Case(f"p = {other}", lambda x, p=other: cls(x, p), (positive(3, 4),))
