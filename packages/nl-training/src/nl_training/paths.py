"""Paths: the repository, the configs and the output folder; the name of the command."""

from __future__ import annotations

import os
import shlex
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from shutil import which
from tempfile import TemporaryDirectory, TemporaryFile

from nl_nodes import UserError

ROOT = Path(__file__).resolve().parents[4]
_PACKAGED = Path(__file__).resolve().with_name("conf")  # the build copies the repository's configs into the wheel
CONF = _PACKAGED if _PACKAGED.is_dir() else ROOT / "conf"
OUTPUT = "NL_OUTPUT"  # environment variable: another folder for all output


def output_root() -> Path:
    """Return the folder for all output.

    This is `$NL_OUTPUT` if set, else the repository root, or the working directory if the packages are installed
    without a repository.
    """
    given = os.environ.get(OUTPUT)
    if given:
        return _absolute(given)
    return ROOT if (ROOT / "conf" / "config.yaml").is_file() else Path.cwd()


def output_folder(*names: str) -> Path:
    """Return a subfolder of the output root, creating it if needed.

    Raises:
        UserError: if it is not writable.
    """
    folder = output_root().joinpath(*names)
    try:
        make_writable(folder)
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}): set {OUTPUT} to a folder that can") from None
    return folder


def program() -> str:
    """Return the installed command as it is typed into a shell.

    This is `nl`, or `PYTHON -m nl_training` if the shell would find no `nl` or that of another installation: GNU
    coreutils have one.
    """
    schemes = sysconfig.get_default_scheme(), sysconfig.get_preferred_scheme("user")
    found = which("nl")
    ours = found is not None and str(Path(found).parent) in {sysconfig.get_path("scripts", name) for name in schemes}
    return "nl" if ours else f"{shlex.quote(sys.executable)} -m nl_training"


@contextmanager
def optional_output(what: str, *names: str) -> Iterator[Path]:
    """Yield a folder for a script's extra files; without a writable output folder, warn and discard the files."""
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
    """Create a folder if needed and write a test file to it; raise `OSError` if that fails."""
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryFile(dir=folder):  # permission bits say nothing about read-only file systems, and do not limit root
        pass


@cache  # so that a relative path keeps its meaning if the working directory changes
def _absolute(path: str) -> Path:
    return Path(path).expanduser().absolute()
