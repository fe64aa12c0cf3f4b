"""Picture files to arrays, for any format, depth, transparency and orientation."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from nl_nodes import UserError

# Pillow formats that are not read: EPS and WMF run other programs, FITS decompresses without limit, and the others
# have no decoder.
_UNREAD = {"EPS", "WMF", "FITS", "BUFR", "GRIB", "HDF5", "MPEG"}
_DEEP = ("I", "I;16", "I;16B", "I;16L", "I;16N")  # 16-bit grey; Pillow opens some of it as 32-bit
_GREY = {"1", "L", "LA", "La", *_DEEP}
_MODE_OF_CHANNELS = {1: "L", 3: "RGB"}
_BLACK, _WHITE = 0, 255
_FAINT = 32  # largest brightness difference that counts as invisible


def read_image(
    path: Path | str, input_shape: tuple[int, int, int] | None = None, matte: int | None = None
) -> npt.NDArray[np.uint8]:
    """Read a picture file as (C, H, W), 0..255, rotated by its EXIF orientation.

    With `input_shape` (C, H, W) it is converted to grey (C = 1) or colour (C = 3) and resized, stretched if the aspect
    ratio differs; without, it keeps its size and is (1, H, W) or (3, H, W) as in the file. 16 bits become 8. A
    transparent picture is composited on the grey `matte`; if that is None or would hide it, on white for dark ink and
    on black for light ink. Raises `UserError` if the file is missing, broken, of an unsupported format, or above
    Pillow's limit for decompression bombs.
    """
    channels = input_shape[0] if input_shape else None
    if channels is not None and channels not in _MODE_OF_CHANNELS:
        raise UserError(f"{path}: a picture has 1 or 3 channels, the model takes {channels}")
    image = decode(Path(path), channels, input_shape[1:] if input_shape else None)
    if matte is None or not shows_on(image, matte):
        matte = fitting_matte([image])
    return flattened(image, matte)


@cache
def readable_formats() -> dict[str, str]:
    """Return the supported formats by lower-case file suffix, such as ".jfif": "JPEG"."""
    Image.init()
    known = Image.registered_extensions().items()
    return {suffix: kind for suffix, kind in known if kind in Image.OPEN and kind not in _UNREAD}


def decode(path: Path, channels: int | None = None, size: tuple[int, int] | None = None) -> Image.Image:
    """Decode a picture file, upright, to mode L or RGB, or LA or RGBA if it is transparent.

    Args:
        path: the file.
        channels: 1 converts to grey, 3 to colour.
        size: (H, W) to resize to.

    Raises:
        UserError: as in `read_image`.
    """
    if not path.is_file():
        raise UserError(f"picture {path} does not exist; check the path")
    try:
        with (
            _quiet(),
            # Opened by name, Pillow 13 memory-maps raw TIFF with the sides of rotated ones swapped.
            path.open("rb") as stream,
            Image.open(stream, formats=_formats(path)) as file,
            _silenced(file.format),
        ):
            image = _converted(ImageOps.exif_transpose(file), channels, path)
            if size is not None and (image.height, image.width) != size:
                image = image.resize((size[1], size[0]), Image.Resampling.LANCZOS)
            return image
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise UserError(f"picture {path} is too large to open safely; scale it down first") from error
    except UserError:
        raise
    except Exception as error:  # Pillow's decoders raise nearly anything on a broken file
        raise UserError(f"{path} is not a picture, or broken; give an intact PNG or JPEG, or remove it") from error


def _formats(path: Path) -> list[str]:
    """Return the formats to try: any with magic bytes, and the one of the file's suffix."""
    own = readable_formats().get(path.suffix.lower())
    kinds = dict.fromkeys(readable_formats().values())
    return [kind for kind in kinds if kind == own or Image.OPEN[kind][1] is not None]


def _converted(image: Image.Image, channels: int | None, path: Path) -> Image.Image:
    """Convert a picture to mode L, LA, RGB or RGBA."""
    grey = image.mode in _GREY if channels is None else channels == 1
    if image.mode in _DEEP:
        deep = np.asarray(image)
        if deep.min() < 0 or deep.max() > 65535:
            raise UserError(f"picture {path} is deeper than 16 bits; save it with 8 or 16 bits a channel")
        image = Image.fromarray(((deep.astype(np.uint32) + 128) // 257).astype(np.uint8))
    if image.mode in ("F", "LAB"):
        raise UserError(f"picture {path} is of mode {image.mode}; save it grey or in RGB with 8 or 16 bits a channel")
    if image.has_transparency_data:
        clear = image.convert("RGBA").convert("LA") if grey else image.convert("RGBA")
        if clear.getextrema()[-1] != (255, 255):
            return clear
    opaque = image.convert("L" if grey else "RGB")
    opaque.info.pop("transparency", None)  # declared, but used by no pixel
    return opaque


def flattened(image: Image.Image, matte: int) -> npt.NDArray[np.uint8]:
    """Return a decoded picture as (C, H, W), composited on the grey `matte` if it is transparent."""
    if image.has_transparency_data:
        opaque = image.convert("L" if image.mode == "LA" else "RGB")
        background = Image.new(opaque.mode, opaque.size, (matte,) * len(opaque.getbands()))
        image = Image.composite(opaque, background, image.getchannel("A"))
    pixels = np.asarray(image, np.uint8)
    return np.ascontiguousarray(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1))


def fitting_matte(images: Sequence[Image.Image]) -> int:
    """Return the background for transparent `images`: white if their ink is dark on average, else black."""
    inks = [ink for image in images if (ink := _ink(image)) is not None]
    return _BLACK if inks and np.mean(inks) > 127.5 else _WHITE


def shows_on(image: Image.Image, matte: int) -> bool:
    """Return whether a picture is visible on the grey `matte`; true if it is fully transparent."""
    if not image.has_transparency_data:
        return True
    brightness, alpha = _brightness_and_alpha(image)
    contrast = np.abs(brightness.astype(np.int16) - matte)
    return not alpha.any() or bool(np.multiply(contrast, alpha, dtype=np.int32).max() > _FAINT * 255)


def _ink(image: Image.Image) -> float | None:
    """Return the mean brightness weighted by opacity; None for a fully opaque or fully transparent picture."""
    if not image.has_transparency_data:
        return None
    brightness, alpha = _brightness_and_alpha(image)
    if not alpha.any():
        return None
    return float(np.multiply(brightness, alpha, dtype=np.uint32).sum(dtype=np.float64) / alpha.sum(dtype=np.float64))


def _brightness_and_alpha(image: Image.Image) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Return brightness and opacity, each (H, W), 0..255."""
    pixels = np.asarray(image.convert("LA"))
    return pixels[..., 0], pixels[..., 1]


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress Pillow's warnings and log; raise its warning of a decompression bomb."""
    logger = logging.getLogger("PIL")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(action="ignore"):
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    finally:
        logger.setLevel(level)


@contextmanager
def _silenced(kind: str | None) -> Iterator[None]:
    """Redirect stderr to null for TIFF: libtiff prints its own messages."""
    if kind != "TIFF":
        yield
        return
    stderr = os.dup(2)
    try:
        with open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
