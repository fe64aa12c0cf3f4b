"""A real MLflow server is killed during runs: in the end every metric value is stored exactly once."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import requests
from support.processes import TrainingRuns

from nl_training.tracking.address import PROJECT
from nl_training.tracking.store import Store

pytestmark = pytest.mark.chaos
ENDLESS = [
    "model=mlp", "data=digits", "verify=off", "trainer.epochs=100000", "trainer.batch_size=16",
    "trainer.checkpoint_every_seconds=1",
]  # fmt: skip
STEPS = 81  # per epoch


class Server:
    """An MLflow server on a free port; its runs outlive it."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self._command = [sys.executable, "-m", "nl_training", "ui", str(self.port)]
        self._environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/server.db"}
        self._log = (folder / "server.txt").open("a")

    def start(self) -> None:
        """Start the server and wait until it answers."""
        self._process = subprocess.Popen(
            self._command, env=self._environment, stdout=self._log, stderr=subprocess.STDOUT, start_new_session=True
        )
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                requests.get(f"{self.uri}/health", timeout=2)
                return
            except requests.RequestException:
                time.sleep(0.3)
        raise AssertionError("the server does not answer")

    def addresses(self) -> set[str]:
        """Return the addresses on which the server's processes listen."""
        own = psutil.Process(self._process.pid)
        sockets = [s for one in (own, *own.children(recursive=True)) for s in one.net_connections()]
        return {s.laddr.ip for s in sockets if s.status == psutil.CONN_LISTEN}

    def kill(self) -> None:
        """Send SIGKILL to all processes of the server."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def close(self) -> None:
        """End the server and close its log."""
        if self._process.poll() is None:
            self.kill()
        self._log.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path)
    made.start()
    yield made
    made.close()


@pytest.fixture
def runs(tmp_path: Path, server: Server) -> Iterator[TrainingRuns]:
    made = TrainingRuns(tmp_path, seed=5, uri=server.uri)
    yield made
    made.clean()


def losses(server: Server, run_id: str) -> list[int]:
    """Return the steps for which the server has the loss."""
    client = Store.open(server.uri, PROJECT).client
    return [point.step for point in client.get_metric_history(run_id, "train/loss")]


def test_ui_listens_on_localhost_only(server: Server) -> None:
    assert server.addresses() == {"127.0.0.1"}


def test_server_killed_three_times_has_every_point_once(server: Server, runs: TrainingRuns) -> None:
    training = runs.open(*ENDLESS, "trainer.batch_size=2")
    for _ in range(3):
        had, deadline = len(losses(server, training.run_id)), time.monotonic() + 120
        while len(losses(server, training.run_id)) == had:
            assert time.monotonic() < deadline
            time.sleep(0.5)
        server.kill()
        time.sleep(3)
        assert training.process.poll() is None, "the training ended with the server"
        server.start()
    training.process.terminate()
    code, _, err = training.ended()
    assert code == 143, err
    steps = losses(server, training.run_id)
    assert steps
    assert sorted(steps) == list(range(1, len(steps) + 1))
    assert runs.store.client.get_run(training.run_id).info.status == "KILLED"


def test_server_down_at_the_end_loses_no_point_after_resume(server: Server, runs: TrainingRuns) -> None:
    training = runs.open(*ENDLESS)
    training.until("epoch   5 ")
    server.kill()
    training.until("epoch  50 ")
    training.process.terminate()
    code, out, err = training.ended()
    assert code == 143
    assert "Traceback" not in err
    assert f"train resume={training.run_id}" in out
    server.start()
    again = runs.start(f"resume={training.run_id}", "trainer.epochs=60")
    code, _, err = again.ended()
    assert (code, err) == (0, "")
    steps = losses(server, training.run_id)
    assert sorted(steps) == list(range(1, 60 * STEPS + 1))
    assert runs.store.client.get_run(training.run_id).info.status == "FINISHED"
