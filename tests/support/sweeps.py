"""Sweeps in subprocesses, and their runs in the store."""

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from nl_training.tracking.store import Store
from support.scripts import SCRIPTS, run_script

TRAIN = SCRIPTS / "train.py"


def sweep(
    folder: Path, *arguments: str, launch: Callable[..., Any] = run_script, env: dict[str, str] | None = None, **options
):
    """Start or run a sweep of a small network by `launch`; `env` is added to this process's environment."""
    environment = {k: v for k, v in os.environ.items() if k not in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID")}
    environment.update({"OPENBLAS_NUM_THREADS": "1", **(env or {})})
    store = [] if "MLFLOW_TRACKING_URI" in environment else [f"tracking.uri=sqlite:///{folder}/runs.db"]
    small = ["-m", "model=mlp", "data=digits", "verify=off", *arguments, *store, f"hydra.sweep.dir={folder}/multirun"]
    return launch("train.py", *small, cwd=folder, env=environment, **options)


def watch(uri: str) -> MlflowClient:
    """Return a client of a store, created here, since two processes cannot create the tables concurrently."""
    return Store.open(uri, "watched").client


def wait_until_trained(process: Any, client: MlflowClient, experiment: str) -> None:
    """Wait for the first training step of a sweep's job."""
    deadline = time.monotonic() + 300
    while not any("train/loss" in child.data.metrics for child in found(client, experiment)[1]):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.3)


FOUR = ["optimizer=sgd,adam", "seed=0,1", "trainer.epochs=1", "tracking.experiment_name=four"]


def four_nest(client: MlflowClient) -> str:
    """Assert that the sweep of `FOUR` is a parent run with four child runs; return the parent's ID."""
    (parent,), children = found(client, "four")
    assert (parent.info.status, parent.data.tags["jobs"]) == ("FINISHED", "4 finished, 0 failed")
    assert [child.info.status for child in children] == ["FINISHED"] * 4
    assert {child.data.tags["mlflow.parentRunId"] for child in children} == {parent.info.run_id}
    jobs = {(child.data.params["optimizer.lr"], child.data.params["seed"]) for child in children}
    assert jobs == {("0.01", "0"), ("0.01", "1"), ("0.001", "0"), ("0.001", "1")}
    return str(parent.info.run_id)


ONE_FAILS = ["optimizer=sgd", "optimizer.lr=0.1,1e30,0.2", "trainer.epochs=1", "tracking.experiment_name=failed"]


def one_failed(ended: subprocess.CompletedProcess, client: MlflowClient) -> None:
    """Assert that only the second job of the sweep of `ONE_FAILS` failed, and that the failure is reported."""
    assert ended.returncode == 1
    assert "error: job 2: the loss became" in ended.stderr
    assert "Traceback" not in ended.stderr
    (parent,), children = found(client, "failed")
    assert (parent.info.status, parent.data.tags["jobs"]) == ("FAILED", "2 finished, 1 failed")
    assert failures(client, parent).startswith("job 2: ")
    assert {child.data.tags["mlflow.parentRunId"] for child in children} == {parent.info.run_id}
    ended_as = {float(child.data.params["optimizer.lr"]): child.info.status for child in children}
    assert ended_as == {0.1: "FINISHED", 1e30: "FAILED", 0.2: "FINISHED"}


def failures(client: MlflowClient, parent: Any) -> str:
    """Return the text with the failed jobs of a sweep."""
    return Path(client.download_artifacts(parent.info.run_id, "failures.txt")).read_text()


def found(client: MlflowClient, experiment: str) -> tuple[list, list]:
    """Return the top-level runs and the child runs, in the order of their start."""
    known = client.get_experiment_by_name(experiment)
    runs = client.search_runs([known.experiment_id], order_by=["attributes.start_time ASC"]) if known else []
    return (
        [run for run in runs if "mlflow.parentRunId" not in run.data.tags],
        [run for run in runs if "mlflow.parentRunId" in run.data.tags],
    )
