"""Users' image files and arrays."""

import io
import os
import pickle
import struct
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from support.assertions import at_most_refused, refused

from nl_training.data import load, read_image


def save(path: Path, pixels: np.ndarray, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def grey(h=6, w=5, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (h, w), dtype=np.uint8)


def colour(h=6, w=5, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (h, w, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "pets"
    for label, name in enumerate(("cat", "dog")):
        for i in range(10):
            save(root / name / f"{i}.png", grey(seed=10 * label + i))
    return root


def test_reads_a_folder_of_class_folders(folder: Path):
    (folder / "cat" / "notes.txt").write_text("not a picture, and not named as one")
    (folder / ".hidden").mkdir()
    data = load("images", root=str(folder), validation=0.25, normalize=False)
    assert data.classes == ("cat", "dog")
    assert data.input_shape == (1, 6, 5)
    assert [np.bincount(part.t).tolist() for part in (data.train, data.validation, data.test)] == [
        [6, 6],
        [2, 2],
        [2, 2],
    ]
    pixels = np.rint(np.concatenate([part.x for part in (data.train, data.validation, data.test)]) * 255)
    assert {p.astype(np.uint8).tobytes() for p in pixels} == {grey(seed=i).tobytes() for i in range(20)}


def test_one_colour_image_makes_the_data_set_colour(folder: Path):
    save(folder / "dog" / "3.png", colour())
    assert load("images", root=str(folder)).input_shape == (3, 6, 5)


def test_tilde_is_expanded_in_paths(folder: Path, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    assert load("images", root="~/pets").classes == ("cat", "dog")


def test_refuses_a_file_that_is_not_an_image(folder: Path):
    bad = folder / "dog" / "5.png"
    bad.write_text("I am no picture")
    with refused(bad, "not a picture"):
        load("images", root=str(folder))


def test_refuses_pictures_of_another_size(folder: Path):
    bad = save(folder / "dog" / "5.png", grey(7, 4))
    with refused(bad, "4x7", "5x6", "resize"):
        load("images", root=str(folder))


def test_refuses_folders_without_classes(folder: Path, tmp_path: Path):
    with refused(folder / "cat", "at least two", "holds 0"):
        load("images", root=str(folder / "cat"))
    (folder / "cow").mkdir()
    with refused(folder / "cow", "no pictures"):
        load("images", root=str(folder))


def test_refuses_a_data_set_above_the_memory_limit(folder: Path, monkeypatch):
    monkeypatch.setattr("nl_training.data.folders.MAX_BYTES", 100)
    with refused("100 bytes"):
        load("images", root=str(folder))


@pytest.mark.parametrize("suffix", ["png", "bmp", "gif", "webp", "pgm", "tif", "TIFF", "jp2", "tga"])
def test_reads_grey_pictures_exactly(tmp_path: Path, suffix):
    options = {"lossless": True} if suffix == "webp" else {}  # JPEG 2000 is lossless by default
    path = save(tmp_path / f"p.{suffix}", grey(), **options)
    np.testing.assert_array_equal(read_image(path, (1, 6, 5))[0], grey())


def test_reads_colour_channels_first(tmp_path: Path):
    path = save(tmp_path / "p.png", colour())
    image = read_image(path)
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    np.testing.assert_array_equal(image, colour().transpose(2, 0, 1))
    assert read_image(path, (1, 6, 5)).shape == (1, 6, 5)


def test_palette_images_are_converted(tmp_path: Path):
    image = Image.fromarray(colour()).quantize(4)
    image.save(tmp_path / "p.png")
    np.testing.assert_array_equal(read_image(tmp_path / "p.png").transpose(1, 2, 0), np.asarray(image.convert("RGB")))


def test_resizes_to_the_models_shape(tmp_path: Path):
    path = save(tmp_path / "p.jpg", np.full((60, 40, 3), 200, np.uint8))
    image = read_image(str(path), (1, 28, 28))
    assert image.shape == (1, 28, 28)
    assert np.abs(image.astype(int) - 200).max() <= 2


def test_read_image_refuses_other_shapes_and_missing_files(tmp_path: Path):
    path = save(tmp_path / "p.png", grey())
    with refused(path, "takes 2"):
        read_image(path, (2, 6, 5))
    with refused(tmp_path / "none.png", "does not exist"):
        read_image(tmp_path / "none.png")
    with refused(tmp_path, "does not exist"):
        read_image(tmp_path)
    for pixels, said in ((grey().astype(np.float32), "mode F"), (grey().astype(np.int32) * 65536, "16 bits")):
        deep = save(tmp_path / "deep.tif", pixels)
        with refused(deep, said):
            read_image(deep)
    cut = tmp_path / "cut.png"
    cut.write_bytes(path.read_bytes()[:-30])
    with refused(cut, "broken"):
        read_image(cut)


def test_refuses_formats_whose_readers_run_programs(tmp_path: Path):
    path = tmp_path / "p.png"
    Image.fromarray(colour()).save(path, format="EPS")
    with refused(path, "not a picture"):
        read_image(path)


def test_broken_tiff_is_refused_in_one_line_without_other_output(tmp_path: Path, capfd):
    path = tmp_path / "p.tif"
    Image.fromarray(colour(40, 40)).save(path, compression="tiff_adobe_deflate")
    broken = bytearray(path.read_bytes())
    broken[20:2000] = bytes(1980)
    path.write_bytes(broken)
    with refused(path, "broken"):
        read_image(path)
    assert capfd.readouterr().err == ""
    os.write(2, b"stderr is itself again")
    assert capfd.readouterr().err == "stderr is itself again"


@pytest.mark.parametrize("side", [10_000, 60_000], ids=["warned of", "refused by Pillow"])
def test_refuses_a_decompression_bomb(tmp_path: Path, side):
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    path = tmp_path / "bomb.png"
    path.write_bytes(png)
    with refused(path, "too large"):
        read_image(path)


SMALL_PNG = io.BytesIO()
Image.fromarray(grey()).save(SMALL_PNG, "PNG")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.binary(max_size=40), st.integers(0, 100), st.binary(max_size=4))
def test_any_bytes_give_a_picture_or_a_user_error(tmp_path: Path, noise, at, patch):
    png = bytearray(SMALL_PNG.getvalue())
    png[at : at + len(patch)] = patch
    path = tmp_path / "fuzz.png"
    for contents in (noise, bytes(png)):
        path.write_bytes(contents)
        with at_most_refused():
            assert read_image(path).dtype == np.uint8


X = np.random.default_rng(0).integers(0, 256, (30, 3, 4, 5), dtype=np.uint8)
T = np.arange(30) % 3


def npz(path: Path, **arrays) -> str:
    np.savez(path, **arrays)
    return str(path)


def test_npz_is_split_at_random(tmp_path: Path):
    data = load("images", root=npz(tmp_path / "a.npz", x=X, t=T.astype(np.uint8)), normalize=False)
    assert data.input_shape == (3, 4, 5)
    assert data.classes == ("0", "1", "2")
    assert [len(part) for part in (data.train, data.validation, data.test)] == [22, 2, 6]
    assert data.train.x.max() == 1.0
    assert data.train.t.dtype == np.int64


def test_npz_with_given_splits(tmp_path: Path):
    path = npz(tmp_path / "a.npz", x_train=X[:24, 0], t_train=T[:24], x_test=X[24:, 0], t_test=T[24:])
    data = load("images", root=path, validation=0, normalize=False)
    assert data.input_shape == (1, 4, 5)
    np.testing.assert_array_equal(np.rint(data.test.x[:, 0] * 255), X[24:, 0])


def test_float_arrays_are_not_scaled(tmp_path: Path):
    x = X / 7 - 3
    data = load("images", root=npz(tmp_path / "a.npz", x=x, t=T), validation=0, normalize=False)
    assert data.train.x.dtype == np.float32
    assert data.train.x.min() == pytest.approx(-3)


HALVES = {"x_train": X[:24], "t_train": T[:24], "x_test": X[24:], "t_test": T[24:]}
WRONG = {
    "other names": ({"images": X, "labels": T}, ["images, labels", "x_train"]),
    "no labels": ({"x": X}, ["holds the arrays x;"]),
    "half of the parts": ({"x_train": X, "t_train": T}, ["x_test"]),
    "flat images": ({"x": X.reshape(30, -1), "t": T}, ["(30, 60)", "(N, C, H, W)"]),
    "no images": ({"x": X[:0], "t": T[:0]}, ["(0, 3, 4, 5)"]),
    "complex images": ({"x": X * 1j, "t": T}, ["complex128"]),
    "text for images": ({"x": np.full((30, 4, 5), "a"), "t": T}, ["<U1"]),
    "not finite": ({"x": np.where(X > 100, np.nan, X), "t": T}, ["finite"]),
    "labels short": ({"x": X, "t": T[:-1]}, ["(29,)", "30 images"]),
    "labels one-hot": ({"x": X, "t": np.eye(3, dtype=int)[T]}, ["(30, 3)"]),
    "labels not whole": ({"x": X, "t": T / 1.0}, ["float64"]),
    "labels from 1": ({"x": X, "t": T + 1}, ["1, 2, 3", "0, 1, 2"]),
    "labels with a gap": ({"x": X, "t": T * 2}, ["0, 2, 4"]),
    "labels below 0": ({"x": X, "t": T - 1}, ["-1, 0, 1"]),
    "one class": ({"x": X, "t": T * 0}, ["at least two"]),
    "test images of another shape": (HALVES | {"x_test": X[24:, :, :3]}, ["(6, 3, 3, 5)", "agree"]),
    "test images of another dtype": (HALVES | {"x_test": X[24:] / 255}, ["float32", "agree"]),
}


@pytest.mark.filterwarnings("ignore:overflow|invalid value")
@pytest.mark.parametrize(("arrays", "named"), WRONG.values(), ids=WRONG)
def test_refuses_arrays_that_do_not_form_a_data_set(tmp_path: Path, arrays, named):
    path = npz(tmp_path / "a.npz", **arrays)
    with refused(path, *named):
        load("images", root=path)


def test_refuses_pickled_objects(tmp_path: Path):
    class Harm:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "harmed",))

    x = np.empty(30, object)
    x[:] = [Harm()] * 30
    path = npz(tmp_path / "a.npz", x=x, t=T)
    with refused(path, "np.savez"):
        load("images", root=path)
    bare = tmp_path / "b.npz"
    bare.write_bytes(pickle.dumps(Harm()))
    with refused(bare, "np.savez"):
        load("images", root=str(bare))
    assert not (tmp_path / "harmed").exists()


def test_refuses_broken_archives(tmp_path: Path):
    whole = Path(npz(tmp_path / "a.npz", x=X, t=T)).read_bytes()
    flipped = bytearray(whole)
    flipped[300] ^= 255
    lone = io.BytesIO()
    np.save(lone, X)
    bad = tmp_path / "bad.npz"
    for contents in (b"", b"no archive", whole[:-40], bytes(flipped), lone.getvalue()):
        bad.write_bytes(contents)
        with refused(bad, "np.savez"):
            load("images", root=str(bad))


def test_refuses_a_header_larger_than_its_data(tmp_path: Path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (2**60, 28, 28)})
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", header.getvalue() + bytes(100))
        archive.writestr("t.npy", header.getvalue())
    with refused(path, "np.savez"):
        load("images", root=str(path))


BROKEN_MEMBERS = {
    "nothing": b"",
    "text": b"no array",
    "a header that ends within a bracket": b"\x93NUMPY\1\0\x76\0" + b"{'shape': (12, ".ljust(117) + b"\n" + bytes(99),
    "a negative shape": b"\x93NUMPY\1\0\x76\0"
    + b"{'descr': '|u1', 'fortran_order': False, 'shape': (-3, -4)}".ljust(117) + b"\n" + bytes(12),
}  # fmt: skip


@pytest.mark.parametrize("member", BROKEN_MEMBERS.values(), ids=BROKEN_MEMBERS)
def test_refuses_archive_members_that_are_not_arrays(tmp_path: Path, member: bytes):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", member)
        archive.writestr("t.npy", member)
    with refused(path, "np.savez"):
        load("images", root=str(path))


def test_archive_with_a_false_size_allocates_no_memory(tmp_path: Path):
    """The archive's directory claims a gigabyte for a member of a few bytes."""
    path = tmp_path / "a.npz"
    np.savez(path, x=X, t=T)
    whole = bytearray(path.read_bytes())
    entry = whole.index(b"PK\1\2")
    whole[entry + 20 : entry + 28] = struct.pack("<II", 2**30, 2**30)
    path.write_bytes(whole)
    tracemalloc.start()
    try:
        with refused(path, "np.savez"):
            load("images", root=str(path))
        assert tracemalloc.get_traced_memory()[1] < 2**23
    finally:
        tracemalloc.stop()


def test_refuses_paths_outside_the_archive_and_writes_nothing(tmp_path: Path):
    path = tmp_path / "deep" / "a.npz"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../x.npy", b"")
        archive.writestr("/tmp/t\n.npy", b"")
    with refused(path, "../x"):
        load("images", root=str(path))
    assert [found.name for found in tmp_path.rglob("*")] == ["deep", "a.npz"]


def test_refuses_an_archive_above_the_size_limit(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("nl_training.data.npz.MAX_BYTES", 1000)
    path = tmp_path / "a.npz"
    np.savez_compressed(path, x=np.zeros((30, 28, 28), np.uint8), t=T)
    with refused(path, "more than the 1,000"):
        load("images", root=str(path))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.integers(0, 2000), st.binary(max_size=3))
def test_a_damaged_archive_gives_a_data_set_or_a_user_error(tmp_path: Path, at, patch):
    path = Path(npz(tmp_path / "fuzz.npz", x=X, t=T))
    contents = bytearray(path.read_bytes())
    contents[at : at + len(patch)] = patch
    path.write_bytes(contents)
    with at_most_refused():
        load("images", root=str(path))
