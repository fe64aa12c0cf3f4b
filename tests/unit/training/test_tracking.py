"""Runs in a real MLflow store: their records and their final status."""

import os
import signal
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient
from support.scripts import Started, python
from support.stores import empty_store
from support.sweeps import watch

from nl_models import build
from nl_training.config.cli import check
from nl_training.config.schema import RESERVED_TAGS
from nl_training.data import load
from nl_training.tracking.model import softmax
from nl_training.tracking.provenance import flatten

SMALL = ["model=mlp", "data=digits", "trainer.epochs=2"]
DONE = ["tracking.experiment_name=done", "tracking.tags={project: a, stage: 2}", 'tracking.note="A *note*, no list"']


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return empty_store(tmp_path_factory.mktemp("store"))


def start(uri: str, *arguments: str, how: Callable[..., Any] = Started) -> Any:
    environment = {**os.environ, "MLFLOW_TRACKING_URI": uri, "OPENBLAS_NUM_THREADS": "1"}
    environment.pop("MLFLOW_RUN_ID", None)
    return how("train.py", *arguments, env=environment)


def finish(process: Any) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=240)
    return process.returncode, out, err


def runs(uri: str, experiment: str) -> list:
    client = watch(uri)
    found = client.get_experiment_by_name(experiment)
    return list(client.search_runs([found.experiment_id], order_by=["attributes.start_time ASC"])) if found else []


@pytest.fixture(scope="module")
def done(uri: str):
    code, out, err = finish(start(uri, *SMALL, *DONE, how=python))
    assert code == 0, err
    assert err == ""
    (run,) = runs(uri, "done")
    return run, out


def test_finished_run_has_all_records(uri: str, done) -> None:
    run, out = done
    assert run.info.status == "FINISHED"
    params, metrics, tags = run.data.params, run.data.metrics, run.data.tags
    assert params["model.name"] == "mlp"
    assert params["optimizer.lr"] == "0.001"
    assert params["trainer.epochs"] == "2"
    assert {"train/loss", "train/acc", "val/acc", "val/loss", "test/acc", "test/loss", "lr"} <= metrics.keys()
    assert {"best/epoch", "best/val_acc", "best/test_acc", "final/test_acc"} <= metrics.keys()
    assert any(name.startswith("system/") for name in metrics)
    assert len(tags["mlflow.source.git.commit"]) == 40
    assert {"git.dirty", "version.numpy", "version.nl-nodes", "device", "dataset.digest"} <= tags.keys()
    assert run.inputs.dataset_inputs[0].dataset.name == "digits"
    client = MlflowClient(tracking_uri=uri)
    steps = client.get_metric_history(run.info.run_id, "train/loss")
    assert [m.step for m in steps] == list(range(1, len(steps) + 1))
    names = {item.path for item in client.list_artifacts(run.info.run_id)}
    assert {"config.yaml", "packages.txt", "learning_curves.png", "confusion_matrix.png", "worst_mistakes.png"} <= names
    summary = Path(client.download_artifacts(run.info.run_id, "summary.txt")).read_text()
    assert summary.startswith(tags["model"])
    assert "Affine 5" in summary
    weights = {item.path for item in client.list_artifacts(run.info.run_id, "weights")}
    assert {"weights/final.safetensors", "weights/best.safetensors"} <= weights
    assert f"test accuracy {metrics['final/test_acc']:.4f}" in out
    assert run.info.run_id in out


def test_run_has_a_name_of_its_overrides_and_the_users_tags(done) -> None:
    run, _ = done
    assert run.info.run_name == "mlp adam data=digits trainer.epochs=2"
    tags = run.data.tags
    assert (tags["project"], tags["stage"], tags["mlflow.note.content"]) == ("a", "2", "A *note*, no list")
    own = tags.keys() - {"project", "stage"}
    assert {key.partition(".")[0] for key in own} <= set(RESERVED_TAGS)
    assert max(len(value) for value in tags.values()) < 200  # longer texts are files


def test_logged_model_predicts_like_the_network(uri: str, done, monkeypatch: pytest.MonkeyPatch) -> None:
    run, _ = done
    with warnings.catch_warnings(action="ignore"):  # MLflow warns of its own type hints
        import mlflow.pyfunc
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    model = mlflow.pyfunc.load_model(f"runs:/{run.info.run_id}/model")
    data = load("digits", normalize=False)
    pixels = data.test.x * np.float32(16)
    probabilities = model.predict({"pixels": pixels})
    assert probabilities.shape == (len(pixels), 10)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    accuracy = (probabilities.argmax(axis=1) == data.test.t).mean()
    assert accuracy == pytest.approx(run.data.metrics["final/test_acc"], abs=1e-9)
    net = build("mlp", input_shape=(1, 8, 8), seed=99)
    net.load(MlflowClient(tracking_uri=uri).download_artifacts(run.info.run_id, "weights/best.safetensors"))
    expected = softmax(net.predict(load("digits").test.x))
    np.testing.assert_allclose(probabilities, expected, rtol=1e-4, atol=1e-6)


def test_params_are_the_flattened_config(done) -> None:
    run, _ = done
    config = asdict(check([*SMALL, *DONE], multirun=False))
    config |= config.pop("own")
    assert run.data.params == flatten(config) | {"optimizer.name": "adam", "schedule.name": "cosine"}


def test_error_sets_run_status_failed(uri: str) -> None:
    diverges = ["verify=off", "optimizer=sgd", "optimizer.lr=1e30", "tracking.experiment_name=failed"]
    code, _, err = finish(start(uri, *SMALL, *diverges))
    assert code == 1
    assert "lower optimizer.lr" in err
    assert "Traceback" not in err
    (run,) = runs(uri, "failed")
    assert run.info.status == "FAILED"
    assert "lower optimizer.lr" in run.data.tags["error"]
    error = Path(MlflowClient(tracking_uri=uri).download_artifacts(run.info.run_id, "error.txt")).read_text()
    assert error.startswith("Traceback")
    assert "lower optimizer.lr" in error


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_signal_sets_run_status_killed(uri: str, number: signal.Signals) -> None:
    name = f"killed by {number.name}"
    process = start(uri, *SMALL[:2], "verify=off", "trainer.epochs=100000", f"tracking.experiment_name='{name}'")
    deadline = time.monotonic() + 120
    while not any("train/loss" in run.data.metrics for run in runs(uri, name)):
        assert process.poll() is None, finish(process)
        assert time.monotonic() < deadline
        time.sleep(0.3)
    process.send_signal(number)
    code, _, err = finish(process)
    assert code != 0
    assert "Traceback" not in err
    (run,) = runs(uri, name)
    assert run.info.status == "KILLED"


def test_refused_device_leaves_no_run(uri: str) -> None:
    code, _, err = finish(start(uri, "model=vgg16", "data=digits", "tracking.experiment_name=refused"))
    assert code == 1, err
    assert runs(uri, "refused") == []
