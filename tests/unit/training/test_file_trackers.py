"""Metrics as CSV and for TensorBoard: the same as MLflow's; a resumed training has each once."""

import csv
import struct
import sys
from pathlib import Path

import pytest
from support.assertions import refused
from support.stores import empty_store
from support.sweeps import watch

from nl_layers.optimizers import Adam
from nl_layers.schedules import Constant
from nl_models import build
from nl_nodes import Device
from nl_training.commands import train
from nl_training.config.cli import composed
from nl_training.data import load
from nl_training.tracking.files import CSVTracker
from nl_training.training.callbacks import Callback
from nl_training.training.checkpoint import Checkpoints
from nl_training.training.snapshot import restore
from nl_training.training.trainer import Trainer, TrainOptions

SMALL = ["model=mlp", "data=digits", "data.limit=300", "trainer.epochs=2", "verify=off", "device.threads=1"]

Points = dict[tuple[str, int], float]


def points(file: Path) -> Points:
    with file.open(newline="") as lines:
        rows = [(row["metric"], int(row["step"]), float(row["value"])) for row in csv.DictReader(lines)]
    found = {(name, step): value for name, step, value in rows}
    assert len(found) == len(rows)  # each once
    return found


def scalars(file: Path) -> Points:
    """Read an event file: records of length, checksum, event, checksum."""
    from tensorboardX.proto.event_pb2 import Event

    data, found = file.read_bytes(), {}
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        event, data = Event.FromString(data[12 : 12 + length]), data[16 + length :]
        found |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
    return found


def timeless(found: Points) -> Points:
    return {key: value for key, value in found.items() if key[0] != "seconds" and not key[0].startswith("system/")}


def test_each_tracker_has_the_metrics_of_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NL_OUTPUT", str(tmp_path))
    uri = empty_store(tmp_path)
    train.train(*composed([*SMALL, f"tracking.uri={uri}", "tracking.files=csv"]))
    (folder,) = tmp_path.glob("outputs/csv/*")
    found = timeless(points(folder / "metrics.csv"))
    client = watch(uri)
    histories = [client.get_metric_history(folder.name, key) for key in client.get_run(folder.name).data.metrics]
    assert timeless({(m.key, m.step): m.value for history in histories for m in history}) == found
    assert {"final/precision", "final/recall", "final/f1", "final/top5_acc"} <= {name for name, _ in found}
    logged = Path(client.download_artifacts(folder.name, "classes.csv", str(tmp_path))).read_text()
    assert (folder / "classes.csv").read_text() == logged
    assert "limit: 300" in (folder / "config.yaml").read_text()

    train.train(*composed([*SMALL, "tracking=tensorboard"]))
    (events,) = tmp_path.glob("outputs/tensorboard/*/events.*")
    shown = timeless(scalars(events))
    assert shown.keys() == found.keys()
    assert all(shown[key] == pytest.approx(value, rel=1e-6) for key, value in found.items())


def test_a_resumed_training_has_each_row_once(tmp_path: Path) -> None:
    data = load("digits", limit=300)

    class Fails(Callback):
        def on_step(self, report) -> None:
            if report.step == 5:
                raise ValueError("killed here")

    def trained(folder: Path, checkpoints: Checkpoints | None, *callbacks: Callback) -> Points:
        net = build("mlp", input_shape=data.input_shape, hidden=[8], device=Device(threads=1))
        options = TrainOptions(epochs=2, batch_size=100)
        folder.mkdir(exist_ok=True)
        with CSVTracker(folder, "") as tracker:
            both = [tracker, *callbacks]
            made = Trainer(net, Adam(0.01), Constant(), data, options, callbacks=both, checkpoints=checkpoints)
            if checkpoints and (newest := checkpoints.newest()):
                assert newest.facts["step"] in (2, 3, 4)  # 3 has the best weights of epoch 1
                restore(made, newest)
            made.run()
        return timeless(points(folder / "metrics.csv"))

    whole = trained(tmp_path / "whole", None)
    with Checkpoints(tmp_path / "checkpoints", every_steps=2) as checkpoints:
        with pytest.raises(ValueError, match="killed here"):
            trained(tmp_path / "cut", checkpoints, Fails())
        checkpoints.collect(wait=True)
        assert ("train/loss", 5) in points(tmp_path / "cut" / "metrics.csv")
        assert trained(tmp_path / "cut", checkpoints) == whole


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with refused("needs the package tensorboardX", "python -m pip install -c constraints.txt tensorboardX"):
        train.train(*composed([*SMALL, "tracking=tensorboard"]))
