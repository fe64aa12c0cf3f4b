"""Processes that open a store at once which is not there yet: one makes its tables, none crashes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

TRAIN = Path(__file__).resolve().parents[2] / "scripts" / "train.py"
OPEN = """
import sys
from nl_training.tracking import Store
import mlflow, sqlalchemy
print("ready", flush=True)
for line in sys.stdin:
    print(Store.open(line.strip(), "fresh").experiment_id, flush=True)
"""


@pytest.fixture
def environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k not in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID")}


def test_two_processes_make_a_stores_tables_at_once(tmp_path: Path, environment: dict[str, str]) -> None:
    command = [sys.executable, "-c", OPEN]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    pair = [subprocess.Popen(command, text=True, env=environment, **pipes) for _ in range(2)]
    assert [process.stdout.readline() for process in pair] == ["ready\n"] * 2
    for number in range(3):
        for process in pair:
            process.stdin.write(f"sqlite:///{tmp_path}/{number}/runs.db\n")
            process.stdin.flush()
        opened = {process.stdout.readline() for process in pair}
        assert len(opened) == 1
        assert opened != {""}, [process.communicate()[1] for process in pair]
    for process in pair:
        process.communicate(timeout=30)


def test_two_trainings_start_on_a_store_that_is_not_there(
    tmp_path: Path, environment: dict[str, str], request: pytest.FixtureRequest
) -> None:
    tries = 20 if request.config.getoption("--thorough") else 1
    options = ["model=mlp", "data=digits", "trainer.max_steps=2", "verify=off", "device.threads=1"]
    for number in range(tries):
        uri = f"sqlite:///{tmp_path}/{number}/runs.db"
        command = [sys.executable, str(TRAIN), *options, f"tracking.uri={uri}", f"hydra.run.dir={tmp_path}/hydra"]
        pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        pair = [subprocess.Popen(command, text=True, env=environment, cwd=tmp_path, **pipes) for _ in range(2)]
        told = [process.communicate(timeout=120)[1] for process in pair]
        assert [process.returncode for process in pair] == [0, 0], told
        client = MlflowClient(tracking_uri=uri)
        runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
        assert [run.info.status for run in runs] == ["FINISHED"] * 2
