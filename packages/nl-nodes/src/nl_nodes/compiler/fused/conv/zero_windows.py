"""Windows that hold only zeros: their convolution is exactly zero, where Winograd tiles leave rounding noise.

ReLU would pass half of that noise, and max pooling would choose among equal windows by it.
"""

from __future__ import annotations

from typing import Any

from nl_nodes.typing import Array, Shape


def zero_windows(xp: Any, x: Array, pads: Shape, outputs: Shape, magnitudes: Array) -> Array:
    """Return whether each 3x3 window of zero-padded maps x (H, W, N, C) holds only zeros, as (OH, OW, N, 1).

    A sum of magnitudes is zero only if all of them are; BLAS sums channels, as a matrix product, at memory speed.

    Args:
        xp: the device's array functions.
        x: the maps.
        pads: rows of zero padding above, and columns on the left.
        outputs: (OH, OW); padding below and on the right fills the last windows.
        magnitudes: real workspace of the shape of x.
    """
    h, w, n, c = x.shape
    xp.absolute(x, magnitudes)
    total = xp.matmul(magnitudes.reshape((-1, c)), xp.array(((1,),) * c, dtype=magnitudes.dtype))
    (above, left), (oh, ow) = pads, outputs
    zero = xp.ones((oh + 2, ow + 2, n), dtype=bool)
    xp.equal(total.reshape((h, w, n)), 0, zero[above : above + h, left : left + w])
    down, right, image = zero.strides
    windows = xp.lib.stride_tricks.as_strided(zero, (3, 3, oh, ow, n), (down, right, down, right, image))
    return windows.all(axis=(0, 1))[..., None]
