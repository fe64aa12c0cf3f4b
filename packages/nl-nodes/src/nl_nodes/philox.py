"""Random words from NumPy's counter-based generator Philox4x64-10."""

from __future__ import annotations

import numpy as np

from nl_nodes.typing import Array


def philox(seed: int, stream: int, counter: int, count: int, start: int = 0) -> Array:
    """Return words `start` to `start + count - 1` of `Backend.random_bits`."""
    # NumPy increments its counter before it draws, so block b comes from counter b - 1, modulo 2^256.
    block = ((counter << 64) + start // 4 - 1) % 2**256
    generator = np.random.Philox(counter=block, key=(stream << 64) + seed)
    return generator.random_raw(start % 4 + count)[start % 4 :]
