"""CIFAR-10 and CIFAR-100 in their binary form: 50,000 + 10,000 colour images (3, 32, 32).

A record is the label, one byte (CIFAR-100: a coarse label, which is skipped, then the fine one), and 3,072 pixels in
the order C, H, W. The form with pickled objects is never read. By A. Krizhevsky, V. Nair and G. Hinton; published at
https://www.cs.toronto.edu/~kriz/cifar.html without a licence. Source: Krizhevsky, "Learning Multiple Layers of Features
from Tiny Images", 2009, section 3.
"""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import numpy as np

from nl_nodes import UserError
from nl_training.data.archive import Archive
from nl_training.data.dataset import Source, Split
from nl_training.data.files import read_file, read_stream, reason

SHAPE = (3, 32, 32)
_PIXELS = 3 * 32 * 32
# Exceptions observed on broken archives, more than tarfile documents.
_BROKEN = (OSError, EOFError, ValueError, OverflowError, tarfile.TarError, zlib.error)


@dataclass(frozen=True)
class CifarSet:
    """A data set in CIFAR's binary form.

    Attributes:
        name: its name in the config.
        archive: the published archive.
        folder: the folder in the archive that holds the files.
        train: images by file name, in order.
        test: images by file name.
        labels: label bytes of a record, of which the last is the class.
        classes: class names.
    """

    name: str
    archive: Archive
    folder: str
    train: Mapping[str, int]
    test: Mapping[str, int]
    labels: int
    classes: tuple[str, ...]

    def load(self, root: Path | None) -> Source:
        """Read the archive or the unpacked files in `root`; if that is None, the cached or downloaded archive.

        The archive is verified by its SHA-256. Unpacked files must have the published size, labels of the classes and
        equally many images of each class.
        """
        archive = self.archive.cached(self.name) if root is None else self.archive.find(root)
        files = self._unpacked(archive) if archive else self._read(cast(Path, root))
        source = Source(self._split(files, self.train), self._split(files, self.test), self.classes)
        for split in (source.train, source.test):
            counts = np.bincount(split.t, minlength=len(self.classes))
            if len(counts) > len(self.classes) or counts.min() != counts.max():
                raise UserError(
                    f"{archive or root} is not {self.name}: its classes are not equally frequent; "
                    "replace it by the original"
                )
        return source

    def _sizes(self) -> dict[str, int]:
        """Return the size in bytes of each file."""
        return {name: images * (self.labels + _PIXELS) for name, images in {**self.train, **self.test}.items()}

    def _read(self, root: Path) -> dict[str, bytearray]:
        """Read the unpacked files in `root`, or in the folder that the archive makes there."""
        sizes = self._sizes()
        folder = next((path for path in (root, root / self.folder) if (path / next(iter(sizes))).is_file()), root)
        missing = [name for name in sizes if not (folder / name).is_file()]
        if missing:
            raise UserError(
                f"{folder} lacks {', '.join(missing)}; data.root must hold {self.archive.name} or its files unpacked"
            )
        return {name: read_file(folder / name, size) for name, size in sizes.items()}

    def _unpacked(self, path: Path) -> dict[str, bytearray]:
        """Read the files in the archive at `path`, by name and into memory only."""
        sizes = {f"{self.folder}/{name}": size for name, size in self._sizes().items()}
        found: dict[str, bytearray] = {}
        try:
            with gzip.open(path) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
                for member in tar:
                    if member.isreg() and member.name in sizes:
                        content = cast(IO[bytes], tar.extractfile(member))
                        found[Path(member.name).name] = read_stream(content, sizes[member.name])
        except _BROKEN as error:
            raise UserError(f"{path} is corrupt ({reason(error)}); replace it by an intact copy") from error
        missing = [name for name in sizes if Path(name).name not in found]
        if missing:
            raise UserError(f"{path} lacks {', '.join(missing)}; replace it by the original")
        return found

    def _split(self, files: dict[str, bytearray], counts: Mapping[str, int]) -> Split:
        """Parse the records of a split; each file is freed when it is copied."""
        x = np.empty((sum(counts.values()), *SHAPE), np.uint8)
        t = np.empty(len(x), np.int64)
        end = 0
        for name, images in counts.items():
            data, size = files.pop(name), images * (self.labels + _PIXELS)
            if len(data) != size:
                raise UserError(
                    f"{self.name}'s {name} is not of the {size:,} bytes published; replace it by the original"
                )
            records = np.frombuffer(data, np.uint8).reshape(images, -1)
            start, end = end, end + images
            x[start:end] = records[:, self.labels :].reshape(-1, *SHAPE)
            t[start:end] = records[:, self.labels - 1]
        return Split(x, t)


_MIRRORS = ("https://www.cs.toronto.edu/~kriz/",)

CIFAR10 = CifarSet(
    name="cifar10",
    archive=Archive(
        "cifar-10-binary.tar.gz",
        170_052_171,
        "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        _MIRRORS,
    ),
    folder="cifar-10-batches-bin",
    train={f"data_batch_{number}.bin": 10_000 for number in range(1, 6)},
    test={"test_batch.bin": 10_000},
    labels=1,
    classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
)

CIFAR100 = CifarSet(
    name="cifar100",
    archive=Archive(
        "cifar-100-binary.tar.gz",
        168_513_733,
        "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
        _MIRRORS,
    ),
    folder="cifar-100-binary",
    train={"train.bin": 50_000},
    test={"test.bin": 10_000},
    labels=2,
    classes=(
        "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle", "bowl", "boy",
        "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle", "chair", "chimpanzee", "clock",
        "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur", "dolphin", "elephant", "flatfish",
        "forest", "fox", "girl", "hamster", "house", "kangaroo", "keyboard", "lamp", "lawn_mower", "leopard", "lion",
        "lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain", "mouse", "mushroom", "oak_tree", "orange",
        "orchid", "otter", "palm_tree", "pear", "pickup_truck", "pine_tree", "plain", "plate", "poppy", "porcupine",
        "possum", "rabbit", "raccoon", "ray", "road", "rocket", "rose", "sea", "seal", "shark", "shrew", "skunk",
        "skyscraper", "snail", "snake", "spider", "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank",
        "telephone", "television", "tiger", "tractor", "train", "trout", "tulip", "turtle", "wardrobe", "whale",
        "willow_tree", "wolf", "woman", "worm",
    ),
)  # fmt: skip
