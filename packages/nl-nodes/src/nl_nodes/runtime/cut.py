"""Large matrix products cut into batches of smaller ones, for BLAS kernels that are faster on these."""

from __future__ import annotations

from itertools import product
from math import prod

from nl_nodes.runtime.call import Call

MIN_ROWS, MIN_COLUMNS = 8, 16
"""The least rows and columns of a piece; a vector of AVX-512 holds 16 columns."""


def cut_product(call: Call, limit: int | None) -> Call:
    """Return a call with a large matrix product cut into pieces of at most `limit` multiplications each.

    Rows and columns are cut into equal pieces: of all that are small enough, those that read the fewest values. The
    pieces are a batch, `np.matmul` of views with two more axes, so the call remains one call and nothing is copied.
    Sums along K stay whole.

    Returned as they are: other calls; small products; a product without such pieces; and one whose right factor is
    transposed, for which BLAS has no faster way (OpenBLAS, kernel/x86_64/sgemm_small_kernel_permit_skylakex.c).

    Args:
        call: any call of a plan on the CPU.
        limit: a property of the BLAS kernel; None to cut nothing.
    """
    name, args = call
    if name != "matmul" or limit is None:
        return call
    a, b, out = args
    (m, k), n = a.shape[-2:], b.shape[-1]
    if m * k * n <= limit or b.strides[-1] != b.itemsize:
        return call
    pieces = [p for p in product(_divisors(m, MIN_ROWS), _divisors(n, MIN_COLUMNS)) if prod(p) * k <= limit]
    if not pieces:
        return call
    rows, columns = max(pieces, key=_products_per_value)
    # (..., M, K) (..., K, N) becomes (..., M / rows, 1, rows, K) (..., 1, N / columns, K, columns).
    a = a.reshape((*a.shape[:-2], m // rows, 1, rows, k))
    b = b.reshape((*b.shape[:-2], 1, k, n // columns, columns)).swapaxes(-3, -2)
    out = out.reshape((*out.shape[:-2], m // rows, rows, n // columns, columns)).swapaxes(-3, -2)
    return name, (a, b, out)


def _products_per_value(piece: tuple[int, ...]) -> float:
    """Return the multiplications of a piece (rows, columns) per value that it reads."""
    return prod(piece) / sum(piece)


def _divisors(count: int, least: int) -> list[int]:
    """Return the divisors of `count` from `least` on, or `count` where that is smaller."""
    return [size for size in range(min(count, least), count + 1) if count % size == 0]
