"""Batches of a split: each image once an epoch, in an order that can be rebuilt from (seed, epoch)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from nl_training.data.dataset import Labels, Split
from nl_training.data.pixels import Array


def epoch_order(n: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """The order in which an epoch takes its `n` images; depends on nothing but the arguments.

    The spawn key keeps the stream apart from that of a plain `default_rng(seed)`, which others draw from.
    """
    sequence = np.random.SeedSequence(seed, spawn_key=(epoch,))
    return np.random.default_rng(sequence).permutation(n)


def batches(
    split: Split, batch_size: int, order: npt.NDArray[np.int64] | None = None
) -> Iterator[tuple[Array, Labels]]:
    """Yield (x, t) batches of `split` in `order`, or as it lies (views) when that is None; the last may be smaller."""
    for first in range(0, len(split), batch_size):
        part = slice(first, first + batch_size)
        index = part if order is None else order[part]
        yield split.x[index], split.t[index]
