"""Data sets by name: raw images to normalised training, validation and test splits."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nl_nodes import UserError
from nl_nodes.arguments import COUNT, NATURAL
from nl_training.data import embedded
from nl_training.data.cifar import CIFAR10, CIFAR100
from nl_training.data.csv_file import load_csv
from nl_training.data.dataset import Dataset, Normalization, Source, Split
from nl_training.data.emnist import EMNIST
from nl_training.data.files import reason
from nl_training.data.folders import load_folder
from nl_training.data.mnist import FASHION_MNIST, KMNIST, MNIST
from nl_training.data.npz import load_npz
from nl_training.data.pixels import DARK, LIGHT, PixelFormat
from nl_training.data.splits import limited, stratified

log = logging.getLogger(__name__)

Reader = Callable[..., Source]
"""Reads the raw images of a data set from its `root`, a path or None, with the config's keys beyond the common ones."""


IMAGES = "images"
EMBEDDED = ("mnist5k", "digits")


class RunData(NamedTuple):
    """The data that a run was trained on: their digest, "" if it was not recorded, and `data.limit`."""

    digest: str
    limit: int | None


def load(
    name: str,
    root: str | None = None,
    validation: float = 0.1,
    normalize: bool = True,
    seed: int = 0,
    dtype: str = "float32",
    limit: int | None = None,
    **options: Any,
) -> Dataset:
    """Load data set `name` for training.

    `root` is the folder of the data (for `images` also an `.npz`, for `csv` a file). `validation` is the share of
    training images, stratified and drawn with `seed`, held out to choose the best weights; 0 for none. A validation
    split of the data's own is used instead for any share above 0. With `normalize` each channel has mean 0 and standard
    deviation 1 over the training split; without, pixels whose range starts at 0 are scaled to 0..1. The test images
    never depend on `seed`. `limit` is the largest number of images for training and validation; the same share of the
    test images is taken, see `limited`. `options` are those of the data set's reader: `size` (H, W) resizes the
    pictures of `images`; `label` and `shape` are the columns of `csv`, see `load_csv`.
    Raises `UserError` on missing or broken data, or arguments out of range.
    """
    if not 0 <= validation < 1:
        raise UserError(f"data.validation={validation} must be at least 0 and below 1")
    NATURAL.check("load", seed=seed)
    if limit is not None:
        COUNT.check("load", limit=limit)
    source = read_source(name, root, **options)
    if limit is not None:
        source = limited(source, limit)
    _warn_missing_classes(source)
    train, held = source.train, source.validation if validation else None
    if source.validation is None:
        train, held = _hold_out(source.train, validation, seed)
    elif not validation:
        log.warning("%d validation images are left out, as data.validation=0", len(source.validation))
    low, high = source.range
    largest = high if low == 0 else 1.0
    scale = Normalization.fit(train.x) if normalize else Normalization.scaling(largest, train.x.shape[1])
    return Dataset(
        name=name,
        train=_normalized(train, scale, dtype),
        validation=None if held is None else _normalized(held, scale, dtype),
        test=_normalized(source.test, scale, dtype),
        classes=source.classes,
        normalization=scale,
        digest=source.digest(),
        pixels=source.pixels,
    )


def load_test(
    name: str,
    root: str | None,
    pixels: PixelFormat | None,
    scale: Normalization,
    run: RunData,
    own: bool,
    **options: Any,
) -> tuple[Split, tuple[str, ...]]:
    """Load the test images of data set `name`, converted to a run's pixel format, and the class names.

    All images of files without test images are tested, unless the run was trained on a part of them.

    Args:
        name: as in `load`.
        root: as in `load`.
        pixels: the run's pixel format; images of another format are converted, with a warning. None for no conversion.
        scale: the run's normalisation.
        run: what the run was trained on.
        own: whether these should be the run's own data.
        options: as in `load`; pictures get the size of `pixels`.

    Raises:
        UserError: as in `load`, if the channels cannot be converted, and if the run's own data have changed, so that
            images that it was trained on may be among those held out to test.
    """
    if name == IMAGES and pixels is not None:
        options = {"size": pixels.size, "matte": pixels.matte}
    source = read_source(name, root, **options)
    test = _tested(name, source, run, own)
    x = test.x
    if pixels is not None:
        found = PixelFormat.of(x, source.range)
        opposite = {found.ground, pixels.ground} == {DARK, LIGHT}
        invert = opposite and pixels.invertible
        grey = pixels.binary and not found.binary
        if opposite or grey or (found.shape, found.range) != (pixels.shape, pixels.range):
            how = ", inverted" if invert else ""
            log.warning("data=%s is %s; it is converted to the run's %s%s", name, found, pixels, how)
        x = pixels.adapt(x, source.range, invert)
    return _normalized(Split(x, test.t), scale, "float32"), source.classes


def _tested(name: str, source: Source, run: RunData, own: bool) -> Split:
    """Return the test images; all images where they are other data than a run's, without test images.

    A run without a digest may have been trained on these data.
    """
    if not run.digest or not source.divided:
        return source.test
    with suppress(UserError):  # too few images for the limit
        same = source if run.limit is None else limited(source, run.limit)
        if same.digest() == run.digest:
            return source.test
    if own:
        raise UserError(
            f"data={name} has changed since the run was trained, and has no test images of its own: "
            "give images that it has not seen, by data=NAME data.root=PATH"
        )
    parts = source.train, source.test
    log.warning("data=%s has no test images of its own: all %d images are tested", name, sum(map(len, parts)))
    return Split(np.concatenate([part.x for part in parts]), np.concatenate([part.t for part in parts]))


def read_source(name: str, root: str | None, **options: Any) -> Source:
    """Read the raw images of data set `name`; arguments and errors as in `load`."""
    if name not in READERS:
        raise UserError(f"there is no data set {name}; choose one of {', '.join(READERS)}")
    if name in EMBEDDED and root is not None:
        raise UserError(f"data={name} comes with the installation and takes no data.root; leave {root} out")
    path = None if root is None else Path(root).expanduser()
    if path is not None and not path.exists():
        raise UserError(f"data.root={root} does not exist; give the path of the file or folder that holds the data")
    return READERS[name](path, **options)


def _images(root: Path | None, size: tuple[int, int] | None = None, matte: int | None = None) -> Source:
    """Read the pictures of a folder, composited on `matte`, or an `.npz`; resized to `size` (H, W)."""
    if root is None:
        raise UserError("data=images needs data.root: a folder with one folder of pictures for each class, or an .npz")
    try:
        return load_folder(root, size, matte) if root.is_dir() else load_npz(root, size)
    except OSError as error:
        raise UserError(f"data.root={root} cannot be read ({reason(error)})") from error


def _csv(root: Path | None, label: str | int | None = None, shape: tuple[int, int, int] | None = None) -> Source:
    """Read a CSV file, or a folder of train.csv and perhaps test.csv."""
    if root is None:
        raise UserError("data=csv needs data.root: a CSV file of labels and pixels, or a folder with train.csv")
    return load_csv(root, label, shape)


# A registry, like `nl_models.MODELS`: a plugin adds its own (docs/tutorial.md).
READERS: dict[str, Reader] = {
    "mnist5k": lambda root: embedded.mnist5k(),
    MNIST.name: MNIST.load,
    FASHION_MNIST.name: FASHION_MNIST.load,
    KMNIST.name: KMNIST.load,
    EMNIST.name: EMNIST.load,
    CIFAR10.name: CIFAR10.load,
    CIFAR100.name: CIFAR100.load,
    "digits": lambda root: embedded.digits(),
    IMAGES: _images,
    "csv": _csv,
}


def _warn_missing_classes(source: Source) -> None:
    """Warn about classes without training images."""
    present = np.bincount(source.train.t, minlength=len(source.classes)) > 0
    if not present.all():
        missing = ", ".join(name for name, found in zip(source.classes, present, strict=True) if not found)
        log.warning("no training image is of class %s, which only other parts have: it cannot be learnt", missing)


def _hold_out(train: Split, share: float, seed: int) -> tuple[Split, Split | None]:
    if share == 0:
        return train, None
    kept, taken = stratified(train.t, share, seed)
    if len(taken) == 0:
        raise UserError(f"data.validation={share} takes none of {len(train)} training images; set data.validation=0")
    return Split(train.x[kept], train.t[kept]), Split(train.x[taken], train.t[taken])


def _normalized(split: Split, scale: Normalization, dtype: str) -> Split:
    return Split(scale.apply(split.x, dtype), np.array(split.t))  # copies: a source may be read once for many runs
