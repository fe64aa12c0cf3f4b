"""What the fuzzer begins from: every reader takes its whole files, and no bit of what bears a checksum may differ."""

import os
from pathlib import Path

import pytest
from fuzz.fuzz import NAMES
from fuzz.readers import READERS, taken


def test_the_fuzzer_knows_every_reader() -> None:
    assert list(READERS) == list(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_whole_files_are_taken(name: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    for seed in READERS[name].seeds():
        path.write_bytes(seed)
        assert taken(READERS[name], path), seed


@pytest.mark.parametrize("name", ["checkpoint", "certificate"])
def test_no_flipped_bit_is_taken(name: str, tmp_path: Path) -> None:
    """Every bit of a file, one after the other."""
    path, (whole,) = tmp_path / "file", READERS[name].seeds()
    path.write_bytes(whole)
    with path.open("r+b", buffering=0) as file:
        for place, byte in enumerate(whole):
            for bit in range(8):
                os.pwrite(file.fileno(), bytes([byte ^ 1 << bit]), place)
                assert not taken(READERS[name], path), (place, bit)
            os.pwrite(file.fileno(), bytes([byte]), place)
