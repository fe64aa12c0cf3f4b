"""Batches of a split: each image once an epoch, in an order that can be rebuilt from (seed, epoch)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from nl_nodes import ShapeError
from nl_training.data.dataset import Labels, Split
from nl_training.data.pixels import Array

if TYPE_CHECKING:
    from nl_models import Network


@dataclass(frozen=True)
class EpochBatches:
    """How an epoch's images are cut into batches.

    Attributes:
        images: how many are trained on: all, or all but one.
        batch_size: how many a batch has; the last may be smaller.
        note: what a user should know of that, "" for nothing.
    """

    images: int
    batch_size: int
    note: str = ""

    @classmethod
    def of(cls, net: Network, images: int, batch_size: int) -> EpochBatches:
        """The batches of a network's epoch; a last one of a single image is left out where batch norm fails on it.

        Raises:
            ShapeError: where all batches are of a single image and batch norm fails on these.
        """
        always = min(images, batch_size) == 1
        if images % batch_size != 1 and not always:
            return cls(images, batch_size)
        try:
            normalises = bool(net.wire(1, train=True).updates)
        except ShapeError as error:
            if always:
                raise ShapeError(f"trainer.batch_size={batch_size} on {images} images: {error}") from None
            note = "batch norm needs more than one value per feature: each epoch leaves its last, single image out"
            return cls(images - 1, batch_size, note)
        which = "each batch" if always else "the last batch of an epoch"
        note = f"batch norm: {which} is a single image, whose pixels alone give its mean and variance"
        return cls(images, batch_size, note if normalises else "")

    @property
    def count(self) -> int:
        """How many batches there are."""
        return -(-self.images // self.batch_size)

    @property
    def sizes(self) -> set[int]:
        """How many images they have."""
        return {min(self.images, self.batch_size), self.images % self.batch_size} - {0}


def epoch_order(n: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """The order in which an epoch takes its `n` images; depends on nothing but the arguments.

    The spawn key keeps the stream apart from that of a plain `default_rng(seed)`, which others draw from.
    """
    sequence = np.random.SeedSequence(seed, spawn_key=(epoch,))
    return np.random.default_rng(sequence).permutation(n)


def batches(
    split: Split, batch_size: int, order: npt.NDArray[np.int64] | None = None
) -> Iterator[tuple[Array, Labels]]:
    """Yield (x, t) batches of the images in `order`, of all as they lie (views) when that is None.

    The last may be smaller.
    """
    for first in range(0, len(split) if order is None else len(order), batch_size):
        part = slice(first, first + batch_size)
        index = part if order is None else order[part]
        yield split.x[index], split.t[index]
