"""Sweeps on real Ray clusters on this machine: one started by the launcher, and one that was running before."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient
from support.scripts import python
from support.sweeps import FOUR, ONE_FAILS, found, four_nest, one_failed, sweep, wait_until_trained, watch

pytestmark = pytest.mark.launchers

RAY = ["hydra/launcher=ray", "device.threads=1"]
OWN = [*RAY, "+hydra.launcher.ray.init.num_cpus=2"]
TOKEN = secrets.token_hex(32)  # only these tests may run code on the clusters


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder with a short path, since Ray's sockets are in it."""
    folder = Path(tempfile.mkdtemp(prefix="ray-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def client(folder: Path) -> MlflowClient:
    return watch(f"sqlite:///{folder}/runs.db")


def on_ray(folder: Path, *arguments: str, env: dict[str, str] | None = None, **options):
    return sweep(folder, *arguments, env=surroundings(folder) | (env or {}), **options)


def surroundings(folder: Path) -> dict[str, str]:
    return {"HOME": str(folder), "RAY_TMPDIR": str(folder), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}


def still_there(folder: Path) -> list[psutil.Process]:
    """Return the processes with this working directory, like Ray's, that are left after some time."""
    deadline = time.monotonic() + 30
    while True:
        left = [process for process in psutil.process_iter() if stands_in(folder, process)]
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.5)


def stands_in(folder: Path, process: psutil.Process) -> bool:
    try:
        return Path(process.cwd()).is_relative_to(folder)
    except psutil.Error:
        return False


def test_four_jobs_nest_under_one_parent(folder: Path, client: MlflowClient) -> None:
    ended = on_ray(folder, *FOUR, *OWN, start=python, timeout=400)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    parent = four_nest(client)
    assert {"comparison.png", "seeds.png"} <= {item.path for item in client.list_artifacts(parent)}
    assert still_there(folder) == []


def test_an_interrupted_sweep_ends_its_workers(folder: Path, client: MlflowClient) -> None:
    options = ["optimizer=sgd,adam", "trainer.epochs=100000", "tracking.experiment_name=killed"]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    process = on_ray(folder, *options, *OWN, launch=python, **pipes)
    wait_until_trained(process, client, "killed")
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (128 + signal.SIGTERM, "")
    (parent,), children = found(client, "killed")
    assert {run.info.status for run in (parent, *children)} == {"KILLED"}
    assert still_there(folder) == []


@pytest.fixture
def cluster(folder: Path) -> Iterator[str]:
    """The address of a cluster whose processes do not have the sweep's environment."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
    environment |= {**surroundings(folder), "RAY_USAGE_STATS_ENABLED": "0"}
    start = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus=2"]
    where = ["--node-ip-address=127.0.0.1", f"--port={address.rpartition(':')[2]}", "--include-dashboard=false"]
    with (folder / "cluster.txt").open("w") as out:
        process = subprocess.Popen([*start, *where], cwd=folder, env=environment, stdout=out, stderr=out)
        try:
            deadline = time.monotonic() + 200
            while "Ray runtime started" not in (text := (folder / "cluster.txt").read_text()):
                assert process.poll() is None, text
                assert time.monotonic() < deadline, text
                time.sleep(0.5)
            yield address
        finally:
            process.terminate()
            process.wait(timeout=60)


def test_failed_job_on_an_existing_cluster_is_reported(folder: Path, cluster: str) -> None:
    """The sweep's environment names the store; the workers' environment does not."""
    where = [*RAY, f"hydra.launcher.ray.init.address={cluster}"]
    env = {"MLFLOW_TRACKING_URI": "sqlite:///named.db"}
    ended = on_ray(folder, *ONE_FAILS, *where, env=env, start=python, timeout=400)
    one_failed(ended, watch(f"sqlite:///{folder}/named.db"))
