"""A run trained on floats from 0 to 1 accepts 8-bit images, arrays of other ranges and sizes, and scans."""

import json
import runpy
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from PIL import Image
from support.assertions import refused
from support.stores import empty_store

from nl_training.commands import train
from nl_training.config.cli import composed
from nl_training.data.embedded import digits
from nl_training.data.pixels import PixelFormat

SCRIPTS = Path(__file__).resolve().parents[3] / "scripts"
SMALL = ["model=mlp", "model.hidden=[50]", "trainer.max_steps=250", "verify=off", "data=images"]

Script = Callable[..., str]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pixels")


@pytest.fixture(scope="module")
def run_id(folder: Path):
    """A run on digits as floats from 0 to 1; its store is set in the environment for this module's tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", empty_store(folder))
        np.savez(folder / "floats.npz", **parts(1 / 16))
        train.train(*composed([*SMALL, f"data.root={folder}/floats.npz"]))
        client = MlflowClient(tracking_uri=f"sqlite:///{folder}/runs.db")
        (run,) = client.search_runs([e.experiment_id for e in client.search_experiments()])
        yield run.info.run_id


@pytest.fixture
def client(folder: Path, run_id: str) -> MlflowClient:
    return MlflowClient(tracking_uri=f"sqlite:///{folder}/runs.db")


@pytest.fixture
def script(run_id: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Script:
    """Return a function that runs a script in this process and returns its output."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(name: str, *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", [name, "run=latest", *map(str, arguments)])
        capsys.readouterr()
        runpy.run_path(str(SCRIPTS / name), run_name="__main__")
        return capsys.readouterr().out

    return run


def parts(scale: float, invert: bool = False) -> dict[str, np.ndarray]:
    source = digits()
    x, t = source.train.x, source.train.t
    x_test, t_test = source.test.x, source.test.t
    if invert:
        x, x_test = 16 - x, 16 - x_test
    return {"x_train": x * scale, "t_train": t, "x_test": x_test * scale, "t_test": t_test}


def pictures(folder: Path, invert: bool = False, n: int = 40) -> list[Path]:
    """Test digits as 8-bit PNG files, three times as large as the run's images."""
    paths = []
    for i, (image, label) in enumerate(zip(digits().test.x[:n, 0], digits().test.t, strict=False)):
        paths.append(folder / f"{i:03d}-{label}.png")
        pixels = np.rint(image / 16 * 255).astype(np.uint8)
        Image.fromarray(255 - pixels if invert else pixels).resize((24, 24), Image.Resampling.NEAREST).save(paths[-1])
    return paths


def right(out: str) -> float:
    rows = [line.split("│") for line in out.splitlines() if ".png" in line and "│" in line]
    return float(np.mean([row[1].strip()[-5] == row[2].strip() for row in rows]))


def accuracy(out: str) -> float:
    return float(out.partition("test accuracy ")[2].partition(",")[0])


def test_run_records_its_pixel_format(client: MlflowClient, run_id: str) -> None:
    text = Path(client.download_artifacts(run_id, "weights/network.json")).read_text()
    assert PixelFormat.from_json(json.loads(text)["pixels"]) == PixelFormat(1, (8, 8), (0, 1), "dark")
    assert client.get_run(run_id).data.tags["dataset.pixels"] == "1x8x8, pixels 0 to 1, dark background"


def test_eight_bit_images_are_predicted_like_the_test_images(script: Script, folder: Path) -> None:
    out = script("predict.py", *pictures(folder))
    assert right(out) > 0.8
    assert "inverted" not in out


def test_inverted_scan_is_corrected_and_reported(script: Script, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    files = pictures(Path(), invert=True)
    automatic = script("predict.py", *files)
    assert right(automatic) > 0.8
    assert "inverted here" in automatic
    said = automatic.splitlines()[0]
    assert all(str(file) in said for file in files)
    asked = script("predict.py", "invert=yes", *files)
    assert right(asked) == right(automatic)
    assert "ground" not in asked
    refused_to = script("predict.py", "invert=no", *files)
    assert right(refused_to) < 0.5
    assert "invert=yes" in refused_to


def test_invert_is_one_of_three_words(script: Script, folder: Path) -> None:
    with pytest.raises(SystemExit, match="invert=maybe must be auto, yes or no"):
        script("predict.py", "invert=maybe", *pictures(folder, n=1))


def test_evaluate_tests_all_rows_of_another_file(script: Script, folder: Path) -> None:
    test = digits().test
    rows = np.column_stack([test.t, np.rint(test.x.reshape(len(test), -1) / 16 * 255)])[:40]
    np.savetxt(folder / "held.csv", rows, "%d", ",")
    assert "on 40 images" in script("evaluate.py", "data=csv", f"data.root={folder}/held.csv")


@pytest.mark.parametrize(("scale", "shift", "invert"), [(1 / 8, -1, False), (255 / 16, 0, True)])
def test_evaluate_converts_arrays_to_the_runs_format(
    script: Script, client: MlflowClient, run_id: str, folder: Path, caplog, scale: float, shift: float, invert: bool
) -> None:
    """Arrays with another range, twice as large and in colour."""
    arrays = parts(scale, invert)
    for name in ("x_train", "x_test"):
        arrays[name] = np.repeat(arrays[name].repeat(2, axis=2).repeat(2, axis=3) + shift, 3, axis=1)
    np.savez(folder / "other.npz", **arrays)
    own = client.get_run(run_id).data.metrics["final/test_acc"]
    found = accuracy(script("evaluate.py", "data=images", f"data.root={folder}/other.npz"))
    assert own > 0.8
    assert found == pytest.approx(own, abs=0.03)
    assert "converted to the run's 1x8x8, pixels 0 to 1" in caplog.text
    assert ("inverted" in caplog.text) == invert


def test_evaluate_takes_the_runs_own_data_unless_another_is_named(script: Script, folder: Path) -> None:
    arrays = parts(1 / 16)
    np.savez(folder / "moved.npz", **{**arrays, "x_test": arrays["x_test"][:200], "t_test": arrays["t_test"][:200]})
    assert "on 200 images" in script("evaluate.py", f"data.root={folder}/moved.npz")
    with pytest.raises(SystemExit, match=r"data.limit=50: the whole test set is taken, .* leave data.limit out"):
        script("evaluate.py", "data.limit=50")
    with pytest.raises(SystemExit, match=r"data.name=digits: the run's own data are taken: add data=NAME, or leave"):
        script("evaluate.py", "data.name=digits")


def test_the_served_model_refuses_pixels_of_another_range(run_id: str) -> None:
    with warnings.catch_warnings(action="ignore"):  # MLflow warns of its own type hints
        import mlflow.pyfunc
    model = mlflow.pyfunc.load_model(f"runs:/{run_id}/model")
    test = digits().test
    pixels = (test.x / 16).astype(np.float32)
    assert (model.predict({"pixels": pixels}).argmax(axis=1) == test.t).mean() > 0.8
    for wrong in (pixels * 255, pixels - 1, pixels * np.float32(np.nan)):
        with pytest.raises(MlflowException, match=r"pixels must be 0 to 1, got \S+ to \S+$"):
            model.predict({"pixels": wrong})


def test_run_without_a_recorded_pixel_format_is_read(
    script: Script, client: MlflowClient, run_id: str, folder: Path, caplog
) -> None:
    text = Path(client.download_artifacts(run_id, "weights/network.json")).read_text()
    spec = json.loads(text)
    config = Path(client.download_artifacts(run_id, "config.yaml")).read_text()
    try:
        old = {key: value for key, value in spec.items() if key != "pixels"}
        client.log_text(run_id, json.dumps(old), "weights/network.json")
        client.log_text(run_id, config.replace("  size: null\n", ""), "config.yaml")
        assert accuracy(script("evaluate.py")) > 0.8
        assert caplog.text == ""
        scans = script("predict.py", *pictures(folder, invert=True, n=2))
        assert "ground" not in scans
    finally:
        client.log_text(run_id, text, "weights/network.json")
        client.log_text(run_id, config, "config.yaml")


def test_a_config_without_the_key_size_is_read(folder: Path) -> None:
    from omegaconf import open_dict

    from nl_training.config.resolve import resolve

    _, cfg = composed([*SMALL, f"data.root={folder}"])
    with open_dict(cfg):
        del cfg.data["size"]
    assert resolve(cfg).data.size is None
    with open_dict(cfg):
        del cfg.data["root"]
    with refused("data.root is missing"):
        resolve(cfg)
