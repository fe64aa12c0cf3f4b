"""Ranges that numbers of a config must lie in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated


@dataclass(frozen=True)
class Range:
    """A range that a number must lie in, and how to say it."""

    says: str
    above: float = float("-inf")
    at_least: float = float("-inf")
    below: float = float("inf")
    at_most: float = float("inf")

    def holds(self, value: float) -> bool:
        """Whether the value lies in it; NaN lies in none."""
        return self.at_least <= value <= self.at_most and self.above < value < self.below


Positive = Annotated[float, Range("a number above 0", above=0)]
NotNegative = Annotated[float, Range("a number, 0 or more", at_least=0)]
Share = Annotated[float, Range("a number from 0 to below 1", at_least=0, below=1)]
Fraction = Annotated[float, Range("a number from 0 to 1", at_least=0, at_most=1)]
PositiveFraction = Annotated[float, Range("a number above 0, up to 1", above=0, at_most=1)]
Count = Annotated[int, Range("a whole number, 1 or more", at_least=1)]
Natural = Annotated[int, Range("a whole number, 0 or more", at_least=0)]
Seed = Annotated[int, Range("a whole number from 0 to 4294967295", at_least=0, at_most=2**32 - 1)]
Width = Annotated[int, Range("a whole number, 4 or more", at_least=4)]
