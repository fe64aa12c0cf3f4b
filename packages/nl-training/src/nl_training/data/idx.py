"""Parser of the IDX format, in which MNIST and similar data sets are published.

A file is: two zero bytes, the element type, the number of dimensions, one big-endian uint32 for each dimension, then
the elements in C order. Only unsigned bytes (type 0x08) are read: the data sets here use nothing else.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from nl_nodes import UserError
from nl_training.data.files import MAX_BYTES

_UNSIGNED_BYTE = b"\x00\x00\x08"

MAX_AXES = 32


def parse_idx(data: bytes | bytearray, name: str) -> npt.NDArray[np.uint8]:
    """Parse the contents of an IDX file; `name` is used in error messages.

    The header's sizes must match the bytes present, so a forged header allocates nothing.
    """
    if len(data) < 4 or data[:3] != _UNSIGNED_BYTE or data[3] == 0:
        raise UserError(
            f"{name} is not an IDX file of unsigned bytes (wrong magic number); replace it by the original file"
        )
    start = 4 + 4 * data[3]
    shape = tuple(int.from_bytes(data[i : i + 4], "big") for i in range(4, start, 4))
    # The other axes of an empty array may still exceed NumPy's limits.
    if len(data) != start + math.prod(shape) or math.prod(n for n in shape if n) > MAX_BYTES or len(shape) > MAX_AXES:
        declared = " x ".join(f"{size:,}" for size in shape)
        raise UserError(
            f"{name} is truncated or corrupt: its header declares {declared} bytes, but "
            f"{max(0, len(data) - start):,} follow; replace it by an intact copy"
        )
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)
