"""How large matrix products are best cut for this machine's BLAS kernel, if at all: measured once."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from math import prod
from pathlib import Path
from time import perf_counter

import numpy as np

from nl_nodes.device.blas import BlasThreads, blas_versions
from nl_nodes.files import atomic_write
from nl_nodes.platform import cache_folder, locked, processor_name
from nl_nodes.runtime import shared_memory
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

PRODUCTS = ((36, 128, 512, 128), (36, 128, 256, 256), (36, 176, 128, 128), (1, 784, 64, 100))
"""Batch, M, K and N of frequent products, of VGG16 and of the MLP."""

TRANSPOSED = ((36, 64, 256, 256), (36, 128, 128, 512))
"""The same of frequent products with a transposed left factor, of VGG16."""

REPEATS = 5

FORM = 3
"""The number of the form in which products are cut: another one is measured again."""


@cache
def product_cut() -> ProductCut | None:
    """Return how this machine's products are best cut; None to cut nothing.

    For kernels other than `KERNELS` that is None. For these it is measured, in half a second, and kept in the user's
    cache folder for each processor and BLAS library.
    """
    blas = " ".join(blas_versions())
    if not any(kernel in blas for kernel in KERNELS):
        return None
    name = re.sub("[^a-z0-9]+", "-", f"{processor_name()} {blas} {FORM}".lower())
    try:
        return _kept(cache_folder() / "products" / f"{name}.json")
    except (OSError, RuntimeError):  # a cache folder that cannot be written, or no home folder
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
    return NARROW if _share_of_wide() <= GAIN else WIDE


def _share_of_whole() -> float:
    """Return the time of `PRODUCTS` if they are cut, with panels, as a share of the time if they are whole."""
    pairs = []
    for batch, m, k, n in PRODUCTS:
        a, b, out = _factors(batch, m, k, n)
        width = BLOCK if n % BLOCK == 0 else n
        panels = b.reshape(batch, n // width, k, width)
        columns = out.reshape(batch, m, -1, width).swapaxes(1, 2)
        in_pieces = cut_product(("matmul", (a[:, None], panels, columns)), WIDE)
        pairs.append((in_pieces, ("matmul", (a, b, out))))
    return _ratio(pairs)


def _share_of_wide() -> float:
    """Return the time of `TRANSPOSED` in narrow pieces as a share of the time in wide ones."""
    pairs = []
    for batch, m, k, n in TRANSPOSED:
        a, b, out = _factors(batch, m, k, n)
        call = "matmul", (a.reshape(batch, k, m).swapaxes(1, 2), b, out)
        pairs.append((cut_product(call, NARROW), cut_product(call, WIDE)))
    return _ratio(pairs)


def _factors(batch: int, m: int, k: int, n: int) -> list[np.ndarray]:
    """Return both factors of a batch of products, and an array for the results, on pages of their own as in a plan."""
    arrays = []
    for shape in ((batch, m, k), (batch, k, n), (batch, m, n)):
        arrays.append(shared_memory.private(4 * prod(shape)).view(np.float32).reshape(shape))
        arrays[-1].fill(1)
    return arrays


def _ratio(pairs: Sequence[tuple[Call, Call]]) -> float:
    """Return the time of the first products of pairs as a share of the second ones': of each the shortest of several.

    The two alternate, so that other work on the machine slows both.
    """
    times: list[list[float]] = [[], []]
    with BlasThreads(1):
        for pair in pairs:
            found = [[_seconds(call) for call in pair] for _ in range(REPEATS)]
            for shortest, of_one in zip(times, zip(*found, strict=True), strict=True):
                shortest.append(min(of_one))
    return sum(times[0]) / sum(times[1])


def _seconds(call: Call) -> float:
    """Return the time of a product."""
    begun = perf_counter()
    np.matmul(*call[1])
    return perf_counter() - begun
