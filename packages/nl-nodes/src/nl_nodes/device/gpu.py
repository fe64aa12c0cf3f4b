"""The CuPy backend."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from typing import Any

from nl_nodes.device.backend import Backend
from nl_nodes.errors import DeviceError
from nl_nodes.runtime.cuda import Card
from nl_nodes.runtime.cuda.cupy_card import CupyCard
from nl_nodes.typing import Array

MIN_CAPABILITY, TF32_MIN_CAPABILITY = 70, 80  # 7.0 and 8.0
TF32_MATH = 3  # of cublasMath_t
INSTALL = "pip install './packages/nl-nodes[cuda12]' (or [cuda13])"


class CupyBackend(Backend):
    """CuPy arrays on an NVIDIA GPU."""

    def __init__(self, index: int = 0) -> None:
        cupy = import_cupy()
        check_driver(cupy.cuda.runtime.driverGetVersion(), cupy.cuda.runtime.runtimeGetVersion())
        if not cupy.cuda.is_available():
            raise DeviceError("device=gpu: the driver finds no NVIDIA GPU here: see nvidia-smi, or use device=cpu")
        count = cupy.cuda.runtime.getDeviceCount()
        if not 0 <= index < count:
            raise DeviceError(f"device.index={index}: this machine has GPUs 0 to {count - 1}")
        cupy.cuda.Device(index).use()
        check_capability(int(cupy.cuda.Device(index).compute_capability))
        self.index = index
        self.xp = cupy
        self._philox = cupy.RawKernel(PHILOX, "words")

    @cached_property
    def card(self) -> Card | None:
        """The GPU that compiled plans run on."""
        return CupyCard(self.xp, self.index)

    def owns(self, value: Any) -> bool:
        """Return whether the value is a CuPy array."""
        return isinstance(value, self.xp.ndarray)

    def array(self, value: Any, dtype: Any = None) -> Array:
        """Convert a value to an array on the GPU."""
        return self.xp.asarray(value, dtype=dtype)

    def host(self, array: Array) -> Any:
        """Copy an array to the host."""
        return self.xp.asnumpy(array)

    def tf32(self) -> AbstractContextManager[None]:
        """Return a `with` block in which cuBLAS uses TF32 in this thread."""
        if int(self.xp.cuda.Device().compute_capability) < TF32_MIN_CAPABILITY:
            raise DeviceError("device.tf32=true: this GPU has no TF32 (Ampere and later have): leave it out")
        return self._math_mode(TF32_MATH)

    @contextmanager
    def _math_mode(self, mode: int) -> Iterator[None]:
        cublas, handle = self.xp.cuda.cublas, self.xp.cuda.Device().cublas_handle
        before = cublas.getMathMode(handle)
        cublas.setMathMode(handle, mode)
        try:
            yield
        finally:
            cublas.setMathMode(handle, before)

    def random_bits(self, seed: int, stream: int, counter: int, count: int) -> Array:
        """Return random words of a kernel that computes each block independently."""
        out = self.xp.empty(-(-count // 4) * 4, dtype=self.xp.uint64)
        blocks, u64 = out.size // 4, self.xp.uint64
        if blocks:
            self._philox((-(-blocks // 256),), (256,), (out, u64(blocks), u64(seed), u64(stream), u64(counter)))
        return out[:count]


def import_cupy() -> Any:
    """Return CuPy.

    Raises:
        DeviceError: where it is not installed, or lacks a library of CUDA.
    """
    try:
        import cupy
    except ModuleNotFoundError as error:
        if error.name != "cupy":
            raise
        raise DeviceError(f"device=gpu needs CuPy, which is not installed: {INSTALL}, or use device=cpu") from None
    except ImportError as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip(" =")), "no reason given")
        raise DeviceError(f"device=gpu: CuPy cannot be loaded ({reason}): {INSTALL}") from None
    return cupy


def check_driver(driver: int, needed: int) -> None:
    """Raise `DeviceError` where there is no driver, or one that is too old for CuPy's version of CUDA.

    Args:
        driver: 1000 times the major version of CUDA that the driver supports, and 10 times the minor; 0 without one.
        needed: the same of CuPy's.
    """
    if not driver:
        raise DeviceError("device=gpu: there is no NVIDIA driver here: install it, or use device=cpu")
    major = needed // 1000
    if driver // 1000 < major:
        extra = "install [cuda12] in place of [cuda13], or a newer driver" if driver // 1000 == 12 else "update it"
        raise DeviceError(f"device=gpu: the driver supports CUDA {_version(driver)}, CuPy needs {major}: {extra}")


def check_capability(capability: int) -> None:
    """Raise `DeviceError` for a GPU that is too old; `capability` is 10 times its compute capability."""
    if capability < MIN_CAPABILITY:
        raise DeviceError(
            f"device=gpu: this GPU has compute capability {capability / 10}, {MIN_CAPABILITY / 10} or more is needed: "
            "use device=cpu"
        )


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


# Salmon, Moraes, Dror and Shaw, Parallel Random Numbers: As Easy as 1, 2, 3 (2011), section 3.3 and table 2.
PHILOX = r"""
typedef unsigned long long u64;

extern "C" __global__
void words(u64 *out, u64 blocks, u64 key0, u64 key1, u64 counter)
{
    u64 block = blockIdx.x * (u64)blockDim.x + threadIdx.x;
    if (block >= blocks) return;
    u64 c0 = block, c1 = counter, c2 = 0, c3 = 0;
    for (int round = 0; round < 10; ++round) {
        u64 hi0 = __umul64hi(0xD2E7470EE14C6C93ULL, c0), lo0 = 0xD2E7470EE14C6C93ULL * c0;
        u64 hi1 = __umul64hi(0xCA5A826395121157ULL, c2), lo1 = 0xCA5A826395121157ULL * c2;
        c0 = hi1 ^ c1 ^ key0;
        c1 = lo1;
        c2 = hi0 ^ c3 ^ key1;
        c3 = lo0;
        key0 += 0x9E3779B97F4A7C15ULL;
        key1 += 0xBB67AE8584CAA73BULL;
    }
    out[4 * block] = c0;
    out[4 * block + 1] = c1;
    out[4 * block + 2] = c2;
    out[4 * block + 3] = c3;
}
"""
