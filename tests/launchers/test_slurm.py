"""Sweeps through the sbatch of a real SLURM, of one node."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from support.slurm import one_node
from support.sweeps import found, sweep

pytestmark = pytest.mark.launchers

SLURM = ["hydra/launcher=submitit_slurm", "device.threads=1"]


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    with one_node() as environment:
        yield environment


def queued(environment: dict[str, str]) -> str:
    command = ["squeue", "--noheader"]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=True).stdout


def test_four_jobs_nest_under_one_parent(tmp_path: Path, environment: dict[str, str]) -> None:
    options = ["optimizer=sgd,adam", "seed=0,1", "trainer.epochs=1", "tracking.experiment_name=four"]
    ended = sweep(tmp_path, *options, *SLURM, env=environment, capture_output=True, timeout=150)
    assert ended.returncode == 0, ended.stderr
    assert "WARNING" not in ended.stdout + ended.stderr
    (parent,), children = found(MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/runs.db"), "four")
    assert (parent.info.status, parent.data.tags["jobs"]) == ("FINISHED", "4 finished, 0 failed")
    assert [child.info.status for child in children] == ["FINISHED"] * 4
    assert {child.data.tags["mlflow.parentRunId"] for child in children} == {parent.info.run_id}
    jobs = {(child.data.params["optimizer.lr"], child.data.params["seed"]) for child in children}
    assert jobs == {("0.01", "0"), ("0.01", "1"), ("0.001", "0"), ("0.001", "1")}
    (script,) = tmp_path.glob("multirun/.submitit/*/*_submission.sh")
    assert "#SBATCH --array=0-3" in script.read_text()
    assert queued(environment) == ""


def test_a_job_that_fails_where_slurm_hands_on_few_variables(tmp_path: Path, environment: dict[str, str]) -> None:
    options = ["optimizer=sgd", "optimizer.lr=0.1,1e30,0.2", "trainer.epochs=1", "tracking.experiment_name=failed"]
    # Submitit needs its variable itself.
    handed_on = "PATH,HOME,SLURM_CONF,SUBMITIT_EXECUTOR"
    bare = {**environment, "SBATCH_EXPORT": handed_on, "MLFLOW_TRACKING_URI": "sqlite:///named.db"}
    ended = sweep(tmp_path, *options, *SLURM, env=bare, capture_output=True, timeout=150)
    assert ended.returncode == 1
    assert "error: job 1: the loss became" in ended.stderr
    assert "Traceback" not in ended.stderr
    (parent,), children = found(MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/named.db"), "failed")
    assert (parent.info.status, parent.data.tags["jobs"]) == ("FAILED", "2 finished, 1 failed")
    assert parent.data.tags["failures"].startswith("job 1: ")
    assert {child.data.tags["mlflow.parentRunId"] for child in children} == {parent.info.run_id}
    ended_as = {float(child.data.params["optimizer.lr"]): child.info.status for child in children}
    assert ended_as == {0.1: "FINISHED", 1e30: "FAILED", 0.2: "FINISHED"}


def test_an_interrupted_sweep_cancels_its_jobs(tmp_path: Path, environment: dict[str, str]) -> None:
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/runs.db")
    options = ["optimizer=sgd,adam", "trainer.epochs=100000", "tracking.experiment_name=killed"]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    process = sweep(tmp_path, *options, *SLURM, env=environment, launch=subprocess.Popen, **pipes)
    deadline = time.monotonic() + 300
    while not any("train/loss" in child.data.metrics for child in found(client, "killed")[1]):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM
    assert "Traceback" not in err
    (parent,), children = found(client, "killed")
    assert {run.info.status for run in (parent, *children)} == {"KILLED"}
    assert queued(environment) == ""
