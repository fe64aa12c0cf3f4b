"""Whether this machine's BLAS kernel is faster on large matrix products if they are cut: measured once."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from functools import cache
from pathlib import Path
from time import perf_counter

import numpy as np

from nl_nodes.device.blas import BlasThreads, blas_versions
from nl_nodes.files import atomic_write
from nl_nodes.platform import cache_folder, locked, processor_name
from nl_nodes.runtime.call import Call
from nl_nodes.runtime.cut import BLOCK, cut_product

KERNELS = ("SkylakeX", "Cooperlake", "SapphireRapids")
"""The kernels of OpenBLAS with another algorithm for small products, which packs no factor."""

LIMIT = 100**3
"""The most multiplications of a product that is small for them (sgemm_small_kernel_permit_skylakex.c)."""

GAIN = 0.97
"""Cut where that takes at most this share of the time: less gain is noise."""

PRODUCTS = ((4, 128, 512, 128), (4, 128, 256, 256), (8, 176, 128, 128), (1, 784, 64, 100))
"""Batch, M, K and N of frequent products, of VGG16 and of the MLP."""

REPEATS = 5

FORM = 2
"""The number of the form in which products are cut: another one is measured again."""


@cache
def product_limit() -> int | None:
    """Return the most multiplications that one matrix product should have on this machine; None for any number.

    For kernels other than `KERNELS` that is None. For these it is measured, in some 50 ms, and kept in the user's cache
    folder for each processor and BLAS library.
    """
    blas = " ".join(blas_versions())
    if not any(kernel in blas for kernel in KERNELS):
        return None
    name = re.sub("[^a-z0-9]+", "-", f"{processor_name()} {blas} {FORM}".lower())
    try:
        return _kept(cache_folder() / "products" / f"{name}.json")
    except OSError:  # a cache folder that cannot be written
        return _measured()


def _kept(path: Path) -> int | None:
    """Return the limit in a file, measured and written first where it holds none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path.parent, wait=True):  # of several processes one measures, so that all compute the same bits
        with suppress(FileNotFoundError, ValueError):
            found = json.loads(path.read_bytes())
            if found in (None, LIMIT):
                return found  # type: ignore[no-any-return]
        limit = _measured()
        with atomic_write(path) as file:
            file.write(json.dumps(limit).encode())
    return limit


def _measured() -> int | None:
    """Return the limit that a measurement gives."""
    return LIMIT if _share_of_whole(LIMIT) <= GAIN else None


def _share_of_whole(limit: int) -> float:
    """Return the time of `PRODUCTS` if they are cut, with panels, as a share of the time if they are whole."""
    rng, whole, cut = np.random.default_rng(0), 0.0, 0.0
    with BlasThreads(1):
        for batch, m, k, n in PRODUCTS:
            a, b, out = (rng.standard_normal((batch, *shape), np.float32) for shape in ((m, k), (k, n), (m, n)))
            whole += _seconds(("matmul", (a, b, out)))
            width = BLOCK if n % BLOCK == 0 else n
            panels = np.ascontiguousarray(b.reshape(batch, k, -1, width).swapaxes(1, 2))
            columns = out.reshape(batch, m, -1, width).swapaxes(1, 2)
            cut += _seconds(cut_product(("matmul", (a[:, None], panels, columns)), limit))
    return cut / whole


def _seconds(call: Call) -> float:
    """Return the shortest time of a product."""
    times = []
    for _ in range(REPEATS):
        begun = perf_counter()
        np.matmul(*call[1])
        times.append(perf_counter() - begun)
    return min(times)
