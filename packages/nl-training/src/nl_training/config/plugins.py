"""Plugins: modules with nodes, layers, models, optimizers, data sets and experiments that are not of this project.

Importing one adds what it defines to registries such as `nl_models.MODELS`, as docs/tutorial.md shows.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from traceback import extract_tb

from nl_nodes import UserError

GROUP = "nl_training.plugins"  # the entry points by which an installed package names its plugins


def load_plugins(imports: Sequence[str]) -> None:
    """Import the plugins of installed packages, and modules that may be in the working directory.

    Raises:
        UserError: with the error of a plugin and its line, if one cannot be imported.
    """
    _load_installed()
    here = str(Path.cwd())
    if imports and here not in sys.path:
        sys.path.insert(0, here)  # as `python -m` does
    for name in imports:
        with _reported(f"imports=[{name}]"):
            try:
                import_module(name)
            except ModuleNotFoundError as error:
                if error.name != name:  # a module that it imports
                    raise
                raise UserError(f"there is no module {name} in {here}, and none is installed") from None


@cache
def _load_installed() -> None:
    for entry in entry_points(group=GROUP):
        with _reported(f"the installed plugin {entry.name} = {entry.value}"):
            entry.load()


@contextmanager
def _reported(what: str) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise UserError(f"{what}: {error}") from error
    except Exception as error:
        place = extract_tb(error.__traceback__)[-1]
        where = "" if isinstance(error, SyntaxError | ModuleNotFoundError) else f" ({place.filename}:{place.lineno})"
        raise UserError(f"{what}: {type(error).__name__}: {' '.join(str(error).split())}{where}") from error
