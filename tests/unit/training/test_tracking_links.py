"""The default store of runs, and links to it."""

import subprocess
import sys

import pytest

from nl_training.paths import ROOT, program
from nl_training.tracking import resolve_uri, run_link, view_hint

HERE = f"sqlite:///{ROOT}/mlflow.db"


@pytest.fixture(autouse=True)
def no_uri(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_default_store_is_at_the_repository_root(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert resolve_uri() == HERE


def test_environment_variable_overrides_the_configured_store(monkeypatch, tmp_path):
    assert resolve_uri("sqlite:///other.db") == f"sqlite:///{ROOT}/other.db"
    assert resolve_uri("sqlite:////a/b.db") == "sqlite:////a/b.db"
    assert resolve_uri("http://host:1") == "http://host:1"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///here.db")
    assert resolve_uri("http://host:1") == f"sqlite:///{tmp_path}/here.db"


def test_links_open_the_training_view():
    assert run_link(HERE, "1", "ab") == "http://127.0.0.1:5000/#/experiments/1/runs/ab?workflowType=machine_learning"
    assert run_link("http://host:7/", "1", "ab").startswith("http://host:7/#/experiments/1/runs/ab?")


def test_ui_hint_names_the_runs_store():
    assert f"look   {program()} ui, then open" in view_hint(HERE, "1", "ab").splitlines()
    assert f"MLFLOW_TRACKING_URI=sqlite:////a/b.db {program()} ui" in view_hint("sqlite:////a/b.db", "1", "ab")
    assert program() not in view_hint("http://host:7", "1", "ab")


def test_slow_imports_are_lazy():
    imports = "import sys, nl_training.commands.train, nl_training.tracking.sweep_run"
    code = f"{imports}; print({{'mlflow', 'matplotlib'}} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_telemetry_is_off_before_mlflow_is_imported(monkeypatch):
    for name in ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK", "CI", "PYTEST_CURRENT_TEST"):
        monkeypatch.delenv(name, raising=False)
    code = (
        "import sys; from nl_training.tracking.store import prepare_environment; prepare_environment();"
        "assert 'mlflow' not in sys.modules;"
        "from mlflow.telemetry.utils import is_telemetry_disabled; print(is_telemetry_disabled())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
