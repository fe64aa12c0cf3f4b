"""NVIDIA's runtime compiler, which needs no GPU and no driver."""

from __future__ import annotations

import ctypes
import re
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

NO_NVRTC = "needs NVIDIA's runtime compiler: pip install nvidia-cuda-nvrtc-cu12"


@dataclass(frozen=True)
class Usage:
    """What a compiled kernel takes: registers of a thread, and bytes that spill from them to memory."""

    registers: int
    spilled: int


def installed() -> bool:
    """Return whether the compiler is installed."""
    return find_spec("nvidia") is not None and find_spec("nvidia.cuda_nvrtc") is not None


@cache
def _library() -> Any:
    spec = find_spec("nvidia.cuda_nvrtc")
    assert spec is not None
    assert spec.submodule_search_locations
    return ctypes.CDLL(str(Path(spec.submodule_search_locations[0]) / "lib" / "libnvrtc.so.12"))


def compiled(text: str, architecture: int) -> dict[str, Usage]:
    """Compile kernels for an architecture such as 90, and return what each takes.

    Raises:
        ValueError: with the compiler's messages, if it refuses the text.
    """
    library, program = _library(), ctypes.c_void_p()
    library.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"plan.cu", 0, None, None)
    options = [f"--gpu-architecture=sm_{architecture}".encode(), b"--std=c++17", b"--ptxas-options=-v"]
    failed = library.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
    size = ctypes.c_size_t()
    library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    library.nvrtcGetProgramLog(program, log)
    library.nvrtcDestroyProgram(ctypes.byref(program))
    if failed:
        raise ValueError(log.value.decode())
    return _usages(log.value.decode())


def _usages(log: str) -> dict[str, Usage]:
    found = {}
    for entry in re.split(r"Compiling entry function '", log)[1:]:
        spilled = sum(int(n) for n in re.findall(r"(\d+) bytes spill", entry))
        (registers,) = re.findall(r"Used (\d+) registers", entry)
        found[entry.split("'")[0]] = Usage(int(registers), spilled)
    return found
