"""Labels of a batch, checked: classes as whole numbers, or rows of shares."""

from __future__ import annotations

from math import prod
from typing import Any

from nl_nodes import ShapeError, UserError, backend_of
from nl_nodes.typing import Array, Shape


def checked_labels(owner: str, t: Any, shape: Shape, largest: float | None = None) -> Array:
    """Return the labels of predictions of this shape: int64 (N,), or rows in the predictions' shape.

    Labels (N,) beside predictions (N, K) are classes: whole numbers from 0 to K - 1, of any integer or floating dtype.
    Labels in the predictions' shape are rows of shares, one-hot or soft, and used as they are: as in PyTorch, a row
    need not add up to 1. Labels (N,) beside one value each are targets from 0 to 1. They are checked on the device
    where they are, which is asked for one number.

    Args:
        owner: the name of the loss or network, for errors.
        t: the labels.
        shape: the predictions' shape, (N, K) or (N,).
        largest: the largest share of a row; None for any.

    Raises:
        ShapeError: when t has another shape.
        UserError: when a label is no number, a boolean, complex, not finite, a fraction of a class, or out of range.
    """
    backend = backend_of([t])
    try:
        t = backend.array(t)
    except ValueError:
        raise UserError(f"{owner}: labels must be an array of numbers, got rows of different lengths") from None
    if t.shape == shape[:1] and prod(shape[1:]) == 1:
        t, largest = t.reshape(shape), 1
    rows = t.shape == shape
    if not rows and (len(shape) != 2 or t.shape != shape[:1]):
        raise ShapeError(f"{owner}: labels must be {shape[:1]} or {shape}, got {tuple(t.shape)}")
    if rows:
        top = "0 or more" if largest is None else f"0 to {largest}"
        wanted = f"the numbers in rows of labels must be {top}"
    else:
        wanted = f"labels must be whole numbers from 0 to {shape[1] - 1}"
    good = _in_rows(backend.xp, t, largest) if rows else _classes(backend.xp, t, shape[1])
    if not good.all():
        worst = backend.host(t[~good]).ravel().tolist()[0]
        raise UserError(f"{owner}: {wanted}, got {worst!r:.40} ({t.dtype})")
    return t if rows else t.astype("int64")


def _in_rows(xp: Any, t: Array, largest: float | None) -> Array:
    """Which numbers may stand in a row."""
    if t.dtype.kind not in "iuf":
        return xp.zeros(t.shape, dtype=bool)
    good = xp.isfinite(t) & (t >= 0)
    return good if largest is None else good & (t <= largest)


def _classes(xp: Any, t: Array, count: int) -> Array:
    """Which labels are classes."""
    if t.dtype.kind not in "iuf":
        return xp.zeros(t.shape, dtype=bool)
    t = t.astype("float64")  # in which every count has a place
    return (t >= 0) & (t < count) & (t == xp.floor(t))


def shape_of(x: Any) -> Shape:
    """The shape of an array, or of nested lists of numbers."""
    return tuple(x.shape if hasattr(x, "shape") else backend_of(()).array(x).shape)
