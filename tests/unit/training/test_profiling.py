"""The profile of a network among a run's artifacts: a table, totals and a plot; training is unchanged."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from mlflow import MlflowClient
from support.scripts import run_script
from support.stores import empty_store

from nl_models import Network, cnn3
from nl_nodes import Device
from nl_training.viz.profile import artifacts, profile_network

rng = np.random.default_rng(0)
X, T = rng.standard_normal((6, 1, 28, 28)), rng.integers(0, 10, 6)


def network(compiled: bool) -> Network:
    return cnn3(width=8, batch_norm=True, dropout=0.3, device=Device(compile=compiled, threads=1))


@pytest.mark.parametrize(("compiled", "node"), [(True, "Convolution 1/Conv"), (False, "Convolution 1/Dot")])
def test_profile_artifacts_have_every_node_and_the_total(compiled: bool, node: str) -> None:
    files = artifacts(network(compiled), X, T)
    assert list(files) == ["profile/profile.txt", "profile/profile.json", "profile/profile.png"]
    text, figures, picture = files.values()
    assert node in text
    rows = json.loads(figures)["rows"]
    (mine,) = (row for row in rows if (row["path"], row["direction"]) == (node, "forward"))
    assert mine["flops"] == 2 * 6 * 24 * 24 * 25 * 4
    total = next(line for line in reversed(text.splitlines()) if "│ all " in line)
    assert f"{sum(row['flops'] for row in rows) / 1e6:,.2f}" in total
    assert f"{sum(row['calls'] for row in rows):,}" in total
    assert "100.0%" in total
    axis = picture.axes[0]
    bars = sum(bar.get_width() for bar in axis.patches)
    assert bars == pytest.approx(sum(row["seconds"] for row in rows) * 1e3)
    assert [t.get_text() for t in axis.get_legend().get_texts()] == ["forward", "backward"]


@pytest.mark.parametrize("compiled", [True, False])
def test_profiling_does_not_change_training(compiled: bool) -> None:
    one, two = network(compiled), network(compiled)
    for net in (one, two):
        net.step(X, T)
    state = one.state_dict()
    profile_network(one, X, T, repeats=1)
    for name, value in one.state_dict().items():
        np.testing.assert_array_equal(value, state[name])
    np.testing.assert_array_equal(one.gradient(X, T).flat, two.gradient(X, T).flat)


def test_training_logs_its_profile_if_requested(tmp_path: Path) -> None:
    uri = empty_store(tmp_path)
    asked = ["model=two_layer", "data=digits", "verify=off", "trainer.epochs=1", "trainer.profile=true"]
    done = run_script("train.py", *asked, env={**os.environ, "MLFLOW_TRACKING_URI": uri})
    assert done.returncode == 0, done.stderr
    client = MlflowClient(tracking_uri=uri)
    (run,) = client.search_runs([e.experiment_id for e in client.search_experiments()])
    logged = Path(client.download_artifacts(run.info.run_id, "profile", str(tmp_path)))
    assert "Affine 1/Affine" in (logged / "profile.txt").read_text()
    assert "64 images" in json.loads((logged / "profile.json").read_text())["title"]
    assert imread(logged / "profile.png").std() > 0
