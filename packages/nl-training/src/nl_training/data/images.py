"""The user's own pictures: one file, or a folder that holds one folder for each class."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from nl_nodes import UserError
from nl_training.data.dataset import Source
from nl_training.data.files import MAX_BYTES
from nl_training.data.splits import train_and_test

# Named, as Pillow would also open formats that run other programs (EPS) or print for themselves (TIFF).
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "PPM")
_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm"}
_GREY_MODES = {"1", "L", "LA"}
_COLOUR_MODES = {"P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"}
_MODE_OF_CHANNELS = {1: "L", 3: "RGB"}


def read_image(path: Path | str, input_shape: tuple[int, int, int] | None = None) -> npt.NDArray[np.uint8]:
    """The picture in a file as (C, H, W), 0..255.

    With `input_shape` (C, H, W) it is turned grey (C = 1) or coloured (C = 3) and resized to it; without, it keeps its
    size, and is grey (1, H, W) or colour (3, H, W) as the file has it. Raises `UserError` where the file is missing,
    no whole picture of a usual format, deeper than 8 bits, or larger than Pillow's bound on decompression bombs.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"picture {path} does not exist; check the path")
    channels = input_shape[0] if input_shape else None
    if channels is not None and channels not in _MODE_OF_CHANNELS:
        raise UserError(f"{path}: a picture has 1 or 3 channels, the model takes {channels}")
    image = _decode(path, channels)
    if input_shape is not None and (image.height, image.width) != input_shape[1:]:
        image = image.resize((input_shape[2], input_shape[1]), Image.Resampling.LANCZOS)
    pixels = np.asarray(image, np.uint8)
    return np.ascontiguousarray(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1))


def _decode(path: Path, channels: int | None) -> Image.Image:
    try:
        with (
            warnings.catch_warnings(action="error", category=Image.DecompressionBombWarning),
            Image.open(path, formats=_FORMATS) as image,
        ):
            if image.mode not in _GREY_MODES | _COLOUR_MODES:
                raise UserError(f"picture {path} is {image.mode}, not 8 bits a channel; save it with 8 bits")
            own = 1 if image.mode in _GREY_MODES else 3
            return image.convert(_MODE_OF_CHANNELS[channels or own])
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise UserError(f"picture {path} is too large to open safely; scale it down first") from error
    except UserError:
        raise
    except Exception as error:  # Pillow's decoders raise nearly anything on a broken file
        raise UserError(f"{path} is no picture, or a broken one; give a whole PNG or JPEG, or remove it") from error


def load_folder(root: Path) -> Source:
    """The pictures below `root`, one folder for each class, in a fixed split; `UserError` where they don't agree."""
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if len(folders) < 2:
        raise UserError(f"{root} must hold a folder of pictures for each class, at least two; it holds {len(folders)}")
    paths: list[Path] = []
    labels: list[int] = []
    for label, folder in enumerate(folders):
        pictures = sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES)
        if not pictures:
            raise UserError(f"class folder {folder} holds no pictures (PNG, JPEG, ...); add some or remove it")
        paths += pictures
        labels += [label] * len(pictures)
    x = _read_all(paths)
    return Source(*train_and_test(x, np.array(labels, np.int64)), tuple(folder.name for folder in folders))


def _read_all(paths: list[Path]) -> npt.NDArray[np.uint8]:
    """All pictures as (N, C, H, W): colour where any of them is."""
    images: list[npt.NDArray[np.uint8]] = []
    for path in paths:
        image = read_image(path)
        if images and image.shape[1:] != images[0].shape[1:]:
            (h, w), (h0, w0) = image.shape[1:], images[0].shape[1:]
            raise UserError(f"{path} is {w}x{h}, {paths[0]} is {w0}x{h0}: pictures must have one size; resize them")
        images.append(image)
        if image.size * len(images) > MAX_BYTES:
            raise UserError(f"the pictures take more than {MAX_BYTES:,} bytes; scale them down or use fewer")
    channels = max(image.shape[0] for image in images)
    x = np.empty((len(images), channels, *images[0].shape[1:]), np.uint8)
    for row, image in zip(x, images, strict=True):
        row[:] = image
    return x
