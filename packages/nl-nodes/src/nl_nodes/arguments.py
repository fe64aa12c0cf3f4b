"""Refusal of wrong arguments in one line that names the argument and the fix."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import wraps
from numbers import Integral, Real
from typing import Any, ParamSpec, TypeVar

from nl_nodes.errors import UserError

P = ParamSpec("P")
R = TypeVar("R")


def near(word: str, known: Iterable[str]) -> str:
    """Return a hint that names the closest known word, or all of them if none is close.

    >>> near("hiden", ["hidden", "width"])
    'did you mean hidden?'
    """
    known = sorted(known)
    match = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean {match[0]}?" if match else f"it may be {', '.join(known)}"


def check_keywords(owner: str, function: Callable[..., Any], keywords: Iterable[str]) -> None:
    """Raise `UserError` for the first keyword that is no parameter of a function."""
    known = [name for name in inspect.signature(function).parameters if name != "self"]
    for name in keywords:
        if name not in known:
            hint = near(name, known) if known else "it takes no arguments"
            raise UserError(f"{owner} has no argument {name!r}: {hint}") from None


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function, or a class by its `__init__`, refuse unknown keywords with `UserError`.

    >>> @checked
    ... def scale(factor=1.0): ...
    >>> scale(facter=2.0)
    Traceback (most recent call last):
        ...
    nl_nodes.errors.UserError: scale has no argument 'facter': did you mean factor?
    """

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except TypeError:
            name = function.__name__
            check_keywords(type(args[0]).__name__ if name == "__init__" else name, function, kwargs)
            raise

    return call


def check_init(cls: type[R]) -> type[R]:
    """Let a class refuse unknown keywords with `UserError`, if it has an `__init__` of its own; return the class."""
    if "__init__" in vars(cls):
        setattr(cls, "__init__", checked(cls.__init__))  # noqa: B010
    return cls


@dataclass(frozen=True)
class Range:
    """An interval of valid values, with the description that error messages use."""

    description: str
    above: float = float("-inf")
    at_least: float = float("-inf")
    below: float = float("inf")
    at_most: float = float("inf")
    whole: bool = False

    def contains(self, value: Any) -> bool:
        """Return whether the interval contains `value`; false for NaN and for anything that is no number."""
        kind = Integral if self.whole else Real
        if not isinstance(value, kind) or isinstance(value, bool):
            return False
        return self.at_least <= value <= self.at_most and self.above < value < self.below  # type: ignore[operator]

    def check(self, owner: str, **values: Any) -> None:
        """Raise `UserError` for the first value, given by its name, that is outside the interval."""
        for name, value in values.items():
            if not self.contains(value):
                raise UserError(f"{owner}: {name} must be {self.description}, got {value!r:.40}")


POSITIVE = Range("a number above 0", above=0)
NOT_NEGATIVE = Range("a number, 0 or more", at_least=0)
SHARE = Range("a number from 0 to below 1", at_least=0, below=1)
FRACTION = Range("a number from 0 to 1", at_least=0, at_most=1)
AT_LEAST_ONE = Range("a number, 1 or more", at_least=1)
OPEN_FRACTION = Range("a number above 0 and below 1", above=0, below=1)
POSITIVE_FRACTION = Range("a number above 0, up to 1", above=0, at_most=1)
COUNT = Range("a whole number, 1 or more", at_least=1, whole=True)
NATURAL = Range("a whole number, 0 or more", at_least=0, whole=True)
