"""How large matrix products are best cut for this machine's BLAS kernel, if at all: measured once."""

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
from nl_nodes.runtime.cut import BLOCK, ProductCut, cut_product

KERNELS = ("SkylakeX", "Cooperlake", "SapphireRapids")
"""The kernels of OpenBLAS with another algorithm for small products, which packs no factor."""

LIMIT = 100**3
"""The most multiplications of a product that is small for them (sgemm_small_kernel_permit_skylakex.c)."""

NARROW, WIDE = CUTS = (ProductCut(LIMIT, narrow=True), ProductCut(LIMIT, narrow=False))
"""The cuts to choose from."""

GAIN = 0.97
"""Cut, and into narrow pieces, where that takes at most this share of the time: less gain is noise."""

PRODUCTS = ((4, 128, 512, 128), (4, 128, 256, 256), (8, 176, 128, 128), (1, 784, 64, 100))
"""Batch, M, K and N of frequent products, of VGG16 and of the MLP."""

TRANSPOSED = ((4, 64, 256, 256), (4, 128, 128, 512))
"""The same of frequent products with a transposed left factor, of VGG16."""

REPEATS = 5

FORM = 3
"""The number of the form in which products are cut: another one is measured again."""


@cache
def product_cut() -> ProductCut | None:
    """Return how this machine's products are best cut; None to cut nothing.

    For kernels other than `KERNELS` that is None. For these it is measured, in some 100 ms, and kept in the user's
    cache folder for each processor and BLAS library.
    """
    blas = " ".join(blas_versions())
    if not any(kernel in blas for kernel in KERNELS):
        return None
    name = re.sub("[^a-z0-9]+", "-", f"{processor_name()} {blas} {FORM}".lower())
    try:
        return _kept(cache_folder() / "products" / f"{name}.json")
    except OSError:  # a cache folder that cannot be written
        return _measured()


def _kept(path: Path) -> ProductCut | None:
    """Return the cut in a file, measured and written first where it holds none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path.parent, wait=True):  # of several processes one measures, so that all compute the same bits
        with suppress(FileNotFoundError, ValueError):
            found = json.loads(path.read_bytes())
            for cut in (None, *CUTS):
                if found == (cut and list(cut)):
                    return cut
        cut = _measured()
        with atomic_write(path) as file:
            file.write(json.dumps(cut).encode())
    return cut


def _measured() -> ProductCut | None:
    """Return the cut that measurements give."""
    if _share_of_whole() > GAIN:
        return None
    return NARROW if _seconds_of_transposed(NARROW) <= GAIN * _seconds_of_transposed(WIDE) else WIDE


def _share_of_whole() -> float:
    """Return the time of `PRODUCTS` if they are cut, with panels, as a share of the time if they are whole."""
    whole, in_pieces = 0.0, 0.0
    with BlasThreads(1):
        for batch, m, k, n in PRODUCTS:
            a, b, out = _factors(batch, m, k, n)
            whole += _seconds(("matmul", (a, b, out)))
            width = BLOCK if n % BLOCK == 0 else n
            panels = np.ascontiguousarray(b.reshape(batch, k, -1, width).swapaxes(1, 2))
            columns = out.reshape(batch, m, -1, width).swapaxes(1, 2)
            in_pieces += _seconds(cut_product(("matmul", (a[:, None], panels, columns)), WIDE))
    return in_pieces / whole


def _seconds_of_transposed(cut: ProductCut) -> float:
    """Return the time of the products `TRANSPOSED` if they are cut in this way."""
    seconds = 0.0
    with BlasThreads(1):
        for batch, m, k, n in TRANSPOSED:
            a, b, out = _factors(batch, m, k, n)
            a = a.reshape(batch, k, m).swapaxes(1, 2)
            seconds += _seconds(cut_product(("matmul", (a, b, out)), cut))
    return seconds


def _factors(batch: int, m: int, k: int, n: int) -> list[np.ndarray]:
    """Return both factors of a batch of products, and an array for the results."""
    rng = np.random.default_rng(0)
    return [rng.standard_normal((batch, *shape), np.float32) for shape in ((m, k), (k, n), (m, n))]


def _seconds(call: Call) -> float:
    """Return the shortest time of a product."""
    times = []
    for _ in range(REPEATS):
        begun = perf_counter()
        np.matmul(*call[1])
        times.append(perf_counter() - begun)
    return min(times)
