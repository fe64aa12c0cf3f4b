"""A logged network served by MLflow returns the network's own probabilities over HTTP."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient

from nl_models import build
from nl_training.data import load
from nl_training.tracking.model import softmax

# Training and serving in other processes takes half a minute: not a default test.
pytestmark = pytest.mark.browser

TRAIN = Path(__file__).resolve().parents[3] / "scripts" / "train.py"
SMALL = ["model=mlp", "data=digits", "trainer.epochs=1"]


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    uri = f"sqlite:///{tmp_path_factory.mktemp('served')}/runs.db"
    # MLflow searches for its server, uvicorn, on PATH.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, "MLFLOW_TRACKING_URI": uri, "OPENBLAS_NUM_THREADS": "1", "PATH": path}


@pytest.fixture(scope="module")
def run(environment: dict[str, str]):
    subprocess.run([sys.executable, str(TRAIN), *SMALL], env=environment, check=True, capture_output=True)
    client = MlflowClient(tracking_uri=environment["MLFLOW_TRACKING_URI"])
    (found,) = client.search_runs([e.experiment_id for e in client.search_experiments()])
    return client, found


@pytest.fixture(scope="module")
def served(environment: dict[str, str], run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield the address of the served model; the server and its workers are one process group, ended afterwards."""
    port, log = free_port(), tmp_path_factory.mktemp("server") / "log.txt"
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", f"runs:/{run[1].info.run_id}/model"]
    command += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    with log.open("w") as out:
        server = subprocess.Popen(command, env=environment, stdout=out, stderr=out, start_new_session=True)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"{address}/ping", timeout=1).close()
                break
            except OSError:
                assert server.poll() is None, log.read_text()
                time.sleep(0.25)
        yield address
    finally:
        with suppress(ProcessLookupError):  # it ended by itself, which the assertion above reports
            os.killpg(server.pid, signal.SIGKILL)
        server.wait(30)


def ask(address: str, pixels: np.ndarray) -> np.ndarray:
    """Return the served network's probabilities."""
    body = json.dumps({"inputs": {"pixels": pixels.tolist()}}).encode()
    request = urllib.request.Request(f"{address}/invocations", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as reply:
        return np.array(json.load(reply)["predictions"])


def test_served_network_returns_its_probabilities(run, served: str, tmp_path: Path) -> None:
    client, found = run
    folder = client.download_artifacts(found.info.run_id, "weights", str(tmp_path))
    net = build("mlp", input_shape=(1, 8, 8), classes=10, width=100)
    net.load(f"{folder}/best.safetensors")
    data = load("digits")
    (mean,), (std,) = data.normalization.mean, data.normalization.std
    pixels = data.test.x[:7] * std + mean
    answer = ask(served, pixels)
    expected = softmax(net.predict(data.test.x[:7]))
    assert np.ptp(expected.argmax(1)) > 0
    np.testing.assert_array_equal(answer.argmax(1), expected.argmax(1))
    np.testing.assert_allclose(answer, expected, rtol=1e-4, atol=1e-6)


def test_each_of_many_simultaneous_clients_gets_its_own_answer(served: str) -> None:
    """2,000 requests of 1 to 3 images each."""
    data = load("digits")
    (mean,), (std,) = data.normalization.mean, data.normalization.std
    images = [data.test.x[i : i + 1 + i % 3] * std + mean for i in range(64)]
    alone = [ask(served, pixels) for pixels in images]
    with ThreadPoolExecutor(32) as clients:
        answers = list(clients.map(lambda number: ask(served, images[number % 64]), range(2000)))
    for number, answer in enumerate(answers):
        np.testing.assert_allclose(answer, alone[number % 64], atol=1e-5, err_msg=str(number))


def test_pixels_of_another_range_are_refused_with_the_range(served: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        ask(served, 255 * np.ones((1, 1, 8, 8)))
    assert caught.value.code == 400
    assert "pixels must be 0 to 16, got 255 to 255" in caught.value.read().decode()
