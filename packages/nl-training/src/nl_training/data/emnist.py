"""EMNIST letters: 124,800 + 20,800 grey images (1, 28, 28) of A to Z; one class has both cases of a letter.

Published by NIST as transposed images with labels 1 to 26 in IDX files, all data sets of EMNIST in one archive, without
a licence; NIST's data are not subject to copyright in the United States. Source: Cohen et al., "EMNIST: an extension of
MNIST to handwritten letters", 2017, arXiv:1702.05373.
"""

from __future__ import annotations

import gzip
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase
from typing import IO, cast

import numpy as np
import numpy.typing as npt

from nl_nodes import UserError
from nl_training.data.archive import Archive
from nl_training.data.dataset import Source, Split
from nl_training.data.files import read_file, read_stream, reason
from nl_training.data.idx import parse_idx

_SIDE = 28
# Exceptions observed on broken archives, more than zipfile documents.
_BROKEN = (OSError, EOFError, ValueError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class LettersSet:
    """EMNIST's letters; `train` and `test` are the numbers of images in the archive.

    The four files alone have no published SHA-256; only their form is verified.
    """

    archive: Archive
    train: int
    test: int
    name: str = "emnist"

    def load(self, root: Path | None) -> Source:
        """Read the archive, or the four files of letters, in `root`; if that is None, the cached or downloaded archive.

        The archive is verified by its SHA-256. Files alone, plain or gzip, must have the published sizes and labels.
        """
        archive = self.archive.cached(self.name) if root is None else self.archive.find(root)
        train, test = (self._split(archive, root, part, images) for part, images in self._parts)
        return Source(train, test, tuple(ascii_uppercase))

    @property
    def _parts(self) -> tuple[tuple[str, int], ...]:
        return ("train", self.train), ("test", self.test)

    def _split(self, archive: Path | None, root: Path | None, part: str, images: int) -> Split:
        arrays = []
        for kind, shape in (("images-idx3", (images, _SIDE, _SIDE)), ("labels-idx1", (images,))):
            name = f"emnist-letters-{part}-{kind}-ubyte"
            limit = 4 + 4 * len(shape) + int(np.prod(shape))
            data = _member(archive, f"gzip/{name}.gz", limit) if archive else self._file(cast(Path, root), name, limit)
            arrays.append(_checked(parse_idx(data, name), shape, name))
        x, t = arrays
        if t.min() < 1 or t.max() > len(ascii_uppercase):
            raise UserError(f"EMNIST's {part} labels must be 1 to 26, for A to Z; replace them by the original file")
        return Split(np.ascontiguousarray(x.transpose(0, 2, 1))[:, None], t.astype(np.int64) - 1)

    def _file(self, root: Path, name: str, limit: int) -> bytearray:
        path = next((path for path in (root / name, root / f"{name}.gz") if path.is_file()), None)
        if path is None:
            raise UserError(
                f"{root} lacks {name} (plain or .gz); data.root holds {self.archive.name} or its four files of letters"
            )
        return read_file(path, limit)


def _member(archive: Path, name: str, limit: int) -> bytearray:
    """Read a gzip file in the archive, decompressed, into memory only."""
    try:
        with zipfile.ZipFile(archive) as members, members.open(name) as packed:
            return read_stream(cast(IO[bytes], gzip.GzipFile(fileobj=packed)), limit)
    except KeyError as error:
        raise UserError(f"{archive} lacks {name}; replace it by the original") from error
    except _BROKEN as error:
        raise UserError(f"{archive} is corrupt ({reason(error)}); replace it by an intact copy") from error


def _checked(array: npt.NDArray[np.uint8], shape: tuple[int, ...], name: str) -> npt.NDArray[np.uint8]:
    if array.shape != shape:
        raise UserError(f"{name} has the shape {array.shape}, not {shape}; replace it by the original file")
    return array


EMNIST = LettersSet(
    Archive(
        "gzip.zip",
        561_753_746,
        "fb9bb67e33772a9cc0b895e4ecf36d2cf35be8b709693c3564cea2a019fcda8e",
        ("https://biometrics.nist.gov/cs_links/EMNIST/", "https://www.itl.nist.gov/iaui/vip/cs_links/EMNIST/"),
    ),
    train=124_800,
    test=20_800,
)
