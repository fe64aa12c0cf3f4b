"""The user's own arrays: an `.npz` of images and labels."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np

from nl_nodes import UserError
from nl_training.data.dataset import Array, Labels, Source, Split
from nl_training.data.files import MAX_BYTES, reason
from nl_training.data.splits import train_and_test

_WHOLE = ("x", "t")
_PARTS = ("x_train", "t_train", "x_test", "t_test")


def load_npz(path: Path) -> Source:
    """Images and labels of an `.npz`: `x, t`, split here, or `x_train, t_train, x_test, t_test`.

    Images are (N, C, H, W) or (N, H, W), labels whole numbers (N,) that count the classes from 0. Pixels of uint8 are
    kept as they are; others become float32. Raises `UserError` on anything else.
    """
    arrays = _read(path)
    names = _PARTS if set(arrays) == set(_PARTS) else _WHOLE
    images = [_images(arrays[name], f"{name} in {path}") for name in names[::2]]
    labels = [_labels(arrays[name], f"{name} in {path}", len(x)) for name, x in zip(names[1::2], images, strict=True)]
    if images[0].shape[1:] != images[-1].shape[1:] or images[0].dtype != images[-1].dtype:
        raise UserError(
            f"{path}: x_train {arrays['x_train'].shape} and x_test {arrays['x_test'].shape} "
            "must agree in image shape and dtype"
        )
    classes = _classes(np.concatenate(labels), path)
    if names is _WHOLE:
        train, test = train_and_test(images[0], labels[0])
    else:
        train, test = (Split(x, t) for x, t in zip(images, labels, strict=True))
    return Source(train, test, classes, largest=255.0 if images[0].dtype == np.uint8 else 1.0)


def _read(path: Path) -> dict[str, Array]:
    try:
        with zipfile.ZipFile(path) as archive:
            # A member never gives more than the size that the archive declares for it.
            size = sum(member.file_size for member in archive.infolist())
        if size > MAX_BYTES:
            raise UserError(f"{path} unpacks to {size:,} bytes, more than the {MAX_BYTES:,} allowed; use fewer images")
        with np.load(path, allow_pickle=False) as archive:
            names = set(archive.files)
            if names not in (set(_WHOLE), set(_PARTS)):
                raise UserError(f"{path} holds the arrays {sorted(names)}; it must hold x, t or {', '.join(_PARTS)}")
            return {name: archive[name] for name in names}
    except (
        OSError,
        ValueError,
        EOFError,
        MemoryError,
        RuntimeError,
        NotImplementedError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise UserError(
            f"{path} is no whole .npz of plain arrays ({reason(error)}); save it again with np.savez"
        ) from error


def _images(x: Array, what: str) -> Array:
    if x.ndim == 3:
        x = x[:, None]
    if x.ndim != 4 or x.size == 0 or x.dtype.kind not in "buif":
        raise UserError(f"{what} must be numbers of shape (N, C, H, W) or (N, H, W); it is {x.dtype} {x.shape}")
    if x.dtype == np.uint8:
        return x
    x = x.astype(np.float32)
    if not np.isfinite(x).all():
        raise UserError(f"{what} holds values that are not finite in float32; mend or remove those images")
    return x


def _labels(t: Array, what: str, n: int) -> Labels:
    if t.dtype.kind not in "ui" or t.shape != (n,):
        raise UserError(f"{what} must be one whole number for each of {n} images; it is {t.dtype} {t.shape}")
    return t.astype(np.int64)


def _classes(t: Array, path: Path) -> tuple[str, ...]:
    found = np.unique(t)
    if len(found) < 2 or found[0] != 0 or found[-1] != len(found) - 1:
        raise UserError(
            f"{path}: labels must count at least two classes 0, 1, 2, ... without a gap; they are {found[:5]}"
        )
    return tuple(str(label) for label in found)
