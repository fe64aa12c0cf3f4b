"""A run on colour images: normalisation per channel, pictures, evaluation, prediction, export, conversion of others."""

import json
import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from PIL import Image
from support.archives import cifar_files, colours, put, small_cifar
from support.stores import empty_store

from nl_training.commands import train
from nl_training.config.cli import composed
from nl_training.data import READERS
from nl_training.data.pixels import PixelFormat
from nl_training.viz import plots

SCRIPTS = Path(__file__).resolve().parents[3] / "scripts"
SMALL = [
    "model=mlp",
    "model.hidden=[50]",
    "device.threads=1",
    "trainer.epochs=5",
    "trainer.batch_size=20",
    "verify=off",
]

Script = Callable[..., str]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("colour")


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[MlflowClient]:
    """The store of a run on an archive in CIFAR-10's form; its URI is in the environment for this module's tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", empty_store(folder))
        patch.setenv("NL_OUTPUT", str(folder / "outputs"))
        small, data = small_cifar(cifar_files(per_batch=60))
        put(folder / "data", {small.archive.name: data})
        patch.setitem(READERS, "cifar10", small.load)
        train.train(*composed([*SMALL, "data=cifar10", f"data.root={folder}/data"]))
        yield MlflowClient(tracking_uri=f"sqlite:///{folder}/runs.db")


@pytest.fixture
def run_id(client: MlflowClient) -> str:
    (run,) = client.search_runs([e.experiment_id for e in client.search_experiments()])
    return run.info.run_id


@pytest.fixture
def script(client: MlflowClient, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Script:
    """Return a function that runs a script in this process and returns its output."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(name: str, *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", [name, "run=latest", *map(str, arguments)])
        capsys.readouterr()
        runpy.run_path(str(SCRIPTS / name), run_name="__main__")
        return capsys.readouterr().out

    return run


def accuracy(out: str) -> float:
    return float(out.partition("test accuracy ")[2].partition(",")[0])


def test_run_learns_and_records_format_and_scaling_of_each_channel(client: MlflowClient, run_id: str) -> None:
    run = client.get_run(run_id)
    assert run.data.metrics["final/test_acc"] > 0.9
    spec = json.loads(Path(client.download_artifacts(run_id, "weights/network.json")).read_text())
    assert PixelFormat.from_json(spec["pixels"]).shape == (3, 32, 32)
    x = np.concatenate([colours(60, 10, seed)[0] for seed in range(2)]).astype(float)
    means = spec["mean"]
    np.testing.assert_allclose(means, x.mean(axis=(0, 2, 3)), atol=6)
    assert len(set(means)) == 3
    assert "153,650" in Path(client.download_artifacts(run_id, "summary.txt")).read_text()  # 3 x 32 x 32 x 50 + 50


def test_evaluation_gives_the_runs_accuracy_and_class_names(script: Script, client: MlflowClient, run_id: str) -> None:
    out = script("evaluate.py")
    assert accuracy(out) == pytest.approx(client.get_run(run_id).data.metrics["final/test_acc"], abs=1e-4)
    assert "airplane" in out
    assert "on 60 images" in out


def pictures(folder: Path, count: int = 10) -> list[Path]:
    """Test images as PNG files, twice as large."""
    x, t = colours(count, 10, seed=2)
    paths = []
    for image, label in zip(x, t, strict=True):
        paths.append(folder / f"{label}.png")
        Image.fromarray(image.transpose(1, 2, 0)).resize((64, 64), Image.Resampling.NEAREST).save(paths[-1])
    return paths


def test_picture_files_are_predicted_in_colour(script: Script, folder: Path) -> None:
    small, _ = small_cifar(cifar_files())
    out = script("predict.py", *pictures(folder))
    rows = [line.split("│") for line in out.splitlines() if ".png" in line and "│" in line]
    right = [small.classes[int(row[1].strip()[-5])] == row[2].strip() for row in rows]
    assert len(right) == 10
    assert np.mean(right) > 0.8
    assert "inverted" not in out


def test_exported_network_scales_each_channel(script: Script) -> None:
    from onnxruntime import InferenceSession

    session = InferenceSession(script("export.py").partition("onnx   ")[2].partition(" (")[0])
    x, t = colours(60, 10, seed=2)
    (logits,) = session.run(None, {session.get_inputs()[0].name: x.astype(np.float32)})
    assert (logits.argmax(axis=1) == t).mean() > 0.9


def evaluated(script: Script, path: Path, x: np.ndarray, t: np.ndarray) -> str:
    """Evaluate the run on images and labels; return the line with accuracy and loss."""
    np.savez(path, x_train=x, t_train=t, x_test=x, t_test=t)
    out = script("evaluate.py", "data=images", f"data.root={path}")
    return next(line for line in out.splitlines() if line.startswith("test accuracy"))


def test_arrays_of_another_range_and_size_are_converted(
    script: Script, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    x, t = colours(60, 10, seed=2)
    large = (x.repeat(2, axis=2).repeat(2, axis=3) / 255).astype(np.float32)
    assert accuracy(evaluated(script, folder / "large.npz", large, t)) > 0.9
    assert "3x32x32, pixels 0 to 1; it is converted to the run's 3x32x32, pixels 0 to 255" in caplog.text


def test_grey_arrays_are_converted_to_equal_channels(
    script: Script, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    x, t = colours(60, 10, seed=2)
    grey = evaluated(script, folder / "grey.npz", x[:, :1], t)
    assert "1x32x32, pixels 0 to 255" in caplog.text
    assert grey == evaluated(script, folder / "equal.npz", x[:, :1].repeat(3, axis=1), t)


def test_rows_of_a_csv_file_are_evaluated_in_colour(script: Script, folder: Path) -> None:
    x, t = colours(60, 10, seed=2)
    rows = np.concatenate([t[:, None], x.reshape(60, -1)], axis=1)
    for name in ("train", "test"):
        (folder / "csv").mkdir(exist_ok=True)
        np.savetxt(folder / f"csv/{name}.csv", rows, fmt="%d", delimiter=",")
    out = script("evaluate.py", "data=csv", f"data.root={folder}/csv", "data.shape=[3,32,32]")
    assert accuracy(out) > 0.9
    assert "matched by their order" in out


def test_worst_mistakes_are_drawn_in_colour() -> None:
    x = np.zeros((2, 3, 4, 5), np.float32)
    x[:, 0] = 1
    figure = plots.worst_mistakes(x, np.array([0, 0]), np.array([[0.1, 0.9], [0.9, 0.1]]), ("red", "blue"))
    drawn = figure.axes[0].images[0].get_array()
    assert drawn.shape == (4, 5, 3)
    np.testing.assert_array_equal(drawn[0, 0], [1, 0, 0])
