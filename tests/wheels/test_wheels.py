"""The four wheels, each built from its sdist, in an environment of their own: the README's commands work there.

The tests are one story in one folder, in this order.
"""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from email import message_from_string
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.wheels

ROOT = Path(__file__).resolve().parents[2]
SECTION = (ROOT / "README.md").read_text().partition("## Outside the repository\n")[2].partition("\n## ")[0]
COMMANDS = re.findall(r"^ {4}(nl .+)$", SECTION, re.MULTILINE)
NAMES = ("nl-nodes", "nl-layers", "nl-models", "nl-training")


@dataclass(frozen=True)
class Installed:
    """An environment with the wheels only, and an empty folder to work in."""

    wheels: dict[str, Path]
    bin: Path
    site: Path
    folder: Path
    files: frozenset[Path]

    def environment(self) -> dict[str, str]:
        passed = {key: value for key, value in os.environ.items() if not key.startswith(("NL_", "MLFLOW_", "PYTHON"))}
        home = {"HOME": str(self.folder.parent / "home"), "XDG_CACHE_HOME": str(self.folder.parent / "home/.cache")}
        return {**passed, **home, "PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}"}

    def run(self, command: str) -> str:
        done = subprocess.run(
            shlex.split(command), cwd=self.folder, env=self.environment(), capture_output=True, text=True, timeout=1500
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def uv(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "uv", *map(str, arguments)], check=True)


def installed_files(site: Path) -> frozenset[Path]:
    return frozenset(path for path in site.rglob("*") if path.is_file() and "__pycache__" not in path.parts)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    top = tmp_path_factory.mktemp("wheels")
    for name in NAMES:
        uv("build", "--quiet", "--out-dir", top / "dist", ROOT / "packages" / name)  # the wheel from the sdist
    wheels = {path.name.partition("-")[0].replace("_", "-"): path for path in (top / "dist").glob("*.whl")}
    uv("venv", "--quiet", "--python", sys.executable, top / "venv")
    python = top / "venv/bin/python"
    uv("pip", "install", "--quiet", "--python", python, "-c", ROOT / "constraints.txt", *wheels.values())
    (site,) = (top / "venv/lib").glob("python*/site-packages")
    (top / "home").mkdir()
    (top / "work").mkdir()
    return Installed(wheels, top / "venv/bin", site, top / "work", installed_files(site))


def test_each_wheel_has_metadata_and_its_version(installed: Installed) -> None:
    assert set(installed.wheels) == set(NAMES)
    for name, wheel in installed.wheels.items():
        with ZipFile(wheel) as archive:
            (path,) = (each for each in archive.namelist() if each.endswith(".dist-info/METADATA"))
            metadata = message_from_string(archive.read(path).decode())
            names = set(archive.namelist())
        assert metadata["License-Expression"] == "MIT"
        assert metadata["Requires-Python"] == ">=3.11"
        assert metadata["Author"]
        assert metadata.get_all("Classifier")
        assert metadata.get_all("Project-URL")
        assert metadata.get_payload().startswith(f"# {name}\n")
        assert any(each.endswith("licenses/LICENSE") for each in names)
        module = name.replace("-", "_")
        assert f"{module}/py.typed" in names
        version = installed.run(f"python -c 'import {module}; print({module}.__version__)'")
        assert version.strip() == metadata["Version"]
    conf = {path.relative_to(ROOT).as_posix() for path in (ROOT / "conf").rglob("*.yaml")}
    assert {f"nl_training/{path}" for path in conf} <= names  # the last one's


def test_the_readmes_commands_are_those_tested_here() -> None:
    assert [command.split()[1] for command in COMMANDS] == ["train", "predict", "ui", "train"]


def test_train(installed: Installed) -> None:
    out = installed.run(COMMANDS[0])
    assert "test accuracy 0.9" in out
    assert out.splitlines()[-2].strip() == "look   nl ui, then open"
    assert {path.name for path in installed.folder.iterdir()} == {"mlflow.db", "mlruns", "outputs"}


def test_predict(installed: Installed) -> None:
    pixels = np.zeros((28, 28), np.uint8)
    pixels[4:24, 13:16] = 255  # a one
    Image.fromarray(pixels).save(installed.folder / "digit.png")
    assert re.search(r"digit\.png +\S +1 ", installed.run(COMMANDS[1]))


@pytest.fixture
def server(installed: Installed) -> Iterator[str]:
    command = shlex.split(COMMANDS[2])
    process = subprocess.Popen(
        command, cwd=installed.folder, env=installed.environment(), stdout=subprocess.PIPE, text=True, process_group=0
    )
    assert process.stdout is not None
    yield process.stdout.readline().strip()
    os.killpg(process.pid, signal.SIGTERM)
    process.wait(60)
    process.stdout.close()


def test_ui(server: str) -> None:
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/#/experiments/1/runs\?workflowType=machine_learning", server)
    health = server.partition("/#")[0] + "/health"
    for _ in range(240):
        try:
            with urllib.request.urlopen(health, timeout=10) as answer:
                assert answer.status == 200
                return
        except OSError:
            time.sleep(0.5)
    pytest.fail(f"{health} does not answer")


def test_own_model(installed: Installed) -> None:
    for kind, comment in (("python", "tiny.py"), ("yaml", "myconf/model/tiny.yaml")):
        (text,) = re.findall(rf"```{kind}\n# {comment}\n(.*?)```", SECTION, re.DOTALL)
        (installed.folder / comment).parent.mkdir(parents=True, exist_ok=True)
        (installed.folder / comment).write_text(text)
    assert "tiny(input (1, 28, 28)" in installed.run(COMMANDS[3])
    assert "digit.png" in installed.run(COMMANDS[1])  # the run knows its module


def test_nothing_is_written_to_the_installation(installed: Installed) -> None:
    assert installed_files(installed.site) == installed.files
