"""The pages are correct: the tutorial and the README's example run, and everything named in the README exists."""

import ast
import os
import pkgutil
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from support.scripts import run_script

import nl_nodes

ROOT = Path(__file__).resolve().parents[3]
README = (ROOT / "README.md").read_text()
COMPILER_PAGE = (ROOT / "packages/nl-nodes/src/nl_nodes/compiler/README.md").read_text()
TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text()


def blocks(text: str, kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", text, re.DOTALL)


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=120)


def test_tutorial_runs() -> None:
    done = python("\n".join(blocks(TUTORIAL, "python")))
    assert done.returncode == 0, done.stderr


def test_the_tutorials_model_is_an_option_in_a_folder_of_ones_own(tmp_path: Path) -> None:
    (option,), (command,) = blocks(TUTORIAL, "yaml"), re.findall(r"^ {4}nl (train .+)$", TUTORIAL, re.MULTILINE)
    (tmp_path / "myconf/model").mkdir(parents=True)
    (tmp_path / "myconf/model/tiny.yaml").write_text(option)
    (tmp_path / "tiny.py").write_text("\n".join(blocks(TUTORIAL, "python")))
    nl = "from nl_training.__main__ import main; main()"
    for given, code, text in (("hidden=30", 0, "hidden: 30"), ("hidden=0", 1, "model.hidden=0 must be")):
        words = [*command.split(), f"model.{given}", "--cfg", "job"]
        done = run_script("-c", nl, *words, cwd=tmp_path, env={**os.environ, "NL_CONFIG_DIR": ""})
        assert done.returncode == code, done.stderr
        assert text in done.stdout + done.stderr
    short = ["verify=strict", "data.limit=50", "trainer.max_steps=1", "tracking=off"]
    done = run_script("-c", nl, *command.split(), *short, cwd=tmp_path, env={**os.environ, "NL_CONFIG_DIR": ""})
    assert (done.returncode, done.stderr) == (0, "")
    assert "links to training steps hold" in done.stdout


def test_readme_example_prints_the_shown_output() -> None:
    done = python(blocks(README, "python")[0])
    assert done.stdout == blocks(README, "text")[0], done.stderr


def test_curvature_page_prints_the_shown_output() -> None:
    page = (ROOT / "docs" / "curvature.md").read_text()
    done = python(blocks(page, "python")[0])
    assert done.stdout == blocks(page, "text")[0], done.stderr


@pytest.mark.parametrize("name", ["README.md", "cuda/README.md"])
def test_compiler_pages_print_the_shown_output(name: str) -> None:
    page = (ROOT / "packages/nl-nodes/src/nl_nodes/compiler" / name).read_text()
    done = python("print('---')\n".join(blocks(page, "python")))
    assert done.stdout.split("---\n") == blocks(page, "text"), done.stderr


def test_dotted_names_on_the_compiler_page_exist() -> None:
    """Every `Class.name` is an attribute of a class of nl_nodes."""
    modules = [import_module(found.name) for found in pkgutil.walk_packages(nl_nodes.__path__, "nl_nodes.")]
    classes = {name: kind for module in modules for name, kind in vars(module).items() if isinstance(kind, type)}
    dotted = re.findall(r"`(\w+)\.(\w+)`", COMPILER_PAGE)
    named = [(owner, name) for owner, name in dotted if name != "py"]
    assert ("Executor", "bind") in named
    for owner, name in named:
        assert hasattr(classes.get(owner), name), f"{owner}.{name}"


def test_scripts_sessions_and_options_in_readme_exist() -> None:
    for script in re.findall(r"python (scripts/\w+\.py)", README):
        assert (ROOT / script).is_file(), script
    sessions = (ROOT / "noxfile.py").read_text()
    for session in re.findall(r"`nox -s (\w+)`", README):
        assert f"def {session}(" in sessions, session
    groups = {path.name for path in (ROOT / "conf").iterdir() if path.is_dir()}
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|`]+) \|$", README, re.MULTILINE))
    assert groups <= rows.keys()
    for group, options in ((g, rows[g]) for g in groups):
        named = set(re.split(r"[,;] ", options.strip()))
        assert named == {path.stem for path in (ROOT / "conf" / group).glob("*.yaml")}, group
    for link in re.findall(r"\]\((?!https:)([^)]+)\)", README + (ROOT / "README.ko.md").read_text()):
        assert (ROOT / link).exists(), link


def test_nox_sessions_share_an_environment_if_they_install_the_same() -> None:
    source = (ROOT / "noxfile.py").read_text()
    shared = ast.literal_eval(re.search(r"^SHARED = (\{.*\})$", source, re.MULTILINE)[1])
    found = re.findall(r"^@nox\.session.*\n(?:@nox.*\n)*def (\w+)((?:.*\n)+?)(?=\n\n|\Z)", source, re.MULTILINE)
    assert shared < {name for name, _ in found}
    assert shared == {name for name, body in found if " install(session)" in body and "session.install(" not in body}
