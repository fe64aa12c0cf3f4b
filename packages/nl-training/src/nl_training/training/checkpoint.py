"""Checkpoint files: written atomically by a background thread, verified by checksum; the last two and the best stay.

A file is in the safetensors format, which cannot execute code; its metadata contain everything but arrays as JSON. The
last tensor, `sha256`, is the checksum of all bytes before it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import sha256
from math import prod
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np

from nl_nodes import UserError
from nl_nodes.files import atomic_write
from nl_nodes.platform import locked

log = logging.getLogger(__name__)

FORMAT = "node-layer-network checkpoint 1"
SUM, SUM_BYTES = "sha256", 32
KEPT = 2
DTYPES = {"float64": "F64", "float32": "F32", "int64": "I64", "uint8": "U8"}


@dataclass(frozen=True)
class Snapshot:
    """State of a training at one step.

    Attributes:
        arrays: host arrays by name, float64, float32, int64 or uint8.
        facts: everything else, in types that JSON can represent; includes `step`.
    """

    arrays: dict[str, Any]
    facts: dict[str, Any]


def write(snapshot: Snapshot, path: Path) -> None:
    """Write a snapshot to `path` atomically and durably.

    Raises:
        OSError: if it cannot be written; `path` is unchanged.
    """
    with atomic_write(path, durable=True) as file:
        digest = sha256()
        for chunk in _chunks(snapshot):
            digest.update(chunk)
            file.write(chunk)
        file.write(digest.digest())


def read(path: Path) -> Snapshot:
    """Read a checkpoint file.

    Raises:
        UserError: if the file is missing, is not a checkpoint, or its checksum does not match.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read the checkpoint {path}: {error.strerror}") from None
    if sha256(memoryview(data)[:-SUM_BYTES]).digest() != data[-SUM_BYTES:]:
        raise UserError(f"{path} is not an intact checkpoint: it was changed, truncated, or is another kind of file")
    try:
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        facts = json.loads(header["__metadata__"][FORMAT])
        arrays = load(data)
        del arrays[SUM]
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError):
        raise UserError(f"{path} is not a checkpoint of this project") from None
    return Snapshot(arrays, facts)


def _chunks(snapshot: Snapshot) -> Iterator[Any]:
    """Yield the file's bytes before the checksum: header length, header, arrays by descending item size."""
    arrays = dict(sorted(snapshot.arrays.items(), key=lambda pair: -pair[1].itemsize))
    header: dict[str, Any] = {"__metadata__": {FORMAT: json.dumps(snapshot.facts)}}
    start = 0
    shapes = {name: (DTYPES[a.dtype.name], a.shape, a.nbytes) for name, a in arrays.items()}
    for name, (dtype, shape, size) in {**shapes, SUM: ("U8", (SUM_BYTES,), SUM_BYTES)}.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": (start, start + size)}
        start += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # aligns the arrays
    yield len(text).to_bytes(8, "little") + text
    for array in arrays.values():
        if prod(array.shape):
            yield np.ascontiguousarray(array).data.cast("B")


class Checkpoints:
    """Checkpoints of one run: a context manager that locks their folder against other processes.

    A background thread writes them. A checkpoint that cannot be written causes a warning; training continues.

    Args:
        folder: the folder of the files.
        every_steps: steps between checkpoints, None for no such interval.
        every_seconds: seconds between checkpoints, None for no such interval.

    Raises:
        UserError: if another process has locked the folder.
    """

    def __init__(self, folder: Path, every_steps: int | None = None, every_seconds: float | None = None) -> None:
        self.folder, self.every_steps, self.every_seconds = folder, every_steps, every_seconds
        self._pool = ThreadPoolExecutor(1, "checkpoint")
        self._writing: tuple[Future[None], Snapshot] | None = None
        self._at = monotonic()
        self._lock = ExitStack()

    def __enter__(self) -> Checkpoints:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock.enter_context(locked(self.folder, wait=False))
        except BlockingIOError:
            raise UserError(f"another process is training this run: it writes to {self.folder}") from None
        except OSError as error:
            raise UserError(f"no checkpoints can be written to {self.folder}: {error.strerror}") from None
        for partial in self.folder.glob("*.part"):
            partial.unlink()
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown()
        self._lock.close()

    def due(self, step: int) -> bool:
        """Return whether a checkpoint is due after this step."""
        late = self.every_seconds is not None and monotonic() - self._at >= self.every_seconds
        return late or (self.every_steps is not None and step % self.every_steps == 0)

    def busy(self) -> bool:
        """Return whether the last checkpoint is still being written."""
        return self._writing is not None and not self._writing[0].done()

    def save(self, snapshot: Snapshot, best: bool = False) -> None:
        """Start writing a checkpoint, whose arrays must not be modified; `best` keeps it until the next best."""
        self._at = monotonic()
        number = max((_number(path) for path in self.paths()), default=0) + 1
        name = f"{number:06d}-step-{snapshot.facts['step']}{'-best' if best else ''}.safetensors"
        self._writing = (self._pool.submit(self._write, snapshot, self.folder / name), snapshot)

    def collect(self, wait: bool = False) -> Snapshot | None:
        """Return the snapshot written since the last call, None if there is none."""
        if self._writing is None or (self.busy() and not wait):
            return None
        (future, snapshot), self._writing = self._writing, None
        try:
            future.result()
        except OSError as error:
            reason = error.strerror or str(error)
            log.warning("no checkpoint at step %s (%s): the one before it stays", snapshot.facts["step"], reason)
            return None
        return snapshot

    def paths(self) -> list[Path]:
        """Return the checkpoint files, oldest first."""
        return sorted(self.folder.glob("*-step-*.safetensors"), key=_number)

    def newest(self) -> Snapshot | None:
        """Read the newest intact checkpoint, None if there is none; warn about damaged ones."""
        for path in reversed(self.paths()):
            try:
                return read(path)
            except UserError as error:
                log.warning("%s; the one before it is taken", error)
        return None

    def _write(self, snapshot: Snapshot, path: Path) -> None:
        write(snapshot, path)
        paths = self.paths()
        best = [p for p in paths if p.stem.endswith("-best")]
        for old in set(paths) - {*paths[-KEPT:], *best[-1:]}:
            old.unlink()


def _number(path: Path) -> int:
    head = path.name.partition("-")[0]
    return int(head) if head.isdigit() else 0
