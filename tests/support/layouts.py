"""Memory layouts of arrays, which must not change a node's results."""

import numpy as np
from hypothesis import strategies as st


def fortran(x: np.ndarray) -> np.ndarray:
    return np.array(x, order="F")


def rolled(x: np.ndarray) -> np.ndarray:
    """Return a view whose first axis is innermost in memory."""
    return np.moveaxis(np.moveaxis(x, 0, -1).copy(), -1, 0) if x.ndim else x.copy()


def strided(x: np.ndarray) -> np.ndarray:
    """Return a view of every other element along every axis of a larger array."""
    wide = np.full([2 * n for n in x.shape], 7, x.dtype)
    view = wide[(*[slice(None, None, 2)] * x.ndim, ...)]
    view[...] = x
    return view


def reversed_(x: np.ndarray) -> np.ndarray:
    """Return a view with negative strides along every axis."""
    return np.flip(np.flip(x).copy())


HOW = {"contiguous": np.copy, "Fortran": fortran, "rolled": rolled, "strided": strided, "reversed": reversed_}
LAYOUTS = st.tuples(st.sampled_from(list(HOW)), st.booleans())
"""A memory layout, and whether the array is writeable."""


def laid_out(x: np.ndarray, layout: tuple[str, bool]) -> np.ndarray:
    how, writeable = layout
    array = np.asarray(HOW[how](x))
    array.setflags(write=writeable)
    return array
