"""Where a store's artifacts lie: whether they can be written, and what becomes of their addresses when a store moves.

MLflow keeps absolute addresses in its database, so a store whose folder is moved or copied has those of its old place.
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
MODULES = {"s3": "boto3", "b2": "boto3"}  # clients that MLflow imports when the first artifact is written
# Where the package bears another name than the module.
PACKAGES = {
    "psycopg2": "psycopg2-binary",
    "psycopg": "psycopg[binary]",
    "MySQLdb": "mysqlclient",
    "google.cloud": "google-cloud-storage",
    "azure": "azure-storage-blob azure-storage-file-datalake azure-identity",
    "paramiko": "paramiko pysftp",
}
# The columns of MLflow's database that hold addresses of artifacts.
COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


def local_path(location: str) -> Path | None:
    """The path that an artifact address names on this machine; None where it is no local one."""
    parts = urlsplit(location)
    if parts.scheme == "file":
        return Path(url2pathname(parts.path))
    return None if parts.scheme else Path(location)


def package_hint(module: str | None) -> str:
    """What to install for a module that is missing."""
    package = next((PACKAGES[name] for name in PACKAGES if f"{module}.".startswith(f"{name}.")), str(module))
    return f"needs the package {package}: python -m pip install {shlex.join(package.split())}"


def check_location(location: str, uri: str) -> None:
    """Refuse a place for artifacts that this machine cannot write to.

    Args:
        location: an experiment's.
        uri: its store's.

    Raises:
        UserError: when its folder cannot be written, or the package that writes there is missing.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    path, instead = local_path(location), "set tracking.experiment_name to a new experiment or tracking.uri"
    scheme = urlsplit(location).scheme
    try:
        if path is not None:
            make_writable(path)
        elif scheme == "mlflow-artifacts" and not is_server(uri):
            raise UserError(f"the artifacts in {location} are reached through their MLflow server alone: {instead}")
        else:
            if scheme in MODULES:
                import_module(MODULES[scheme])
            get_artifact_repository(location, tracking_uri=uri)
    except ImportError as error:
        raise UserError(f"writing artifacts to {location} {package_hint(error.name)}") from error
    except OSError as error:
        if is_server(uri):
            instead = "start the server with --artifacts-destination, which writes them itself, or set tracking.uri"
        raise UserError(f"artifacts cannot be written to {path or location} ({error.strerror}): {instead}") from None
    except MlflowException as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"artifacts cannot be written to {location} ({reason}): {instead}") from error


def bring_along(database: Path) -> None:
    """Let the addresses of a SQLite store that was moved or copied lead to where it is now, and say so.

    New runs are written beside the store. A run or model whose artifacts do not lie there keeps its old address.
    """
    moved, left = set(), 0
    with closing(sqlite3.connect(database, timeout=60)) as connection, connection:
        for table, column in COLUMNS:
            for (location,) in _distinct(connection, table, column, f"{(database.parent / FOLDER).as_uri()}/"):
                now = _beside(location, database.parent)
                if now is None:
                    continue
                if table != "experiments" and not now.exists():
                    left += 1
                    continue
                connection.execute(f"UPDATE {table} SET {column} = ? WHERE {column} = ?", (now.as_uri(), location))
                moved.add(table)
    # The experiment that MLflow makes in each new store has an address in the working directory: no news without runs.
    if moved and (left or moved != {"experiments"}):
        said = f"note: {database} was moved here: its artifacts are read and written in {database.parent / FOLDER} now"
        said += f"; {left} runs and models have theirs at the old place still" if left else ""
        print(said, file=sys.stderr)


def _distinct(connection: sqlite3.Connection, table: str, column: str, prefix: str) -> list[tuple[str]]:
    """The values of a column that don't begin so; none where this version of MLflow has no such column."""
    try:
        return connection.execute(
            f"SELECT DISTINCT {column} FROM {table} WHERE substr({column}, 1, ?) != ?", (len(prefix), prefix)
        ).fetchall()
    except sqlite3.OperationalError:
        return []


def _beside(location: str, folder: Path) -> Path | None:
    """Where artifacts of a store that lay elsewhere belong now that it lies in `folder`; None for all others."""
    path = local_path(location)
    if path is None or FOLDER not in path.parts:
        return None
    place = len(path.parts) - 1 - path.parts[::-1].index(FOLDER)
    before, now = Path(*path.parts[: place + 1]), folder / FOLDER
    if before == now or (before.exists() and now.exists() and before.samefile(now)):
        return None
    return now.joinpath(*path.parts[place + 1 :])
