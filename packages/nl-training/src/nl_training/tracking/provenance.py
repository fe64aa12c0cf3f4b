"""Provenance of a run: commit, packages, machine, and the config as flat parameters."""

from __future__ import annotations

import getpass
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nl_training.paths import ROOT

if TYPE_CHECKING:
    from mlflow import MlflowClient

LONGEST_VALUE = 6000  # MLflow's limit for a parameter
BATCH = 100  # MLflow's limit of parameters per request
PACKAGES = ("nl-nodes", "nl-layers", "nl-models", "nl-training", "numpy", "hydra-core", "omegaconf", "mlflow")


def log_params(client: MlflowClient, run_id: str, config: Mapping[str, Any], known: Mapping[str, str] = {}) -> None:
    """Log a nested config as the run's parameters.

    MLflow does not allow parameters to change: if one in `known`, logged before, has another value now, a tag is set.
    """
    from mlflow.entities import Param

    values = flatten(config)
    params = [Param(key, value) for key, value in values.items() if key not in known]
    for start in range(0, len(params), BATCH):
        client.log_batch(run_id, params=params[start : start + BATCH])
    for key in known.keys() & values.keys():
        if known[key] != values[key]:
            client.set_tag(run_id, f"resumed.{key}", values[key])


def flatten(config: Mapping[str, Any]) -> dict[str, str]:
    """Flatten a nested config to MLflow parameters: `{"a": {"b": [1, 2]}}` gives `a.b.0` and `a.b.1`."""
    return {_key(path): str(value)[:LONGEST_VALUE] for path, value in _leaves(config, ())}


def _leaves(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, Mapping) and value:
        pairs: Any = value.items()
    elif isinstance(value, Sequence) and not isinstance(value, str) and value:
        pairs = enumerate(value)
    else:
        yield path, value
        return
    for key, item in pairs:
        yield from _leaves(item, (*path, str(key)))


def _key(path: tuple[str, ...]) -> str:
    return "".join(char if char.isalnum() or char in "_-. :/" else "_" for char in ".".join(path))


def tags() -> dict[str, str]:
    """Return the run's provenance tags; unknown values are left out."""
    return {
        "mlflow.user": _user(),
        "mlflow.source.type": "LOCAL",
        "mlflow.source.name": Path(sys.argv[0]).name or "python",
        "machine.platform": platform.platform(),
        "machine.cores": str(os.cpu_count()),
        "version.python": platform.python_version(),
        **{f"version.{name}": version for name in PACKAGES if (version := _version(name))},
        **own_git_tags(),
    }


@cache  # this process runs the code that it imported; four calls of Git take 30 ms
def own_git_tags() -> dict[str, str]:
    """Return the commit of this repository as it was at the first call, as `git_tags` does."""
    return git_tags(ROOT)


def git_tags(root: Path) -> dict[str, str]:
    """Return the commit of the repository at `root` and whether files differ from it; empty without a repository."""
    if _git(root, "rev-parse", "--show-toplevel") != str(root.resolve()):
        return {}
    commit, changes = _git(root, "rev-parse", "HEAD"), _git(root, "status", "--porcelain")
    if commit is None or changes is None:
        return {}
    return {"mlflow.source.git.commit": commit, "git.dirty": str(bool(changes)).lower()}


@cache  # reading the metadata of all packages takes a few tenths of a second
def packages() -> str:
    """Return all installed packages with their versions, one per line."""
    installed = {(data["Name"], data["Version"]) for data in (entry.metadata for entry in metadata.distributions())}
    return "".join(f"{name}=={version}\n" for name, version in sorted(installed, key=lambda pair: str(pair[0]).lower()))


def pinned(*names: str) -> list[str]:
    """Return requirements that pin these packages to their installed versions."""
    return [f"{name}=={metadata.version(name)}" for name in names]


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"
