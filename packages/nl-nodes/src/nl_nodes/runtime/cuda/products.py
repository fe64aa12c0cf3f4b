"""Matrix products as cublasLt describes them: column-major layouts, derived from the strides of arrays."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any

from nl_nodes.errors import DeviceError
from nl_nodes.typing import Shape

MAX_ALIGNMENT = 256
"""Bytes: no algorithm requires a higher alignment."""


@dataclass(frozen=True)
class Layout:
    """A batch of column-major matrices.

    Attributes:
        rows, cols: of each matrix as it is stored.
        ld: elements from one column to the next.
        batch: the number of matrices.
        stride: elements from one matrix to the next; 0 repeats one matrix.
    """

    rows: int
    cols: int
    ld: int
    batch: int
    stride: int


@dataclass(frozen=True)
class Product:
    """The column-major product `out = op(a) op(b)`.

    Attributes:
        dtype: "f4" or "f8".
        tf32: whether the factors may be rounded to TF32.
        a, b, out: the layouts.
        transpose_a, transpose_b: whether `op` transposes the stored matrix.
        alignment: a power of two that divides each address, in bytes.
    """

    dtype: str
    tf32: bool
    a: Layout
    b: Layout
    out: Layout
    transpose_a: bool
    transpose_b: bool
    alignment: tuple[int, int, int]

    @property
    def key(self) -> str:
        """The product as text, equal for equal products."""
        parts = [
            f"{m.rows}x{m.cols} ld {m.ld} batch {m.batch} stride {m.stride} aligned {align}"
            for m, align in zip((self.a, self.b, self.out), self.alignment, strict=True)
        ]
        form = f"{'T' if self.transpose_a else 'N'}{'T' if self.transpose_b else 'N'}"
        return f"{'tf32' if self.tf32 else self.dtype} {form}: {', '.join(parts)}"

    @property
    def flops(self) -> int:
        """Floating-point operations."""
        inner = self.a.rows if self.transpose_a else self.a.cols
        return 2 * self.out.rows * self.out.cols * self.out.batch * inner


@dataclass(frozen=True)
class _Operand:
    """Shape, strides in elements, and address of an array of matrices."""

    shape: Shape
    strides: tuple[int, ...]
    address: int

    @classmethod
    def of(cls, array: Any, address: int) -> _Operand:
        return cls(tuple(array.shape), tuple(s // array.dtype.itemsize for s in array.strides), address)

    @property
    def transposed(self) -> _Operand:
        shape, strides = self.shape, self.strides
        return _Operand((*shape[:-2], shape[-1], shape[-2]), (*strides[:-2], strides[-1], strides[-2]), self.address)

    def layout(self, batch: Shape) -> Layout | None:
        """Return the column-major layout of memory that has these matrices row by row, None where it has not."""
        rows, cols = self.shape[-2:]
        down, across = self.strides[-2:]
        step = self._step(batch)
        if step is None or (cols > 1 and across != 1) or (rows > 1 and down < cols):
            return None
        return Layout(cols, rows, down if rows > 1 else cols, prod(batch), step)

    def _step(self, batch: Shape) -> int | None:
        """Return the elements from one matrix to the next, None where that differs."""
        missing = len(batch) - (len(self.shape) - 2)
        sizes, strides = (1,) * missing + self.shape[:-2], (0,) * missing + self.strides[:-2]
        steps = [(n, 0 if size == 1 else s) for n, size, s in zip(batch, sizes, strides, strict=True) if n > 1]
        if any(outer != n * inner for (_, outer), (n, inner) in pairwise(steps)):
            return None
        return steps[-1][1] if steps else 0


def describe(a: Any, b: Any, out: Any, addresses: tuple[int, int, int], tf32: bool) -> tuple[Product, tuple[int, ...]]:
    """Return the product `out = a @ b` of row-major arrays, and the addresses of its `a`, `b` and `out`.

    Row-major memory read column by column holds the transpose, so the product is `out' = b' a'`: the factors change
    places. Where `out` is stored column by column, they stay.

    Args:
        a: (..., M, K), contiguous along one of the last two axes.
        b: (..., K, N), likewise.
        out: (..., M, N), likewise.
        addresses: of the first elements of `a`, `b` and `out`.
        tf32: whether factors of float32 may be rounded to TF32.

    Raises:
        DeviceError: where cublasLt cannot describe the dtypes or strides.
    """
    if a.dtype != out.dtype or b.dtype != out.dtype or out.dtype not in ("float32", "float64"):
        raise DeviceError(f"cublasLt has no product of {a.dtype} and {b.dtype} into {out.dtype}: device.compile=false")
    left, right, target = (_Operand.of(x, address) for x, address in zip((a, b, out), addresses, strict=True))
    batch = target.shape[:-2]
    if target.layout(batch) is None:
        left, right, target = right.transposed, left.transposed, target.transposed
    layout, factors = target.layout(batch), []
    for factor in (right, left):
        direct = factor.layout(batch)
        factors.append((direct or factor.transposed.layout(batch), direct is None))
    (first, transpose_first), (second, transpose_second) = factors
    if layout is None or first is None or second is None:
        given = " and ".join(f"{tuple(x.shape)} with strides {tuple(x.strides)}" for x in (a, b, out))
        raise DeviceError(f"cublasLt has no layout for the product of {given}: use device.compile=false")
    order = (right.address, left.address, target.address)
    single = out.dtype == "float32"
    alignment = (_alignment(order[0]), _alignment(order[1]), _alignment(order[2]))
    product = Product(
        "f4" if single else "f8", tf32 and single, first, second, layout, transpose_first, transpose_second, alignment
    )
    return product, order


def _alignment(address: int) -> int:
    return min(address & -address, MAX_ALIGNMENT)
