"""Searches in a real store: nested runs, pruning, a summary in the parent run, and resuming a killed search."""

import os
import re
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from matplotlib.image import imread
from mlflow import MlflowClient
from optuna.trial import TrialState
from support.assertions import refused
from support.scripts import Started, python
from support.stores import empty_store
from support.sweeps import watch

from nl_training.commands.search import search
from nl_training.config.cli import check
from nl_training.paths import program
from nl_training.search.study import AGAIN
from nl_training.tracking.parent_run import find
from nl_training.tracking.store import Store

SMALL = ["model=mlp", "data=digits", "model.width=16", "verify=off"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("searches")


@pytest.fixture(scope="module")
def client(folder: Path) -> MlflowClient:
    return watch(empty_store(folder))


def start(folder: Path, *arguments: str, how: Callable[..., Any] = Started) -> Any:
    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/runs.db", "OPENBLAS_NUM_THREADS": "1"}
    return how("search.py", *arguments, env=environment)


def finish(process: Any) -> str:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, out + err
    assert "Traceback" not in err
    return out


def found(client: MlflowClient, experiment: str) -> tuple:
    """Return the parent and its existing children in the order of their start."""
    ctx = client.get_experiment_by_name(experiment)
    runs = client.search_runs([ctx.experiment_id], order_by=["attributes.start_time ASC"]) if ctx else []
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    assert len(parents) <= 1
    assert all(child.data.tags["mlflow.parentRunId"] == parents[0].info.run_id for child in children)
    return (parents[0] if parents else None), children


def trials(folder: Path, run_id: str) -> list:
    return optuna.load_study(storage=f"sqlite:///{folder}/optuna.db", study_name=run_id).trials


@pytest.fixture(scope="module")
def done(folder: Path, client: MlflowClient):
    """A search whose tiny learning rates are pruned after a good one has finished, and whose largest one diverges."""
    searched = ["optimizer=sgd", "optimizer.lr=choice(1e-9,0.1,0.2,1e30)", "search=random", "search.startup=1"]
    more = ["seed=9", "search.trials=5", "trainer.epochs=4", "tracking.experiment_name=done"]
    out = finish(start(folder, *SMALL, *searched, *more, how=python))
    run, children = found(client, "done")
    return run, children, trials(folder, run.info.run_id), out


def test_every_trial_is_a_run_under_one_parent(done) -> None:
    run, children, tried, _ = done
    assert run.info.status == "FINISHED"
    assert len(children) == len(tried) == 5
    assert [child.data.tags["search.trial"] for child in children] == [str(trial.number) for trial in tried]
    for child, trial in zip(children, tried, strict=True):
        assert float(child.data.params["optimizer.lr"]) == float(trial.params["optimizer.lr"])


def test_trials_are_finished_pruned_or_failed(done) -> None:
    _, children, tried, _ = done
    for child, trial in zip(children, tried, strict=True):
        rate = float(trial.params["optimizer.lr"])
        if rate == 1e30:
            assert (child.info.status, trial.state) == ("FAILED", TrialState.PRUNED)
            assert "the loss became" in child.data.tags["error"]
        elif trial.state == TrialState.COMPLETE:
            assert child.info.status == "FINISHED"
            assert child.data.metrics["best/val_acc"] == pytest.approx(trial.value, abs=1e-12)
        else:
            assert (child.info.status, trial.state) == ("KILLED", TrialState.PRUNED)
            assert child.data.tags["error"].startswith("Pruned: validation accuracy")
            assert 2 <= child.data.metrics["epoch"] < 4
    ends = {(float(trial.params["optimizer.lr"]), trial.state) for trial in tried}
    assert {(1e30, TrialState.PRUNED), (1e-9, TrialState.PRUNED), (0.1, TrialState.COMPLETE)} <= ends


def test_parent_run_summarizes_the_trials(client: MlflowClient, done, tmp_path: Path) -> None:
    run, children, tried, out = done
    best = max((t for t in tried if t.state == TrialState.COMPLETE), key=lambda t: t.value)
    (child,) = [c for c in children if c.data.tags["search.trial"] == str(best.number)]
    assert run.data.tags["best.run"] == child.info.run_id
    for tag, key in {"best.val_acc": "best/val_acc", "best.test_acc": "final/test_acc"}.items():
        assert float(run.data.tags[tag]) == pytest.approx(child.data.metrics[key], abs=5e-5)
    assert f"/runs/{child.info.run_id}?" in run.data.tags["mlflow.note.content"]
    assert run.data.metrics == {}  # in the charts of its trials they would be one more
    assert child.info.run_name == f"optimizer.lr={best.params['optimizer.lr']}"
    complete = sum(t.state == TrialState.COMPLETE for t in tried)
    assert run.data.tags["trials"] == f"{complete} finished, {5 - complete} pruned"
    for name in ("history.png", "slices.png", "importances.png"):
        assert imread(client.download_artifacts(run.info.run_id, name, str(tmp_path))).std() > 0
    assert f"best   validation accuracy {best.value:.4f}, trial {best.number}" in out


def test_best_config_is_printed_as_a_command(done) -> None:
    run, children, _, out = done
    (command,) = re.findall(rf"again +{program()} train (.*)", out)
    assert run.data.tags["best.command"].endswith(command)
    config = check(shlex.split(command), multirun=False)
    (child,) = [c for c in children if c.info.run_id == run.data.tags["best.run"]]
    assert str(config.optimizer.lr) == child.data.params["optimizer.lr"]
    assert str(config.model.width) == child.data.params["model.width"] == "16"
    assert str(config.trainer.epochs) == child.data.params["trainer.epochs"] == "4"


def test_killed_search_is_resumed_without_loss(
    folder: Path,
    client: MlflowClient,
    done,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = "tracking.experiment_name=killed"
    searched = ["optimizer.lr=tag(log,interval(1e-3,1e-1))", "search.trials=8", "search.prune=false"]
    store = Store.open(f"sqlite:///{folder}/runs.db", "killed")
    process = start(folder, *SMALL, *searched, "trainer.epochs=20", name)
    deadline = time.monotonic() + 200
    while len(found(client, "killed")[1]) < 2:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    run, _ = found(client, "killed")
    with refused(run.info.run_id, str(process.pid)):
        find(store, "search", run.info.run_id, [])
    process.kill()
    process.communicate(timeout=60)
    (cut,) = [trial for trial in trials(folder, run.info.run_id) if trial.state == TrialState.RUNNING]

    out = finish(start(folder, "search.resume=latest", "search.trials=3"))  # in whichever experiment it is
    run, children = found(client, "killed")
    tried = trials(folder, run.info.run_id)
    assert run.info.status == "FINISHED"
    assert [t.state for t in tried].count(TrialState.COMPLETE) == 3
    assert tried[cut.number].state == TrialState.FAIL
    (again,) = [t for t in tried if t.user_attrs.get(AGAIN) == cut.number]
    assert (again.state, again.params) == (TrialState.COMPLETE, cut.params)
    rates = [t.params["optimizer.lr"] for t in tried if t.state == TrialState.COMPLETE]
    assert len(set(rates)) == 3
    assert sorted(child.info.status for child in children) == ["FINISHED"] * 3 + ["KILLED"]
    assert {child.data.params["trainer.epochs"] for child in children} == {"20"}
    assert f"search {run.info.run_id}: 3 trials" in out

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/runs.db")
    search([f"search.resume={run.info.run_id}", "search.trials=3", name])  # no trials remain
    assert len(trials(folder, run.info.run_id)) == len(tried)
    assert f"again  {program()} train" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["search.resume=nonsense"], ["search.resume=nonsense"]),
        (["search.resume=latest", "tracking.experiment_name=done"], ["latest", "unfinished"]),
        (["search.resume=latest", "model=cnn3"], ["model=cnn3", "search.trials"]),
    ],
    ids=["unknown", "none left", "another config"],
)
def test_invalid_search_resume_is_refused(
    folder: Path, done, options: list[str], words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/runs.db")
    with refused(*words):
        search(options)
