"""Types of config values with their valid ranges, and of names in a registry."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Annotated, Any


@dataclass(frozen=True)
class Range:
    """An interval of valid values, with the description that error messages use."""

    description: str
    above: float = float("-inf")
    at_least: float = float("-inf")
    below: float = float("inf")
    at_most: float = float("inf")

    def contains(self, value: float) -> bool:
        """Return whether the interval contains `value`; false for NaN."""
        return self.at_least <= value <= self.at_most and self.above < value < self.below


@dataclass(frozen=True)
class Registered:
    """The names in a registry that plugins may add to, given as "module:NAME" and imported when it is needed."""

    registry: str

    @property
    def names(self) -> Collection[str]:
        """The names."""
        found: Collection[str] = resolve_name(self.registry)
        return found

    def contains(self, value: Any) -> bool:
        """Return whether the registry has a name."""
        return value in self.names

    @property
    def description(self) -> str:
        """The names, with how others are added."""
        *names, last = self.names
        return f"{', '.join(names)} or {last} (imports=[MODULE] adds others)"


Positive = Annotated[float, Range("a number above 0", above=0)]
NotNegative = Annotated[float, Range("a number, 0 or more", at_least=0)]
Share = Annotated[float, Range("a number from 0 to below 1", at_least=0, below=1)]
Fraction = Annotated[float, Range("a number from 0 to 1", at_least=0, at_most=1)]
PositiveFraction = Annotated[float, Range("a number above 0, up to 1", above=0, at_most=1)]
Count = Annotated[int, Range("a whole number, 1 or more", at_least=1)]
Natural = Annotated[int, Range("a whole number, 0 or more", at_least=0)]
Seed = Annotated[int, Range("a whole number from 0 to 4294967295", at_least=0, at_most=2**32 - 1)]
Width = Annotated[int, Range("a whole number, 4 or more", at_least=4)]
