"""Windows that see zeros alone: their sum is exactly zero, where tiles leave rounding noise of what lies beside them.

A rectifier would let half of that noise pass, and a pooling would choose among equal windows by it.
"""

from __future__ import annotations

from typing import Any

from nl_nodes.typing import Array


def zero_windows(xp: Any, x: Array, pad: int, magnitudes: Array) -> Array:
    """Whether each window of 3x3 of maps x (H, W, N, C), padded by zeros, sees zeros alone: (OH, OW, N, 1).

    A sum over channels is a matrix product, as BLAS does it at the speed of memory; of magnitudes, so that nothing
    cancels, and none is lost: a sum of what is not negative is zero only if all of it is.

    Args:
        xp: the device's array functions.
        x: the maps.
        pad: rows and columns of zeros on every side.
        magnitudes: memory for real numbers of x's shape.
    """
    h, w, n, c = x.shape
    xp.absolute(x, magnitudes)
    total = xp.matmul(magnitudes.reshape((-1, c)), xp.array(((1,),) * c, dtype=magnitudes.dtype))
    oh, ow = h + 2 * pad - 2, w + 2 * pad - 2
    zero = xp.ones((oh + 2, ow + 2, n), dtype=bool)
    xp.equal(total.reshape((h, w, n)), 0, zero[pad : pad + h, pad : pad + w])
    down, right, image = zero.strides
    windows = xp.lib.stride_tricks.as_strided(zero, (3, 3, oh, ow, n), (down, right, down, right, image))
    return windows.all(axis=(0, 1))[..., None]
