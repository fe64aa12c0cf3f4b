"""Types of config values with their valid values: ranges, and names in a registry."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Annotated, Any, Protocol

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from nl_nodes.arguments import (
    AT_LEAST_ONE,
    COUNT,
    FRACTION,
    NATURAL,
    NOT_NEGATIVE,
    OPEN_FRACTION,
    POSITIVE,
    POSITIVE_FRACTION,
    SHARE,
    Range,
)


class Values(Protocol):
    """Valid values, with the description that error messages use."""

    @property
    def description(self) -> str:
        """The values in words."""

    def contains(self, value: Any) -> bool:
        """Return whether a value is valid."""


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


@dataclass(frozen=True)
class In:
    """Annotation of a type for Pydantic: only these values of it are valid."""

    values: Values

    def __get_pydantic_core_schema__(self, kind: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Return the schema of the type, followed by the check."""
        return core_schema.no_info_after_validator_function(self._checked, handler(kind))

    def _checked(self, value: Any) -> Any:
        if not self.values.contains(value):
            raise ValueError(self.values.description)
        return value


@dataclass(frozen=True)
class NotEmpty:
    """Sequences of one value or more."""

    description: str = "one value or more"

    def contains(self, value: Any) -> bool:
        """Return whether there is a value."""
        return len(value) > 0


Positive = Annotated[float, In(POSITIVE)]
Positives = Annotated[tuple[Positive, ...], In(NotEmpty())]
NotNegative = Annotated[float, In(NOT_NEGATIVE)]
Share = Annotated[float, In(SHARE)]
Fraction = Annotated[float, In(FRACTION)]
OpenFraction = Annotated[float, In(OPEN_FRACTION)]
AtLeastOne = Annotated[float, In(AT_LEAST_ONE)]
PositiveFraction = Annotated[float, In(POSITIVE_FRACTION)]
Count = Annotated[int, In(COUNT)]
Several = Annotated[int, In(Range("a whole number, 2 or more", at_least=2, whole=True))]
Natural = Annotated[int, In(NATURAL)]
Seed = Annotated[int, In(Range("a whole number from 0 to 4294967295", at_least=0, at_most=2**32 - 1, whole=True))]
Width = Annotated[int, In(Range("a whole number, 4 or more", at_least=4, whole=True))]
