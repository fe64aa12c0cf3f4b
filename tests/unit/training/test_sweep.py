"""Sweeps that finish, have a failed job, or are interrupted: one parent run, nested jobs, all with a final status."""

import json
import runpy
import signal
import sys
import time
from pathlib import Path

import pytest
from matplotlib.image import imread
from mlflow import MlflowClient
from support.assertions import refused
from support.scripts import Started
from support.stores import empty_store
from support.sweeps import TRAIN, failures, found, sweep, wait_until_trained, watch

from nl_nodes import UserError
from nl_training.config.cli import check
from nl_training.paths import output_root
from nl_training.tracking.parent_run import find
from nl_training.tracking.process import PROCESS, this_process
from nl_training.tracking.remainder import FOLDER
from nl_training.tracking.store import Store
from nl_training.tracking.sweep_run import SWEEP, sweep_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sweeps")


@pytest.fixture(scope="module")
def client(folder: Path) -> MlflowClient:
    return watch(empty_store(folder))


def whole(client: MlflowClient, child) -> None:
    """Assert that a run has its pictures and its model, and that nothing is left to do for it."""
    artifacts = {item.path for item in client.list_artifacts(child.info.run_id)}
    assert {"learning_curves.png", "confusion_matrix.png", "worst_mistakes.png"} <= artifacts
    (output,) = client.get_run(child.info.run_id).outputs.model_outputs
    metrics = {metric.key: metric.value for metric in client.get_logged_model(output.model_id).metrics}
    assert metrics["final/test_acc"] == child.data.metrics["final/test_acc"]
    assert not output_root().joinpath(*FOLDER, child.info.run_id).exists()


def chosen_by_validation(parent, children: list):
    """Return the best child by validation accuracy, whose results the parent has as tags: metrics would be charted."""
    best = max(children, key=lambda child: child.data.metrics["best/val_acc"])
    assert parent.data.metrics == {}
    assert parent.data.tags["best.run"] == best.info.run_id
    for tag, key in {"best.val_acc": "best/val_acc", "best.test_acc": "final/test_acc"}.items():
        assert float(parent.data.tags[tag]) == pytest.approx(best.data.metrics[key], abs=5e-5)
    return best


@pytest.fixture(scope="module")
def done(folder: Path, client: MlflowClient):
    given = ["tracking.tags={project: a}", "tracking.note=Which is *faster*?"]
    options = ["optimizer=sgd,adam", "trainer.epochs=1", "tracking.experiment_name=done", *given]
    ended = sweep(folder, *options)
    assert ended.returncode == 0, ended.stderr
    (parent,), children = found(client, "done")
    return parent, children, ended.stdout


def test_sweep_has_one_parent_run_with_every_job(done) -> None:
    parent, children, out = done
    assert [child.data.params["optimizer.lr"] for child in children] == ["0.01", "0.001"]
    assert [child.info.status for child in children] == ["FINISHED", "FINISHED"]
    assert {child.data.tags["mlflow.parentRunId"] for child in children} == {parent.info.run_id}
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["jobs"] == "2 finished, 0 failed"
    assert parent.info.run_name == "sweep optimizer=sgd,adam"
    assert [child.info.run_name for child in children] == ["optimizer=sgd", "optimizer=adam"]
    assert {run.data.tags["project"] for run in (parent, *children)} == {"a"}
    assert {child.data.tags["mlflow.note.content"] for child in children} == {"Which is *faster*?"}
    assert "optimizer=sgd,adam" in parent.data.params["sweep"]
    assert f"{parent.info.run_id}: 2 jobs, 0 failed" in out


def test_each_job_has_a_header_and_a_line_and_the_best_is_first_in_the_table(done) -> None:
    _, children, out = done
    lines = out.splitlines()
    for number, (name, child) in enumerate(zip(("sgd", "adam"), children, strict=True), 1):
        header = lines.index(f"job {number} of 2: {name}")
        assert f"test {child.data.metrics['final/test_acc']:.4f}" in lines[header + 1]
        assert " s; job " in lines[header + 1]
    start = next(i for i, line in enumerate(lines) if line.startswith("job  "))
    accuracies = [f"{child.data.metrics['best/val_acc']:.4f}" for child in children]
    assert [line.split()[-4] for line in lines[start + 1 : start + 3]] == sorted(accuracies, reverse=True)


def test_pictures_and_models_are_made_at_the_end(client: MlflowClient, done) -> None:
    _, children, out = done
    assert out.index("pictures and models of 2 runs") > out.index("job 2 of 2")
    for child in children:
        whole(client, child)


def test_parent_run_compares_the_jobs(client: MlflowClient, done, tmp_path: Path) -> None:
    parent, children, out = done
    reached = [child.data.metrics["final/test_acc"] for child in children]
    best = chosen_by_validation(parent, children)
    assert parent.data.tags["best.job"].startswith(f"{children.index(best) + 1}: ")
    file = client.download_artifacts(parent.info.run_id, "comparison.json", str(tmp_path))
    table = json.loads(Path(file).read_text())
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    assert [row["run"] for row in rows] == [child.info.run_id for child in children]
    assert [row["test accuracy"] for row in rows] == pytest.approx(reached, abs=1e-9)
    picture = Path(client.download_artifacts(parent.info.run_id, "comparison.png", str(tmp_path)))
    assert imread(picture).std() > 0
    (link,) = [line for line in out.splitlines() if f"viewStateShareKey={parent.info.run_id[:8]}&" in line]
    assert len(link) < 130  # however many jobs there are


def test_parent_run_is_described_by_its_results(client: MlflowClient, done) -> None:
    parent, children, _ = done
    note = parent.data.tags["mlflow.note.content"]
    assert "Which is *faster*?" in note
    for child in children:
        assert f"[{child.info.run_name}](#/experiments/{parent.info.experiment_id}/runs/{child.info.run_id}?" in note
    tags = client.get_experiment(parent.info.experiment_id).tags
    view = json.loads(tags[f"mlflow.sharedViewState.{parent.info.run_id[:8]}"])
    assert f"viewStateShareKey={parent.info.run_id[:8]}&" in note
    assert view["searchFilter"] == f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
    first, *_ = view["compareRunCharts"]
    assert (first["selectedParams"], first["selectedMetrics"]) == (["optimizer.name"], ["final/test_acc"])


def test_failed_job_stops_no_other_and_is_reported_in_the_parent(folder: Path, client: MlflowClient, done) -> None:
    options = ["trainer.epochs=1", "optimizer=sgd", "optimizer.lr=0.1,1e30,0.2", "tracking.experiment_name=failed"]
    ended = sweep(folder, *options)
    assert ended.returncode == 1
    assert "error: job 2: the loss became" in ended.stderr
    assert "Traceback" not in ended.stderr
    (parent,), children = found(client, "failed")
    assert [child.info.status for child in children] == ["FINISHED", "FAILED", "FINISHED"]
    assert {child.data.tags["mlflow.parentRunId"] for child in children} == {parent.info.run_id}
    assert parent.info.status == "FAILED"
    assert parent.data.tags["jobs"] == "2 finished, 1 failed"
    assert failures(client, parent).startswith("job 2: ")
    chosen_by_validation(parent, [child for child in children if child.info.status == "FINISHED"])
    artifacts = {item.path for item in client.list_artifacts(parent.info.run_id)}
    assert {"comparison.png", "comparison.json"} <= artifacts
    assert "3 jobs, 1 failed" in ended.stdout


def test_job_that_fails_before_its_run_starts_is_counted(folder: Path, client: MlflowClient, done) -> None:
    options = ["trainer.epochs=1", "device=cpu,gpu", "device.index=99", "tracking.experiment_name=early"]
    ended = sweep(folder, *options)
    assert ended.returncode == 1
    (parent,), children = found(client, "early")
    assert (parent.info.status, [child.info.status for child in children]) == ("FAILED", ["FINISHED"])
    assert parent.data.tags["jobs"] == "1 finished, 1 failed"
    assert "device=gpu" in failures(client, parent)
    assert "error: job 2" in ended.stderr
    assert "1: device=cpu" in ended.stdout


def test_interrupted_sweep_ends_all_its_jobs(folder: Path, client: MlflowClient, done) -> None:
    options = ["optimizer=sgd,adam", "trainer.epochs=100000", "tracking.experiment_name=killed"]
    process = sweep(folder, *options, launch=Started)
    wait_until_trained(process, client, "killed")
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM
    assert "Traceback" not in err
    (parent,), children = found(client, "killed")
    assert [child.info.status for child in children] == ["KILLED"]
    assert parent.info.status == "KILLED"


FOUR = ["optimizer=sgd,adam", "seed=0,1", "trainer.epochs=3"]


def test_killed_sweep_can_be_resumed(folder: Path, client: MlflowClient, done) -> None:
    """Four jobs: none runs twice, none is lost, none is left running; results over seeds are summarized."""
    options = [*FOUR, "tracking.experiment_name=four"]
    with (folder / "first.txt").open("w") as out:
        process = sweep(folder, *options, launch=Started, stdout=out, stderr=out)
        deadline = time.monotonic() + 200
        while sum(child.info.status == "FINISHED" for child in found(client, "four")[1]) < 1:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.kill()
        process.wait()
    (parent,), left = found(client, "four")
    assert parent.info.status == "RUNNING"
    before = {child.info.run_id: child for child in left if child.info.status == "FINISHED"}
    assert 1 <= len(before) < 4

    again = sweep(folder, *options, "sweep.resume=latest")
    assert again.returncode == 0, again.stderr
    (same,), children = found(client, "four")
    assert (same.info.run_id, same.info.status) == (parent.info.run_id, "FINISHED")
    assert [child.info.status for child in children] == ["FINISHED"] * 4
    assert {child.info.run_id for child in left} <= {child.info.run_id for child in children}
    for child in children:
        whole(client, child)
    jobs = [(child.data.params["seed"], child.data.params["optimizer.lr"]) for child in children]
    assert len(set(jobs)) == 4
    for child in children:
        if (old := before.get(child.info.run_id)) is not None:
            assert child.info.end_time == old.info.end_time
            assert f"run {child.info.run_id} is finished" in again.stdout
        points = [m.step for m in client.get_metric_history(child.info.run_id, "train/loss")]
        assert sorted(points) == list(range(1, len(points) + 1))
    assert same.data.tags["jobs"] == "4 finished, 0 failed"
    artifacts = {item.path for item in client.list_artifacts(same.info.run_id)}
    assert {"seeds.json", "seeds.png"} <= artifacts
    assert "seeds  2 of the best setting" in again.stdout

    nothing = sweep(folder, *options, "sweep.resume=latest", timeout=100)
    assert nothing.returncode == 1
    assert "has no unfinished sweep" in nothing.stderr
    other = sweep(folder, *options, f"sweep.resume={children[0].info.run_id}", timeout=100)
    assert "is not a sweep" in other.stderr


def test_sweep_at_its_time_limit_goes_on_with_a_larger_one(folder: Path, client: MlflowClient, done) -> None:
    options = ["seed=0,1", "trainer.epochs=1", "tracking.experiment_name=limit"]
    ended = sweep(folder, *options, "trainer.max_seconds=1e-6")
    assert ended.returncode == 0, ended.stderr
    (parent,), stopped = found(client, "limit")
    assert (parent.info.status, parent.data.tags["jobs"]) == ("KILLED", "0 finished, 0 failed, 2 unfinished")
    assert "2 jobs, 0 failed, 2 unfinished" in ended.stdout

    again = sweep(folder, *options, "trainer.max_seconds=1000", "sweep.resume=latest")
    assert again.returncode == 0, again.stderr
    (same,), children = found(client, "limit")
    assert (same.info.status, same.data.tags["jobs"]) == ("FINISHED", "2 finished, 0 failed")
    assert [child.info.run_id for child in children] == [child.info.run_id for child in stopped]


def test_jobs_in_separate_processes_report_failures(folder: Path, client: MlflowClient, done) -> None:
    options = ["optimizer=sgd", "optimizer.lr=0.1,1e30,0.2", "trainer.epochs=1", "device.threads=1"]
    launcher = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "tracking.experiment_name=joblib"]
    ended = sweep(folder, *options, *launcher)
    assert ended.returncode == 1
    assert ended.stderr.count("error: job 2: the loss became") == 2  # when it happens, and at the end
    (parent,), children = found(client, "joblib")
    assert sorted(child.info.status for child in children) == ["FAILED", "FINISHED", "FINISHED"]
    assert {child.data.tags["mlflow.parentRunId"] for child in children} == {parent.info.run_id}
    assert parent.data.tags["jobs"] == "2 finished, 1 failed"
    assert "3 jobs, 1 failed" in ended.stdout
    for child in children:
        if child.info.status == "FINISHED":
            whole(client, child)
    jobs = {line.split(" of 3: ")[1].split(":")[0] for line in ended.stdout.splitlines() if " of 3: " in line}
    assert jobs == {"optimizer.lr=0.1", "optimizer.lr=0.2"}  # one line a job, the failed one's among the errors
    assert "pictures and models" not in ended.stdout  # each job makes its own, while another trains


@pytest.mark.parametrize(
    ("launcher", "package"), [("ray", "hydra-ray-launcher"), ("submitit_slurm", "hydra-submitit-launcher")]
)
def test_a_launcher_that_is_not_installed_says_what_to_install(
    launcher: str, package: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, f"hydra_plugins.{package.replace('-', '_')}", None)
    monkeypatch.setattr(sys, "argv", [str(TRAIN), "-m", "seed=0,1", f"hydra/launcher={launcher}"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(TRAIN), run_name="__main__")
    told = f"error: hydra/launcher={launcher} needs the package {package}: python -m pip install -c constraints.txt"
    assert ended.value.code == f"{told} {package}"  # which Python prints before it exits with 1
    assert capsys.readouterr() == ("", "")


def test_latest_ignores_sweeps_that_never_started(folder: Path, client: MlflowClient, done) -> None:
    store = Store.open(f"sqlite:///{folder}/runs.db", "begun")
    gone = {SWEEP: "seed=0,1", PROCESS: this_process().rpartition(" ")[0] + " 1.0"}
    begun = client.create_run(store.experiment_id, tags=gone).info.run_id
    client.create_run(store.experiment_id, tags={"mlflow.parentRunId": begun})
    never = client.create_run(store.experiment_id, tags=gone).info.run_id
    here = [store.experiment_id]
    assert find(store, SWEEP, "latest", here).info.run_id == begun
    client.set_terminated(begun)
    with refused("sweep.resume=latest", "has no unfinished sweep"):
        find(store, SWEEP, "latest", here)
    assert find(store, SWEEP, never, []).info.run_id == never  # it can still be named by ID, wherever it is


def test_sweep_without_started_jobs_leaves_no_run(folder: Path, client: MlflowClient, done, monkeypatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    where = [f"tracking.uri=sqlite:///{folder}/runs.db", "tracking.experiment_name=refused"]
    overrides = ["device=gpu", "seed=0,1", *where]
    with refused("no GPU here"), sweep_run(check(overrides, multirun=True), overrides):
        raise UserError("no GPU here")
    assert found(client, "refused") == ([], [])


def test_sweep_is_not_resumed_in_another_experiment(folder: Path, done, monkeypatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    resumed = f"sweep.resume={done[0].info.run_id}"
    where = [f"tracking.uri=sqlite:///{folder}/runs.db", "tracking.experiment_name=other"]
    overrides = ["optimizer=sgd,adam", resumed, *where]
    with refused(resumed, "'done'", "'other'"), sweep_run(check(overrides, multirun=True), overrides):
        raise AssertionError("the sweep began")
