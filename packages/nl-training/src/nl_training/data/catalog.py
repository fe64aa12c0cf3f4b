"""Data sets by name: from raw images to the normalised parts of a training."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nl_nodes import UserError
from nl_training.data import embedded
from nl_training.data.dataset import Dataset, Normalization, Source, Split
from nl_training.data.images import load_folder
from nl_training.data.mnist import FASHION_MNIST, MNIST
from nl_training.data.npz import load_npz
from nl_training.data.splits import stratified

_EMBEDDED = {"mnist5k": embedded.mnist5k, "digits": embedded.digits}
_IDX = {MNIST.name: MNIST, FASHION_MNIST.name: FASHION_MNIST}
NAMES = ("mnist5k", "mnist", "fashion_mnist", "digits", "images")


def load(
    name: str,
    root: str | None = None,
    validation: float = 0.1,
    normalize: bool = True,
    seed: int = 0,
    dtype: str = "float32",
) -> Dataset:
    """The data set `name`, ready for training.

    `root` is the folder (or, for `images`, also the `.npz`) where the data are. `validation` is the share of the
    training images, stratified and drawn with `seed`, that picks the best weights; 0 takes none. With `normalize` each
    channel has mean 0 and standard deviation 1 over the training part; without, pixels are scaled to 0..1. The test
    images never depend on `seed`. Raises `UserError` on whatever is missing, broken or out of range.
    """
    if not 0 <= validation < 1:
        raise UserError(f"data.validation={validation} must be at least 0 and below 1")
    source = read_source(name, root)
    train, held = _hold_out(source.train, validation, seed)
    channels = train.x.shape[1]
    scale = Normalization.fit(train.x) if normalize else Normalization.scaling(source.largest, channels)
    return Dataset(
        name=name,
        train=_normalized(train, scale, dtype),
        validation=None if held is None else _normalized(held, scale, dtype),
        test=_normalized(source.test, scale, dtype),
        classes=source.classes,
        normalization=scale,
        digest=source.digest(),
    )


def read_source(name: str, root: str | None) -> Source:
    """The raw images of data set `name`; arguments and errors as in `load`."""
    if name in _EMBEDDED:
        if root is not None:
            raise UserError(f"data={name} comes with the installation and takes no data.root; leave {root} out")
        return _EMBEDDED[name]()
    if name not in NAMES:
        raise UserError(f"there is no data set {name}; choose one of {', '.join(NAMES)}")
    path = None if root is None else Path(root).expanduser()
    if path is not None and not path.exists():
        raise UserError(f"data.root={root} does not exist; give the path of the folder that holds the data")
    if name in _IDX:
        return _IDX[name].load(path)
    if path is None:
        raise UserError("data=images needs data.root: a folder with one folder of pictures for each class, or an .npz")
    return load_folder(path) if path.is_dir() else load_npz(path)


def _hold_out(train: Split, share: float, seed: int) -> tuple[Split, Split | None]:
    if share == 0:
        return train, None
    kept, taken = stratified(train.t, share, seed)
    if len(taken) == 0:
        raise UserError(f"data.validation={share} takes none of {len(train)} training images; set data.validation=0")
    return Split(train.x[kept], train.t[kept]), Split(train.x[taken], train.t[taken])


def _normalized(split: Split, scale: Normalization, dtype: str) -> Split:
    return Split(scale.apply(split.x, dtype), np.ascontiguousarray(split.t))
