"""Small data sets in the byte form of CIFAR's and EMNIST's archives."""

import gzip
import hashlib
import io
import tarfile
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from string import ascii_uppercase

import numpy as np

from nl_training.data.archive import Archive
from nl_training.data.cifar import CIFAR10, CifarSet
from nl_training.data.emnist import LettersSet


def colours(count: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return noisy images (count, 3, 32, 32), each class of a colour of its own, and labels in turn."""
    rng = np.random.default_rng(seed)
    t = np.arange(count) % classes
    palette = np.random.default_rng(7).integers(20, 236, (classes, 3))
    x = palette[t][:, :, None, None] + rng.integers(-20, 21, (count, 3, 32, 32))
    return x.astype(np.uint8), t


def records(x: np.ndarray, t: np.ndarray, labels: int = 1) -> bytes:
    """Return CIFAR's records: with two label bytes the first is a coarse label, here 200."""
    coarse = np.full((len(t), labels - 1), 200, np.uint8)
    return np.concatenate([coarse, t[:, None], x.reshape(len(x), -1)], axis=1).astype(np.uint8).tobytes()


def tar(members: Mapping[str, bytes]) -> bytes:
    """Return a tar.gz of these files."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return file.getvalue()


def sealed(archive: Archive, data: bytes, mirrors: tuple[str, ...] = ()) -> Archive:
    """Return the archive as if `data` were the published one."""
    return replace(archive, size=len(data), sha256=hashlib.sha256(data).hexdigest(), mirrors=mirrors)


def cifar_files(per_batch: int = 20, classes: int = 10, labels: int = 1) -> dict[str, bytes]:
    """Return the files of a small data set by name: two batches to train, one to test."""
    names = ("data_batch_1.bin", "data_batch_2.bin", "test_batch.bin")
    return {name: records(*colours(per_batch, classes, seed), labels) for seed, name in enumerate(names)}


def small_cifar(
    files: Mapping[str, bytes], labels: int = 1, classes: tuple[str, ...] = CIFAR10.classes
) -> tuple[CifarSet, bytes]:
    """Return a data set of such files and its archive, which has other files too."""
    size, folder = labels + 3072, CIFAR10.folder
    data = tar({f"{folder}/batches.meta.txt": b"a\nb\n", **{f"{folder}/{name}": raw for name, raw in files.items()}})
    counts = {name: len(raw) // size for name, raw in files.items()}
    test = {"test_batch.bin": counts.pop("test_batch.bin")}
    archive = sealed(CIFAR10.archive, data)
    return replace(CIFAR10, archive=archive, train=counts, test=test, labels=labels, classes=classes), data


def idx(array: np.ndarray) -> bytes:
    """Return an IDX file of unsigned bytes."""
    return b"\0\0\x08" + bytes([array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()


def letter_files(train: int = 78, test: int = 52) -> dict[str, bytes]:
    """Return the four gzip files by name: each image is bright in its first column, so upright in its first row."""
    files = {}
    for seed, (part, count) in enumerate({"train": train, "test": test}.items()):
        rng = np.random.default_rng(seed)
        x = rng.integers(0, 100, (count, 28, 28), dtype=np.uint8)
        x[:, :, 0] = 255
        t = (np.arange(count) % len(ascii_uppercase) + 1).astype(np.uint8)
        files[f"emnist-letters-{part}-images-idx3-ubyte.gz"] = gzip.compress(idx(x))
        files[f"emnist-letters-{part}-labels-idx1-ubyte.gz"] = gzip.compress(idx(t))
    return files


def small_letters(files: Mapping[str, bytes], train: int = 78, test: int = 52) -> tuple[LettersSet, bytes]:
    """Return a data set of such files and its archive."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as members:
        members.writestr("gzip/emnist-digits-mapping.txt", "0 48\n")
        for name, raw in files.items():
            members.writestr(f"gzip/{name}", raw)
    data = file.getvalue()
    return LettersSet(sealed(Archive("gzip.zip", 0, "", ()), data), train, test), data


def put(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Write files into a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, raw in files.items():
        (folder / name).write_bytes(raw)
    return folder
