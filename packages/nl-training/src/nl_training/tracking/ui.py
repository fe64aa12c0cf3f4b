"""Start the MLflow UI on this machine with a single worker: `python -m nl_training.tracking.ui [PORT]`."""

from __future__ import annotations

import os
import sys

from nl_nodes import UserError
from nl_training.tracking.address import is_server, resolve_experiment_name, resolve_uri, sqlite_folder
from nl_training.tracking.artifacts import FOLDER
from nl_training.tracking.links import experiment_link
from nl_training.tracking.store import EXPERIMENT, Store


def main() -> None:
    """Print the URL and replace this process by the server, which listens on this machine only."""
    port = sys.argv[1] if len(sys.argv) > 1 else "5000"
    uri = resolve_uri()
    try:
        store = Store.open(uri, resolve_experiment_name(EXPERIMENT))
    except UserError as error:
        sys.exit(f"error: {error}")
    link = experiment_link(uri, store.experiment_id)
    if is_server(uri):
        print(link)
        return
    print(link.replace(":5000", f":{port}"), flush=True)
    # One worker answers faster than several, and viewing runs needs no job runners.
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri]
    command += ["--host", "127.0.0.1", "--port", port, "--workers", "1"]
    if folder := sqlite_folder(uri):
        # The default would be the working directory, for runs logged through this server.
        command += ["--artifacts-destination", (folder / FOLDER).as_uri()]
    os.execve(sys.executable, command, environment)


if __name__ == "__main__":
    main()
