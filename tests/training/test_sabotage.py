"""Planted errors are refused by `verify=strict` before step 1, and networks without are accepted."""

from pathlib import Path

import pytest
from support.plants import CLEAN, PLANTS
from support.scripts import run_script

TESTS = str(Path(__file__).resolve().parents[1])
SAMPLE = ["in_processes_on_large_arrays", "in_float32_above_four_rows", "from_the_third_pass", "eps_inside_the_root"]


def verified(name: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """What strict says, in a process of its own with an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    code = f"import sys; sys.path.insert(0, {TESTS!r}); from support.plants import main; main({name!r})"
    done = run_script("-c", code)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", SAMPLE)
def test_a_planted_error_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert verified(name, tmp_path, monkeypatch).startswith("refused: verify=strict")


@pytest.mark.sabotage
@pytest.mark.parametrize("name", [name for name in PLANTS if name not in SAMPLE])
def test_every_planted_error_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert verified(name, tmp_path, monkeypatch).startswith("refused: ")


@pytest.mark.parametrize("name", CLEAN)
def test_a_network_without_is_accepted(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert verified(name, tmp_path, monkeypatch).startswith("accepted: ")
