"""The bytes that kernels move to and from memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

import numpy as np

from nl_nodes.compiler.cuda.regions import Region
from nl_nodes.compiler.cuda.values import Program


@dataclass(frozen=True)
class Traffic:
    """Bytes read, if each comes from memory once a kernel, and bytes written."""

    read: int
    written: int

    @property
    def bytes(self) -> int:
        """Bytes read and written."""
        return self.read + self.written


def traffic(program: Program, regions: Iterable[Region]) -> Traffic:
    """Return the bytes that one kernel moves."""
    read: dict[int, int] = defaultdict(int)
    written = 0
    for region in regions:
        sizes = dict(region.axes + region.loops)
        for _, block, dtype, address, _ in region.loads:
            read[block] += prod(sizes.get(a, 1) for a, k in enumerate(address[1:]) if k) * np.dtype(dtype).itemsize
        for store in region.stores:
            times = region.threads if store.reduction else region.threads * region.steps
            written += times * np.dtype(store.dtype).itemsize
    return Traffic(sum(min(n, program.blocks[block].size) for block, n in read.items()), written)
