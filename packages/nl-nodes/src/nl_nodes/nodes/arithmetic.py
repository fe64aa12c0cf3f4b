"""Sums, products and powers, element by element."""

from __future__ import annotations

from collections.abc import Iterator

from nl_nodes.cases import Case, positive, real
from nl_nodes.errors import UserError
from nl_nodes.node import Context, Node, NotShardable
from nl_nodes.shapes import broadcast
from nl_nodes.typing import Array, Shape


class Pairwise(Node, abstract=True):
    """Base of the nodes that take two arrays and broadcast them; the graph reduces their gradients."""

    broadcasts = True

    def __init__(self, a: Node, b: Node) -> None:
        super().__init__(a, b)

    def infer(self, *shapes: Shape) -> Shape:
        """The broadcast shape."""
        try:
            return broadcast(*shapes)
        except ValueError:
            raise self.misfit("shapes do not broadcast", *shapes) from None

    def batch_axis(self, shapes: tuple[Shape, ...], axes: tuple[int | None, ...]) -> int | None:
        """The inputs' own, where they agree from the right and nothing else is spread over it."""
        ends = {axis - len(shape) for shape, axis in zip(shapes, axes, strict=True) if axis is not None}
        end = min(ends)
        spread = (shape[end] for shape, axis in zip(shapes, axes, strict=True) if axis is None and len(shape) >= -end)
        if len(ends) > 1 or any(n != 1 for n in spread):
            raise NotShardable(type(self).__name__)
        return end + max(map(len, shapes))


class Elementwise(Node, abstract=True):
    """Base of the nodes that keep their one input's shape; an element of the output depends on that of the input alone.

    Attributes:
        by_place: whether it depends on where the element lies too, so that an input in another order is another one.
    """

    def __init__(self, x: Node) -> None:
        super().__init__(x)

    @property
    def position_dependent(self) -> bool:
        """True where a setting is an array, which has numbers for places."""
        return any(getattr(value, "shape", ()) for value in self.attributes.values())

    def infer(self, *shapes: Shape) -> Shape:
        """The input's shape."""
        return shapes[0]

    def batch_axis(self, shapes: tuple[Shape, ...], axes: tuple[int | None, ...]) -> int | None:
        """The input's, unless its place says what happens to a sample."""
        if self.position_dependent:
            raise NotShardable(type(self).__name__)
        return axes[0]


class Add(Pairwise):
    """y = a + b.

    Forward: y = a + b, broadcast. Backward: da = dy, db = dy, each summed over its broadcast axes.
    Shapes: a, b broadcastable; y their common shape. Keeps: nothing. Kinks: none.
    Errors: `ShapeError` where the shapes do not broadcast. Source: Deep Learning from Scratch, 5.4.2.
    """

    def forward(self, ctx: Context, *inputs: Array) -> Array:
        """A + b."""
        a, b = inputs
        return a + b

    def backward(self, ctx: Context, dy: Array) -> tuple[Array, Array]:
        """Dy for both."""
        return dy, dy

    @classmethod
    def cases(cls) -> Iterator[Case]:
        """Equal shapes and every kind of broadcast."""
        yield Case("equal shapes", cls, (real(3, 4), real(3, 4)), linear=True)
        yield Case("row", cls, (real(3, 4), real(4)), linear=True)
        yield Case("column", cls, (real(3, 1), real(3, 4)), linear=True)
        yield Case("both broadcast", cls, (real(3, 1), real(1, 4)), linear=True)
        yield Case("scalar", cls, (real(2, 3), real()), linear=True)
        yield Case("middle axis", cls, (real(2, 3, 4), real(2, 1, 4)), linear=True)
        yield Case("no columns", cls, (real(3, 0), real(1, 0)), linear=True, zero=(0, 1))
        yield Case("shared", lambda x: cls(x, x), (real(5),), linear=True)


class Mul(Pairwise):
    """y = a b, element by element.

    Forward: y = a * b, broadcast. Backward: da = dy * b, db = dy * a, each summed over its broadcast axes.
    Shapes: a, b broadcastable; y their common shape. Keeps: inputs. Kinks: none.
    Errors: `ShapeError` where the shapes do not broadcast. Source: Deep Learning from Scratch, 5.4.1.
    """

    saves = ("inputs",)

    def forward(self, ctx: Context, *inputs: Array) -> Array:
        """A * b."""
        a, b = inputs
        return a * b

    def backward(self, ctx: Context, dy: Array) -> tuple[Array | None, Array | None]:
        """Dy times the other factor."""
        a, b = ctx.inputs
        return (dy * b if ctx.needs[0] else None), (dy * a if ctx.needs[1] else None)

    @classmethod
    def cases(cls) -> Iterator[Case]:
        """Equal shapes and every kind of broadcast."""
        yield Case("equal shapes", cls, (real(3, 4), real(3, 4)))
        yield Case("row", cls, (real(3, 4), real(4)))
        yield Case("column", cls, (real(3, 1), real(3, 4)))
        yield Case("both broadcast", cls, (real(3, 1), real(1, 4)))
        yield Case("scalar", cls, (real(), real(2, 3)))
        yield Case("square", lambda x: cls(x, x), (real(5),))


class MaskedMul(Pairwise):
    """y = a b, and 0 where a = 0, whatever b is: a label's share of a value, by the convention 0 log 0 = 0.

    Forward: y = a * b where a != 0, else 0, broadcast. Backward: da = dy * b, db = dy * a, each summed over its
    broadcast axes. Shapes: a, b broadcastable; y their common shape. Keeps: inputs. Kinks: none.
    Errors: `ShapeError` where the shapes do not broadcast.
    Source: Cover and Thomas, Elements of Information Theory (2006), 2.1.
    """

    saves = ("inputs",)

    def forward(self, ctx: Context, *inputs: Array) -> Array:
        """A * b, or 0 where a = 0."""
        a, b = inputs
        return a * ctx.xp.where(a != 0, b, 0)

    def backward(self, ctx: Context, dy: Array) -> tuple[Array | None, Array | None]:
        """Dy times the other factor."""
        a, b = ctx.inputs
        return (dy * b if ctx.needs[0] else None), (dy * a if ctx.needs[1] else None)

    @classmethod
    def cases(cls) -> Iterator[Case]:
        """Equal shapes and a broadcast; a of zeros."""
        yield Case("equal shapes", cls, (real(3, 4), real(3, 4)))
        yield Case("row", cls, (real(3, 4), real(4)))
        yield Case("zeros", lambda a, b: cls(MulConst(a, 0), b), (real(5), real(5)), linear=True, zero=(0, 1))


class AddConst(Elementwise):
    """y = x + c for a number c.

    Forward: y = x + c. Backward: dx = dy. Shapes: y has x's. Keeps: nothing. Kinks: none.
    Errors: none. Source: Deep Learning from Scratch, 5.4.2.
    """

    def __init__(self, x: Node, c: float) -> None:
        self.c = c
        super().__init__(x)

    def forward(self, ctx: Context, *inputs: Array) -> Array:
        """X + c."""
        return inputs[0] + self.c

    def backward(self, ctx: Context, dy: Array) -> Array:
        """Dy."""
        return dy

    @classmethod
    def cases(cls) -> Iterator[Case]:
        """Both signs."""
        yield Case("positive", lambda x: cls(x, 1.5), (real(3, 4),))
        yield Case("negative", lambda x: cls(x, -2), (real(5),))


class MulConst(Elementwise):
    """y = c x for a number c.

    Forward: y = c * x. Backward: dx = c * dy. Shapes: y has x's. Keeps: nothing. Kinks: none.
    Errors: none. Source: Deep Learning from Scratch, 5.4.1.
    """

    def __init__(self, x: Node, c: float) -> None:
        self.c = c
        super().__init__(x)

    def forward(self, ctx: Context, *inputs: Array) -> Array:
        """C * x."""
        return inputs[0] * self.c

    def backward(self, ctx: Context, dy: Array) -> Array:
        """C * dy."""
        return dy * self.c

    @classmethod
    def cases(cls) -> Iterator[Case]:
        """Both signs and zero."""
        yield Case("positive", lambda x: cls(x, 0.75), (real(3, 4),))
        yield Case("negative", lambda x: cls(x, -2), (real(5),), linear=True)
        yield Case("zero", lambda x: cls(x, 0), (real(5),), linear=True, zero=(0,))


class Reciprocal(Elementwise):
    """y = 1 / x.

    Forward: y = 1 / x. Backward: dx = -dy * y^2. Shapes: y has x's. Keeps: output.
    Kinks: none; x = 0 is outside the domain. Errors: none. Source: Deep Learning from Scratch, 5.5.2.
    """

    saves = ("output",)

    def forward(self, ctx: Context, *inputs: Array) -> Array:
        """1 / x."""
        return 1 / inputs[0]

    def backward(self, ctx: Context, dy: Array) -> Array:
        """-dy * y^2."""
        return -(dy * ctx.output * ctx.output)

    @classmethod
    def cases(cls) -> Iterator[Case]:
        """Positive and negative values."""
        yield Case("positive", cls, (positive(3, 4),))
        yield Case("negative", lambda x: cls(MulConst(x, -1)), (positive(5),))


class Power(Elementwise):
    """y = x^p for a number p.

    Forward: y = x ** p. Backward: dx = dy * p * x ** (p - 1). Shapes: y has x's. Keeps: inputs.
    Kinks: none on the domain: any x for a whole p >= 1, else x > 0 (x != 0 for a whole negative p).
    Errors: `UserError` for p = 0, whose gradient has no use and is undefined at 0.
    Source: elementary calculus.
    """

    saves = ("inputs",)

    def __init__(self, x: Node, p: float) -> None:
        if p == 0:
            raise UserError("Power: p = 0 gives a constant; use a Constant instead")
        self.p = p
        super().__init__(x)

    def forward(self, ctx: Context, *inputs: Array) -> Array:
        """X ** p."""
        return inputs[0] ** self.p

    def backward(self, ctx: Context, dy: Array) -> Array:
        """Dy * p * x ** (p - 1)."""
        return dy * self.p * ctx.inputs[0] ** (self.p - 1)

    @classmethod
    def cases(cls) -> Iterator[Case]:
        """Whole, negative and fractional powers."""
        for whole in (1, 2, 3):
            yield Case(f"p = {whole}", lambda x, p=whole: cls(x, p), (real(3, 4),))
        for broken in (-0.5, 0.5, -1, 2.5):
            yield Case(f"p = {broken}", lambda x, p=broken: cls(x, p), (positive(3, 4),))
