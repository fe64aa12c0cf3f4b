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

from nl_nodes.compiler.cuda.launch import Source
from nl_nodes.compiler.cuda.text import PASS_INDEX, PRELUDE
from nl_nodes.runtime import Executor
from nl_nodes.runtime.call import BoundCall, Call

COMPILER = shutil.which("g++")
NO_COMPILER = "kernels run on a processor through g++: apt-get install g++"
CACHE = Path(__file__).parents[3] / "outputs" / "kernels"
SHIM = Path(__file__).with_name("shim.h")
FAULTS = {"outside": "accesses outside an array", "races": "accesses to what another thread writes"}
"""The counters of a library, and what they count."""


class KernelExecutor(Executor):
    """One worker that runs kernels.

    Args:
        sanitized: whether AddressSanitizer watches them, in a process that has loaded it first. Each array is then
            copied to memory of its own for a launch, since neighbours in the arena have no gap between them.
    """

    chunked = False
    fused = True

    def __init__(self, sanitized: bool = False) -> None:
        super().__init__()
        self.sanitized = sanitized

    def load(self, calls: Sequence[Sequence[Call]]) -> Any:
        """Compile the kernels and bind the calls."""
        (own,) = calls
        sources = {args[0].name: args[0] for name, args in own if name == "kernel"}
        library, index = compiled(list(sources.values()), self.sanitized), np.zeros(1, np.uint64)
        others = iter(self.bind([call for call in own if call[0] != "kernel"]))
        bound = [self._launch(library, index, *args) if name == "kernel" else next(others) for name, args in own]
        return library, index, bound

    def run(self, loaded: Any, pass_index: int) -> None:
        """Run one pass, in which no kernel may leave an array or touch what another of its threads writes."""
        library, index, bound = loaded
        index[0] = pass_index
        super().run([bound], pass_index)
        assert not (found := faults(library)), found

    def _launch(self, library: Any, index: Any, source: Source, *arrays: Any) -> BoundCall:
        run = _run_alone if self.sanitized else _run
        function = getattr(library, f"run_{source.name}")
        return partial(run, function, source.blocks, [index] if source.random else []), arrays


def _run(function: Any, blocks: tuple[int, int], others: Sequence[Any], *arrays: Any) -> None:
    """Launch a kernel."""
    pointers = [array.ctypes.data for array in (*arrays, *others)]
    lengths = [array.size for array in arrays]
    function((ctypes.c_void_p * len(pointers))(*pointers), (ctypes.c_longlong * len(lengths))(*lengths), *blocks)


def _run_alone(function: Any, blocks: tuple[int, int], others: Sequence[Any], *arrays: Any) -> None:
    """Launch a kernel on copies; arrays of two dtypes over one block are one copy."""
    copies: dict[int, Any] = {}
    for array in sorted(arrays, key=lambda array: -array.nbytes):
        copies.setdefault(array.ctypes.data, array.view(np.uint8).copy())
    own = [copies[array.ctypes.data][: array.nbytes].view(array.dtype) for array in arrays]
    _run(function, blocks, others, *own)
    for array, result in zip(arrays, own, strict=True):
        array[...] = result


def faults(library: Any) -> str:
    """Return what the kernels of a library have done wrong since the last call, "" for nothing."""
    found = []
    for name, what in FAULTS.items():
        counter = ctypes.c_longlong.in_dll(library, name)
        if counter.value:
            found.append(f"{counter.value} {what}")
        counter.value = 0
    return ", ".join(found)


def compiled(sources: Sequence[Source], sanitized: bool = False) -> Any:
    """Return a library with a function `run_NAME` for each kernel, compiled once for each text."""
    text = "\n".join([f'#include "{SHIM}"', PRELUDE, *map(_with_entry, sources)])
    command = [str(COMPILER), "-O0", "-w", "-shared", "-fPIC", "-x", "c++", "-"]
    command += ["-g", "-fsanitize=address"] if sanitized else []
    key = "\n".join([*command, SHIM.read_text(), text])
    path = CACHE / f"{sha256(key.encode()).hexdigest()[:32]}.so"
    if not path.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        own = path.with_suffix(f".{os.getpid()}")
        subprocess.run([*command, "-o", str(own)], input=text, text=True, check=True)
        own.replace(path)
    return ctypes.CDLL(str(path))


def _with_entry(source: Source) -> str:
    """Return a kernel with checked arrays, and a C function that takes their places, their lengths and the grid."""
    head, parameters, body = re.split(rf"(?<={source.name})\((.*)\)\n", source.text, maxsplit=1)
    body = re.sub(r"__shared__ (.+) (\w+)\[(\d+)\];", r"static Shared<\1, \3> \2;", body)
    arrays = re.findall(r"(const )?(\w[\w ]*) \*(?:__restrict__ )?(p\d+)", parameters)
    written = [n for n, (constant, _, _) in enumerate(arrays) if not constant]
    kinds = [f"{'Read' if constant else 'Written'}<{kind}>" for constant, kind, _ in arrays]
    taken = [f"{kind} {name}" for kind, (_, _, name) in zip(kinds, arrays, strict=True)]
    given = [
        f"{kind}{{({element} *)p[{n}], lengths[{n}]{'' if constant else f', touched{n}'}}}"
        for n, (kind, (constant, element, _)) in enumerate(zip(kinds, arrays, strict=True))
    ]
    if source.random:
        taken.append(f"const u64 *{PASS_INDEX}")
        given.append(f"(const u64 *)p[{len(arrays)}]")
    phases = "true" if "EACH_THREAD" in body else "false"
    lines = [
        *(f"Touched *touched{n} = (Touched *)calloc(lengths[{n}], sizeof(Touched));" for n in written),
        f"launch([=] {{ {source.name}({', '.join(given)}); }}, columns, rows, {source.threads}, {phases});",
        *(f"free(touched{n});" for n in written),
    ]
    entry = f'extern "C" void run_{source.name}(void **p, long long *lengths, int columns, int rows)'
    return f"{head}({', '.join(taken)})\n{body}{entry} {{ {' '.join(lines)} }}\n"
