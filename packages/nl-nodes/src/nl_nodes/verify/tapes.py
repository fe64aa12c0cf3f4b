"""Compare two lowerings of one graph in two precisions, call by call."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import zip_longest
from typing import Any

import numpy as np

from nl_nodes.compiler.lower.lower import Lowering
from nl_nodes.compiler.lower.memory import Block


def first_difference(one: Lowering, two: Lowering) -> str:
    """Return the first call or output in which two lowerings differ in more than precision, or "".

    Arrays are compared by the block that they view, their offset in it, shape and strides, all in elements, and by
    their item size relative to the results'; known values are compared after rounding to float32.
    """
    if len(one.tapes) != len(two.tapes):
        return f"{len(one.tapes)} and {len(two.tapes)} workers"
    listings = _Listing(one), _Listing(two)
    for worker, (a, b) in enumerate(zip(*listings, strict=True)):
        for number, (call, other) in enumerate(zip_longest(a, b)):
            if call != other:
                if cause := _promotion(one):
                    return cause
                owner = one.tapes[worker].owners[number:] or two.tapes[worker].owners[number:]
                return f"call {number} of worker {worker}, for {owner[0][0]!r} {owner[0][1]}"
    ends, others = (listing.ends() for listing in listings)
    return next((f"the place of {name}" for name in ends if ends[name] != others[name]), "")


def _promotion(lowered: Lowering) -> str:
    """Return the first call that gives more precision than its inputs have, or "".

    It is the usual cause of a difference: a node of the user's own that computes with whole numbers or float64.
    """
    for tape in lowered.tapes:
        for (_, args), (node, direction) in zip(tape.calls, tape.owners, strict=True):
            *inputs, result = [a.dtype for a in args if isinstance(a, np.ndarray) and a.dtype.kind == "f"] or [None]
            if inputs and result.itemsize > max(dtype.itemsize for dtype in inputs):
                return f"{node!r} {direction} gives {result} from {inputs[0]}: compute in the dtype of its input"
    return ""


class _Listing:
    """Each worker's calls of a lowered graph as plain values that do not depend on the precision."""

    def __init__(self, lowered: Lowering) -> None:
        self._lowered, self._numbers = lowered, dict[Block, Any]()
        self._dtype = lowered.results[0].dtype
        self._name(lowered.inputs, "input")
        self._name({name: leaf.value for name, leaf in lowered.graph.leaves.items() if leaf.value is not None}, "held")
        self._name(lowered.grads, "gradient")

    def _name(self, arrays: Mapping[str, Any], kind: str) -> None:
        for name, array in arrays.items():
            block = self._lowered.memory.find(array)
            if block is not None:
                self._numbers.setdefault(block, f"{kind} {name}")

    def __iter__(self) -> Iterator[list[Any]]:
        for tape in self._lowered.tapes:
            yield [(name, [self._plain(a) for a in args]) for name, args in tape.calls]

    def ends(self) -> dict[str, Any]:
        """Return the locations of results, new values of buffers and gradients, after all calls are listed."""
        r = self._lowered
        named = {f"result {number}": array for number, array in enumerate(r.results)}
        named |= {f"the new {buffer.name}": array for buffer, array in r.updates.items()}
        named |= {f"the gradient of {name}": array for name, array in r.grads.items()}
        return {name: self._array(array) for name, array in named.items()}

    def _plain(self, value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return self._array(value)
        if isinstance(value, float | np.floating):
            return float(np.float32(value))
        return value.item() if isinstance(value, np.generic) else value

    def _array(self, array: Any) -> Any:
        block = self._lowered.memory.block(array)
        number = self._numbers.setdefault(block, len(self._numbers))
        begin = (array.ctypes.data - block.start) // array.itemsize
        strides = tuple(s // array.itemsize for s in array.strides)
        known = None if block.value is None else self._rounded(block.value)
        alias = None if block.alias is None else self._array(block.alias)
        return number, begin, array.shape, strides, self._kind(array.dtype), known, alias

    def _kind(self, dtype: Any) -> str:
        """Return the dtype; floats, and void items that hold several, by their size relative to the results'."""
        if dtype.kind in "fV":
            return f"{dtype.kind}{dtype.itemsize / self._dtype.itemsize:g}"
        return str(dtype)

    def _rounded(self, values: Any) -> bytes:
        values = np.atleast_1d(values).view(self._dtype) if values.dtype.kind == "V" else values
        return bytes((values.astype(np.float32) if values.dtype.kind == "f" else values).tobytes())
