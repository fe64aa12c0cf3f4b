"""Where runs are kept: which store, whether it answers, and its experiment."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nl_nodes import UserError
from nl_nodes.platform import locked
from nl_training.paths import ROOT

if TYPE_CHECKING:
    from mlflow import MlflowClient

SQLITE = "sqlite:///"
EXPERIMENT = "node-layer-network"  # as in conf/tracking

SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # MLflow's own defaults wait four minutes for a server that is down.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}


def prepare_environment() -> None:
    """Set MLflow's variables that the user hasn't set; to be called before MLflow is imported."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)


def resolve_uri(configured: str | None = None) -> str:
    """The store's address: `MLFLOW_TRACKING_URI`, else the configured one, else `mlflow.db` at the root.

    A relative SQLite path is taken from the working directory when it comes from the environment, and from the
    repository's root when it comes from the config.
    """
    from_environment = os.environ.get("MLFLOW_TRACKING_URI")
    if from_environment:
        return _absolute(from_environment, Path.cwd())
    return _absolute(configured or f"{SQLITE}mlflow.db", ROOT)


def _absolute(uri: str, base: Path) -> str:
    return f"{SQLITE}{base / uri.removeprefix(SQLITE)}" if uri.startswith(SQLITE) else uri


@dataclass(frozen=True)
class Store:
    """An open store and the experiment that runs go to."""

    uri: str
    client: MlflowClient
    experiment_id: str

    @classmethod
    def open(cls, uri: str, experiment_name: str) -> Store:
        """Open the store, creating it and the experiment where they are missing.

        Raises:
            UserError: when a server does not answer within two seconds, or the store cannot be used.
        """
        prepare_environment()
        if is_server(uri):
            _check_server(uri)
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        folder = sqlite_folder(uri)
        artifacts = None if folder is None else (folder / "mlruns").as_uri()
        try:
            with _creation_lock(folder):
                client = MlflowClient(tracking_uri=uri, registry_uri=uri)
                return cls(uri, client, _experiment(client, experiment_name, artifacts))
        except (MlflowException, SQLAlchemyError, OSError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"the tracking store {uri} cannot be used: {reason}") from error


def is_server(uri: str) -> bool:
    """Whether the store is reached over HTTP."""
    return uri.startswith(("http://", "https://"))


def _check_server(uri: str) -> None:
    import requests

    try:
        requests.get(f"{uri.rstrip('/')}/health", timeout=2)
    except requests.RequestException:
        raise UserError(
            f"no MLflow server answers at {uri}: start it, correct MLFLOW_TRACKING_URI or tracking.uri, "
            "or use tracking=off"
        ) from None


def sqlite_folder(uri: str) -> Path | None:
    """The folder of an SQLite store, where its artifacts lie in `mlruns`; None for another store."""
    return Path(uri.removeprefix(SQLITE)).parent if uri.startswith(SQLITE) else None


@contextmanager
def _creation_lock(folder: Path | None) -> Iterator[None]:
    """One process at a time: two that create the same SQLite tables at once break each other."""
    if folder is None:
        yield
        return
    runs = folder / "mlruns"
    runs.mkdir(parents=True, exist_ok=True)
    with locked(runs, wait=True):
        yield


def _experiment(client: MlflowClient, name: str, artifacts: str | None) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return client.create_experiment(name, artifact_location=artifacts)
        except MlflowException as error:
            found = client.get_experiment_by_name(name)
            if found is None:
                raise error
    if found.lifecycle_stage == "deleted":
        raise UserError(
            f"the experiment {name!r} is deleted: restore it with "
            f"`mlflow experiments restore -x {found.experiment_id}` or set tracking.experiment_name"
        )
    return found.experiment_id
