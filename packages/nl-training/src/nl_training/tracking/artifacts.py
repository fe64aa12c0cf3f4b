"""Artifact locations: check that they can be written, and update them when a store has moved.

MLflow's database contains absolute locations, which are wrong after a store's folder is moved or copied.
"""

from __future__ import annotations

import shlex
import sqlite3
import sys
from contextlib import closing
from importlib import import_module
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from nl_nodes import UserError
from nl_training.paths import make_writable
from nl_training.tracking.address import is_server

FOLDER = "mlruns"  # beside a SQLite store
MODULES = {"s3": "boto3", "b2": "boto3"}  # clients that MLflow imports only at the first write
# Packages whose name differs from the module's.
PACKAGES = {
    "psycopg2": "psycopg2-binary",
    "psycopg": "psycopg[binary]",
    "MySQLdb": "mysqlclient",
    "google.cloud": "google-cloud-storage",
    "azure": "azure-storage-blob azure-storage-file-datalake azure-identity",
    "paramiko": "paramiko pysftp",
}
# The columns of MLflow's database that contain artifact locations.
COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


def local_path(location: str) -> Path | None:
    """Return the path of a local artifact location, None for other locations."""
    parts = urlsplit(location)
    if parts.scheme == "file":
        return Path(url2pathname(parts.path))
    return None if parts.scheme else Path(location)


def package_hint(module: str | None) -> str:
    """Return which package to install for a missing module."""
    package = next((PACKAGES[name] for name in PACKAGES if f"{module}.".startswith(f"{name}.")), str(module))
    return f"needs the package {package}: python -m pip install {shlex.join(package.split())}"


def check_location(location: str, uri: str) -> None:
    """Refuse an artifact location to which this machine cannot write.

    Args:
        location: the experiment's artifact location.
        uri: the store's URI.

    Raises:
        UserError: if the folder is not writable, or the package for the location is missing.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    path, advice = local_path(location), "set tracking.experiment_name to a new experiment or tracking.uri"
    scheme = urlsplit(location).scheme
    try:
        if path is not None:
            make_writable(path)
        elif scheme == "mlflow-artifacts" and not is_server(uri):
            raise UserError(f"the artifacts in {location} are reached through their MLflow server only: {advice}")
        else:
            if scheme in MODULES:
                import_module(MODULES[scheme])
            get_artifact_repository(location, tracking_uri=uri)
    except ImportError as error:
        raise UserError(f"writing artifacts to {location} {package_hint(error.name)}") from error
    except OSError as error:
        if is_server(uri):
            advice = "start the server with --artifacts-destination, so that it writes them, or set tracking.uri"
        raise UserError(f"artifacts cannot be written to {path or location} ({error.strerror}): {advice}") from None
    except MlflowException as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"artifacts cannot be written to {location} ({reason}): {advice}") from error


def relocate(database: Path) -> None:
    """Update the artifact locations of a SQLite store that was moved or copied, and print a note.

    New runs are written next to the store. A run or model whose artifacts are not there keeps its old location.
    """
    moved, kept = set(), 0
    with closing(sqlite3.connect(database, timeout=60)) as connection, connection:
        for table, column in COLUMNS:
            for (location,) in _distinct(connection, table, column, f"{(database.parent / FOLDER).as_uri()}/"):
                new = _relocated(location, database.parent)
                if new is None:
                    continue
                if table != "experiments" and not new.exists():
                    kept += 1
                    continue
                connection.execute(f"UPDATE {table} SET {column} = ? WHERE {column} = ?", (new.as_uri(), location))
                moved.add(table)
    # MLflow's default experiment in a new store is located in the working directory: no note for that alone.
    if moved and (kept or moved != {"experiments"}):
        note = f"note: {database} was moved here: its artifacts are read and written in {database.parent / FOLDER} now"
        note += f"; {kept} runs and models still have theirs at the old location" if kept else ""
        print(note, file=sys.stderr)


def _distinct(connection: sqlite3.Connection, table: str, column: str, prefix: str) -> list[tuple[str]]:
    """Return a column's values without the prefix; none if this version of MLflow has no such column."""
    try:
        query = f"SELECT DISTINCT {column} FROM {table} WHERE substr({column}, 1, ?) != ?"
        return connection.execute(query, (len(prefix), prefix)).fetchall()
    except sqlite3.OperationalError:
        return []


def _relocated(location: str, folder: Path) -> Path | None:
    """Return the new path of a location of a store that is now in `folder`; None if it need not change."""
    path = local_path(location)
    if path is None or FOLDER not in path.parts:
        return None
    index = len(path.parts) - 1 - path.parts[::-1].index(FOLDER)
    old, new = Path(*path.parts[: index + 1]), folder / FOLDER
    if old == new or (old.exists() and new.exists() and old.samefile(new)):
        return None
    return new.joinpath(*path.parts[index + 1 :])
