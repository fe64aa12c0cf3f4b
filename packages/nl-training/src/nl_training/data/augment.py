"""Augmentation: random shifts, crops, flips and cut-out squares of training images.

What happens to an image depends on the seed, the epoch and the image's index in the split only: not on the batch size,
the device or the workers, and a resumed training draws the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nl_nodes import ShapeError, UserError, backend_of
from nl_nodes.arguments import near
from nl_nodes.philox import philox
from nl_training.data.dataset import Dataset
from nl_training.data.pixels import LIGHT

AUTO = "auto"
STREAM = 2**32
"""The first stream of random words; dropout layers have small ones."""
WORDS = 2
"""Words of 64 bits an image."""


class Augmentation:
    """Random changes of training images.

    Args:
        names: what to apply, in this order; see `AUGMENTATIONS`.
        data: the data set, whose training images are changed; crops show its background beyond the edges.
        seed: seed of the changes.

    Raises:
        UserError: for an unknown name, or one given twice: both would draw the same random words.
        ShapeError: if the data are not images (N, C, H, W).
    """

    def __init__(self, names: Sequence[str], data: Dataset, seed: int) -> None:
        for name in names:
            if name not in AUGMENTATIONS:
                raise UserError(f"augment={name} is unknown: {near(name, [AUTO, *AUGMENTATIONS])}")
            if list(names).count(name) > 1:
                raise UserError(f"augment has {name} twice, perhaps as {AUTO}: name each once")
        if names and data.train.x.ndim != 4:
            raise ShapeError(f"augment needs images (N, C, H, W), got {data.train.x.shape}")
        if names and data.train.x.dtype.kind != "f":
            raise UserError(f"augment needs normalised images, of floating-point numbers, got {data.train.x.dtype}")
        self.names, self.seed, self.images = names, seed, len(data.train)
        self.fill = background(data) if names else None
        self._drawn: tuple[int, list[Any]] = (0, [])

    def __call__(self, x: Any, index: Any, epoch: int) -> Any:
        """Return a batch of changed images.

        Args:
            x: images (N, C, H, W), of the host or of a GPU; not modified.
            index: their indices in the split, (N,) on the host.
            epoch: the epoch, from 1.
        """
        for name, bits in zip(self.names, self._bits(epoch), strict=True):
            x = AUGMENTATIONS[name](x, bits[index].astype(np.int64), self.fill)
        return x

    def _bits(self, epoch: int) -> list[Any]:
        """Return for each name random numbers below 2^32 (images, 2 * WORDS), drawn once an epoch."""
        if self._drawn[0] != epoch:
            streams = [STREAM + list(AUGMENTATIONS).index(name) for name in self.names]
            words = [philox(self.seed, stream, epoch, WORDS * self.images) for stream in streams]
            self._drawn = (epoch, [each.view(np.uint32).reshape(self.images, -1) for each in words])
        return self._drawn[1]


def augmentations(chosen: str | Sequence[str] | None, channels: int) -> tuple[str, ...]:
    """Return the names of the chosen augmentations; "auto" is a shift of grey images, crop and flip of coloured ones.

    >>> augmentations("auto", 1), augmentations(["auto", "cutout"], 3), augmentations(None, 3)
    (('shift',), ('crop_flip', 'cutout'), ())
    """
    names = () if chosen is None else [chosen] if isinstance(chosen, str) else chosen
    if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise UserError(f"augment={chosen} must be a name or a list of names: {', '.join([AUTO, *AUGMENTATIONS])}")
    auto = "shift" if channels == 1 else "crop_flip"
    return tuple(auto if name == AUTO else name for name in names)


def background(data: Dataset) -> Any:
    """Return the normalised background (C, 1, 1): white if most images have a light background, else black."""
    low, high = data.pixels.range if data.pixels else (0.0, 1.0)
    raw = high if data.pixels and data.pixels.ground == LIGHT else low
    return data.normalization.apply(np.full((data.input_shape[0], 1, 1), raw), data.train.x.dtype.name)


def shift(x: Any, bits: Any, fill: Any) -> Any:
    """Translate each image by up to H // 14 and W // 14 pixels, at least up to 1: up to 2 at 28x28."""
    return _cropped(x, bits, fill, 14, flip=False)


def crop_flip(x: Any, bits: Any, fill: Any) -> Any:
    """Pad each image by H // 8 and W // 8 pixels, at least 1, crop its size from it, and flip half of the images.

    At 32x32 the padding is 4 pixels. Source: He et al., Deep Residual Learning (2016), section 4.2.
    """
    return _cropped(x, bits, fill, 8, flip=True)


def cutout(x: Any, bits: Any, fill: Any) -> Any:
    """Set a square of side min(H, W) // 2 to 0, the mean of normalised pixels; it may reach beyond the edges.

    The square's centre is uniform over the pixels. Source: DeVries and Taylor, Improved Regularization of Convolutional
    Neural Networks with Cutout (2017), section 3.
    """
    backend, (h, w) = backend_of([x]), x.shape[2:]
    side = min(h, w) // 2

    def inside(bits: Any, length: int) -> Any:
        place = np.arange(length) - (_below(length, bits) - side // 2)[:, None]
        return (place >= 0) & (place < side)

    cut = inside(bits[:, 0], h)[:, None, :, None] & inside(bits[:, 1], w)[:, None, None, :]
    return backend.xp.where(backend.array(cut), 0, x)


AUGMENTATIONS: dict[str, Callable[[Any, Any, Any], Any]] = {"shift": shift, "crop_flip": crop_flip, "cutout": cutout}
"""From images (N, C, H, W), random numbers below 2^32 (N, 2 * WORDS) and the background to changed images."""


def _below(count: int, bits: Any) -> Any:
    """Return whole numbers from 0 to `count` - 1."""
    return (bits * count) >> 32


def _cropped(x: Any, bits: Any, fill: Any, share: int, flip: bool) -> Any:
    """Pad images by a share of their size and crop windows of their size, some of them flipped."""
    backend, (n, c, h, w) = backend_of([x]), x.shape
    down, right = max(1, h // share), max(1, w // share)
    height, width = h + 2 * down, w + 2 * right
    padded = backend.xp.empty((n, c, height, width), dtype=x.dtype)
    padded[...] = backend.array(fill)
    padded[:, :, down : down + h, right : right + w] = x
    flipped = _below(2, bits[:, 2]) * flip
    first = _below(2 * right + 1, bits[:, 1]) + flipped * (w - 1)
    start = (np.arange(n) * c * height + _below(2 * down + 1, bits[:, 0])) * width + first
    columns = (1 - 2 * flipped)[:, None] * np.arange(w)
    rows = (np.arange(c)[:, None] * height + np.arange(h)) * width
    index = backend.array((start[:, None] + columns)[:, None, None, :]) + backend.array(rows[..., None])
    return padded.ravel()[index]
