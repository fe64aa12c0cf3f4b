"""Large matrix products cut into batches of smaller ones, for BLAS kernels that are faster on these."""

from __future__ import annotations

from itertools import product
from math import prod
from typing import Any, NamedTuple

from nl_nodes.runtime.call import Call

MIN_ROWS = 8
"""The least rows of a piece."""

VECTOR, BLOCK = 16, 64
"""Columns that a register of AVX-512 holds in float32, and that BLAS computes at once."""

NARROW_VALUES = 2048
"""The most values of a narrow piece's right factor, if it is wider than a register."""

MIN_INTENSITY = 6
"""The least multiplications of a piece per value that it reads: with fewer, the whole product is as fast."""


class ProductCut(NamedTuple):
    """How large products are cut: a property of a BLAS kernel on a processor.

    Attributes:
        limit: the most multiplications of a piece.
        narrow: whether pieces with a transposed left factor are narrow. BLAS reads their right factor again for every
            few rows; some processors need it in the first-level cache.
    """

    limit: int
    narrow: bool


def cut_product(call: Call, cut: ProductCut | None) -> Call:
    """Return a call with a large matrix product cut into pieces of at most `cut.limit` multiplications each.

    Rows and columns are cut into equal pieces; columns into multiples of 16, or not at all. Of all that are small
    enough those are taken whose width is nearest to 64, for narrow ones to `NARROW_VALUES / K` (16 to 64), then those
    that read the fewest values. The pieces are a batch, `np.matmul` of views with two more axes, so a call remains one
    and nothing is copied. Sums along K stay whole.

    Returned as they are: other calls; small products; a product without such pieces, or whose pieces would compute too
    little for what they read, as all with six rows or fewer; and one of which only the right factor is transposed, for
    which BLAS has no faster way (OpenBLAS, kernel/x86_64/sgemm_small_kernel_permit_skylakex.c).

    Args:
        call: any call of a plan on the CPU.
        cut: how to cut; None to cut nothing.
    """
    name, args = call
    if name != "matmul" or cut is None:
        return call
    a, b, out = args
    (m, k), n = a.shape[-2:], b.shape[-1]
    if m * k * n <= cut.limit or (_transposed(b) and not _transposed(a)):
        return call
    widths = [width for width in _divisors(n, VECTOR) if width % VECTOR == 0 or width == n]
    pieces = [piece for piece in product(_divisors(m, MIN_ROWS), widths) if prod(piece) * k <= cut.limit]
    if not pieces:
        return call
    block = min(max(NARROW_VALUES // k, VECTOR), BLOCK) if cut.narrow and _transposed(a) else BLOCK
    rows, columns = piece = max(pieces, key=lambda size: (-abs(size[1] - block), _intensity(size)))
    if _intensity(piece) < MIN_INTENSITY:
        return call
    # (..., M, K) (..., K, N) becomes (..., M / rows, 1, rows, K) (..., 1, N / columns, K, columns).
    a = a.reshape((*a.shape[:-2], m // rows, 1, rows, k))
    b = b.reshape((*b.shape[:-2], 1, k, n // columns, columns)).swapaxes(-3, -2)
    out = out.reshape((*out.shape[:-2], m // rows, rows, n // columns, columns)).swapaxes(-3, -2)
    return name, (a, b, out)


def _transposed(factor: Any) -> bool:
    """Return whether the values of a row lie apart: those of a column are adjacent then."""
    return bool(factor.strides[-1] != factor.itemsize)


def _intensity(piece: tuple[int, ...]) -> float:
    """Return the multiplications of a piece (rows, columns) per value that it reads."""
    return prod(piece) / sum(piece)


def _divisors(count: int, least: int) -> list[int]:
    """Return the divisors of `count` from `least` on, or `count` where that is smaller."""
    return [size for size in range(min(count, least), count + 1) if count % size == 0]
