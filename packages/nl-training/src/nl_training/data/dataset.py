"""Types of data sets: raw images as read, and the normalised splits for training."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nl_nodes import ShapeError, UserError
from nl_training.data.pixels import EIGHT_BITS, Array, PixelFormat, Range

Labels = npt.NDArray[np.int64]

_CHUNK = 1024  # images per chunk, so that float64 copies stay small


@dataclass(frozen=True)
class Split:
    """One split of a data set: images `x` (N, C, H, W) and their labels `t` (N,), int64."""

    x: Array
    t: Labels

    def __len__(self) -> int:
        """The number of images."""
        return len(self.t)


@dataclass(frozen=True)
class Normalization:
    """The network's input scaling, `(x - mean) / std`: one mean and std per channel, in raw pixel units."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def fit(cls, x: Array) -> Normalization:
        """Fit to the channels of `x` (N, C, H, W); the std of a constant channel is 1."""
        mean = x.mean(axis=(0, 2, 3), dtype=np.float64)
        squares = np.zeros_like(mean)
        for start in range(0, len(x), _CHUNK):
            squares += np.square(x[start : start + _CHUNK] - mean[:, None, None]).sum(axis=(0, 2, 3))
        std = np.sqrt(squares / (x.size // x.shape[1]))
        std[std == 0] = 1.0
        return cls(tuple(mean.tolist()), tuple(std.tolist()))

    @classmethod
    def scaling(cls, largest: float, channels: int) -> Normalization:
        """Return a scaling that only divides by `largest`."""
        return cls((0.0,) * channels, (largest,) * channels)

    def apply(self, x: npt.ArrayLike, dtype: str = "float32") -> Array:
        """Return raw images (..., C, H, W) normalised, as a new array of `dtype`; `ShapeError` if C differs."""
        raw = np.asarray(x)
        if raw.ndim < 3 or raw.shape[-3] != len(self.mean):
            raise ShapeError(f"images (..., C, H, W) of {len(self.mean)} channels are expected, given {raw.shape}")
        y: npt.NDArray[np.floating] = raw.astype(dtype)
        y -= np.array(self.mean, dtype)[:, None, None]
        y /= np.array(self.std, dtype)[:, None, None]
        return y


@dataclass(frozen=True)
class Dataset:
    """A data set ready for training; all images are normalised with statistics of the training split.

    `digest` is the SHA-256 of the raw images, labels and class names, independent of the seed, the validation split
    and the normalisation. `validation` is None without a validation split. `pixels` is the format of the raw images,
    None if unknown.

    Raises:
        UserError: for images or labels that are no NumPy arrays.
        ShapeError: where there are not as many labels as images.
    """

    name: str
    train: Split
    validation: Split | None
    test: Split
    classes: tuple[str, ...]
    normalization: Normalization
    digest: str
    pixels: PixelFormat | None = None

    def __post_init__(self) -> None:
        """Refuse what training would fail on, or leave out."""
        for split in (self.train, self.test, *([] if self.validation is None else [self.validation])):
            for array in (split.x, split.t):
                if not isinstance(array, np.ndarray):
                    raise UserError(f"data must be NumPy arrays, got {type(array).__name__}: use numpy.asarray")
            if len(split.x) != len(split.t):
                raise ShapeError(f"data: {len(split.x)} images need as many labels, got {len(split.t)}")

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(C, H, W) of each image; (features,) of other data."""
        return tuple(self.train.x.shape[1:])


@dataclass(frozen=True)
class Source:
    """Raw images as read, before a validation split is taken out of `train`.

    `range` is the pixel range, `matte` the grey on which transparent pictures were composited, `validation` a split of
    the data's own. `divided` is whether `test` was taken out of the training images, as the files have no test images.
    """

    train: Split
    test: Split
    classes: tuple[str, ...]
    range: Range = EIGHT_BITS
    matte: int | None = None
    validation: Split | None = None
    divided: bool = False

    @property
    def pixels(self) -> PixelFormat:
        """Pixel format of the images."""
        return PixelFormat.of(self.train.x, self.range, self.matte)

    def digest(self) -> str:
        """Return the SHA-256 of images, labels, their shapes and dtypes, and the class names."""
        sha = hashlib.sha256(repr(self.classes).encode())
        for part in (self.train, self.test, self.validation):
            for array in (part.x, part.t) if part else ():
                sha.update(f"{array.dtype.str}{array.shape}".encode())
                sha.update(np.ascontiguousarray(array).data)
        return sha.hexdigest()
