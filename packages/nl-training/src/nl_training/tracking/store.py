"""Opening an MLflow store: its environment, its availability, the experiment and its artifacts."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from nl_nodes import UserError
from nl_nodes.arguments import near
from nl_nodes.platform import locked
from nl_training.paths import OUTPUT, output_root
from nl_training.tracking.address import (
    default_experiment_name,
    given_experiment_name,
    is_server,
    refuse_conflict,
    resolve_uri,
    sqlite_folder,
    sqlite_path,
)
from nl_training.tracking.artifacts import FOLDER, check_location, package_hint, relocate

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

    from nl_training.config.experiments import ExperimentConfig
    from nl_training.config.schema import TrackingConfig

DATABASES = ("postgresql", "mysql", "mssql")

SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # MLflow's defaults wait four minutes for a server that is down.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}


def prepare_environment() -> None:
    """Set defaults of MLflow's environment variables; call it before MLflow is imported."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)


@dataclass(frozen=True)
class Store:
    """An open store with the ID of its experiment, "" if that does not exist."""

    uri: str
    client: MlflowClient
    experiment_id: str

    @classmethod
    def of(cls, tracking: TrackingConfig, experiment: ExperimentConfig | None = None, write: bool = True) -> Store:
        """Open the store of a config and the environment.

        Args:
            tracking: the config of the store.
            experiment: the experiment to run: its runs are in an MLflow experiment of their own, unless one is given.
            write: as in `open`, which also says the errors.
        """
        refuse_conflict(tracking.uri, tracking.experiment_name)
        given = given_experiment_name(tracking.experiment_name)
        name = given or default_experiment_name(experiment.name if experiment else None)
        return cls.open(resolve_uri(tracking.uri), name, write)

    @classmethod
    def open(cls, uri: str, experiment_name: str, write: bool = True) -> Store:
        """Open the store.

        Args:
            uri: the store's URI.
            experiment_name: the experiment's name.
            write: whether to create a missing experiment and check that artifacts can be written.

        Raises:
            UserError: if the store does not answer or cannot be used, a package for it is missing, or artifacts
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
            # With the driver named, MLflow does not create a folder from the undecoded path.
            name = uri.replace("sqlite:", "sqlite+pysqlite:", 1)
            artifacts = None if path is None else (path.parent / FOLDER).as_uri()
            with _exclusive(path, write):
                if path is not None and path.exists():
                    relocate(path)
                elif path is not None:
                    # The client would put artifacts into the working directory.
                    SqlAlchemyStore(name, artifacts)  # type: ignore[no-untyped-call]
                client = MlflowClient(tracking_uri=name, registry_uri=name)
                experiment_id = _experiment(client, experiment_name, artifacts, write)
        except ImportError as error:
            raise UserError(f"the tracking store {uri} {package_hint(error.name)}") from error
        except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"the tracking store {uri} cannot be used ({reason}): {_advice(uri)}") from error
        if write:
            check_location(client.get_experiment(experiment_id).artifact_location, uri)
        return cls(uri, client, experiment_id)

    def of_run(self, run: Run) -> Store:
        """Return the same store with a run's experiment."""
        return replace(self, experiment_id=str(run.info.experiment_id))

    @property
    def experiment_name(self) -> str:
        """The name of its experiment."""
        return str(self.client.get_experiment(self.experiment_id).name)

    def experiments(self, given_name: str | None, option: str) -> list[str]:
        """Return the IDs of the experiments in which `latest` looks for a run: the given one, or all of them.

        Args:
            given_name: the name of the given experiment; None for all.
            option: the option with `latest`, for the error message.

        Raises:
            UserError: if there is none of the given name.
        """
        if given_name is None:
            return [experiment.experiment_id for experiment in self.client.search_experiments()]
        if not self.experiment_id:
            names = [experiment.name for experiment in self.client.search_experiments()]
            raise UserError(f"{option}: {self.uri} has no experiment {given_name!r}: {near(given_name, names)}")
        return [self.experiment_id]

    def refuse_other_experiment(self, run: Run, given_name: str | None, option: str) -> None:
        """Refuse a given experiment that is not that of the run to resume.

        Args:
            run: the run.
            given_name: the name of the given experiment, which is this store's; None if none is given.
            option: the option with the run's ID, for the error message.
        """
        if given_name is not None and run.info.experiment_id != self.experiment_id:
            own = self.of_run(run).experiment_name
            raise UserError(f"{option} is in the experiment {own!r}, not in {given_name!r}: leave that out")

    def text(self, run_id: str, name: str) -> str | None:
        """Return a text at the top of a run's artifacts; None if it has none of that name."""
        if name not in {file.path for file in self.client.list_artifacts(run_id)}:
            return None
        with TemporaryDirectory() as folder:
            return Path(self.client.download_artifacts(run_id, name, folder)).read_text(encoding="utf-8")

    def run(self, run_id: str) -> Run | None:
        """Return the run with this ID; None where there is none, or it is deleted."""
        from mlflow.exceptions import MlflowException

        try:
            run = self.client.get_run(run_id)
        except MlflowException:
            return None
        return None if run.info.lifecycle_stage == "deleted" else run


def _advice(uri: str) -> str:
    """Return the advice for a store that cannot be used."""
    if sqlite_folder(uri) == output_root():
        return f"set {OUTPUT} to a writable folder"
    return "set another one with tracking.uri or MLFLOW_TRACKING_URI, or use tracking=off"


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
    """Connect once: MLflow itself would retry an unavailable database for an hour."""
    from sqlalchemy import create_engine

    engine = create_engine(uri)
    try:
        engine.connect().close()
    finally:
        engine.dispose()


@contextmanager
def _exclusive(database: Path | None, write: bool) -> Iterator[None]:
    """Lock the database: two processes that create the same SQLite tables at once both fail."""
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
