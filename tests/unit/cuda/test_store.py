"""What is kept in the user's cache folder: used again, made anew where it is damaged, and never required."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from nl_nodes.runtime.cuda import store
from nl_nodes.runtime.cuda.store import Algorithms, cubin

FAST, SLOW = bytes(range(64)), bytes(64)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "node-layer-network" / "gpu"


class Compiler:
    def __init__(self) -> None:
        self.runs: list[tuple[str, str]] = []

    def __call__(self, text: str, architecture: str) -> bytes:
        self.runs.append((text, architecture))
        return f"code of {text} for {architecture}".encode()


def test_a_text_is_compiled_once_for_each_architecture_and_version() -> None:
    compiler = Compiler()
    for _ in range(2):
        assert cubin("a", "sm_90", "12.9", compiler) == b"code of a for sm_90"
    assert len(compiler.runs) == 1
    for other in (("b", "sm_90", "12.9"), ("a", "sm_80", "12.9"), ("a", "sm_90", "13.0"), ("asm_", "90", "12.9")):
        assert cubin(*other, compiler) == f"code of {other[0]} for {other[1]}".encode()
    assert len(compiler.runs) == 5


DAMAGES = [lambda data: data[:-1], lambda data: data[:20], lambda data: b"", lambda data: data[:40] + b"x" + data[41:]]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cubin_is_made_anew(folder: Path, damage: Callable[[bytes], bytes]) -> None:
    compiler = Compiler()
    good = cubin("a", "sm_90", "12.9", compiler)
    (file,) = folder.iterdir()
    file.write_bytes(damage(file.read_bytes()))
    assert cubin("a", "sm_90", "12.9", compiler) == good
    assert cubin("a", "sm_90", "12.9", compiler) == good
    assert len(compiler.runs) == 2
    assert list(folder.iterdir()) == [file]


def test_without_a_folder_to_write_to_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    compiler = Compiler()
    for _ in range(2):
        assert cubin("a", "sm_90", "12.9", compiler) == b"code of a for sm_90"
    assert len(compiler.runs) == 2
    Algorithms("card", 1).add({"p": FAST})


def test_algorithms_are_kept_for_a_card_and_a_version() -> None:
    Algorithms("card", 1).add({"p": FAST})
    assert Algorithms("card", 1).get("p") == FAST
    assert Algorithms("card", 1).get("q") is None
    assert Algorithms("card", 2).get("p") is None
    assert Algorithms("card 2", 1).get("p") is None


def test_two_processes_add_to_one_file() -> None:
    first, second = Algorithms("card", 1), Algorithms("card", 1)
    first.add({"p": FAST, "r": SLOW})
    second.add({"q": FAST, "r": FAST})
    found = Algorithms("card", 1)
    assert [found.get(key) for key in "pqr"] == [FAST, FAST, FAST]
    assert second.get("p") == FAST


def test_a_state_is_plain_data_for_the_same_card_and_version() -> None:
    given = Algorithms("card", 1)
    given.add({"p": FAST})
    state = json.loads(json.dumps(given.state()))
    store.folder().joinpath("products-card-1.json").unlink()
    same, other = Algorithms("card", 1), Algorithms("card", 2)
    same.update(state)
    other.update(state)
    assert same.get("p") == FAST
    assert other.get("p") is None


OWN = '{"card": "card", "version": 1'


@pytest.mark.parametrize("text", ["", "[]", "{", "null", f"{OWN}}}", f'{OWN}, "algorithms": {{"p": "x"}}}}'])
def test_a_damaged_file_of_algorithms_is_made_anew(folder: Path, text: str) -> None:
    folder.mkdir(parents=True)
    (folder / "products-card-1.json").write_text(text)
    algorithms = Algorithms("card", 1)
    assert algorithms.get("p") is None
    algorithms.add({"p": FAST})
    assert Algorithms("card", 1).get("p") == FAST
