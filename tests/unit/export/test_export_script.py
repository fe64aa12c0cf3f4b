"""`scripts/export.py` on a run in a real store: the model is logged with the run and predicts like its network."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from mlflow import MlflowClient
from onnxruntime import InferenceSession
from support.assertions import refused
from support.scripts import python, run_script
from support.stores import empty_store

from nl_models import build
from nl_training.commands.export import export
from nl_training.config.cli import check
from nl_training.data import load
from nl_training.data.embedded import digits

SMALL = [
    "model=mlp",
    "data=digits",
    "trainer.epochs=12",
    "regularization=all",
    "regularization.dropout=0.1",
    "verify=off",
]


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return empty_store(tmp_path_factory.mktemp("export"))


def script(uri: str, name: str, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "MLFLOW_TRACKING_URI": uri, "OPENBLAS_NUM_THREADS": "1"}
    return run_script(name, *arguments, env=environment, **options)


@pytest.fixture(scope="module")
def run_id(uri: str) -> str:
    done = script(uri, "train.py", *SMALL)
    assert done.returncode == 0, done.stderr
    client = MlflowClient(tracking_uri=uri)
    (run,) = client.search_runs([e.experiment_id for e in client.search_experiments()])
    return run.info.run_id


def test_logged_onnx_model_predicts_like_the_runs_network(uri: str, run_id: str) -> None:
    done = script(uri, "export.py", "run=latest", start=python)
    assert (done.returncode, done.stderr) == (0, ""), done
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("onnx")]
    printed = Path(line.split()[1])
    client = MlflowClient(tracking_uri=uri)
    logged = Path(client.download_artifacts(run_id, "export/model.onnx"))
    assert logged.read_bytes() == printed.read_bytes()

    net = build("mlp", input_shape=(1, 8, 8), batch_norm="before_activation", dropout=0.1, seed=9)
    net.load(client.download_artifacts(run_id, "weights/best.safetensors"))
    x = load("digits").test.x
    expected = net.predict(x)
    session = InferenceSession(logged.read_bytes(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": digits().test.x.astype(np.float32)})  # 0 to 16, as in the data
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
    np.testing.assert_array_equal(found.argmax(axis=1), expected.argmax(axis=1))
    assert (found.argmax(axis=1) == load("digits").test.t).mean() > 0.8

    notes = {entry.key: json.loads(entry.value) for entry in onnx.load(str(logged)).metadata_props}
    pixels = {"channels": 1, "size": [8, 8], "range": [0, 16], "ground": "dark", "matte": None, "binary": False}
    built_in = "raw pixels; mean and standard deviation are built in"
    assert notes == {"input": built_in, "pixels": pixels, "classes": [str(n) for n in range(10)]}


@pytest.mark.parametrize(
    ("arguments", "word"),
    [([], "run=ID"), (["run=latest", "model=cnn3"], "model=cnn3")],
    ids=["no run", "more than a run"],
)
def test_invalid_export_arguments_are_reported_in_one_line(uri: str, arguments: list[str], word: str) -> None:
    done = script(uri, "export.py", *arguments)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1), done
    assert word in done.stderr


def test_export_of_an_unknown_run_is_refused(uri: str, run_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with refused("run=nonsense"):
        export("nonsense", check([], multirun=False))


def test_missing_onnx_is_reported_with_the_install_command(
    uri: str, run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setitem(sys.modules, "onnx", None)  # as if it were not installed
    with refused("pip install", "onnx"):
        export(run_id, check([], multirun=False))
