"""Stratified splits: the same share of every class."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from nl_nodes import UserError
from nl_training.data.dataset import Labels, Source, Split
from nl_training.data.pixels import Array

Indices = npt.NDArray[np.int64]

TEST_SHARE = 0.2


def stratified(t: Labels, share: float, seed: int) -> tuple[Indices, Indices]:
    """Return ascending indices (kept, taken) of a split of labels `t` (N,) that takes `round(N * share)` images.

    Each class's share is rounded down, and the classes with the largest remainders give one image more. Every class
    keeps at least one image, so fewer are taken if classes are tiny.
    """
    rng = np.random.default_rng(seed)
    counts = np.bincount(t)
    quota = counts * share
    take = np.minimum(np.floor(quota).astype(np.int64), np.maximum(counts - 1, 0))
    by_remainder = np.argsort(take - quota, kind="stable")
    able = by_remainder[(counts - take)[by_remainder] > 1]
    take[able[: max(0, round(len(t) * share) - int(take.sum()))]] += 1

    taken = np.zeros(len(t), bool)
    for label, n in enumerate(take):
        taken[rng.permutation(np.flatnonzero(t == label))[:n]] = True
    return np.flatnonzero(~taken), np.flatnonzero(taken)


def train_and_test(x: Array, t: Labels) -> tuple[Split, Split]:
    """Split a data set that has no test split: one fifth for the test, independent of the run's seed."""
    kept, taken = stratified(t, TEST_SHARE, seed=0)
    if len(taken) == 0:
        raise UserError(f"{len(t)} images are too few to put some aside for the test; give at least 3 of each class")
    return Split(x[kept], t[kept]), Split(x[taken], t[taken])


def limited(source: Source, images: int) -> Source:
    """Return a part of the data, stratified by class; the same part in every run.

    Args:
        source: the raw images.
        images: the most training images, with those for validation; test images are cut to the same share.
    """
    of = len(source.train) + len(source.validation or ())
    if images >= of:
        return source

    def part(split: Split, share: float) -> Split:
        _, taken = stratified(split.t, max(share, 1 / len(split)), seed=0)
        if len(taken) == 0:
            raise UserError(f"data.limit={images} takes none of {len(split)} images of one split; leave it out")
        return Split(split.x[taken], split.t[taken])

    share = images / of
    held = source.validation and part(source.validation, share)
    rest = (images - len(held or ())) / len(source.train)
    return replace(source, train=part(source.train, rest), validation=held, test=part(source.test, share))
