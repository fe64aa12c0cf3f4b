"""A folder of pictures as a data set: one folder for each class, in one piece or below train/, test/ and val/."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from nl_nodes import UserError
from nl_training.data.dataset import Source, Split
from nl_training.data.files import MAX_BYTES
from nl_training.data.images import decode, fitting_matte, flattened, readable, shows_on
from nl_training.data.splits import train_and_test

log = logging.getLogger(__name__)

_TRAIN, _TEST, _VALIDATION = "train", "test", "val"
_PART_OF = {
    "train": _TRAIN, "training": _TRAIN, "test": _TEST, "testing": _TEST,
    "val": _VALIDATION, "valid": _VALIDATION, "validation": _VALIDATION,
}  # fmt: skip


def load_folder(root: Path, size: tuple[int, int] | None = None, matte: int | None = None) -> Source:
    """The pictures below `root`, one folder for each class, folders within it counted towards it.

    A root that holds nothing but train/, test/ and perhaps val/ (training, testing, valid, validation; in any case) is
    taken as split so; another is split here, always alike. Hidden files are passed over; other files that are no
    pictures, or lie in no class's folder, are left out with a warning that counts them. Transparent pictures are all
    composited on one ground.

    Args:
        root: the folder.
        size: (H, W) to resize every picture to; None keeps their size, which must be the same then.
        matte: the grey for transparent pictures; where it is None or hides one, white or black is taken, as it fits
            most of them.

    Raises:
        UserError: where there are no two classes, a class has no pictures, sizes differ, or a transparent picture
            shows nothing on the ground that all have.
    """
    parts = _parts(root)
    classes = sorted({folder.name for part in parts.values() for folder in _folders(part)})
    if len(classes) < 2:
        raise UserError(f"{root} must hold a folder of pictures for each class, at least two; it holds {len(classes)}")
    paths: list[Path] = []
    labels: list[int] = []
    ends: list[int] = []
    for part in parts.values():
        for folder in _folders(part):
            pictures = _pictures(folder)
            paths += pictures
            labels += [classes.index(folder.name)] * len(pictures)
        ends.append(len(paths))
    _say_left_out(root, paths)
    x, matte = _read_all(paths, size, matte)
    t = np.array(labels, np.int64)
    if len(parts) == 1:
        return Source(*train_and_test(x, t), tuple(classes), matte=matte)
    pieces = zip(parts, np.split(x, ends[:-1]), np.split(t, ends[:-1]), strict=True)
    split = {name: Split(images, labels) for name, images, labels in pieces}
    return Source(split[_TRAIN], split[_TEST], tuple(classes), matte=matte, validation=split.get(_VALIDATION))


def _parts(root: Path) -> dict[str, Path]:
    """The folders of the parts by name, or the root alone."""
    folders = _folders(root)
    parts = {_PART_OF[folder.name.lower()]: folder for folder in folders if folder.name.lower() in _PART_OF}
    if not parts or len(parts) < len(folders):
        return {"": root}
    missing = [f"{name}/" for name in (_TRAIN, _TEST) if name not in parts]
    if missing:
        held = ", ".join(f"{folder.name}/" for folder in folders)
        raise UserError(f"{root} holds {held} but no {' and no '.join(missing)}; name the folders train/ and test/")
    return parts


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and not _hidden(path.name))


def _pictures(folder: Path) -> list[Path]:
    """The pictures of a class's folder and the folders within it."""
    pictures = [path for path in _files(folder) if path.suffix.lower() in readable()]
    if not pictures:
        raise UserError(f"class folder {folder} holds no pictures (PNG, JPEG, TIFF, ...); add some or remove it")
    return pictures


def _files(root: Path) -> list[Path]:
    """All files below a folder that are not hidden, in order."""
    found = (path for path in root.rglob("*") if not any(map(_hidden, path.relative_to(root).parts)))
    return sorted(path for path in found if not path.is_dir())


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"  # what macOS adds to an archive


def _say_left_out(root: Path, taken: Iterable[Path]) -> None:
    known = set(taken)
    others = [str(path.relative_to(root)) for path in _files(root) if path not in known]
    if others:
        some = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
        log.warning("%s: %d left out (no picture, or in no class's folder): %s", root, len(others), some)


def _read_all(
    paths: Sequence[Path], size: tuple[int, int] | None, matte: int | None
) -> tuple[npt.NDArray[np.uint8], int | None]:
    """All pictures as (N, C, H, W), colour where any of them is, and the ground of those that are transparent."""
    images: list[Image.Image] = []
    for path in paths:
        image = decode(path, size=size)
        if images and image.size != images[0].size:
            (w, h), (w0, h0) = image.size, images[0].size
            raise UserError(
                f"{path} is {w}x{h}, {paths[0]} is {w0}x{h0}: pictures must have one size; "
                f"data.size=[{h0},{w0}] resizes them all to that height and width"
            )
        images.append(image)
        if image.width * image.height * len(image.getbands()) * len(images) > MAX_BYTES:
            raise UserError(f"the pictures take more than {MAX_BYTES:,} bytes; make them smaller by data.size")
    ground = matte
    if ground is None or not all(shows_on(image, ground) for image in images):
        ground = fitting_matte(images)
    for path, image in zip(paths, images, strict=True):
        if not shows_on(image, ground):
            raise UserError(f"{path} shows nothing on grey {ground}, the ground that fits the others; give it a ground")
    transparent = any(image.has_transparency_data for image in images)
    channels = 3 if any(image.mode.startswith("RGB") for image in images) else 1
    x = np.empty((len(images), channels, images[0].height, images[0].width), np.uint8)
    for row, image in zip(x, images, strict=True):
        row[:] = flattened(image, ground)
    return x, ground if transparent else None
