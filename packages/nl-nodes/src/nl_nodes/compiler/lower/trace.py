"""Arrays that write down what is done with them: a node's own lines, run once on them, become a list of calls."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any
from weakref import ReferenceType, ref

import numpy as np

from nl_nodes.compiler.lower.memory import Block, Memory
from nl_nodes.node import Node
from nl_nodes.typing import Shape

Call = tuple[str, tuple[Any, ...]]
"""The name of what is called, and its arguments: arrays, numbers, axes; the array written to among them."""

Owner = tuple[Node | None, str]
"""For which node something is done, and whether "forward" or "backward"; None for what is done for all together."""

RandomBits = Callable[[int, int, int, int], Any]


class Traced(np.ndarray[Any, Any]):
    """A view of memory that is not there yet.

    Slicing, transposing and reshaping give further views, as with any array; arithmetic is written on the tape and
    gives a new array; what cannot be written down is refused.
    """

    # Weak, as the tape has the arrays: through NumPy's `base` no collector sees a cycle, and all would stay for ever.
    of_tape: ReferenceType[Tape]

    @property
    def tape(self) -> Tape:
        """Where it is written what is done with this array."""
        tape = self.of_tape()
        assert tape is not None, "the recording is over"
        return tape

    def __array_finalize__(self, source: Any) -> None:
        if isinstance(source, Traced):
            self.of_tape = source.of_tape

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, out: Any = (), **options: Any) -> Any:
        if method == "__call__" and not options:
            target = out[0] if out else self.tape.result(ufunc, inputs)
            self.tape.write(ufunc.__name__, *inputs, target)
            return target
        if method == "reduce" and _plain(inputs[0], **options):
            return self._reduce(ufunc, inputs[0], options.get("axis", 0), options.get("keepdims", False), out)
        raise TypeError(f"{ufunc.__name__}.{method} with {', '.join(options)} cannot be recorded")

    def _reduce(self, ufunc: np.ufunc, x: Traced, axis: Any, keepdims: bool, out: Any) -> Traced:
        axes = range(x.ndim) if axis is None else [int(a) % x.ndim for a in np.atleast_1d(axis)]
        ctx = [(1 if a in axes else n) for a, n in enumerate(x.shape) if keepdims or a not in axes]
        target = out[0] if out else self.tape.empty(tuple(ctx), x.dtype)
        self.tape.write(f"{ufunc.__name__}.reduce", x, tuple(axes), None, target, keepdims)
        return target

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        raise TypeError(f"{function.__name__} cannot be recorded: take it from kept.xp")

    def __getitem__(self, key: Any) -> Any:
        """A view, of a single element too, of which NumPy would give the value."""
        whole = key if isinstance(key, tuple) else (key,)
        return super().__getitem__(whole if any(k is Ellipsis for k in whole) else (*whole, ...))

    def __setitem__(self, key: Any, value: Any) -> None:
        target = self[key]
        done = isinstance(value, Traced) and _place(value) == _place(target)  # as in what `a[i] += b` ends in
        if target.size and not done:
            self.tape.write("copyto", target, value)

    def reshape(self, *shape: Any) -> Any:  # type: ignore[override]
        """A view where there is one, else a copy in row-major order."""
        try:
            return np.ndarray.reshape(self, *shape, copy=False)
        except ValueError:
            return np.ndarray.reshape(self.copy(), *shape)

    def copy(self) -> Any:  # type: ignore[override]
        """A copy in row-major order."""
        return self.astype(self.dtype)

    def astype(self, dtype: Any) -> Any:  # type: ignore[override]
        """A copy of another dtype, in row-major order."""
        target = self.tape.empty(self.shape, np.dtype(dtype))
        self.tape.write("copyto", target, self)
        return target

    def __bool__(self) -> bool:
        raise TypeError("a value is not known while recording")

    def _refuse(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("this method cannot be recorded")

    argmax = argmin = fill = flatten = ravel = take = nonzero = item = tolist = sort = cumsum = _refuse
    __float__ = __int__ = __index__ = _refuse


class Tape:
    """What one worker is to do, in order.

    Attributes:
        calls: what was written.
        owners: for whom, call by call.
        owner: for whom what comes next is done.
        xp: the array functions that write here.
    """

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.calls: list[Call] = []
        self.owners: list[Owner] = []
        self.owner: Owner = (None, "forward")
        self.xp = TracedNamespace(self)

    def write(self, name: str, *args: Any) -> None:
        """Add one call; a plain array among the arguments is a constant of the plan."""
        self.calls.append((name, tuple(self._argument(a) for a in args)))
        self.owners.append(self.owner)

    def _argument(self, value: Any) -> Any:
        if not isinstance(value, np.ndarray):
            return value
        if not value.size:  # a view that is empty may begin where its block ends, and another one begins
            return self.empty(value.shape, value.dtype)
        return value if isinstance(value, Traced) else self.constant(value)

    def empty(self, shape: Shape, dtype: Any, like: Any = None) -> Traced:
        """New memory, its axes in the same order as those of `like`."""
        return self.on(self.memory.allocate(math.prod(shape) * np.dtype(dtype).itemsize), shape, dtype, like)

    def on(self, block: Block, shape: Shape, dtype: Any, like: Any = None) -> Traced:
        """An array at the start of a block."""
        axes = range(len(shape))
        order = axes if like is None else sorted(axes, key=lambda axis: -abs(like.strides[axis]))
        return self.of(np.ndarray([shape[axis] for axis in order], dtype, block.memory).transpose(np.argsort(order)))

    def of(self, array: Any) -> Traced:
        """The array, as one that is written down."""
        traced: Traced = np.asarray(array).view(Traced)
        traced.of_tape = ref(self)
        return traced

    def constant(self, array: Any) -> Traced:
        """A copy of an array whose values are known now."""
        return self.of(self.memory.constant(np.array(array, order="C")))

    def result(self, ufunc: np.ufunc, inputs: tuple[Any, ...]) -> Traced:
        """New memory for what a function gives for these inputs, laid out as the first of its shape."""
        kinds = tuple(x.dtype if hasattr(x, "dtype") else type(x) for x in inputs)
        dtype: Any = ufunc.resolve_dtypes((*kinds, None))[-1]
        shapes: list[Shape] = [x.shape if hasattr(x, "shape") else () for x in inputs]
        if ufunc is np.matmul:
            a, b = shapes[0], shapes[1]
            return self.empty((*np.broadcast_shapes(a[:-2], b[:-2]), a[-2], b[-1]), dtype)
        shape = np.broadcast_shapes(*shapes)
        like = next((x for x in inputs if isinstance(x, Traced) and x.shape == shape), None)
        return self.empty(shape, dtype, like)


class TracedNamespace:
    """The array functions of a tape: NumPy's own where they calculate, and these where they make arrays."""

    def __init__(self, tape: Tape) -> None:
        self._tape = tape

    def __getattr__(self, name: str) -> Any:
        function = getattr(np, name)
        if not isinstance(function, np.ufunc):
            raise TypeError(f"{name} cannot be recorded")
        return function

    def empty(self, shape: Any, dtype: Any) -> Traced:
        """New memory."""
        return self._tape.empty(shape if isinstance(shape, tuple) else (shape,), dtype)

    result_type = staticmethod(np.result_type)

    def array(self, values: Any, dtype: Any) -> Traced:
        """Known values."""
        return self._tape.constant(np.array(values, dtype))

    def full(self, shape: Any, number: float, dtype: Any) -> Traced:
        """One number everywhere."""
        array = self.empty(shape, dtype)
        array[...] = array.dtype.type(number)
        return array

    def zeros(self, shape: Any, dtype: Any) -> Traced:
        """Zeros."""
        return self.full(shape, 0, dtype)

    def ones(self, shape: Any, dtype: Any) -> Traced:
        """Ones."""
        return self.full(shape, 1, dtype)

    def zeros_like(self, x: Traced, dtype: Any = None) -> Traced:
        """Zeros, laid out as another array."""
        array = self._tape.empty(x.shape, dtype or x.dtype, x)
        array[...] = array.dtype.type(0)
        return array

    def where(self, mask: Traced, x: Traced, other: float) -> Traced:
        """An array where a mask holds, and a number elsewhere; the mask and the array broadcast."""
        shape = np.broadcast_shapes(mask.shape, x.shape)
        array = self._tape.empty(shape, x.dtype, mask if mask.shape == shape else None)
        array[...] = array.dtype.type(other)
        self._tape.write("copyto", array, x, "same_kind", mask)
        return array

    def arange(self, stop: int) -> Traced:
        """0, 1, ... to below a number."""
        return self._tape.constant(np.arange(stop))

    def broadcast_to(self, x: Traced, shape: Shape) -> Traced:
        """A view of a larger shape."""
        return self._tape.of(np.broadcast_to(np.asarray(x), shape))

    def copyto(self, target: Traced, number: float, where: Traced) -> None:
        """Write a number where a mask (..., 1) says so, along the whole last axis.

        NumPy skips what a mask leaves out many bytes at a time, but only along an axis of the mask: so the last axis,
        which must lie in one piece, counts as one long number.
        """
        row = np.full(target.shape[-1:], number, target.dtype)
        long = f"V{row.nbytes}"
        self._tape.write("copyto", target.view(long), row.view(long).reshape(()), "same_kind", where)

    @property
    def lib(self) -> TracedNamespace:
        """`lib.stride_tricks.as_strided`."""
        return self

    stride_tricks = lib

    def as_strided(self, x: Traced, shape: Shape, strides: tuple[int, ...]) -> Traced:
        """A view of any shape and strides (in bytes) from an array's first element on."""
        return self._tape.of(np.lib.stride_tricks.as_strided(np.asarray(x), shape, strides))

    def repeat(self, x: Traced, repeats: int, axis: int) -> Any:
        """Each element some times along an axis."""
        shape = list(x.shape)
        shape.insert(axis % x.ndim + 1, repeats)
        view = np.broadcast_to(np.expand_dims(np.asarray(x), axis % x.ndim + 1), shape)
        copy = self._tape.of(view).copy()
        return copy.reshape(tuple(n * repeats if a == axis % x.ndim else n for a, n in enumerate(x.shape)))


def _plain(x: Traced, dtype: Any = None, initial: Any = None, where: Any = True, **_: Any) -> bool:
    """Whether a reduction takes all elements, and those alone, in their own precision."""
    return dtype in (None, x.dtype) and initial is None and where is True


def _place(array: Traced) -> tuple[Any, ...]:
    """Address, shape and strides."""
    return array.ctypes.data, array.shape, array.strides
