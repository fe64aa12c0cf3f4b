"""Validation of a batch's labels: class indices, or rows of target probabilities."""

from __future__ import annotations

from math import prod
from typing import Any

from nl_nodes import ShapeError, UserError, backend_of
from nl_nodes.typing import Array, Shape


def checked_labels(owner: str, t: Any, shape: Shape, largest: float | None = None) -> Array:
    """Return validated labels for predictions of this shape: int64 (N,), or rows in the predictions' shape.

    Labels (N,) for predictions (N, K) are class indices 0 to K - 1, of any integer or floating dtype. Labels in the
    predictions' shape are rows of probabilities, one-hot or soft, and used unchanged: as in PyTorch, a row need not sum
    to 1. Labels (N,) for predictions (N,) or (N, 1) are targets from 0 to 1. The check runs on the labels' device and
    transfers one number to the host.

    Args:
        owner: the name of the loss or network, for errors.
        t: the labels.
        shape: the predictions' shape, (N, K) or (N,).
        largest: upper bound of the values in a row; None for no bound.

    Raises:
        ShapeError: when t has another shape.
        UserError: when a label is not a number, boolean, complex, not finite, a fractional class, or out of range.
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
    good = _valid_rows(backend.xp, t, largest) if rows else _valid_classes(backend.xp, t, shape[1])
    if not good.all():
        worst = backend.host(t[~good]).ravel().tolist()[0]
        raise UserError(f"{owner}: {wanted}, got {worst!r:.40} ({t.dtype})")
    return t if rows else t.astype("int64")


def _valid_rows(xp: Any, t: Array, largest: float | None) -> Array:
    """Return a mask of the valid values of rows."""
    if t.dtype.kind not in "iuf":
        return xp.zeros(t.shape, dtype=bool)
    good = xp.isfinite(t) & (t >= 0)
    return good if largest is None else good & (t <= largest)


def _valid_classes(xp: Any, t: Array, count: int) -> Array:
    """Return a mask of the valid class indices."""
    if t.dtype.kind not in "iuf":
        return xp.zeros(t.shape, dtype=bool)
    t = t.astype("float64")  # represents every class index exactly
    return (t >= 0) & (t < count) & (t == xp.floor(t))


def shape_of(x: Any) -> Shape:
    """Return the shape of an array, or of nested lists of numbers."""
    return tuple(x.shape if hasattr(x, "shape") else backend_of(()).array(x).shape)
