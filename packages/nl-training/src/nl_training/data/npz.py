"""Data sets from an `.npz` of images and labels."""

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
from nl_training.data.dataset import Labels, Source, Split
from nl_training.data.files import MAX_BYTES, read_stream, reason
from nl_training.data.pixels import USUAL_RANGES, Array, Range, resized, value_range
from nl_training.data.splits import train_and_test

_WHOLE, _TRAIN, _TEST = ("x", "t"), ("x_train", "t_train"), ("x_test", "t_test")
# Exceptions observed on broken archives, more than zipfile documents.
_BROKEN = (
    OSError, ValueError, EOFError, MemoryError, RuntimeError, zipfile.BadZipFile, zlib.error, tokenize.TokenError
)  # fmt: skip


def load_npz(path: Path, size: tuple[int, int] | None = None) -> Source:
    """Read an `.npz` with `x, t`, which is split here, or `x_train, t_train, x_test, t_test`.

    Images are (N, C, H, W), (N, H, W) or, with 1 or 3 channels, (N, H, W, C); labels are whole numbers (N,) from 0
    without gaps. Pixels of uint8 are kept, others become float32; the pixel range is inferred from the values. With
    `size` (H, W) images are resized. Raises `UserError` on anything else, and if the channel axis is ambiguous.
    """
    arrays = _read(path)
    parts = [_part(arrays, names, path, size) for names in (_WHOLE, _TRAIN, _TEST) if names[0] in arrays]
    classes = _classes(np.concatenate([part.t for part in parts]), path)
    train, test = parts if len(parts) == 2 else train_and_test(parts[0].x, parts[0].t)
    if train.x.shape[1:] != test.x.shape[1:] or train.x.dtype != test.x.dtype:
        kinds = f"{train.x.dtype} {train.x.shape} and {test.x.dtype} {test.x.shape}"
        raise UserError(f"x_train and x_test in {path} are {kinds}; they must agree in image shape and dtype")
    return Source(train, test, classes, _range([part.x for part in parts], path), divided=len(parts) == 1)


def _read(path: Path) -> dict[str, Array]:
    try:
        with zipfile.ZipFile(path) as archive:
            # zipfile never returns more bytes than a member's declared size.
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
        raise UserError(
            f"{path} is not an intact .npz of plain arrays ({reason(error)}); save it with np.savez"
        ) from error


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Array:
    """Read the array of a member; memory is not allocated by its header, and pickles are not loaded."""
    with archive.open(member) as stream:
        data = read_stream(stream, member.file_size)
    file = io.BytesIO(data)
    header = npy.read_array_header_1_0 if npy.read_magic(file) == (1, 0) else npy.read_array_header_2_0
    shape, fortran_order, dtype = header(file)
    start = file.tell()
    if math.prod(shape) * dtype.itemsize != len(data) - start:
        raise ValueError(f"a header declares {dtype} {shape}, {len(data) - start:,} bytes follow")
    return np.frombuffer(data, dtype, offset=start).reshape(shape, order="F" if fortran_order else "C")


def _range(parts: list[Array], path: Path) -> Range:
    """Return the pixel range of all images; `UserError` if one split is in 0..255 and the other in 0..1."""
    ranges = [value_range(x) for x in parts]
    whites = [white for _, white in ranges]
    if set(ranges) <= set(USUAL_RANGES) and max(whites) > 2 * min(whites):
        (a, b), (c, d) = ranges
        raise UserError(f"pixels in {path} are {a:g} to {b:g} in x_train, {c:g} to {d:g} in x_test; scale them equally")
    return value_range(np.array([bound for x in parts for bound in (x.min(), x.max())]))


def _part(arrays: dict[str, Array], names: tuple[str, str], path: Path, size: tuple[int, int] | None) -> Split:
    x = _images(arrays[names[0]], f"{names[0]} in {path}")
    x = x if size is None else resized(x, size)
    return Split(x, _labels(arrays[names[1]], f"{names[1]} in {path}", len(x)))


def _images(x: Array, what: str) -> Array:
    if x.ndim == 3:
        x = x[:, None]
    if x.ndim != 4 or x.size == 0 or x.dtype.kind not in "buif":
        raise UserError(f"{what} must be numbers of shape (N, C, H, W) or (N, H, W); it is {x.dtype} {x.shape}")
    x = _channels_first(x, what)
    if x.dtype == np.uint8:
        return x
    x = x.astype(np.float32)
    if not np.isfinite(x).all():
        raise UserError(f"{what} holds values that are not finite in float32; correct or remove those images")
    return x


def _channels_first(x: Array, what: str) -> Array:
    """Return images as (N, C, H, W); (N, H, W, C) with 1 or 3 channels is transposed."""
    first, last = x.shape[1] <= 4, x.shape[3] in (1, 3)  # 2 and 4 channels include transparency
    if (first and last) or (x.shape[3] in (2, 4) and not first):
        raise UserError(
            f"{what} is {x.shape}, which may have its channels first or last; "
            "give (N, C, H, W) with W above 4, or (N, H, W) for grey images"
        )
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2)) if last else x


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
