"""The user's own pictures: one file as an array, whatever its format, depth, transparency and orientation."""

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

# Formats of Pillow that are not read: EPS and WMF run other programs, FITS unpacks without bound, and the others are
# told by name alone, without a decoder.
_UNREAD = {"EPS", "WMF", "FITS", "BUFR", "GRIB", "HDF5", "MPEG"}
_DEEP = ("I", "I;16", "I;16B", "I;16L", "I;16N")  # grey of 16 bits; Pillow opens some of it as 32
_GREY = {"1", "L", "LA", "La", *_DEEP}
_MODE_OF_CHANNELS = {1: "L", 3: "RGB"}
_BLACK, _WHITE = 0, 255
_FAINT = 32  # differences of brightness up to this show nothing of a picture


def read_image(
    path: Path | str, input_shape: tuple[int, int, int] | None = None, matte: int | None = None
) -> npt.NDArray[np.uint8]:
    """The picture in a file as (C, H, W), 0..255, upright as its EXIF orientation says.

    With `input_shape` (C, H, W) it is turned grey (C = 1) or coloured (C = 3) and resized to it, stretched where the
    sides' ratio differs; without, it keeps its size, and is grey (1, H, W) or colour (3, H, W) as the file has it.
    16 bits become 8. A transparent picture is composited on the grey `matte`, or, where that is None or shows nothing
    of it, on white if its ink is dark and on black if it is light. Raises `UserError` where the file is missing, no
    whole picture of a format that is read, or larger than Pillow's bound on decompression bombs.
    """
    channels = input_shape[0] if input_shape else None
    if channels is not None and channels not in _MODE_OF_CHANNELS:
        raise UserError(f"{path}: a picture has 1 or 3 channels, the model takes {channels}")
    image = decode(Path(path), channels, input_shape[1:] if input_shape else None)
    if matte is None or not shows_on(image, matte):
        matte = fitting_matte([image])
    return flattened(image, matte)


@cache
def readable() -> dict[str, str]:
    """The formats that are read, by the suffix of their files in lower case, such as ".jfif": "JPEG"."""
    Image.init()
    known = Image.registered_extensions().items()
    return {suffix: kind for suffix, kind in known if kind in Image.OPEN and kind not in _UNREAD}


def decode(path: Path, channels: int | None = None, size: tuple[int, int] | None = None) -> Image.Image:
    """The picture in a file, upright, in mode L or RGB, or LA or RGBA where it is transparent.

    Args:
        path: the file.
        channels: 1 turns it grey, 3 coloured.
        size: (H, W) to resize to.

    Raises:
        UserError: as in `read_image`.
    """
    if not path.is_file():
        raise UserError(f"picture {path} does not exist; check the path")
    try:
        with (
            _quiet(),
            path.open(
                "rb"
            ) as stream,  # by its name, Pillow 13 maps raw TIFF files with the sides of turned ones swapped
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
        raise UserError(f"{path} is no picture, or a broken one; give a whole PNG or JPEG, or remove it") from error


def _formats(path: Path) -> list[str]:
    """What a file may be whatever its name; formats that no first bytes tell only by their own suffix."""
    own = readable().get(path.suffix.lower())
    return [kind for kind in dict.fromkeys(readable().values()) if kind == own or Image.OPEN[kind][1] is not None]


def _converted(image: Image.Image, channels: int | None, path: Path) -> Image.Image:
    """The picture in mode L, LA, RGB or RGBA."""
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
    opaque.info.pop("transparency", None)  # a colour that no pixel has
    return opaque


def flattened(image: Image.Image, matte: int) -> npt.NDArray[np.uint8]:
    """A picture that `decode` gave as (C, H, W), on the grey `matte` where it is transparent."""
    if image.has_transparency_data:
        opaque = image.convert("L" if image.mode == "LA" else "RGB")
        ground = Image.new(opaque.mode, opaque.size, (matte,) * len(opaque.getbands()))
        image = Image.composite(opaque, ground, image.getchannel("A"))
    pixels = np.asarray(image, np.uint8)
    return np.ascontiguousarray(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1))


def fitting_matte(images: Sequence[Image.Image]) -> int:
    """The ground for the transparent ones of `images`: white where their ink is dark on average, black where light."""
    inks = [ink for image in images if (ink := _ink(image)) is not None]
    return _BLACK if inks and np.mean(inks) > 127.5 else _WHITE


def shows_on(image: Image.Image, matte: int) -> bool:
    """Whether a picture is more than an even plane on the grey `matte`; true where all of it is transparent."""
    if not image.has_transparency_data:
        return True
    brightness, alpha = _brightness_and_alpha(image)
    contrast = np.abs(brightness.astype(np.int16) - matte)
    return not alpha.any() or bool(np.multiply(contrast, alpha, dtype=np.int32).max() > _FAINT * 255)


def _ink(image: Image.Image) -> float | None:
    """The mean brightness of what is not transparent; None where nothing or all of the picture is."""
    if not image.has_transparency_data:
        return None
    brightness, alpha = _brightness_and_alpha(image)
    if not alpha.any():
        return None
    return float(np.multiply(brightness, alpha, dtype=np.uint32).sum(dtype=np.float64) / alpha.sum(dtype=np.float64))


def _brightness_and_alpha(image: Image.Image) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Brightness and opacity, (H, W) and 0..255 each."""
    pixels = np.asarray(image.convert("LA"))
    return pixels[..., 0], pixels[..., 1]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Pillow's warnings and log from the terminal; its warning of a decompression bomb is raised."""
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
    """Keep libtiff, which prints for itself, from writing to the terminal."""
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
