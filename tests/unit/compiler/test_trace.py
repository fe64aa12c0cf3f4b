"""Operations on traced arrays, recorded and then run, give NumPy's values in NumPy's memory layout."""

import gc
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from nl_nodes.compiler.lower.arena import Arena
from nl_nodes.compiler.lower.memory import Memory, record_use
from nl_nodes.compiler.lower.trace import Tape
from nl_nodes.runtime import Executor
from nl_nodes.runtime.call import Call
from nl_nodes.runtime.executor import execute

rng = np.random.default_rng(0)
X, Y = rng.standard_normal((3, 4)), rng.standard_normal((3, 4))
SQUARE, ROW = rng.standard_normal((4, 4)), rng.standard_normal(4)
MAPS, HALVES = rng.standard_normal((2, 3, 4)), rng.standard_normal((2, 3, 8)).astype("float32")[..., ::2]

Function = Callable[..., Any]


def replayed(function: Function, *arrays: np.ndarray) -> tuple[Any, list[Call]]:
    """Record a function of array functions and arrays, run its calls, and return its result and the calls."""
    memory, executor = Memory(), Executor()
    tape = Tape(memory)
    result = function(tape.xp, *map(tape.constant, arrays))
    for number, (_, args) in enumerate(tape.calls):
        for array in args:
            if isinstance(array, np.ndarray):
                record_use(memory, 0, number, 0, array)
    record_use(memory, 0, len(tape.calls), 0, result)
    arena = Arena(memory, executor)
    execute(executor.bind([arena.relocate_call(call) for call in tape.calls]))
    return arena.relocate(result), tape.calls


def written(x: np.ndarray, key: Any, value: Any) -> np.ndarray:
    x[key] = value
    return x


def added(x: np.ndarray, key: Any, value: Any) -> np.ndarray:
    x[key] += value
    return x


def put(function: Function, *inputs: Any, out: np.ndarray) -> np.ndarray:
    """Return the array that a function wrote to."""
    function(*inputs, out=out)
    return out


def cleared(xp: Any, x: np.ndarray) -> np.ndarray:
    xp.copyto(x, 0, where=np.array([[True], [False], [True]]))
    return x


# The number of calls of an operation, the operation, and its arrays.
OPERATIONS: dict[str, tuple[int, Function, tuple[np.ndarray, ...]]] = {
    "sum of two": (1, lambda xp, x, y: x + y, (X, Y)),
    "sum of two, transposed": (1, lambda xp, x, y: x.T + y.T, (X, Y)),
    "sum of maps and transposed maps": (1, lambda xp, x, y: x.transpose(2, 0, 1) * y.transpose(2, 0, 1), (MAPS, MAPS)),
    "sum of a row and rows": (1, lambda xp, row, x: row + x, (ROW, X)),
    "sum of a row and transposed rows": (1, lambda xp, row, x: row[:3] + x.T, (ROW, X)),
    "product with a number": (1, lambda xp, x: 2 * x, (X,)),
    "product of single precision with a number": (1, lambda xp, x: 2.5 * x, (HALVES,)),
    "product of two precisions": (1, lambda xp, x, y: x * y[..., :4], (MAPS, HALVES)),
    "of negative strides": (1, lambda xp, x: -x[::-1, ::-1], (X,)),
    "of negative strides, transposed": (1, lambda xp, x: -x[::-1].T, (X,)),
    "comparison": (1, lambda xp, x, y: x > y, (X, Y)),
    "square root": (1, lambda xp, x: xp.sqrt(x), (SQUARE * SQUARE,)),
    "into an array": (1, lambda xp, x, y: put(xp.multiply, x, y, out=y), (X, Y)),
    "matrix product": (1, lambda xp, x, y: x @ y.T, (X, Y)),
    "matrix products": (1, lambda xp, x, y: xp.matmul(x, y), (MAPS, X.reshape(1, 4, 3))),
    "matrix products of stacks": (1, lambda xp, x, y: xp.matmul(x, y), (MAPS[:, None], rng.random((3, 4, 5)))),
    "sum": (1, lambda xp, x: x.sum(), (X,)),
    "sum over the first axis": (1, lambda xp, x: np.add.reduce(x), (X,)),
    "sum over an axis": (1, lambda xp, x: x.sum(axis=1), (MAPS,)),
    "sum over the last axis": (1, lambda xp, x: x.sum(axis=-1, keepdims=True), (MAPS,)),
    "sum over axes": (1, lambda xp, x: x.sum(axis=(0, -1)), (MAPS,)),
    "sum over axes, kept": (1, lambda xp, x: x.sum(axis=(-1, 0), keepdims=True), (MAPS,)),
    "sum in the same precision": (1, lambda xp, x: x.sum(axis=0, dtype="float64"), (X,)),
    "sum of all that there is": (1, lambda xp, x: np.add.reduce(x, axis=(0, 1)), (X,)),
    "sum into an array": (1, lambda xp, x, row: put(np.add.reduce, x, out=row), (X, ROW)),
    "largest": (1, lambda xp, x: x.max(axis=0), (X,)),
    "element": (1, lambda xp, x: x[1, 2] * 2, (X,)),
    "element of all": (1, lambda xp, x: x[..., 1] * 2, (X,)),
    "row": (1, lambda xp, x: x[1] * 2, (X,)),
    "new axis": (1, lambda xp, x: x[:, None] * 2, (X,)),
    "write a number": (1, lambda xp, x: written(x, 1, 3), (X,)),
    "write an element": (1, lambda xp, x: written(x, (1, 2), 3), (X,)),
    "write an array": (1, lambda xp, x, y: written(x, ..., y), (X, Y)),
    "write an array of this process": (1, lambda xp, x: written(x, ..., Y), (X,)),
    "write one row to another": (1, lambda xp, x: written(x, 0, x[1]), (X,)),
    "write one row to the next": (1, lambda xp, x: written(x, 1, x[0]), (X,)),
    "write a row to all": (1, lambda xp, x: written(x, ..., x[:1]), (X,)),
    "write a column to all": (1, lambda xp, x: written(x, ..., x.T[:1].T), (X,)),
    "write what is transposed": (1, lambda xp, x: written(x, ..., x.T), (SQUARE,)),
    "write to what is transposed": (1, lambda xp, x: written(x.T, ..., x), (SQUARE,)),
    "write nothing": (0, lambda xp, x, y: written(x, slice(0), y[:0]), (X, Y)),
    "add to a row": (1, lambda xp, x, y: added(x, 1, y[0]), (X, Y)),
    "add to an element": (1, lambda xp, x, y: added(x, (1, 2), y[0, 0]), (X, Y)),
    # The last row of an empty array begins after its memory.
    "nothing in an empty array": (0, lambda xp, x: written(x, -1, x[-1]), (np.empty((3, 0)),)),
    "of an empty row": (1, lambda xp, x: xp.negative(x[-1]), (np.empty((3, 0)),)),
    "reshape": (0, lambda xp, x: x.reshape(2, -1), (X,)),
    "reshape to a tuple": (0, lambda xp, x: x.reshape((2, 6)), (X,)),
    "reshape what is transposed": (1, lambda xp, x: x.T.reshape(2, -1), (X,)),
    "copy": (1, lambda xp, x: x.T.copy(), (X,)),
    "another type": (1, lambda xp, x: x.astype("float32"), (X,)),
    "empty": (1, lambda xp: written(xp.empty((2, 3), dtype="float32"), ..., 1), ()),
    "empty of one axis": (1, lambda xp: written(xp.empty(3, dtype="float64"), ..., 1), ()),
    "array": (0, lambda xp: xp.array([1, 2], dtype="float32"), ()),
    "full": (1, lambda xp: xp.full((2, 3), 1.5, dtype="float32"), ()),
    "zeros": (1, lambda xp: xp.zeros((2, 3), dtype="float32"), ()),
    "ones": (1, lambda xp: xp.ones((2, 3), dtype="int8"), ()),
    "zeros like": (1, lambda xp, x: xp.zeros_like(x.T), (X,)),
    "zeros like, of another type": (1, lambda xp, x: xp.zeros_like(x, dtype=bool), (X,)),
    "where": (3, lambda xp, x, y: xp.where(x > y, x, 2), (X, Y)),
    "where, transposed": (3, lambda xp, x, y: xp.where(x.T > y.T, x.T, 2), (X, Y)),
    "where, of a column": (3, lambda xp, x, y: xp.where(x[:, :1] > 0, y, 2), (X, Y)),
    "where, of one for all": (3, lambda xp, x, y: xp.where(x > 0, y[:1], 2), (X, Y)),
    "where, of a row": (3, lambda xp, x, y: xp.where(x[0] > 0, y, 2), (X, Y)),
    "where, of a short row": (3, lambda xp, x, y: xp.where(x[:, 0] > 0, y.reshape(4, 3), 2), (X, Y)),
    "where, in single precision": (3, lambda xp, x: xp.where(x > 0, x, 0.5), (HALVES,)),
    "arange": (0, lambda xp: xp.arange(5), ()),
    "broadcast": (0, lambda xp, x: xp.broadcast_to(x, (3, 4)), (ROW,)),
    "copyto": (1, cleared, (X,)),
    "copyto in single precision": (1, cleared, (X.astype("float32"),)),
    "strides": (0, lambda xp, x: xp.lib.stride_tricks.as_strided(x[1:], (2, 2), (8, 8)), (ROW,)),
    "repeat": (1, lambda xp, x: xp.repeat(x, 3, axis=1), (MAPS,)),
    "repeat the last axis": (1, lambda xp, x: xp.repeat(x, 2, axis=-1), (MAPS,)),
    "repeat the first axis": (1, lambda xp, x: xp.repeat(x, 2, axis=0), (MAPS,)),
    "constants": (1, lambda xp, x: x * X.T, (Y.T,)),
    "result type": (1, lambda xp, x: x.astype(xp.result_type(np.int8, x.dtype)), (HALVES,)),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_recorded_operation_equals_numpys(name: str) -> None:
    calls, function, arrays = OPERATIONS[name]
    found, calls_made = replayed(function, *arrays)
    expected = np.asarray(function(np, *(np.array(array, order="C") for array in arrays)))
    np.testing.assert_array_equal(found, expected)
    assert (found.shape, found.dtype, layout(found)) == (expected.shape, expected.dtype, layout(expected))
    assert len(calls_made) == calls


def layout(array: np.ndarray) -> list[int]:
    """Return the strides that matter: those of axes with several elements, of an array that has any."""
    return [stride for stride, count in zip(array.strides, array.shape, strict=True) if count > 1 and array.size]


REFUSED: dict[str, Function] = {
    "where": lambda x: np.add(x, x, where=np.ones((3, 4), bool)),
    "type": lambda x: np.add(x, x, dtype="float32"),
    "running sum": lambda x: np.add.accumulate(x),
    "sums of parts": lambda x: np.add.reduceat(x, [0, 2]),
    "outer product": lambda x: np.multiply.outer(x, x),
    "in place": lambda x: np.add.at(x, 0, 1),
    "sum of some": lambda x: x.sum(where=np.ones((3, 4), bool)),
    "sum and a number": lambda x: x.sum(initial=1),
    "largest of all and a number": lambda x: x.max(axis=0, initial=0),
    "sum in another precision": lambda x: x.sum(dtype="float32"),
    "function that is no ufunc": lambda x: np.sort(x),
    "method": lambda x: x.argmax(),
    "truth": lambda x: bool(x),
}


@pytest.mark.parametrize("name", REFUSED)
def test_operations_that_cannot_be_recorded_raise(name: str) -> None:
    with pytest.raises(TypeError, match="record"):
        REFUSED[name](Tape(Memory()).constant(X))


def test_shapes_that_numpy_cannot_broadcast_raise() -> None:
    with pytest.raises(ValueError, match="broadcast"):
        replayed(lambda xp, x: written(x, slice(1), x), X)


@pytest.mark.parametrize("make", [lambda x: x.copy(), lambda x: x.astype("float32"), lambda x: x.reshape(12)])
def test_copies_are_row_major(make: Function) -> None:
    found, calls = replayed(lambda xp, x: make(x.T), X)
    np.testing.assert_array_equal(found, make(np.array(X.T, order="C")))
    assert found.flags.c_contiguous
    assert len(calls) == 1


def test_a_constant_keeps_its_values_when_its_array_changes() -> None:
    row = ROW.copy()

    def product(xp: Any, x: Any) -> Any:
        y = x * row
        row[...] = 0
        return y

    np.testing.assert_array_equal(replayed(product, X)[0], X * ROW)


def test_each_call_has_the_owner_at_its_recording() -> None:
    tape = Tape(Memory())
    x = tape.constant(X)
    x + x
    tape.owner = (None, "backward")
    x + x
    x.copy()
    assert tape.owners == [(None, "forward"), (None, "backward"), (None, "backward")]


def test_an_array_does_not_keep_its_tape_alive() -> None:
    tape = Tape(Memory())
    x = tape.constant(X)
    x + x
    gone = weakref.ref(tape)
    del tape
    gc.collect()
    assert gone() is None
