"""Types of config values with their valid ranges, and of names in a registry."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Annotated, Any

from nl_nodes.arguments import (
    COUNT,
    FRACTION,
    NATURAL,
    NOT_NEGATIVE,
    POSITIVE,
    POSITIVE_FRACTION,
    SHARE,
    Range,
)


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


Positive = Annotated[float, POSITIVE]
NotNegative = Annotated[float, NOT_NEGATIVE]
Share = Annotated[float, SHARE]
Fraction = Annotated[float, FRACTION]
PositiveFraction = Annotated[float, POSITIVE_FRACTION]
Count = Annotated[int, COUNT]
Natural = Annotated[int, NATURAL]
Seed = Annotated[int, Range("a whole number from 0 to 4294967295", at_least=0, at_most=2**32 - 1, whole=True)]
Width = Annotated[int, Range("a whole number, 4 or more", at_least=4, whole=True)]
