"""Large products are cut into views, equal to rounding; whether they are is measured for some kernels, and kept."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from nl_nodes.device import product_cut as module
from nl_nodes.device.product_cut import CUTS, KERNELS, NARROW, WIDE, product_cut
from nl_nodes.runtime.cut import MIN_ROWS, VECTOR, ProductCut, cut_product

rng = np.random.default_rng(3)


def normal(*shape: int) -> np.ndarray:
    return rng.standard_normal(shape)


def interior(*shape: int) -> np.ndarray:
    """Return a view whose rows are longer than it needs, as those of a chunk of channels."""
    return normal(*shape[:-1], shape[-1] + 5)[..., 2:-3]


def transposed(*shape: int) -> np.ndarray:
    return normal(*shape[:-2], shape[-1], shape[-2]).swapaxes(-1, -2)


@pytest.mark.parametrize(
    ("a", "b", "out"),
    [
        (normal(64, 30), normal(30, 96), normal(64, 96)),
        (transposed(64, 30), normal(30, 96), normal(64, 96)),
        (interior(5, 32, 20), interior(5, 20, 48), interior(5, 32, 48)),
        (transposed(5, 40, 20), interior(5, 20, 48), normal(5, 40, 48)),
        (normal(36, 9), normal(7, 9, 160), normal(36, 7, 160).transpose(1, 0, 2)),  # the kernels' transform
        (normal(2, 3, 24, 50), normal(3, 50, 32), normal(2, 3, 24, 32)),
        (normal(7, 30), normal(30, 256), normal(7, 256)),  # fewer rows than a piece has otherwise
        (normal(96, 25), normal(25, 100), normal(96, 100)),  # all columns, as no multiple of 16 divides them
        (transposed(90, 20), transposed(20, 32), normal(90, 32)),
        (normal(4, 1, 48, 20), normal(4, 3, 20, 64), normal(4, 48, 192).reshape(4, 48, 3, 64).swapaxes(1, 2)),  # panels
    ],
)
def test_a_cut_product_is_a_batch_of_views_and_equal_to_rounding(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    m, k, n = *a.shape[-2:], b.shape[-1]
    limit = m * k * n // 2
    name, views = cut_product(("matmul", (a, b, out)), ProductCut(limit, narrow=True))
    expected = a @ b
    assert name == "matmul"
    assert views[2].ndim == out.ndim + 2
    for view, array in zip(views, (a, b, out), strict=True):
        assert np.shares_memory(view, array)
        assert view.size == array.size
        assert view.strides[-1] in (array.itemsize, array.strides[-1])
    (rows, depth), columns = views[0].shape[-2:], views[1].shape[-1]
    assert depth == k
    assert rows * k * columns <= limit
    assert rows >= min(m, MIN_ROWS)
    assert columns >= min(n, VECTOR)
    out[...] = np.nan
    np.matmul(*views)
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-13 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("shape", "limit", "piece"),
    [
        ((64, 10, 64), 10 * 32 * 64, (32, 64)),  # rather fewer rows than fewer columns
        ((64, 10, 64), 10 * 32 * 64 - 1, (16, 64)),
        ((128, 10, 128), 10 * 128 * 64, (128, 64)),  # nor more than a block's 64
        ((128, 10, 96), 10 * 64 * 96, (128, 48)),  # 48 are nearer to 64 than 96
        ((24, 10, 48), 10 * 12 * 16, (12, 16)),
        ((24, 10, 100), 10 * 8 * 100, (8, 100)),  # no multiple of 16 divides 100
        ((512, 10, 16), 10 * 16 * 100, (64, 16)),
        ((64, 10, 12), 10 * 32 * 12, (32, 12)),
        ((64, 10, 24), 10 * 8 * 24, (8, 24)),  # six products per value read
        ((64, 500, 128), 500 * 16 * 64, (16, 64)),
    ],
)
def test_a_piece_has_a_block_of_columns_then_reads_least(
    shape: tuple[int, int, int], limit: int, piece: tuple[int, int]
) -> None:
    m, k, n = shape
    assert piece_of(normal(m, k), normal(k, n), limit) == piece


def piece_of(a: np.ndarray, b: np.ndarray, limit: int, narrow: bool = True) -> tuple[int, int]:
    """Return the rows and columns of the pieces of a product."""
    (m, k), n = a.shape, b.shape[1]
    _, (left, right, out) = cut_product(("matmul", (a, b, normal(m, n))), ProductCut(limit, narrow))
    rows, columns = left.shape[-2], right.shape[-1]
    assert left.shape == (m // rows, 1, rows, k)
    assert right.shape == (1, n // columns, k, columns)
    assert out.shape == (m // rows, n // columns, rows, columns)
    return rows, columns


@pytest.mark.parametrize(("k", "columns"), [(20, 64), (32, 64), (64, 32), (65, 32), (128, 16), (999, 16)])
def test_with_a_transposed_left_factor_a_piece_of_the_right_one_stays_in_the_cache(k: int, columns: int) -> None:
    limit = 64 * k * 127
    assert piece_of(transposed(64, k), normal(k, 128), limit) == (64, columns)
    assert piece_of(transposed(64, k), normal(k, 128), limit, narrow=False) == (64, 64)
    batch = ("matmul", (transposed(3, 64, k), normal(3, k, 128), normal(3, 64, 128)))
    assert cut_product(batch, ProductCut(limit, narrow=True))[1][1].shape == (3, 1, 128 // columns, k, columns)


def test_what_has_no_smaller_pieces_stays_whole() -> None:
    large, out = normal(64, 64), normal(64, 64)
    for call, limit in (
        (("matmul", (large, large, out)), None),
        (("matmul", (large, large, out)), 64**3),
        (("matmul", (large, large.T, out)), 64 * 32 * 32),  # BLAS has no faster way
        (("matmul", (normal(2, 64, 50), transposed(2, 50, 64), normal(2, 64, 64))), 50 * 32 * 32),
        (("matmul", (normal(10, 999), normal(999, 40), normal(10, 40))), 999 * MIN_ROWS * VECTOR - 1),
        (("matmul", (normal(67, 50), normal(50, 61), normal(67, 61))), 50 * 66 * 60),  # prime rows and columns
        (("matmul", (normal(64, 50), normal(50, 24), normal(64, 24))), 50 * 24 * 7),  # too few rows with all 24 columns
        (("matmul", (normal(64, 99), normal(99, 32), normal(64, 32))), 99 * 8 * 16),  # 5.3 products per value read
        (("multiply", (large, large, out)), 1),
        (("barrier", ()), 1),
    ):
        assert cut_product(call, limit and ProductCut(limit, narrow=True)) is call


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[str], None]]:
    """Return a function that sets the kernel of BLAS, as after a start of the process."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def choose(name: str) -> None:
        monkeypatch.setattr(module, "blas_versions", lambda: [f"openblas 0.3.31 {name}"])
        product_cut.cache_clear()

    yield choose
    product_cut.cache_clear()


def measures_nothing(*_: object) -> float:
    raise AssertionError("measured")


def test_only_kernels_with_small_products_are_measured(
    kernel: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(module, "_share_of_whole", measures_nothing)
    for name in ("Haswell", "Zen", "NEOVERSEN1", "None"):
        kernel(name)
        assert product_cut() is None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", KERNELS)
def test_a_cut_is_measured_once_and_kept(
    name: str, kernel: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kernel(name)
    found = product_cut()
    assert found in (None, *CUTS)
    (path,) = tmp_path.rglob("*.json")
    assert path.parent == tmp_path / "node-layer-network" / "products"
    assert name.lower() in path.name
    assert json.loads(path.read_text()) == (found and list(found))
    for damaged in ("", "5", "{}", "[1", "[1000000]", "[5, true]"):
        path.write_text(damaged)
        kernel(name)
        found = product_cut()
        assert found in (None, *CUTS)
        assert json.loads(path.read_text()) == (found and list(found))
    monkeypatch.setattr(module, "_share_of_whole", measures_nothing)
    for other in (None, *CUTS):
        path.write_text(json.dumps(other))
        assert product_cut() == found
        kernel(name)
        found = product_cut()
        assert found == other


@pytest.mark.parametrize(
    ("of_whole", "of_wide", "cut"),
    [(0.9, 0.96, NARROW), (0.9, 0.98, WIDE), (0.97, 1.2, WIDE), (0.99, 0.9, None), (1.2, 1.2, None)],
)
def test_products_are_cut_where_that_is_faster_beyond_noise(
    of_whole: float,
    of_wide: float,
    cut: ProductCut | None,
    kernel: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(module, "_share_of_whole", lambda: of_whole)
    monkeypatch.setattr(module, "_share_of_wide", lambda: of_wide)
    kernel("SkylakeX")
    (tmp_path / "node-layer-network").write_text("no folder")  # nothing can be kept, and the process decides once
    assert product_cut() == cut
    monkeypatch.setattr(module, "_share_of_whole", measures_nothing)
    assert product_cut() == cut
