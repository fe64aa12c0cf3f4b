"""The least time that a training pass takes at the speed of a GPU's memory and products, and how to measure these."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from nl_nodes.compiler.cuda.check import Counts
from nl_nodes.runtime.cuda import Card
from nl_nodes.runtime.cuda.cublaslt import Matmul
from nl_nodes.runtime.cuda.products import describe

COPIED, SIDE = 2**30, 4096
"""Bytes that are copied, and rows of the square matrices that are multiplied."""


@dataclass(frozen=True)
class Speed:
    """What a GPU was measured to do.

    Attributes:
        bandwidth: bytes/s of a copy, those read and those written.
        flops: FLOP/s of a large float32 product.
        tf32: the same with TF32.
    """

    bandwidth: float
    flops: float
    tf32: float

    def bound(self, counts: Counts, tf32: bool = False) -> float:
        """Return the seconds for the bytes of kernels, then for the bytes or the operations of products."""
        rate = self.tf32 if tf32 else self.flops
        return counts.bytes / self.bandwidth + max(counts.product_bytes / self.bandwidth, counts.flops / rate)


def measure(card: Card, size: int = COPIED, side: int = SIDE) -> Speed:
    """Measure a copy of `size` bytes, and products of matrices with `side` rows, each by its fastest algorithm."""
    with card.lock, card.enqueuing():
        return Speed(_bandwidth(card, size), _rate(card, side, False), _rate(card, side, True))


def _bandwidth(card: Card, size: int) -> float:
    source, target = card.zeros(size), card.zeros(size)
    return 2 * size / card.seconds(partial(card.write, target, source))


def _rate(card: Card, side: int, tf32: bool) -> float:
    # Not zeros: a GPU multiplies these faster, as it then draws less power.
    numbers = np.random.default_rng(0).standard_normal((side, side), dtype=np.float32)
    arrays = [card.view(card.zeros(4 * side**2), (side, side), np.float32, 0, (4 * side, 4)) for _ in range(3)]
    for array in arrays[:2]:
        card.write(array, numbers)
    a, b, out = arrays
    product, operands = describe(a, b, out, (card.address(a), card.address(b), card.address(out)), tf32)
    matmul = Matmul(card.lt, product)
    times = [card.seconds(partial(card.multiply, matmul, offer, operands)) for offer in card.lt.offers(matmul)]
    return product.flops / min(times)
