"""cublasLt by ctypes: matrix products whose workspace and stream are arguments, so that they can be captured.

CuPy refuses its own cuBLAS calls during stream capture; see docs/decisions/0021-one-cuda-graph-a-step.md.
Source: NVIDIA, cuBLAS Library User Guide, chapter 3 (Using the cuBLASLt API).
"""

from __future__ import annotations

from collections.abc import Callable
from ctypes import (
    CDLL,
    POINTER,
    Structure,
    byref,
    c_char_p,
    c_double,
    c_float,
    c_int,
    c_int32,
    c_int64,
    c_size_t,
    c_uint32,
    c_uint64,
    sizeof,
)
from ctypes import c_void_p as pointer
from typing import Any
from weakref import finalize

from nl_nodes.errors import DeviceError
from nl_nodes.runtime.cuda.products import Layout, Product

TYPES = {"f4": 0, "f8": 1}  # cudaDataType: R_32F, R_64F
COMPUTE = {"f4": 68, "f8": 70}  # cublasComputeType_t: 32F, 64F
COMPUTE_TF32 = 77  # 32F_FAST_TF32
TRANSPOSE_A, TRANSPOSE_B = 3, 4  # cublasLtMatmulDescAttributes_t
BATCH_COUNT, BATCH_STRIDE = 5, 6  # cublasLtMatrixLayoutAttribute_t
MAX_WORKSPACE, REDUCTION_MASK, ALIGNMENTS = 1, 3, (5, 6, 7, 8)  # cublasLtMatmulPreferenceAttributes_t: of A, B, C, D
REDUCTION = 3  # cublasLtMatmulAlgoConfigAttributes_t
NONE, COMPUTE_TYPE = 0, 2  # cublasLtReductionScheme_t
DETERMINISTIC = (NONE, COMPUTE_TYPE)
"""How a sum may be split: not, or into partial sums in the workspace that a second step adds in a fixed order."""

OFFERS = 8
"""Algorithms to ask for."""

WORKSPACE = 2**25
"""Bytes that cublasLt may use: what NVIDIA recommends for Hopper."""


class _Result(Structure):
    """cublasLtMatmulHeuristicResult_t."""

    _fields_ = (
        ("algorithm", c_uint64 * 8),
        ("workspace", c_size_t),
        ("state", c_int),
        ("waves", c_float),
        ("reserved", c_int * 4),
    )


SIGNATURES: dict[str, list[Any]] = {
    "Create": [POINTER(pointer)],
    "Destroy": [pointer],
    "MatmulDescCreate": [POINTER(pointer), c_int, c_int],
    "MatmulDescDestroy": [pointer],
    "MatmulDescSetAttribute": [pointer, c_int, pointer, c_size_t],
    "MatrixLayoutCreate": [POINTER(pointer), c_int, c_uint64, c_uint64, c_int64],
    "MatrixLayoutDestroy": [pointer],
    "MatrixLayoutSetAttribute": [pointer, c_int, pointer, c_size_t],
    "MatmulPreferenceCreate": [POINTER(pointer)],
    "MatmulPreferenceDestroy": [pointer],
    "MatmulPreferenceSetAttribute": [pointer, c_int, pointer, c_size_t],
    "MatmulAlgoGetHeuristic": [*[pointer] * 7, c_int, POINTER(_Result), POINTER(c_int)],
    "MatmulAlgoCheck": [*[pointer] * 6, c_char_p, POINTER(_Result)],
    "MatmulAlgoConfigGetAttribute": [c_char_p, c_int, pointer, c_size_t, POINTER(c_size_t)],
    "Matmul": [*[pointer] * 12, c_char_p, pointer, c_size_t, pointer],
}
"""The parameters of each function, after `cublasLt`."""


class Matmul:
    """The descriptors of a product, freed with this object.

    Attributes:
        product: the product.
        descriptors: the operation and the layouts of `a`, `b` and `out`.
        one, zero: the factors of the product and of the old contents of `out`.
    """

    def __init__(self, library: CublasLt, product: Product) -> None:
        self.product = product
        kind = TYPES[product.dtype]
        self._made: list[tuple[Callable[..., Any], pointer]] = []
        finalize(self, _destroy, self._made)
        compute = COMPUTE_TF32 if product.tf32 else COMPUTE[product.dtype]
        operation = library.make("MatmulDesc", self._made, compute, kind)
        for attribute, transposed in ((TRANSPOSE_A, product.transpose_a), (TRANSPOSE_B, product.transpose_b)):
            library.set("MatmulDesc", operation, attribute, c_int32(transposed))
        layouts = [self._layout(library, kind, layout) for layout in (product.a, product.b, product.out)]
        self.descriptors = (operation, *layouts)
        number = c_float if product.dtype == "f4" else c_double
        self.one, self.zero = number(1), number(0)

    def _layout(self, library: CublasLt, kind: int, layout: Layout) -> pointer:
        made = library.make("MatrixLayout", self._made, kind, layout.rows, layout.cols, layout.ld)
        if layout.batch > 1:
            library.set("MatrixLayout", made, BATCH_COUNT, c_int32(layout.batch))
            library.set("MatrixLayout", made, BATCH_STRIDE, c_int64(layout.stride))
        return made


class CublasLt:
    """The library, with a handle of its own.

    Args:
        path: of libcublasLt.

    Attributes:
        version: of the library; algorithms are valid for one version.
    """

    def __init__(self, path: str) -> None:
        try:
            self._library = CDLL(path)
        except OSError as error:
            raise DeviceError(f"cublasLt cannot be loaded ({error}): install the package that has it again") from None
        for name, parameters in SIGNATURES.items():
            getattr(self._library, f"cublasLt{name}").argtypes = parameters
        self._library.cublasLtGetVersion.restype = c_size_t
        self.version = int(self._library.cublasLtGetVersion())
        self._handle = pointer()
        self.call("Create", byref(self._handle))
        finalize(self, self._library.cublasLtDestroy, self._handle)

    def call(self, name: str, *args: Any) -> None:
        """Call a function; raise `DeviceError` where it fails."""
        status = getattr(self._library, f"cublasLt{name}")(*args)
        if status:
            raise DeviceError(f"cublasLt{name} failed with status {status} of cublasStatus_t")

    def make(self, kind: str, made: list[tuple[Callable[..., Any], pointer]], *args: Any) -> pointer:
        """Create a descriptor and add it to those to be destroyed."""
        descriptor = pointer()
        self.call(f"{kind}Create", byref(descriptor), *args)
        made.append((getattr(self._library, f"cublasLt{kind}Destroy"), descriptor))
        return descriptor

    def set(self, kind: str, descriptor: pointer, attribute: int, value: Any) -> None:
        """Set an attribute of a descriptor to a ctypes number."""
        self.call(f"{kind}SetAttribute", descriptor, attribute, byref(value), sizeof(value))

    def offers(self, matmul: Matmul) -> list[bytes]:
        """Return the algorithms that cublasLt proposes for a product, its favourite first; deterministic ones only.

        Raises:
            DeviceError: where there is none.
        """
        made: list[tuple[Callable[..., Any], pointer]] = []
        found, count = (_Result * OFFERS)(), c_int(0)
        try:
            wish = self.make("MatmulPreference", made)
            self.set("MatmulPreference", wish, MAX_WORKSPACE, c_uint64(WORKSPACE))
            self.set("MatmulPreference", wish, REDUCTION_MASK, c_uint32(COMPUTE_TYPE))
            a, b, out = matmul.product.alignment
            for attribute, bytes_ in zip(ALIGNMENTS, (a, b, out, out), strict=True):
                self.set("MatmulPreference", wish, attribute, c_uint32(bytes_))
            operation, first, second, target = matmul.descriptors
            where = (self._handle, operation, first, second, target, target, wish)
            self.call("MatmulAlgoGetHeuristic", *where, OFFERS, found, byref(count))
        finally:
            _destroy(made)
        offers = [bytes(result.algorithm) for result in found[: count.value] if result.state == 0]
        offers = [algorithm for algorithm in offers if self._reduction(algorithm) in DETERMINISTIC]
        if not offers:
            raise DeviceError(f"cublasLt {self.version} has no deterministic algorithm for {matmul.product.key}")
        return offers

    def _reduction(self, algorithm: bytes) -> int:
        scheme, written = c_uint32(), c_size_t()
        self.call("MatmulAlgoConfigGetAttribute", algorithm, REDUCTION, byref(scheme), sizeof(scheme), byref(written))
        return scheme.value

    def accepts(self, matmul: Matmul, algorithm: bytes) -> bool:
        """Return whether an algorithm that was stored earlier can compute a product here."""
        result = _Result()
        operation, a, b, out = matmul.descriptors
        check = self._library.cublasLtMatmulAlgoCheck
        status = check(self._handle, operation, a, b, out, out, algorithm, byref(result))
        return bool(status == 0 and result.state == 0 and result.workspace <= WORKSPACE)

    def run(self, matmul: Matmul, algorithm: bytes, addresses: tuple[int, ...], workspace: int, stream: int) -> None:
        """Enqueue a product.

        Args:
            matmul: its descriptors.
            algorithm: one of those offered.
            addresses: of `a`, `b` and `out` on the GPU.
            workspace: address of `WORKSPACE` bytes there, which no other stream uses.
            stream: the CUDA stream.
        """
        operation, first, second, target = matmul.descriptors
        a, b, out = addresses
        factors = byref(matmul.one), a, first, b, second, byref(matmul.zero), out, target, out, target
        self.call("Matmul", self._handle, operation, *factors, algorithm, workspace, WORKSPACE, stream)


def _destroy(made: list[tuple[Callable[..., Any], pointer]]) -> None:
    for destroy, descriptor in made:
        destroy(descriptor)
    made.clear()
