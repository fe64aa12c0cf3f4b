"""Store URIs: resolution of store and experiment, and the files of SQLite stores."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote

from nl_nodes import UserError
from nl_training.paths import output_root

SQLITE = "sqlite:///"
PROJECT = "node-layer-network"
URI, EXPERIMENT_NAME = "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"  # MLflow's own variables


def resolve_uri(configured: str | None = None) -> str:
    """Return the store's URI: `MLFLOW_TRACKING_URI`, else the configured one, else `mlflow.db` in the output root.

    A relative SQLite path from the environment is relative to the working directory, one from the config to the output
    root.
    """
    from_environment = os.environ.get(URI)
    if from_environment:
        return _absolute(from_environment, Path.cwd())
    return _absolute(configured, output_root()) if configured else sqlite_uri(output_root() / "mlflow.db")


def given_experiment_name(configured: str | None) -> str | None:
    """Return the name of the MLflow experiment that the user gave, in `MLFLOW_EXPERIMENT_NAME` or the config."""
    return os.environ.get(EXPERIMENT_NAME) or configured


def default_experiment_name(experiment: str | None = None) -> str:
    """Return the name of the MLflow experiment for runs of `experiment=NAME`, or for all others.

    Each has its own, so that the table of runs has only columns that its runs share.

    >>> default_experiment_name(), default_experiment_name("race")
    ('node-layer-network', 'node-layer-network/race')
    """
    return f"{PROJECT}/{experiment}" if experiment else PROJECT


def refuse_conflict(uri: str | None, experiment_name: str | None) -> None:
    """Refuse a configured store or experiment that MLflow's environment variable would override with another."""
    if uri is not None and os.environ.get(URI) and _absolute(uri, output_root()) != resolve_uri():
        raise UserError(f"tracking.uri={uri} and {URI}={os.environ[URI]} name two stores: leave one of them out")
    if experiment_name not in (None, given_experiment_name(experiment_name)):
        other = f"{EXPERIMENT_NAME}={os.environ[EXPERIMENT_NAME]}"
        raise UserError(f"tracking.experiment_name={experiment_name} and {other} name two: leave one of them out")


def is_server(uri: str) -> bool:
    """Return whether the store is an HTTP server."""
    return uri.startswith(("http://", "https://"))


def sqlite_uri(path: Path) -> str:
    """Return the URI of the SQLite store in a file; SQLAlchemy decodes it, so `%` and `?` are encoded."""
    return f"{SQLITE}{str(path).replace('%', '%25').replace('?', '%3F')}"


def sqlite_path(uri: str) -> Path | None:
    """Return the file of a SQLite store, None for other stores."""
    return Path(unquote(uri.removeprefix(SQLITE).partition("?")[0])) if uri.startswith(SQLITE) else None


def sqlite_folder(uri: str) -> Path | None:
    """Return the folder of a SQLite store, which contains its artifacts in `mlruns`; None for other stores."""
    path = sqlite_path(uri)
    return None if path is None else path.parent


def _absolute(uri: str, base: Path) -> str:
    path = sqlite_path(uri)
    return uri if path is None or path.is_absolute() else sqlite_uri(base / path)
