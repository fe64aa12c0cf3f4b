"""EMNIST letters: orientation, classes, the archive and its four files."""

import dataclasses
import gzip
from pathlib import Path
from string import ascii_uppercase

import numpy as np
import pytest
from support.archives import idx, letter_files, put, sealed, small_letters
from support.assertions import refused
from support.mirrors import serving

from nl_training.data import load
from nl_training.data.emnist import EMNIST

FILES = letter_files()
IMAGES, LABELS = "emnist-letters-train-images-idx3-ubyte", "emnist-letters-train-labels-idx1-ubyte"


def test_letters_are_upright_and_their_classes_a_to_z(tmp_path: Path) -> None:
    small, data = small_letters(FILES)
    source = small.load(put(tmp_path, {"gzip.zip": data}))
    assert source.train.x.shape == (78, 1, 28, 28)
    assert source.test.x.shape == (52, 1, 28, 28)
    assert (source.train.x[:, 0, 0] == 255).all()
    assert source.train.x[:, :, 1:].max() < 100
    raw = np.frombuffer(gzip.decompress(FILES[f"{IMAGES}.gz"]), np.uint8, offset=16).reshape(78, 28, 28)
    np.testing.assert_array_equal(source.train.x[5, 0].T, raw[5])
    assert source.classes == tuple(ascii_uppercase)
    assert source.train.t.tolist() == list(range(26)) * 3
    assert source.train.x.flags.c_contiguous


def test_four_files_give_the_same_images(tmp_path: Path) -> None:
    small, data = small_letters(FILES)
    packed = small.load(put(tmp_path / "packed", {"gzip.zip": data}))
    assert small.load(put(tmp_path / "gz", FILES)).digest() == packed.digest()
    plain = {name.removesuffix(".gz"): gzip.decompress(raw) for name, raw in FILES.items()}
    assert small.load(put(tmp_path / "plain", plain)).digest() == packed.digest()


def test_archive_is_downloaded_once(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    small, data = small_letters(FILES)
    with serving(put(tmp_path / "mirror", {"gzip.zip": data})) as (url, served):
        mirrored = dataclasses.replace(small, archive=sealed(small.archive, data, (url,)))
        first = mirrored.load(None)
    assert served == ["/gzip.zip"]
    assert mirrored.load(None).digest() == first.digest()
    assert [path.name for path in (tmp_path / "cache/node-layer-network/emnist").iterdir()] == ["gzip.zip"]


def test_another_archive_is_refused_before_it_is_opened(tmp_path: Path) -> None:
    _, data = small_letters(FILES)
    with refused(tmp_path / "gzip.zip", "SHA-256"):
        load("emnist", root=str(put(tmp_path, {"gzip.zip": data})))


def test_missing_and_broken_members_are_named(tmp_path: Path) -> None:
    small, data = small_letters({name: raw for name, raw in FILES.items() if IMAGES not in name})
    with refused(tmp_path / "gzip.zip", f"lacks gzip/{IMAGES}.gz"):
        small.load(put(tmp_path, {"gzip.zip": data}))
    for broken in (FILES[f"{IMAGES}.gz"][:-50], b"no gzip"):
        small, data = small_letters({**FILES, f"{IMAGES}.gz": broken})
        with refused(tmp_path / "gzip.zip", "corrupt"):
            small.load(put(tmp_path, {"gzip.zip": data}))
    small = dataclasses.replace(small, archive=sealed(small.archive, b"no zip"))
    with refused(tmp_path / "gzip.zip", "corrupt"):
        small.load(put(tmp_path, {"gzip.zip": b"no zip"}))


def test_missing_files_are_named(tmp_path: Path) -> None:
    put(tmp_path, {name: raw for name, raw in FILES.items() if IMAGES not in name})
    with refused(tmp_path, f"lacks {IMAGES} (plain or .gz)", "gzip.zip"):
        small_letters(FILES)[0].load(tmp_path)


BROKEN = {
    "too few": (IMAGES, np.zeros((77, 28, 28), np.uint8), "(77, 28, 28)"),
    "too many": (IMAGES, np.zeros((79, 28, 28), np.uint8), "more than"),
    "not 28x28": (IMAGES, np.zeros((78, 14, 56), np.uint8), "(78, 14, 56)"),
    "label 0": (LABELS, (np.arange(78) % 27).astype(np.uint8), "1 to 26"),
    "label 27": (LABELS, (np.arange(78) % 27 + 1).astype(np.uint8), "1 to 26"),
}


@pytest.mark.parametrize(("name", "array", "named"), BROKEN.values(), ids=BROKEN)
def test_files_of_another_form_are_refused(tmp_path: Path, name: str, array: np.ndarray, named: str) -> None:
    small, _ = small_letters(FILES)
    put(tmp_path, {**FILES, f"{name}.gz": gzip.compress(idx(array))})
    with refused(named):
        small.load(tmp_path)


def test_published_archive_has_twenty_six_balanced_classes() -> None:
    assert (EMNIST.train % 26, EMNIST.test % 26) == (0, 0)
