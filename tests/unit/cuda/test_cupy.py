"""What of CuPy works without a driver: arrays over borrowed memory, NVRTC; and each failure in one line."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support.assertions import refused

from nl_nodes import Device
from nl_nodes.compiler.cuda.text import PRELUDE
from nl_nodes.compiler.lower.memory import Memory
from nl_nodes.device import backends
from nl_nodes.device.gpu import check_capability, check_driver
from nl_nodes.runtime.cuda.cupy_card import CupyCard, compile_cubin, find_cublaslt
from nl_nodes.runtime.cuda.products import describe

INSTALLED = "CuPy is not installed: pip install './packages/nl-nodes[cuda12]'"


@pytest.fixture
def cupy() -> Any:
    return pytest.importorskip("cupy", reason=INSTALLED)


@pytest.fixture
def card(cupy: Any) -> CupyCard:
    """A card whose arrays lie in memory of the host: what needs no driver works on it."""
    card: CupyCard = object.__new__(CupyCard)
    card._cupy = cupy
    return card


def borrowed(cupy: Any, memory: np.ndarray) -> Any:
    owner = cupy.cuda.UnownedMemory(memory.ctypes.data, memory.nbytes, memory, 0)
    return cupy.ndarray(memory.shape, memory.dtype, cupy.cuda.MemoryPointer(owner, 0))


def test_views_of_the_arena_are_numpys(cupy: Any, card: CupyCard) -> None:
    memory = np.zeros(4096, np.uint8)
    arena = borrowed(cupy, memory)
    view = card.view(arena, (3, 4), "float32", 64, (64, 8))
    expected = np.ndarray((3, 4), "float32", memory, 64, (64, 8))
    assert (view.shape, view.strides, view.dtype) == (expected.shape, expected.strides, expected.dtype)
    assert card.address(view) == expected.ctypes.data
    with pytest.raises(TypeError, match="ndarray is no array of the GPU"):
        card.address(expected)


def test_a_parameter_is_traced_at_its_offset_in_the_buffer(cupy: Any) -> None:
    flat = borrowed(cupy, np.zeros(100, "float32"))
    weights, bias = flat[20:80].reshape(6, 10), flat[80:86]
    memory = Memory()
    placeholders = [memory.external(array) for array in (weights, bias, weights.T, weights[1:, ::2])]
    block = memory.block(placeholders[0])
    assert block.external
    assert block.buffer is flat
    assert block.size == flat.nbytes
    for array, placeholder in zip((weights, bias, weights.T, weights[1:, ::2]), placeholders, strict=True):
        assert memory.block(placeholder) is block
        assert placeholder.ctypes.data - block.start == array.data.ptr - flat.data.ptr
        assert (placeholder.shape, placeholder.strides) == (array.shape, array.strides)


def test_a_product_of_cupys_arrays_is_described_as_numpys(cupy: Any, card: CupyCard) -> None:
    hosts = [np.zeros(shape) for shape in ((3, 8, 5), (3, 5, 4), (3, 8, 4))]
    arrays = [borrowed(cupy, host) for host in hosts]
    found = describe(*arrays, tuple(map(card.address, arrays)), False)  # type: ignore[arg-type]
    assert found == describe(*hosts, tuple(host.ctypes.data for host in hosts), False)  # type: ignore[arg-type]


@pytest.fixture
def nvrtc(cupy: Any) -> Any:
    try:
        cupy.cuda.nvrtc.getVersion()
    except RuntimeError:
        pytest.skip("NVRTC is not installed: pip install './packages/nl-nodes[cuda12]'")
    return cupy.cuda.nvrtc


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90", "sm_100"])
def test_nvrtc_compiles_without_a_gpu(nvrtc: Any, architecture: str) -> None:
    text = PRELUDE + 'extern "C" __global__ void k(float *p) { p[threadIdx.x] = largest(p[threadIdx.x], -INFINITY); }'
    assert compile_cubin(nvrtc, text, architecture).startswith(b"\x7fELF")


def test_nvrtcs_errors_are_one_line(nvrtc: Any) -> None:
    with refused("NVRTC", "sm_90", 'identifier "y" is undefined'):
        compile_cubin(nvrtc, "__global__ void k(int *p) { *p = y; }", "sm_90")
    with refused("NVRTC", "cannot compile", "sm_9999"):
        compile_cubin(nvrtc, "", "sm_9999")


def test_a_missing_cublaslt_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    pathfinder = pytest.importorskip("cuda.pathfinder", reason=INSTALLED)

    def missing(name: str) -> None:
        raise pathfinder.DynamicLibNotFoundError(name)

    monkeypatch.setattr(pathfinder, "load_nvidia_dynamic_lib", missing)
    for version, package in ((12, "nvidia-cublas-cu12"), (13, "nvidia-cublas")):
        with refused("cublasLt", f"pip install {package}"):
            find_cublaslt(version)


@pytest.mark.parametrize(
    ("driver", "needed", "named"),
    [
        (0, 12090, "no NVIDIA driver"),
        (11080, 12090, "supports CUDA 11.8, CuPy needs 12"),
        (12020, 13000, "install [cuda12] in place of [cuda13]"),
    ],
)
def test_a_driver_that_does_not_fit_is_named(driver: int, needed: int, named: str) -> None:
    with refused("device=gpu", named):
        check_driver(driver, needed)


def test_a_driver_of_the_same_or_a_later_version_fits() -> None:
    check_driver(12000, 12090)
    check_driver(13000, 12090)
    check_capability(70)
    with refused("compute capability 6.1", "7.0", "device=cpu"):
        check_capability(61)


def fake_cupy(**runtime: Any) -> ModuleType:
    module: Any = ModuleType("cupy")
    module.cuda = SimpleNamespace(is_available=lambda: False, runtime=SimpleNamespace(**runtime))
    return module  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("module", "named"),
    [
        (None, "CuPy, which is not installed"),
        (fake_cupy(driverGetVersion=lambda: 0, runtimeGetVersion=lambda: 12090), "no NVIDIA driver"),
        (fake_cupy(driverGetVersion=lambda: 12090, runtimeGetVersion=lambda: 12090), "finds no NVIDIA GPU"),
    ],
)
def test_a_gpu_that_is_not_there_is_refused_in_one_line(
    module: ModuleType | None, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "gpu" in backends():
        pytest.skip("there is a GPU here")
    if module is None:
        monkeypatch.setitem(sys.modules, "cupy", None)
    else:
        monkeypatch.setitem(sys.modules, "cupy", module)
    with refused("device=gpu", named):
        Device("gpu")


def test_a_broken_cupy_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    (tmp_path / "cupy.py").write_text("raise ImportError('''\n====\nlibcudart.so.12: cannot open\n====''')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    with refused("CuPy cannot be loaded (libcudart.so.12: cannot open)", "pip install"):
        Device("gpu")
