"""Where things lie: the repository, the folder of all output, the user's cache folder for data sets."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile

from nl_nodes import UserError

ROOT = Path(__file__).resolve().parents[4]
OUTPUT = "NL_OUTPUT"  # the variable that names another folder for all output


def cache_folder() -> Path:
    """The user's cache folder of this project (`$XDG_CACHE_HOME/node-layer-network`); it need not exist yet."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "node-layer-network"


def output_root() -> Path:
    """The folder that all output goes to.

    That is `$NL_OUTPUT`, else the repository's root, else, where the packages are installed without a repository, the
    working directory.
    """
    given = os.environ.get(OUTPUT)
    if given:
        return _absolute(given)
    return ROOT if (ROOT / "conf" / "config.yaml").is_file() else Path.cwd()


def output_folder(*names: str) -> Path:
    """The output root's folder of that name, made where it is missing.

    Raises:
        UserError: when it cannot be written.
    """
    folder = output_root().joinpath(*names)
    try:
        make_writable(folder)
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}): set {OUTPUT} to a folder that can") from None
    return folder


@contextmanager
def leaving(what: str, *names: str) -> Iterator[Path]:
    """A folder for what a script leaves beside its result; where no output can be written it is said to be missing."""
    try:
        folder = output_folder("outputs", *names)
    except UserError as error:
        print(f"no {what}: {error}", file=sys.stderr)
        with TemporaryDirectory() as name:
            yield Path(name)
        return
    yield folder
    print(f"{what} in {folder}")


def make_writable(folder: Path) -> None:
    """Make a folder where it is missing, and write to it; raises `OSError` when that fails."""
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryFile(dir=folder):  # permission bits do not tell of read-only file systems, nor bind root
        pass


@cache  # so that a relative path means the same folder after the process changed its working directory
def _absolute(path: str) -> Path:
    return Path(path).expanduser().absolute()
