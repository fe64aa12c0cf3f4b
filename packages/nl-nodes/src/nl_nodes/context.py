"""The context of one node in one pass, and the workers that share the pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nl_nodes.typing import Array, Namespace, Shape

PARTIAL_SUM = -1
"""Returned by `Node.batch_axis` in place of an axis: the output is the sum of those for each part of the batch."""


class NotShardable(Exception):
    """Raised by `Node.batch_axis` where an output mixes samples, so that the batch cannot be split over workers."""


class WorkerGroup:
    """The workers that share one pass, each with a part of the batch, and their collectives; here a single worker.

    Attributes:
        xp: the array functions of the device.
        chunked: whether fused nodes work in chunks that stay in a processor's cache, or on the whole batch at once.
        panels: whether fused nodes store right factors in panels of columns, for products that are cut.
    """

    chunked: bool = True
    panels: bool = False

    def __init__(self, xp: Namespace) -> None:
        self.xp = xp

    def shard(self, count: int) -> slice:
        """Return this worker's slice of `count` items."""
        return slice(0, count)

    def global_batch(self, local_batch: int) -> int:
        """Return the number of samples on all workers together."""
        return local_batch

    def shared_empty(self, shape: Shape, dtype: Any) -> Array:
        """Return an uninitialised array that all workers share."""
        return self.xp.empty(shape, dtype=dtype)

    def persistent_zeros(self, shape: Shape, dtype: Any) -> Array:
        """Return an array of this node alone that is zeroed once and keeps its contents from pass to pass."""
        return self.xp.zeros(shape, dtype=dtype)

    def all_reduce_sum(self, x: Array) -> Array:
        """Return the sum of `x` over all workers."""
        return x

    def barrier(self) -> None:
        """Wait until every worker has reached this call."""


class Context:
    """The state of one node in one pass, from forward to backward.

    The graph sets all but `saved`, and keeps `inputs` and `output` for backward only where the node's `saves` names
    them. `forward` may set `saved`, and nothing else.

    Attributes:
        xp: the array functions of the device.
        group: the workers that share the pass.
        shapes: the shapes of the inputs.
        needs: for each input, whether its gradient is wanted.
        inputs: the input arrays.
        output: the output array.
        saved: an array that forward keeps for backward, such as a mask.
        pass_index: the index of the pass, the counter of random nodes (see `IndexMask`).
        random_bits: the generator of random words, `Backend.random_bits`.
    """

    __slots__ = ("group", "inputs", "needs", "output", "pass_index", "random_bits", "saved", "shapes", "xp")

    xp: Namespace
    group: WorkerGroup
    shapes: tuple[Shape, ...]
    needs: tuple[bool, ...]
    inputs: tuple[Array, ...]
    output: Array
    saved: Array
    pass_index: int
    random_bits: Callable[[int, int, int, int], Array]
