"""Errors on the command line: at most three lines that name the cause, exit code 1, no traceback."""

import gzip
import importlib.util
import struct
import subprocess
from pathlib import Path

import pytest
from support.scripts import python
from support.scripts import run_script as run
from support.stores import empty_store

from nl_nodes import UserError
from nl_training.commands.train import refuse_ignored
from nl_training.config.cli import check


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 1, done
    lines = done.stderr.strip().splitlines()
    assert 1 <= len(lines) <= 3, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    for word in words:
        assert word in done.stderr, done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["model=vgg61"], ["vgg61", "vgg16?"]),
        (["model=null"], ["model=null", "vgg16"]),
        (["experiment="], ["experiment=", "race"]),
        (["optimiser=adam"], ["optimiser", "optimizer?"]),
        (["epochs=3"], ["epochs=3", "did you mean trainer.epochs?"]),
        (["optimizer.lrr=0.1"], ["optimizer.lrr", "optimizer.lr?"]),
        (["+optimizer.lrr=0.1"], ["optimizer.lrr", "optimizer.lr?"]),
        (["optimizer.lr=fast"], ["optimizer.lr=fast", "above 0"]),
        (["optimizer.lr=0"], ["optimizer.lr=0", "above 0"]),
        (["optimizer.lr=nan"], ["optimizer.lr=nan"]),
        (["optimizer._target_=os.system"], ["os.system"]),
        (["optimizer.beta1=1"], ["optimizer.beta1=1"]),
        (["regularization.dropout=1"], ["regularization.dropout=1"]),
        (["regularization.dropout=-0.1"], ["regularization.dropout=-0.1"]),
        (["regularization.batch_norm=sometimes"], ["sometimes", "before_affine"]),
        (["trainer.epochs=1.5"], ["trainer.epochs=1.5", "whole number"]),
        (["trainer.epochs=0"], ["trainer.epochs=0"]),
        (["trainer.batch_size=0"], ["trainer.batch_size=0"]),
        (["trainer.max_steps=-1"], ["trainer.max_steps=-1"]),
        (["data.validation=1"], ["data.validation=1"]),
        (["model.width=2"], ["model.width=2"]),
        (["model.init=-1"], ["model.init=-1"]),
        (["device.dtype=float16"], ["float16", "float64"]),
        (["seed=-1"], ["seed=-1"]),
        (["experiment=lr_range", "experiment.constant=[]"], ["experiment.constant=[]", "one value or more"]),
        (["experiment=lr_range", "experiment.low=10"], ["experiment.low=10", "below experiment.high=10"]),
        (["experiment=edge_of_stability", "experiment.rates=[]"], ["experiment.rates=[]", "one value or more"]),
        (["model=mlp,cnn3"], ["-m"]),
        (["a=[1,"], ["a=[1,"]),
        (["~model"], ["~model"]),
        (["-m", "model=mlp,cnn33"], ["cnn33", "cnn3?"]),
        (["-m", "optimizer.lr=0.1,0"], ["optimizer.lr=0"]),
        (["hydra.sweep.dirr=x"], ["hydra.sweep.dirr=x", "hydra.sweep.dir?"]),
        (["+hydra.foo=1"], ["+hydra.foo=1", "hydra.job?"]),
        (["hydra=foo"], ["hydra=foo"]),
        (["hydra.a.b.c=1"], ["hydra.a.b.c=1"]),
        (["hydra.sweep=x"], ["hydra.sweep=x", "group"]),
        (["hydra.run.dir=${nope}"], ["hydra.run.dir", "nope"]),
        (["hydra.sweep.subdir=${nope}"], ["hydra.sweep.subdir", "nope"]),
        (["hydra.run.dir=null"], ["hydra.run.dir=null", "not Optional"]),
        (["~hydra.sweep"], ["~hydra.sweep"]),
        (["hydra.mode=MULTIRUN"], ["hydra.mode=MULTIRUN", "-m"]),
        (["hydra.sweeper.params={seed:'0,1'}"], ["hydra.sweeper.params", "-m"]),
        (["hydra/launcher=jobib"], ["hydra/launcher=jobib", "joblib?"]),
        (["hydra/launcherr=joblib"], ["hydra/launcherr", "hydra/launcher?"]),
        (["-m", "hydra/launcher=basic,joblib"], ["hydra/launcher", "one value"]),
        (["hydra.launcher.n_jobs=2"], ["hydra.launcher.n_jobs", "hydra/launcher=NAME"]),
        (["hydra/launcher=joblib", "hydra.launcher.n_jobz=2"], ["hydra.launcher.n_jobz", "hydra.launcher.n_jobs?"]),
        (["hydra/launcher=joblib", "hydra.launcher.n_jobs=two"], ["hydra.launcher.n_jobs=two", "Integer"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_invalid_config_is_refused(arguments: list[str], words: list[str]) -> None:
    with pytest.raises(UserError) as error:
        check([a for a in arguments if a != "-m"], multirun="-m" in arguments)
    assert len(str(error.value).splitlines()) == 1
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize(
    "overrides",
    [
        ["hydra.run.dir=x", "hydra.sweep.dir=y", "+hydra.job.env_set.FOO=1"],
        ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
    ],
)
def test_hydra_config_can_be_overridden(overrides: list[str]) -> None:
    check(overrides, multirun=True)


def test_invalid_config_on_the_command_line_is_refused(tmp_path: Path) -> None:
    refused(run("train.py", "model=vgg61", cwd=tmp_path), "error: ")
    assert not list(tmp_path.iterdir())


def test_missing_data_folder_is_refused(tmp_path: Path) -> None:
    refused(run("train.py", "data=mnist", "data.root=nowhere", cwd=tmp_path), "nowhere")


def test_truncated_idx_file_is_refused(tmp_path: Path) -> None:
    header = struct.pack(">IIII", 0x803, 60000, 28, 28)
    names = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    for name in names:
        (tmp_path / f"{name}-ubyte.gz").write_bytes(gzip.compress(header + bytes(100)))
    refused(run("train.py", "data=mnist", f"data.root={tmp_path}", cwd=tmp_path), "train-images-idx3-ubyte")


def test_file_that_is_not_an_image_is_refused(tmp_path: Path) -> None:
    for name in ("cats", "dogs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "one.png").write_text("no picture")
    refused(run("train.py", "data=images", f"data.root={tmp_path}", cwd=tmp_path), "one.png")
    refused(run("predict.py", "run=latest", cwd=tmp_path, start=python), "files")


def test_a_map_that_becomes_empty(tmp_path: Path) -> None:
    refused(run("train.py", "model=vgg16", "data=digits", cwd=tmp_path), "vgg16", "(1, 8, 8)")


@pytest.mark.skipif(importlib.util.find_spec("cupy") is not None, reason="CuPy is installed here")
def test_device_gpu_without_a_gpu_is_refused(tmp_path: Path) -> None:
    refused(run("train.py", "model=vgg16", "device=gpu", cwd=tmp_path), "CuPy", "device=cpu")


def test_unknown_run_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", empty_store(tmp_path))
    refused(run("evaluate.py", "run=nothing", cwd=tmp_path), "run=nothing")
    refused(run("evaluate.py", cwd=tmp_path, start=python), "run=ID")


def test_unreachable_server_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    refused(run("train.py", "model=mlp", "data=digits", cwd=tmp_path), "http://127.0.0.1:9", "tracking=off")


def test_help_lists_all_options(tmp_path: Path) -> None:
    done = run("train.py", "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for word in ("vgg16", "batch_norm", "-m model=mlp,cnn3", "optimizer.lr=0.1", "momentum"):
        assert word in done.stdout


def test_help_explains_every_key_of_the_chosen_options(tmp_path: Path) -> None:
    done = run("train.py", "--help", "model=two_layer", "optimizer=adamw", "experiment=overfit_dropout", cwd=tmp_path)
    lines = done.stdout.splitlines()
    assert "  lr: 0.01 # learning rate, above 0; the schedule scales it" in lines
    assert (
        "  weight_decay: ${regularization.weight_decay} # decoupled weight decay instead of a penalty, 0 or more"
        in lines
    )
    assert "  activation: sigmoid # relu, sigmoid or tanh" in lines  # from mlp.yaml, which two_layer.yaml builds on
    assert any(line.startswith("  resume: null # with -m: a sweep's ID") for line in lines)
    assert any(line.startswith("  ancestral: dropout 0.2 # trained again") for line in lines)


def test_tf32_is_refused_without_a_gpu(tmp_path: Path) -> None:
    refused(
        run("train.py", "model=mlp", "data=digits", "device.tf32=true", cwd=tmp_path),
        "device.tf32",
        "device=gpu",
    )


@pytest.mark.parametrize("option", ["trainer.checkpoint_every_steps=5", "trainer.profile=true"])
def test_options_of_logged_runs_are_refused_without_tracking(option: str) -> None:
    asked = ["model=mlp", "data=digits", "tracking=off", option]
    with pytest.raises(UserError, match=f"{option.partition('=')[0]} needs tracking=mlflow"):
        refuse_ignored(check(asked, multirun=False))


def test_a_curve_that_nothing_logs_is_refused() -> None:
    asked = ["model=mlp", "data=digits", "tracking=off", "trainer.curvature_every=5"]
    with pytest.raises(UserError, match=r"trainer.curvature_every needs tracking=mlflow or tracking.files"):
        refuse_ignored(check(asked, multirun=False))
    refuse_ignored(check([*asked, "tracking.files=csv"], multirun=False))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["resume=latest"], ["resume=latest", "no unfinished training"]),
        (["resume=nothing", "seed=1"], ["seed=1", "trainer.max_steps"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_resume_of_an_unknown_run_or_with_fixed_options_is_refused(
    arguments: list[str], words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", empty_store(tmp_path))
    refused(run("train.py", *arguments, cwd=tmp_path), *words)
