"""An executor that runs the kernels of a GPU on a processor: the same text, compiled by g++ behind a small header."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from nl_nodes.compiler.cuda.fuse import fuse
from nl_nodes.compiler.cuda.launch import Source
from nl_nodes.compiler.cuda.text import PASS_INDEX, PRELUDE
from nl_nodes.compiler.lower.memory import ALIGNMENT
from nl_nodes.runtime import Executor
from nl_nodes.runtime.call import BoundCall, Call

COMPILER = shutil.which("g++")
NO_COMPILER = "kernels run on a processor through g++: apt-get install g++"
CACHE = Path(__file__).parents[3] / "outputs" / "kernels"
SHIM = Path(__file__).with_name("shim.h")
NAN = 0xFF  # every byte of a NaN


class KernelExecutor(Executor):
    """One worker that runs kernels; the memory that blocks share is full of NaN before each pass.

    Args:
        each_call: whether each call is a kernel of its own.
    """

    chunked = False

    def __init__(self, each_call: bool = False) -> None:
        super().__init__()
        self.each_call = each_call

    def prepare(self, lowered: Any) -> None:
        """Fuse the calls, and note where the memory that blocks share begins."""
        fuse(lowered, self.each_call)
        persistent = [b.size for b in lowered.memory.blocks if b.persistent and not b.external]
        self._shared_from = sum(-(-size // ALIGNMENT) * ALIGNMENT for size in persistent)

    def memory(self, size: int) -> Any:
        """Allocate the arena."""
        self._arena = np.zeros(size, np.uint8)
        return self._arena

    def load(self, calls: Sequence[Sequence[Call]]) -> Any:
        """Compile the kernels and bind the calls."""
        sources = {args[0].name: args[0] for name, args in calls[0] if name == "kernel"}
        self._index = np.zeros(1, np.uint64)
        self._library = compiled(list(sources.values()))
        return self._arena[self._shared_from :], super().load(calls)

    def bind(self, calls: Sequence[Call]) -> list[BoundCall]:
        """Resolve the names of the calls."""
        bound = super().bind([call for call in calls if call[0] != "kernel"])
        others = iter(bound)
        return [self._launch(*args) if name == "kernel" else next(others) for name, args in calls]

    def _launch(self, source: Source, *arrays: Any) -> BoundCall:
        pointers = [array.ctypes.data for array in arrays] + ([self._index.ctypes.data] if source.random else [])
        lengths = [array.size for array in arrays]
        function = getattr(self._library, f"run_{source.name}")
        places = (ctypes.c_void_p * len(pointers))(*pointers), (ctypes.c_longlong * len(lengths))(*lengths)
        return partial(_call, arrays), (function, *places, *source.blocks)

    def run(self, loaded: Any, pass_index: int) -> None:
        """Run one pass."""
        shared, bound = loaded
        shared[...] = NAN
        self._index[0] = pass_index
        super().run(bound, pass_index)
        outside = ctypes.c_longlong.in_dll(self._library, "outside").value
        assert outside == 0, f"{outside} accesses outside an array"


def _call(arrays: Any, function: Any, *arguments: Any) -> None:
    """Call a kernel; its arrays are bound to keep their memory."""
    function(*arguments)


def compiled(sources: Sequence[Source]) -> Any:
    """Return a library with a function `run_NAME` for each kernel, compiled once for each text."""
    text = "\n".join([f'#include "{SHIM}"', PRELUDE, *map(_with_entry, sources)])
    path = CACHE / f"{sha256((text + SHIM.read_text()).encode()).hexdigest()[:32]}.so"
    if not path.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        own = path.with_suffix(f".{os.getpid()}")
        command = [str(COMPILER), "-O0", "-w", "-shared", "-fPIC", "-x", "c++", "-", "-o", str(own)]
        subprocess.run(command, input=text, text=True, check=True)
        own.replace(path)
    return ctypes.CDLL(str(path))


def _with_entry(source: Source) -> str:
    """Return a kernel with checked arrays, and a C function that takes their places, their lengths and the grid."""
    head, parameters, body = re.split(rf"(?<={source.name})\((.*)\)\n", source.text, maxsplit=1)
    arrays = re.findall(r"(\w[\w ]*) \*(?:__restrict__ )?(p\d+)", parameters)
    checked = [f"checked<{kind}> {name}" for kind, name in arrays]
    arguments = [f"checked<{kind}>{{({kind} *)p[{n}], lengths[{n}]}}" for n, (kind, _) in enumerate(arrays)]
    if source.random:
        checked.append(f"const u64 *{PASS_INDEX}")
        arguments.append(f"(const u64 *)p[{len(arrays)}]")
    phases = "true" if "EACH_THREAD" in body else "false"
    return (
        f"{head}({', '.join(checked)})\n{body}"
        f'extern "C" void run_{source.name}(void **p, long long *lengths, int columns, int rows) '
        f"{{ launch([=] {{ {source.name}({', '.join(arguments)}); }}, columns, rows, {source.threads}, {phases}); }}\n"
    )
