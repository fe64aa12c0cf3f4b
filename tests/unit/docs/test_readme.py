"""What both READMEs tell to type works: first commands, every override, extras; the packages' examples run."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from nl_training.config.cli import check

ROOT = Path(__file__).resolve().parents[3]
README, KOREAN = ((ROOT / name).read_text() for name in ("README.md", "README.ko.md"))
FIRST = [
    "python -m pip install -c constraints.txt -r requirements.txt && python scripts/train.py",
    "python -m pip install nox && nox",
]
# Commands stand indented; `run=ID` and files are not overrides of a training.
COMMANDS = sorted(set(re.findall(r"^ {4}python scripts/train\.py (.+)$", README + KOREAN, re.MULTILINE)))
PAGES = sorted(page for page in ROOT.glob("packages/*/README.md") if "```python" in page.read_text())
PAGES.append(ROOT / "README.md")


@pytest.mark.parametrize("text", [README, KOREAN], ids=["english", "korean"])
def test_readme_starts_with_the_two_commands(text: str) -> None:
    assert re.findall(r"^ {4}(.+)$", text, re.MULTILINE)[:2] == FIRST


def test_there_are_commands_and_examples_to_check() -> None:
    assert any("-m" in command.split() for command in COMMANDS)
    assert any("device=gpu" in command for command in COMMANDS)
    assert {page.parent.name for page in PAGES} >= {"nl-nodes", "nl-layers", "nl-models"}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_override_is_one_that_the_config_takes(command: str) -> None:
    words = command.split()
    check([word for word in words if word != "-m"], multirun="-m" in words)


def test_extras_exist() -> None:
    project = tomllib.loads((ROOT / "packages/nl-nodes/pyproject.toml").read_text())["project"]
    named = set(re.findall(r"(?:nl-nodes|`)\[(\w+)\]", README))
    assert named == set(project["optional-dependencies"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name)
def test_examples_run(page: Path) -> None:
    code = "\n".join(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL))
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
