"""Sweeps through the sbatch of a real SLURM, of one node."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.scripts import python
from support.slurm import one_node
from support.sweeps import FOUR, ONE_FAILS, found, four_nest, one_failed, sweep, wait_until_trained, watch

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
    ended = sweep(tmp_path, *FOUR, *SLURM, env=environment, start=python, timeout=150)
    assert ended.returncode == 0, ended.stderr
    assert "WARNING" not in ended.stdout + ended.stderr
    four_nest(watch(f"sqlite:///{tmp_path}/runs.db"))
    (script,) = tmp_path.glob("multirun/.submitit/*/*_submission.sh")
    assert "#SBATCH --array=0-3" in script.read_text()
    assert queued(environment) == ""


def test_failed_job_is_reported_if_slurm_passes_few_variables(tmp_path: Path, environment: dict[str, str]) -> None:
    # Submitit needs its variable itself.
    handed_on = "PATH,HOME,SLURM_CONF,SUBMITIT_EXECUTOR"
    bare = {**environment, "SBATCH_EXPORT": handed_on, "MLFLOW_TRACKING_URI": "sqlite:///named.db"}
    ended = sweep(tmp_path, *ONE_FAILS, *SLURM, env=bare, start=python, timeout=150)
    one_failed(ended, watch(f"sqlite:///{tmp_path}/named.db"))


def test_an_interrupted_sweep_cancels_its_jobs(tmp_path: Path, environment: dict[str, str]) -> None:
    client = watch(f"sqlite:///{tmp_path}/runs.db")
    options = ["optimizer=sgd,adam", "trainer.epochs=100000", "tracking.experiment_name=killed"]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    process = sweep(tmp_path, *options, *SLURM, env=environment, launch=python, **pipes)
    wait_until_trained(process, client, "killed")
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM
    assert "Traceback" not in err
    (parent,), children = found(client, "killed")
    assert {run.info.status for run in (parent, *children)} == {"KILLED"}
    assert queued(environment) == ""
