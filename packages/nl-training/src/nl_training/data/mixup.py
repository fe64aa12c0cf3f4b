"""Mixup: each training image is mixed with another one of its batch, and so are their labels."""

from __future__ import annotations

from typing import Any

import numpy as np

from nl_layers.labels import checked_labels
from nl_nodes import backend_of

STREAM = 2**33
"""The stream of the random numbers; see `nl_training.data.augment.STREAM`."""


def mixup(x: Any, t: Any, alpha: float, classes: int, seed: int, epoch: int, step: int) -> tuple[Any, Any]:
    """Return `s x + (1 - s) x'` with labels `s t + (1 - s) t'`, where (x', t') is the batch in a random order.

    The share s of a batch is drawn from Beta(alpha, alpha). It and the order depend on seed, epoch and step only.

    Args:
        x: images (N, C, H, W), of the host or of a GPU; not modified.
        t: class indices (N,), of the host; with one class, targets 0 or 1.
        alpha: above 0; the larger, the closer the share is to a half.
        classes: the number of classes K.
        seed: seed of the random numbers.
        epoch: the epoch, from 1.
        step: the step in the epoch, from 0.

    Raises:
        UserError: for labels that are no classes.

    Returns:
        The mixed images, and rows of labels (N, K) in their dtype.

    Source: Zhang et al., mixup: Beyond Empirical Risk Minimization (2018), section 2.
    """
    rng = np.random.Generator(np.random.Philox(counter=[0, step, epoch, 0], key=(STREAM << 64) + seed))
    share, order = rng.beta(alpha, alpha), rng.permutation(len(t))
    t = checked_labels("mixup", t, (len(t), classes))
    rows = t if t.ndim == 2 else np.eye(classes)[t]
    mixed = share * x + (1 - share) * x[backend_of([x]).array(order)]
    return mixed, (share * rows + (1 - share) * rows[order]).astype(mixed.dtype)
