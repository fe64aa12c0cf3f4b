"""Every reader of external files, with valid files as seeds, for the fuzzer and its tests.

Readers of files with a checksum are listed twice: plain, where only the unchanged file is valid, and "sealed", where
the checksum is recomputed for each input, so that the fuzzer reaches the code behind the check.
"""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image
from support.archives import idx, put, records, sealed, small_cifar, small_letters

from nl_layers.optimizers import Momentum
from nl_layers.schedules import Cosine
from nl_models import build
from nl_models.weights import save_state
from nl_nodes import Device, UserError
from nl_nodes.runtime.cut import ProductCut
from nl_nodes.verify.certificate import Certificate, Verdict, load_certificate
from nl_training.config.cli import check
from nl_training.data import load
from nl_training.data.cifar import CifarSet
from nl_training.data.dataset import Dataset, Normalization, Split
from nl_training.data.emnist import LettersSet
from nl_training.data.files import read_file
from nl_training.data.idx import parse_idx
from nl_training.data.images import read_image
from nl_training.training.checkpoint import read as read_checkpoint
from nl_training.training.checkpoint import write
from nl_training.training.snapshot import restore, snapshot
from nl_training.training.trainer import Trainer, TrainOptions

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (6, 5, 3), dtype=np.uint8)


@dataclass(frozen=True)
class Reader:
    """One reader.

    Attributes:
        seeds: returns valid files.
        read: reads the file at a path; raises `UserError` if it is invalid.
        binary: whether its files are binary.
        checked: whether its files have a checksum. If so, the fuzzer must not use compared values, among which it
            would find the expected checksum.
        traced: whether its allocations are traced, which makes it several times slower.
    """

    seeds: Callable[[], Sequence[bytes]]
    read: Callable[[Path], object]
    binary: bool = True
    checked: bool = False
    traced: bool = True


def _written(save: Callable[[Path], object]) -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder, "file")
        save(path)
        return path.read_bytes()


def _idx() -> list[bytes]:
    plain = [idx(array) for array in (PIXELS[..., 0], np.arange(7, dtype=np.uint8), PIXELS)]
    return [*plain, *map(gzip.compress, plain)]


def _images() -> list[bytes]:
    kinds = {
        "PNG": ("L", "LA", "RGB", "RGBA", "P", "1"), "JPEG": ("L", "RGB", "CMYK"), "BMP": ("L", "RGB"), "GIF": ("P",),
        "WEBP": ("RGB", "RGBA"), "PPM": ("L", "RGB", "1"), "TIFF": ("L", "RGBA", "CMYK", "I;16"),
        "JPEG2000": ("LA", "RGB"),
    }  # fmt: skip
    picture, deep = Image.fromarray(PIXELS), Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257)
    return [
        _written(
            lambda path, kind=kind, mode=mode: (deep if mode == "I;16" else picture.convert(mode)).save(path, kind)
        )
        for kind, modes in kinds.items()
        for mode in modes
    ]


def _array(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


X, T = RNG.integers(0, 256, (12, 3, 2), dtype=np.uint8), np.arange(12) % 3


def _archive(x: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x.npy", x)
        archive.writestr("t.npy", _array(T))
    return file.getvalue()


def _read_npz(path: Path) -> None:
    load("images", root=str(path))


CSV = [
    "label,a,b,c,d\n" + "".join(f"{n % 2},{n},2,255,0\n" for n in range(8)),
    '1,2\n0,"3"\n\n1, 4\n0,5\n1,6\n0,7\n',
]
CIFAR = {
    name: records(np.arange(2 * 3072).reshape(2, 3072) % 256, np.arange(2))
    for name in ("data_batch_1.bin", "test_batch.bin")
}
SMALL_CIFAR, CIFAR_ARCHIVE = small_cifar(CIFAR, classes=("a", "b"))
LETTERS = {
    f"emnist-letters-{part}-{kind}-ubyte.gz": gzip.compress(idx(array))
    for part in ("train", "test")
    for kind, array in (("images-idx3", np.zeros((2, 28, 28), np.uint8)), ("labels-idx1", np.array([1, 26], np.uint8)))
}
IMAGES = "emnist-letters-test-images-idx3-ubyte.gz"
SMALL_LETTERS, LETTERS_ARCHIVE = small_letters(LETTERS, 2, 2)


def _read_csv(path: Path) -> None:
    load("csv", root=str(path), validation=0)


def _read_file_of(reader: CifarSet | LettersSet, others: Mapping[str, bytes], name: str, path: Path) -> None:
    """Read the file as one of a data set's unpacked files, the others being intact."""
    with TemporaryDirectory(dir=path.parent) as folder:
        reader.load(put(Path(folder), {**others, name: path.read_bytes()}))


def _read_sealed_archive(reader: CifarSet | LettersSet, path: Path) -> None:
    """Read the file as a data set's archive with the published SHA-256."""
    data = path.read_bytes()
    with TemporaryDirectory(dir=path.parent) as folder:
        small = replace(reader, archive=sealed(reader.archive, data))
        small.load(put(Path(folder), {small.archive.name: data}))


def _read_array(path: Path) -> None:
    """Read the file as a member of an archive with a valid checksum."""
    path.write_bytes(_archive(path.read_bytes()))
    _read_npz(path)


@cache
def _trainer() -> Trainer:
    part = Split(X[:, None] / 255.0, T)
    data = Dataset("small", part, None, part, ("a", "b", "c"), Normalization((0.0,), (1.0,)), "d" * 64)
    net = build("mlp", input_shape=(1, 3, 2), classes=3, hidden=(4,), batch_norm=True, device=Device(threads=1))
    return Trainer(net, Momentum(lr=0.1), Cosine(), data, TrainOptions(epochs=1, batch_size=4), seed=0)


@cache
def _checkpoint() -> bytes:
    trainer = _trainer()
    trainer.run()
    return _written(lambda path: write(snapshot(trainer), path))


def _read_checkpoint(path: Path) -> None:
    read_checkpoint(path)
    assert path.read_bytes() == _checkpoint(), "a damaged checkpoint was accepted"


def _read_sealed_checkpoint(path: Path) -> None:
    """Read the file as a checkpoint with a valid checksum, and resume a training from it."""
    data = path.read_bytes()
    path.write_bytes(data + sha256(data).digest())
    restore(_trainer(), read_checkpoint(path))


def _weights() -> bytes:
    return _written(lambda path: save_state(_trainer().net.state_dict(), path))


@cache
def _certificate() -> Certificate:
    verdict = Verdict("w", (3, 4), 1e-15, 1.0, 3, 0.5, 0.5, "verified")
    return Certificate(
        fingerprint="f" * 64, code="c" * 64, nodes=3, edges=2, dtype="float64", device="cpu", oracle="complex step",
        tolerance=1e-10, draws=3, seed=0, tensors=(verdict,), missing_tensors=("b",),
        structural_zeros=(), mutation=None, gpu="not run", seconds=0.5,
        product_cut=ProductCut(5, narrow=True),
    )  # fmt: skip


def _read_certificate(path: Path) -> None:
    found = load_certificate(path, "f" * 64, "c" * 64)
    assert found == _certificate(), "a damaged certificate was accepted"


def _dump(fields: dict[str, object]) -> str:
    return json.dumps(fields, indent=1, sort_keys=True) + "\n"


def _read_sealed_certificate(path: Path) -> None:
    """Read the file as a certificate with a valid checksum, and use all its properties."""
    try:
        fields = json.loads(path.read_bytes())
        fields.pop("checksum", None)
        path.write_text(_dump({**fields, "checksum": sha256(_dump(fields).encode()).hexdigest()}))
    except (ValueError, AttributeError, TypeError, RecursionError):
        return  # not text
    found = load_certificate(path, "f" * 64, "c" * 64)
    assert (found.status, found.worst, found.failed) is not None


COMMANDS = [
    "model=mlp\noptimizer.lr=0.1\ntrainer.epochs=3", "-m\nmodel=mlp,cnn3\nseed=range(0,3)", "data.root='a=b'",
    "-m\noptimizer.lr=choice(0.1,0.01)\nexperiment=glob(two*)", "device=gpu\ndevice.threads=null", "experiment=race",
    "model=mlp\nmodel.hidden=[10,20]\nregularization=all\nregularization.batch_norm=before_affine",
    "hydra.run.dir=x\nseed=1\ntracking.uri=\"sqlite:///x.db\"", "optimizer.lr=1e-3\nresume=latest",
    "reduced=true\nexperiment=apples", "seed=${trainer.epochs}",
]  # fmt: skip


def _read_command(path: Path) -> None:
    words = path.read_bytes().decode(errors="surrogateescape").split("\n")
    multirun = words[0] == "-m"
    check(words[multirun:], multirun)


READERS = {
    "idx": Reader(_idx, lambda path: parse_idx(read_file(path, 2**16), str(path))),
    "image": Reader(_images, read_image),
    "npz": Reader(lambda: [_archive(_array(X)), _written(lambda path: _save_npz(path))], _read_npz),
    "npz array": Reader(lambda: [_array(X), _array(X / 2), _array(np.asfortranarray(X))], _read_array),
    "csv": Reader(lambda: [text.encode() for text in CSV], _read_csv, binary=False),
    "cifar": Reader(
        lambda: [CIFAR["test_batch.bin"]], lambda path: _read_file_of(SMALL_CIFAR, CIFAR, "test_batch.bin", path)
    ),
    "sealed cifar": Reader(lambda: [CIFAR_ARCHIVE], lambda path: _read_sealed_archive(SMALL_CIFAR, path)),
    "letters": Reader(lambda: [LETTERS[IMAGES]], lambda path: _read_file_of(SMALL_LETTERS, LETTERS, IMAGES, path)),
    "sealed letters": Reader(lambda: [LETTERS_ARCHIVE], lambda path: _read_sealed_archive(SMALL_LETTERS, path)),
    "checkpoint": Reader(lambda: [_checkpoint()], _read_checkpoint, checked=True),
    "sealed checkpoint": Reader(lambda: [_checkpoint()[:-32]], _read_sealed_checkpoint),
    "weights": Reader(lambda: [_weights()], lambda path: _trainer().net.load(path)),
    "certificate": Reader(lambda: [_certificate().text().encode()], _read_certificate, binary=False, checked=True),
    "sealed certificate": Reader(lambda: [_certificate().text().encode()], _read_sealed_certificate, binary=False),
    "command line": Reader(lambda: [text.encode() for text in COMMANDS], _read_command, binary=False, traced=False),
}


def _save_npz(path: Path) -> None:
    with path.open("wb") as file:
        np.savez_compressed(file, x_train=X / 2, t_train=T, x_test=X / 2, t_test=T)


def taken(reader: Reader, path: Path) -> bool:
    """Return whether a reader accepts a file; anything except that or a refusal in one line is an error."""
    try:
        reader.read(path)
    except UserError as error:
        said = str(error)
    else:
        return True
    assert "\n" not in said, f"more than one line: {said}"
    return False
