"""The installed command `nl`: its table, completion and help; the UI's port, the bench, and the name in hints."""

import ast
import importlib
import os
import re
import socket
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from support.assertions import refused

from nl_training import paths
from nl_training.__main__ import COMMANDS, main
from nl_training.commands import bench, ui
from nl_training.config.cli import composed

ROOT = Path(__file__).resolve().parents[3]
SCRIPTS = sorted({path.stem for path in (ROOT / "scripts").glob("*.py")} & COMMANDS.keys() - {"bench"})


def test_every_command_has_a_module_and_scripts_only_call_it() -> None:
    assert {"train", "predict", "search"} <= set(SCRIPTS)
    for name in COMMANDS:
        assert callable(importlib.import_module(f"nl_training.commands.{name}").main)
    for name in SCRIPTS:
        _, imported, run = ast.parse((ROOT / "scripts" / f"{name}.py").read_text()).body
        assert ast.unparse(imported) == f"from nl_training.commands.{name} import main"
        assert ast.unparse(run).endswith("main()")


def test_help_lists_all_commands_without_importing_them() -> None:
    code = (
        "import sys; sys.argv = ['nl', '--help']; from nl_training.__main__ import main; main();"
        "print({'numpy', 'hydra', 'nl_nodes', 'rich'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("set()\n")
    for name, summary in COMMANDS.items():
        assert re.search(rf"^  {name} +{summary}$", done.stdout, re.MULTILINE)


def test_misspelt_command_is_refused_with_the_closest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["nl", "trian", "model=mlp"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == "error: trian is not a command: did you mean train?"


@pytest.mark.parametrize(
    ("line", "arguments", "choices"),
    [
        ("nl tr", ["-sc", "query=bash"], set(COMMANDS)),
        ("nl ", ["-sc", "query=bash"], set(COMMANDS)),
        ("nl train model=v", ["-sc", "query=bash"], {"model=vgg11", "model=vgg16"}),
        ("nl gradcheck model=v", ["gradcheck", "-sc", "query=bash"], {"model=vgg11", "model=vgg16"}),
    ],
)
def test_completion(
    line: str,
    arguments: list[str],
    choices: set[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["nl", *arguments])
    monkeypatch.setenv("COMP_LINE", line)
    main()
    assert set(capsys.readouterr().out.split()) == choices


def test_completion_is_installed_for_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/nl", "-sc", "install=bash"])
    main()
    assert capsys.readouterr().out.strip().endswith("-F hydra_bash_completion nl")


def test_hints_name_the_command_that_the_shell_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "nl"
    other.write_text("#!/bin/sh\n")
    other.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert paths.program().endswith(" -m nl_training")  # as where GNU coreutils' nl comes first
    monkeypatch.setattr(paths.sysconfig, "get_path", lambda name, scheme: str(tmp_path))
    assert paths.program() == "nl"


def test_ui_takes_a_free_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        with refused(f"port {taken} is in use"):
            ui.port([str(taken)])
        assert ui.port([], first=taken) > taken
    assert ui.port([str(taken)]) == taken
    for wrong in (["a"], ["0"], ["65536"], ["1", "2"]):
        with refused(" ".join(wrong), "nl ui 5000"):
            ui.port(wrong)


def test_bench_measures_steps_and_nodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(paths.OUTPUT, str(tmp_path))
    monkeypatch.setattr(bench, "SECONDS", 0.05)
    bench.bench(*composed(["model=mlp", "data=digits", "trainer.batch_size=16", "device.threads=1"]))
    out = capsys.readouterr().out
    assert re.search(r"^[\d.]+ ms a step of 16 images \(quartiles [\d.]+ and [\d.]+\), \d+ steps$", out, re.MULTILINE)
    assert "Affine 1/" in out
    written = {path.name for path in (tmp_path / "outputs/bench/mlp").iterdir()}
    assert written == {"profile.txt", "profile.json", "profile.png"}


def test_bench_measures_accumulated_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(paths.OUTPUT, str(tmp_path))
    monkeypatch.setattr(bench, "SECONDS", 0.05)
    overrides = ["model=mlp", "data=digits", "trainer.batch_size=8", "trainer.accumulate=3", "device.threads=1"]
    bench.bench(*composed(overrides))
    assert " ms a step of 24 images " in capsys.readouterr().out


def test_the_packages_have_one_version_and_the_licence() -> None:
    versions = set()
    for name in ("nl-nodes", "nl-layers", "nl-models", "nl-training"):
        folder = ROOT / "packages" / name
        versions.add(importlib.import_module(name.replace("-", "_")).__version__)
        pins = re.findall(r'"nl-[\w\[\]-]+==([^"]+)"', (folder / "pyproject.toml").read_text())
        versions |= {*pins, metadata.version(name)}
        assert tomllib.loads((folder / "pyproject.toml").read_text())["project"]["license"] == "MIT"
        assert (folder / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    assert len(versions) == 1


def test_paths_of_an_installed_wheel(tmp_path: Path) -> None:
    """Installed without a repository, the configs are in the package, and output goes to the working directory."""
    package = tmp_path / "site" / "nl_training"
    (package / "conf").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "paths.py").write_text(Path(paths.__file__).read_text())
    code = "from nl_training import paths; print(paths.CONF, paths.output_root())"
    environment = {k: v for k, v in os.environ.items() if k != paths.OUTPUT} | {"PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path, env=environment
    )
    assert done.stdout.split() == [str(package / "conf"), str(tmp_path)]
