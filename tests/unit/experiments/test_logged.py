"""A sweep over experiments: each is a finished run with figures, numbers, curves and certificates."""

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from support.scripts import run_script
from support.stores import empty_store

from nl_training.config.cli import check, composed
from nl_training.experiments.runner import _log_training
from nl_training.experiments.train import train
from nl_training.tracking.store import Store

NAMES = ("apples", "weight_init", "two_layer_relu")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> MlflowClient:
    uri = empty_store(tmp_path_factory.mktemp("store"))
    asked = ["-m", f"experiment={','.join(NAMES)}", "reduced=true", "seed=1", "verify=strict"]
    done = run_script("train.py", *asked, env={**os.environ, "MLFLOW_TRACKING_URI": uri})
    assert done.returncode == 0, done.stderr
    assert "3 jobs, 0 failed" in done.stdout
    return MlflowClient(tracking_uri=uri)


@pytest.fixture(scope="module")
def runs(client: MlflowClient) -> dict:
    """Return the runs by kind; all except the parent are its children."""
    found = client.search_runs(["1"], order_by=["attributes.start_time ASC"])
    assert {run.info.status for run in found} == {"FINISHED"}
    parent = found[0]
    children = [run for run in found if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert [child.info.run_name for child in children] == [f"experiment={name}" for name in NAMES]
    return dict(zip(NAMES, children, strict=True))


def artifacts(client: MlflowClient, run, folder: str = "") -> set[str]:
    return {item.path for item in client.list_artifacts(run.info.run_id, folder)}


def test_figures_numbers_and_texts_are_logged(client: MlflowClient, runs: dict, tmp_path: Path) -> None:
    run = runs["apples"]
    assert {"apples.png", "numbers.json", "config.yaml"} <= artifacts(client, run)
    assert run.data.metrics["apples alone: price"] == pytest.approx(220)
    assert "ch05/buy_apple.py" in run.data.tags["mlflow.note.content"]
    assert run.data.params["reduced"] == "True"
    numbers = json.loads(Path(client.download_artifacts(run.info.run_id, "numbers.json", str(tmp_path))).read_text())
    assert numbers["with oranges: price"] == pytest.approx(715)


def test_each_training_of_an_experiment_is_a_nested_run(client: MlflowClient, runs: dict) -> None:
    run = runs["weight_init"]
    assert "weight_init.png" in artifacts(client, run)
    assert run.data.metrics == {}  # they would be one more curve in the charts of its trainings
    assert "| He: test accuracy |" in run.data.tags["mlflow.note.content"]
    own = f"tags.`mlflow.parentRunId` = '{run.info.run_id}'"
    nested = {child.info.run_name: child for child in client.search_runs(["1"], own)}
    assert nested.keys() == {"std 0.01", "Xavier", "He"}
    for child in nested.values():
        curve = client.get_metric_history(child.info.run_id, "test/acc")
        assert [point.step for point in curve] == [32, 64, 96, 128, 150]
        losses = client.get_metric_history(child.info.run_id, "train/loss")
        assert [point.step for point in losses] == list(range(1, 151))
        assert child.data.metrics["best/test_acc"] == max(point.value for point in curve)
        assert artifacts(client, child, "verification") == {"verification/certificate.json"}
        assert child.data.params["trainer.max_steps"] == "150"
    assert {child.data.params["model.init"] for child in nested.values()} == {"0.01", "xavier", "he"}


def test_a_nested_run_whose_logging_fails_is_closed(tmp_path: Path) -> None:
    overrides = ["model=mlp", "data=digits", "trainer.max_steps=1", "verify=off", "device.threads=1"]
    trained = train("small", *composed(overrides))
    store = Store.open(empty_store(tmp_path), "nested")
    (report,) = trained.result.history
    wrong = replace(trained.result, history=(replace(report, metrics={"not/a name?": 1.0}),))
    with pytest.raises(MlflowException, match="name"):
        _log_training(store, {}, replace(trained, result=wrong))
    with pytest.raises(KeyboardInterrupt):
        _log_training(store, {}, replace(trained, losses=interrupted()))
    runs = store.client.search_runs([store.experiment_id], order_by=["attributes.start_time ASC"])
    assert [run.info.status for run in runs] == ["FAILED", "KILLED"]


def interrupted() -> Iterator[float]:
    yield 1.0
    raise KeyboardInterrupt


def test_an_experiment_that_is_a_training_is_an_ordinary_run(client: MlflowClient, runs: dict) -> None:
    run = runs["two_layer_relu"]
    assert {"learning_curves.png", "worst_mistakes.png", "weights"} <= artifacts(client, run)
    assert run.data.metrics["final/test_acc"] > 0.8
    assert run.data.tags["verify.status"] == "verified"


def test_experiments_of_a_pattern_are_one_sweep() -> None:
    first = check(["experiment=glob(batch_*)", "reduced=true"], multirun=True)
    assert (first.experiment.name, first.reduced) == ("batch_norm", True)
