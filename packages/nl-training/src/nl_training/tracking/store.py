"""Where runs are kept: which store, whether it answers, its experiment, and whether artifacts can be written."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nl_nodes import UserError
from nl_nodes.platform import locked
from nl_training.config.resolve import near
from nl_training.paths import OUTPUT, output_root
from nl_training.tracking.address import (
    is_server,
    refuse_two_places,
    resolve_experiment_name,
    resolve_uri,
    sqlite_folder,
    sqlite_path,
)
from nl_training.tracking.artifacts import FOLDER, bring_along, check_location, package_hint

if TYPE_CHECKING:
    from pathlib import Path

    from mlflow import MlflowClient

    from nl_training.config.schema import TrackingConfig

EXPERIMENT = "node-layer-network"  # as in conf/tracking
DATABASES = ("postgresql", "mysql", "mssql")

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


@dataclass(frozen=True)
class Store:
    """An open store and the experiment that runs go to, "" where that is missing."""

    uri: str
    client: MlflowClient
    experiment_id: str

    @classmethod
    def of(cls, tracking: TrackingConfig, write: bool = True) -> Store:
        """Open the store and experiment that a config and the environment name; arguments and errors as in `open`."""
        refuse_two_places(tracking.uri, tracking.experiment_name, EXPERIMENT)
        return cls.open(resolve_uri(tracking.uri), resolve_experiment_name(tracking.experiment_name), write)

    @classmethod
    def open(cls, uri: str, experiment_name: str, write: bool = True) -> Store:
        """Open the store.

        Args:
            uri: its address.
            experiment_name: of the experiment.
            write: create the experiment where it is missing, and see that its artifacts can be written.

        Raises:
            UserError: when the store does not answer or cannot be used, a package for it is missing, or artifacts
                cannot be written.
        """
        prepare_environment()
        if is_server(uri):
            _check_server(uri)
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
        from sqlalchemy.exc import SQLAlchemyError

        path = sqlite_path(uri)
        try:
            if uri.startswith(DATABASES):
                _check_database(uri)
            # So named, MLflow makes no folder of a path that it doesn't decode.
            name = uri.replace("sqlite:", "sqlite+pysqlite:", 1)
            artifacts = None if path is None else (path.parent / FOLDER).as_uri()
            with _sole_use(path, write):
                if path is not None and path.exists():
                    bring_along(path)
                elif path is not None:
                    # The client would take the working directory for artifacts.
                    SqlAlchemyStore(name, artifacts)  # type: ignore[no-untyped-call]
                client = MlflowClient(tracking_uri=name, registry_uri=name)
                experiment_id = _experiment(client, experiment_name, artifacts, write)
        except ImportError as error:
            raise UserError(f"the tracking store {uri} {package_hint(error.name)}") from error
        except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"the tracking store {uri} cannot be used ({reason}): {_instead(uri)}") from error
        if write:
            check_location(client.get_experiment(experiment_id).artifact_location, uri)
        return cls(uri, client, experiment_id)


def missing_experiment(store: Store, name: str) -> str:
    """What to say where an experiment is not there."""
    known = [experiment.name for experiment in store.client.search_experiments()]
    return f"{store.uri} has no experiment {name!r}: {near(name, known)}"


def _instead(uri: str) -> str:
    """What to do where a store cannot be used."""
    if sqlite_folder(uri) == output_root():
        return f"set {OUTPUT} to a folder that can be written"
    return "name another by tracking.uri or MLFLOW_TRACKING_URI, or use tracking=off"


def _check_server(uri: str) -> None:
    import requests

    try:
        requests.get(f"{uri.rstrip('/')}/health", timeout=2)
    except requests.RequestException:
        raise UserError(
            f"no MLflow server answers at {uri}: start it, correct MLFLOW_TRACKING_URI or tracking.uri, "
            "or use tracking=off"
        ) from None


def _check_database(uri: str) -> None:
    """Connect once: MLflow itself tries a database that is away for an hour."""
    from sqlalchemy import create_engine

    engine = create_engine(uri)
    try:
        engine.connect().close()
    finally:
        engine.dispose()


@contextmanager
def _sole_use(database: Path | None, write: bool) -> Iterator[None]:
    """One process at a time: two that create the same SQLite tables at once break each other."""
    if database is None or (not write and database.exists()):
        yield
        return
    runs = database.parent / FOLDER
    runs.mkdir(parents=True, exist_ok=True)
    with locked(runs, wait=True):
        yield


def _experiment(client: MlflowClient, name: str, artifacts: str | None, create: bool) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        if not create:
            return ""
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
