"""The folders of config files: this project's and, if `--config-dir` or `NL_CONFIG_DIR` gives one, the user's own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from nl_nodes import UserError
from nl_training.config.quoting import quoted
from nl_training.paths import CONF

OWN = "NL_CONFIG_DIR"  # an environment variable, so that the processes of jobs have it too
FLAGS = ("--config-dir", "-cd")


def take_own(arguments: Sequence[str]) -> list[str]:
    """Return the arguments without `--config-dir FOLDER`, and use that folder from now on.

    Raises:
        UserError: if there is no such folder, or one of its files has the name of one of this project's.
    """
    others, left = [], list(arguments)
    while left:
        text = left.pop(0)
        flag, equals, value = text.partition("=")
        if flag not in FLAGS:
            others.append(text)
            continue
        value = value if equals or not left else left.pop(0)
        if not value:
            raise UserError(f"{flag} takes a folder of config files, such as {flag} myconf")
        os.environ[OWN] = str(Path(value).expanduser().absolute())
    _check_own()
    return others


def folders() -> list[Path]:
    """Return this project's folder and the user's own, if any."""
    own = os.environ.get(OWN)
    return [CONF, Path(own).expanduser().absolute()] if own else [CONF]


def environment() -> dict[str, str]:
    """Return the environment variable that the processes of jobs need."""
    return {OWN: str(own)} if (own := _own()) else {}


def flags() -> list[str]:
    """Return the flag that gives the user's own folder, if any."""
    return [f"{FLAGS[0]}={own}"] if (own := _own()) else []


def search_path() -> list[str]:
    """Return the override by which Hydra's compose searches the user's own folder, if any."""
    return [f"hydra.searchpath=[{quoted(f'file://{own}')}]"] if (own := _own()) else []


def groups() -> list[str]:
    """Return the config groups of all folders."""
    return sorted({path.parent.name for folder in folders() for path in folder.glob("*/*.yaml")})


def own_groups() -> list[str]:
    """Return the config groups that only the user's own folder has: no run has one that is not added with a `+`."""
    return [group for group in groups() if not (CONF / group).is_dir()]


def options(group: str) -> dict[str, Path]:
    """Return the files of a group's options by name."""
    return {path.stem: path for folder in folders() for path in sorted((folder / group).glob("*.yaml"))}


def _own() -> Path | None:
    return folders()[1] if len(folders()) > 1 else None


def _check_own() -> None:
    own = _own()
    if own is None:
        return
    if not own.is_dir():
        raise UserError(f"there is no folder {own} of config files: correct --config-dir or {OWN}")
    for path in own.rglob("*.yaml"):
        if (CONF / path.relative_to(own)).exists():
            raise UserError(f"{path} has the name of a config of this project, which would be used: rename it")
