"""Pulling: the expression of the value at an address, from the last call that wrote there back to what is in memory.

Expressions are tuples, numbered in the order in which they are first needed; equal ones have one number:

    ("const", number)                             ("load", block, dtype, address, value number or -1)
    ("op", name, dtypes, arguments)               ("cast", dtype, argument)
    ("sum", dtype, ((weight, argument), ...))     ("fold", name, dtype, arguments)
    ("select", dtype, mask, argument, argument)   ("bits", seed, stream, start, index)
    ("total", number, dtype)                      the finished sum of that number of the same kernel
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache
from itertools import product
from typing import Any

import numpy as np

from nl_nodes.compiler.cuda.affine import Factor, Index, Opaque, Space, Split, Unroll, combine
from nl_nodes.compiler.cuda.values import Call, Operand, Program, Value, View

SHORT_AXIS = 2
"""Places of an axis up to which threads that differ may be one thread that goes over all of them."""

FALLBACK_UNROLL = 9
"""Places of an axis up to which it is unrolled where nothing else helps."""

MAX_UNROLL = 40
"""Places of an axis up to which it is unrolled at all."""

DEEPEST = 100
"""Calls in a row without memory, at most: each takes a few of Python's stack frames."""

Expression = tuple[Any, ...]


class Puller:
    """The expressions of one region of one kernel.

    Args:
        program: the calls.
        space: the axes of the region's threads.
        stored: the values that have memory.
        own: those of them that this kernel makes itself.
        unroll_few: whether short axes along which threads differ are unrolled, or split.
        totals: for finished sums of this kernel, by call, their number and their index in the space.

    Attributes:
        nodes: the expressions, by number.
        loaded: the values that are read from memory.
        inlined: the values that are computed without memory.
        ambiguous: whether `unroll_few` made a difference.
    """

    def __init__(
        self,
        program: Program,
        space: Space,
        stored: Collection[Value],
        own: Collection[Value],
        unroll_few: bool,
        totals: Mapping[int, tuple[int, tuple[Index, ...]]],
    ) -> None:
        self.program, self.stored, self.own = program, stored, own
        self.unroll_few, self.totals = unroll_few, totals
        self.sizes = space.sizes
        self._reach = [n - 1 for n in space.sizes]
        self.nodes: list[Expression] = []
        self.loaded: set[Value] = set()
        self.inlined: set[Value] = set()
        self.ambiguous = False
        self._depth = 0
        self._numbers: dict[Expression, int] = {}
        self._values: dict[tuple[int, tuple[Index, ...]], int] = {}
        self._reads: dict[tuple[View, tuple[Index, ...], int], int] = {}
        self._complete: dict[tuple[View, int], bool] = {}
        self._zero: Index = (0,) * (1 + len(self.sizes))

    def node(self, *expression: Any) -> int:
        """Return the number of an expression."""
        number = self._numbers.get(expression)
        if number is None:
            number = self._numbers[expression] = len(self.nodes)
            self.nodes.append(expression)
        return number

    def read(self, operand: Operand, index: Iterable[Index], t: int) -> int:
        """Return the expression of an operand's element as call `t` finds it."""
        if not isinstance(operand, View):
            return self.node("const", operand.item() if isinstance(operand, np.generic) else operand)
        key = (operand, tuple(index), t)
        if key not in self._reads:
            self._reads[key] = self._read(*key)
        return self._reads[key]

    def _read(self, view: View, index: tuple[Index, ...], t: int) -> int:
        constant = self.program.constant(view)
        if constant is not None and (constant == constant.flat[0]).all():
            return self.node("const", constant.flat[0].item())
        address = combine(view.offset, index, view.strides, len(self.sizes))
        if constant is not None:
            at = [x[0] for x in index]
            known = not any(address[1:])
            return self.node("const", constant[tuple(at)].item()) if known else self._load(view, address, None)
        low, high = self._range(address)
        for number in reversed(self.program.writers[view.block]):
            if number >= t:
                continue
            call = self.program.calls[number]
            begin, end = call.output.span
            if low >= end or high < begin:
                continue
            value = self.program.value_of[number]
            in_memory = value in self.stored and value not in self.own
            if in_memory and self._all_in_memory(view, t):
                return self._load(view, address, value)
            found = index if call.output is view else self._locate(call, address)
            if found is None:
                continue
            if in_memory:
                return self._load(view, address, value)
            if value not in self.own:
                self.inlined.add(value)
            return self._value(call, found)
        block = self.program.blocks[view.block]
        if block.persistent and not block.external and view.block not in self.program.inputs:
            return self.node("const", 0)  # memory that is zero at first, and that no call writes here
        return self._load(view, address, None)

    def _all_in_memory(self, view: View, t: int) -> bool:
        """Whether everything that call `t` may see through a view is in memory, so that no writer need be located."""
        key = (view, t)
        if key not in self._complete:
            values = [self.program.value_of[number] for number in self.program.before(view, t)]
            self._complete[key] = all(value in self.stored and value not in self.own for value in values)
        return self._complete[key]

    def _load(self, view: View, address: Index, value: Value | None) -> int:
        if value is not None:
            self.loaded.add(value)
        return self.node("load", view.block, view.dtype, address, -1 if value is None else value.end)

    def _range(self, x: Sequence[int]) -> tuple[int, int]:
        """Return the lowest and the highest value of an index over the space."""
        low = high = x[0]
        for k, reach in zip(x[1:], self._reach, strict=True):
            if k > 0:
                high += k * reach
            elif k:
                low += k * reach
        return low, high

    # Where an address is in a view

    def _locate(self, call: Call, address: Index) -> tuple[Index, ...] | None:
        """Return the index of an address in a call's output, None where all threads are outside."""
        view = call.output
        if not view.nested:
            raise Opaque(call.number, "writes overlapping elements")
        rest = [address[0] - view.offset, *address[1:]]
        digits, overflows = [], []
        for stride, _, _ in view.axes:
            digits.append(tuple([k // stride for k in rest]))
            rest = [k % stride for k in rest]
            if self._range(rest)[1] >= stride:
                overflows.append((rest, stride))
        if overflows:
            self._carry(call, overflows)
        for axis, k in enumerate(rest[1:]):
            if k and self.sizes[axis] > 1:
                self._unroll(call, axis)
        ranges = [self._range(digit) for digit in digits]
        if rest[0] >= view.item or any(
            high < 0 or low >= n for (low, high), (_, n, _) in zip(ranges, view.axes, strict=True)
        ):
            return None
        found = [self._zero] * len(view.shape)
        for digit, (low, high), (_, n, axis) in zip(digits, ranges, view.axes, strict=True):
            if low < 0 or high >= n:
                self._leave(call, digit, n)
            found[axis] = digit
        return tuple(found)

    def _reaching(self, x: Iterable[int]) -> list[tuple[int, int, int]]:
        """Return axis, coefficient and size of the axes that an index depends on, the farthest reaching first."""
        axes = [(a, k, n) for a, (k, n) in enumerate(zip(list(x)[1:], self.sizes, strict=True)) if k and n > 1]
        return sorted(axes, key=lambda axis: -abs(axis[1]) * (axis[2] - 1))

    def _carry(self, call: Call, overflows: list[tuple[list[int], int]]) -> None:
        """Refine an axis because of which the digits below a stride overflow, the largest stride first."""
        for x, limit in overflows:
            for a, k, n in self._reaching(x):
                low, high = self._range([0 if i == a + 1 else e for i, e in enumerate(x)])
                if low // k != high // k or limit % k:  # not all others are within one step of this axis
                    continue
                inner, begin = limit // k, low // k % (limit // k)
                if n > inner and n % inner == 0:
                    raise Factor(a, inner)
                if inner - begin < n:
                    self._few(a, n)
                    raise Split(a, inner - begin if begin else n // inner * inner)
        for x, _ in overflows:
            for a, _, n in self._reaching(x):
                if n <= FALLBACK_UNROLL:
                    raise Unroll(a)
        raise Opaque(call.number, f"digits overflow: {overflows}")

    def _leave(self, call: Call, x: Index, n: int) -> None:
        """Refine an axis along which some threads leave the view's range of `n`."""
        axes = self._reaching(x)
        for a, k, size in axes:
            self._few(a, size)
            for edge in (0, n):
                at = -(-(edge - x[0]) // k)
                if 0 < at < size:
                    raise Split(a, at)
        raise Opaque(call.number, f"index {x} leaves {n}")

    def _few(self, axis: int, size: int) -> None:
        """Unroll a short axis, if that is wanted."""
        if size <= SHORT_AXIS:
            self.ambiguous = True
            if self.unroll_few:
                raise Unroll(axis)

    def _unroll(self, call: Call, axis: int) -> None:
        if self.sizes[axis] > MAX_UNROLL:
            raise Opaque(call.number, f"an axis of {self.sizes[axis]} cannot be unrolled")
        raise Unroll(axis)

    # What a call computes there

    def _value(self, call: Call, index: tuple[Index, ...]) -> int:
        key = (call.number, index)
        if key not in self._values:
            if self._depth == DEEPEST:
                raise Opaque(call.number, "at the end of a long chain")
            self._depth += 1
            self._values[key] = self._computed(call, index)
            self._depth -= 1
        return self._values[key]

    def _computed(self, call: Call, index: tuple[Index, ...]) -> int:
        t, dtype = call.number, call.output.dtype
        if t in self.totals:
            number, own = self.totals[t]
            if index != own:
                raise Opaque(t, "asked for in another thread than the one that has it")
            return self.node("total", number, dtype)
        if call.kind in ("reduce", "gemm"):
            raise Opaque(t, "a sum over many terms")
        if call.kind == "fold":
            return self._fold(call, index)
        if call.name in ("left", "right"):
            return self._product(call, index)
        if call.name == "random_bits":
            return self.node("bits", *call.random, index[0])
        arguments = [
            self.read(x, self._broadcast(index, x.shape) if isinstance(x, View) else (), t) for x in call.inputs
        ]
        kinds = [x.dtype if isinstance(x, View) else None for x in call.inputs]
        if call.name == "copyto":
            return self._as(arguments[0], kinds[0], dtype)
        if call.name == "select":
            return self.node("select", dtype, arguments[0], self._as(arguments[1], kinds[1], dtype), arguments[2])
        work = loop_dtypes(call.name, tuple(kinds), tuple(type(x) for x in call.inputs if not isinstance(x, View)))
        return self._as(self.node("op", call.name, work, tuple(arguments)), work[-1], dtype)

    def _as(self, argument: int, dtype: str | None, wanted: str) -> int:
        """Return an argument in another dtype; a number, which has none, takes any."""
        return argument if dtype in (wanted, None) else self.node("cast", wanted, argument)

    def _broadcast(self, index: tuple[Index, ...], shape: tuple[int, ...]) -> tuple[Index, ...]:
        aligned = index[len(index) - len(shape) :]
        return tuple([self._zero if n == 1 else x for x, n in zip(aligned, shape, strict=True)])

    def _fold(self, call: Call, index: tuple[Index, ...]) -> int:
        x = call.inputs[0]
        places = product(*(range(x.shape[a]) for a in call.axes))
        terms = [call.inner(index, [(n, *self._zero[1:]) for n in place]) for place in places]
        items = tuple([self.read(x, term, call.number) for term in terms])
        return self.node("fold", call.name, call.output.dtype, items)

    def _product(self, call: Call, index: tuple[Index, ...]) -> int:
        """Return a row or column of a constant matrix times the other factor, as a sum."""
        (x,), left = call.inputs, call.name == "left"
        weights = call.matrix if left else call.matrix.T
        row = index[-2] if left else index[-1]
        for axis, k in enumerate(row[1:]):
            if k:
                self._unroll(call, axis)
        lead = self._broadcast(index[:-2], x.shape[:-2])
        terms = []
        for depth, weight in enumerate(weights[row[0]].tolist()):
            if weight:
                at = (depth, *self._zero[1:])
                where = (*lead, at, index[-1]) if left else (*lead, index[-2], at)
                terms.append((weight, self.read(x, where, call.number)))
        return self.node("sum", call.output.dtype, tuple(terms))


@cache
def loop_dtypes(name: str, kinds: tuple[str | None, ...], numbers: tuple[type, ...]) -> tuple[str, ...]:
    """Return the dtypes in which a ufunc computes: of its arguments, then of its result.

    Args:
        name: the ufunc.
        kinds: the arguments' dtypes, None for numbers.
        numbers: the types of the numbers, in order.
    """
    types = iter(numbers)
    given: list[Any] = [np.dtype(kind) if kind else next(types) for kind in kinds]
    given = [np.dtype(k) if isinstance(k, type) and issubclass(k, np.generic) else k for k in given]
    return tuple(dtype.str[1:] for dtype in getattr(np, name).resolve_dtypes((*given, None)))
