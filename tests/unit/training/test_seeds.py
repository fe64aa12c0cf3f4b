"""Results over several seeds, from runs of a real store."""

from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from support.stores import empty_store

from nl_training.tracking.parent_page import axes
from nl_training.tracking.seeds import lines, settings, table

VALUES = {  # by optimizer.lr, then by seed: validation and test accuracy
    "0.1": {"0": (0.90, 0.91), "1": (0.94, 0.93), "2": (0.92, 0.95)},
    "0.2": {"0": (0.95, 0.94), "1": (0.97, 0.95)},
}


@pytest.fixture
def runs(tmp_path: Path) -> list:
    client = MlflowClient(tracking_uri=empty_store(tmp_path))
    experiment = client.create_experiment("seeds")

    def add(lr: str, seed: str, metrics: list[Metric], status: str = "FINISHED") -> None:
        run_id = client.create_run(experiment, run_name=f"mlp lr={lr} seed={seed}").info.run_id
        params = [Param("optimizer.lr", lr), Param("seed", seed), Param("data.name", "digits")]
        params.append(Param("sweep.resume", "latest" if seed == "1" else "None"))  # the sweep was resumed
        client.log_batch(run_id, metrics=metrics, params=params)
        client.set_terminated(run_id, status)

    for lr, seeds in VALUES.items():
        for seed, (val, test) in seeds.items():
            add(lr, seed, [Metric("best/val_acc", val, 0, 0), Metric("final/test_acc", test, 0, 0)])
    add("0.1", "3", [Metric("best/val_acc", 1.0, 0, 0)], "FAILED")
    return list(client.search_runs([experiment]))


def test_mean_spread_and_paired_differences(runs: list) -> None:
    best, other = settings(runs)
    assert (best.name, other.name) == ("mlp lr=0.2", "mlp lr=0.1")
    assert other.mean == pytest.approx(0.93)
    assert other.spread == pytest.approx(0.02)  # standard deviation of 0.91, 0.93, 0.95
    # Paired by seeds 0 and 1: 0.91 - 0.94 and 0.93 - 0.95.
    assert other.difference(best) == (pytest.approx(-0.025), pytest.approx(0.005), 2)
    assert best.difference(best) == (0.0, 0.0, 2)
    rows = table([best, other])
    assert rows["seeds"] == [2, 3]
    assert rows["paired difference"] == [0.0, pytest.approx(-0.025)]
    assert any("paired -0.0250 ± 0.0050 (2)" in line for line in lines([best, other]))


def test_charts_have_axes_for_the_params_in_which_all_runs_differ(runs: list) -> None:
    finished = [run for run in runs if run.info.status == "FINISHED"]
    assert axes(["optimizer", "optimizer.lr", "data", "seed"], finished) == ["optimizer.lr", "seed"]
    for run in finished:
        run.data.params["optimizer.name"] = "sgd" if run.data.params["seed"] == "0" else "adam"
    assert axes(["optimizer", "seed"], finished) == ["optimizer.name", "seed"]
    del finished[0].data.params["optimizer.name"]
    assert axes(["optimizer", "seed"], finished) == ["optimizer.lr", "seed"]


def test_one_seed_per_setting_gives_no_statistics(runs: list) -> None:
    assert settings([run for run in runs if run.data.params["seed"] == "0"]) == []


def test_settings_with_equal_names_are_distinguished(runs: list) -> None:
    for run in runs:
        run.info._run_name = "mlp"
        run.data.params["data.name"] = run.data.params.pop("optimizer.lr")
    assert {one.name for one in settings(runs)} == {"mlp data.name=0.1", "mlp data.name=0.2"}


def test_a_single_seed_has_no_spread(runs: list) -> None:
    shorter = [run for run in runs if (run.data.params["optimizer.lr"], run.data.params["seed"]) != ("0.2", "1")]
    one, three = lines(settings(shorter))[2:]
    assert one.split() == ["0.9400", "mlp", "lr=0.2"]
    assert three.split()[:3] == ["0.9300", "±", "0.0200"]
    assert three.split()[-3:] == ["paired", "-0.0300", "(1)"]


def test_optimizers_with_the_same_numbers_are_two_settings(runs: list) -> None:
    for run in runs:
        run.data.params["optimizer.name"] = {"0.1": "momentum", "0.2": "nesterov"}[run.data.params["optimizer.lr"]]
        run.data.params["optimizer.lr"] = "0.1"
    assert [len(setting.test) for setting in settings(runs)] == [2, 3]
