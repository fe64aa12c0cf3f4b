"""Products by ctypes, with a stand-in for cublasLt that reads only the descriptors."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable

import numpy as np
import pytest
from support.assertions import refused
from support.fake_card import fake_cublaslt
from support.kernels.executor import COMPILER, NO_COMPILER

from nl_nodes.runtime.cuda.cublaslt import WORKSPACE, CublasLt, Matmul
from nl_nodes.runtime.cuda.products import describe

pytestmark = pytest.mark.skipif(COMPILER is None, reason=NO_COMPILER)

WORK = np.zeros(WORKSPACE, np.uint8)


@pytest.fixture(scope="module")
def lt() -> CublasLt:
    return CublasLt(str(fake_cublaslt()))


def operands(dtype: str) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(0)
    a = rng.standard_normal((3, 7, 5)).astype(dtype)
    return a, rng.standard_normal((3, 6, 7)).astype(dtype).swapaxes(1, 2)[:, :5], np.zeros((3, 7, 6), dtype)


def made(lt: CublasLt, *arrays: np.ndarray, tf32: bool = False) -> tuple[Matmul, tuple[int, ...]]:
    a, b, out = (array.ctypes.data for array in arrays)
    product, addresses = describe(*arrays, (a, b, out), tf32)
    return Matmul(lt, product), addresses


@pytest.mark.parametrize("tf32", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_product_is_numpys(lt: CublasLt, dtype: str, tf32: bool) -> None:
    a, b, out = operands(dtype)
    matmul, addresses = made(lt, a, b, out, tf32=tf32)
    for algorithm in lt.offers(matmul):
        out[...] = np.nan
        lt.run(matmul, algorithm, addresses, WORK.ctypes.data, 0)
        np.testing.assert_allclose(out, a @ b, rtol=1e-5 if dtype == "float32" else 1e-13)


def test_algorithms_that_sum_in_an_order_of_their_own_are_not_taken(lt: CublasLt) -> None:
    """The stand-in offers four: of one pass, in place, in the compute type, and one that cannot run."""
    matmul, _ = made(lt, *operands("float64"))
    assert [int.from_bytes(algorithm[:8], "little") for algorithm in lt.offers(matmul)] == [41, 43]


def test_a_stored_algorithm_is_checked_before_it_is_used(lt: CublasLt) -> None:
    matmul, _ = made(lt, *operands("float64"))
    good = lt.offers(matmul)[1]
    assert lt.accepts(matmul, good)
    assert not lt.accepts(matmul, bytes(64))


def test_an_error_names_the_function_and_its_status(lt: CublasLt) -> None:
    matmul, addresses = made(lt, *operands("float64"))
    with refused("cublasLtMatmul failed", "status 7"):
        lt.run(matmul, lt.offers(matmul)[0], addresses, 0, 0)
    with refused("cublasLtMatmul failed", "status 7"):  # addresses less aligned than the algorithm was asked for
        lt.run(matmul, lt.offers(matmul)[0], tuple(at + 4 for at in addresses), WORK.ctypes.data, 0)


def test_without_a_deterministic_algorithm_the_error_names_the_product(
    lt: CublasLt, monkeypatch: pytest.MonkeyPatch
) -> None:
    matmul, _ = made(lt, *operands("float64"))
    monkeypatch.setattr(CublasLt, "_reduction", lambda self, algorithm: 1)
    with refused("no deterministic algorithm", "f8", "5x7"):
        lt.offers(matmul)


def test_a_library_that_does_not_load_is_named() -> None:
    with refused("cublasLt cannot be loaded", "nowhere"):
        CublasLt("/nowhere/libcublasLt.so")


def test_descriptors_are_freed(lt: CublasLt) -> None:
    live: Callable[[], int] = ctypes.CDLL(str(fake_cublaslt())).cublasLtLive
    gc.collect()
    before = live()
    matmul, _ = made(lt, *operands("float64"))
    lt.offers(matmul)
    assert live() == before + 4
    del matmul
    assert live() == before
