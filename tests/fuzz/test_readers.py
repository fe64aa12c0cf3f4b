"""The fuzzer's seeds: every reader accepts its valid files, and files with a checksum cannot change in any bit."""

import os
from pathlib import Path

import pytest
from fuzz.fuzz import NAMES
from fuzz.readers import READERS, taken


def test_fuzzer_lists_every_reader() -> None:
    assert list(READERS) == list(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_valid_files_are_read(name: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    for seed in READERS[name].seeds():
        path.write_bytes(seed)
        assert taken(READERS[name], path), seed


@pytest.mark.parametrize("name", ["checkpoint", "certificate"])
def test_file_with_a_flipped_bit_is_refused(name: str, tmp_path: Path) -> None:
    """Flip every bit of a file, one at a time."""
    path, (whole,) = tmp_path / "file", READERS[name].seeds()
    path.write_bytes(whole)
    with path.open("r+b", buffering=0) as file:
        for place, byte in enumerate(whole):
            for bit in range(8):
                os.pwrite(file.fileno(), bytes([byte ^ 1 << bit]), place)
                assert not taken(READERS[name], path), (place, bit)
            os.pwrite(file.fileno(), bytes([byte]), place)
