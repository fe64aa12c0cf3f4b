"""Atomic writes: the whole new file or the old one, and nothing beside it."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Barrier

import pytest

from nl_nodes.files import atomic_write

durable_or_not = pytest.mark.parametrize("durable", [False, True])


@durable_or_not
def test_a_file_changes_at_the_end_of_the_block(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old and longer")
    with atomic_write(path, durable) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old and longer"
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@durable_or_not
def test_an_error_leaves_the_old_file_alone(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with suppress(ZeroDivisionError), atomic_write(path, durable) as file:
        file.write(b"new" * 1_000_000)
        raise ZeroDivisionError
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_path_through_a_file_is_refused_as_such(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError), atomic_write(tmp_path / "file" / "below"):
        pass


def test_threads_may_write_to_one_path(tmp_path: Path) -> None:
    path, both = tmp_path / "file", Barrier(2)

    def write(letter: bytes) -> None:
        with atomic_write(path) as file:
            both.wait(30)
            file.write(letter * 1_000_000)
            both.wait(30)

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(write, [b"a", b"b"]))
    assert path.read_bytes() in (b"a" * 1_000_000, b"b" * 1_000_000)
    assert list(tmp_path.iterdir()) == [path]
