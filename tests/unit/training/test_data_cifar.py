"""CIFAR-10 and CIFAR-100: the binary records, the archive, unpacked files, downloads."""

import dataclasses
import gzip
import io
import tarfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from support.archives import cifar_files, colours, put, records, sealed, small_cifar, tar
from support.assertions import refused
from support.mirrors import serving

from nl_training.data import load
from nl_training.data.cifar import CIFAR10, CIFAR100, CifarSet

ARCHIVE = "cifar-10-binary.tar.gz"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path / "cache" / "node-layer-network" / "cifar10"


def of_archive(members: dict[str, bytes]) -> tuple[CifarSet, bytes]:
    """A data set of small files whose published archive holds `members` instead."""
    data = tar(members)
    return dataclasses.replace(small_cifar(cifar_files())[0], archive=sealed(CIFAR10.archive, data)), data


@pytest.mark.parametrize("labels", [1, 2])
def test_archive_is_read_in_the_order_of_its_batches(tmp_path: Path, labels: int) -> None:
    files = cifar_files(labels=labels)
    small, data = small_cifar(files, labels=labels)
    source = small.load(put(tmp_path, {ARCHIVE: data}))
    first, second, test = (colours(20, 10, seed) for seed in range(3))
    np.testing.assert_array_equal(source.train.x, np.concatenate([first[0], second[0]]))
    np.testing.assert_array_equal(source.train.t, np.concatenate([first[1], second[1]]))
    np.testing.assert_array_equal(source.test.x, test[0])
    assert source.train.x.shape == (40, 3, 32, 32)
    assert source.train.t.dtype == np.int64
    assert sorted(path.name for path in tmp_path.iterdir()) == [ARCHIVE]  # nothing is unpacked beside it


@pytest.mark.parametrize("below", ["", CIFAR10.folder])
def test_unpacked_files_give_the_same_images(tmp_path: Path, below: str) -> None:
    files = cifar_files()
    small, data = small_cifar(files)
    packed = small.load(put(tmp_path / "packed", {ARCHIVE: data}))
    put(tmp_path / "data" / below, files)
    assert small.load(tmp_path / "data").digest() == packed.digest()


def test_published_sets_differ_in_labels_and_files() -> None:
    assert [sum(part.values()) for part in (CIFAR10.train, CIFAR10.test)] == [50_000, 10_000]
    assert [sum(part.values()) for part in (CIFAR100.train, CIFAR100.test)] == [50_000, 10_000]
    assert (CIFAR10.labels, len(CIFAR10.classes), CIFAR100.labels) == (1, 10, 2)
    assert len(CIFAR100.classes) == 100
    assert list(CIFAR100.classes) == sorted(set(CIFAR100.classes))


def test_another_archive_is_refused_before_it_is_opened(tmp_path: Path) -> None:
    _, data = small_cifar(cifar_files())
    put(tmp_path, {ARCHIVE: data, CIFAR100.archive.name: data})
    for name, archive in (("cifar10", ARCHIVE), ("cifar100", CIFAR100.archive.name)):
        with refused(tmp_path / archive, "SHA-256"):
            load(name, root=str(tmp_path))


def test_truncated_archive_is_refused(tmp_path: Path) -> None:
    small, data = small_cifar(cifar_files())
    put(tmp_path, {ARCHIVE: data[:-100]})
    with refused(tmp_path / ARCHIVE, "truncated"):
        small.load(tmp_path)
    cut = dataclasses.replace(small, archive=sealed(small.archive, data[:-100]))
    with refused(tmp_path / ARCHIVE, "corrupt"):
        cut.load(tmp_path)


def test_missing_members_are_named(tmp_path: Path) -> None:
    files = cifar_files()
    small, data = of_archive({f"{CIFAR10.folder}/{name}": raw for name, raw in list(files.items())[1:]})
    with refused(tmp_path / ARCHIVE, "lacks cifar-10-batches-bin/data_batch_1.bin"):
        small.load(put(tmp_path, {ARCHIVE: data}))


def test_members_are_found_by_their_whole_name_and_links_are_not_followed(tmp_path: Path) -> None:
    files = cifar_files()
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name in ("../data_batch_1.bin", f"{CIFAR10.folder}/data_batch_1.bin"):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(link)
    small = dataclasses.replace(small_cifar(files)[0], archive=sealed(CIFAR10.archive, file.getvalue()))
    with refused("lacks cifar-10-batches-bin/data_batch_1.bin"):
        small.load(put(tmp_path, {ARCHIVE: file.getvalue()}))


def test_member_of_another_size_is_refused_and_not_read_whole(tmp_path: Path) -> None:
    files = {f"{CIFAR10.folder}/{name}": raw for name, raw in cifar_files().items()}
    small, data = of_archive({**files, f"{CIFAR10.folder}/test_batch.bin": bytes(2**27)})
    put(tmp_path, {ARCHIVE: data})
    tracemalloc.start()
    try:
        with refused("test_batch.bin", "61,460 bytes"):
            small.load(tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


def test_unpacked_files_that_are_missing_short_or_long_are_refused(tmp_path: Path) -> None:
    files = cifar_files()
    small, _ = small_cifar(files)
    with refused(tmp_path, "lacks data_batch_1.bin", "test_batch.bin", ARCHIVE):
        small.load(tmp_path)
    put(tmp_path, files)
    for change in (files["test_batch.bin"][:-1], files["test_batch.bin"] + b"\0"):
        put(tmp_path, {"test_batch.bin": change})
        with refused("test_batch.bin", "61,460 bytes"):
            small.load(tmp_path)
    (tmp_path / "data_batch_2.bin").unlink()
    with refused("lacks data_batch_2.bin;"):
        small.load(tmp_path)


@pytest.mark.parametrize("label", [9, 10, 255])
def test_unpacked_files_with_a_changed_label_are_refused(tmp_path: Path, label: int) -> None:
    files = cifar_files()
    x, t = colours(20, 10)
    t = t.copy()
    t[0] = label
    put(tmp_path, {**files, "data_batch_1.bin": records(x, t)})
    with refused(tmp_path, "not equally frequent"):
        small_cifar(files)[0].load(tmp_path)


def test_archive_is_downloaded_once_and_lands_whole(tmp_path: Path, cache: Path, capfd) -> None:
    small, data = small_cifar(cifar_files())
    with serving(put(tmp_path / "mirror", {ARCHIVE: data})) as (url, served):
        mirrored = dataclasses.replace(small, archive=sealed(small.archive, data, (url,)))
        first = mirrored.load(None)
    assert served == [f"/{ARCHIVE}"]
    assert f"downloading {url}{ARCHIVE}" in capfd.readouterr().err
    assert [path.name for path in cache.iterdir()] == [ARCHIVE]
    assert mirrored.load(None).digest() == first.digest()  # the mirror is closed now


@pytest.mark.parametrize("change", [b"", b"x"])
def test_failed_download_leaves_nothing_and_gives_advice(tmp_path: Path, cache: Path, change: bytes) -> None:
    """A mirror with a truncated and with a longer file, then none at all."""
    small, data = small_cifar(cifar_files())
    wrong = data + change if change else data[:-1]
    with serving(put(tmp_path / "mirror", {ARCHIVE: wrong})) as (url, _):
        mirrored = dataclasses.replace(small, archive=sealed(small.archive, data, (url,)))
        with refused(ARCHIVE, "could not be downloaded", "more than" if change else "truncated", "data.root=FOLDER"):
            mirrored.load(None)
    with refused(ARCHIVE, "refused", "data.root=FOLDER"):
        mirrored.load(None)
    assert list(cache.iterdir()) == []


def test_archive_that_is_no_tar_is_refused(tmp_path: Path) -> None:
    for data in (b"", b"text", gzip.compress(b"x" * 2000)):
        small = dataclasses.replace(small_cifar(cifar_files())[0], archive=sealed(CIFAR10.archive, data))
        with refused(tmp_path / ARCHIVE):
            small.load(put(tmp_path, {ARCHIVE: data}))
