"""A GPU through CuPy: memory, streams and graphs are CuPy's, products are cublasLt's by ctypes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from typing import Any

import numpy as np

from nl_nodes.errors import DeviceError
from nl_nodes.platform import cpu_count
from nl_nodes.runtime.cuda.card import Card, OutOfMemory, Refused
from nl_nodes.runtime.cuda.cublaslt import WORKSPACE, CublasLt, Matmul
from nl_nodes.runtime.cuda.store import cubin
from nl_nodes.typing import Shape

REPEATS = 10
"""Runs that are timed together."""

STAGES = 2
"""Pinned buffers of one size: the host fills one while the other is copied."""


class CupyCard(Card):
    """A GPU of CuPy.

    The stream does not wait for the legacy default stream, which must stay usable by other threads during capture;
    `enqueuing` orders the two.

    Args:
        cupy: the module.
        index: of the GPU.
    """

    def __init__(self, cupy: Any, index: int) -> None:
        super().__init__()
        self._cupy = cupy
        self._device = cupy.cuda.Device(index)
        properties = cupy.cuda.runtime.getDeviceProperties(index)
        self.architecture = f"sm_{self._device.compute_capability}"
        name = properties["name"].decode() if isinstance(properties["name"], bytes) else properties["name"]
        self.kind = f"{name} {self.architecture} {properties['multiProcessorCount']}"
        with self._device:
            self.lt = CublasLt(find_cublaslt(cupy.cuda.runtime.runtimeGetVersion() // 1000))
            self._stream = cupy.cuda.Stream(non_blocking=True)
            self._workspace = self.zeros(WORKSPACE)
        self._stages: dict[int, Iterator[_Stage]] = {}

    def free(self) -> int:
        """Return the bytes that can be allocated."""
        with self._device:
            pool: int = self._cupy.get_default_memory_pool().free_bytes()
            return pool + int(self._cupy.cuda.runtime.memGetInfo()[0])

    def zeros(self, size: int) -> Any:
        """Return an array of zero bytes."""
        with self._device:
            try:
                return self._cupy.zeros(size, dtype=np.uint8)
            except self._cupy.cuda.memory.OutOfMemoryError:
                raise OutOfMemory(size, self.free()) from None

    def view(self, memory: Any, shape: Shape, dtype: Any, offset: int, strides: tuple[int, ...]) -> Any:
        """Return an array over the memory of another one."""
        return self._cupy.ndarray(shape, dtype, memory.data + offset, strides)

    def address(self, array: Any) -> int:
        """Return the address of an array's first element."""
        if not isinstance(array, self._cupy.ndarray):
            raise TypeError(f"{type(array).__name__} is no array of the GPU")
        return int(array.data.ptr)

    def write(self, array: Any, value: Any) -> None:
        """Enqueue a copy to an array, from the host through pinned memory."""
        if isinstance(value, self._cupy.ndarray):
            array[...] = value
            return
        if array.nbytes not in self._stages:
            self._stages[array.nbytes] = cycle([_Stage.allocate(self._cupy, array.nbytes) for _ in range(STAGES)])
        stage = next(self._stages[array.nbytes])
        stage.copied.synchronize()
        pinned = np.ndarray(array.shape, array.dtype, stage.memory)
        np.copyto(pinned, value)
        array.data.copy_from_host_async(pinned.ctypes.data, array.nbytes, self._stream)
        stage.copied.record(self._stream)

    def fill(self, array: Any, number: float) -> None:
        """Enqueue the setting of all elements to a number."""
        array.fill(array.dtype.type(number))

    def load(self, sources: Sequence[Any]) -> dict[str, Any]:
        """Return the functions of kernels by name, compiled where they are not in the cache folder."""
        functions = {}
        codes = machine_codes(self._cupy.cuda.nvrtc, sources, self.architecture)
        for source, code in zip(sources, codes, strict=True):
            module = self._cupy.cuda.function.Module()
            module.load(code)
            functions[source.name] = module.get_function(source.name)
        return functions

    def launch(self, function: Any, blocks: tuple[int, int], threads: int, arrays: Sequence[Any]) -> None:
        """Enqueue a kernel that takes the addresses of arrays."""
        function((*blocks, 1), (threads, 1, 1), tuple(np.uint64(self.address(array)) for array in arrays))

    def multiply(self, matmul: Matmul, algorithm: bytes, addresses: tuple[int, ...]) -> None:
        """Enqueue a matrix product."""
        self.lt.run(matmul, algorithm, addresses, self._workspace.data.ptr, self._stream.ptr)

    @contextmanager
    def enqueuing(self) -> Iterator[None]:
        """Enqueue work after the current stream's earlier work and before its later work."""
        with self._device:
            current = self._cupy.cuda.get_current_stream()
            self._stream.wait_event(current.record(self._event()))
            with self._stream:
                yield
            current.wait_event(self._stream.record(self._event()))

    def _event(self) -> Any:
        return self._cupy.cuda.Event(disable_timing=True)

    def capture(self, run: Callable[[], None]) -> Any:
        """Return a graph of what `run` enqueues; an allocation is refused, as its memory would be given away again."""
        with self._cupy.cuda.using_allocator(_refuse_allocation):
            self._stream.begin_capture()
            try:
                run()
            except (RuntimeError, DeviceError, TypeError) as error:
                with suppress(RuntimeError):
                    self._stream.end_capture()
                raise Refused(str(error).splitlines()[0]) from error
            try:
                graph = self._stream.end_capture()
            except RuntimeError as error:
                raise Refused(str(error).splitlines()[0]) from error
        graph.upload(self._stream)
        return graph

    def replay(self, graph: Any) -> None:
        """Enqueue a graph."""
        graph.launch(self._stream)

    def synchronize(self) -> None:
        """Wait until all enqueued work is done."""
        self._stream.synchronize()

    def seconds(self, run: Callable[[], None]) -> float:
        """Return the time that the GPU takes for what `run` enqueues, the mean of several runs after one."""
        begin, end = self._cupy.cuda.Event(), self._cupy.cuda.Event()
        run()
        begin.record(self._stream)
        for _ in range(REPEATS):
            run()
        end.record(self._stream)
        end.synchronize()
        return float(self._cupy.cuda.get_elapsed_time(begin, end)) / 1e3 / REPEATS


@dataclass(frozen=True)
class _Stage:
    """Pinned memory of the host, and the event after its last copy."""

    memory: Any
    copied: Any

    @classmethod
    def allocate(cls, cupy: Any, size: int) -> _Stage:
        return cls(cupy.cuda.alloc_pinned_memory(size), cupy.cuda.Event(disable_timing=True))


def find_cublaslt(cuda: int) -> str:
    """Return the path of libcublasLt.

    Args:
        cuda: the major version of CUDA.

    Raises:
        DeviceError: where it is not installed.
    """
    from cuda.pathfinder import DynamicLibNotFoundError, load_nvidia_dynamic_lib

    try:
        return str(load_nvidia_dynamic_lib("cublasLt").abs_path)
    except DynamicLibNotFoundError:
        package = "nvidia-cublas-cu12" if cuda == 12 else "nvidia-cublas"
        raise DeviceError(f"device=gpu needs cublasLt, which is not installed: pip install {package}") from None


def machine_codes(nvrtc: Any, sources: Sequence[Any], architecture: str) -> list[bytes]:
    """Return the machine code of kernels, each from the cache folder where it was compiled before."""
    version = "NVRTC {}.{}".format(*nvrtc.getVersion())

    def code(source: Any) -> bytes:
        return cubin(source.prelude + source.text, architecture, version, partial(compile_cubin, nvrtc))

    with ThreadPoolExecutor(cpu_count()) as pool:
        return list(pool.map(code, sources))


def compile_cubin(nvrtc: Any, text: str, architecture: str) -> bytes:
    """Compile CUDA C to machine code.

    Args:
        nvrtc: CuPy's module of that name.
        text: the source.
        architecture: such as "sm_90".

    Raises:
        DeviceError: where NVRTC does not know the architecture or refuses the source.
    """
    program = nvrtc.createProgram(text, "plan.cu", [], [])
    try:
        nvrtc.compileProgram(program, [f"--gpu-architecture={architecture}", "--std=c++17"])
        return bytes(nvrtc.getCUBIN(program))
    except nvrtc.NVRTCError as error:
        log = next((line for line in nvrtc.getProgramLog(program).splitlines() if "error" in line), str(error))
        version = "{}.{}".format(*nvrtc.getVersion())
        raise DeviceError(f"NVRTC {version} cannot compile a plan's kernels for {architecture}: {log}") from None
    finally:
        nvrtc.destroyProgram(program)


def _refuse_allocation(size: int) -> Any:
    raise RuntimeError(f"a step allocates {size} bytes of the GPU's memory")
