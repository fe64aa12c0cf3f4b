"""The MLflow UI in a real Chromium: a run's page shows its metrics, pictures and model, a sweep's its charts."""

import os
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
from selenium.common.exceptions import TimeoutException
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait
from support.screenshots import shot

pytestmark = pytest.mark.browser

ROOT = Path(__file__).resolve().parents[2]
NAME = "mlp adam data=digits trainer.epochs=3"  # of the run of these overrides


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture(scope="module")
def ui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, MlflowClient]]:
    uri = f"sqlite:///{tmp_path_factory.mktemp('ui')}/runs.db"
    environment = {**os.environ, "MLFLOW_TRACKING_URI": uri}
    small = ["model=mlp", "data=digits", "trainer.epochs=3"]
    sweep = ["-m", *small[:2], "verify=off", "trainer.epochs=1", "optimizer=sgd,adam", "seed=0,1"]
    for arguments in (small, [*sweep, "tracking.experiment_name=sweep"]):
        subprocess.run([sys.executable, str(ROOT / "scripts" / "train.py"), *arguments], env=environment, check=True)
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "nl_training", "ui", str(port)], env=environment, start_new_session=True
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


def shows(browser: Chrome, url: str, name: str, *words: str) -> None:
    """Wait until a page's text holds all words, and keep its screenshot in outputs/browser."""
    browser.get(url)
    browser.refresh()  # an address that differs after its # alone loads nothing anew
    missing: list[str] = []
    try:
        WebDriverWait(browser, 90).until(lambda _: not missing_from(browser, words, missing))
    except TimeoutException:
        pytest.fail(f"{url} does not show {missing}")
    finally:
        shot(browser, name)


def missing_from(browser: Chrome, words: tuple[str, ...], missing: list[str]) -> list[str]:
    text = browser.execute_script("return document.body.innerText")
    missing[:] = [word for word in words if word not in text]
    return missing


def test_run_page_is_rendered(ui: tuple[str, MlflowClient], browser: Chrome) -> None:
    base, client = ui
    (run,) = client.search_runs([client.get_experiment_by_name("node-layer-network").experiment_id])
    link, view = (
        f"{base}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}",
        "?workflowType=machine_learning",
    )
    overview = ("Finished", "digits", NAME, "final/test_acc", "optimizer.lr", "Logged models")
    shows(browser, link + view, "overview", *overview)
    shows(browser, f"{link}/model-metrics{view}", "metrics", "(train/loss)", "(val/acc)", "(best/test_acc)")
    files = ("learning_curves.png", "confusion_matrix.png", "worst_mistakes.png", "weights", "config.yaml")
    shows(browser, f"{link}/artifacts{view}", "artifacts", *files)


def test_logged_figure_is_shown(ui: tuple[str, MlflowClient], browser: Chrome) -> None:
    base, client = ui
    (run,) = client.search_runs([client.get_experiment_by_name("node-layer-network").experiment_id])
    page = f"{base}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}/artifacts/learning_curves.png"
    shows(browser, f"{page}?workflowType=machine_learning", "picture", "learning_curves.png")
    loaded = "return [...document.images].some(image => image.naturalWidth > 500)"
    WebDriverWait(browser, 60).until(lambda driver: driver.execute_script(loaded))
    shot(browser, "picture")


def test_experiments_page_is_rendered(ui: tuple[str, MlflowClient], browser: Chrome) -> None:
    base, client = ui
    number = client.get_experiment_by_name("node-layer-network").experiment_id
    page = f"{base}/#/experiments/{number}/runs?workflowType=machine_learning"
    shows(browser, page, "runs", NAME)


def test_page_of_a_sweep_leads_to_charts_of_its_jobs_alone(ui: tuple[str, MlflowClient], browser: Chrome) -> None:
    base, client = ui
    number = client.get_experiment_by_name("sweep").experiment_id
    (parent,) = client.search_runs([number], "tags.sweep LIKE '%'")
    page = f"{base}/#/experiments/{number}/runs/{parent.info.run_id}?workflowType=machine_learning"
    shows(browser, page, "sweep", "sweep optimizer=sgd,adam seed=0,1", "Charts of all runs", "optimizer=adam seed=1")
    charts = browser.find_element(By.LINK_TEXT, "Charts of all runs").get_attribute("href")
    jobs = [f"optimizer={name} seed={seed}" for name in ("sgd", "adam") for seed in (0, 1)]
    shows(browser, charts, "sweep-charts", *jobs, "Parallel", "comparison")
    axis = "return document.body.textContent.includes('optimizer.name')"
    WebDriverWait(browser, 60).until(lambda driver: driver.execute_script(axis))
    assert "sweep optimizer=sgd,adam" not in browser.execute_script("return document.body.innerText")
