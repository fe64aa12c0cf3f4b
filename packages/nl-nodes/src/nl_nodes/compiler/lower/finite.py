"""The end of a pass that checks itself: whether all it gives is finite, and the buffers' new values where it is."""

from __future__ import annotations

from typing import Any

import numpy as np

from nl_nodes.compiler.lower.lower import Lowering


def store_where_finite(lowered: Lowering) -> None:
    """Append calls that check a pass and write the new values of buffers; the verdict becomes the last result.

    0 times a value is 0, and NaN where it is not finite; so is the sum of these. The lowered graph has no updates
    afterwards.

    Args:
        lowered: a graph lowered for one worker.
    """
    (tape,) = lowered.tapes
    tape.owner = (None, "backward")
    owners = {id(block): block for block in map(lowered.memory.block, lowered.grads.values())}
    gradients = [block.memory.view(lowered.results[0].dtype) for block in owners.values()]
    total: Any = 0
    for array in (*lowered.results, *gradients):
        values = tape.of(np.asarray(array))
        total = total + np.add.reduce(values * values.dtype.type(0), axis=None)
    finite = tape.on(lowered.memory.allocate(1, persistent=True), (), np.bool_)
    finite[...] = np.equal(total, total.dtype.type(0))
    for buffer, value in lowered.updates.items():
        tape.write("copyto", tape.of(lowered.memory.external(buffer.value)), value, "same_kind", finite)
    lowered.updates = {}
    lowered.results.append(finite)
