"""The layouts for cublasLt describe each product, read column by column as cublasLt reads them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.assertions import refused
from support.small_models import WIDTHS, narrow

from nl_nodes.compiler import CompileSpec
from nl_nodes.compiler.cuda.values import Program
from nl_nodes.compiler.plan import lower
from nl_nodes.compiler.rewrite.engine import rewrite
from nl_nodes.compiler.rewrite.rules import RULES
from nl_nodes.runtime.cuda.products import Layout, Product, describe

MODELS = ("mlp", "cnn3", "cnn8", "vgg11", "vgg16")


def address(array: np.ndarray) -> int:
    return array.ctypes.data


def described(a: Any, b: Any, out: Any, tf32: bool = False) -> tuple[Product, tuple[int, ...]]:
    return describe(a, b, out, (address(a), address(b), address(out)), tf32)


def column_major(memory: np.ndarray, at: int, layout: Layout) -> np.ndarray:
    """The matrices of a layout that begins at an address, which must lie in a memory."""
    offset, item = at - address(memory), memory.itemsize
    strides = (layout.stride * item, item, layout.ld * item)
    return np.ndarray((layout.batch, layout.rows, layout.cols), memory.dtype, memory, offset, strides)


def multiplied(product: Product, addresses: tuple[int, ...], memories: tuple[np.ndarray, ...]) -> None:
    """Compute a product as cublasLt would, from its description alone."""
    layouts = (product.a, product.b, product.out)
    for layout in layouts:
        assert layout.ld >= layout.rows
    a, b, out = (column_major(*given) for given in zip(memories, addresses, layouts, strict=True))
    a = a.swapaxes(1, 2) if product.transpose_a else a
    b = b.swapaxes(1, 2) if product.transpose_b else b
    for place, align in zip(addresses, product.alignment, strict=True):
        assert place % align == 0
    out[...] = a @ b


def random_like(rng: np.random.Generator, view: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Random memory, and a view of it with the strides of another one."""
    extent = view.itemsize + sum(s * (n - 1) for n, s in zip(view.shape, view.strides, strict=True))
    memory = rng.standard_normal(extent // view.itemsize).astype(view.dtype)
    return memory, np.ndarray(view.shape, view.dtype, memory, 0, view.strides)


def check(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    (ma, a), (mb, b), (mo, out) = (random_like(rng, np.asarray(x)) for x in (a, b, out))
    expected = np.matmul(a.astype("float64"), b.astype("float64"))
    product, addresses = described(a, b, out)
    memories = {address(memory): memory for memory in (ma, mb, mo)}
    multiplied(product, addresses, tuple(memories[at] for at in addresses))
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max(initial=0))
    assert product.flops == 2 * out.size * a.shape[-1]


@cache
def products(name: str, train: bool) -> list[tuple[Any, ...]]:
    """The operands of the matrix products of a model's tape, which has to stay alive."""
    net = narrow(name, 0, batch_norm="before_activation", dropout=0.3)
    feeds = {"x": ((4, *net.input_shape), "float64"), **({"t": ((4,), "int64")} if train else {})}
    graph = rewrite(net.wire(4, train), RULES)
    spec = CompileSpec(feeds, frozenset(feeds), net._grads if train else None)
    lowered = lower(graph, spec, 1, chunked=False)
    program = Program(lowered)
    found = [program.recorded[call.number][1] for call in program.calls if call.kind == "gemm"]
    return [(lowered, *operands) for operands in found]


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_every_product_of_the_models_is_described(name: str, train: bool) -> None:
    assert set(MODELS) <= set(WIDTHS)
    found = products(name, train)
    assert len(found) >= (6 if train else 2)
    for _, a, b, out in found:
        check(a, b, out)


def matrices(rows: int, cols: int, batch: tuple[int, ...], pad: int, stored_by_columns: bool) -> np.ndarray:
    """An array of matrices with gaps of `pad` elements between rows or columns."""
    if stored_by_columns:
        return matrices(cols, rows, batch, pad, False).swapaxes(-1, -2)
    return np.zeros((*batch, rows, cols + pad), "float32")[..., :cols]


@st.composite
def operands(draw: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    m, k, n = (draw(st.integers(1, 5)) for _ in range(3))
    batch = draw(st.sampled_from([(), (3,), (2, 3), (1, 4)]))
    form = st.tuples(st.integers(0, 3), st.booleans())
    a, b, out = (matrices(*size, batch, *draw(form)) for size in ((m, k), (k, n), (m, n)))
    return draw(st.sampled_from([a, a[..., :1, :, :] if batch and batch[0] == 1 else a])), b, out


@given(operands())
def test_any_arrays_that_are_contiguous_along_an_axis_are_described(
    given_: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    check(*given_)


def test_one_matrix_is_repeated_for_a_whole_batch() -> None:
    a, b, out = np.zeros((3, 4, 5)), np.broadcast_to(np.zeros((5, 2)), (3, 5, 2)), np.zeros((3, 4, 2))
    product, _ = described(a, b, out)
    assert (product.a.batch, product.a.stride, product.b.stride) == (3, 0, 20)
    check(a, np.zeros((5, 2)), out)


def test_tf32_is_for_float32_alone() -> None:
    for dtype, tf32 in (("float32", True), ("float64", False)):
        assert described(*(np.zeros((4, 4), dtype) for _ in range(3)), tf32=True)[0].tf32 is tf32


def test_alignment_is_that_of_the_address() -> None:
    memory = np.zeros(4096, np.uint8)
    start = -address(memory) % 512
    for offset, expected in ((0, 256), (4, 4), (64, 64), (96, 32)):
        views = [np.ndarray((2, 2), "float32", memory, start + offset + 1024 * n) for n in range(3)]
        assert described(*views)[0].alignment == (expected,) * 3


def refusals() -> Iterator[Any]:
    good = np.zeros((4, 4))
    yield pytest.param(np.zeros((8, 8))[::2, ::2], good, good, "strides", id="neither axis is contiguous")
    yield pytest.param(np.lib.stride_tricks.as_strided(good, (4, 4), (16, 8)), good, good, "strides", id="rows overlap")
    yield pytest.param(good.astype("float32"), good, good, "float32", id="dtypes differ")
    uneven = np.zeros((2, 4, 4, 4))[:, :3]
    yield pytest.param(uneven, uneven, np.zeros((2, 3, 4, 4)), "strides", id="matrices at uneven distances")


@pytest.mark.parametrize(("a", "b", "out", "named"), list(refusals()))
def test_what_cublaslt_cannot_describe_is_refused(a: Any, b: Any, out: Any, named: str) -> None:
    with refused("cublasLt has no", named, "device.compile=false"):
        described(a, b, out)
