"""Data sets from folders of pictures: one folder per class, optionally below train/, test/ and val/."""

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
from nl_training.data.images import decode, fitting_matte, flattened, readable_formats, shows_on
from nl_training.data.splits import train_and_test

log = logging.getLogger(__name__)

_TRAIN, _TEST, _VALIDATION = "train", "test", "val"
_PART_OF = {
    "train": _TRAIN, "training": _TRAIN, "test": _TEST, "testing": _TEST,
    "val": _VALIDATION, "valid": _VALIDATION, "validation": _VALIDATION,
}  # fmt: skip


def load_folder(root: Path, size: tuple[int, int] | None = None, matte: int | None = None) -> Source:
    """Read the pictures below `root`, one folder per class, with subfolders.

    A root with only train/, test/ and perhaps val/ (or training, testing, valid, validation; in any case) is already
    split; otherwise a fixed split is made here. Hidden files are ignored; files that are not pictures, or outside the
    class folders, are skipped with a warning. All transparent pictures are composited on one background.

    Args:
        root: the folder.
        size: (H, W) to resize every picture to; None requires pictures of one size.
        matte: the grey for transparent pictures; if None, or if a picture would be invisible on it, white or black,
            whichever suits most of them.

    Raises:
        UserError: if there are fewer than two classes, a class has no pictures, sizes differ, or a transparent picture
            is invisible on the common background.
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
    _warn_skipped(root, paths)
    x, matte = _read_all(paths, size, matte)
    t = np.array(labels, np.int64)
    if len(parts) == 1:
        return Source(*train_and_test(x, t), tuple(classes), matte=matte, divided=True)
    pieces = zip(parts, np.split(x, ends[:-1]), np.split(t, ends[:-1]), strict=True)
    split = {name: Split(images, labels) for name, images, labels in pieces}
    return Source(split[_TRAIN], split[_TEST], tuple(classes), matte=matte, validation=split.get(_VALIDATION))


def _parts(root: Path) -> dict[str, Path]:
    """Return the folders of the splits by name, or the root alone."""
    folders = _folders(root)
    parts = {_PART_OF[folder.name.lower()]: folder for folder in folders if folder.name.lower() in _PART_OF}
    if len(parts) < len(folders):
        if {_TRAIN, _TEST} <= parts.keys():
            other = next(folder.name for folder in folders if folder not in parts.values())
            raise UserError(
                f"{root} holds train/, test/ and {other}/: move {other}/ out, or its pictures into the others"
            )
        return {"": root}
    if not parts:
        return {"": root}
    missing = [f"{name}/" for name in (_TRAIN, _TEST) if name not in parts]
    if missing:
        held = ", ".join(f"{folder.name}/" for folder in folders)
        raise UserError(f"{root} holds {held} but no {' and no '.join(missing)}; name the folders train/ and test/")
    return parts


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and not _hidden(path.name))


def _pictures(folder: Path) -> list[Path]:
    """Return the pictures of a class's folder and its subfolders."""
    pictures = [path for path in _files(folder) if path.suffix.lower() in readable_formats()]
    if not pictures:
        raise UserError(f"class folder {folder} holds no pictures (PNG, JPEG, TIFF, ...); add some or remove it")
    return pictures


def _files(root: Path) -> list[Path]:
    """Return all files below a folder that are not hidden, sorted."""
    found = (path for path in root.rglob("*") if not any(map(_hidden, path.relative_to(root).parts)))
    return sorted(path for path in found if not path.is_dir())


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"  # added to archives by macOS


def _warn_skipped(root: Path, used: Iterable[Path]) -> None:
    known = set(used)
    others = [str(path.relative_to(root)) for path in _files(root) if path not in known]
    if others:
        some = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
        log.warning("%s: %d files skipped (not a picture, or in no class folder): %s", root, len(others), some)


def _read_all(
    paths: Sequence[Path], size: tuple[int, int] | None, matte: int | None
) -> tuple[npt.NDArray[np.uint8], int | None]:
    """Return all pictures as (N, C, H, W), in colour if any is, and the matte if any is transparent."""
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
    common = matte
    if common is None or not all(shows_on(image, common) for image in images):
        common = fitting_matte(images)
    for path, image in zip(paths, images, strict=True):
        if not shows_on(image, common):
            raise UserError(f"{path} is invisible on grey {common}, which suits the others; give it a background")
    transparent = any(image.has_transparency_data for image in images)
    channels = 3 if any(image.mode.startswith("RGB") for image in images) else 1
    x = np.empty((len(images), channels, images[0].height, images[0].width), np.uint8)
    for row, image in zip(x, images, strict=True):
        row[:] = flattened(image, common)
    return x, common if transparent else None
