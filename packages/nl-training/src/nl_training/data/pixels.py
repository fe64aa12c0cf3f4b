"""Pixel formats (channels, size, range, background) and conversion between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from nl_nodes import UserError

Array = npt.NDArray[np.generic]
Range = tuple[float, float]

EIGHT_BITS: Range = (0.0, 255.0)
# Usual pixel ranges; the first that contains all values of an array is assumed.
USUAL_RANGES: tuple[Range, ...] = ((0.0, 1.0), (-0.5, 0.5), (-1.0, 1.0), EIGHT_BITS, (0.0, 65535.0))
LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as Pillow converts colour to grey
DARK, LIGHT = "dark", "light"

_MOST = 0.75  # minimum share of images with the same background
_SAMPLE = 1000  # images sampled to find the background


@dataclass(frozen=True)
class PixelFormat:
    """Format of the raw images (N, C, H, W) of a data set.

    Attributes:
        channels: C, 1 for grey, 3 for colour.
        size: (H, W).
        range: the values of black and of white.
        ground: "dark" or "light" if most images have such a background (see `backgrounds`), else None.
        matte: the 8-bit grey on which transparent pictures were composited; None if none was transparent.
        binary: whether every pixel is black or white.
    """

    channels: int
    size: tuple[int, int]
    range: Range = EIGHT_BITS
    ground: str | None = None
    matte: int | None = None
    binary: bool = False

    @classmethod
    def of(cls, x: Array, bounds: Range, matte: int | None = None) -> PixelFormat:
        """Return the format of raw images `x` (N, C, H, W) with pixel range `bounds`."""
        found = backgrounds(x[:: max(1, len(x) // _SAMPLE)])
        common = [name for name in (DARK, LIGHT) if (found == name).mean() >= _MOST]
        binary = all(bool(np.isin(image, bounds).all()) for image in x)  # stops at the first image that is not
        return cls(x.shape[1], (x.shape[2], x.shape[3]), bounds, common[0] if common else None, matte, binary)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> PixelFormat:
        """Return the format from the JSON form of its `dataclasses.asdict`."""
        size, (low, high) = fields["size"], fields["range"]
        return cls(**{**fields, "size": (size[0], size[1]), "range": (low, high)})

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of each image."""
        return (self.channels, *self.size)

    def __str__(self) -> str:
        """Return a description such as "1x28x28, pixels 0 to 255, dark background"."""
        low, high = self.range
        shape = "x".join(map(str, self.shape))
        kind = "black and white" if self.binary else f"pixels {low:g} to {high:g}"
        return f"{shape}, {kind}" + (f", {self.ground} background" if self.ground else "")

    @property
    def invertible(self) -> bool:
        """Whether images of the opposite background may be inverted automatically: only grey ones, to keep hues."""
        return self.channels == 1

    def inverted(self, x: Array) -> npt.NDArray[np.bool_]:
        """Return a mask (N,) of the images `x` (N, C, H, W) whose background is the opposite of this format's.

        All False if the format has no background.
        """
        opposite = {DARK: LIGHT, LIGHT: DARK}.get(self.ground or "", "")
        return np.asarray(backgrounds(x) == opposite) & bool(opposite)

    def adapt(self, x: Array, bounds: Range, invert: npt.NDArray[np.bool_] | bool = False) -> Array:
        """Convert images to this format.

        Args:
            x: (N, C, H, W), not modified; returned unchanged if it already has this format.
            bounds: the values of black and white in `x`.
            invert: mask (N,) of the images to invert.

        Raises:
            UserError: if C is neither this format's nor 1 or 3.
        """
        x = resized(_with_channels(x, self.channels), self.size)
        low, high = self.range
        if not np.any(invert) and bounds == self.range and not self.binary:
            return x
        y = x.astype(np.float32)
        y = np.where(np.reshape(invert, (-1, 1, 1, 1)), np.float32(sum(bounds)) - y, y)
        if bounds != self.range:
            y = (y - bounds[0]) * ((high - low) / (bounds[1] - bounds[0])) + low
        return np.where(y > (low + high) / 2, np.float32(high), np.float32(low)) if self.binary else y


def value_range(x: Array) -> Range:
    """Infer the values of black and white of an array of pixels.

    The first of `USUAL_RANGES` that contains all values, unless its lowest quarter already contains them; otherwise
    the minimum and maximum, as for 12-bit or standardised pixels.
    """
    least, most = float(x.min()), float(x.max())
    for low, high in USUAL_RANGES:
        if low <= least and most <= high:
            if most > low + (high - low) / 4:
                return low, high
            break
    return least, most if most > least else least + 1


def backgrounds(x: Array) -> npt.NDArray[np.str_]:
    """Return the background of each image of `x` (N, C, H, W): "dark", "light", or "" if it is neither; (N,).

    The median of an image's border is compared with its own darkest and lightest pixel, so that grey paper with black
    ink is light.
    """
    grey = x.mean(axis=1, dtype=np.float32)
    border = np.concatenate([grey[:, 0], grey[:, -1], grey[:, :, 0], grey[:, :, -1]], axis=1)
    least, most = grey.min(axis=(1, 2)), grey.max(axis=(1, 2))
    level = (np.median(border, axis=1) - least) / np.where(most > least, most - least, np.inf)
    return np.select([(level < 1 / 3) & (most > least), level > 2 / 3], [DARK, LIGHT], "")


def resized(x: Array, size: tuple[int, int]) -> Array:
    """Return images `x` (N, C, H, W) resized to (H, W), stretched if the aspect ratio differs; values stay in range."""
    if x.shape[2:] == size:
        return x
    deep = x if x.dtype == np.uint8 else x.astype(np.float32)
    y = np.empty((*x.shape[:2], *size), deep.dtype)
    for index in np.ndindex(x.shape[:2]):
        y[index] = Image.fromarray(deep[index]).resize((size[1], size[0]), Image.Resampling.LANCZOS)
    return np.clip(y, deep.min(), deep.max())


def _with_channels(x: Array, channels: int) -> Array:
    """Convert images (N, C, H, W) to grey or colour."""
    if x.shape[1] == channels:
        return x
    if x.shape[1] == 1 and channels == 3:
        return np.repeat(x, 3, axis=1)
    if x.shape[1] == 3 and channels == 1:
        return np.tensordot(x.astype(np.float32), np.array(LUMA, np.float32), axes=(1, 0))[:, None]
    raise UserError(f"images of {x.shape[1]} channels cannot be converted to the run's {channels}; give grey or colour")
