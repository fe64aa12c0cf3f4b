"""The user's own arrays: an `.npz` of images and labels."""

from __future__ import annotations

import io
import math
import tokenize
import zipfile
import zlib
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from nl_nodes import UserError
from nl_training.data.dataset import Array, Labels, Source, Split
from nl_training.data.files import MAX_BYTES, read_stream, reason
from nl_training.data.splits import train_and_test

_WHOLE, _TRAIN, _TEST = ("x", "t"), ("x_train", "t_train"), ("x_test", "t_test")
# What the reading of a broken archive was seen to raise, beside what zipfile documents.
_BROKEN = (
    OSError, ValueError, EOFError, MemoryError, RuntimeError, zipfile.BadZipFile, zlib.error, tokenize.TokenError
)  # fmt: skip


def load_npz(path: Path) -> Source:
    """Images and labels of an `.npz`: `x, t`, split here, or `x_train, t_train, x_test, t_test`.

    Images are (N, C, H, W) or (N, H, W), labels whole numbers (N,) that count the classes from 0. Pixels of uint8 are
    kept as they are; others become float32. Raises `UserError` on anything else.
    """
    arrays = _read(path)
    parts = [_part(arrays, names, path) for names in (_WHOLE, _TRAIN, _TEST) if names[0] in arrays]
    classes = _classes(np.concatenate([part.t for part in parts]), path)
    train, test = parts if len(parts) == 2 else train_and_test(parts[0].x, parts[0].t)
    if train.x.shape[1:] != test.x.shape[1:] or train.x.dtype != test.x.dtype:
        kinds = f"{train.x.dtype} {train.x.shape} and {test.x.dtype} {test.x.shape}"
        raise UserError(f"x_train and x_test in {path} are {kinds}; they must agree in image shape and dtype")
    return Source(train, test, classes, largest=255.0 if train.x.dtype == np.uint8 else 1.0)


def _read(path: Path) -> dict[str, Array]:
    try:
        with zipfile.ZipFile(path) as archive:
            # A member never gives more than the size that the archive declares for it.
            size = sum(member.file_size for member in archive.infolist())
            if size > MAX_BYTES:
                raise UserError(
                    f"{path} unpacks to {size:,} bytes, more than the {MAX_BYTES:,} allowed; use fewer images"
                )
            files = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
            if files.keys() not in (set(_WHOLE), {*_TRAIN, *_TEST}):
                wanted = ", ".join((*_TRAIN, *_TEST))
                found = reason(ValueError(", ".join(sorted(files))))
                raise UserError(f"{path} holds the arrays {found}; it must hold x, t or {wanted}")
            return {name: _array(archive, member) for name, member in files.items()}
    except _BROKEN as error:
        raise UserError(f"{path} is no whole .npz of plain arrays ({reason(error)}); save it by np.savez") from error


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Array:
    """The array in a member; no memory is taken on its header's word, and no object is made."""
    with archive.open(member) as stream:
        data = read_stream(stream, member.file_size)
    file = io.BytesIO(data)
    header = npy.read_array_header_1_0 if npy.read_magic(file) == (1, 0) else npy.read_array_header_2_0
    shape, by_columns, dtype = header(file)
    start = file.tell()
    if math.prod(shape) * dtype.itemsize != len(data) - start:
        raise ValueError(f"a header claims {dtype} {shape}, {len(data) - start:,} bytes follow")
    return np.frombuffer(data, dtype, offset=start).reshape(shape, order="F" if by_columns else "C")


def _part(arrays: dict[str, Array], names: tuple[str, str], path: Path) -> Split:
    x = _images(arrays[names[0]], f"{names[0]} in {path}")
    return Split(x, _labels(arrays[names[1]], f"{names[1]} in {path}", len(x)))


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


def _classes(t: Labels, path: Path) -> tuple[str, ...]:
    found = np.unique(t)
    if len(found) < 2 or found[0] != 0 or found[-1] != len(found) - 1:
        some = ", ".join(str(label) for label in found[:5])
        raise UserError(f"labels in {path} must be 0, 1, 2, ... without a gap, at least two; they are {some}, ...")
    return tuple(str(label) for label in found)
