"""Processes that concurrently open a store that does not exist: one creates its tables, none fails."""

import os
from pathlib import Path

import pytest
from mlflow import MlflowClient
from support.scripts import Started

OPEN = """
import sys
from nl_training.tracking import Store
print("ready", flush=True)
for line in open(sys.argv[1]):
    print(Store.open(line.strip(), "fresh").experiment_id, flush=True)
"""


@pytest.fixture
def environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k not in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID")}


def test_two_processes_can_create_a_store_concurrently(tmp_path: Path, environment: dict[str, str]) -> None:
    orders = [tmp_path / "one", tmp_path / "two"]
    for path in orders:
        os.mkfifo(path)
    pair = [Started("-c", OPEN, str(path), env=environment) for path in orders]
    assert [process.stdout.readline() for process in pair] == ["ready\n"] * 2
    with orders[0].open("w") as one, orders[1].open("w") as two:
        for number in range(3):
            for pipe in (one, two):
                print(f"sqlite:///{tmp_path}/{number}/runs.db", file=pipe, flush=True)
            opened = {process.stdout.readline() for process in pair}
            assert len(opened) == 1
            assert opened != {""}, [process.communicate()[1] for process in pair]
    assert [process.wait(timeout=30) for process in pair] == [0, 0]


def test_two_trainings_can_create_a_store_concurrently(
    tmp_path: Path, environment: dict[str, str], request: pytest.FixtureRequest
) -> None:
    tries = 20 if request.config.getoption("--thorough") else 1
    options = ["model=mlp", "data=digits", "trainer.max_steps=2", "verify=off", "device.threads=1"]
    for number in range(tries):
        uri = f"sqlite:///{tmp_path}/{number}/runs.db"
        asked = [*options, f"tracking.uri={uri}", f"hydra.run.dir={tmp_path}/hydra"]
        pair = [Started("train.py", *asked, env=environment, cwd=tmp_path) for _ in range(2)]
        told = [process.communicate(timeout=120)[1] for process in pair]
        assert [process.returncode for process in pair] == [0, 0], told
        client = MlflowClient(tracking_uri=uri)
        runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
        assert [run.info.status for run in runs] == ["FINISHED"] * 2
