"""CSV files of labels and pixels: with and without a header, folders, errors that name the row."""

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.assertions import at_most_refused, refused

from nl_training.config.cli import check
from nl_training.data import Normalization, RunData, load, load_test
from nl_training.data.catalog import read_source

RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (12, 4), dtype=np.uint8)
T = np.arange(12) % 3
ROWS = [[int(label), *map(int, pixels)] for label, pixels in zip(T, X, strict=True)]
HEADER = ["label", "pixel0", "pixel1", "pixel2", "pixel3"]


def table(path: Path, rows: list[list], header: list[str] | None = None) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows] if header else rows)
    return str(path)


def images(source) -> set[tuple[int, bytes]]:
    """The images of all splits with their labels."""
    parts = (source.train, source.test)
    return {(int(source.classes[t]), x.tobytes()) for part in parts for x, t in zip(part.x, part.t, strict=True)}


@pytest.mark.parametrize("header", [HEADER, None], ids=["header", "no header"])
def test_a_file_is_split_by_class(tmp_path: Path, header):
    source = read_source("csv", table(tmp_path / "a.csv", ROWS, header))
    assert images(source) == {(int(label), x.tobytes()) for label, x in zip(T, X, strict=True)}
    assert source.train.x.shape[1:] == (1, 2, 2)
    assert source.classes == ("0", "1", "2")
    assert np.bincount(source.train.t).min() > 0
    assert 0 < len(source.test) < 6
    assert source.range == (0, 255)


def test_all_images_of_a_file_are_tested_unless_the_run_was_trained_on_it(tmp_path: Path, caplog):
    def tested(trained: RunData, own: bool = False) -> int:
        caplog.clear()
        split, _ = load_test("csv", path, None, Normalization.scaling(255, 1), trained, own)
        assert ("all 60 images are tested" in caplog.text) == (len(split) == 60)
        return len(split)

    path = table(tmp_path / "a.csv", ROWS * 5)
    other = load("csv", table(tmp_path / "b.csv", ROWS)).digest
    assert tested(RunData(other, None)) == tested(RunData(other, 30)) == tested(RunData(other, 1)) == 60
    for own in (False, True):
        assert tested(RunData(load("csv", path).digest, None), own) == 12
        assert tested(RunData(load("csv", path, limit=30).digest, 30), own) == tested(RunData("", None), own) == 12
    with refused("data=csv has changed since the run was trained", "data.root=PATH"):
        tested(RunData(other, None), own=True)


def test_a_folder_keeps_its_own_test_images(tmp_path: Path):
    table(tmp_path / "d/train.csv", ROWS[:9], HEADER)
    table(tmp_path / "d/test.csv", ROWS[9:], HEADER)
    source = read_source("csv", str(tmp_path / "d"))
    assert source.train.x.tobytes() == X[:9].tobytes()
    assert source.test.x.tobytes() == X[9:].tobytes()
    assert source.test.t.tolist() == T[9:].tolist()


def test_test_images_without_labels_are_left_out_with_a_warning(tmp_path: Path, caplog):
    table(tmp_path / "d/train.csv", ROWS, HEADER)
    table(tmp_path / "d/test.csv", [row[1:] for row in ROWS], HEADER[1:])
    source = read_source("csv", str(tmp_path / "d"))
    assert len(source.train) + len(source.test) == 12
    assert "test.csv has no column of labels" in caplog.text


@pytest.mark.parametrize("header", [HEADER[:4], ["label", "a", "b", "c"]])
def test_test_images_that_lack_another_column_are_refused(tmp_path: Path, header: list[str]):
    table(tmp_path / "d/train.csv", ROWS, HEADER)
    table(tmp_path / "d/test.csv", [row[:4] for row in ROWS], header)
    with refused("test.csv has other columns than"):
        read_source("csv", str(tmp_path / "d"))


def test_one_of_several_columns_of_labels_is_named_by_its_number(tmp_path: Path):
    path = table(tmp_path / "a.csv", [[0, *row[:4]] for row in ROWS], ["kind", "label", "label", "c", "d"])
    with refused(path, "several columns label", "from 1"):
        read_source("csv", path)
    assert read_source("csv", path, label=2).classes == ("0", "1", "2")


def test_labels_may_have_gaps_and_stand_in_any_column(tmp_path: Path):
    gaps = np.array([7, 30, 250])[T]
    rows = [[*map(int, x), int(label)] for x, label in zip(X, gaps, strict=True)]
    path = table(tmp_path / "a.csv", rows, ["a", "b", "c", "d", "kind"])
    by_name = read_source("csv", path, label="kind")
    assert by_name.classes == ("7", "30", "250")
    assert images(by_name) == {(int(label), x.tobytes()) for label, x in zip(gaps, X, strict=True)}
    assert read_source("csv", path, label=5).digest() == by_name.digest()


def test_a_class_only_in_the_test_file_is_one_of_the_classes(tmp_path: Path):
    table(tmp_path / "d/train.csv", [row for row in ROWS if row[0] != 1])
    table(tmp_path / "d/test.csv", ROWS)
    source = read_source("csv", str(tmp_path / "d"))
    assert source.classes == ("0", "1", "2")
    assert set(source.train.t.tolist()) == {0, 2}


def test_shape_gives_the_order_of_the_pixels(tmp_path: Path):
    x = RNG.integers(0, 256, (12, 3, 2, 4), dtype=np.uint8)
    path = table(
        tmp_path / "a.csv", [[int(label), *map(int, image.ravel())] for label, image in zip(T, x, strict=True)]
    )
    source = read_source("csv", path, shape=(3, 2, 4))
    assert images(source) == {(int(label), image.tobytes()) for label, image in zip(T, x, strict=True)}
    with refused("24 pixels", "data.shape=[C,H,W]"):
        read_source("csv", path)
    with refused("24 pixels", "data.shape=[3,2,2]", "12"):
        read_source("csv", path, shape=(3, 2, 2))


def test_spaces_blank_lines_quotes_and_a_byte_order_mark_are_read(tmp_path: Path):
    path = tmp_path / "a.csv"
    plain = read_source("csv", table(path, ROWS, HEADER))
    lines = path.read_text().splitlines()
    lines[0] = ",".join(f'"{name}"' for name in HEADER)
    lines[3] = lines[3].replace(",", ", ")
    path.write_text("\ufeff" + "\r\n".join([*lines[:5], "", *lines[5:]]), encoding="utf-8")
    assert read_source("csv", str(path)).digest() == plain.digest()


BROKEN = {
    "empty": ("", "no rows"),
    "only a header": ("label,a\n", "no rows"),
    "a cell missing": ("label,a\n1,2\n0\n", "row 3 has 1 columns, the first 2"),
    "a cell too many": ("1,2\n0,3,4\n", "row 2 has 3 columns, the first 2"),
    "a word": ("1,2\n0,x\n", "row 2, column 2: 'x' is no whole number from 0 to 255"),
    "an empty cell": ("1,2\n0,\n", "row 2, column 2: '' is no whole number"),
    "a fraction": ("1,2\n0,0.5\n", "row 2, column 2: '0.5' is no whole number"),
    "too bright": ("1,2\n0,256\n", "row 2, column 2: '256' is no whole number"),
    "negative": ("1,-2\n0,3\n", "row 1, column 2: '-2' is no whole number"),
    "no label": ("a,b\n1,2\n", "no column label, but the columns a, b, ...", ),
    "header of other length": ("label,a,b\n1,2\n0,1\n", "the header has 3 columns, the rows 2"),
    "one class": ("1,2\n1,3\n", "only the label 1"),
    "no pixels": ("1\n0\n", "0 pixels a row"),
    "too few": ("1,2\n0,3\n", "too few to put some aside"),
    "semicolons": ("label;a\n1;2\n", "has semicolons between its columns; save it with commas"),
    "tabs": ("1\t2\n0\t2\n", "has tabs between its columns"),
    "columns counted from 0": ("0,1,2,3,4\n1,9,9,9,9\n0,8,8,8,8\n", "row 1 counts the columns: remove it, or name"),
    "columns counted from 1": ("1,2,3,4,5\n1,9,9,9,9\n0,8,8,8,8\n", "row 1 counts the columns"),
    "a line break in a name": ('"a\nb",c\n1,2\n', "could not convert"),
    "a cell of 200,000 characters": ("1,2\n0," + "9" * 200_000 + "\n", "row 2: field larger"),
    "not text": (b"1,\xff\n0,1\n", "UTF-8"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "named"), BROKEN.values(), ids=BROKEN)
def test_refuses_broken_files_and_names_the_row(tmp_path: Path, text, named):
    path = tmp_path / "a.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with refused(path if named != BROKEN["too few"][1] else "2 images", named):
        load("csv", root=str(path))


def test_refuses_columns_folders_and_shapes_that_do_not_fit(tmp_path: Path):
    path = table(tmp_path / "d/train.csv", ROWS, HEADER)
    for label in (0, 6):
        with refused("columns 1 to 5", f"data.label={label}"):
            read_source("csv", path, label=label)
    with refused("no column digit", "label, pixel0, pixel1"):
        read_source("csv", path, label="digit")
    plain = table(tmp_path / "d/train.csv", ROWS)
    with refused("has no header, so no column digit", "data.label=NUMBER"):
        read_source("csv", plain, label="digit")
    table(tmp_path / "d/test.csv", [[*row, *row[1:], 0, 0, 0, 0, 0][:10] for row in ROWS])
    with refused("train.csv has images (1, 2, 2), test.csv has (1, 3, 3)"):
        read_source("csv", str(tmp_path / "d"))
    (tmp_path / "empty").mkdir()
    with refused(tmp_path / "empty", "lacks train.csv"):
        load("csv", root=str(tmp_path / "empty"))
    with refused("data=csv needs data.root"):
        load("csv")
    with refused("does not exist; give the path of the file or folder"):
        load("csv", root=str(tmp_path / "none.csv"))


@pytest.mark.parametrize("header", [HEADER[::-1], ["label", "a", "b", "c", "d"], None], ids=["order", "names", "none"])
def test_refuses_test_columns_that_are_not_the_training_columns(tmp_path: Path, header):
    train, test = tmp_path / "d/train.csv", tmp_path / "d/test.csv"
    for one, other in ((HEADER, header), (header, HEADER)):
        table(train, ROWS, one)
        table(test, ROWS, other)
        with refused(f"{test} has other columns than {train}: give both the same header, in the same order"):
            read_source("csv", str(tmp_path / "d"))


def test_config_takes_a_name_or_number_and_a_shape():
    config = check(["data=csv", "data.label=digit", "data.shape=[3,32,32]"], multirun=False)
    assert (config.data.label, config.data.shape) == ("digit", (3, 32, 32))
    assert check(["data=csv", "data.label=2"], multirun=False).data.label == 2
    for wrong in ("data.label=0", "data.label=-1", "data.shape=[3,32]", "data.shape=32"):
        with refused(wrong.partition("=")[0]):
            check(["data=csv", wrong], multirun=False)


@settings(deadline=None)
@given(st.text("0123456789,\n\r\"'label x.-", max_size=60) | st.binary(max_size=30))
def test_any_file_gives_images_or_a_user_error(tmp_path_factory, data: str | bytes):
    path = tmp_path_factory.getbasetemp() / "fuzz.csv"
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    with at_most_refused():
        assert read_source("csv", str(path)).train.x.dtype == np.uint8
