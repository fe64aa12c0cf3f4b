"""What is made once for a GPU and kept in the user's cache folder: compiled kernels, and the algorithms of products."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from threading import get_ident

from nl_nodes.platform import cache_folder

Compile = Callable[[str, str], bytes]
"""Compiles CUDA C for an architecture such as "sm_90"."""

DIGEST = 32  # bytes of SHA-256


def folder() -> Path:
    """Return the folder for what is made for GPUs; it may not exist yet."""
    return cache_folder() / "gpu"


def cubin(text: str, architecture: str, version: str, compile_: Compile) -> bytes:
    """Return the machine code of CUDA C, compiled once for each text, architecture and version of the compiler.

    A file begins with the SHA-256 of the rest; one that is cut short or changed is made anew.
    """
    name = sha256("\0".join((version, architecture, text)).encode()).hexdigest()
    path = folder() / f"{name}.cubin"
    with suppress(OSError):
        data = path.read_bytes()
        if len(data) > DIGEST and sha256(data[DIGEST:]).digest() == data[:DIGEST]:
            return data[DIGEST:]
    code = compile_(text, architecture)
    _write(path, sha256(code).digest() + code)
    return code


class Algorithms:
    """The fastest algorithm of each product on one kind of GPU with one version of cublasLt.

    Args:
        card: the kind of GPU.
        version: the version of cublasLt.
    """

    def __init__(self, card: str, version: int) -> None:
        self.card, self.version = card, version
        self._path = folder() / f"products-{re.sub('[^A-Za-z0-9]+', '-', card)}-{version}.json"
        self._found: dict[str, str] = {}
        self.update(_read(self._path))

    def get(self, key: str) -> bytes | None:
        """Return the algorithm of a product, None where it is unknown."""
        return bytes.fromhex(self._found[key]) if key in self._found else None

    def add(self, found: Mapping[str, bytes]) -> None:
        """Add algorithms and write all to the cache folder, beside those that another process has added since."""
        self._found |= {key: algorithm.hex() for key, algorithm in found.items()}
        own = dict(self._found)
        self.update(_read(self._path))
        self._found |= own
        _write(self._path, json.dumps(self.state(), indent=1, sort_keys=True).encode())

    def state(self) -> dict[str, object]:
        """Return plain data for a checkpoint, so that a resumed training gives the same bits."""
        return {"card": self.card, "version": self.version, "algorithms": dict(self._found)}

    def update(self, state: object) -> None:
        """Take the algorithms of a `state` of the same GPU and version; any other one is ignored."""
        if not isinstance(state, Mapping) or (state.get("card"), state.get("version")) != (self.card, self.version):
            return
        found = state.get("algorithms")
        if isinstance(found, Mapping):
            self._found |= {str(key): value for key, value in found.items() if _is_algorithm(value)}


def _is_algorithm(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{128}", value) is not None


def _read(path: Path) -> object:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


def _write(path: Path, data: bytes) -> None:
    """Write a file atomically; without a cache folder to write to, nothing is kept."""
    aside = path.with_name(f"{path.name}.{os.getpid()}-{get_ident()}.part")
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_bytes(data)
        aside.replace(path)
    with suppress(OSError):
        aside.unlink(missing_ok=True)
