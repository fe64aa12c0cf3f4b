"""Opening and closing of runs when the store, the server or the training fails; metrics of logged models."""

import os
import signal
import socket
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from support.assertions import refused
from support.stores import empty_store

from nl_layers.optimizers import Adam
from nl_layers.schedules import Constant
from nl_models import load_state, mlp
from nl_nodes import UserError
from nl_training.data import load
from nl_training.tracking import MLflowTracker, Store, parent_run
from nl_training.tracking.metrics import BATCH, MetricBuffer
from nl_training.tracking.run import PARENT
from nl_training.training.callbacks import Callback
from nl_training.training.trainer import Trainer, TrainOptions


def trainer_for(*callbacks, **limits):
    data = load("digits")
    net = mlp(input_shape=data.input_shape, classes=10, hidden=[16], seed=0)
    return Trainer(net, Adam(lr=0.01), Constant(), data, TrainOptions(batch_size=64, **limits), callbacks=callbacks)


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.delenv(PARENT, raising=False)
    return Store.open(empty_store(tmp_path), "test")


@pytest.fixture
def database(store):
    return store.uri.removeprefix("sqlite:///")


def tracker_in(store, config=None):
    return MLflowTracker(store, config or {"a": 1}, "a run", "a: 1\n")


def status(store, run_id):
    return store.client.get_run(run_id).info.status


def handlers():
    return signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def break_store(database):
    Path(database).write_bytes(b"no database" * 1000)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("no"), "FAILED"),
        (SystemExit(3), "FAILED"),
        (SystemExit(0), "FINISHED"),
        (KeyboardInterrupt(), "KILLED"),
    ],
    ids=repr,
)
def test_run_status_follows_from_the_error(store, error, expected):
    tracker = tracker_in(store)
    with pytest.raises(type(error)) as caught, tracker:
        raise error
    assert caught.value is error
    assert status(store, tracker.run_id) == expected


def test_metrics_before_an_error_are_kept(store):
    class Breaks(Callback):
        def on_step(self, report):
            if report.step == 3:
                raise ValueError("no")

    tracker = tracker_in(store)
    with pytest.raises(ValueError, match="no"), tracker:
        trainer_for(tracker, Breaks()).run()
    history = store.client.get_metric_history(tracker.run_id, "train/loss")
    assert [m.step for m in history] == [1, 2, 3]


def test_store_failure_does_not_hide_the_training_error(store, database):
    class Breaks(Callback):
        def on_step(self, report):
            break_store(database)
            raise ValueError("the first")

    tracker = tracker_in(store)
    with pytest.raises(ValueError, match="the first"), tracker:
        trainer_for(tracker, Breaks()).run()


def test_store_failure_is_reported_in_one_line(store, database):
    with pytest.raises(UserError, match="could not be closed") as caught, tracker_in(store):
        break_store(database)
    assert "\n" not in str(caught.value)


def test_run_with_refused_metrics_is_closed_as_failed(store):
    tracker = tracker_in(store)
    with pytest.raises(UserError, match="could not be closed"), tracker:
        tracker._metrics.add(1, {"no [such] name": 1.0})
    assert status(store, tracker.run_id) == "FAILED"


def test_signal_handlers_are_restored_after_a_run(store, database):
    before = handlers()
    with tracker_in(store):
        assert handlers() != before
    assert handlers() == before
    break_store(database)
    with pytest.raises(Exception, match="not a database"):
        tracker_in(store).__enter__()
    assert handlers() == before


def test_signal_during_closing_is_deferred(store):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore it by default

    class Interrupted(MetricBuffer):
        def flush(self):
            signal.raise_signal(signal.SIGINT)
            super().flush()

    tracker = tracker_in(store)
    with pytest.raises(KeyboardInterrupt), tracker:
        tracker._metrics = Interrupted(store.client, tracker.run_id)
    assert status(store, tracker.run_id) == "FINISHED"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_during_creation_of_a_sweep_run_ends_that_run(store, number):
    made = []

    def begin():
        made.append(store.client.create_run(store.experiment_id).info)
        signal.raise_signal(number)
        return made[0]

    with (
        pytest.raises(KeyboardInterrupt if number == signal.SIGINT else SystemExit),
        parent_run.opened(store, "sweep", begin, lambda info, error: "FINISHED"),
    ):
        raise AssertionError("the sweep began")
    assert status(store, made[0].run_id) == "KILLED"
    assert PARENT not in os.environ


@pytest.fixture
def later(store, tmp_path, monkeypatch):
    """Return a function that trains within a parent run, and another that gives the names of a run's artifacts."""
    monkeypatch.setenv("NL_OUTPUT", str(tmp_path / "out"))

    def train(**when):
        with MLflowTracker(store, {"a": 1}, "a run", "a: 1\n", **when) as tracker:
            trainer_for(tracker, max_steps=2).run()
        return tracker.run_id

    def files(run_id):
        return {item.path for item in store.client.list_artifacts(run_id)}

    return train, files


def sweep_in(store):
    begin = lambda: store.client.create_run(store.experiment_id).info  # noqa: E731
    return parent_run.opened(store, "sweep", begin, lambda info, error: "FINISHED")


@pytest.mark.parametrize("error", [None, KeyboardInterrupt(), ValueError("the next job fails")], ids=repr)
def test_postponed_pictures_and_model_are_made_however_the_sweep_ends(store, later, tmp_path, error):
    train, files = later
    with pytest.raises(type(error)) if error else nullcontext(), sweep_in(store):
        run_id = train(pictures="later", model="later")
        assert not any(name.endswith(".png") for name in files(run_id))
        assert not store.client.get_run(run_id).outputs.model_outputs
        if error:
            raise error
    assert {"learning_curves.png", "confusion_matrix.png", "worst_mistakes.png"} <= files(run_id)
    (output,) = store.client.get_run(run_id).outputs.model_outputs
    model = store.client.get_logged_model(output.model_id)
    scores = {f"final/{name}" for name in ("test_acc", "test_loss", "precision", "recall", "f1", "top5_acc")}
    assert {m.key for m in model.metrics} == {*scores, "seconds"}
    assert not any((tmp_path / "out" / "outputs" / "unfinished").iterdir())


def test_pictures_and_model_are_made_at_once_without_a_sweep_or_never(store, later):
    train, files = later
    alone, bare = train(pictures="later", model="later"), train(pictures="never", model="never")
    assert "learning_curves.png" in files(alone)
    assert files(bare) == {"classes.csv", "config.yaml", "packages.txt", "summary.txt", "weights"}
    assert not store.client.get_run(bare).outputs.model_outputs


def test_what_cannot_be_made_fails_the_sweep_and_is_made_when_it_is_resumed(store, later, tmp_path):
    train, files = later
    with refused("could not be made", "sweep.resume=", "tries again"), sweep_in(store) as parent:
        first, second = (train(pictures="later", model="never") for _ in range(2))
        results = tmp_path / "out" / "outputs" / "unfinished" / first / "results.safetensors"
        whole = results.read_bytes()
        results.write_bytes(whole[:100])
    assert status(store, parent.run_id) == "FAILED"
    assert "learning_curves.png" in files(second) - files(first)
    results.write_bytes(whole)
    with parent_run.opened(store, "sweep", lambda: parent, lambda info, error: "FINISHED"):
        pass
    assert "learning_curves.png" in files(first)


@pytest.mark.parametrize("expected", ["FINISHED", "FAILED", "KILLED"])
def test_sweep_run_has_the_status_of_its_jobs(store, expected):
    def begin():
        return store.client.create_run(store.experiment_id).info

    with parent_run.opened(store, "sweep", begin, lambda info, error: expected) as info:
        assert status(store, info.run_id) == "RUNNING"
    assert status(store, info.run_id) == expected


def test_mlflow_run_id_variable_is_ignored(store, monkeypatch):
    other = store.client.create_run(store.experiment_id).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", other)
    with tracker_in(store) as tracker:
        trainer_for(tracker, max_steps=2).run()
    assert tracker.run_id != other
    assert store.client.get_run(other).data.metrics == {}
    assert status(store, other) == "RUNNING"


def test_long_and_unusual_parameters_fit_mlflows_limits(store):
    config = {
        "text": "x" * 7000,
        "odd[key]=": 1,
        "list": [1, {"a": None}],
        "empty": {},
        **{f"k{i}": i for i in range(250)},
    }
    with tracker_in(store, config) as tracker:
        pass
    params = store.client.get_run(tracker.run_id).data.params
    assert len(params) == 255
    assert params["text"] == "x" * 6000
    assert (params["odd_key__"], params["list.0"], params["list.1.a"], params["empty"]) == ("1", "1", "None", "{}")


def test_metrics_are_buffered_while_the_server_is_down(store, monkeypatch):
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    run_id = store.client.create_run(store.experiment_id).info.run_id
    buffer = MetricBuffer(MlflowClient(f"http://127.0.0.1:{free_port()}"), run_id)
    begun = time.monotonic()
    for step in range(BATCH + 500):
        buffer.add(step, {"a": step})
    assert time.monotonic() - begun < 5  # one attempt, not one per step
    with pytest.raises(MlflowException):
        buffer.flush()
    buffer._client = store.client  # the server is up again
    buffer.flush()
    assert len(store.client.get_metric_history(run_id, "a")) == BATCH + 500


def test_run_changes_neither_the_network_nor_mlflows_global_state(store):
    import mlflow

    before = mlflow.get_tracking_uri()
    with tracker_in(store) as tracker:
        trainer = trainer_for(tracker, epochs=3)
        result = trainer.run()
        last = trainer.net.state_dict()
    assert mlflow.get_tracking_uri() == before != store.uri
    assert mlflow.active_run() is None
    saved = load_state(tracker_file(store, tracker, "weights/final.safetensors"))
    assert all(np.array_equal(saved[key], last[key]) for key in last)
    best = load_state(tracker_file(store, tracker, "weights/best.safetensors"))
    trainer.net.load_state_dict(best)
    assert trainer.net.accuracy(trainer.data.test.x, trainer.data.test.t) == result.test_accuracy


def tracker_file(store, tracker, name):
    uri = store.client.get_run(tracker.run_id).info.artifact_uri
    return Path(uri.removeprefix("file://")) / name


def test_logged_model_has_the_final_metrics_and_is_ready(store):
    with tracker_in(store) as tracker:
        result = trainer_for(tracker, epochs=2).run()
    run = store.client.get_run(tracker.run_id)
    (output,) = run.outputs.model_outputs
    model = store.client.get_logged_model(output.model_id)
    assert model.status == "READY"
    assert model.name == "model"
    figures = {metric.key: (metric.value, metric.step) for metric in model.metrics}
    assert figures["final/test_acc"] == (result.test_accuracy, result.steps)
    assert "train/loss" not in figures  # by default, MLflow shows those of the first step
    history = store.client.get_metric_history(tracker.run_id, "final/test_acc")
    assert [(m.value, m.step) for m in history] == [(result.test_accuracy, result.steps)]


def test_stopped_server_is_reported_immediately():
    begun = time.monotonic()
    port = free_port()
    with pytest.raises(UserError, match=f"no MLflow server answers at http://127.0.0.1:{port}") as caught:
        Store.open(f"http://127.0.0.1:{port}", "x")
    assert time.monotonic() - begun < 2
    assert "\n" not in str(caught.value)


def test_hanging_server_times_out_after_two_seconds():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        begun = time.monotonic()
        with pytest.raises(UserError, match="no MLflow server answers"):
            Store.open(f"http://127.0.0.1:{silent.getsockname()[1]}", "x")
        assert 1.5 < time.monotonic() - begun < 5


@pytest.mark.parametrize("address", ["nonsense://x", "sqlite:////proc/no/mlflow.db"])
def test_unusable_store_is_reported_in_one_line(address):
    with pytest.raises(UserError, match="cannot be used") as caught:
        Store.open(address, "x")
    assert "\n" not in str(caught.value)


def test_damaged_database_is_reported_in_one_line(tmp_path):
    break_store(tmp_path / "mlflow.db")
    with pytest.raises(UserError, match="cannot be used") as caught:
        Store.open(f"sqlite:///{tmp_path}/mlflow.db", "x")
    assert "\n" not in str(caught.value)


def test_deleted_experiment_is_named_with_the_fix(store):
    store.client.delete_experiment(store.experiment_id)
    with pytest.raises(UserError, match=rf"'test' is deleted.*restore -x {store.experiment_id}"):
        Store.open(store.uri, "test")


def points(store, run_id, key="a"):
    return [(m.step, m.value, m.timestamp) for m in store.client.get_metric_history(run_id, key)]


def test_only_metrics_covered_by_a_checkpoint_are_sent_and_only_once(store, monkeypatch):
    from nl_training.tracking import metrics

    monkeypatch.setattr(metrics, "SECONDS", 0.0)
    run_id = store.client.create_run(store.experiment_id).info.run_id
    buffer = MetricBuffer(store.client, run_id)
    for step in (1, 2, 3):
        buffer.add(step, {"a": 0.1 * step, "b": step})
    saved = buffer.state()
    buffer.add(4, {"a": 0.4})
    assert points(store, run_id) == []
    buffer.mark_saved(saved[1]["made"])
    buffer.add(5, {"a": 0.5})
    first = points(store, run_id)
    assert [step for step, _, _ in first] == [1, 2, 3]
    # The process ends here; the next one resumes from the checkpoint and repeats steps 4 and 5.
    again = MetricBuffer(store.client, run_id)
    again.load_state(*saved)
    for step in (4, 5):
        again.add(step, {"a": 0.1 * step})
    again.flush()
    assert points(store, run_id)[:3] == first
    assert [(step, round(value, 9)) for step, value, _ in points(store, run_id)] == [
        (step, round(0.1 * step, 9)) for step in range(1, 6)
    ]
    assert len(points(store, run_id, "b")) == 3


def test_metrics_beyond_the_checkpoint_are_not_sent_twice(store):
    run_id = store.client.create_run(store.experiment_id).info.run_id
    failed = MetricBuffer(store.client, run_id)
    failed.add(1, {"a": 1.0})
    failed.flush()  # like a failed run, whose checkpoint may be older
    time.sleep(0.01)
    again = MetricBuffer(store.client, run_id, known={("a", 1)})
    for step in (1, 2):
        again.add(step, {"a": float(step)})
    again.flush()
    assert [(step, value) for step, value, _ in points(store, run_id)] == [(1, 1.0), (2, 2.0)]


def test_running_and_dead_processes_of_runs_are_distinguished():
    import subprocess
    import sys

    from nl_training.tracking.process import is_alive, is_here, this_process

    mine = this_process()
    assert is_here(mine)
    assert is_alive(mine)
    host, pid, began = mine.rsplit(" ", 2)
    assert not is_alive(f"{host} {pid} {float(began) - 60}")  # the PID belonged to another process before
    assert not is_here(f"elsewhere {pid} {began}")
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    import psutil

    theirs = f"{host} {child.pid} {psutil.Process(child.pid).create_time()}"
    assert is_alive(theirs)
    child.kill()
    while psutil.Process(child.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    assert not is_alive(theirs)  # dead, though its exit code has not been read
    child.communicate()
    assert not is_alive(theirs)
