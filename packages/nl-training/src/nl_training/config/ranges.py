"""What a configuration value may be: a range, written beside its type in the schema."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated


@dataclass(frozen=True)
class Range:
    """The numbers x with low <= x <= high; an end that is `open` is itself outside, one that is None is not there."""

    low: float
    high: float | None = None
    open: str = ""

    def __contains__(self, x: float) -> bool:
        above = x > self.low if "low" in self.open else x >= self.low
        if self.high is None:
            return above
        return above and (x < self.high if "high" in self.open else x <= self.high)

    def __str__(self) -> str:
        if self.high is None:
            return f"{'>' if 'low' in self.open else '>='} {self.low:g}"
        return f"from {_end(self.low, 'low' in self.open)} to {_end(self.high, 'high' in self.open)}"


def _end(value: float, is_open: bool) -> str:
    return f"{value:g}{' (excluded)' if is_open else ''}"


Positive = Annotated[float, Range(0, open="low")]
NonNegative = Annotated[float, Range(0)]
Share = Annotated[float, Range(0, 1, open="high")]
Target = Annotated[float, Range(0, 1, open="low")]
Factor = Annotated[float, Range(0, 1)]
Count = Annotated[int, Range(1)]
Index = Annotated[int, Range(0)]
