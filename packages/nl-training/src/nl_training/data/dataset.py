"""What a data set is: raw images as a source gives them, and the normalised parts that a network learns from."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nl_nodes import ShapeError

Array = npt.NDArray[np.generic]
Labels = npt.NDArray[np.int64]

_CHUNK = 1024  # images taken at once where a float64 copy of them all would be large


@dataclass(frozen=True)
class Split:
    """One part of a data set: images `x` (N, C, H, W) and their labels `t` (N,), int64."""

    x: Array
    t: Labels

    def __len__(self) -> int:
        """The number of images."""
        return len(self.t)


@dataclass(frozen=True)
class Normalization:
    """Maps raw pixels to what the network sees: (x - mean) / std, one mean and std per channel, in raw pixel units."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def fit(cls, x: Array) -> Normalization:
        """The mean and standard deviation of each channel of `x` (N, C, H, W); a constant channel is only centred."""
        mean = x.mean(axis=(0, 2, 3), dtype=np.float64)
        squares = np.zeros_like(mean)
        for start in range(0, len(x), _CHUNK):
            squares += np.square(x[start : start + _CHUNK] - mean[:, None, None]).sum(axis=(0, 2, 3))
        std = np.sqrt(squares / (x.size // x.shape[1]))
        std[std == 0] = 1.0
        return cls(tuple(mean.tolist()), tuple(std.tolist()))

    @classmethod
    def scaling(cls, largest: float, channels: int) -> Normalization:
        """Only divides, so that the `largest` pixel value becomes 1."""
        return cls((0.0,) * channels, (largest,) * channels)

    def apply(self, x: npt.ArrayLike, dtype: str = "float32") -> Array:
        """Normalise raw images (..., C, H, W); a new array of `dtype`. `ShapeError` where C is another."""
        raw = np.asarray(x)
        if raw.ndim < 3 or raw.shape[-3] != len(self.mean):
            raise ShapeError(f"images (..., C, H, W) of {len(self.mean)} channels are expected, given {raw.shape}")
        y: npt.NDArray[np.floating] = raw.astype(dtype)
        y -= np.array(self.mean, dtype)[:, None, None]
        y /= np.array(self.std, dtype)[:, None, None]
        return y


@dataclass(frozen=True)
class Dataset:
    """A data set ready for training; all images are normalised with figures of the training part alone.

    `digest` is the SHA-256 of the raw images, labels and class names: the same whatever the seed, the validation
    part and the normalisation. `validation` is None when no validation part was asked for.
    """

    name: str
    train: Split
    validation: Split | None
    test: Split
    classes: tuple[str, ...]
    normalization: Normalization
    digest: str

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of each image."""
        _, c, h, w = self.train.x.shape
        return (c, h, w)


@dataclass(frozen=True)
class Source:
    """Raw images as read, before the validation part is taken out of `train`.

    `largest` is the largest pixel value of the format: 255 for 8 bits.
    """

    train: Split
    test: Split
    classes: tuple[str, ...]
    largest: float = 255.0

    def digest(self) -> str:
        """SHA-256 of all that is read: images, labels, their shapes and types, and the class names."""
        sha = hashlib.sha256(repr(self.classes).encode())
        for array in (self.train.x, self.train.t, self.test.x, self.test.t):
            sha.update(f"{array.dtype.str}{array.shape}".encode())
            sha.update(np.ascontiguousarray(array).data)
        return sha.hexdigest()
