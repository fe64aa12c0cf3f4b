"""The machine of a benchmark: its processor, its BLAS library, and the peak of its matrix products."""

from __future__ import annotations

from dataclasses import dataclass
from threading import Thread
from time import perf_counter

import numpy as np

from nl_nodes.device.blas import BlasThreads, blas_versions
from nl_nodes.platform import cpu_count, processor_name

SQUARES = {512: 32, 1024: 4, 2048: 1}
"""Sizes of square matrices, and how many products of each to time together."""


@dataclass(frozen=True)
class Machine:
    """A machine.

    Attributes:
        processor: name, family and model of the processor.
        cores: those that this process may use.
        blas: name, version and kernel of NumPy's BLAS library.
        peak: GFLOP/s of float32 matrix products on all cores.
    """

    processor: str
    cores: int
    blas: str
    peak: float

    def __str__(self) -> str:
        return f"{self.processor}, {self.cores} cores, {self.blas}, sgemm at {self.peak:.0f} GFLOP/s"


def this_machine() -> Machine:
    """Return this machine; measuring its peak takes some seconds."""
    return Machine(processor_name(), cpu_count(), " ".join(blas_versions()), sgemm_peak(cpu_count()))


def sgemm_peak(workers: int, squares: dict[int, int] = SQUARES, repeats: int = 5) -> float:
    """Return the best GFLOP/s of square products, each worker its own on one BLAS thread, as in a training step."""
    with BlasThreads(1):
        return max(_gflops(workers, size, count) for size, count in squares.items() for _ in range(repeats))


def _gflops(workers: int, size: int, count: int) -> float:
    matrices = np.random.default_rng(0).standard_normal((workers, 3, size, size), np.float32)

    def multiply(own: np.ndarray) -> None:
        for _ in range(count):
            np.matmul(own[0], own[1], own[2])

    threads = [Thread(target=multiply, args=(own,)) for own in matrices]
    begun = perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return 2e-9 * size**3 * count * workers / (perf_counter() - begun)
