"""The NumPy backend."""

from __future__ import annotations

from typing import Any

import numpy as np

from nl_nodes.device.backend import Backend, backends
from nl_nodes.errors import UserError
from nl_nodes.philox import philox
from nl_nodes.typing import Array


class NumpyBackend(Backend):
    """NumPy arrays on the CPU."""

    xp = np
    block = 2**17

    def owns(self, value: Any) -> bool:
        """Return whether the value is a NumPy array or scalar."""
        return isinstance(value, np.ndarray | np.generic)

    def array(self, value: Any, dtype: Any = None) -> Array:
        """Convert a value to an array; an array that already fits is not copied.

        Raises:
            UserError: for a masked array, whose mask would be lost.
        """
        if np.ma.is_masked(value):
            raise UserError("an array has a mask, which would be lost: fill or leave out the masked values")
        return np.asarray(value, dtype=dtype)

    def host(self, array: Array) -> Any:
        """Return the array itself."""
        return array

    def random_bits(self, seed: int, stream: int, counter: int, count: int) -> Array:
        """Return random words of NumPy's Philox generator."""
        return philox(seed, stream, counter, count)


backends()["cpu"] = NumpyBackend()
