"""MNIST, Fashion-MNIST and Kuzushiji-MNIST: four IDX files each, from a folder, a package, the cache or a mirror.

All have 60,000 + 10,000 grey images (1, 28, 28) of 10 classes. MNIST: Y. LeCun and C. Cortes, CC BY-SA 3.0.
Fashion-MNIST: Zalando SE, MIT. Kuzushiji-MNIST: "KMNIST Dataset" created by CODH, adapted from "Kuzushiji Dataset"
created by NIJL and others, doi:10.20676/00000341, CC BY-SA 4.0.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from nl_nodes import UserError
from nl_nodes.platform import cache_folder
from nl_training.data.dataset import Source, Split
from nl_training.data.download import download
from nl_training.data.files import read_file, verify_digest
from nl_training.data.idx import parse_idx


@dataclass(frozen=True)
class RawFile:
    """A published file: name, size in bytes and SHA-256, all of the decompressed file.

    The compressed file is not checked, since distributors compress it themselves (Debian does).
    """

    forms: ClassVar[str] = "plain or .gz"
    name: str
    size: int
    sha256: str

    def read(self, path: Path) -> npt.NDArray[np.uint8]:
        """Read the array in the file at `path`, plain or gzip; `UserError` if it is broken or a different file."""
        data = read_file(path, self.size)
        array = parse_idx(data, str(path))
        if hashlib.sha256(data).hexdigest() != self.sha256:
            raise UserError(
                f"{path} is not the published {self.name} (its SHA-256 differs); replace it by the original"
            )
        return array

    def find(self, folder: Path) -> Path | None:
        """Return the path of the file in `folder`, plain or gzip, None if missing."""
        candidates = (folder / self.name, folder / f"{self.name}.gz")
        return next((path for path in candidates if path.is_file()), None)


@dataclass(frozen=True)
class ZippedFile(RawFile):
    """A published file whose SHA-256 is that of the gzip file, while the size is of the decompressed one."""

    forms: ClassVar[str] = ".gz as published"

    def read(self, path: Path) -> npt.NDArray[np.uint8]:
        """Read the array in the gzip file at `path`; `UserError` if it is a different file."""
        verify_digest(path, self.sha256)
        return parse_idx(read_file(path, self.size), str(path))

    def find(self, folder: Path) -> Path | None:
        """Return the path of the gzip file in `folder`, None if missing."""
        path = folder / f"{self.name}.gz"
        return path if path.is_file() else None


@dataclass(frozen=True)
class IdxSet:
    """A data set in MNIST's format; `files` are train images, train labels, test images, test labels.

    Searched in `system_folder`, where Debian packages install data sets, if it has one, and in the user's cache folder,
    the target of downloads from `mirrors`.
    """

    name: str
    files: tuple[RawFile, RawFile, RawFile, RawFile]
    classes: tuple[str, ...]
    mirrors: tuple[str, ...]
    system_folder: Path | None = None

    def load(self, root: Path | None) -> Source:
        """Read and verify the four files; if `root` is None, download them if necessary."""
        x, t, x_test, t_test = (file.read(path) for file, path in zip(self.files, self._paths(root), strict=True))
        return Source(_split(x, t), _split(x_test, t_test), self.classes)

    def _paths(self, root: Path | None) -> list[Path]:
        given = root or self.system_folder
        found = {file.name: file.find(given) if given else None for file in self.files}
        missing = [name for name, path in found.items() if path is None]
        if not missing:
            return [path for path in found.values() if path]
        if root is not None:
            forms = self.files[0].forms
            raise UserError(f"{root} lacks {', '.join(missing)} ({forms}); data.root must hold {self.name}'s files")
        folder = cache_folder() / self.name
        return [file.find(folder) or self._download(file, folder) for file in self.files]

    def _download(self, file: RawFile, folder: Path) -> Path:
        target = folder / f"{file.name}.gz"
        # Deflate never grows data by more than a fraction of a percent.
        download(target, [f"{mirror}{target.name}" for mirror in self.mirrors], file.size + 2**16, file.read)
        return target


def _split(x: npt.NDArray[np.uint8], t: npt.NDArray[np.uint8]) -> Split:
    return Split(x[:, None], t.astype(np.int64))


MNIST = IdxSet(
    name="mnist",
    files=(
        RawFile(
            "train-images-idx3-ubyte", 47_040_016, "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"
        ),
        RawFile("train-labels-idx1-ubyte", 60_008, "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"),
        RawFile(
            "t10k-images-idx3-ubyte", 7_840_016, "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"
        ),
        RawFile("t10k-labels-idx1-ubyte", 10_008, "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"),
    ),
    classes=tuple("0123456789"),
    mirrors=("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/"),
    system_folder=Path("/usr/share/datasets/mnist"),
)

FASHION_MNIST = IdxSet(
    name="fashion_mnist",
    files=(
        RawFile(
            "train-images-idx3-ubyte", 47_040_016, "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"
        ),
        RawFile("train-labels-idx1-ubyte", 60_008, "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"),
        RawFile(
            "t10k-images-idx3-ubyte", 7_840_016, "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"
        ),
        RawFile("t10k-labels-idx1-ubyte", 10_008, "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"),
    ),
    classes=("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    mirrors=(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    ),
    system_folder=Path("/usr/share/datasets/fashion-mnist"),
)

KMNIST = IdxSet(
    name="kmnist",
    files=(
        ZippedFile(
            "train-images-idx3-ubyte", 47_040_016, "51467d22d8cc72929e2a028a0428f2086b092bb31cfb79c69cc0a90ce135fde4"
        ),
        ZippedFile(
            "train-labels-idx1-ubyte", 60_008, "e38f9ebcd0f3ebcdec7fc8eabdcdaef93bb0df8ea12bee65224341c8183d8e17"
        ),
        ZippedFile(
            "t10k-images-idx3-ubyte", 7_840_016, "edd7a857845ad6bb1d0ba43fe7e794d164fe2dce499a1694695a792adfac43c5"
        ),
        ZippedFile(
            "t10k-labels-idx1-ubyte", 10_008, "20bb9a0ef54c7db3efc55a92eef5582c109615df22683c380526788f98e42a1c"
        ),
    ),
    classes=tuple("おきすつなはまやれを"),
    mirrors=("https://codh.rois.ac.jp/kmnist/dataset/kmnist/", "http://codh.rois.ac.jp/kmnist/dataset/kmnist/"),
)
