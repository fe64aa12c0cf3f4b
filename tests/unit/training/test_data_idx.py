"""The IDX reader: correct on valid files, an error of one line on everything else."""

import gzip
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.archives import idx
from support.assertions import at_most_refused, refused

from nl_training.data.files import MAX_BYTES, read_file
from nl_training.data.idx import parse_idx


def read_idx(path: Path, limit: int = MAX_BYTES) -> np.ndarray:
    return parse_idx(read_file(path, limit), str(path))


ARRAY = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_reads_plain_and_gzip_regardless_of_the_name(tmp_path: Path, pack):
    path = tmp_path / "images.dat"
    path.write_bytes(pack(idx(ARRAY)))
    array = read_idx(path)
    assert array.dtype == np.uint8
    np.testing.assert_array_equal(array, ARRAY)


def test_reads_an_array_of_no_items():
    assert parse_idx(idx(np.zeros((0, 28, 28), np.uint8)), "x").shape == (0, 28, 28)


BROKEN = {
    "empty": (b"", "magic"),
    "not idx": (b"<!DOCTYPE html><html>404</html>", "magic"),
    "floats": (struct.pack(">HBBI", 0, 0x0D, 1, 1) + b"\0\0\0\0", "magic"),
    "no dimensions": (struct.pack(">HBB", 0, 8, 0), "magic"),
    "header cut": (idx(ARRAY)[:7], "truncated"),
    "data cut": (idx(ARRAY)[:-1], "truncated"),
    "data too long": (idx(ARRAY) + b"\0", "corrupt"),
    "claims 2^32 - 1 items": (struct.pack(">HBBIII", 0, 8, 3, 2**32 - 1, 28, 28) + bytes(784), "4,294,967,295"),
    "claims 2^8160 items": (b"\0\0\x08\xff" + b"\xff" * 1020, "truncated"),
}


@pytest.mark.parametrize(("data", "named"), BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_refuses_broken_contents(tmp_path: Path, data, named, pack):
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(pack(data))
    with refused(path, named, "replace it"):
        read_idx(path)


def test_refuses_truncated_gzip(tmp_path: Path):
    path = tmp_path / "t.gz"
    path.write_bytes(gzip.compress(idx(ARRAY))[:-9])
    with refused(path, "corrupt"):
        read_idx(path)


def test_refuses_gzip_with_a_flipped_bit(tmp_path: Path):
    noise = np.random.default_rng(0).integers(0, 256, (50, 50), dtype=np.uint8)
    data = bytearray(gzip.compress(idx(noise)))
    data[len(data) // 2] ^= 4
    path = tmp_path / "t.gz"
    path.write_bytes(data)
    with refused(path, "corrupt"):
        read_idx(path)


def test_decompression_bomb_is_not_unpacked(tmp_path: Path):
    path = tmp_path / "bomb.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(struct.pack(">HBBI", 0, 8, 1, 2**26))
        for _ in range(64):
            file.write(bytes(2**20))
    tracemalloc.start()
    try:
        with refused(path, "1,000"):
            read_idx(path, limit=1000)
        assert tracemalloc.get_traced_memory()[1] < 2**23
    finally:
        tracemalloc.stop()


def test_refuses_paths_that_are_not_files(tmp_path: Path):
    with refused(tmp_path / "nowhere", "No such file"):
        read_idx(tmp_path / "nowhere")
    with refused(tmp_path, "Is a directory"):
        read_idx(tmp_path)


def header(shape: list[int], magic: bytes, body: bytes) -> bytes:
    return magic + bytes([len(shape)]) + b"".join(n.to_bytes(4, "big") for n in shape) + body


near_idx = st.builds(
    header,
    st.lists(st.integers(0, 5) | st.integers(0, 2**32 - 1), max_size=5),
    st.just(b"\0\0\x08") | st.binary(min_size=3, max_size=3),
    st.binary(max_size=64),
)


@settings(deadline=None)
@given(st.binary(max_size=64) | near_idx)
def test_any_bytes_give_an_array_or_a_user_error(data: bytes):
    with at_most_refused():
        assert idx(parse_idx(data, "fuzz")) == data


@settings(deadline=None)
@given(st.binary(max_size=64) | near_idx, st.integers(0, 200), st.binary(max_size=3))
def test_any_file_gives_an_array_or_a_user_error(tmp_path_factory, data: bytes, at: int, patch: bytes):
    zipped = bytearray(gzip.compress(data))
    zipped[at : at + len(patch)] = patch
    path = tmp_path_factory.getbasetemp() / "fuzz"
    for contents in (data, bytes(zipped)):
        path.write_bytes(contents)
        with at_most_refused():
            assert read_idx(path, limit=2**16).dtype == np.uint8
