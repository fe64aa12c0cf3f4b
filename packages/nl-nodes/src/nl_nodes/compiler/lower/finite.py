"""The end of a pass that checks itself: whether all it gives is finite, and what it stores where it is."""

from __future__ import annotations

from typing import Any

import numpy as np

from nl_nodes.compiler.lower.lower import Lowering, Update
from nl_nodes.compiler.lower.trace import Tape, Traced


def store_where_finite(lowered: Lowering) -> None:
    """Append calls that check a pass, and where it is finite write the buffers' new values and run the update.

    Whether it is finite becomes the last result. The lowered graph has no updates of buffers afterwards, and the
    numbers of `spec.update` are inputs.

    Args:
        lowered: a graph lowered for one worker.
    """
    (tape,) = lowered.tapes
    tape.owner = (None, "backward")
    total = _zero_if_finite(lowered, tape)
    update = lowered.spec.update
    if update is not None:
        so_far = tape.of(lowered.memory.external(update.finite_so_far))
        so_far += total
        total = so_far
    finite = tape.on(lowered.memory.allocate(1, persistent=True), (), np.bool_)
    finite[...] = np.equal(total, total.dtype.type(0))
    for buffer, value in lowered.updates.items():
        tape.write("copyto", tape.of(lowered.memory.external(buffer.value)), value, "same_kind", finite)
    lowered.updates = {}
    if update is not None:
        _run_update(lowered, tape, update, finite)
    lowered.results.append(finite)


def _zero_if_finite(lowered: Lowering, tape: Tape) -> Traced:
    """Return a sum over all results and gradients that is 0 or NaN: 0 times a value is NaN where it is not finite."""
    owners = {id(block): block for block in map(lowered.memory.block, lowered.grads.values())}
    gradients = [block.memory.view(lowered.results[0].dtype) for block in owners.values()]
    total: Any = 0
    for array in (*lowered.results, *gradients):
        values = tape.of(np.asarray(array))
        total = total + np.add.reduce(values * values.dtype.type(0), axis=None)
    return total  # type: ignore[no-any-return]


def _run_update(lowered: Lowering, tape: Tape, update: Update, finite: Traced) -> None:
    """Append an update of copies, and the copies' way back where the pass is finite."""
    memory, dtype = lowered.memory, np.dtype(update.finite_so_far.dtype)
    numbers = {name: tape.on(memory.allocate(dtype.itemsize, persistent=True), (), dtype) for name in update.numbers}
    arrays = [tape.of(memory.external(array)) for array in update.arrays]
    copies = [array.copy() for array in arrays]
    update.function(tape.of(memory.external(update.gradient)), copies, numbers)
    for array, copy in zip(arrays, copies, strict=True):
        tape.write("copyto", array, copy, "same_kind", finite)
    lowered.inputs |= numbers
