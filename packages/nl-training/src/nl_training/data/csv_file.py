"""Data sets from CSV files of one image a row: a column of labels and columns of pixels, as on Kaggle."""

from __future__ import annotations

import csv
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from math import isqrt
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nl_nodes import UserError
from nl_training.data.dataset import Labels, Source, Split
from nl_training.data.files import reason
from nl_training.data.splits import train_and_test

log = logging.getLogger(__name__)

_LABEL = "label"
_LARGEST = 255


@dataclass(frozen=True)
class _Table:
    """The cells (N, columns) of the file at `path`, and the names of the columns, none without a header."""

    path: Path
    names: list[str]
    cells: npt.NDArray[np.uint8]


def load_csv(root: Path, label: str | int | None = None, shape: tuple[int, int, int] | None = None) -> Source:
    """Read a CSV file, or train.csv and perhaps test.csv in a folder; without test images a fixed split is made here.

    All cells are whole numbers 0 to 255, with or without a header; the labels, sorted, are the classes. A test.csv
    without labels, as Kaggle's, is left out with a warning.

    Args:
        root: the file or folder.
        label: the column of labels: its name, or its number from 1; None for "label", or the first without a header.
        shape: (C, H, W) of the pixels in a row; None for square grey images.

    Raises:
        UserError: on anything else, with row and column where one is at fault, counted from 1 and with the header.
    """
    if not root.is_dir():
        return _source(_read(root), None, label, shape)
    path, test_path = root / "train.csv", root / "test.csv"
    if not path.is_file():
        raise UserError(f"{root} lacks train.csv; data.root must be a CSV file, or a folder with train.csv")
    train, test = _read(path), _read(test_path) if test_path.is_file() else None
    if test and _is_unlabelled(test, train, label):
        log.warning("%s has no column of labels and is left out; a part of %s is held out to test", test_path, path)
        test = None
    if test and test.names != train.names:
        raise UserError(f"{test_path} has other columns than {path}: give both the same header, in the same order")
    return _source(train, test, label, shape)


def _is_unlabelled(test: _Table, train: _Table, label: str | int | None) -> bool:
    """Return whether the test images lack the column of labels, and nothing else."""
    place = _label_column(train, label)
    return (
        test.cells.shape[1] == train.cells.shape[1] - 1 and test.names == train.names[:place] + train.names[place + 1 :]
    )


def _source(train: _Table, test: _Table | None, label: str | int | None, shape: tuple[int, int, int] | None) -> Source:
    x, t = _images(train, label, shape)
    x_test, t_test = _images(test, label, shape) if test else (x[:0], t[:0])
    if x.shape[1:] != x_test.shape[1:]:
        raise UserError(f"{train.path} has images {x.shape[1:]}, test.csv has {x_test.shape[1:]}; they must agree")
    labels = np.union1d(t, t_test)
    if len(labels) < 2:
        raise UserError(f"{train.path} has only the label {labels[0]}; give images of at least two classes")
    t, t_test = np.searchsorted(labels, t), np.searchsorted(labels, t_test)
    splits = (Split(x, t), Split(x_test, t_test)) if test else train_and_test(x, t)
    return Source(*splits, tuple(map(str, labels)), divided=test is None)


def _images(
    table: _Table, label: str | int | None, shape: tuple[int, int, int] | None
) -> tuple[npt.NDArray[np.uint8], Labels]:
    """Return images (N, C, H, W) and labels (N,)."""
    place = _label_column(table, label)
    x = np.delete(table.cells, place, axis=1)
    pixels, side = x.shape[1], isqrt(x.shape[1])
    if shape is None and (side == 0 or side * side != pixels):
        raise UserError(f"{table.path} has {pixels} pixels a row, which are no square: give data.shape=[C,H,W]")
    c, h, w = shape or (1, side, side)
    if c * h * w != pixels:
        raise UserError(f"{table.path} has {pixels} pixels a row, but data.shape=[{c},{h},{w}] has {c * h * w}")
    return x.reshape(-1, c, h, w), table.cells[:, place].astype(np.int64)


def _label_column(table: _Table, label: str | int | None) -> int:
    """Return the index of the column of labels."""
    if label is None:
        label = _LABEL if table.names else 1
    if isinstance(label, int):
        columns = table.cells.shape[1]
        if not 1 <= label <= columns:
            raise UserError(f"{table.path} has the columns 1 to {columns}; data.label={label} is none of them")
        return label - 1
    if not table.names:
        raise UserError(f"{table.path} has no header, so no column {label}; give data.label=NUMBER, from 1")
    if label not in table.names:
        some = "the columns " + reason(ValueError(", ".join(table.names[:3])))
        raise UserError(
            f"{table.path} has no column {label}, but {some}, ...; give data.label=NAME or its number from 1"
        )
    if table.names.count(label) > 1:
        raise UserError(f"{table.path} has several columns {label}; give the number of one by data.label, from 1")
    return table.names.index(label)


def _read(path: Path) -> _Table:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = next(csv.reader(file), [])
            _check_first(path, first)
            names = [] if all(map(_is_number, first)) else first
            file.seek(0)
            with warnings.catch_warnings(action="ignore"):  # NumPy's, of a file without rows
                warnings.simplefilter("error", DeprecationWarning)  # NumPy's, of a fraction
                cells = np.loadtxt(
                    file, np.uint8, delimiter=",", comments=None, quotechar='"', skiprows=int(bool(names)), ndmin=2
                )
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text in UTF-8; save it as CSV (UTF-8)") from error
    except (OSError, csv.Error) as error:
        raise UserError(f"{path} is not a readable CSV file ({reason(error)})") from error
    except (ValueError, DeprecationWarning) as error:
        raise UserError(f"{path}: {next(_faults(path, bool(names)), reason(error))}") from error
    if not cells.size:
        raise UserError(f"{path} has no rows of numbers; give a CSV file of labels and pixels")
    if names and len(names) != cells.shape[1]:
        raise UserError(f"{path}: the header has {len(names)} columns, the rows {cells.shape[1]}")
    return _Table(path, names, cells)


def _check_first(path: Path, first: list[str]) -> None:
    """Refuse a first row that is neither pixels nor names: unnamed columns' numbers, or cells without commas."""
    for separator, words in ((";", "semicolons"), ("\t", "tabs")):
        if len(first) == 1 and separator in first[0]:
            raise UserError(f"{path} has {words} between its columns; save it with commas")
    count = len(first)
    if count > 2 and first in ([str(i + start) for i in range(count)] for start in (0, 1)):
        raise UserError(f"{path}: row 1 counts the columns: remove it, or name the columns")


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _faults(path: Path, header: bool) -> Iterator[str]:
    """Describe each fault of a file that NumPy cannot parse."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file)
        columns = len(next(rows)) if header else 0
        try:
            for row in filter(None, rows):
                columns = columns or len(row)
                if len(row) != columns:
                    yield f"row {rows.line_num} has {len(row)} columns, the first {columns}"
                yield from (
                    f"row {rows.line_num}, column {place}: {cell[:20]!r} is no whole number from 0 to {_LARGEST}"
                    for place, cell in enumerate(row, start=1)
                    if not (cell.isascii() and cell.strip().isdecimal() and int(cell[:9]) <= _LARGEST)
                )
        except (csv.Error, UnicodeDecodeError) as error:
            yield f"row {rows.line_num}: {reason(error)}"
