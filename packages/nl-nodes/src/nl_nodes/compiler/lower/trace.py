"""Traced arrays: a node's own `forward` or `backward`, run once on them, appends its operations to a tape."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any
from weakref import ReferenceType, ref

import numpy as np

from nl_nodes.compiler.lower.memory import Block, Memory
from nl_nodes.node import Node
from nl_nodes.runtime.call import Call
from nl_nodes.typing import Shape

Owner = tuple[Node | None, str]
"""The node that a call belongs to and "forward" or "backward"; the node is None for the reduction of gradients."""

RandomBits = Callable[[int, int, int, int], Any]


class Traced(np.ndarray[Any, Any]):
    """An array with shape, dtype and strides but no values.

    Slicing, transposing and reshaping return views, as with any array; arithmetic appends a call to the tape and
    returns a new array; operations that a tape cannot record raise TypeError.
    """

    __slots__ = ("of_tape",)  # a large graph has tens of thousands

    # Weak, as the tape holds the arrays: the collector sees no cycle through NumPy's `base`, and would free nothing.
    of_tape: ReferenceType[Tape]

    @property
    def tape(self) -> Tape:
        """The tape that records operations on this array."""
        tape = self.of_tape()
        assert tape is not None, "the tape is gone"
        return tape

    def __array_finalize__(self, source: Any) -> None:
        if isinstance(source, Traced):
            self.of_tape = source.of_tape

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, out: Any = (), **options: Any) -> Any:
        if getattr(np, ufunc.__name__, None) is not ufunc or ufunc.nout > 1:
            raise TypeError(f"{ufunc.__name__} cannot be recorded: it is not NumPy's, or has several results")
        if method == "__call__" and not options:
            target = out[0] if out else self.tape.result(ufunc, inputs)
            self.tape.write(ufunc.__name__, *inputs, target)
            return target
        if method == "reduce" and _plain(inputs[0], **options):
            return self._reduce(ufunc, inputs[0], options.get("axis", 0), options.get("keepdims", False), out)
        raise TypeError(f"{ufunc.__name__}.{method} with {', '.join(options)} cannot be recorded")

    def _reduce(self, ufunc: np.ufunc, x: Traced, axis: Any, keepdims: bool, out: Any) -> Traced:
        axes = range(x.ndim) if axis is None else [int(a) % x.ndim for a in np.atleast_1d(axis)]
        shape = [(1 if a in axes else n) for a, n in enumerate(x.shape) if keepdims or a not in axes]
        # NumPy adds booleans and small integers up in larger ones.
        dtype = ufunc.reduce(np.ones(1, x.dtype)).dtype
        target = out[0] if out else self.tape.empty(tuple(shape), dtype)
        self.tape.write(f"{ufunc.__name__}.reduce", x, tuple(axes), None, target, keepdims)
        return target

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        raise TypeError(f"{function.__name__} cannot be recorded: take it from ctx.xp")

    def __getitem__(self, key: Any) -> Any:
        """Return a view, also of a single element, where NumPy returns a scalar."""
        index = key if isinstance(key, tuple) else (key,)
        if not all(k is None or k is Ellipsis or isinstance(k, slice | int | np.integer) for k in index):
            raise TypeError("only slices and integers can be recorded as an index: take a mask or a list by ctx.xp")
        return super().__getitem__(index if any(k is Ellipsis for k in index) else (*index, ...))

    def __setitem__(self, key: Any, value: Any) -> None:
        target = self[key]
        is_target = isinstance(value, Traced) and _layout(value) == _layout(target)  # the last step of `a[i] += b`
        if target.size and not is_target:
            self.tape.write("copyto", target, value)

    def reshape(self, *shape: Any) -> Any:  # type: ignore[override]
        """Return a view where the strides allow it, else a row-major copy."""
        try:
            return np.ndarray.reshape(self, *shape, copy=False)
        except ValueError:
            return np.ndarray.reshape(self.copy(), *shape)

    def copy(self) -> Any:  # type: ignore[override]
        """Return a row-major copy."""
        return self.astype(self.dtype)

    def astype(self, dtype: Any) -> Any:  # type: ignore[override]
        """Return a row-major copy in another dtype."""
        target = self.tape.empty(self.shape, np.dtype(dtype))
        self.tape.write("copyto", target, self)
        return target

    def mean(self, axis: Any = None, keepdims: bool = False) -> Any:  # type: ignore[override]
        """Return the sum divided by the number of elements."""
        total = self.sum(axis, keepdims=keepdims)
        return total / (self.size // max(total.size, 1))

    def __bool__(self) -> bool:
        raise TypeError("values are unknown while a graph is recorded")

    __float__ = __int__ = __index__ = __bool__


def _refused(name: str) -> Any:
    def refuse(self: Traced, *args: Any, **options: Any) -> Any:
        raise TypeError(f"{name} of an array cannot be recorded")

    return refuse


RECORDED = {"all", "any", "astype", "clip", "conj", "conjugate", "copy", "diagonal", "max", "mean", "min", "prod"}
RECORDED |= {"reshape", "squeeze", "sum", "swapaxes", "transpose", "view"}
"""The methods that return a view, or call a recorded function; all others would read or change unknown values."""

for _name in set(dir(np.ndarray)) - RECORDED:
    if not _name.startswith("_") and callable(getattr(np.ndarray, _name)):
        setattr(Traced, _name, _refused(_name))
for _name in ("flat", "imag"):
    setattr(Traced, _name, property(_refused(_name)))


class Tape:
    """One worker's calls, in order.

    Attributes:
        calls: the calls.
        owners: the owner of each call.
        owner: the owner of the calls to come.
        xp: the array functions that record on this tape.
    """

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.calls: list[Call] = []
        self.owners: list[Owner] = []
        self.owner: Owner = (None, "forward")
        self.xp = TracedNamespace(self)

    def write(self, name: str, *args: Any) -> None:
        """Append one call; a plain array among its arguments becomes a constant."""
        self.calls.append((name, tuple(self._argument(a) for a in args)))
        self.owners.append(self.owner)

    def _argument(self, value: Any) -> Any:
        if not isinstance(value, np.ndarray):
            return value
        if not value.size:  # an empty view may point past the end of its block, into the next one
            return self.empty(value.shape, value.dtype)
        if isinstance(value, Traced):
            return value
        if self.memory.find(value) is not None:
            raise TypeError("an array without values was taken out of the recording, as by np.asarray")
        return self.constant(value)

    def empty(self, shape: Shape, dtype: Any, like: Any = None) -> Traced:
        """Return a new array whose axes have the memory order of those of `like`."""
        return self.on(self.memory.allocate(math.prod(shape) * np.dtype(dtype).itemsize), shape, dtype, like)

    def on(self, block: Block, shape: Shape, dtype: Any, like: Any = None) -> Traced:
        """Return an array at the start of a block."""
        axes = range(len(shape))
        order = axes if like is None else sorted(axes, key=lambda axis: -abs(like.strides[axis]))
        return self.of(np.ndarray([shape[axis] for axis in order], dtype, block.memory).transpose(np.argsort(order)))

    def of(self, array: Any) -> Traced:
        """Return a traced view of an array."""
        traced: Traced = np.asarray(array).view(Traced)
        traced.of_tape = ref(self)
        return traced

    def constant(self, array: Any) -> Traced:
        """Return a constant with an array's present values."""
        return self.of(self.memory.constant(np.array(array, order="C")))

    def result(self, ufunc: np.ufunc, inputs: tuple[Any, ...]) -> Traced:
        """Return a new array for a ufunc's result, in the memory order of the first input of its shape."""
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
    """The array functions of a tape: NumPy's ufuncs, and replacements for the functions that create arrays."""

    def __init__(self, tape: Tape) -> None:
        self._tape = tape

    def __getattr__(self, name: str) -> Any:
        function = getattr(np, name)
        if not isinstance(function, np.ufunc):
            raise TypeError(f"{name} cannot be recorded")
        return function

    def empty(self, shape: Any, dtype: Any) -> Traced:
        """Return an uninitialised array."""
        return self._tape.empty(shape if isinstance(shape, tuple) else (shape,), dtype)

    result_type = staticmethod(np.result_type)

    def array(self, values: Any, dtype: Any) -> Traced:
        """Return a constant of these values."""
        return self._tape.constant(np.array(values, dtype))

    def full(self, shape: Any, number: float, dtype: Any) -> Traced:
        """Return an array filled with one number."""
        array = self.empty(shape, dtype)
        array[...] = array.dtype.type(number)
        return array

    def zeros(self, shape: Any, dtype: Any) -> Traced:
        """Return zeros."""
        return self.full(shape, 0, dtype)

    def ones(self, shape: Any, dtype: Any) -> Traced:
        """Return ones."""
        return self.full(shape, 1, dtype)

    def zeros_like(self, x: Traced, dtype: Any = None) -> Traced:
        """Return zeros in the memory order of x."""
        array = self._tape.empty(x.shape, dtype or x.dtype, x)
        array[...] = array.dtype.type(0)
        return array

    def where(self, mask: Traced, x: Any, other: Any) -> Traced:
        """Return x where the mask holds and `other` elsewhere; arrays or numbers, which broadcast."""
        dtype = np.result_type(*(a.dtype if isinstance(a, np.ndarray) else a for a in (x, other)))
        x, other = (a if isinstance(a, np.ndarray) else dtype.type(a) for a in (x, other))
        shape = np.broadcast_shapes(mask.shape, x.shape, other.shape)
        array = self._tape.empty(shape, dtype, mask if mask.shape == shape else None)
        array[...] = other
        self._tape.write("copyto", array, x, "same_kind", mask)
        return array

    def arange(self, stop: int) -> Traced:
        """Return 0, 1, ..., stop - 1."""
        return self._tape.constant(np.arange(stop))

    def broadcast_to(self, x: Traced, shape: Shape) -> Traced:
        """Return a broadcast view."""
        return self._tape.of(np.broadcast_to(np.asarray(x), shape))

    def copyto(self, target: Traced, number: float, where: Traced) -> None:
        """Write a number where a mask (..., 1) holds, along the whole last axis.

        NumPy skips masked elements fast only along an axis of the mask, so the last axis, which must be contiguous, is
        viewed as one element of a void dtype.
        """
        row = np.full(target.shape[-1:], number, target.dtype)
        void = f"V{row.nbytes}"
        self._tape.write("copyto", target.view(void), row.view(void).reshape(()), "same_kind", where)

    @property
    def lib(self) -> TracedNamespace:
        """The namespace of `lib.stride_tricks.as_strided`."""
        return self

    stride_tricks = lib

    def as_strided(self, x: Traced, shape: Shape, strides: tuple[int, ...]) -> Traced:
        """Return a view of any shape and strides (in bytes) that starts at the first element of x."""
        return self._tape.of(np.lib.stride_tricks.as_strided(np.asarray(x), shape, strides))

    def repeat(self, x: Traced, repeats: int, axis: int) -> Any:
        """Return x with each element repeated along an axis."""
        shape = list(x.shape)
        shape.insert(axis % x.ndim + 1, repeats)
        view = np.broadcast_to(np.expand_dims(np.asarray(x), axis % x.ndim + 1), shape)
        copy = self._tape.of(view).copy()
        return copy.reshape(tuple(n * repeats if a == axis % x.ndim else n for a, n in enumerate(x.shape)))


def _plain(x: Traced, dtype: Any = None, initial: Any = None, where: Any = True, **_: Any) -> bool:
    """Whether a reduction covers exactly the elements of x, in their own dtype."""
    return dtype in (None, x.dtype) and initial is None and where is True


def _layout(array: Traced) -> tuple[Any, ...]:
    """Return address, shape and strides."""
    return array.ctypes.data, array.shape, array.strides
