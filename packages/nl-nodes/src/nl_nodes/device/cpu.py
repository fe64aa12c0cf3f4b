"""NumPy on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np

from nl_nodes.device.backend import Backend, backends
from nl_nodes.typing import Array


class NumpyBackend(Backend):
    """Host memory and NumPy's functions."""

    xp = np
    block = 2**17

    def owns(self, value: Any) -> bool:
        """Whether the value is a NumPy array or scalar."""
        return isinstance(value, np.ndarray | np.generic)

    def array(self, value: Any, dtype: Any = None) -> Array:
        """The value as an array; an array that already fits is not copied."""
        return np.asarray(value, dtype=dtype)

    def host(self, array: Array) -> Any:
        """The array itself."""
        return array

    def random_bits(self, seed: int, stream: int, counter: int, count: int) -> Array:
        """The words, from NumPy's own generator."""
        return philox(seed, stream, counter, count)


def philox(seed: int, stream: int, counter: int, count: int, start: int = 0) -> Array:
    """`Backend.random_bits`, from number `start` on."""
    # NumPy steps its counter before it draws, so block b comes from counter b - 1, modulo 2^256.
    block = ((counter << 64) + start // 4 - 1) % 2**256
    generator = np.random.Philox(counter=block, key=(stream << 64) + seed)
    return generator.random_raw(start % 4 + count)[start % 4 :]


backends()["cpu"] = NumpyBackend()
