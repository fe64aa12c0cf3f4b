"""Start the MLflow UI on this machine, with few processes: `python -m nl_training.tracking.ui [PORT]`."""

from __future__ import annotations

import os
import subprocess
import sys

from nl_training.tracking.links import experiment_link
from nl_training.tracking.store import Store, prepare_environment, resolve_uri

EXPERIMENT = "node-layer-network"


def main() -> None:
    """Print where to look and serve until interrupted; only this machine can reach it."""
    port = sys.argv[1] if len(sys.argv) > 1 else "5000"
    prepare_environment()
    uri = resolve_uri()
    store = Store.open(uri, EXPERIMENT)
    print(experiment_link(uri, store.experiment_id).replace(":5000", f":{port}"), flush=True)
    # One worker answers faster than several, and job runners are not needed to look at runs.
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri]
    command += ["--host", "127.0.0.1", "--port", port, "--workers", "1"]
    try:
        sys.exit(subprocess.run(command, env=environment).returncode)
    except KeyboardInterrupt:
        sys.exit(0)


if __name__ == "__main__":
    main()
