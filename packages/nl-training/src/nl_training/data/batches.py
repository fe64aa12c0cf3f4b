"""Batches of a split: each image once per epoch, in an order that depends only on (seed, epoch)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from nl_nodes import ShapeError, UserError
from nl_training.data.dataset import Labels, Split
from nl_training.data.pixels import Array

if TYPE_CHECKING:
    from nl_models import Network


@dataclass(frozen=True)
class EpochBatches:
    """Number and size of the batches of an epoch.

    Attributes:
        images: number of images used per epoch: all, or all but one.
        batch_size: images per batch; the last may be smaller.
        note: a message for the user about the batches, "" for none.
        accumulate: batches per step; the last step may have fewer.
    """

    images: int
    batch_size: int
    note: str = ""
    accumulate: int = 1

    @classmethod
    def of(cls, net: Network, images: int, batch_size: int, accumulate: int = 1) -> EpochBatches:
        """Return the batches of an epoch, without a last batch of one image if batch norm cannot normalise it.

        Raises:
            UserError: without images.
            ShapeError: if every batch is a single image and batch norm cannot normalise it.
        """
        if not images:
            raise UserError("there are no training images")
        always = min(images, batch_size) == 1
        if images % batch_size != 1 and not always:
            return cls(images, batch_size, "", accumulate)
        try:
            normalises = bool(net.wire(1, train=True).updates)
        except ShapeError as error:
            if always:
                raise ShapeError(f"trainer.batch_size={batch_size} on {images} images: {error}") from None
            note = "batch norm needs more than one value per feature: each epoch leaves its last, single image out"
            return cls(images - 1, batch_size, note, accumulate)
        which = "each batch" if always else "the last batch of an epoch"
        note = f"batch norm: {which} is a single image, whose pixels alone give its mean and variance"
        return cls(images, batch_size, note if normalises else "", accumulate)

    @property
    def step_size(self) -> int:
        """Images per step; the last may have fewer."""
        return self.batch_size * self.accumulate

    @property
    def count(self) -> int:
        """Number of steps."""
        return -(-self.images // self.step_size)

    @property
    def sizes(self) -> set[int]:
        """Batch sizes that occur."""
        return {min(self.images, self.batch_size), self.images % self.batch_size} - {0}


def epoch_order(n: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """Return the permutation of `n` images for an epoch, deterministic in the arguments.

    The spawn key makes the stream independent of `default_rng(seed)`, which is used elsewhere.
    """
    sequence = np.random.SeedSequence(seed, spawn_key=(epoch,))
    return np.random.default_rng(sequence).permutation(n)


def batches(
    split: Split, batch_size: int, order: npt.NDArray[np.int64] | None = None
) -> Iterator[tuple[Array, Labels]]:
    """Yield batches (x, t) of the images in `order`; without it, of all images in stored order, as views.

    The last batch may be smaller.
    """
    for first in range(0, len(split) if order is None else len(order), batch_size):
        span = slice(first, first + batch_size)
        index = span if order is None else order[span]
        yield split.x[index], split.t[index]
