"""A fake device, a strict stand-in for a GPU: its arrays are not NumPy arrays and refuse what CuPy's refuse.

It converts to host arrays only by `host`, never mixes with them, and has only the functions listed here. Code that
would fail on a GPU fails here.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from nl_nodes.device.backend import Backend, backends

SCALARS = (int, float, complex, bool, np.bool_)


class Events(Counter[str]):
    """How often the device allocated memory, copied from the host, and let the host wait; refused during capture."""

    capturing = False

    def record(self, kind: str) -> None:
        if self.capturing:
            raise RuntimeError(f"{kind} during stream capture")
        self[kind] += 1


EVENTS = Events()
ALLOCATION, TO_DEVICE, WAIT = "an allocation", "a copy from the host", "a synchronisation"


class Pointer:
    """An address, as an array of CuPy has it in `data`."""

    def __init__(self, ptr: int) -> None:
        self.ptr = ptr


class FakeArray:
    """An array on the fake device; only this module may access its memory, `_data`."""

    __array_ufunc__ = None  # NumPy must not take part in an operation

    def __init__(self, data: np.ndarray) -> None:
        if not isinstance(data.base, np.ndarray):
            EVENTS.record(ALLOCATION)
        self._data = data

    def __array__(self, *args: Any, **kwargs: Any) -> np.ndarray:
        raise TypeError("Implicit conversion to a NumPy array is not allowed")

    shape = property(lambda self: self._data.shape)
    ndim = property(lambda self: self._data.ndim)
    size = property(lambda self: self._data.size)
    dtype = property(lambda self: self._data.dtype)
    strides = property(lambda self: self._data.strides)
    nbytes = property(lambda self: self._data.nbytes)
    data = property(lambda self: Pointer(self._data.ctypes.data))
    base = property(lambda self: self._owner())

    def _owner(self) -> FakeArray | None:
        if not isinstance(self._data.base, np.ndarray):
            return None
        owner: FakeArray = object.__new__(FakeArray)  # no new memory
        owner._data = self._data.base
        return owner

    real = property(lambda self: FakeArray(self._data.real))
    T = property(lambda self: FakeArray(self._data.T))

    def __iter__(self) -> Any:
        return (FakeArray(row) for row in self._data)

    def __len__(self) -> int:
        return len(self._data)

    def __float__(self) -> float:
        EVENTS.record(WAIT)
        return float(self._data)

    def __int__(self) -> int:
        EVENTS.record(WAIT)
        return int(self._data)

    def __bool__(self) -> bool:
        EVENTS.record(WAIT)
        return bool(self._data)

    def __getitem__(self, key: Any) -> FakeArray:
        return FakeArray(self._data[_index(key)])

    def __setitem__(self, key: Any, value: Any) -> None:
        self._data[_index(key)] = _data(value)


def _data(value: Any) -> Any:
    if isinstance(value, FakeArray):
        return value._data
    if value is None or isinstance(value, (*SCALARS, str, tuple, list, type, np.dtype)):
        return value
    raise TypeError(f"{type(value).__name__} mixed with an array of the device")


def _index(key: Any) -> Any:
    keys = key if isinstance(key, tuple) else (key,)
    return tuple(k if isinstance(k, slice) or k is Ellipsis or k is None else _data(k) for k in keys)


def _wrap(value: Any) -> Any:
    return FakeArray(np.asarray(value)) if isinstance(value, np.ndarray | np.generic) else value


def _operator(name: str) -> Any:
    def method(self: FakeArray, *others: Any) -> Any:
        result = getattr(self._data, name)(*map(_data, others))
        if result is NotImplemented:
            return NotImplemented
        if name in IN_PLACE:
            return self
        return _wrap(result)

    return method


def _method(name: str) -> Any:
    def method(self: FakeArray, *args: Any, **kwargs: Any) -> Any:
        given = [_data(a) for a in args]
        return _wrap(getattr(self._data, name)(*given, **{k: _data(v) for k, v in kwargs.items()}))

    return method


BINARY = ("add", "sub", "mul", "truediv", "pow", "matmul", "and", "or")
IN_PLACE = frozenset(f"__i{name}__" for name in BINARY)
for _name in BINARY:
    for _form in ("", "r", "i"):
        setattr(FakeArray, f"__{_form}{_name}__", _operator(f"__{_form}{_name}__"))
for _name in ("lt", "le", "gt", "ge", "eq", "ne", "neg", "abs", "invert"):
    setattr(FakeArray, f"__{_name}__", _operator(f"__{_name}__"))
FakeArray.__hash__ = None  # type: ignore[assignment]
for _name in ("reshape", "transpose", "sum", "max", "min", "argmax", "astype", "copy", "ravel", "all", "view", "fill"):
    setattr(FakeArray, _name, _method(_name))


class StrideTricks:
    """The used part of `lib.stride_tricks`."""

    @staticmethod
    def as_strided(array: FakeArray, shape: Any, strides: Any) -> FakeArray:
        return FakeArray(np.lib.stride_tricks.as_strided(array._data, shape, strides))


class Lib:
    stride_tricks = StrideTricks()


class FakeNamespace:
    """The array functions that CuPy has too and that this project uses."""

    lib = Lib()
    result_type = staticmethod(np.result_type)
    can_cast = staticmethod(np.can_cast)

    allowed = frozenset(
        [
            "add",
            "subtract",
            "multiply",
            "matmul",
            "maximum",
            "greater",
            "equal",
            "absolute",
            "copyto",
            "einsum",
            "array",
            "exp",
            "log",
            "tanh",
            "log1p",
            "sign",
            "sqrt",
            "argmax",
            "take_along_axis",
            "repeat",
            "broadcast_to",
            "concatenate",
            "zeros",
            "ones",
            "empty",
            "full",
            "full_like",
            "zeros_like",
            "arange",
            "isfinite",
            "floor",
            "vdot",
            "where",
        ]
    )

    def __getattr__(self, name: str) -> Any:
        if name not in self.allowed:
            raise AttributeError(f"the device offers no {name}")
        if name == "matmul" and EVENTS.capturing:
            raise NotImplementedError("calling cuBLAS API during stream capture is currently unsupported")
        function = getattr(np, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            given = [[_data(x) for x in a] if isinstance(a, list) else _data(a) for a in args]
            return _wrap(function(*given, **{k: _data(v) for k, v in kwargs.items()}))

        return call


class FakeBackend(Backend):
    """The device "fake"."""

    xp = FakeNamespace()

    def owns(self, value: Any) -> bool:
        return isinstance(value, FakeArray)

    def array(self, value: Any, dtype: Any = None) -> FakeArray:
        if isinstance(value, FakeArray):
            return value if dtype is None or value.dtype == dtype else value.astype(dtype)
        EVENTS.record(TO_DEVICE)
        return FakeArray(np.array(value, dtype=dtype))

    def host(self, array: FakeArray) -> np.ndarray:
        EVENTS.record(WAIT)
        return array._data.copy()

    def random_bits(self, seed: int, stream: int, counter: int, count: int) -> FakeArray:
        return FakeArray(backends()["cpu"].random_bits(seed, stream, counter, count))


def install() -> None:
    """Make `Device("fake")` work."""
    backends()["fake"] = FakeBackend()
