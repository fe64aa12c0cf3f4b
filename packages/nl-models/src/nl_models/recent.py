"""A least-recently-used cache."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class RecentlyUsed(OrderedDict[Key, Value]):
    """A dictionary of the `size` most recently used entries.

    >>> squares = RecentlyUsed(2)
    >>> [squares.get_or_make(n, lambda n=n: n * n) for n in (2, 3, 2, 4)], list(squares)
    ([4, 9, 4, 16], [2, 4])
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def get_or_make(self, key: Key, make: Callable[[], Value]) -> Value:
        """Return the value of a key; create a missing one, after the least recently used entry is removed."""
        if key in self:
            self.move_to_end(key)
        else:
            while len(self) >= self.size:
                self.popitem(last=False)
            self[key] = make()
        return self[key]
