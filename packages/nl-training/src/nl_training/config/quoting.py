"""Quoting of text values on the command line that Hydra's grammar would not read as plain text."""

from __future__ import annotations

import re
import shlex
from dataclasses import is_dataclass
from typing import get_type_hints

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, OverrideParseException

from nl_training.config.schema import Config


def read_override(text: str) -> Override | None:
    """Return an override as Hydra parses it, None if it cannot."""
    try:
        (override,) = OverridesParser.create().parse_overrides([text])
    except (HydraException, OverrideParseException):
        return None
    return override


def quote_text(text: str) -> str:
    """Return an override with its value quoted if the key takes text, such as a path, and Hydra would misread it.

    A value with a comma, which may be a list of values, is not changed.
    """
    key, _, value = text.partition("=")
    if not value or not takes_text(key):
        return text
    override = read_override(text)
    if override is None:
        return text if "," in value else f"{key}={quoted(value)}"
    found = override.value()
    fits = found is None or override.is_sweep_override() or (isinstance(found, str) and value == value.strip())
    return text if fits else f"{key}={quoted(value)}"


def takes_text(key: str) -> bool:
    """Return whether a config key takes arbitrary text."""
    group, _, name = key.partition(".")
    kind = get_type_hints(Config).get(group)
    hint = get_type_hints(kind).get(name) if is_dataclass(kind) else None
    return hint in (str, str | None)


def quoted(value: str) -> str:
    """Return a value quoted by Hydra's grammar.

    >>> print(quoted('a,b'), quoted('a"b'))
    "a,b" "a\\"b"
    """
    # Backslashes are literal except before a quotation mark, the end, or the `${` of an interpolation.
    value = re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
    return '"' + re.sub(r'(\\*)("|$)', lambda m: m[1] * 2 + (m[2] and f"\\{m[2]}"), value) + '"'


def shell_override(key: str, value: str) -> str:
    """Return an override as it is typed into a shell, quoted if needed.

    >>> print(shell_override("data.root", "/a"), shell_override("data.root", "/a,b"))
    data.root=/a 'data.root="/a,b"'
    """
    override = read_override(f"{key}={value}")
    plain = override is not None and override.value() == value and "${" not in value
    return shlex.quote(f"{key}={value if plain else quoted(value)}")
