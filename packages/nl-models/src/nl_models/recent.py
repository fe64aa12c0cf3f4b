"""A cache of bounded size."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class RecentlyUsed(OrderedDict[Key, Value]):
    """The `size` values that were used last, by key.

    >>> squares = RecentlyUsed(2)
    >>> [squares.get_or_make(n, lambda n=n: n * n) for n in (2, 3, 2, 4)], list(squares)
    ([4, 9, 4, 16], [2, 4])
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def get_or_make(self, key: Key, make: Callable[[], Value]) -> Value:
        """The value of a key, made where it is not there; the one used longest ago then goes, before."""
        if key in self:
            self.move_to_end(key)
        else:
            while len(self) >= self.size:
                self.popitem(last=False)
            self[key] = make()
        return self[key]
