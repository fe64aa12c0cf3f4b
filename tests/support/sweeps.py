"""Real sweeps in processes of their own, and what they left in the store."""

import os
import subprocess
import sys
from pathlib import Path

from mlflow import MlflowClient

TRAIN = Path(__file__).resolve().parents[2] / "scripts" / "train.py"


def sweep(folder: Path, *arguments: str, launch=subprocess.run, env: dict[str, str] | None = None, **options):
    """A sweep of a small network; `env` is laid over this process's environment."""
    environment = {k: v for k, v in os.environ.items() if k not in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID")}
    store = [f"tracking.uri=sqlite:///{folder}/runs.db", f"hydra.sweep.dir={folder}/multirun"]
    command = [sys.executable, str(TRAIN), "-m", "model=mlp", "data=digits", *arguments, *store]
    environment.update({"OPENBLAS_NUM_THREADS": "1", **(env or {})})
    return launch(command, cwd=folder, env=environment, text=True, **options)


def found(client: MlflowClient, experiment: str) -> tuple[list, list]:
    """The runs that are no one's children, and the children in the order of their start."""
    kept = client.get_experiment_by_name(experiment)
    runs = client.search_runs([kept.experiment_id], order_by=["attributes.start_time ASC"]) if kept else []
    return (
        [run for run in runs if "mlflow.parentRunId" not in run.data.tags],
        [run for run in runs if "mlflow.parentRunId" in run.data.tags],
    )
