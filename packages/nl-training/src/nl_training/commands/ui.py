"""The ui command: the MLflow UI on this machine, with a single worker."""

from __future__ import annotations

import os
import socket
import sys

from nl_nodes import UserError
from nl_training.config.cli import asks_for_help, script
from nl_training.tracking.address import (
    default_experiment_name,
    given_experiment_name,
    is_server,
    resolve_uri,
    sqlite_folder,
)
from nl_training.tracking.artifacts import FOLDER
from nl_training.tracking.links import PORT, experiment_link
from nl_training.tracking.store import Store

HELP = """Starts the MLflow UI on this machine and prints its address; Ctrl-C stops it.

  nl ui          on port 5000, or the next free one
  nl ui 8080     on this port

It shows the runs of MLFLOW_TRACKING_URI, or of mlflow.db in the output folder."""


def main() -> None:
    """Print the URL and replace this process by the server, which listens on this machine only."""
    arguments = sys.argv[1:]
    if asks_for_help(arguments):
        print(HELP)
        return
    with script():
        uri = resolve_uri()
        chosen = port(arguments)
        store = Store.open(uri, given_experiment_name(None) or default_experiment_name())
        print(experiment_link(uri, store.experiment_id, chosen), flush=True)
        if not is_server(uri):
            _serve(uri, chosen)


def _serve(uri: str, port: int) -> None:
    # One worker answers faster than several, and viewing runs needs no job runners.
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    if folder := sqlite_folder(uri):
        # The default would be the working directory, for runs logged through this server.
        command += ["--artifacts-destination", (folder / FOLDER).as_uri()]
    os.execve(sys.executable, command, environment)


def port(arguments: list[str], first: int = PORT) -> int:
    """Return the port of the command line if it is free, or the first free one from `first` on."""
    if not arguments:
        return next(number for number in range(first, 2**16) if _is_free(number))
    text = arguments[0]
    if len(arguments) > 1 or not (text.isdecimal() and 0 < int(text) < 2**16):
        raise UserError(f"{' '.join(arguments)}: nl ui takes at most a port, such as nl ui {PORT}")
    if not _is_free(int(text)):
        raise UserError(f"port {text} is in use: leave it out, and nl ui takes a free one")
    return int(text)


def _is_free(number: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", number)).close()
    except OSError:
        return False
    return True
