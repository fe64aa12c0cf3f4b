"""The MLflow UI in a real Chromium: a run's page shows its metrics, pictures and model."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

pytestmark = pytest.mark.browser

ROOT = Path(__file__).resolve().parents[2]
SHOTS = ROOT / "outputs" / "browser"


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture(scope="module")
def ui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, MlflowClient]]:
    uri = f"sqlite:///{tmp_path_factory.mktemp('ui')}/runs.db"
    environment = {**os.environ, "MLFLOW_TRACKING_URI": uri}
    small = ["model=mlp", "data=digits", "trainer.epochs=3"]
    subprocess.run([sys.executable, str(ROOT / "scripts" / "train.py"), *small], env=environment, check=True)
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "nl_training.tracking.ui", str(port)], env=environment, start_new_session=True
    )
    base = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"{base}/health", timeout=1)
                break
            except OSError:
                time.sleep(0.5)
        yield base, MlflowClient(tracking_uri=uri)
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


def page(url: str, name: str, height: int = 1100) -> str:
    """The page's DOM after it has loaded, and its screenshot in outputs/browser."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    chromium = shutil.which("chromium")
    assert chromium is not None
    common = [
        chromium, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync",
        "--disable-background-networking", "--disable-component-update", f"--window-size=1400,{height}",
        "--virtual-time-budget=30000",
    ]  # fmt: skip
    subprocess.run([*common, f"--screenshot={SHOTS / name}.png", url], check=True, capture_output=True, timeout=120)
    done = subprocess.run([*common, "--dump-dom", url], check=True, capture_output=True, text=True, timeout=120)
    return done.stdout


def test_a_runs_page(ui: tuple[str, MlflowClient]) -> None:
    base, client = ui
    (run,) = client.search_runs([client.get_experiment_by_name("node-layer-network").experiment_id])
    link = f"{base}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
    overview = page(f"{link}?workflowType=machine_learning", "overview")
    for word in ("final/test_acc", "best/val_acc", "optimizer.lr", "digits", "mlp adam lr=0.001"):
        assert word in overview, word
    metrics = page(f"{link}/model-metrics?workflowType=machine_learning", "metrics", height=3200)
    for word in ("train/loss", "val/acc", "test/acc"):
        assert word in metrics, word
    artifacts = page(f"{link}/artifacts?workflowType=machine_learning", "artifacts")
    for word in ("learning_curves.png", "confusion_matrix.png", "worst_mistakes.png", "weights", "config.yaml"):
        assert word in artifacts, word
    assert ">model<" in overview + artifacts or "python_function" in overview


def test_the_experiments_page(ui: tuple[str, MlflowClient]) -> None:
    base, client = ui
    number = client.get_experiment_by_name("node-layer-network").experiment_id
    assert "mlp adam lr=0.001" in page(f"{base}/#/experiments/{number}/runs?workflowType=machine_learning", "runs")
